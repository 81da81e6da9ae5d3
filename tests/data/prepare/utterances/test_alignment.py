"""Protects bringing rows to words: which rows count, means that lose nothing, frames as the released code has them."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from torchmsaf.data.prepare.utterances.alignment import (
    average_over,
    clean,
    in_time,
    last_frames,
    moved_forward,
    pad_left,
    pad_right,
    rows_between,
    words_behind,
    words_between,
)
from torchmsaf.data.prepare.utterances.csd import ComputationalSequence, Rows

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
needs_shared = pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")


def numbered(intervals: list[tuple[float, float]] | NDArray[Any]) -> Rows:
    """Row i has the one feature i + 1."""
    return Rows(np.arange(1.0, len(intervals) + 1)[:, None], np.array(intervals, np.float64).reshape(-1, 2))


def spoken(*words: tuple[str, float, float]) -> Rows:
    return Rows(np.array([word for word, _, _ in words]), np.array([[start, end] for _, start, end in words]))


def counts(row: Any, interval: Any) -> bool:
    """The rule, one pair at a time."""
    (s, e), (a, b) = row, interval
    if min(e, b) - max(s, a) > 1e-5:
        return True
    return (e - s <= 1e-5 and a <= s < b) or (b - a <= 1e-5 and s <= a < e)


def slow_average(rows: Rows, intervals: NDArray[Any]) -> tuple[NDArray[Any], list[bool]]:
    values = np.where(np.isfinite(rows.features), rows.features, 0).astype(np.longdouble)
    means, found = [], []
    for interval in intervals:
        chosen = [value for value, row in zip(values, rows.intervals, strict=True) if counts(row, interval)]
        found.append(bool(chosen))
        means.append(sum(chosen) / len(chosen) if chosen else np.zeros(values.shape[1]))
    return np.array(means), found


def test_what_is_not_finite_becomes_zero_and_is_counted_by_feature() -> None:
    features = np.array([[1, np.inf, np.nan, 4], [-np.inf, -np.inf, 2, 4], [1e39, 3, np.nan, 4]])
    cleaned = clean(features)
    assert cleaned.features.dtype == np.float32
    assert cleaned.features.tolist() == [[1, 0, 0, 4], [0, 0, 2, 4], [0, 3, 0, 4]]
    assert cleaned.infinite == {0: 2, 1: 2}
    assert cleaned.nan == {2: 2}
    assert np.isinf(features[0, 1])  # what came in is as it was


def test_finite_features_stay_and_are_not_shared() -> None:
    features = np.ones((2, 3), np.float32)
    cleaned = clean(features)
    assert (cleaned.infinite, cleaned.nan) == ({}, {})
    cleaned.features[0, 0] = 5
    assert features[0, 0] == 1
    assert clean(np.empty((0, 3))).features.shape == (0, 3)


def test_rows_are_sorted_by_start_and_equal_starts_keep_their_order() -> None:
    rows = in_time(numbered([(3, 4), (1, 2), (3, 3), (0, 9)]))
    assert rows.features[:, 0].tolist() == [4, 2, 1, 3]
    assert rows.intervals.tolist() == [[0, 9], [1, 2], [3, 4], [3, 3]]


def test_rows_that_only_touch_do_not_overlap() -> None:
    rows = numbered([(0, 1), (1, 2), (2, 3 + 9e-6), (3, 4), (4 - 9e-6, 5), (3.5, 3.6)])
    assert rows_between(rows, 3, 4).features[:, 0].tolist() == [4, 6]
    assert rows_between(rows, 3 - 2e-5, 4 + 2e-5).features[:, 0].tolist() == [3, 4, 6, 5]


def test_a_moment_counts_from_the_start_up_to_the_end() -> None:
    rows = numbered([(1, 1), (1.5, 1.5), (2, 2)])
    assert rows_between(rows, 1, 2).features[:, 0].tolist() == [1, 2]
    assert len(rows_between(rows, 1, 2, moments=False)) == 0


def test_a_word_belongs_to_the_utterance_that_has_its_middle() -> None:
    words = spoken(("Late", 4, 5), ("SP", 1, 2), ("Half", 0, 2), ("", 2, 3), ("edge", 2, 4), ("early", -1, 0.5))
    assert words_between(words, 1, 3)[0] == ["half"]
    texts, times = words_between(words, 1, 5)
    assert texts == ["half", "edge", "late"]
    assert times.tolist() == [[0, 2], [2, 4], [4, 5]]
    texts, times = words_between(words, 7, 9)
    assert (texts, times.shape, times.dtype) == ([], (0, 2), np.float64)
    assert words_between(words, 1, 1)[0] == []


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30, unique=True), st.data())
def test_utterances_that_follow_each_other_share_no_word_and_lose_none(edges: list[float], data: st.DataObject) -> None:
    edges = sorted(edges)
    words = spoken(*((f"w{n}", a, b) for n, (a, b) in enumerate(pairwise(edges))))
    cut = data.draw(st.floats(0, 100))
    both = words_between(words, -1, cut)[0] + words_between(words, cut, 101)[0]
    assert both == words.features.tolist()


@given(st.integers(0, 2**32 - 1))
def test_averages_equal_those_of_a_loop_for_rows_of_any_kind(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, count = random.integers(1, 40), random.integers(0, 12)
    # a coarse grid makes edges that touch, equal starts and moments likely
    starts = random.integers(0, 20, n) / 4
    ends = starts + random.choice([0, 0.25, 0.25, 0.5, 7], n)
    rows = Rows(random.normal(size=(n, 3)) * [1, 1e4, 1e-4], np.stack([starts, ends], axis=1))
    begin = random.integers(-4, 24, count) / 4
    intervals = np.stack([begin, begin + random.choice([0, 0.25, 0.3, 1, 6], count)], axis=1)
    means, found = average_over(rows, intervals)
    expected, there = slow_average(Rows(rows.features.astype(np.float32), rows.intervals), intervals)
    assert found.tolist() == there
    assert (means.shape, means.dtype) == ((count, 3), np.float32)
    np.testing.assert_allclose(means, expected.reshape(count, 3), rtol=1e-6, atol=1e-12)


def test_a_step_without_rows_is_zeros_and_is_told() -> None:
    rows = numbered([(0, 1), (1, 2), (5, 6)])
    means, found = average_over(rows, np.array([[0, 2], [2.5, 4], [1.9, 5.1], [7, 8]]))
    assert means[:, 0].tolist() == [1.5, 0, 2.5, 0]
    assert found.tolist() == [True, False, True, False]
    means, found = average_over(numbered([]), np.array([[0.0, 1]]))
    assert (means.tolist(), found.tolist()) == ([[0]], [False])


def test_an_infinite_value_counts_as_zero_in_the_mean() -> None:
    rows = Rows(np.array([[-np.inf, 2], [4, np.nan]]), np.array([[0, 1], [1, 2.0]]))
    assert average_over(rows, np.array([[0, 2.0]]))[0].tolist() == [[2, 1]]


def test_small_values_are_not_lost_beside_large_ones() -> None:
    random = np.random.default_rng(0)
    n = 60_000  # ten minutes at 100 rows a second
    features = np.stack([random.normal(size=n), 1e7 + random.normal(size=n)], axis=1).astype(np.float32)
    features[100, 0] = 3e38  # a running sum would never recover
    edges = np.arange(n + 1) / 100
    intervals = np.stack([edges[200:-40:37], edges[200:-40:37] + 0.3], axis=1)
    means, found = average_over(Rows(features, np.stack([edges[:-1], edges[1:]], axis=1)), intervals)
    assert found.all()
    first = np.arange(200, n - 39, 37)[: len(intervals)]
    expected = np.array([features[f : f + 30].astype(np.longdouble).mean(axis=0) for f in first])
    np.testing.assert_allclose(means, expected, rtol=1e-6, atol=1e-8)


def test_the_last_frames_are_those_that_the_sdk_would_keep() -> None:
    rows = numbered([(4, 5), (0, 1), (1, 2), (2, 2), (2, 3), (3, 4)])
    assert last_frames(rows, 0.5, 3.5, 50)[:, 0].tolist() == [2, 3, 5, 6]  # the moment is left out
    assert last_frames(rows, 0.5, 3.5, 2)[:, 0].tolist() == [5, 6]
    assert last_frames(rows, 0.5, 3.5, 0).shape == (0, 1)
    assert last_frames(rows, 9, 10, 5).shape == (0, 1)


def test_padding_puts_zeros_before_or_after_and_keeps_the_last_or_the_first() -> None:
    x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    assert pad_left(x, 5).tolist() == [[0, 0], [0, 0], *x.tolist()]
    assert pad_right(x, 5).tolist() == [*x.tolist(), [0, 0], [0, 0]]
    assert pad_left(x, 2).tolist() == x[1:].tolist()
    assert pad_right(x, 2).tolist() == x[:2].tolist()
    assert pad_left(x, 3).tolist() == pad_right(x, 3).tolist() == x.tolist()
    assert pad_left(x[:0], 2).tolist() == pad_right(x[:0], 2).tolist() == [[0, 0], [0, 0]]
    assert pad_left(x, 5).dtype == pad_right(x, 2).dtype == np.float32
    assert pad_right(x[:, 0], 4).tolist() == [1, 3, 5, 0]


def speech(seed: int, count: int = 400) -> Rows:
    """Words with a pause now and then; long words take longer."""
    random = np.random.default_rng(seed)
    words = ["sp" if random.random() < 0.2 else "x" * int(random.integers(1, 10)) for _ in range(count)]
    seconds = np.array([0.2 if word == "sp" else 0.06 * len(word) for word in words]) * random.lognormal(0, 0.5, count)
    edges = np.concatenate([[0], np.cumsum(seconds)])
    return Rows(np.array(words), np.stack([edges[:-1], edges[1:]], axis=1))


def slipped(rows: Rows, by: int) -> Rows:
    """Each word with the interval of the row ``by`` after it."""
    n = len(rows)
    words, times = (rows.features[: n - by], rows.intervals[by:]) if by > 0 else (rows.features, rows.intervals)
    return Rows(rows.features[-by:], rows.intervals[: n + by]) if by < 0 else Rows(words, times)


@pytest.mark.parametrize("by", [-2, -1, 0, 1, 2])
def test_a_slip_of_words_against_intervals_is_found_and_mended(by: int) -> None:
    sound = [speech(seed) for seed in range(3)]
    stored = [slipped(rows, by) for rows in sound]
    assert words_behind(stored) == by
    for rows, slip in zip(sound, stored, strict=True):
        mended = moved_forward(slip, by)
        times = dict(zip(map(tuple, rows.intervals.tolist()), rows.features.tolist(), strict=True))
        assert len(mended) == len(slip)
        known = slice(max(0, by), len(slip) + min(0, by))
        for word, interval in zip(mended.features[known].tolist(), mended.intervals[known].tolist(), strict=True):
            assert times[tuple(interval)] == word
        edge = slip.intervals[0, 0] if by > 0 else slip.intervals[-1, 1]
        unknown = np.delete(mended.intervals, np.r_[known], axis=0)
        assert unknown.tolist() == [[edge, edge]] * abs(by)
        assert (np.diff(mended.intervals[:, 0]) >= 0).all()


def test_words_without_evidence_of_a_slip_stay() -> None:
    assert words_behind([]) == 0
    assert words_behind([slipped(speech(0, 200), 1)]) == 0  # too few words
    random = np.random.default_rng(0)
    edges = np.cumsum(random.random(1001))
    times = np.stack([edges[:-1], edges[1:]], axis=1)
    assert words_behind([Rows(np.array(["x" * int(n) for n in random.integers(1, 9, 1000)]), times)]) == 0
    assert words_behind([Rows(np.array(["same"] * 1000), times)]) == 0


def test_more_rows_of_slip_than_words_leave_every_word_at_the_edge() -> None:
    rows = spoken(("one", 1, 2))
    assert moved_forward(rows, 2).intervals.tolist() == [[1, 1]]
    assert moved_forward(rows, -2).intervals.tolist() == [[2, 2]]
    assert moved_forward(rows, 0).intervals.tolist() == [[1, 2]]


@needs_shared
def test_utterances_of_cmu_mosi_have_the_words_of_their_transcripts() -> None:
    """Transcript ``VIDEO_k`` is that of row k - 1 of the labels, in the order of the file, which is not that of time."""
    assert SHARED is not None
    folder = Path(SHARED) / "cmu_mosi"
    files = ("CMU_MOSI_ModifiedTimestampedWords.csd", "CMU_MOSI_Opinion_Labels.csd")
    words, labels = (ComputationalSequence.open(folder / name) for name in files)
    with np.load(folder / "mosi_utterance_trimodal.npz") as file:
        said = {
            str(name): (re.sub(r"[^a-z0-9 ]", "", str(text).lower()).split(), float(target))
            for part in ("train", "test")
            for name, text, target in zip(*(file[f"{key}_{part}"] for key in ("id", "sentence", "y")), strict=True)
        }
    with words, labels:
        behind = words_behind(words.read(video) for video in words.videos)
        assert behind == 1
        equal = empty = 0
        for video in labels.videos:
            opinions, timed = labels.read(video), moved_forward(words.read(video), behind)
            for row, (start, end) in enumerate(opinions.intervals):
                transcript, target = said.pop(f"{video}_{row + 1}")
                assert abs(target - float(opinions.features[row, 0])) < 0.051
                got, _ = words_between(timed, start, end)
                equal += [re.sub(r"[^a-z0-9]", "", word) for word in got] == transcript
                empty += not got
    assert not said
    assert (equal, empty) == (1940, 2)
