"""Made-up bodies with the 25 joints of NTU RGB+D, and what they do in six actions.

Lengths are metres. In a body's own frame x points to its right, y up from the floor, z to its back: as in the data set's
mirrored pictures, who faces the camera has the left shoulder at the smaller x.
"""

# T frames

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# directions of: left upper arm and forearm, the right ones, left thigh and shin, the right ones
_REST = np.array(
    [
        [-0.15, -1, 0], [-0.05, -1, -0.2], [0.15, -1, 0], [0.05, -1, -0.2],
        [-0.05, -1, 0], [0, -1, 0], [0.05, -1, 0], [0, -1, 0],
    ]
)  # fmt: skip
_LEFT_ARM, _RIGHT_ARM, _RIGHT_LEG = 0, 2, 6
# poses: the first limb that differs from rest, and the directions from it on
_POSES: Mapping[str, tuple[tuple[int, tuple[float, float, float]], ...]] = MappingProxyType(
    {
        "to the mouth": ((_RIGHT_ARM, (0.1, -0.55, -0.6)), (_RIGHT_ARM + 1, (-0.35, 0.75, -0.35))),
        "before the chest": (
            (_LEFT_ARM, (-0.1, -0.9, -0.35)),
            (_LEFT_ARM + 1, (0.45, 0.1, -0.85)),
            (_RIGHT_ARM, (0.1, -0.85, -0.5)),
            (_RIGHT_ARM + 1, (-0.35, 0.3, -0.9)),
        ),
        "out and up": ((_RIGHT_ARM, (0.85, 0.15, -0.15)), (_RIGHT_ARM + 1, (0.6, 0.8, 0))),
        "in and up": ((_RIGHT_ARM, (0.85, 0.15, -0.15)), (_RIGHT_ARM + 1, (-0.5, 0.85, 0))),
        "fist ahead": ((_RIGHT_ARM, (-0.1, -0.05, -1)), (_RIGHT_ARM + 1, (-0.15, 0.05, -1))),
        "foot ahead": ((_RIGHT_LEG, (0, -0.5, -0.85)), (_RIGHT_LEG + 1, (0, -0.35, -0.95))),
        "guarded": (
            (_LEFT_ARM, (-0.2, -0.7, -0.5)),
            (_LEFT_ARM + 1, (0.2, 0.7, -0.6)),
            (_RIGHT_ARM, (0.2, -0.7, -0.5)),
            (_RIGHT_ARM + 1, (-0.2, 0.7, -0.6)),
        ),
    }
)


@dataclass(frozen=True)
class Build:
    """A body: its height in metres, and how wide and long-limbed it is over what is usual."""

    height: float
    width: float
    limbs: float


def draw_build(random: np.random.Generator) -> Build:
    """Draw a body."""
    return Build(random.uniform(1.56, 1.84), random.uniform(0.93, 1.07), random.uniform(0.96, 1.04))


def draw_hits(random: np.random.Generator, frames: int) -> Array:
    """How far a punch or kick is carried out in each frame, ``(T,)`` about 0 to 1: there are two of them."""
    middles = np.array([0.3, 0.7]) + random.uniform(-0.08, 0.08, 2)
    return np.asarray(np.exp(-(((np.linspace(0, 1, frames)[:, None] - middles) / 0.11) ** 2)).sum(axis=1))


def perform(random: np.random.Generator, action: int, build: Build, hits: Array) -> Array:
    """Where the joints of the one who acts are.

    Args:
        random: the performance's draws.
        action: from 1, one of 1, 2, 3, 23, 24, 50 and 51. 2 and 3 move alike.
        build: the body.
        hits: from ``draw_hits``, for the actions that hit.

    Returns:
        ``(T, 25, 3)`` in the body's frame.
    """
    times = np.linspace(0, 1, len(hits))
    held = _held(random, times)
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * (random.uniform(2.2, 3.4) * times + random.uniform()))
    weights: dict[str, Array]
    if action == 1:
        weights = {"to the mouth": held}
    elif action in (2, 3):
        weights = {"before the chest": held * (0.65 + 0.35 * swing)}
    elif action == 23:
        weights = {"out and up": held * swing, "in and up": held * (1 - swing)}
    elif action == 50:
        weights = {"fist ahead": hits}
    else:
        weights = {"foot ahead": hits}
    return _joints(_directions(weights, len(hits)), build, _sway(random, times))


def receive(random: np.random.Generator, build: Build, hits: Array) -> Array:
    """Where the joints of the other person of 50 and 51 are, who guards and gives way, ``(T, 25, 3)``."""
    shift = _sway(random, np.linspace(0, 1, len(hits)))
    shift[:, 2] += 0.2 * hits
    return _joints(_directions({"guarded": 0.8 * hits}, len(hits)), build, shift)


def stand(random: np.random.Generator, frames: int, build: Build) -> Array:
    """Where the joints of somebody are who only stands there, ``(T, 25, 3)``."""
    return _joints(_directions({}, frames), build, _sway(random, np.linspace(0, 1, frames)))


def _held(random: np.random.Generator, times: Array) -> Array:
    first, last = random.uniform(0.02, 0.15), random.uniform(0.72, 0.9)
    return _smooth((times - first) / 0.2) * (1 - _smooth((times - last) / 0.15))


def _smooth(x: Array) -> Array:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _sway(random: np.random.Generator, times: Array) -> Array:
    turns = random.uniform(0.4, 1.2, 3) * times[:, None] + random.uniform(size=3)
    return np.array([0.015, 0.004, 0.015]) * np.sin(2 * np.pi * turns)


def _directions(weights: Mapping[str, Array], frames: int) -> Array:
    directions = np.repeat(_REST[None], frames, axis=0)
    for pose, weight in weights.items():
        for limb, wanted in _POSES[pose]:
            directions[:, limb] += weight[:, None] * (np.array(wanted) - _REST[limb])
    return np.asarray(directions / np.linalg.norm(directions, axis=-1, keepdims=True))


def _joints(directions: Array, build: Build, shift: Array) -> Array:
    """The places of the 25 joints, in the data set's order."""
    joints = np.zeros((len(directions), 25, 3))
    joints[:, [0, 1, 20, 2, 3], 1] = [0.93, 1.2, 1.42, 1.48, 1.62]
    for side, arm, leg, limb in ((-1, 4, 12, 0), (1, 8, 16, 2)):
        upper, fore, thigh, shin = (directions[:, limb + step] * build.limbs for step in (0, 1, 4, 5))
        joints[:, arm] = side * 0.18 * build.width, 1.38, 0
        joints[:, arm + 1] = joints[:, arm] + 0.28 * upper
        joints[:, arm + 2] = joints[:, arm + 1] + 0.25 * fore
        joints[:, arm + 3] = joints[:, arm + 2] + 0.08 * fore
        tip = 21 if side < 0 else 23
        joints[:, tip] = joints[:, arm + 3] + 0.08 * fore
        joints[:, tip + 1] = joints[:, arm + 3] + 0.04 * fore + np.array([-side * 0.04, 0, 0])
        joints[:, leg] = side * 0.09 * build.width, 0.9, 0
        joints[:, leg + 1] = joints[:, leg] + 0.42 * thigh
        joints[:, leg + 2] = joints[:, leg + 1] + 0.40 * shin
        joints[:, leg + 3] = joints[:, leg + 2] + np.array([0, -0.04, -0.12])
    return joints * (build.height / 1.7) + shift[:, None]
