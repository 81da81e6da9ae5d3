"""Protects the choice and the order of bodies, and that no frame of an array is without numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from torchmsaf.data.prepare.actions.bodies import fill_gaps, motion_energy, order_bodies, to_array
from torchmsaf.data.prepare.actions.skeleton_file import Body, SkeletonFile
from torchmsaf.errors import DataError

FRAMES = 8


def body(number: int, amplitude: float = 0.0, tracked: str = "1" * FRAMES, place: int = 0) -> Body:
    """All joints at (number, t · amplitude, 3) in frame t."""
    there = np.array([mark == "1" for mark in tracked])
    xyz = np.empty((len(tracked), 25, 3), np.float32)
    xyz[..., 0], xyz[..., 2] = number, 3.0
    xyz[..., 1] = (np.arange(len(tracked)) * amplitude)[:, None]
    xyz[~there] = np.nan
    return Body(number, xyz, there, np.where(there, place, -1).astype(np.int16))


def file(*bodies: Body) -> SkeletonFile:
    return SkeletonFile("a.skeleton", len(bodies[0].tracked) if bodies else FRAMES, bodies)


def ids(xyz: NDArray[np.float32]) -> list[float]:
    return [float(number) for number in xyz[0, 0, 0]]


def test_energy_is_the_variance_summed_over_joints_and_axes() -> None:
    frames = np.arange(FRAMES, dtype=np.float64)
    assert motion_energy(body(1, 2.0)) == pytest.approx(25 * np.var(2.0 * frames))
    assert motion_energy(body(1, 2.0, "11110000")) == pytest.approx(25 * np.var(2.0 * frames[:4]))
    assert motion_energy(body(1, 0.0)) == 0.0
    assert motion_energy(body(1, 2.0, "0" * FRAMES)) == 0.0


def test_who_moves_most_is_first_and_equal_ones_stay_in_order() -> None:
    bodies = [body(1, 0.0), body(2, 1.0), body(3, 5.0), body(4, 1.0), body(5, 9.0, "0" * FRAMES)]
    assert [one.id for one in order_bodies(file(*bodies))] == [3, 2, 4, 1]


def test_the_array_has_as_many_bodies_as_asked_for() -> None:
    source = file(body(1, 0.0), body(2, 1.0), body(3, 5.0))
    xyz, tracked = to_array(source)
    assert (xyz.shape, tracked.shape) == ((3, FRAMES, 25, 3), (FRAMES, 3))
    assert (xyz.dtype, tracked.dtype) == (np.dtype(np.float32), np.dtype(np.uint8))
    assert ids(xyz) == [3, 2, 1]
    assert ids(to_array(source, 2)[0]) == [3, 2]
    assert ids(to_array(source, 9)[0]) == [3, 2, 1]
    np.testing.assert_array_equal(xyz[:, :, :, 1], source.bodies[1].xyz.transpose(2, 0, 1))
    assert xyz.flags.c_contiguous


def test_gaps_are_interpolated_and_the_ends_held() -> None:
    xyz, tracked = to_array(file(body(1, 2.0, "01100101")))
    np.testing.assert_allclose(xyz[1, :, 7, 0], [2, 2, 4, 6, 8, 10, 12, 14])
    assert tracked[:, 0].tolist() == [0, 1, 1, 0, 0, 1, 0, 1]
    xyz, _ = to_array(file(body(1, 2.0, "00010000")))
    np.testing.assert_array_equal(xyz[1, :, 0, 0], np.full(FRAMES, 6.0))


def test_tracked_frames_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 25, 3)).astype(np.float32)
    tracked = rng.random(40) < 0.5
    values[~tracked] = np.nan
    filled = fill_gaps(values, tracked)
    np.testing.assert_array_equal(filled[tracked], values[tracked])
    assert np.isfinite(filled).all()
    by_numpy = np.interp(np.arange(40), np.flatnonzero(tracked), values[tracked][:, 3, 1])
    np.testing.assert_allclose(filled[:, 3, 1], by_numpy, atol=1e-6)


def test_the_published_way_takes_the_first_two_places_of_each_frame() -> None:
    first, second = body(1, 0.0, "11100000"), body(2, 9.0, "11111000", 1)
    second.place[3:5] = 0  # the second body moves up when the first one is gone
    third = body(3, 5.0, "10000000", 2)
    xyz, tracked = to_array(file(first, second, third), mode="published")
    assert xyz.shape == (3, FRAMES, 25, 2)
    assert xyz[0, :, 0, 0].tolist() == [1, 1, 1, 2, 2, 0, 0, 0]
    assert xyz[0, :, 0, 1].tolist() == [2, 2, 2, 0, 0, 0, 0, 0]
    assert tracked.tolist() == [[1, 1], [1, 1], [1, 1], [1, 0], [1, 0], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_array_equal(xyz[:, 1, :, 1], second.xyz[1].T)


def test_the_published_way_makes_a_second_body_of_zeros_and_zeros_of_no_number() -> None:
    one = body(1, 1.0)
    one.xyz[2, 4, 1] = math.nan
    one.tracked[2] = False
    xyz, tracked = to_array(file(one), mode="published")
    assert not xyz[..., 1].any()
    assert xyz[:, 2, 4, 0].tolist() == [1, 0, 3]
    assert tracked[:, 0].tolist() == [1, 1, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("mode", ["motion", "published"])
@pytest.mark.parametrize("bodies", [(), (body(1, 1.0, "0" * FRAMES),)])
def test_a_file_without_a_tracked_body(mode: str, bodies: tuple[Body, ...]) -> None:
    with pytest.raises(DataError, match=r"a\.skeleton: no body is tracked in any of 8 frames"):
        to_array(file(*bodies), mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["motion", "published"])
def test_a_file_without_a_frame(mode: str) -> None:
    with pytest.raises(DataError, match=r"a\.skeleton has no frames; get the file again"):
        to_array(SkeletonFile("a.skeleton", 0, ()), mode=mode)  # type: ignore[arg-type]


def test_arguments_out_of_range() -> None:
    with pytest.raises(DataError, match="most is 0; 1 or more"):
        to_array(file(body(1)), 0)
    with pytest.raises(DataError, match="mode is 'all'"):
        to_array(file(body(1)), mode="all")  # type: ignore[arg-type]
