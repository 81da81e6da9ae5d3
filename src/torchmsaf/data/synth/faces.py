"""Drawn faces that talk: how one looks, how it moves, and where its 68 points are.

The points are in the order of the 68-point scheme that OpenFace writes: 0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes,
48-59 outer lips, 60-67 inner lips; left and right as seen in the image. A face's own coordinates have their origin at
the nose, u to the right, v downwards; 1 is half the face's width.
"""

# T frames

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# what the four groups of expressions do: lift of the mouth's corners, its roundness, the brows' lift, the fall of their
# inner ends, how wide the eyes are
GROUPS = (
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (1.0, 0.0, 0.4, 0.0, -0.3),
    (-0.9, 0.1, -0.3, 1.0, 0.0),
    (-0.2, 0.9, 1.0, -0.3, 0.8),
)
MOVE_NOISE = 0.13  # spread of each of the five from clip to clip


@dataclass(frozen=True)
class Look:
    """How an actor looks.

    Attributes:
        centre: of the face at rest, x and y in pixels.
        unit: half the face's width in pixels.
        stretch: the face's height over what is usual.
        brows: the brows' place at rest, in units upwards.
        mouth: the mouth's width over what is usual.
        skin, hair, lips, iris, back, shirt: colours, RGB in [0, 255].
    """

    centre: tuple[float, float]
    unit: float
    stretch: float
    brows: float
    mouth: float
    skin: Array
    hair: Array
    lips: Array
    iris: Array
    back: Array
    shirt: Array


def draw_look(random: np.random.Generator, width: int, height: int) -> Look:
    """Draw an actor's look for frames of this size in pixels; the whole face stays inside them."""
    side = min(width, height)
    dark = random.uniform(0.0, 1.0)
    skin = np.array([240.0, 205.0, 180.0]) * (1 - np.array([0.40, 0.47, 0.52]) * dark) + random.normal(0, 4, 3)
    return Look(
        centre=(width / 2 + side * random.uniform(-0.06, 0.06), height * 0.46 + side * random.uniform(-0.03, 0.03)),
        unit=side * random.uniform(0.18, 0.225),
        stretch=random.uniform(0.95, 1.1),
        brows=random.normal(0, 0.02),
        mouth=random.uniform(0.92, 1.08),
        skin=np.clip(skin, 60, 250),
        hair=np.array([20.0, 14.0, 10.0]) + random.uniform(0, 70) * np.array([1.0, 0.75, 0.4]),
        lips=skin * np.array([0.75, 0.45, 0.45]),
        iris=random.uniform(20, 90, 3),
        back=np.full(3, random.uniform(190, 245)) + random.normal(0, 6, 3),
        shirt=random.uniform(20, 80, 3),
    )


@dataclass(frozen=True)
class Motion:
    """What a face does in a clip; each array ``(T,)``, 0 = at rest.

    Attributes:
        corners, roundness, brows, frown, wide: the five of ``GROUPS``, over time.
        opening: the mouth, 0 shut to 1 wide open.
        blink: 0 open eyes to 1 shut eyes.
        x, y: the head's way, in units.
        tilt: how far the head leans: units down for a unit to the right.
    """

    corners: Array
    roundness: Array
    brows: Array
    frown: Array
    wide: Array
    opening: Array
    blink: Array
    x: Array
    y: Array
    tilt: Array


def move(random: np.random.Generator, group: int, times: Array, speech: Array) -> Motion:
    """Draw what a face does.

    Args:
        random: the clip's draws.
        group: the expression, a row of ``GROUPS``.
        times: ``(T,)`` seconds.
        speech: ``(T,)`` loudness of the speech in [0, 1]: the mouth follows it.
    """
    strength = random.uniform(0.75, 1.15)
    begin, beat = random.uniform(0.0, 0.4), random.uniform(0.3, 0.8)
    rise = 0.65 + 0.35 / (1 + np.exp(-(times - begin - 0.25) * 10)) + 0.06 * np.sin(2 * np.pi * beat * times)
    amounts = np.array(GROUPS[group]) * strength + random.normal(0, MOVE_NOISE, len(GROUPS[group]))
    corners, roundness, brows, frown, wide = amounts[:, None] * rise
    blink = np.zeros_like(times)
    for moment in np.cumsum(random.uniform(0.4, 2.2, 3)):
        blink = np.maximum(blink, np.clip(1.3 - np.abs(times - moment) / 0.09, 0, 1))
    rates, starts = random.uniform(0.15, 0.6, 3), random.uniform(0, 2 * np.pi, 3)
    sway = np.sin(2 * np.pi * rates[:, None] * times + starts[:, None])
    opening = speech * random.uniform(0.7, 1.0) + 0.25 * np.clip(roundness, 0, None)
    x, y, tilt = sway * np.array([0.10, 0.05, 0.04])[:, None]
    return Motion(corners, roundness, brows, frown, wide, opening, blink, x, y + 0.03 * speech, tilt)


def face_points(look: Look, motion: Motion) -> Array:
    """The 68 points of every frame, ``(T, 68, 2)``: x and y in pixels, pixel centres at whole numbers."""
    parts = [_jaw(motion), _brows(look, motion), _nose(motion), _eyes(motion), _lips(look, motion)]
    u, v = np.moveaxis(np.concatenate(parts, axis=1), 2, 0)  # (T, 68) each
    return place(look, motion, u, v)


def place(look: Look, motion: Motion, u: Array, v: Array) -> Array:
    """From a face's own coordinates ``(T, n)`` to pixels ``(T, n, 2)``."""
    x = look.centre[0] + look.unit * (u + motion.x[:, None])
    y = look.centre[1] + look.unit * (v * look.stretch + motion.tilt[:, None] * u + motion.y[:, None])
    return np.stack([x, y], axis=2)


def _stack(frames: int, u: Array, v: Array) -> Array:
    return np.stack(np.broadcast_arrays(np.broadcast_to(u, (frames, np.shape(u)[-1])), v), axis=2)


def _jaw(motion: Motion) -> Array:
    turn = np.pi * np.arange(17) / 16
    drop = 0.14 * motion.opening[:, None] * np.sin(turn) ** 4
    return _stack(len(motion.x), -np.cos(turn), -0.25 + 1.25 * np.sin(turn) + drop)


def _brows(look: Look, motion: Motion) -> Array:
    along = np.linspace(-1, 1, 5)  # from the outer end to the inner one
    lift = look.brows + 0.15 * motion.brows[:, None] + 0.06 * (1 - along**2)
    v = -0.62 - lift + 0.13 * motion.frown[:, None] * along
    inner = 0.03 * motion.frown[:, None] * (along + 1) / 2
    u = -0.5 + 0.3 * along + inner
    return np.concatenate([np.stack([u, v], axis=2), np.stack([-u, v], axis=2)[:, ::-1]], axis=1)


def _nose(motion: Motion) -> Array:
    frames = len(motion.x)
    bridge = _stack(frames, np.zeros(4), np.linspace(-0.32, 0.12, 4) * np.ones((frames, 1)))
    across = np.linspace(-1, 1, 5)
    return np.concatenate(
        [bridge, _stack(frames, 0.18 * across, 0.26 - 0.06 * across**2 * np.ones((frames, 1)))], axis=1
    )


def _eyes(motion: Motion) -> Array:
    open_by = 0.095 * (1 + 0.5 * motion.wide) * (1 - motion.blink)  # (T,)
    u = 0.19 * np.array([-1, -0.4, 0.4, 1, 0.4, -0.4])
    v = -0.32 + open_by[:, None] * np.array([0, -1, -1, 0, 0.7, 0.7])
    frames = len(motion.x)
    return np.concatenate([_stack(frames, u - 0.45, v), _stack(frames, u + 0.45, v)], axis=1)


def _lips(look: Look, motion: Motion) -> Array:
    half = 0.40 * look.mouth * (1 + 0.15 * np.maximum(motion.corners, 0) - 0.35 * motion.roundness)[:, None]  # (T, 1)
    upper = np.array([-1, -0.66, -0.3, 0, 0.3, 0.66, 1])
    outer, inner = np.concatenate([upper, upper[-2:0:-1]]), np.array([-0.82, -0.4, 0, 0.4, 0.82, 0.4, 0, -0.4])
    side = np.array([0, *[-1] * 5, 0, *[1] * 5]), np.array([0, -1, -1, -1, 0, 1, 1, 1])
    parts = []
    for along, sign, lip in ((outer, side[0], 0.085), (inner, side[1], 0.008)):
        bow = 1 - along**2
        gap = np.where(sign < 0, 0.06, 0.24) * motion.opening[:, None] * bow
        v = 0.52 - 0.17 * motion.corners[:, None] * (along**2 - 0.35) + sign * (gap + lip * np.sqrt(bow))
        parts.append(np.stack([half * along, v], axis=2))
    return np.concatenate(parts, axis=1)
