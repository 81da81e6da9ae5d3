"""Protects the reading of .skeleton files: every value of every body, and a line number for what is malformed."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from torchmsaf.data.prepare.actions import skeleton_file
from torchmsaf.data.prepare.actions.bodies import to_array
from torchmsaf.data.prepare.actions.skeleton_file import BODY_VALUES, JOINT_VALUES, SkeletonFile, read_skeleton
from torchmsaf.errors import DataError

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
FIRST, SECOND, THIRD = 72057594037944734, 72057594037944735, 72057594037944738  # as float64 they are not apart


def values(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(25, 12)).astype(np.float32)


def write(frames: list[dict[int, NDArray[np.float32]]], end: str = "\r\n") -> bytes:
    lines = [str(len(frames))]
    for frame in frames:
        lines.append(str(len(frame)))
        for number, joints in frame.items():
            lines += [f"{number} 0 1 1 0 1 0 0.25 -0.5 2", "25"]
            lines += [" ".join(f"{value:.9g}" for value in joint) for joint in joints]
    return end.join([*lines, ""]).encode()


# frame 2 is empty, the first body leaves, comes back and stands second then
FRAMES: list[dict[int, NDArray[np.float32]]] = [
    {FIRST: values(0), SECOND: values(1), THIRD: values(2)},
    {},
    {SECOND: values(3), FIRST: values(4)},
    {SECOND: values(5)},
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("trailing", ["", "\n", "\r\n \r\n"])
def test_every_value_of_every_body(end: str, trailing: str) -> None:
    file = read_skeleton(write(FRAMES, end) + trailing.encode(), name="a.skeleton", full=True)
    assert (file.name, file.frames) == ("a.skeleton", 4)
    assert [body.id for body in file.bodies] == [FIRST, SECOND, THIRD]
    places = [[0, -1, 1, -1], [1, -1, 0, 0], [2, -1, -1, -1]]
    for body, place in zip(file.bodies, places, strict=True):
        assert body.place.tolist() == place
        assert body.joints is not None
        assert body.values is not None
        assert (body.xyz.shape, body.joints.shape, body.values.shape) == ((4, 25, 3), (4, 25, 12), (4, 9))
        assert body.xyz.dtype == body.joints.dtype == body.values.dtype == np.float32
        for frame, bodies in enumerate(FRAMES):
            assert body.tracked[frame] == (body.id in bodies)
            if body.id in bodies:
                np.testing.assert_array_equal(body.joints[frame], bodies[body.id])
                np.testing.assert_array_equal(body.xyz[frame], bodies[body.id][:, :3])
                assert dict(zip(BODY_VALUES, body.values[frame].tolist(), strict=True))["lean y"] == -0.5
            else:
                assert np.isnan(body.xyz[frame]).all()
                assert np.isnan(body.joints[frame]).all()
                assert np.isnan(body.values[frame]).all()
    assert JOINT_VALUES[:3] == ("x", "y", "z")


def test_positions_alone_unless_all_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_bytes(write(FRAMES))
    file = read_skeleton(path)
    assert file.name == path.name
    assert all(body.joints is None and body.values is None for body in file.bodies)


@pytest.mark.parametrize("data", [b"0\r\n", b"3\n0\n0\n0\n", b"1\n0"])
def test_files_without_bodies(data: bytes) -> None:
    file = read_skeleton(data)
    assert (file.frames, file.bodies) == (int(data[:1]), ())


@pytest.mark.parametrize("word", ["NaN", "-nan(ind)", "inf", "1e300"])
def test_a_frame_with_a_position_that_is_not_finite_is_not_tracked(word: str) -> None:
    lines = write([{FIRST: values(0)}, {FIRST: values(1)}]).split(b"\r\n")
    lines[4] = b" ".join([word.encode(), *lines[4].split()[1:]])
    (body,) = read_skeleton(b"\n".join(lines)).bodies
    assert body.tracked.tolist() == [False, True]
    assert np.isnan(body.xyz[0]).sum() == 1
    assert body.place.tolist() == [0, 0]


def test_other_values_may_lack_without_harm() -> None:
    lines = write([{FIRST: values(0)}]).split(b"\r\n")
    lines[4] = b" ".join([*lines[4].split()[:5], b"NaN", b"NaN", *lines[4].split()[7:]])
    (body,) = read_skeleton(b"\n".join(lines)).bodies
    assert body.tracked.tolist() == [True]


def line(number: int, text: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [*lines[: number - 1], text, *lines[number:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [], "line 1: the file ends where the number of frames is needed"),
        (line(1, b"many"), "line 1: the number of frames is needed, a whole number; 'many' is there"),
        (line(1, b"-1"), "line 1: the number of frames"),
        (line(1, b"3"), "line 58: the file ends where the number of bodies in frame 3 is needed"),
        (line(1, b"1"), "line 30: '1' follows the last of 1 frames"),
        (line(2, b""), "line 2: the number of bodies in frame 1 is needed"),
        (line(2, b"2"), "line 30: the ten values of body 2 in frame 1 are needed"),
        (line(3, b"1 2 3"), "line 3: the ten values of body 1 in frame 1 are needed, .*; '1 2 3' is there"),
        (line(3, b"1.5 0 1 1 0 1 0 0.25 -0.5 2"), "line 3: the ten values"),
        (
            line(3, b"1 0 1 1 0 1 0 0.25 x 2"),
            "line 3: 10 numbers of a body are needed; '1 0 1 1 0 1 0 0.25 x 2' is there",
        ),
        (line(4, b"24"), "line 4: 24 joints of body 1 in frame 1; 25 are needed"),
        (line(9, b"1 2 3"), "line 9: 12 numbers of a joint are needed; 3 are there"),
        (line(9, b""), "line 9: 12 numbers of a joint are needed; 0 are there"),
        (
            line(40, b"1 2 3 4 5 6 7 8 9 10 11 x"),
            "line 40: 12 numbers of a joint are needed; '1 2 3 4 5 6 7 8 9 10 11 x'",
        ),
        (line(40, b"1 2 3 4 5 6 7 8 9 10 11 1_2"), "line 40: 12 numbers of a joint"),
        (lambda lines: lines[:40], "line 40: the file ends within the joints of body 1 in frame 2"),
        (lambda lines: [*lines[:29], b"2", *lines[30:-1], *lines[30:]], "line 58: the body 7205.* is in frame 2 twice"),
    ],
)
def test_what_is_malformed_is_named_by_its_line(change: Callable[[list[bytes]], list[bytes]], words: str) -> None:
    lines = change(write([{FIRST: values(0)}, {FIRST: values(1)}]).split(b"\r\n"))
    with pytest.raises(DataError, match=rf"^a\.skeleton: {words}.*; get the file again$"):
        read_skeleton(b"\n".join(lines), name="a.skeleton")


def test_any_cut_is_an_error_or_harmless() -> None:
    """A cut within the last number cannot be seen; every other one is refused."""
    whole = write([{FIRST: values(0)}], "\n")
    end = whole.rstrip().rindex(b" ") + 1
    for cut in range(0, end, 7):
        with pytest.raises(DataError):
            read_skeleton(whole[:cut])


def test_what_is_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(skeleton_file, "MOST_CELLS", 5)
    with pytest.raises(DataError, match=r"3 bodies in 4 frames; 5 is the most for their product; .*get the file again"):
        read_skeleton(write(FRAMES))
    monkeypatch.setattr(skeleton_file, "MOST_FRAMES", 3)
    with pytest.raises(DataError, match=r"a\.skeleton: 4 frames; 3 are the most; .*get the file again"):
        read_skeleton(write(FRAMES), name="a.skeleton")
    with pytest.raises(DataError, match="more than 139 lines"):
        read_skeleton(b"1\n" + b"\n" * 139)
    assert read_skeleton(b"1\n0\n" + b"\n" * 137).frames == 1
    monkeypatch.setattr(skeleton_file, "MOST_BYTES", 100)
    path = tmp_path / "a.skeleton"
    path.write_bytes(write(FRAMES))
    with pytest.raises(DataError, match=r"a\.skeleton has more than 100 bytes"):
        read_skeleton(path)


def peak(data: bytes) -> int:
    """Bytes that reading takes at most."""
    tracemalloc.start()
    try:
        to_array(read_skeleton(data), 2)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_small_file_does_not_fill_the_memory() -> None:
    """One body in the first of many frames: 43 kB that would become any number of arrays."""
    lines = write([{FIRST: values(0)}], "\n").split(b"\n", 1)[1]
    assert peak(b"20000\n" + lines + b"0\n" * 19_999) < 2 * 10**8
    with pytest.raises(DataError, match="1000000 frames; 20000 are the most"):
        read_skeleton(b"1000000\n" + lines + b"0\n" * 999_999)
    many = [{FIRST + body: values(0)} for body in range(21)]
    with pytest.raises(DataError, match="21 bodies in 1000 frames; 20000 is the most for their product"):
        read_skeleton(b"1000\n" + write(many, "\n").split(b"\n", 1)[1] + b"0\n" * 979)


def test_a_clip_that_is_long_by_far_is_read_whole() -> None:
    """900 frames are the longest that is known, by a wide margin; the numbers are read in more than one piece."""
    frames = [{FIRST: values(frame % 3), SECOND: values(3)} for frame in range(900)]
    file = read_skeleton(write(frames))
    for frame in (0, 450, 898, 899):
        np.testing.assert_array_equal(file.bodies[0].xyz[frame], values(frame % 3)[:, :3])
        np.testing.assert_array_equal(file.bodies[1].xyz[frame], values(3)[:, :3])


def test_a_wrong_number_far_behind_is_named_by_its_line() -> None:
    lines = write([{FIRST: values(0)}] * 300, "\n").split(b"\n")
    lines[8000] = b"1 2 3 4 5 6 7 8 9 10 11 x"
    with pytest.raises(DataError, match="line 8001: 12 numbers of a joint are needed; '1 2 3 4 5 6 7 8 9 10 11 x'"):
        read_skeleton(b"\n".join(lines))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the file's own path"):
        read_skeleton(tmp_path / "none.skeleton")


@pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")
@pytest.mark.parametrize(
    ("name", "frames", "bodies"),
    [("S001C001P001R001A011", 82, 1), ("S001C003P008R002A058", 70, 2), ("S002C001P003R001A003", 100, 1)],
)
def test_genuine_files_come_back_to_the_last_digit(name: str, frames: int, bodies: int) -> None:
    path = Path(SHARED or "") / "ntu_samples" / "skeleton" / f"{name}.skeleton"
    file = read_skeleton(path, full=True)
    assert (file.frames, len(file.bodies)) == (frames, bodies)
    assert rewritten(file) == [[float(word) for word in line.split()] for line in path.read_text().splitlines()]


def rewritten(file: SkeletonFile) -> list[list[float]]:
    """The lines of a file from what was read, with seven digits."""
    lines: list[list[float]] = [[float(file.frames)]]
    for frame in range(file.frames):
        bodies = sorted(
            (body for body in file.bodies if body.place[frame] >= 0), key=lambda body: int(body.place[frame])
        )
        lines.append([float(len(bodies))])
        for body in bodies:
            assert body.joints is not None
            assert body.values is not None
            lines += [[float(body.id), *seven_digits(body.values[frame])], [25.0]]
            lines += [seven_digits(joint) for joint in body.joints[frame]]
    return lines


def seven_digits(numbers: NDArray[np.float32]) -> list[float]:
    return [float(f"{number:.7g}") for number in numbers]


def test_a_body_of_zeros_is_not_tracked() -> None:
    nothing = values(1)
    nothing[:, :3] = 0
    part = values(2)
    part[3:, :3] = 0
    (body,) = read_skeleton(write([{FIRST: values(0)}, {FIRST: nothing}, {FIRST: part}])).bodies
    assert body.tracked.tolist() == [True, False, True]
    assert not body.xyz[1].any()
