"""Protects which frames of a clip are taken, and that those are the decoder's own, whatever is left out on the way."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

import av

from torchmsaf.data.prepare.actions.h264 import read_pictures
from torchmsaf.data.prepare.actions.rgb import inside, published, read_square
from torchmsaf.errors import DataError

SHARED = Path(os.environ.get("TORCHMSAF_SHARED_DATA", "nowhere"))


def film(frames: int = 40, codec: str = "mpeg4", size: tuple[int, int] = (96, 64), **options: str) -> bytes:
    """A square that wanders over a background that grows brighter; frame k is known by its brightness."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height = size
        stream.pix_fmt, stream.bit_rate, stream.thread_count = "yuv420p", 4_000_000, 1
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), 40 + 4 * number, np.uint8)
            picture[number % 40 : number % 40 + 16, number : number + 16] = (250, 20, 20)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def every(total: int) -> list[int]:
    return list(range(total))


@pytest.fixture(scope="module")
def mpeg4() -> bytes:
    return film()


@pytest.fixture(scope="module")
def h264() -> bytes:
    return film(codec="libx264", preset="fast", bf="3", g="12")


@pytest.mark.parametrize(("total", "count"), [(103, 32), (40, 32), (5, 32), (32, 32), (1, 8), (300, 1), (2, 2)])
def test_frames_reach_from_the_first_to_the_last_and_never_beyond(total: int, count: int) -> None:
    found = inside(total, count)
    assert len(found) == count
    assert found == sorted(found)
    if count > 1:
        assert (found[0], found[-1]) == (0, total - 1)
        assert np.abs(np.array(found) - np.linspace(0, total - 1, count)).max() <= 0.5 + 1e-9


def test_the_published_frames_are_those_of_the_authors_loader() -> None:
    """It goes through the clip, puts each frame that is asked for into the next place, and leaves the others black."""
    for total in range(1, 401):
        taken = np.linspace(0, total, 24).astype(int)
        there = [frame for frame in range(total) if frame in taken]
        assert published(total) == there + [total] * (24 - len(there))
        if total >= 23:
            assert published(total) == taken.tolist()


@pytest.mark.parametrize("count", [2, 3, 8, 33])
@pytest.mark.parametrize("total", [1, 2, 7, 31, 32, 100])
def test_the_published_frames_of_any_count_are_each_there_once_before_the_black_ones(total: int, count: int) -> None:
    found = published(total, count)
    there = [frame for frame in found if frame < total]
    assert len(found) == count
    assert there == sorted(set(there))
    assert found == there + [total] * (count - len(there))
    assert len(there) == min(total, count - 1)


def test_a_short_clip_has_each_frame_once_in_the_published_way() -> None:
    assert published(23) == list(range(24))
    assert published(3) == [0, 1, 2] + [3] * 21
    assert published(5, 1) == [0]
    clip = read_square(io.BytesIO(film(3)), "clip", published, 16)
    whole = read_square(io.BytesIO(film(3)), "clip", every, 16)
    assert (clip.frames[:, :3] == whole.frames).all()
    assert not clip.frames[:, 3:].any()


@pytest.mark.parametrize("rule", [inside, published])
def test_nothing_is_taken_of_nothing(rule) -> None:
    with pytest.raises(DataError, match="has 0 frames"):
        rule(0, 4)
    with pytest.raises(DataError, match="0 frames are asked for"):
        rule(4, 0)


@pytest.mark.parametrize("codec", ["mpeg4", "h264"])
@pytest.mark.parametrize("count", [1, 3, 9, 32])
def test_chosen_frames_are_those_of_the_whole_clip(codec: str, count: int, request: pytest.FixtureRequest) -> None:
    clip = io.BytesIO(request.getfixturevalue(codec))
    whole = read_square(clip, "clip", every, 48)
    some = read_square(clip, "clip", lambda total: inside(total, count), 48)
    assert (some.frames == whole.frames[:, list(some.indices)]).all()
    assert some.decoded <= whole.decoded == whole.total == 40
    assert some.codec == codec
    assert some.rate == 30


def test_frames_come_in_the_order_in_which_they_are_shown(h264: bytes) -> None:
    corner = read_square(io.BytesIO(h264), "clip", every, 32).frames[:, :, -1, 0].mean(0)
    assert np.abs(corner - (40 + 4 * np.arange(40))).max() < 4


def test_pictures_that_nobody_needs_are_not_decoded(h264: bytes) -> None:
    assert read_square(io.BytesIO(h264), "clip", lambda total: inside(total, 4), 32).decoded < 30


def test_without_the_headers_everything_is_decoded_to_the_same(h264: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = read_square(io.BytesIO(h264), "clip", lambda total: inside(total, 8), 32)
    for found in (None, "wrong"):

        def wrong(extra, packets, found=found):
            pictures = read_pictures(extra, packets)
            backwards = type(pictures)(pictures.shown[::-1], pictures.needed)
            return None if found is None else backwards

        monkeypatch.setattr("torchmsaf.data.prepare.actions.rgb.read_pictures", wrong)
        slow = read_square(io.BytesIO(h264), "clip", lambda total: inside(total, 8), 32)
        assert slow.decoded > fast.decoded
        assert (slow.frames == fast.frames).all()


@pytest.mark.parametrize("data", [b"", b"\0\0\1", b"\0\0\1\x65\0\0\0", b"\0\0\1\x67\x42\0\0\0\0\1\x65", bytes(99)])
def test_broken_headers_tell_nothing(data: bytes) -> None:
    assert read_pictures(data, [data]) is None
    assert read_pictures(None, [data]) is None


def test_the_picture_is_squeezed_whole_and_in_rgb(tmp_path: Path) -> None:
    (tmp_path / "clip.avi").write_bytes(film(4, size=(128, 64)))
    clip = read_square(tmp_path / "clip.avi", "clip", lambda total: [0, 0], 32)
    assert clip.frames.shape == (3, 2, 32, 32)
    assert clip.frames.flags.c_contiguous
    red, green, blue = (
        clip.frames[:, 0, 2:5, 1:3].reshape(3, -1).mean(1)
    )  # the square is 16 of 64 high and 16 of 128 wide
    assert red > 200 > 80 > green
    assert blue < 80
    assert clip.frames[:, 0, 20:, 20:].std() < 5
    assert (clip.frames[:, 0] == clip.frames[:, 1]).all()


def test_a_frame_past_the_end_is_black(mpeg4: bytes) -> None:
    clip = read_square(io.BytesIO(mpeg4), "clip", published, 16)
    assert clip.indices[-1] == clip.total == 40
    assert not clip.frames[:, -1].any()
    assert clip.frames[:, :-1].reshape(3, 23, -1).any(-1).all()


WRONG = {
    "text": (b"no video" * 50, every, 16, "is not a video file"),
    "truncated": ("half", every, 16, "is truncated|is damaged|not a video"),
    "beyond": ("whole", lambda total: [total + 1], 16, "rising numbers from 0 to 39"),
    "falling": ("whole", lambda total: [2, 1], 16, "rising numbers"),
    "nothing": ("whole", lambda total: [], 16, "rising numbers"),
    "rule": ("whole", lambda total: inside(total, 0), 16, "clip.avi: 0 frames are asked for"),
    "size": ("whole", every, 0, "size is 0"),
}


@pytest.mark.parametrize(("data", "rule", "size", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_read_is_said(data, rule, size: int, said: str, mpeg4: bytes) -> None:
    data = {"half": mpeg4[: len(mpeg4) // 2], "whole": mpeg4}.get(data, data) if isinstance(data, str) else data
    with pytest.raises(DataError, match=said):
        read_square(io.BytesIO(data), "clip.avi", rule, size)


def test_other_codecs_and_missing_files_are_said(mpeg4: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="clip is encoded as mpeg4; h264 is needed"):
        read_square(io.BytesIO(mpeg4), "clip", every, 16, codecs=("h264",))
    with pytest.raises(DataError, match="clip cannot be opened: No such file"):
        read_square(tmp_path / "gone.avi", "clip", every, 16)


@pytest.mark.skipif(not (SHARED / "ntu_samples").is_dir(), reason="needs a clip of NTU RGB+D")
def test_a_genuine_clip_is_read_exactly() -> None:
    path = SHARED / "ntu_samples" / "S001C001P001R001A001_rgb.avi"
    some = read_square(path, path.name, lambda total: inside(total, 8), 64)
    whole = read_square(path, path.name, every, 64)
    assert (some.total, some.codec, some.rate) == (103, "h264", 30)
    assert some.decoded < whole.decoded == 103
    assert (some.frames == whole.frames[:, list(some.indices)]).all()
