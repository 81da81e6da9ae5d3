"""One made-up video in the computational sequences of CMU-MOSEI: words, labels, and features of voice and face.

Which features carry what is made up. That COVAREP has infinite and undefined entries, and FACET nothing where no face
is found, is as in the real files; how many there are is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.synth.opinions import PAUSE, Opinion, draw_chatter, draw_opinion

AUDIO_FEATURES: Final = 74
VIDEO_FEATURES: Final = 35
LABELS: Final = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
_TONE, _IRONY, _FACE = range(10, 16), range(30, 34), range(4, 10)  # columns
_PITCH, _VOICED, _RATIO, _SLOPE, _SHAPE = 0, 1, 4, 7, 8
_AUDIO_CONSTANT, _VIDEO_CONSTANT = (60, 61, 62), (34,)
_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
Rows = tuple[NDArray[np.float32], NDArray[np.float64]]


@dataclass(frozen=True)
class Shooting:
    """How the corpus is made: mean seconds of an utterance, rows a second of both feature files, and the seed."""

    seconds: float
    audio_rate: float
    video_rate: float
    seed: int


@dataclass(frozen=True)
class Oddity:
    """What is wrong with a video, as real ones are wrong.

    Attributes:
        silent: its second utterance has pauses only.
        reversed_last: the interval of its last utterance ends before it starts.
        faceless_last: no row of the face lies in its last utterance.
        late: the rows of the face begin after two fifths of it.
        faceless: it is not in the file of faces.
    """

    silent: bool = False
    reversed_last: bool = False
    faceless_last: bool = False
    late: bool = False
    faceless: bool = False


class MadeUpVideo:
    """One video. It depends on its number, the shooting and what is odd about it, and on nothing else.

    Attributes:
        id: 11 characters, as YouTube has them. One of 16 begins with a hyphen, one of 16 with an underscore.
        opinions: the utterances in order of time, 2 to 20.
        starts: of the utterances, in seconds.
        length: of the video in seconds.

    Args:
        number: of the video, from 0.
        shooting: how it is made.
        oddity: what is wrong with it.
    """

    def __init__(self, number: int, shooting: Shooting, oddity: Oddity) -> None:
        self._number, self._shooting, self._oddity = number, shooting, oddity
        random = self._draws(0)
        letters = [_ID_LETTERS[letter] for letter in random.integers(0, 64, 11)]
        self.id = {0: "-", 1: "_"}.get(number % 16, letters[0]) + "".join(letters[1:])
        count = 2 + min(18, int(random.gamma(1.5, 3.9)))
        self.opinions: list[Opinion] = []
        self.starts = np.zeros(count)
        self._words: list[str] = []
        ends: list[NDArray[np.float64]] = []
        self.length = 0.0
        for place in range(count + 1):
            if place in (0, count) or random.random() < 0.7:
                chatter, there = draw_chatter(random, 1 + int(random.integers(0, 7)))
                ends.append(self._append(chatter, there))
            if place < count:
                silent = oddity.silent and place == 1
                opinion = draw_opinion(random, shooting.seconds, silent=silent)
                self.starts[place] = self.length
                self.opinions.append(opinion)
                ends.append(self._append(opinion.words, opinion.ends))
        self._word_ends = np.concatenate(ends)

    def words(self) -> tuple[NDArray[np.bytes_], NDArray[np.float64]]:
        """Words (n, 1) of at most 32 bytes, and their intervals (n, 2)."""
        starts = np.concatenate([[0.0], self._word_ends[:-1]])
        return np.array(self._words, dtype="S32")[:, None], np.stack([starts, self._word_ends], axis=1)

    def labels(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sentiment and six emotions (n, 7), in the order of ``LABELS``, and intervals (n, 2)."""
        random = self._draws(1)
        sentiment = np.array([opinion.sentiment for opinion in self.opinions])
        signs = np.array([1, -1, -1, 1, -1, -1])  # the emotions that go with good and with bad
        emotions = random.normal(0.4 * sentiment[:, None] * signs - 0.2, 0.4)
        emotions = np.rint(3 * emotions.clip(0, 3)) / 3
        intervals = np.stack([self.starts, self._ends()], axis=1).astype(np.float32)
        if self._oddity.reversed_last:
            intervals[-1] = intervals[-1, ::-1]
        return np.concatenate([sentiment[:, None], emotions], axis=1).astype(np.float32), intervals

    def audio(self) -> Rows:
        """Features of the voice (n, 74) and intervals (n, 2), without a gap."""
        random = self._draws(2)
        middles, intervals = self._rows(self._shooting.audio_rate)
        at, inside, part = self._utterance_of(middles)
        signal = self._noise(random, len(middles), AUDIO_FEATURES, at, inside)
        tone = np.array([opinion.tone for opinion in self.opinions])[at] * inside * (0.5 + part)
        signal[:, _TONE] += tone[:, None]
        signal[:, _IRONY] += 2.0 * self._ironic(middles)[:, None]
        features = self._scaled(signal, 2, _AUDIO_CONSTANT)
        place = np.searchsorted(self._word_ends, middles, side="right").clip(max=len(self._words) - 1)
        voiced = np.array([word != PAUSE for word in self._words])[place]
        features[:, _VOICED] = voiced
        features[:, _PITCH] = np.where(voiced, 160 + 30 * signal[:, _PITCH] + 15 * tone, 0).clip(min=0)
        features[5::53, _RATIO] = -np.inf
        features[11::701, _SLOPE] = np.inf
        features[17::307, _SHAPE] = np.nan
        return features, intervals

    def video(self) -> Rows | None:
        """Features of the face (n, 35) and intervals (n, 2) where a face was found; None if there is none at all."""
        if self._oddity.faceless:
            return None
        random = self._draws(3)
        middles, intervals = self._rows(self._shooting.video_rate)
        at, inside, part = self._utterance_of(middles)
        signal = self._noise(random, len(middles), VIDEO_FEATURES, at, inside)
        first, last = np.array([opinion.moment for opinion in self.opinions]).T[:, at]
        face = np.array([opinion.face for opinion in self.opinions])[at]
        signal[:, _FACE] += (2.0 * face * (inside & (first <= part) & (part < last)))[:, None]
        seen = np.ones(len(middles), dtype=np.bool_)
        for start in random.uniform(0, self.length, 1 + int(self.length / 20)):
            seen &= (middles < start) | (middles >= start + random.uniform(0.2, 1.5))
        if self._oddity.late:
            seen &= intervals[:, 0] >= 0.4 * self.length
        if self._oddity.faceless_last:
            seen &= (intervals[:, 1] <= self.starts[-1] - 0.01) | (intervals[:, 0] >= self._ends()[-1] + 0.01)
        return self._scaled(signal, 3, _VIDEO_CONSTANT)[seen], intervals[seen]

    def _draws(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._shooting.seed, 1, self._number, purpose])

    def _append(self, words: list[str] | tuple[str, ...], ends: NDArray[np.float64]) -> NDArray[np.float64]:
        """When these words end in the video, which they lengthen."""
        self._words += words
        moved = self.length + ends
        self.length = float(moved[-1])
        return moved

    def _ends(self) -> NDArray[np.float64]:
        seconds = np.array([opinion.seconds for opinion in self.opinions])
        return np.asarray(self.starts + seconds, dtype=np.float64)

    def _rows(self, rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The middles (n,) and intervals (n, 2) of rows at a rate."""
        edges = np.arange(max(1, int(self.length * rate)) + 1) / rate
        return (edges[1:] + edges[:-1]) / 2, np.stack([edges[:-1], edges[1:]], axis=1)

    def _utterance_of(
        self, times: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.float64]]:
        """The utterance that is or was last at each time, whether it is, and what part of it is over."""
        at = (np.searchsorted(self.starts, times, side="right") - 1).clip(min=0)
        part = (times - self.starts[at]) / (self._ends() - self.starts)[at]
        inside: NDArray[np.bool_] = (part >= 0) & (part < 1)
        return at, inside, part

    def _ironic(self, times: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether a word that is meant ironically is said at each time, or the row nearest to one."""
        found = np.zeros(len(times), dtype=np.bool_)
        for start, opinion in zip(self.starts, self.opinions, strict=True):
            for word in opinion.ironic:
                first = start + (opinion.ends[word - 1] if word else 0.0)
                last = start + opinion.ends[word]
                found |= (times >= first) & (times < last)
                found[np.abs(times - (first + last) / 2).argmin()] = True
        return found

    def _noise(
        self, random: np.random.Generator, rows: int, width: int, at: NDArray[np.intp], inside: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """What says nothing: of the speaker, of the utterance and of the row."""
        speaker = random.normal(0, 0.3, width)
        moods = random.normal(0, 0.35, (len(self.opinions), width)).astype(np.float32)
        noise = random.standard_normal((rows, width), dtype=np.float32)
        noise += speaker.astype(np.float32)
        noise += moods[at] * inside[:, None]
        return noise

    def _scaled(self, signal: NDArray[np.float32], which: int, constant: tuple[int, ...]) -> NDArray[np.float32]:
        """In units of each feature's own, the same in all videos of a seed; some features never change."""
        random = np.random.default_rng([self._shooting.seed, which])
        width = signal.shape[1]
        scale, offset = np.power(10.0, random.uniform(-2, 1.5, width)), random.normal(0, 2, width)
        features: NDArray[np.float32] = ((signal + offset) * scale).astype(np.float32)
        features[:, list(constant)] = np.arange(len(constant)) // 2
        return features
