"""Utterances from computational sequences: words, labels, sound and pictures with their times, video by video."""

# L steps, D features

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.data.prepare.utterances.alignment import (
    TOUCHING,
    average_over,
    clean,
    last_frames,
    moved_forward,
    pad_left,
    rows_between,
    words_behind,
    words_between,
)
from torchmsaf.data.prepare.utterances.choice import FEATURES, Chosen, check_sequences, choose_sequences
from torchmsaf.data.prepare.utterances.csd import ComputationalSequence, Rows
from torchmsaf.data.prepare.utterances.transcripts import Sentence
from torchmsaf.data.prepare.utterances.utterance import (
    Item,
    Lost,
    Said,
    Settings,
    Source,
    Utterance,
    choose_text,
    in_no_fold,
    stamp_of,
)
from torchmsaf.data.prepare.utterances.vectors import RESPLIT, Vector, folds_of
from torchmsaf.data.ravdess import MADE_UP
from torchmsaf.data.sets.base import DataSet
from torchmsaf.data.standard_folds import GIVEN, Folds, standard_folds
from torchmsaf.errors import DataError

_SAME_TARGET = 0.05  # sentiments of two files may differ by that: one is rounded
_SAME_TIME = 0.5  # of the union of two intervals, for them to be of one utterance
_NO_WORDS = "has no words in its time"


def open_sequences(
    data_set: DataSet,
    raw: Path,
    sequences: Sequence[ComputationalSequence],
    settings: Settings,
    folds: Folds | None,
    *,
    transcripts: Mapping[str, Sequence[Sentence]] | None = None,
    vectors: tuple[Path, Sequence[Vector]] | None = None,
) -> Source:
    """The utterances of computational sequences; labels are read now, all else when an utterance is made.

    Args:
        data_set: the set.
        raw: where the files are, for messages.
        sequences: the files.
        settings: the rules.
        folds: the part of each video; None = the standard folds, or where there are vectors the parts that these ship with.
        transcripts: video -> what was said, sentence by sentence.
        vectors: a file of vectors and what it has, in place of sequences of video and audio.

    Raises:
        DataError: a sequence that is needed is not there, or the files do not have what the settings ask for.
    """
    chosen, others = choose_sequences(data_set, sequences)
    check_sequences(data_set, raw, chosen, settings, vectors)
    if any(role in chosen for role in FEATURES):
        vectors = None
    if folds is None:
        folds = folds_of(vectors[1], vectors[0]) if vectors is not None else standard_folds(data_set.name)
    text = choose_text(settings, raw, features="text" in chosen, words=True)
    if text != "given" and "text" in chosen:
        others.append(chosen.pop("text"))
    slip = words_behind(_all_words(chosen["words"]))
    items, lost = _plan(_Reader(settings, chosen, transcripts or {}, vectors, slip), folds)
    notes = [f"{role}: {one.root} ({one.path.name})" for role, one in chosen.items()]
    if slip:
        notes.append(
            f"the words of {chosen['words'].path.name} stand {counted(abs(slip), 'row')} "
            f"{'behind' if slip > 0 else 'before'} their times, by the lengths of both: each has its own time now"
        )
    features = {
        role: f"{one.root}, {one.dimensions} values" for role, one in chosen.items() if role in (*FEATURES, "text")
    }
    features["words"] = f"{chosen['words'].root}, moved by {slip}"
    paths = [one.path for one in chosen.values()]
    if vectors is not None:
        for name in FEATURES:
            features[name] = f"{vectors[1][0].arrays[name].shape[0]} values an utterance, repeated at every word"
        notes.append(f"video, audio: {vectors[0].name} has one vector an utterance, which is repeated at every word")
        paths.append(vectors[0])
    resplit = vectors is not None and folds.name != GIVEN
    if resplit:
        notes.append(RESPLIT)
    notes += [f"set aside: {one.root} ({one.path.name})" for one in others]
    spoken = json.dumps({key: [str(one) for one in value] for key, value in sorted((transcripts or {}).items())})
    stack = ExitStack()
    for one in sequences:
        stack.callback(one.close)
    return Source(
        kind="sequences",
        alignment=settings.alignment,
        folds=folds.name,
        text=text,
        features=features,
        items=tuple(items),
        lost=tuple(lost),
        stamp=f"{stamp_of(paths)} {hashlib.sha256(spoken.encode()).hexdigest()[:8]}",
        set_aside={"computational sequences": len(others)} if others else {},
        notes=tuple(notes),
        made_up=any(said.startswith(MADE_UP) for one in chosen.values() for said in one.metadata.values()),
        close=stack.close,
        resplit=resplit,
    )


def _all_words(words: ComputationalSequence) -> Iterator[Rows]:
    for video in words.videos:
        with suppress(DataError):  # said when the video is prepared
            yield words.read(video)


def _plan(reader: _Reader, folds: Folds) -> tuple[list[Item], list[Lost]]:
    """The utterances of the label file that every sequence has, and those that it has for nothing."""
    items: list[Item] = []
    lost: list[Lost] = []
    there = {role: frozenset(one.videos) for role, one in reader.chosen.items()}
    for video in natural_sorted(reader.chosen["labels"].videos):
        part = folds.part(video)
        try:
            rows = reader.chosen["labels"].read(video)
        except DataError as error:
            lost.append(Lost(video, video, str(error), part, 0))
            continue
        n = len(rows.intervals)
        missing = [role for role in there if video not in there[role]]
        if part is None:
            lost.append(Lost(video, video, in_no_fold(folds), None, n))
        elif missing:
            lost.append(Lost(video, video, f"has no {' and no '.join(missing)} sequence", part, n))
        else:
            order = np.lexsort((np.arange(n), rows.intervals[:, 1], rows.intervals[:, 0]))
            for number, row in enumerate(order):
                start, end = (float(time) for time in rows.intervals[row])
                target = float(
                    np.asarray(rows.features[row], dtype=np.float64).ravel()[0]
                )  # the sentiment is the first
                label = _Label(video, int(row), n, start, end, target)
                make, say = partial(reader.make, label), partial(reader.say, label)
                items.append(Item(f"{video}.{number}", video, part, make, say))
    return items, lost


@dataclass(frozen=True)
class _Label:
    """A row of the label file: its number from 0, how many there are, its time and its sentiment."""

    video: str
    row: int
    rows: int
    start: float
    end: float
    target: float


@dataclass(eq=False)
class _Reader:
    """Makes utterances; the rows of one video are in memory."""

    settings: Settings
    chosen: Chosen
    transcripts: Mapping[str, Sequence[Sentence]]
    vectors: tuple[Path, Sequence[Vector]] | None
    slip: int
    _video: str = ""
    _held: dict[str, Rows] = field(default_factory=dict)
    _by_number: dict[tuple[str, int], Vector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_number = {(one.video, one.segment): one for one in (self.vectors[1] if self.vectors else ())}

    def make(self, label: _Label) -> Utterance:
        """Read and align an utterance.

        Raises:
            DataError: it cannot be used.
        """
        if not np.isfinite(label.target):
            raise DataError("its sentiment is no number")
        return self._published(label) if self.settings.alignment == "published" else self._by_word(label)

    def say(self, label: _Label) -> Said:
        """What was said: the words of the steps, none with the published alignment; and the sentence.

        Raises:
            DataError: nothing was, or the label has no time.
        """
        if not -np.inf < label.start < label.end < np.inf:
            raise DataError(
                f"its label goes from {label.start:g} s to {label.end:g} s; its end has to come after its start"
            )
        rows = self._rows("words", label.video)
        kept: list[str] = []
        if self.settings.alignment == "published":
            spoken = [str(word) for word in rows_between(rows, label.start, label.end, moments=False).features]
            sentence = " ".join(spoken)  # what that code gave its encoder, pauses and all
        else:
            spoken, _ = words_between(rows, label.start, label.end)
            kept, sentence = spoken[: self.settings.steps], self._sentence(label) or " ".join(spoken)
        if not spoken:
            pauses = "" if self.settings.alignment == "published" else ", pauses left out"
            raise DataError(f"{_NO_WORDS}{pauses}")
        return tuple(kept), sentence

    def _by_word(self, label: _Label) -> Utterance:
        kept, sentence = self.say(label)
        words, spans = words_between(self._rows("words", label.video), label.start, label.end)
        spans = spans[: self.settings.steps]
        begin, end = float(spans[:, 0].min()), float(spans[:, 1].max())
        arrays: dict[str, NDArray[Any]] = {}
        infinite, nan, empty = {}, {}, {}
        for name in (*FEATURES, "text"):
            if name in self.chosen:
                rows = rows_between(self._rows(name, label.video), begin - 2 * TOUCHING, end + 2 * TOUCHING)
            elif self.vectors is not None and name in FEATURES:
                vector = self._vector(label).arrays[name]
                rows = Rows(vector[None], np.array([[begin - 1.0, end + 1.0]]))  # around every word
            else:
                continue
            cleaned = clean(rows.features)  # for the counts
            arrays[name], found = average_over(rows, spans)
            if not found.any():
                raise DataError(f"no {name} frame overlaps its words")
            infinite[name], nan[name], empty[name] = cleaned.infinite, cleaned.nan, int((~found).sum())
        return Utterance(
            target=label.target, arrays=arrays, words=kept, sentence=sentence, start=label.start, end=label.end,
            cut=len(words) - len(kept), infinite=infinite, nan=nan, empty=empty,
        )  # fmt: skip

    def _published(self, label: _Label) -> Utterance:
        """As in the released code: the last raw frames, zeros before them; an encoder makes the text of the sentence."""
        _, sentence = self.say(label)
        arrays, infinite, nan = {}, {}, {}
        for name in FEATURES:
            frames = last_frames(self._rows(name, label.video), label.start, label.end, self.settings.steps)
            if not len(frames):
                raise DataError(f"no {name} frame lies in its time")
            cleaned = clean(frames)
            arrays[name] = pad_left(cleaned.features, self.settings.steps)
            infinite[name], nan[name] = cleaned.infinite, cleaned.nan
        return Utterance(
            target=label.target, arrays=arrays, sentence=sentence, start=label.start, end=label.end, infinite=infinite,
            nan=nan, empty=dict.fromkeys(FEATURES, 0),
        )  # fmt: skip

    def _rows(self, role: str, video: str) -> Rows:
        if video != self._video:
            self._video, self._held = video, {}
        if role not in self._held:
            rows = self.chosen[role].read(video)
            self._held[role] = moved_forward(rows, self.slip) if role == "words" else rows
        return self._held[role]

    def _vector(self, label: _Label) -> Vector:
        vector = self._by_number.get((label.video, label.row + 1))
        if vector is None:
            raise DataError("has no vectors")
        if not abs(vector.target - label.target) <= _SAME_TARGET:
            raise DataError(f"its sentiment is {label.target:g} in the labels and {vector.target:g} beside its vectors")
        return vector

    def _sentence(self, label: _Label) -> str:
        """What was said by the transcript: of the same time, or of the same number where there are as many."""
        said = self.transcripts.get(label.video, ())
        shares = [_share(label, one) for one in said]
        if shares and max(shares) >= _SAME_TIME:
            return said[shares.index(max(shares))].text
        if len(said) == label.rows and all(one.start is None for one in said):
            return said[label.row].text
        return ""


def _share(label: _Label, sentence: Sentence) -> float:
    """The overlap of two times, of their union."""
    if sentence.start is None or sentence.end is None:
        return 0.0
    overlap = min(label.end, sentence.end) - max(label.start, sentence.start)
    union = max(label.end, sentence.end) - min(label.start, sentence.start)
    return max(0.0, overlap) / union if union > 0 else 0.0
