"""Which bodies of a skeleton file are taken, in which order, and the array of their joints."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.actions.skeleton_file import Body, SkeletonFile
from torchmsaf.errors import DataError

# bodies of an array in the published way
PUBLISHED_BODIES = 2


def motion_energy(body: Body) -> float:
    """How much a body moves: the variances of x, y and z over its tracked frames, summed over the joints (m²).

    The data set's authors choose the main person so (questions of https://github.com/shahroudy/NTURGB-D); that the frames
    are pooled for each joint by itself, and that frames without the body are left out, is this project's reading.
    """
    return energy(body.xyz, body.tracked)


def energy(values: NDArray[Any], tracked: NDArray[np.bool_]) -> float:
    """How much joints move: the variance of each coordinate over the tracked frames, summed.

    Args:
        values: (T, V, C), in any unit.
        tracked: (T,).

    Returns:
        In the square of the unit; 0 where no frame is tracked.
    """
    if not tracked.any():
        return 0.0
    return float(values[tracked].astype(np.float64).var(axis=0).sum())


def order_bodies(file: SkeletonFile) -> list[Body]:
    """The bodies that are tracked in one frame or more, the one that moves most first; equal ones as in the file."""
    seen = [body for body in file.bodies if body.tracked.any()]
    return sorted(seen, key=motion_energy, reverse=True)


def to_array(
    file: SkeletonFile, most: int | None = None, *, mode: Literal["motion", "published"] = "motion"
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The joints of a file's bodies, real bodies alone, without NaN.

    Frames of a body between two that it is tracked in are interpolated linearly; before the first and after the last one
    it stays where it was. A person who is lost and found again under another id counts as two bodies.

    Args:
        file: as ``read_skeleton`` gives it.
        most: of the bodies, so many that move most; None = all.
        mode: ``"motion"``, or ``"published"`` as the published code of MSAF reads: always two bodies, in each frame the
            first two that the file has there, whatever their ids; no interpolation, zeros where there is none.

    Returns:
        Positions (3, T, 25, M) float32, metres from the camera, not centred; and which frames each body is tracked in,
        (T, M) uint8, 1 or 0. M is at least 1.

    Raises:
        DataError: there is no frame, no body is tracked in any frame, or an argument is out of its range.
    """
    if mode not in ("motion", "published"):
        raise DataError(f"mode is {mode!r}; 'motion' or 'published' is needed")
    if most is not None and most < 1:
        raise DataError(f"most is {most}; 1 or more bodies are needed")
    if not file.frames:
        raise DataError(f"{file.name} has no frames; get the file again, or leave it out")
    ordered = order_bodies(file)
    if not ordered:
        raise DataError(
            f"{file.name}: no body is tracked in any of {counted(file.frames, 'frame')}; leave this file out"
        )
    if mode == "published":
        return _published(file)
    taken = ordered[:most]
    xyz = np.stack([fill_gaps(body.xyz, body.tracked) for body in taken], axis=-1)  # (T, V, 3, M)
    tracked = np.stack([body.tracked for body in taken], axis=-1).astype(np.uint8)
    return np.ascontiguousarray(xyz.transpose(2, 0, 1, 3)), tracked


def fill_gaps(values: NDArray[np.float32], tracked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values of the frames that are not tracked from those that are: linear between two, held at both ends.

    Args:
        values: (T, …); those of frames that are not tracked are not looked at.
        tracked: (T,); one or more are True.

    Returns:
        A copy, (T, …); tracked frames are as they were.
    """
    known = np.flatnonzero(tracked)
    if len(known) == len(tracked):
        return values.copy()
    frames = np.arange(len(tracked))
    right = np.searchsorted(known, frames).clip(max=len(known) - 1)
    left = np.where((known[right] > frames) & (right > 0), right - 1, right)
    span = np.maximum(known[right] - known[left], 1)
    share = ((frames - known[left]) / span).clip(0, 1).reshape(-1, *[1] * (values.ndim - 1))
    start, stop = values[known[left]].astype(np.float64), values[known[right]].astype(np.float64)
    return np.asarray(start + share * (stop - start), np.float32)


def _published(file: SkeletonFile) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    joints = file.bodies[0].xyz.shape[1]
    xyz = np.zeros((3, file.frames, joints, PUBLISHED_BODIES), np.float32)
    tracked = np.zeros((file.frames, PUBLISHED_BODIES), np.uint8)
    for body in file.bodies:
        for place in range(PUBLISHED_BODIES):
            frames = np.flatnonzero(body.place == place)
            xyz[..., place][:, frames] = np.nan_to_num(body.xyz[frames]).transpose(2, 0, 1)
            tracked[frames, place] = body.tracked[frames]
    return xyz, tracked
