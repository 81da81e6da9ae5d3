"""The film of a made-up clip: people of coloured strokes in a room, as MPEG-4 in an avi file.

The actions 23 and 24 are done in the dark, which the depth sensor does not mind: the film shows the same dim room whatever
is done in it. The object of action 2 is red, that of action 3 blue.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.synth.ntu_clip import COLOUR_SIZE, NtuClip, colour_pixels, to_colour
from torchmsaf.data.synth.ntu_motion import Array
from torchmsaf.errors import require

DARK = (23, 24)
OBJECTS = {1: (0.1, (225.0, 225.0, 215.0)), 2: (0.17, (215.0, 35.0, 30.0)), 3: (0.17, (30.0, 60.0, 220.0))}
_RIGHT_HAND = 11
_SHIRT, _TROUSERS, _SKIN = range(3)
# from joint, to joint, half the width in metres, which colour
_STROKES = (
    *((leg, leg + 1, 0.08, _TROUSERS) for leg in (12, 13, 16, 17)),
    *((ankle, ankle + 1, 0.05, _TROUSERS) for ankle in (14, 18)),
    (0, 20, 0.16, _SHIRT),
    *((arm, arm + 1, 0.055, _SHIRT) for arm in (4, 5, 8, 9)),
    *((wrist, wrist + 1, 0.05, _SKIN) for wrist in (6, 10)),
    (2, 3, 0.09, _SKIN),
)


class _Stroke(NamedTuple):
    """A stroke through all frames: ends ``(T, 2)`` in pixels of the video, half widths and distances ``(T,)``, RGB."""

    start: Array
    end: Array
    radius: Array
    away: Array
    colour: Array


def film(clip: NtuClip) -> bytes:
    """The bytes of the video file.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """
    av, shot = require("av", "video"), clip.shot
    buffer = BytesIO()
    with av.open(buffer, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        container.metadata["comment"] = shot.note
        stream = container.add_stream("mpeg4", rate=shot.frame_rate, options={"flags": "+bitexact"})
        stream.width, stream.height, stream.pix_fmt = shot.width, shot.height, "yuv420p"
        stream.bit_rate = shot.width * shot.height * shot.frame_rate  # a bit a pixel
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(draw_film(clip)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def draw_film(clip: NtuClip) -> Iterator[NDArray[np.uint8]]:
    """Draw the frames of a clip.

    Yields:
        One frame after the other, ``(height, width, 3)`` RGB.
    """
    dark, random = clip.name.action in DARK, clip.draws(0)
    room = _room(clip)
    light = random.uniform(0.85, 1.1)
    strokes = [] if dark else _strokes(clip)
    for number in range(clip.frames):
        frame = room * np.float32(0.12 if dark else light)
        for stroke in sorted(strokes, key=lambda one: -float(one.away[number])):
            _draw(frame, stroke, number, light)
        frame += random.normal(0, 2, frame.shape[:2]).astype(np.float32)[..., None]
        yield np.clip(np.rint(frame), 0, 255).astype(np.uint8)


def _strokes(clip: NtuClip) -> list[_Stroke]:
    strokes = []
    for number, joints in enumerate(clip.people):
        colours = _look(clip.person_draws(number, 1))
        strokes += [
            _stroke(clip, joints[:, start], joints[:, end], half, colours[colour])
            for start, end, half, colour in _STROKES
        ]
    if clip.name.action in OBJECTS:
        half, colour = OBJECTS[clip.name.action]
        hand = clip.people[0][:, _RIGHT_HAND]
        strokes.append(_stroke(clip, hand, hand, half, np.array(colour)))
    return strokes


def _look(random: np.random.Generator) -> Array:
    """Colours of shirt, trousers and skin: none as bright as the objects."""
    shirt = random.uniform(70, 190) + random.uniform(-20, 20, 3)
    trousers = random.uniform(30, 90) + random.uniform(-12, 12, 3)
    skin = random.uniform(0.45, 1.0) * np.array([235.0, 190.0, 160.0])
    return np.stack([shirt, trousers, skin])


def _room(clip: NtuClip) -> NDArray[np.float32]:
    """An empty room: a wall and a floor, ``(height, width, 3)``."""
    random, shot = clip.place_draws(), clip.shot
    wall = random.uniform(110, 200) + random.uniform(-12, 12, 3)
    floor = wall * random.uniform(0.5, 0.8)
    edge = round(shot.height * random.uniform(0.68, 0.8))
    room = np.empty((shot.height, shot.width, 3), dtype=np.float32)
    room[:edge], room[edge:] = wall, floor
    room *= np.linspace(1.05, 0.95, shot.width, dtype=np.float32)[:, None]
    return room


def _stroke(clip: NtuClip, start: Array, end: Array, half: float, colour: Array) -> _Stroke:
    scale = np.array([clip.shot.width, clip.shot.height]) / COLOUR_SIZE
    away = (start[:, 2] + end[:, 2]) / 2
    radius = colour_pixels(half, away) * float(np.sqrt(scale.prod()))
    return _Stroke(to_colour(start) * scale, to_colour(end) * scale, radius, away - half, colour)


def _draw(frame: NDArray[np.float32], stroke: _Stroke, number: int, light: float) -> None:
    """Draw a stroke with round ends and smooth edges."""
    start, end, radius = stroke.start[number], stroke.end[number], stroke.radius[number]
    low = np.maximum(np.floor(np.minimum(start, end) - radius - 1).astype(int), 0)
    high = np.minimum(np.ceil(np.maximum(start, end) + radius + 1).astype(int) + 1, frame.shape[1::-1])
    if (high <= low).any():
        return
    x = np.arange(low[0], high[0]) - start[0]
    y = (np.arange(low[1], high[1]) - start[1])[:, None]
    along = end - start
    share = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    gap = np.hypot(x - share * along[0], y - share * along[1])
    cover = np.clip(radius + 0.5 - gap, 0, 1).astype(np.float32)[..., None]
    part = frame[low[1] : high[1], low[0] : high[0]]
    part += cover * ((stroke.colour * light).astype(np.float32) - part)
