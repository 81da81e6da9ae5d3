"""Utterances of one vector a modality, in a .npz file: alone, or beside the words and labels of the same utterances.

Arrays ``text_PART``, ``audio_PART`` and ``video_PART`` ``(n, D)``, ``y_PART`` ``(n,)``, ``id_PART`` ``(n,)`` with
``VIDEO_k``, k from 1 in the order of the label file, and ``sentence_PART`` ``(n,)`` if there are sentences; PART is
``train``, ``test`` and perhaps ``validation``.
"""

# n utterances, D features

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.array_files import ArrayFile, open_arrays
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.utterances.alignment import clean
from torchmsaf.data.prepare.utterances.utterance import (
    Item,
    Lost,
    Said,
    Settings,
    Source,
    Utterance,
    choose_text,
    given_folds,
    in_no_fold,
    stamp_of,
)
from torchmsaf.data.sets.base import DataSet
from torchmsaf.data.standard_folds import GIVEN, Folds, digest
from torchmsaf.errors import DataError

MODALITIES = ("video", "audio", "text")
_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
_ID = re.compile(r"(?P<video>.+)_(?P<segment>[0-9]+)")


RESPLIT = (
    "VECTORS RE-SPLIT: vectors of whole utterances may have been fitted, with their labels, on the training part that "
    "their file ships; with other folds they may tell what is to be predicted"
)


@dataclass(frozen=True, eq=False)
class Vector:
    """The vectors of one utterance.

    Attributes:
        video: its id.
        segment: the number of the utterance in its video, from 1.
        part: as the file has it.
        target: the sentiment.
        sentence: or ``""``.
        arrays: ``video``, ``audio`` and, where the file has it, ``text`` -> ``(D,)``.
    """

    video: str
    segment: int
    part: str
    target: float
    sentence: str
    arrays: Mapping[str, NDArray[Any]]


def holds_vectors(path: Path) -> bool:
    """Whether a file has utterances of one vector a modality, by the names of its arrays."""
    if path.suffix.lower() != ".npz":
        return False
    try:
        keys = set(open_arrays(path).keys)
    except DataError:
        return False
    return any({f"id_{part}", f"y_{part}", f"audio_{part}", f"video_{part}"} <= keys for part in _PARTS)


def read_vectors(path: Path) -> list[Vector]:
    """Read the vectors of all utterances.

    Raises:
        DataError: an array is missing, of another shape than the ids ask for, or holds what it should not; an id is no
            ``VIDEO_k`` or comes twice.
    """
    file = open_arrays(path)
    parts = [part for part in _PARTS if f"id_{part}" in file.keys]
    vectors = [vector for part in parts for vector in _read_part(file, part)]
    counts = Counter((vector.video, vector.segment) for vector in vectors)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise DataError(f"{path}: utterance {twice[0][0]}_{twice[0][1]} is there more than once ({len(twice)} so)")
    return vectors


def _read_part(file: ArrayFile, part: str) -> list[Vector]:
    names = [str(name) for name in file.read(f"id_{part}", "array of ids").ravel()]
    n = len(names)
    found = [_ID.fullmatch(name) for name in names]
    if None in found:
        raise DataError(f"{file.path}: {names[found.index(None)]!r} in id_{part} is no VIDEO_k, such as 1DmNV9C1hbY_10")
    target = _checked(file, f"y_{part}", n).astype(np.float64)
    has_text = f"text_{part}" in file.keys
    features = {name: _checked(file, f"{name}_{part}", n, 2) for name in MODALITIES if name != "text" or has_text}
    said = [""] * n
    if f"sentence_{part}" in file.keys:
        said = [str(one) for one in file.read(f"sentence_{part}", "array of sentences").ravel()]
        if len(said) != n:
            raise DataError(f"{file.path}: sentence_{part} has {len(said)} entries and id_{part} has {n}")
    return [
        Vector(
            match["video"],
            int(match["segment"]),
            _PARTS[part],
            float(y),
            sentence,
            {k: x[row] for k, x in features.items()},
        )
        for row, (match, y, sentence) in enumerate(zip(found, target, said, strict=True))
        if match is not None
    ]


def _checked(file: ArrayFile, key: str, n: int, axes: int = 1) -> NDArray[Any]:
    array = file.read(key, "array")
    if array.dtype.kind not in "fiu" or array.ndim != axes or len(array) != n or array.size == 0:
        shape = f"({n}, D)" if axes == 2 else f"({n},)"
        raise DataError(
            f"{file.path}: {key} is {array.dtype} of shape {array.shape}; numbers of shape {shape} are needed"
        )
    return array


def open_vectors(data_set: DataSet, path: Path, settings: Settings, folds: Folds | None) -> Source:
    """Utterances of one step: the vectors of a file, in the parts that it ships.

    Args:
        data_set: the set.
        path: of the file.
        settings: the rules.
        folds: in place of the parts of the file.

    Raises:
        DataError: the file cannot be used, or not with these settings.
    """
    if settings.alignment == "published":
        raise DataError(f"{path} has one vector an utterance; --alignment published needs frames: give the .csd files")
    vectors = read_vectors(path)
    has_text = all("text" in vector.arrays for vector in vectors)
    text = choose_text(settings, path, features=has_text, words=False)
    folds = folds_of(vectors, path) if folds is None else folds
    vectors.sort(key=lambda vector: (natural_key(vector.video), vector.segment))
    items: list[Item] = []
    lost: list[Lost] = []
    numbers: Counter[str] = Counter()
    for vector in vectors:
        part = folds.part(vector.video)
        id = f"{vector.video}.{numbers[vector.video]}"
        numbers[vector.video] += 1
        if part is None:
            lost.append(Lost(vector.video, id, in_no_fold(folds)))
        else:
            items.append(Item(id, vector.video, part, partial(_make, vector, text == "given"), partial(_say, vector)))
    widths = {name: f"{vectors[0].arrays[name].shape[0]} values an utterance" for name in vectors[0].arrays}
    if text != "given":
        widths.pop("text", None)
    notes = [f"{path.name}: one vector a modality and utterance, so each is a sequence of one step"]
    resplit = folds.name != GIVEN
    if resplit:
        notes.append(RESPLIT)
    return Source(
        kind="vectors",
        alignment="utterance",
        folds=folds.name,
        text=text,
        features=widths,
        items=tuple(items),
        lost=tuple(lost),
        stamp=stamp_of([path]),
        notes=tuple(notes),
        resplit=resplit,
    )


def folds_of(vectors: Sequence[Vector], path: Path) -> Folds:
    """The parts that vectors ship with, as folds.

    Raises:
        DataError: a video is in two parts.
    """
    by_video = {vector.video: vector.part for vector in vectors}
    given_folds(((vector.video, vector.part) for vector in vectors), path)
    return Folds(GIVEN, Counter(by_video.values()), {digest(video): part for video, part in by_video.items()})


def _say(vector: Vector) -> Said:
    return (), vector.sentence


def _make(vector: Vector, with_text: bool) -> Utterance:
    if not np.isfinite(vector.target):
        raise DataError("its sentiment is no number")
    cleaned = {name: clean(values[None]) for name, values in vector.arrays.items() if name != "text" or with_text}
    return Utterance(
        target=vector.target,
        arrays={name: one.features for name, one in cleaned.items()},
        sentence=vector.sentence,
        infinite={name: one.infinite for name, one in cleaned.items()},
        nan={name: one.nan for name, one in cleaned.items()},
        empty={"video": 0, "audio": 0},
    )
