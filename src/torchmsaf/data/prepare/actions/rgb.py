"""Some frames of a clip, whole and squeezed to a square; no other frame is scaled, and few others are decoded in vain."""

# F frames, S side of a frame in pixels

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.actions.h264 import Pictures, read_pictures
from torchmsaf.data.prepare.video import CONTAINERS
from torchmsaf.errors import DataError, require

# of the scaling: FFmpeg's default, which `ffmpeg -s 256x256` takes; the kernel widens where it shrinks
KERNEL = "BICUBIC"
PUBLISHED_FRAMES = 24  # that the published loader reads


@dataclass(frozen=True)
class SquareClip:
    """Some frames of a clip.

    Attributes:
        frames: RGB, ``(3, F, S, S)`` uint8.
        indices: the F frame numbers, from 0.
        total: how many frames the clip has.
        rate: frames per second on average, 0 where the file does not say.
        codec: FFmpeg's name of the codec, e.g. ``h264``.
        comment: what the file says of itself, or nothing.
        decoded: how many frames were decoded.
    """

    frames: NDArray[np.uint8]
    indices: tuple[int, ...]
    total: int
    rate: float
    codec: str
    comment: str
    decoded: int


def inside(total: int, count: int) -> list[int]:
    """Frames spread evenly from the first to the last.

    Args:
        total: how many frames the clip has, 1 or more.
        count: how many are wanted, 1 or more; a clip with fewer gives some more than once. One is the middle frame.

    Returns:
        ``i * (total - 1) / (count - 1)``, rounded to the nearest, the later of two.

    Raises:
        DataError: the clip has no frame, or ``count`` is not positive.
    """
    _check(total, count)
    if count == 1:
        return [(total - 1) // 2]
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def published(total: int, count: int = PUBLISHED_FRAMES) -> list[int]:
    """Frames as the code published with MSAF reads them: of ``count`` numbers from 0 to ``total`` itself, rounded down.

    Each number that the clip has is taken once; ``total`` stands for a black picture in the places that are left. There is
    no frame ``total``, so the last picture of each of its clips is black; a clip of fewer than ``count - 1`` frames comes
    whole, with black pictures behind.

    Returns:
        ``count`` numbers, in rising order.

    Raises:
        DataError: the clip has no frame, or ``count`` is not positive.
    """
    _check(total, count)
    if count == 1:
        return [0]
    there = sorted({i * total // (count - 1) for i in range(count - 1)})
    return there + [total] * (count - len(there))


def _check(total: int, count: int) -> None:
    if count < 1:
        raise DataError(f"{count} frames are asked for; 1 or more is needed")
    if total < 1:
        raise DataError("the clip has 0 frames; 1 or more is needed")


SAMPLING: dict[str, Callable[[int, int], list[int]]] = {"inside": inside, "published": published}


def read_square(
    source: str | Path | BinaryIO,
    name: str,
    choose: Callable[[int], Sequence[int]],
    size: int,
    *,
    codecs: Collection[str] | None = None,
) -> SquareClip:
    """Decode the frames that a rule chooses, in one thread, and squeeze each to a square.

    What comes is what decoding every frame would give, to the last bit: of H.264, pictures that no other needs and that
    nobody asked for are left out, and nothing else is. The scaling is :data:`KERNEL` from the decoder's own colours;
    frames without a colour matrix in the file are taken as BT.601, FFmpeg's default.

    Args:
        source: a file's path, or an open binary file that can seek.
        name: what errors call the clip.
        choose: takes the number of frames and gives the wanted frame numbers, from 0, in rising order; repeats may be,
            and the number of frames itself stands for a black picture.
        size: S, from 1.
        codecs: FFmpeg's names of the codecs that may come, e.g. ``{"h264"}``; None = any.

    Raises:
        DataError: not a video file, or a truncated or damaged one; no video track; another codec; frame numbers that the
            clip does not have; a size that is not positive.
        MissingDependencyError: PyAV is not installed.
    """
    if size < 1:
        raise DataError(f"size is {size}; 1 or more pixels are needed")
    if isinstance(source, str | Path):
        try:
            with Path(source).open("rb") as file:
                return read_square(file, name, choose, size, codecs=codecs)
        except OSError as error:
            raise DataError(f"{name} cannot be opened: {error.strerror}; check the path") from error
    with _opened(source, name) as (container, stream):
        codec = stream.codec_context.name
        if codecs is not None and codec not in codecs:
            raise DataError(f"{name} is encoded as {codec}; {' or '.join(sorted(codecs))} is needed; encode it anew")
        packets = _packets(container, stream, name)
        total = len(packets)
        try:
            indices = tuple(int(index) for index in choose(total))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        if not indices or list(indices) != sorted(indices) or indices[0] < 0 or indices[-1] > total:
            raise DataError(
                f"{name}: the frames {list(indices)} were chosen; rising numbers from 0 to {total - 1} are needed"
            )
        pictures = None
        if codec == "h264":
            pictures = read_pictures(stream.codec_context.extradata, [bytes(packet) for packet in packets])
        squares = _Squares(indices, total, size)
        if pictures is None:
            decoded: int | None = _decode_all(stream.codec_context, packets, squares)
        else:
            decoded = _decode_some(stream.codec_context, packets, pictures, squares)
        rate, comment = float(stream.average_rate or 0), container.metadata.get("comment", "")
    if decoded is None:  # the headers are not to be relied on
        squares = _Squares(indices, total, size)
        with _opened(source, name) as (container, stream):
            decoded = _decode_all(stream.codec_context, _packets(container, stream, name), squares)
    if not squares.complete:
        raise DataError(
            f"{name} is damaged: {decoded} of {counted(total, 'frame')} could be decoded; get the file again"
        )
    return SquareClip(squares.frames, indices, total, rate, codec, comment, decoded)


class _Squares:
    """Scales the wanted frames as they come; what never comes stays black.

    FFmpeg's planar RGB takes every chroma sample into account and rounds once; its ``rgb24`` is slower and darker.
    """

    def __init__(self, indices: Sequence[int], total: int, size: int) -> None:
        self.places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            if index < total:
                self.places.setdefault(index, []).append(place)
        self.found: set[int] = set()
        self.frames = np.zeros((3, len(indices), size, size), np.uint8)
        # one for all frames: it keeps its tables
        self._scaler = require("av.video.reformatter", "video").VideoReformatter()

    @property
    def complete(self) -> bool:
        return len(self.found) == len(self.places)

    def add(self, number: int, frame: Any) -> None:
        size = self.frames.shape[-1]
        scaled = self._scaler.reformat(frame, size, size, "gbrp", interpolation=KERNEL)
        first, *others = self.places[number]
        for channel, plane in zip((1, 2, 0), scaled.planes, strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            self.frames[channel, first] = rows[:size, :size]
        for place in others:
            self.frames[:, place] = self.frames[:, first]
        self.found.add(number)


@contextmanager
def _opened(source: BinaryIO, name: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first track of moving pictures, with one decoding thread."""
    av = require("av", "video")
    source.seek(0)
    try:
        container = av.open(source, options={"format_whitelist": CONTAINERS}, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{name} is not a video file, or is truncated: {error.strerror}; get the file again") from error
    with container:
        if not container.streams.video:
            raise DataError(f"{name} has no video track; a file with pictures is needed")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(f"{name}: this build of PyAV cannot decode its video; encode it as H.264")
        stream.codec_context.thread_count = 1
        yield container, stream


def _packets(container: Any, stream: Any, name: str) -> list[Any]:
    av = require("av", "video")
    packets, broken = [], False
    try:
        for packet in container.demux(stream):
            if packet.size:
                packets.append(packet)
                broken = broken or packet.is_corrupt
    except av.error.FFmpegError:
        broken = True
    if broken or len(packets) < stream.frames:
        there = f"{len(packets)} of {counted(max(stream.frames, len(packets)), 'frame')}"
        raise DataError(
            f"{name} is truncated: {there} {'is' if len(packets) == 1 else 'are'} there; get the file again"
        )
    if not packets:
        raise DataError(f"{name} has a video track with 0 frames; get the file again")
    return packets


def _decode_some(decoder: Any, packets: Sequence[Any], pictures: Pictures, squares: _Squares) -> int | None:
    """Decode what is wanted and what that needs. How many frames came; None where they are not those of the headers."""
    av = require("av", "video")
    last = max(squares.places, default=-1)
    before = came = 0
    try:
        for number, packet in enumerate(packets):
            shown = pictures.shown[number]
            decoder.skip_frame = "DEFAULT" if pictures.needed[number] or shown in squares.places else "NONREF"
            packet.pts = packet.dts = number
            for frame in decoder.decode(packet):
                before, came = _take(frame, pictures, squares, before), came + 1
            if before > last:
                break
        else:
            for frame in decoder.decode(None):
                before, came = _take(frame, pictures, squares, before), came + 1
    except (av.error.FFmpegError, _Disordered):
        return None
    return came if squares.complete else None


class _Disordered(Exception):  # noqa: N818 - it never leaves this file
    pass


def _take(frame: Any, pictures: Pictures, squares: _Squares, before: int) -> int:
    """Scale a frame if it is wanted; the number that the next one has at least."""
    shown = pictures.shown[frame.pts] if frame.pts is not None and 0 <= frame.pts < len(pictures.shown) else -1
    if frame.is_corrupt or shown < before:
        raise _Disordered
    if shown in squares.places:
        squares.add(shown, frame)
    return shown + 1


def _decode_all(decoder: Any, packets: Sequence[Any], squares: _Squares) -> int:
    """Decode from the start to the last wanted frame, or to the first that is damaged; how many frames came."""
    av = require("av", "video")
    came = 0
    try:
        for packet in [*packets, None]:
            for frame in decoder.decode(packet):
                if frame.is_corrupt:
                    return came
                if came in squares.places:
                    squares.add(came, frame)
                came += 1
                if squares.complete:
                    return came
    except av.error.FFmpegError:
        pass
    return came
