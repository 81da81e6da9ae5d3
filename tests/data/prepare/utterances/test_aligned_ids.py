"""Protects the names of utterances in published pickles: video and segment are told apart, and sorted by time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from torchmsaf.data.prepare.utterances.aligned_ids import read_id


@pytest.mark.parametrize(
    ("value", "video", "segment"),
    [
        ("-3g5yACwYnA$_$10", "-3g5yACwYnA", "10"),
        ("-3g5yACwYnA[3]", "-3g5yACwYnA", "3"),
        ("-3g5yACwYnA_3", "-3g5yACwYnA", "3"),
        ("zhpQhgh_123", "zhpQhgh_123", ""),
        ("100178$_$10", "100178", "10"),
        ("123456_8[0]", "123456_8", "0"),
        ("100178[0]", "100178", "0"),
        (b"100178", "100178", ""),
        (np.bytes_(b"a_b$_$1"), "a_b", "1"),
        (np.array(["vid", "-1.5", "2"]), "vid", "-1.5-2"),
        (np.array(["vid_7", "vid_7", "vid_7"], object), "vid", "7"),
        (["vid", 1.5, 2.0], "vid", "1.5-2.0"),
        (np.array("vid[1]"), "vid", "1"),
        (17, "17", ""),
        (None, "none", ""),
        ({}, "none", ""),
        (np.ones((2, 2)), "none", ""),
        ("", "none", ""),
        (b"\xff[1]", "ÿ", "1"),
    ],
)
def test_names_of_utterances_are_read(value: Any, video: str, segment: str) -> None:
    found = read_id(value, "none")
    assert (found.video, found.segment) == (video, segment)
    assert str(found) == (f"{video}[{segment}]" if segment else video)


def test_utterances_are_sorted_by_time_and_by_number() -> None:
    starts = [read_id(["v", start, "99"], "").order for start in ("10.5", "9.25", "-1")]
    assert sorted(starts) == [starts[2], starts[1], starts[0]]
    assert read_id("v[9]", "").order < read_id("v[10]", "").order
