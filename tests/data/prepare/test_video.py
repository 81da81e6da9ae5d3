"""Protects decoding: the frames that the rule chose and no others, and an error for every clip that is not whole."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data.prepare.audio import read_audio
from torchmsaf.data.prepare.frames import consecutive, uniform
from torchmsaf.data.prepare.video import Video, read_video
from torchmsaf.errors import DataError

av = pytest.importorskip("av")
SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
needs_shared = pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")
FRAMES, WIDTH, HEIGHT = 40, 64, 48


def gray(number: int) -> int:
    """The level that tells a frame's number."""
    return 20 + 5 * number


def encode(
    path: Path,
    *,
    frames: int = FRAMES,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    fast: bool = False,
) -> bytes:
    """Gray frames, blue at the left, red at the top right, noise at the bottom; ``fast``: the index stands in front."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", container_options={"movflags": "faststart"} if fast else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = options or {}
        for number in range(frames):
            picture = np.full((HEIGHT, WIDTH, 3), gray(number), np.uint8)
            picture[:, :16] = (0, 0, 255)
            picture[:16, 48:] = (255, 0, 0)
            picture[40:] = noise.integers(0, 256, (8, WIDTH, 3))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="session")
def clip(folder: Path) -> bytes:
    """H.264 with B-frames: the packets are not in the order of showing."""
    return encode(folder / "clip.mp4", options={"bf": "3", "b-adapt": "0", "g": "20", "crf": "10"}, fast=True)


def read(data: bytes, choose: Callable[[int], Any] = lambda total: range(total), **more: Any) -> Video:
    return read_video(io.BytesIO(data), "a.mp4", choose, **more)


def numbers(video: Video) -> list[int]:
    levels = video.frames[:, 20:36, 20:44].mean(axis=(1, 2, 3))
    return [round((level - 20) / 5) for level in levels]


def test_the_clip_of_these_tests_has_packets_out_of_order(clip: bytes) -> None:
    with av.open(io.BytesIO(clip)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert times != sorted(times)


@pytest.mark.parametrize(
    ("rule", "expected"), [(consecutive, list(range(15, 25))), (uniform, list(range(0, 40, 4)))], ids=["middle", "even"]
)
def test_the_frames_that_come_are_those_that_the_rule_chose(clip: bytes, rule: Any, expected: list[int]) -> None:
    video = read(clip, lambda total: rule(total, 10))
    assert numbers(video) == expected == list(video.indices)
    assert (video.total, video.rate, video.codec) == (FRAMES, 25, "h264")
    assert video.frames.shape == (10, HEIGHT, WIDTH, 3)
    assert video.frames.dtype == np.uint8


def test_the_colours_are_red_green_blue(clip: bytes) -> None:
    frame = read(clip, lambda _: [0]).frames[0].astype(int)
    assert np.abs(frame[4:36, 4:12].mean((0, 1)) - (0, 0, 255)).max() < 12
    assert np.abs(frame[4:12, 52:60].mean((0, 1)) - (255, 0, 0)).max() < 12


def test_a_frame_that_is_chosen_twice_comes_twice(clip: bytes) -> None:
    video = read(clip, lambda total: [0, 0, 7, total - 1, total - 1])
    assert numbers(video) == [0, 0, 7, 39, 39]
    assert len(read(clip, lambda total: uniform(total, 60)).frames) == 60


def test_a_path_reads_as_its_bytes_do(clip: bytes, folder: Path) -> None:
    from_path = read_video(folder / "clip.mp4", "clip.mp4", lambda _: [3, 30])
    assert np.array_equal(from_path.frames, read(clip, lambda _: [3, 30]).frames)
    source = io.BytesIO(clip)
    read_video(source, "a.mp4", lambda _: [0])
    assert not source.closed
    with pytest.raises(DataError, match=r"none\.mp4 cannot be opened: No such file or directory; check the path"):
        read_video(folder / "none.mp4", "none.mp4", lambda _: [0])


def test_a_stream_that_cannot_seek_is_read(clip: bytes) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise io.UnsupportedOperation("seek")

    assert numbers(read_video(Pipe(clip), "a.mp4", lambda _: [12])) == [12]


def test_another_codec_and_container_is_read_unless_codecs_are_given(folder: Path) -> None:
    data = encode(folder / "clip.avi", frames=12, codec="mpeg4", options={"qmin": "1", "qmax": "2"})
    video = read(data)
    assert numbers(video) == list(range(12))
    assert video.codec == "mpeg4"
    with pytest.raises(DataError, match=r"a\.mp4 is encoded as mpeg4; h264 is needed; encode it anew"):
        read(data, codecs={"h264"})


def test_a_clip_that_is_filmed_upright_is_turned_as_the_file_says(clip: bytes) -> None:
    # the matrix of a phone held upright: shown a quarter turn clockwise
    at = clip.index(b"tkhd") + 44
    turned = clip[:at] + struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30) + clip[at + 36 :]
    plain, upright = read(clip, lambda _: [5]).frames[0], read(turned, lambda _: [5]).frames[0]
    if not hasattr(av.VideoFrame, "rotation"):
        pytest.skip("this PyAV does not tell the rotation")
    assert np.array_equal(upright, np.rot90(plain, -1))


def test_frames_that_are_cut_off_at_the_start_are_not_counted(clip: bytes) -> None:
    cut = io.BytesIO()
    with av.open(io.BytesIO(clip)) as source, av.open(cut, "w", format="mp4") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        ten = round(10 / 25 / stream.time_base)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - ten, packet.dts - ten, copy
                target.mux(packet)
    video = read(cut.getvalue(), lambda total: [0, total - 1])
    assert video.total == 30
    assert numbers(video) == [10, 39]


def packets(data: bytes) -> list[Any]:
    with av.open(io.BytesIO(data)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("value", [0, 255], ids=["the decoder stops", "the decoder paints over it"])
def test_a_damaged_clip_says_how_many_frames_could_be_decoded(
    clip: bytes, value: int, capfd: pytest.CaptureFixture[str]
) -> None:
    at = packets(clip)[20].pos + 12
    bad = clip[:at] + bytes([value]) * 20 + clip[at + 20 :]
    with pytest.raises(DataError, match=r"a\.mp4 is damaged: (1[5-9]|20) of 40 frames could be decoded; get the file"):
        read(bad)
    assert numbers(read(bad, lambda _: [3, 9])) == [3, 9]
    # FFmpeg says nothing by itself
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("into", [0, 5], ids=["between packets", "inside a packet"])
def test_a_clip_whose_end_is_missing_says_how_many_frames_are_there(clip: bytes, into: int) -> None:
    end = packets(clip)[30].pos + into
    with pytest.raises(DataError, match=r"a\.mp4 is truncated: 3[01] of 40 frames are there; get the file again"):
        read(clip[:end], lambda _: [0])


def test_a_clip_without_its_first_key_frame_does_not_pass_another_frame_off_as_the_first(clip: bytes) -> None:
    headless = io.BytesIO()
    with av.open(io.BytesIO(clip)) as source, av.open(headless, "w", format="mp4") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in [packet for packet in source.demux(stream) if packet.size][1:]:
            packet.stream = copy
            target.mux(packet)
    with pytest.raises(DataError, match=r"a\.mp4 is damaged: 0 of 39 frames could be decoded"):
        read(headless.getvalue(), lambda _: [0, 1])


@pytest.mark.parametrize(
    "data",
    [b"", b"no video at all\n" * 40, b"YUV4MPEG2 W4 H4 F25:1 Ip C420jpeg\nFRAME\n" + bytes(24)],
    ids=["empty", "text", "a container that is not on the list"],
)
def test_what_is_not_a_video_file_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.mp4 is not a video file, or is truncated: .+; get the file again"):
        read(data)


def test_an_mp4_without_its_index_is_refused(folder: Path) -> None:
    data = encode(folder / "slow.mp4")
    with pytest.raises(DataError, match=r"a\.mp4 is not a video file, or is truncated: Invalid data found"):
        read(data[: len(data) // 2])


def test_a_file_of_sound_has_no_video_track() -> None:
    sound = io.BytesIO()
    with av.open(sound, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match=r"a\.mp4 has no video track; a file with pictures is needed"):
        read(sound.getvalue())


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda total: consecutive(total, 50), r"a\.mp4: the clip has 40 frames and 50 consecutive ones are needed"),
        (lambda _: [], r"a\.mp4: no frame was chosen"),
        (lambda _: [3, 2], r"a\.mp4: the frames \[3, 2\] are not in rising order; sort them"),
        (lambda _: [0, 40], r"a\.mp4: frame 40 was chosen; the clip has frames 0 to 39"),
        (lambda _: [-1, 4], r"a\.mp4: frame -1 was chosen; the clip has frames 0 to 39"),
    ],
)
def test_a_choice_that_the_clip_cannot_serve_is_refused(clip: bytes, choose: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(clip, choose)


@needs_shared
@pytest.mark.parametrize(
    ("name", "codec", "size", "total", "seconds"),
    [
        ("mmaction2_test.avi", "mpeg4", (240, 320), 164, 6.56),
        ("mmaction2_test.mp4", "h264", (256, 340), 300, None),
        ("mmaction2_demo.mp4", "h264", (256, 340), 280, None),
    ],
)
def test_real_clips_are_read(name: str, codec: str, size: tuple[int, int], total: int, seconds: float | None) -> None:
    path = Path(SHARED or "") / "clips" / name
    for rule in (consecutive, uniform):
        video = read_video(path, name, lambda total, rule=rule: rule(total, 8))
        assert (video.codec, video.total, video.indices) == (codec, total, tuple(rule(total, 8)))
        assert video.frames.shape == (8, *size, 3)
        assert 20 < video.frames.mean() < 235
        assert video.frames.std() > 20
    if seconds is None:
        with pytest.raises(DataError, match=rf"{name} has no audio track"):
            read_audio(path, name)
    else:
        wave = read_audio(path, name)
        assert wave.size / 44_100 == pytest.approx(seconds, abs=0.1)
        assert 0.05 < np.abs(wave).max() <= 1
