"""Chosen frames of a video file, in the order in which they are shown."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.errors import DataError, require

# FFmpeg would also take texts, pictures and playlists that name other files; these are the containers of clips and sound
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,wav,mp3,flac,aac"


@dataclass(frozen=True)
class Video:
    """Some frames of a clip.

    Attributes:
        frames: RGB, ``(T, H, W, 3)`` uint8, turned as the file says that they are shown.
        indices: the T frame numbers, from 0, in rising order; a number may stand there more than once.
        total: how many frames the clip has.
        rate: frames per second on average, 0 where the file does not say.
        codec: FFmpeg's name of the codec, e.g. ``h264``.
        comment: what the file says of itself, or nothing.
    """

    frames: NDArray[np.uint8]
    indices: tuple[int, ...]
    total: int
    rate: float
    codec: str
    comment: str = ""


@dataclass(frozen=True)
class _Track:
    """What one pass over the packets tells; ``times`` are the frames' own in the order of showing, None if not known."""

    total: int
    rate: float
    codec: str
    comment: str
    times: list[int] | None


def read_video(
    source: str | Path | BinaryIO,
    name: str,
    choose: Callable[[int], Sequence[int]],
    *,
    codecs: Collection[str] | None = None,
) -> Video:
    """Decode the frames that a rule chooses.

    The frames are counted first, without decoding. Then the clip is decoded from its start to the last chosen frame,
    in one thread, and no other frame is kept in memory. Frames without a colour matrix in the file are taken as BT.601,
    which is FFmpeg's default.

    Args:
        source: a file's path, or an open binary file. What cannot seek is read into memory; what seeks slowly, as a
            member of a zip archive does, is better read into ``io.BytesIO`` before.
        name: what errors call the clip.
        choose: takes the number of frames and gives the wanted frame numbers, from 0, in rising order; repeats may be.
        codecs: FFmpeg's names of the codecs that may come, e.g. ``{"h264"}``; None = any.

    Raises:
        DataError: not a video file, or a truncated or damaged one; no video track; another codec; fewer frames than the
            rule needs; a frame number that the clip does not have; frames that change their size.
        MissingDependencyError: PyAV is not installed.
    """
    with _binary(source, name) as file:
        track = _count(file, name, codecs)
        try:
            indices = tuple(int(index) for index in choose(track.total))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        _check(indices, track.total, name)
        frames = _decode(file, name, track, indices)
    return Video(frames, indices, track.total, track.rate, track.codec, track.comment)


@contextmanager
def _binary(source: str | Path | BinaryIO, name: str) -> Iterator[BinaryIO]:
    if not isinstance(source, str | Path):
        yield source if source.seekable() else io.BytesIO(source.read())
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise DataError(f"{name} cannot be opened: {error.strerror}; check the path") from error
        yield file


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first track of moving pictures, with one decoding thread."""
    av = require("av", "video")
    file.seek(0)
    try:
        container = av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{name} is not a video file, or is truncated: {error.strerror}; get the file again") from error
    with container:
        # a cover picture counts as video and is not
        tracks = [track for track in container.streams.video if not int(track.disposition) & _cover(av)]
        if not tracks:
            raise DataError(f"{name} has no video track; a file with pictures is needed")
        decoder = tracks[0].codec_context
        if decoder is None:
            raise DataError(f"{name}: this build of PyAV cannot decode its video; encode it as H.264")
        decoder.thread_count = 1
        yield container, tracks[0]


def _cover(av: Any) -> int:
    return int(av.stream.Disposition.attached_pic)


def _count(file: BinaryIO, name: str, codecs: Collection[str] | None) -> _Track:
    """Count the frames by their packets, which are not decoded."""
    av = require("av", "video")
    with _opened(file, name) as (container, stream):
        codec = stream.codec_context.name
        if codecs is not None and codec not in codecs:
            raise DataError(f"{name} is encoded as {codec}; {' or '.join(sorted(codecs))} is needed; encode it anew")
        came, times, broken = 0, [], False
        try:
            for packet in container.demux(stream):
                came += packet.size > 0 or packet.dts is not None
                broken = broken or packet.is_corrupt
                # an edit list may say that frames at the start are decoded and not shown
                if packet.size and not packet.is_discard:
                    times.append(packet.pts)
        except av.error.FFmpegError:
            broken = True
        stated = stream.frames
        if broken or came < stated:
            there = f"{came} of {counted(stated, 'frame')}" if stated else counted(came, "frame")
            raise DataError(f"{name} is truncated: {there} {'is' if came == 1 else 'are'} there; get the file again")
        if not times:
            raise DataError(f"{name} has a video track with 0 frames; get the file again")
        rate = float(stream.average_rate or 0)
        # AVI has no times of its own
        timed = container.format.name.startswith("mov") and None not in times
        comment = container.metadata.get("comment", "")
    return _Track(len(times), rate, codec, comment, sorted(times) if timed else None)


def _check(indices: tuple[int, ...], total: int, name: str) -> None:
    if not indices:
        raise DataError(f"{name}: no frame was chosen; choose one or more")
    if list(indices) != sorted(indices):
        raise DataError(f"{name}: the frames {list(indices)} are not in rising order; sort them")
    if indices[0] < 0 or indices[-1] >= total:
        wrong = indices[0] if indices[0] < 0 else indices[-1]
        raise DataError(f"{name}: frame {wrong} was chosen; the clip has frames 0 to {total - 1}")


def _decode(file: BinaryIO, name: str, track: _Track, indices: tuple[int, ...]) -> NDArray[np.uint8]:
    """The chosen frames, ``(T, H, W, 3)``; every frame before the last of them has to be sound."""
    frames: NDArray[np.uint8] | None = None
    filled = came = 0
    with _opened(file, name) as (container, stream):
        for number, frame in enumerate(_sound(container, stream, track.times)):
            came = number + 1
            if indices[filled] != number:
                continue
            picture = _upright(frame)
            if frames is None:
                frames = np.empty((len(indices), *picture.shape), np.uint8)
            if picture.shape != frames.shape[1:]:
                old, new = (f"{width}x{height}" for height, width, _ in (frames.shape[1:], picture.shape))
                raise DataError(f"{name} changes its size from {old} to {new} at frame {number}; cut it there")
            while filled < len(indices) and indices[filled] == number:
                frames[filled] = picture
                filled += 1
            if filled == len(indices):
                return frames
    raise DataError(
        f"{name} is damaged: {came} of {counted(track.total, 'frame')} could be decoded; get the file again"
    )


def _sound(container: Any, stream: Any, times: list[int] | None) -> Iterator[Any]:
    """Frames in the order of showing, to the first that is damaged or is not the one that should come."""
    av = require("av", "video")
    number = 0
    try:
        for packet in container.demux(stream):
            # PyAV ends each track with an empty packet without a time; other empty packets are frames left out
            if not packet.size and packet.dts is not None:
                continue
            for frame in stream.codec_context.decode(packet):
                if frame.is_corrupt or (times is not None and (number >= len(times) or frame.pts != times[number])):
                    return
                yield frame
                number += 1
    except av.error.FFmpegError:
        return


def _upright(frame: Any) -> NDArray[np.uint8]:
    """RGB ``(H, W, 3)``, turned by the quarter turns that the file asks for."""
    picture: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    # degrees counter-clockwise; older PyAV does not tell
    turns = round(getattr(frame, "rotation", 0) / 90)
    return np.rot90(picture, turns) if turns else picture
