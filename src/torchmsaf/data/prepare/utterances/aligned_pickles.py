"""Utterances that come aligned already: the pickles of MMSA, of MulT and of MISA.

Each modality has one vector a step, and step i of one modality is step i of the others.

* **MMSA** (``aligned_50.pkl``): a dict of ``train``, ``valid`` and ``test``, each a dict of ``raw_text``, ``vision``,
  ``audio`` and ``text`` ``(n, 50, D)``, ``text_bert`` ``(n, 3, 50)`` (numbers of word-pieces, mask, kind of sentence),
  ``id`` such as ``VIDEO$_$3``, ``annotations``, ``classification_labels`` and ``regression_labels``. Source:
  github.com/thuiar/MMSA, ``src/MMSA/data_loader.py`` for the keys, and the earlier ``data/TextPre.py`` for how such files
  were made: a step is a word-piece with the features of its word, [CLS] and [SEP] have zeros, padding is on the right.
  The form of the ids and the columns that MMSA itself does not read are from code of others that reads the files.
* **MulT** (``mosei_senti_data.pkl``, ``mosi_data.pkl``): the same parts, with ``vision``, ``audio``, ``text``, ``labels``
  ``(n, 1, 1)`` and ``id``. Source: github.com/yaohungt/Multimodal-Transformer, ``src/dataset.py``. A step is a word, padding
  is on the left. The rows of ``id`` are video, start and end, as text or bytes, or one name.
* **MISA** (``train.pkl``, ``dev.pkl``, ``test.pkl``): lists of ``((word numbers, visual, acoustic, words), label, segment)``
  with ``VIDEO[3]`` as the segment, without padding. Source: github.com/declare-lab/MISA, ``src/create_dataset.py``. It
  leaves the segment out for UR-FUNNY: no video is known there, and each utterance is taken as a video of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.part_keys import PART_NAMES
from torchmsaf.data.prepare.pickles.reader import read_pickle
from torchmsaf.data.prepare.utterances.aligned_ids import AlignedId, read_id
from torchmsaf.data.samples import PARTS
from torchmsaf.errors import DataError

_SUFFIXES = (".pkl", ".pickle")
_HEAD = 4096  # bytes in which a file of MMSA or MulT has named its first part and the first of its keys
# a column's name as a pickle writes it: after its length, or between quotes
_COLUMN = re.compile(rb"vision|audio|text|labels|[\x02\x00'V]id")
_KEYS = {"video": "vision", "audio": "audio", "text": "text"}
_LAYOUTS = (
    "needed is a file with train, valid and test and in each of them vision, audio, text and labels, as of MMSA or MulT, "
    "or train.pkl, dev.pkl and test.pkl with lists of utterances, as of MISA"
)
_OF_MOSEI = 7  # labels an utterance in CMU-MOSEI: sentiment, then six emotions


@dataclass(frozen=True, eq=False)
class Aligned:
    """One utterance whose modalities are aligned.

    Attributes:
        video: the name of its video.
        segment: its name in the video: a number, or start and end in seconds.
        part: ``"train"``, ``"validation"`` or ``"test"``, as the file says.
        target: the label, in [-3, 3] for sentiment.
        words: the word of each step, lower case; empty where the file has none.
        sentence: what is said, or "".
        arrays: ``"video"``, ``"audio"`` and, where the file has it, ``"text"``: ``(L, D)``, the same L for all, values as in
            the file, which may be infinite or NaN; not to be written to.
    """

    video: str
    segment: str
    part: str
    target: float
    words: tuple[str, ...]
    sentence: str
    arrays: dict[str, NDArray[Any]]


class _RefusedError(ValueError):
    """Why one utterance cannot be used."""


def is_aligned(raw: Path) -> bool:
    """Whether a file is a pickle of aligned utterances by its name and its first bytes, or a folder has such a file."""
    return bool(aligned_files(Path(raw)))


def read_aligned(raw: Path) -> tuple[list[Aligned], list[tuple[str, str]]]:
    """Read aligned utterances, without their padding.

    Padding is found from the zeros, on both sides: the utterance goes from the first step to the last where any modality
    is not all zeros, and all modalities are cut there, so steps stay together. MMSA's text is not zero in its padding;
    there its mask says. What MISA wrote has no padding and is not cut.

    Args:
        raw: a file, or a folder with one set of them.

    Returns:
        The utterances: train, validation, test; in each part the videos as the file has them, the utterances of a video
        in order of time. And what is refused, as (id, reason).

    Raises:
        DataError: nothing is there, there are two sets, or a file is of none of the layouts.
    """
    raw = Path(raw)
    files = aligned_files(raw)
    if not files and raw.is_file():
        files = [raw]
    if not files:
        raise DataError(f"{raw} has no aligned pickles; {_LAYOUTS}")
    found: list[tuple[AlignedId, Aligned]] = []
    refused: list[tuple[str, str]] = []
    seen: set[str] = set()
    unnamed: Counter[str] = Counter()
    for identity, one in (item for file in files for item in _utterances(file)):
        if isinstance(one, str):
            refused.append((str(identity), one))
        elif str(identity) in seen:
            refused.append((str(identity), "is there more than once; the first is taken"))
        elif identity.segment:
            seen.add(str(identity))
            found.append((identity, one))
        else:  # numbered, as the file has them
            found.append((identity, replace(one, segment=str(unnamed[identity.video]))))
            unnamed[identity.video] += 1
    first: dict[tuple[str, str], int] = {}
    for number, (_, utterance) in enumerate(found):
        first.setdefault((utterance.part, utterance.video), number)
    found.sort(key=lambda pair: (PARTS.index(pair[1].part), first[pair[1].part, pair[0].video], pair[0].order))
    return [one for _, one in found], refused


def aligned_files(raw: Path) -> list[Path]:
    """The files of the one set of aligned utterances in a folder, or the one file.

    Raises:
        DataError: there are two sets.
    """
    if raw.is_file():
        return [raw] if _looks_aligned(raw) else []
    paths = (path for path in raw.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    files = sorted(
        (path for path in paths if not any(part.startswith(".") for part in path.relative_to(raw).parts)),
        key=lambda path: natural_key(str(path)),
    )
    sets: list[list[Path]] = []
    for folder in dict.fromkeys(path.parent for path in files):
        of_parts = [path for path in files if path.parent == folder and path.stem.lower() in PART_NAMES]
        if {PART_NAMES[path.stem.lower()] for path in of_parts} == set(PARTS) and len(of_parts) == len(PARTS):
            sets.append(of_parts)
    sets += [[path] for path in files if path.stem.lower() not in PART_NAMES and _looks_aligned(path)]
    aligned = [one for one in sets if not _named_unaligned(one[0])] or sets
    if len(aligned) > 1:
        names = ", ".join(" + ".join(str(path.relative_to(raw)) for path in one) for one in aligned)
        raise DataError(f"{raw} has several sets of aligned pickles: {names}; give the one that is meant")
    return aligned[0] if aligned else []


def _named_unaligned(path: Path) -> bool:
    return any(word in path.stem.lower() for word in ("unalign", "noalign"))


def _looks_aligned(path: Path) -> bool:
    if path.suffix.lower() not in _SUFFIXES:
        return False
    if path.stem.lower() in PART_NAMES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return any(part.encode() in head for part in PART_NAMES) and _COLUMN.search(head) is not None


def _utterances(file: Path) -> Iterator[tuple[AlignedId, Aligned | str]]:
    """Each utterance with its id, or an id and why it is refused."""
    content = read_pickle(file)
    if isinstance(content, list) and file.stem.lower() in PART_NAMES:
        yield from _of_misa(content, file, PART_NAMES[file.stem.lower()])
        return
    if not isinstance(content, dict) or not content or not all(isinstance(part, dict) for part in content.values()):
        raise DataError(f"{file} holds no aligned utterances but a {type(content).__name__}; {_LAYOUTS}")
    for key, columns in content.items():
        if str(key).lower() not in PART_NAMES:
            raise DataError(f"{file} has the part {str(key)[:40]!r}; {', '.join(PART_NAMES)} are known; {_LAYOUTS}")
        yield from _of_columns(columns, f"{file}, part {key}", PART_NAMES[str(key).lower()])


def _of_misa(items: list[Any], file: Path, part: str) -> Iterator[tuple[AlignedId, Aligned | str]]:
    for number, item in enumerate(items):
        fits = isinstance(item, tuple | list) and len(item) in (2, 3) and isinstance(item[0], tuple | list)
        if not fits or len(item[0]) < 4:
            raise DataError(
                f"{file}: item {number} is no ((numbers, visual, acoustic, words), label, segment); {_LAYOUTS}"
            )
        identity = read_id(item[2] if len(item) == 3 else None, f"{part}_{number}")
        try:
            arrays = _modalities({"video": item[0][1], "audio": item[0][2]})
            words = _texts(item[0][3])
            if words is None or len(words) != len(arrays["video"]):
                raise _RefusedError(f"has not one word for each of its {counted(len(arrays['video']), 'step')}")
            if not words:
                raise _RefusedError("has no step")
            lower = tuple(word.lower() for word in words)
            target = _target(item[1])
            yield identity, Aligned(identity.video, identity.segment, part, target, lower, " ".join(words), arrays)
        except _RefusedError as error:
            yield identity, str(error)


def _of_columns(columns: dict[Any, Any], label: str, part: str) -> Iterator[tuple[AlignedId, Aligned | str]]:
    labels = "regression_labels" if "regression_labels" in columns else "labels"
    kept = {name: columns[key] for name, key in _KEYS.items() if key in columns}
    missing = [key for key in ("vision", "audio", labels) if key not in columns]
    if missing:
        shown = ", ".join(str(key)[:40] for key in list(columns)[:20])
        raise DataError(f"{label} has no {' and no '.join(missing)}; its keys are {shown}; {_LAYOUTS}")
    used = {key: columns[key] for key in (*_KEYS.values(), labels, "id", "raw_text", "text_bert") if key in columns}
    rows = {key: _rows(value) for key, value in used.items()}
    if len(set(rows.values())) > 1 or None in rows.values():
        found = ", ".join(f"{key} {'not a list' if count is None else count}" for key, count in rows.items())
        raise DataError(f"{label}: the numbers of utterances differ: {found}; get the file again")
    for number in range(rows[labels] or 0):
        identity = read_id(columns["id"][number] if "id" in columns else None, f"{part}_{number}")
        try:
            arrays = _modalities({name: value[number] for name, value in kept.items()})
            if "text" in arrays and "text_bert" in columns:
                arrays["text"] = _masked(arrays["text"], columns["text_bert"][number])
            real = _real(arrays.values())
            target = _target(columns[labels][number])
            said = columns["raw_text"][number] if "raw_text" in columns else ""
            cut = {name: array[real] for name, array in arrays.items()}
            sentence = str(said).strip() if isinstance(said, str) else ""
            yield identity, Aligned(identity.video, identity.segment, part, target, (), sentence, cut)
        except _RefusedError as error:
            yield identity, str(error)


def _rows(value: Any) -> int | None:
    if isinstance(value, np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _modalities(values: dict[str, Any]) -> dict[str, NDArray[Any]]:
    for name, value in values.items():
        if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu" or not value.shape[1]:
            found = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise _RefusedError(f"its {name} is {found}; numbers of shape (steps, features) are needed")
    if len({len(value) for value in values.values()}) > 1:
        found = ", ".join(f"{name} {len(value)}" for name, value in values.items())
        raise _RefusedError(f"its modalities differ in steps: {found}; aligned ones are needed")
    return values


def _masked(text: NDArray[Any], pieces: Any) -> NDArray[Any]:
    """The text with zeros where its mask, the second row of the word-pieces, says padding."""
    fits = isinstance(pieces, np.ndarray) and pieces.shape == (3, len(text)) and pieces.dtype.kind in "fiub"
    if not fits or not np.isin(pieces[1], (0, 1)).all():
        raise _RefusedError(f"its text_bert has no mask of {counted(len(text), 'step')} in its second row")
    zero = text.dtype.type(0)
    masked: NDArray[Any] = np.where(pieces[1][:, None] == 1, text, zero)
    return masked


def _real(arrays: Iterable[NDArray[Any]]) -> slice:
    """From the first to the last step where any modality is not all zeros."""
    there = np.flatnonzero(np.logical_or.reduce([(array != 0).any(axis=1) for array in arrays]))
    if not len(there):
        raise _RefusedError("has no step: all its modalities are zeros")
    return slice(int(there[0]), int(there[-1]) + 1)


def _target(label: Any) -> float:
    """One number, or the first of CMU-MOSEI's seven, which is the sentiment."""
    values = np.asarray(label).reshape(-1) if isinstance(label, np.ndarray | np.generic | int | float) else None
    if values is None or values.dtype.kind not in "fiub" or len(values) not in (1, _OF_MOSEI):
        raise _RefusedError("its label is no number")
    target = float(values[0])
    if not np.isfinite(target):
        raise _RefusedError(f"its label is {target}")
    return target


def _texts(values: Any) -> list[str] | None:
    if isinstance(values, np.ndarray):
        values = values.tolist() if values.ndim == 1 else None
    if not isinstance(values, list | tuple) or not all(isinstance(word, str) for word in values):
        return None
    return [str(word) for word in values]
