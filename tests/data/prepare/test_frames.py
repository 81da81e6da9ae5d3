"""Protects which frames are taken, and the cutting out of faces: on the frame as filmed, exact on simple pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.data.prepare.frames import SAMPLING, consecutive, crop_and_resize, nearest_boxes, uniform
from torchmsaf.errors import DataError


@given(total=st.integers(1, 400), count=st.integers(1, 60))
def test_uniform_takes_the_floor_of_even_times(total: int, count: int) -> None:
    chosen = uniform(total, count)
    assert len(chosen) == count
    assert chosen[0] == 0
    assert all(count * index <= i * total < count * (index + 1) for i, index in enumerate(chosen))
    assert chosen[-1] < total


@given(total=st.integers(1, 400), count=st.integers(1, 60))
def test_consecutive_frames_stand_in_the_middle(total: int, count: int) -> None:
    if total < count:
        with pytest.raises(DataError, match=rf"the clip has {total} frames? and {count} consecutive ones are needed$"):
            consecutive(total, count)
        return
    chosen = consecutive(total, count)
    assert chosen == list(range(chosen[0], chosen[0] + count))
    before, after = chosen[0], total - 1 - chosen[-1]
    assert after - before in (0, 1)


def test_a_short_clip_repeats_frames_when_sampled_uniformly() -> None:
    assert uniform(3, 5) == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("rule", SAMPLING.values(), ids=SAMPLING)
def test_zero_frames_are_refused(rule) -> None:
    with pytest.raises(DataError, match=r"0 frames are asked for; 1 or more is needed"):
        rule(40, 0)
    with pytest.raises(DataError, match=r"the clip has 0 frames"):
        rule(0, 5)


def test_a_frame_without_a_face_gets_the_nearest_box_and_of_two_the_earlier() -> None:
    boxes = np.arange(6.0)[:, None] * np.ones(4)
    own = np.array([False, True, False, True, False, False])
    assert nearest_boxes(boxes, own, [0, 1, 2, 3, 5])[:, 0].tolist() == [1, 1, 1, 3, 3]


def test_a_constant_picture_stays_constant_at_any_size() -> None:
    frames = np.full((2, 37, 53, 3), (201, 7, 90), np.uint8)
    for size in (5, 37, 60):
        squares = crop_and_resize(frames, np.array([[3.0, 2, 40, 30]] * 2), size)
        assert squares.shape == (3, 2, size, size)
        assert squares.dtype == np.uint8
        assert squares.flags.c_contiguous
        assert (squares == np.array([201, 7, 90], np.uint8)[:, None, None, None]).all()


def test_a_square_box_of_the_wanted_size_is_copied_from_the_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 30, 41, 3), dtype=np.uint8)
    boxes = np.array([[4.0, 5, 20, 21], [0, 0, 16, 16], [25, 14, 41, 30]])
    squares = crop_and_resize(frames, boxes, 16)
    for t, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        assert (squares[:, t] == frames[t, top:bottom, left:right].transpose(2, 0, 1)).all()


def test_boxes_are_rounded_outward_and_cut_off_at_the_edges() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    squares = crop_and_resize(frames, np.array([[2.9, 3.9, 9.1, 10.1], [-5.5, -9, 8, 7.2]]), 8)
    assert (squares[:, 0] == frames[0, 3:11, 2:10].transpose(2, 0, 1)).all()
    assert (squares[:, 1] == frames[1, :8, :8].transpose(2, 0, 1)).all()


def test_shrinking_averages_and_growing_interpolates() -> None:
    ramp = np.broadcast_to(np.arange(0, 128, 2, dtype=np.uint8)[None, None, :, None], (1, 64, 64, 3))
    half = crop_and_resize(ramp, np.array([[0.0, 0, 64, 64]]), 32)[0, 0]
    # the centre of output column j is between input columns 2j and 2j + 1
    assert (half[:, 1:-1] == np.arange(1, 129, 4, dtype=np.uint8)[1:-1]).all()
    double = crop_and_resize(ramp, np.array([[0.0, 0, 64, 64]]), 128)[0, 0]
    exact = np.clip((np.arange(128) + 0.5) / 2 - 0.5, 0, 63) * 2
    assert (np.abs(double - exact) <= 0.5).all()
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 200
    # without antialiasing the stripes would beat: some columns dark, some bright
    few = crop_and_resize(stripes, np.array([[0.0, 0, 64, 64]]), 10)[0, 0, :, 1:-1]
    assert np.abs(few.astype(int) - 100).max() <= 15


def test_the_channels_keep_their_order_and_each_frame_its_own_box() -> None:
    frames = np.zeros((2, 10, 10, 3), np.uint8)
    frames[0, :5, :, 0] = 255
    frames[1, 5:, :, 2] = 255
    squares = torch.from_numpy(crop_and_resize(frames, np.array([[0.0, 0, 10, 5], [0, 5, 10, 10]]), 4))
    assert squares.float().mean((2, 3)).tolist() == [[255, 0], [0, 0], [0, 255]]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([12, 0, 15, 5], r"the box of frame 0 is \[12\.0, 0\.0, 15\.0, 5\.0\]: nothing of the 10x8 frame is in it"),
        ([4, 4, 4, 6], r"nothing of the 10x8 frame is in it"),
        ([0, 0, float("nan"), 5], r"the box of frame 0 is .*nan.*; four finite numbers are needed"),
    ],
)
def test_a_box_with_nothing_in_it_is_refused(box: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        crop_and_resize(np.zeros((1, 8, 10, 3), np.uint8), np.array([box], dtype=float), 4)


def test_one_box_a_frame_and_a_size_are_needed() -> None:
    frames = np.zeros((2, 8, 10, 3), np.uint8)
    with pytest.raises(DataError, match=r"boxes have shape \(1, 4\); \(2, 4\) is needed, one for each frame"):
        crop_and_resize(frames, np.zeros((1, 4)), 4)
    with pytest.raises(DataError, match=r"size is 0; 1 or more pixels are needed"):
        crop_and_resize(frames, np.zeros((2, 4)), 0)
