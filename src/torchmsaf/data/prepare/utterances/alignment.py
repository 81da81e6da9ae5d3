"""Rows with start and end times, brought to the words or to the length of an utterance.

Overlap is the CMU Multimodal SDK's: a row overlaps an interval if they share more than 10 microseconds, so that frames
which merely touch at a rounded edge do not count. The SDK drops rows of no length; here such a moment counts where it
lies in ``[start, end)``, unless the released code's frames are asked for. The mean is the unweighted one of all rows
that overlap, however little, as in the collapse functions of the SDK's examples and of MISA (Hazarika et al. 2020).
Source: ``align`` in https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK, mmsdk/mmdatasdk/dataset/dataset.py.
"""

# n rows, D features, L intervals

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.prepare.utterances.csd import Rows

TOUCHING = 1e-5  # seconds; two intervals that share no more than this only touch
PAUSE = "sp"  # the aligner's "short pause"

# words against durations, see words_behind
_MOST_BEHIND = 2
_FEWEST_WORDS = 300
_MARGIN = 0.15
_SHORTEST = 1e-3


@dataclass(frozen=True, eq=False)
class Cleaned:
    """Features that are finite.

    Attributes:
        features: ``(n, D)``, with 0 where a value was not finite.
        infinite: feature number -> how many of its values were ±inf, or too large for float32.
        nan: feature number -> how many of its values were NaN.
    """

    features: NDArray[np.float32]
    infinite: dict[int, int]
    nan: dict[int, int]


def clean(features: NDArray[Any]) -> Cleaned:
    """``(n, D)`` numbers as finite float32: ±inf, NaN and what overflows become 0, and are counted by feature.

    COVAREP features have -inf where a logarithm of silence was taken. 0 is the released code's choice for infinities.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = features.astype(np.float32)
    finite = np.isfinite(numbers)
    if finite.all():
        return Cleaned(numbers, {}, {})
    nan = np.isnan(numbers)
    counts = _by_feature(~finite & ~nan), _by_feature(nan)
    return Cleaned(np.where(finite, numbers, np.float32(0)), *counts)


def _by_feature(which: NDArray[np.bool_]) -> dict[int, int]:
    number = which.sum(axis=0)
    return {int(feature): int(number[feature]) for feature in np.flatnonzero(number)}


def in_time(rows: Rows) -> Rows:
    """The rows sorted by start; of equal starts, in the order they had."""
    starts = rows.intervals[:, 0]
    if (starts[1:] >= starts[:-1]).all():
        return rows
    order = np.argsort(starts, kind="stable")
    return Rows(rows.features[order], rows.intervals[order])


def rows_between(rows: Rows, start: float, end: float, *, moments: bool = True) -> Rows:
    """The rows that overlap an interval, whole and in order of time.

    Args:
        rows: in any order.
        start: of the interval, in seconds.
        end: of the interval, in seconds.
        moments: whether rows of no length count, where they lie in ``[start, end)``. Without them, and for an interval
            of more than ``TOUCHING``, these are the rows that the SDK aligns to the interval.
    """
    starts, ends = rows.intervals.T
    near = _overlap(starts, ends, np.float64(start), np.float64(end))
    if not moments:
        near &= ends - starts > TOUCHING
    return in_time(Rows(rows.features[near], rows.intervals[near]))


def _overlap(
    starts: NDArray[np.float64], ends: NDArray[np.float64], start: NDArray[np.float64] | np.float64, end: Any
) -> NDArray[np.bool_]:
    """Which rows overlap which interval; arrays of one shape, or one interval for all rows."""
    shared = np.minimum(ends, end) - np.maximum(starts, start) > TOUCHING
    moment = (ends - starts <= TOUCHING) & (start <= starts) & (starts < end)
    within = (end - start <= TOUCHING) & (starts <= start) & (start < ends)
    overlap: NDArray[np.bool_] = shared | moment | within
    return overlap


def words_between(words: Rows, start: float, end: float) -> tuple[list[str], NDArray[np.float64]]:
    """The words of an utterance: those whose middle lies in ``[start, end)``, in order of time.

    So a word that two utterances share by a rounded edge belongs to one of them, which the SDK gives to both. Pauses
    ("sp") and empty words are left out.

    Returns:
        L words in lower case, and their ``(L, 2)`` start and end times in seconds; L may be 0.
    """
    words = in_time(words)
    middle = words.intervals.mean(axis=1)
    inside = np.flatnonzero((start <= middle) & (middle < end))
    texts = [str(words.features[row]).strip().lower() for row in inside]
    spoken = [place for place, text in enumerate(texts) if text not in ("", PAUSE)]
    return [texts[place] for place in spoken], words.intervals[inside[spoken]] if spoken else np.empty((0, 2))


def words_behind(words: Iterable[Rows]) -> int:
    """By how many rows the words of a file stand behind the intervals that are theirs: 0 in a sound file.

    Long words take longer. So letters and logarithms of seconds correlate where each word has its own interval, and not
    where the words have slipped against the intervals. In the CMU-MOSI file whose root is
    ``CMU_MOSI_ModifiedTimestampedWords`` the correlation is 0.00 as it is stored and 0.54 with each word at the interval
    of the row before; this way 1940 of the 2199 utterances have the words of their transcripts, as stored 1 has.

    Args:
        words: of all videos of a file, or of many.

    Returns:
        The slip, from -2 to 2, with a correlation that exceeds that of 0 by 0.15; else 0, as for fewer than 300 words.
    """
    letters: list[NDArray[np.float64]] = []
    seconds: list[NDArray[np.float64]] = []
    gap = np.zeros(_MOST_BEHIND)
    for video in words:
        texts = [str(word).strip().lower() for word in video.features]
        letters += [np.array([0.0 if text == PAUSE else len(text) for text in texts]), gap]
        seconds += [video.intervals[:, 1] - video.intervals[:, 0], gap + np.nan]
    if not letters:
        return 0
    length, duration = np.concatenate(letters), np.concatenate(seconds)
    slips = range(-_MOST_BEHIND, _MOST_BEHIND + 1)
    found = {slip: _correlation(length, np.roll(duration, slip)) for slip in slips}
    best = max(slips, key=lambda slip: found[slip])
    return best if found[best] > found[0] + _MARGIN else 0


def _correlation(letters: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    spoken = (letters > 0) & np.isfinite(seconds)
    x, y = letters[spoken], np.log(np.maximum(seconds[spoken], _SHORTEST))
    if len(x) < _FEWEST_WORDS or not x.std() or not y.std():
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def moved_forward(words: Rows, rows: int) -> Rows:
    """Each word with the interval of the row that lies ``rows`` before it, as ``words_behind`` found it.

    The times of the first ``rows`` words are not in the file, but for their ends. Such a word gets the moment at which the
    first interval starts.

    Args:
        words: of one video, in the order of the file.
        rows: the slip; negative for words that stand before their intervals, 0 for none.
    """
    first, last = words.intervals[0, 0], words.intervals[-1, 1]
    edges = np.concatenate([np.full((max(0, rows), 2), first), words.intervals, np.full((max(0, -rows), 2), last)])
    return Rows(words.features, edges[: len(words)] if rows >= 0 else edges[-len(words) :])


def average_over(rows: Rows, intervals: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The mean of the rows that overlap each interval, each row with the same weight.

    Rows may be in any order, overlap, leave gaps and be moments. Values that are not finite count as 0 (``clean``). An
    interval of no length has the rows that contain it. Sums are in float64 and never differences of running sums, so
    nothing is lost beside large values.

    Args:
        rows: ``(n, D)`` features of one video, numbers.
        intervals: ``(L, 2)`` start and end in seconds, in any order.

    Returns:
        ``(L, D)`` means, zeros where no row overlaps, and ``(L,)`` whether a row does.
    """
    count = len(intervals)
    means = np.zeros((count, rows.features.shape[1]), np.float32)
    if not count or not len(rows):
        return means, np.zeros(count, np.bool_)
    start, end = intervals.T
    near = rows_between(rows, float(start.min()) - 2 * TOUCHING, float(end.max()) + 2 * TOUCHING)
    features, (starts, ends) = clean(near.features).features, near.intervals.T
    # rows sorted by start: none before `first` reaches the interval, none from `last` on has started
    first = np.searchsorted(np.maximum.accumulate(ends), start - TOUCHING, "left")
    last = np.searchsorted(starts, end + TOUCHING, "right")
    candidates = np.maximum(last - first, 0)
    before = np.cumsum(candidates) - candidates
    owner = np.repeat(np.arange(count), candidates)
    row = np.arange(len(owner)) + np.repeat(first - before, candidates)
    overlap = _overlap(starts[row], ends[row], start[owner], end[owner])
    owner, row = owner[overlap], row[overlap]
    number = np.bincount(owner, minlength=count)
    found = number > 0
    if found.any():
        begins = (np.cumsum(number) - number)[found]
        sums = np.add.reduceat(features[row].astype(np.float64), begins, axis=0)
        means[found] = sums / number[found, None]
    return means, found


def last_frames(rows: Rows, start: float, end: float, steps: int) -> NDArray[Any]:
    """The last rows of an utterance at the rate they were taken: what the released MSAF code trains on.

    These are not words: at 100 rows a second, 50 rows are the last half second. Rows overlap as in the SDK, so moments
    are left out, and the first and the last one may reach over the edges of the utterance.

    Args:
        rows: of one video.
        start: of the utterance, in seconds.
        end: of the utterance, in seconds.
        steps: at most how many rows are kept, the last ones.

    Returns:
        The features of ``steps`` rows or fewer in order of time, as they are in the file; neither padded nor cleaned.
    """
    features = rows_between(rows, start, end, moments=False).features
    return features[max(0, len(features) - steps) :]


def pad_left(x: NDArray[Any], steps: int) -> NDArray[Any]:
    """``(n, …)`` to ``(steps, …)``: zeros before a shorter array, the last ``steps`` rows of a longer one."""
    kept = x[max(0, len(x) - steps) :]
    return np.concatenate([np.zeros((steps - len(kept), *x.shape[1:]), x.dtype), kept])


def pad_right(x: NDArray[Any], steps: int) -> NDArray[Any]:
    """``(n, …)`` to ``(steps, …)``: zeros after a shorter array, the first ``steps`` rows of a longer one."""
    kept = x[:steps]
    return np.concatenate([kept, np.zeros((steps - len(kept), *x.shape[1:]), x.dtype)])
