"""Faces into the planes of YUV 4:2:0 frames, with NumPy alone.

Every shape is what lies between an upper and a lower line, and the lines run through the face's points: what is drawn
and what the landmark file says are the same. Edges are smooth over one pixel, downwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.synth.faces import Array, Look, Motion, face_points, place

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
# RGB in [0, 255] to Y, Cb, Cr in studio range: ITU-R BT.601
_TO_YUV = np.array([[65.738, 129.057, 25.064], [-37.945, -74.494, 112.439], [112.439, -94.154, -18.285]]) / 256
_ZERO = np.array([16.0, 128.0, 128.0])
_WHITE, _DARK = np.full(3, 235.0), np.array([50.0, 12.0, 14.0])
_TURN = np.pi * np.arange(33) / 32


def draw_frames(look: Look, motion: Motion, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """Draw the frames of a clip.

    Yields:
        One frame after the other, ``(height * 3 // 2, width)``: the luma plane and after it the two of chroma, each of
        a quarter of its size. The same array each time: use it before the next.
    """
    points = face_points(look, motion)
    rest = _background(look, width, height)
    frame = np.empty_like(rest)
    skull = place(look, motion, *_outline(len(motion.x), 1.0, -0.95))
    hair = place(look, motion, *_outline(len(motion.x), 1.07, -1.28))
    ends = place(look, motion, *_outline(len(motion.x), 1.07, 0.35))
    jaw = points[:, :17]
    for now in range(len(points)):
        frame[:] = rest
        planes = _planes(frame, width, height)
        fill(planes, hair[now, :, 0], hair[now, :, 1], ends[now, :, 1], look.hair)
        chin = np.interp(skull[now, :, 0], jaw[now, :, 0], jaw[now, :, 1])
        fill(planes, skull[now, :, 0], skull[now, :, 1], chin, look.skin)
        _features(planes, look, points[now])
        yield frame


def fill(planes: Planes, x: Array, top: Array, bottom: Array, colour: Array) -> None:
    """Fill what lies between two lines.

    Args:
        planes: drawn on.
        x: ``(n,)`` rising, pixels.
        top: ``(n,)`` the upper line's y at each x.
        bottom: ``(n,)`` the lower line's.
        colour: RGB in [0, 255].
    """
    yuv = _TO_YUV @ colour + _ZERO
    luma, cover = _cover(planes[0].shape, x, top, bottom)
    _blend(planes[0][luma], cover, yuv[0])
    # a chroma sample lies between two pixels of luma
    chroma, cover = _cover(planes[1].shape, (x - 0.5) / 2, (top - 0.5) / 2, (bottom - 0.5) / 2)
    _blend(planes[1][chroma], cover, yuv[1])
    _blend(planes[2][chroma], cover, yuv[2])


def _cover(shape: tuple[int, ...], x: Array, top: Array, bottom: Array) -> tuple[Any, NDArray[np.float32]]:
    """The part of a plane that a shape lies in, and how much of each of its pixels the shape covers."""
    first, last = max(int(np.ceil(x[0])), 0), min(int(np.floor(x[-1])) + 1, shape[1])
    high, low = max(int(np.floor(top.min())), 0), min(int(np.ceil(bottom.max())) + 1, shape[0])
    columns = np.arange(first, max(last, first))
    rows = np.arange(high, max(low, high), dtype=np.float32)[:, None]
    upper = (np.interp(columns, x, top) - 0.5).astype(np.float32)
    lower = (np.interp(columns, x, bottom) + 0.5).astype(np.float32)
    cover = np.minimum(rows - upper, lower - rows)
    return (slice(high, max(low, high)), slice(first, max(last, first))), np.clip(cover, 0, 1, out=cover)


def _blend(part: NDArray[np.uint8], cover: NDArray[np.float32], value: float) -> None:
    cover = cover * (np.float32(value) - part)
    cover += part
    cover += np.float32(0.5)
    part[:] = cover


def _outline(frames: int, wide: float, high: float) -> tuple[Array, Array]:
    u = np.broadcast_to(-wide * np.cos(_TURN), (frames, len(_TURN)))
    return u, np.broadcast_to(-0.25 + high * np.sin(_TURN), u.shape)


def _features(planes: Planes, look: Look, points: Array) -> None:
    unit = look.unit
    nose = points[31:36]
    fill(planes, nose[:, 0], nose[:, 1] - 0.03 * unit, nose[:, 1] + 0.03 * unit, look.skin * 0.6)
    for eye in (points[36:42], points[42:48]):
        x, upper, lower = eye[:4, 0], eye[:4, 1], np.concatenate([eye[:1, 1], eye[5:3:-1, 1], eye[3:4, 1]])
        fill(planes, x, upper - 0.03 * unit, upper + 0.03 * unit, look.hair * 0.5)  # the upper lid's edge
        fill(planes, x, upper, lower, _WHITE)
        across = np.linspace(-1, 1, 9)
        spots, level = (x[0] + x[3]) / 2 + 0.09 * unit * across, (eye[0, 1] + eye[3, 1]) / 2 - 0.01 * unit
        half = 0.09 * unit * np.sqrt(1 - across**2)
        high, low = np.interp(spots, x, upper), np.interp(spots, x, lower)  # the lids hide the rest of the iris
        fill(planes, spots, np.maximum(level - half, high), np.minimum(level + half, low), look.iris)
    for brow in (points[17:22], points[22:27]):
        fill(planes, brow[:, 0], brow[:, 1] - 0.045 * unit, brow[:, 1] + 0.045 * unit, look.hair)
    lips, gap = points[48:60], points[60:68]
    for ring, corner, colour in ((lips, 6, look.lips), (gap, 4, _DARK)):
        lower = np.concatenate([ring[:1], ring[: corner - 1 : -1]])[:, 1]
        fill(planes, ring[: corner + 1, 0], ring[: corner + 1, 1], lower, colour)


def _planes(frame: NDArray[np.uint8], width: int, height: int) -> Planes:
    flat, size = frame.reshape(-1), width * height
    blue, red = (flat[start : start + size // 4] for start in (size, size + size // 4))
    return frame[:height], blue.reshape(height // 2, width // 2), red.reshape(height // 2, width // 2)


def _background(look: Look, width: int, height: int) -> NDArray[np.uint8]:
    frame = np.empty((height * 3 // 2, width), dtype=np.uint8)
    planes = _planes(frame, width, height)
    for plane, value in zip(planes, _TO_YUV @ look.back + _ZERO, strict=True):
        plane[:] = np.uint8(value)
    (x, y), unit = look.centre, look.unit
    neck = x + unit * np.array([-0.5, 0.5])
    fill(planes, neck, np.full(2, y), np.full(2, height - 1.0), look.skin * 0.85)
    slope = y + unit * np.array([2.0, 1.75, 1.45, 1.6, 1.45, 1.75, 2.0])
    shoulders = x + unit * np.array([-2.2, -1.6, -0.5, 0.0, 0.5, 1.6, 2.2])
    fill(planes, shoulders, slope, np.full(7, float(height)), look.shirt)
    return frame
