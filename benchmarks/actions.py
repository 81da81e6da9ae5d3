"""Reading the frames of actions out of videos, and out of what was prepared of them.

Beside OpenCV as data loaders are often written: every frame of the clip is decoded, turned into BGR and resized. Ours
gives 32 frames from the first to the last and touches no pixel of the others; both give squares of 256, in one thread
each. That the 32 are to the last bit those of full decoding is checked first. Rows: a film as NTU RGB+D has them (1920 ×
1080, H.264 with frames that no other needs), the same in MPEG-4, whose frames all need each other, and the same squeezed
to 256 × 256 beforehand. ``lowres`` is MPEG-4 decoded at a quarter of its sides, which is not exact: its mean difference is
given, of 255. ``prepared`` reads the 32 squares from disk, as training does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Rounds
from torchmsaf.data.prepare.actions import rgb
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.errors import require

FRAMES, SIDE, LOWRES = 32, 256, 2
# codec, width, height, bits a second
FILMS = {
    "h264 1920x1080": ("libx264", 1920, 1080, 2_400_000),
    "mpeg4 1920x1080": ("mpeg4", 1920, 1080, 4_000_000),
    "mpeg4 256x256": ("mpeg4", 256, 256, 400_000),
}
QUICK = {"h264 192x108": ("libx264", 192, 108, 400_000), "mpeg4 192x108": ("mpeg4", 192, 108, 400_000)}
Run = Callable[[Mapping[str, Callable[[], object]]], Rounds]


def rows(run: Run, *, film: Path | None, films: Mapping[str, Any] | None = None, count: int = 103) -> Iterator[Any]:
    """A row a film.

    Args:
        run: times calls side by side.
        film: a video in place of the first of the films, as a genuine one of NTU RGB+D; the others stay drawn.
        films: codec, width, height and bits a second by name; None = ``FILMS``.
        count: frames of a drawn film.

    Raises:
        RuntimeError: what is read fast differs from what full decoding gives.
    """
    require("cv2", "faces").setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, (codec, width, height, rate)) in enumerate((films or FILMS).items()):
            if film is not None and place == 0:
                path, name = film, film.name
            else:
                path = Path(folder) / f"{place}.avi"
                draw(path, codec, width, height, rate, count)
            yield _row(name, path, Path(folder) / f"prepared {place}", run)


def _row(name: str, path: Path, out: Path, run: Run) -> dict[str, Any]:
    clip = ours(path)
    if not (clip.frames == decode_all(path).frames).all():
        raise RuntimeError(f"{name}: the frames are not those of full decoding")
    writer = PreparedWriter(out, "ntu", {})
    writer.write("clip", {"rgb": clip.frames}, {})
    prepared = writer.finish()
    calls: dict[str, Callable[[], object]] = {
        "OpenCV": lambda: opencv(path),
        "ours": lambda: ours(path),
        "prepared": lambda: prepared.read(0, "rgb").clone(),
    }
    inexact = clip.codec == "mpeg4"
    if inexact:
        calls["lowres"] = lambda: decode_all(path, lowres=LOWRES)
    rounds = run(calls)
    far = float(np.abs(decode_all(path, lowres=LOWRES).frames.astype(int) - clip.frames).mean()) if inexact else None
    return {
        "film": name,
        "decoded": f"{clip.decoded}/{clip.total}",
        "OpenCV clips/s": 1e3 / rounds.milliseconds("OpenCV"),
        "ours clips/s": 1e3 / rounds.milliseconds("ours"),
        "ratio": asdict(rounds.ratio("OpenCV", "ours")),
        "lowres ratio": asdict(rounds.ratio("OpenCV", "lowres")) if inexact else None,
        "lowres differs by": far,
        "prepared ratio": asdict(rounds.ratio("OpenCV", "prepared")),
        "quiet": f"{rounds.quiet}/{len(rounds.used)} of {rounds.total}",
        "others": rounds.foreign,
    }


def ours(path: Path) -> rgb.SquareClip:
    """The 32 frames, as the preparation reads them."""
    return rgb.read_square(path, path.name, _choose, SIDE)


def opencv(path: Path) -> NDArray[np.uint8]:
    """Every frame of the clip, ``(N, S, S, 3)`` in BGR."""
    cv2 = require("cv2", "faces")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    while True:
        good, frame = capture.read()
        if not good:
            break
        frames.append(cv2.resize(frame, (SIDE, SIDE)))
    return np.stack(frames)


def decode_all(path: Path, lowres: int = 0) -> rgb.SquareClip:
    """The 32 frames out of all, decoded one after the other; with ``lowres`` at a ``2 ** lowres`` th of their sides."""
    av = require("av", "video")
    scaler = require("av.video.reformatter", "video").VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if lowres:
            stream.codec_context.options = {"lowres": str(lowres)}
        total = stream.frames
        wanted, squares, came = _choose(total), {}, 0
        for came, frame in enumerate(container.decode(stream), 1):
            if came - 1 in wanted:
                planes = scaler.reformat(frame, SIDE, SIDE, "gbrp", interpolation=rgb.KERNEL).planes
                pixels = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:SIDE, :SIDE] for plane in planes]
                squares[came - 1] = np.stack([pixels[2], pixels[0], pixels[1]])
        frames = np.stack([squares[index] for index in wanted], axis=1)
        return rgb.SquareClip(frames, tuple(wanted), total, 0.0, stream.codec_context.name, "", came)


def draw(path: Path, codec: str, width: int, height: int, rate: int, count: int) -> None:
    """A film of a still, textured room with a figure that moves, so that a codec has about as much to do as with people."""
    av = require("av", "video")
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 200, (9, 16, 3), np.uint8)
    room = np.kron(coarse, np.ones((-(-height // 9), -(-width // 16), 1), np.uint8))[:height, :width]
    room = room + generator.integers(0, 12, room.shape, np.uint8)
    tall, wide = height // 2, width // 8
    figure = generator.integers(0, 255, (tall // 4, wide // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", rate
        for number in range(count):
            picture = room.copy()
            left = (width - wide) * number // count
            top = height // 4 + round(height / 16 * np.sin(number / 5))
            picture[top : top + len(figure), left : left + figure.shape[1]] = figure
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _choose(total: int) -> list[int]:
    return rgb.inside(total, FRAMES)
