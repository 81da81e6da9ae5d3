"""The sound of a media file as one wave, and the piece of it that a clip needs."""

# C channels, N samples

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.video import CONTAINERS
from torchmsaf.errors import DataError, require

# a sound that starts later than this after its pictures has a damaged clock
_LATEST_START = 60.0
# sizes that a writer leaves in a RIFF header when it cannot go back to it
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
# some writers count the header itself, or the padding byte, differently
_SIZE_SLACK = 16


def read_audio(source: str | Path | BinaryIO, name: str, *, rate: int = 44_100) -> NDArray[np.float32]:
    """Decode the first audio track of a file, whatever its container and codec, to one channel.

    Sample 0 is the start of the file, not of the track: a track that starts later than the pictures is preceded by
    zeros. The samples that an encoder puts before the sound (1024 of AAC, 1105 of MP3) are dropped where the
    container tells of them, as MP4, Matroska and MP3 files do and AVI and MPEG-TS do not. A pause between two packets
    is not filled. The channels are averaged, each with the same weight, and the mean is then limited to [-1, 1] as in
    a 16-bit file; FFmpeg's own downmix would make it 3 dB louder.

    Args:
        source: a path, or a binary file that can seek, read from its start and left open.
        name: what errors call the file.
        rate: samples a second of the result; FFmpeg's resampler is used if the track has another rate.

    Returns:
        The wave, ``(samples,)``, in [-1, 1].

    Raises:
        DataError: not a media file, cut off, damaged, without an audio track, or with an empty one.
        MissingDependencyError: PyAV is not installed.
    """
    av = require("av", "video")
    if not isinstance(source, str | Path):
        return _read(av, source, name, rate)
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - only the opening is guarded
    except OSError as error:
        raise DataError(f"{name} cannot be opened ({error.strerror}); check the path and its rights") from error
    with file:
        return _read(av, file, name, rate)


def cut(
    wave: NDArray[np.floating[Any]],
    rate: int,
    *,
    offset: float = 0.5,
    duration: float = 2.45,
    name: str = "the sound",
) -> NDArray[np.float32]:
    """Take a piece of fixed length out of a wave, with zeros at the end where the wave is too short.

    Args:
        wave: ``(samples,)``.
        rate: samples a second.
        offset: seconds to leave out at the start.
        duration: seconds to take.
        name: what errors call the wave.

    Returns:
        ``(round(duration * rate),)``; 108045 samples with the defaults at 44.1 kHz.

    Raises:
        DataError: the wave has no sample after ``offset``.
    """
    first, count = round(offset * rate), round(duration * rate)
    if wave.size <= first:
        raise DataError(
            f"{name} is {wave.size / rate:.2f} s long; more than {offset:.2f} s are needed, as the first "
            f"{offset:.2f} s are left out"
        )
    piece = np.zeros(count, dtype=np.float32)
    taken = wave[first : first + count]
    piece[: taken.size] = taken
    return piece


def _read(av: Any, file: BinaryIO, name: str, rate: int) -> NDArray[np.float32]:
    """``read_audio`` of an open file."""
    is_mp4 = _check_length(file, name)
    try:
        container = av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="replace")
    except av.FFmpegError as error:
        if is_mp4:
            raise DataError(f"{name} is cut off: its index is missing; copy or download it again") from error
        raise DataError(
            f"{name} is not a media file that FFmpeg can read ({error.strerror}); give an mp4, avi or wav file"
        ) from error
    with container:
        if not container.streams.audio:
            raise DataError(f"{name} has no audio track; give the file that has both picture and sound")
        pieces = list(_decode(av, container, name, rate))
    wave = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
    if not wave.size:
        raise DataError(f"{name} has an audio track with nothing in it; copy or download it again")
    if not np.isfinite(wave).all():
        raise DataError(f"{name} has samples that are not finite numbers; write its sound again")
    return np.clip(wave, -1, 1, out=wave)


def _check_length(file: BinaryIO, name: str) -> bool:
    """Refuse an empty file and a RIFF file (wav, avi) that lost its end, which FFmpeg would play without a word.

    Returns:
        Whether the file starts as MP4 files do.
    """
    length = file.seek(0, 2)
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if not length:
        raise DataError(f"{name} is empty; copy or download it again")
    size = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and size not in _UNKNOWN_SIZES and size > length + _SIZE_SLACK:
        raise DataError(f"{name} is cut off: it has {length} of {counted(size + 8, 'byte')}; copy or download it again")
    return head[4:8] == b"ftyp"


def _decode(av: Any, container: Any, name: str, rate: int) -> Iterator[NDArray[np.float32]]:
    """The pieces of the wave in order, each ``(n,)``: first the silence before the track, if there is any."""
    stream = container.streams.audio[0]
    # the track keeps its channels here: FFmpeg's downmix to mono multiplies stereo by 0.71, not 0.5
    resampler = av.AudioResampler(format="fltp", layout=None, rate=rate)
    done = 0.0
    try:
        for number, frame in enumerate(container.decode(stream)):
            if number == 0:
                yield _silence(frame, container, name, rate)
            for part in resampler.resample(frame):
                yield part.to_ndarray().mean(axis=0)  # (C, n) -> (n,)
            done += frame.samples / frame.sample_rate
        if done:
            for part in resampler.resample(None):
                yield part.to_ndarray().mean(axis=0)
    except (av.FFmpegError, ValueError) as error:  # PyAV raises ValueError where rate or channels change on the way
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is damaged after {done:.2f} s of its sound; copy or download it again") from error


def _silence(frame: Any, container: Any, name: str, rate: int) -> NDArray[np.float32]:
    """Zeros from the start of the file to the first frame of the track."""
    start = (frame.time or 0.0) - (container.start_time or 0) / 1_000_000  # the container counts microseconds
    if start > _LATEST_START:
        raise DataError(
            f"{name} has sound that starts {start:.2f} s after its pictures; at most {_LATEST_START:.0f} s are taken, "
            "write its clock again"
        )
    return np.zeros(max(0, round(start * rate)), dtype=np.float32)
