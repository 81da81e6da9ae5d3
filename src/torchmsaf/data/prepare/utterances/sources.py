"""Which of the known forms the files of a data set have, told by their content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.raw import find_files
from torchmsaf.data.prepare.utterances.aligned_pickles import Aligned, aligned_files, is_aligned, read_aligned
from torchmsaf.data.prepare.utterances.alignment import clean
from torchmsaf.data.prepare.utterances.csd import ComputationalSequence, find_sequences
from torchmsaf.data.prepare.utterances.csd_source import open_sequences
from torchmsaf.data.prepare.utterances.transcripts import Sentence, read_transcripts
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
from torchmsaf.data.prepare.utterances.vectors import holds_vectors, open_vectors, read_vectors
from torchmsaf.data.sets.base import DataSet
from torchmsaf.data.standard_folds import STANDARD, Folds, read_folds, standard_folds
from torchmsaf.errors import DataError

FOLDS_FILE = "folds.json"  # is used where it lies in the folder of the raw files
_KNOWN = (".csd", ".npz", ".pkl", ".pickle", ".txt", ".annotprocessed")


def open_source(data_set: DataSet, raw: Path, settings: Settings, folds: Path | None = None) -> Source:
    """Find out what the files are, and what utterances they have.

    Args:
        data_set: the set.
        raw: a folder, or one file.
        settings: the rules.
        folds: a file of folds, or the word ``standard``; None = ``folds.json`` in the folder if there is one, else the
            parts that the files ship, or the standard folds.

    Raises:
        DataError: there is nothing that is known, or more than one form; or it cannot be used.
    """
    if not raw.exists():
        raise DataError(f"{raw} does not exist; give the folder with the files of {data_set.title} ({data_set.url})")
    if folds is None and (raw / FOLDS_FILE).is_file():
        folds = raw / FOLDS_FILE
    given = None
    if folds is not None:
        named = str(folds) == STANDARD
        given = standard_folds(data_set.name) if named else read_folds(folds, data_set.name)
    source = (
        _opened(data_set, raw, settings, given)
        if data_set.reader is None
        else data_set.reader(data_set, raw, settings, given)
    )
    if folds is not None:
        return replace(source, notes=(*source.notes, f"folds: {folds}"))
    return source


def _opened(data_set: DataSet, raw: Path, settings: Settings, given: Folds | None) -> Source:
    sequences = find_sequences(raw) if raw.is_dir() or raw.suffix.lower() == ".csd" else []
    files = [file.path for file in find_files(raw)[0] if file.member is None] if raw.is_dir() else [raw]
    vectors = [path for path in files if holds_vectors(path)]
    forms = {
        "computational sequences (.csd)": bool(sequences),
        "aligned pickles": is_aligned(raw),
        "a .npz file of vectors": bool(vectors) and not sequences,
    }
    found = [name for name, there in forms.items() if there]
    if len(found) > 1:
        raise DataError(f"{raw} holds {' and '.join(found)}: give the folder or the file of one of them")
    if not found:
        raise DataError(
            f"{raw} holds nothing that is known of {data_set.title}: .csd files of labels, words, video and audio, aligned "
            f"pickles (MMSA's, MulT's or MISA's), or a .npz file of vectors is needed ({data_set.url})"
        )
    if len(vectors) > 1:
        raise DataError(f"{raw} holds {' and '.join(path.name for path in vectors)}, both vectors: leave one there")
    if sequences:
        return _sequences(data_set, raw, sequences, settings, given, vectors, _others(files, vectors))
    if vectors:
        return open_vectors(data_set, vectors[0], settings, given)
    return open_aligned(data_set, raw, settings, given)


def _others(files: list[Path], vectors: list[Path]) -> dict[str, int]:
    """Files that are left alone, by kind."""
    kinds: Counter[str] = Counter()
    for path in files:
        suffix = path.suffix.lower()
        if (suffix == ".npz" and path not in vectors) or (suffix not in _KNOWN and path.name != FOLDS_FILE):
            kinds["other"] += 1
    return dict(kinds)


def _sequences(
    data_set: DataSet,
    raw: Path,
    sequences: list[ComputationalSequence],
    settings: Settings,
    given: Folds | None,
    vectors: list[Path],
    others: Mapping[str, int],
) -> Source:
    # the published alignment has the words themselves encoded, as its code does, and needs no transcripts
    transcripts: dict[str, list[Sentence]] = {}
    problems: list[str] = []
    if raw.is_dir() and settings.alignment == "word":
        transcripts, problems = read_transcripts(raw)
    beside = (vectors[0], read_vectors(vectors[0])) if vectors else None
    source = open_sequences(data_set, raw, sequences, settings, given, transcripts=transcripts, vectors=beside)
    notes = list(source.notes)
    aside = dict(source.set_aside) | dict(others)
    if transcripts:
        notes.append(f"transcripts: of {counted(len(transcripts), 'video')}, for the sentences")
    notes += problems
    if vectors and not any("repeated" in note for note in notes):
        aside["vectors of whole utterances"] = 1
    return replace(source, notes=tuple(notes), set_aside=aside)


def open_aligned(data_set: DataSet, raw: Path, settings: Settings, folds: Folds | None) -> Source:
    """Utterances that came aligned by word, in the parts that the files ship.

    Args:
        data_set: the set.
        raw: a pickle, or the folder of them.
        settings: the rules.
        folds: in place of the parts of the files.

    Raises:
        DataError: the files cannot be used, or not with these settings.
    """
    if settings.alignment == "published":
        raise DataError(
            f"{raw} came aligned by word; --alignment published needs frames with their times: give .csd files"
        )
    utterances, refused = read_aligned(raw)
    if not utterances:
        raise DataError(
            f"{raw}: not one of {len(refused)} utterances can be used{f'; {refused[0]}' if refused else ''}"
        )
    has_text = all("text" in one.arrays for one in utterances)
    text = choose_text(settings, raw, features=has_text, words=any(one.words for one in utterances))
    if folds is None:
        given_folds(((one.video, one.part) for one in utterances), raw)
    lost = [Lost(name, name, reason) for name, reason in refused]
    items: list[Item] = []
    numbers: Counter[str] = Counter()
    for one in sorted(utterances, key=lambda one: natural_key(one.video)):  # of a video they are in order of time
        part = one.part if folds is None else folds.part(one.video)
        id = f"{one.video}.{numbers[one.video]}"
        numbers[one.video] += 1
        if part is None and folds is not None:
            lost.append(Lost(one.video, id, in_no_fold(folds)))
        elif part is not None:
            make, say = partial(_make, one, settings), partial(_say, one, settings)
            items.append(Item(id, one.video, part, make, say))
    names = [name for name in utterances[0].arrays if name != "text" or text == "given"]
    features = {name: f"aligned, {utterances[0].arrays[name].shape[1]} values" for name in names}
    return Source(
        kind="aligned",
        alignment="word",
        folds="given" if folds is None else folds.name,
        text=text,
        features=features,
        items=tuple(items),
        lost=tuple(lost),
        stamp=stamp_of(aligned_files(raw) or [raw]),
        notes=tuple(f"{name}: {said}" for name, said in features.items()),
    )


def _say(one: Aligned, settings: Settings) -> Said:
    return tuple(one.words[: settings.steps]), one.sentence


def _make(one: Aligned, settings: Settings) -> Utterance:
    if not np.isfinite(one.target):
        raise DataError("its sentiment is no number")
    steps = len(one.arrays["video"])
    if one.words and len(one.words) != steps:
        raise DataError(f"has {len(one.words)} words and {steps} steps of features")
    cleaned = {name: clean(array[: settings.steps]) for name, array in one.arrays.items()}
    words, sentence = _say(one, settings)
    return Utterance(
        target=float(one.target),
        arrays={name: found.features for name, found in cleaned.items()},
        words=words,
        sentence=sentence,
        cut=max(0, steps - settings.steps),
        infinite={name: found.infinite for name, found in cleaned.items()},
        nan={name: found.nan for name, found in cleaned.items()},
        empty={name: int((~cleaned[name].features.any(axis=1)).sum()) for name in ("video", "audio")},
    )
