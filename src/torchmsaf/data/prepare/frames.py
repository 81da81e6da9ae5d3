"""Which frames of a clip are taken, and how a face is cut out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from torchmsaf.data.counted import counted
from torchmsaf.errors import DataError

# T frames, H rows, W columns, S side of the square that comes out


def consecutive(total: int, count: int) -> list[int]:
    """Frames that follow each other, in the middle of the clip.

    The paper says "30 consecutive images" and not where in the clip they stand. The middle is our guess:
    speech is more likely there than at either end.

    Args:
        total: how many frames the clip has.
        count: how many are wanted, 1 or more.

    Returns:
        ``count`` frame numbers from ``(total - count) // 2``.

    Raises:
        DataError: the clip is too short, or ``count`` is not positive.
    """
    _check(total, count)
    if total < count:
        raise DataError(f"the clip has {counted(total, 'frame')} and {count} consecutive ones are needed")
    first = (total - count) // 2
    return list(range(first, first + count))


def uniform(total: int, count: int) -> list[int]:
    """Frames spread evenly over the whole clip, as the released code takes them: at the times ``i * duration / count``.

    Args:
        total: how many frames the clip has, 1 or more.
        count: how many are wanted, 1 or more. A clip with fewer gives some of them more than once.

    Returns:
        The frame numbers ``floor(i * total / count)``, in rising order.

    Raises:
        DataError: the clip has no frame, or ``count`` is not positive.
    """
    _check(total, count)
    return [i * total // count for i in range(count)]


def _check(total: int, count: int) -> None:
    if count < 1:
        raise DataError(f"{count} frames are asked for; 1 or more is needed")
    if total < 1:
        raise DataError("the clip has 0 frames; 1 or more is needed")


SAMPLING: dict[str, Callable[[int, int], list[int]]] = {"consecutive": consecutive, "uniform": uniform}


def nearest_boxes(
    boxes: NDArray[np.float64], own: NDArray[np.bool_], wanted: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """The box of each wanted frame, and for one without a face that of the nearest frame with one; of two, the earlier.

    Args:
        boxes: ``(N, 4)``, one a frame of the clip.
        own: ``(N,)``, whether the frame has a face; at least one is True.
        wanted: T frame numbers.

    Returns:
        ``(T, 4)``.
    """
    faces = np.flatnonzero(own)
    distance = np.abs(np.asarray(wanted)[:, None] - faces[None, :])
    nearest: NDArray[np.float64] = boxes[faces[distance.argmin(axis=1)]]
    return nearest


def crop_and_resize(frames: NDArray[np.uint8], boxes: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Cut one box out of each frame and resize it to a square.

    The box is cut out of the frame as it was filmed, and only then resized: the released code first squeezes the whole
    frame. Resizing is bilinear, with antialiasing where it shrinks, and rounds to the nearest integer.

    Args:
        frames: ``(T, H, W, 3)`` uint8.
        boxes: ``(T, 4)``: left, top, right, bottom in pixels. They are rounded outward to whole pixels, then cut off at
            the frame's edges.
        size: S, 1 or more.

    Returns:
        ``(3, T, S, S)`` uint8, contiguous.

    Raises:
        DataError: as many boxes as frames are needed; a box is not finite, or nothing is in it; ``size`` is not positive.
    """
    count, height, width, _ = frames.shape
    if size < 1:
        raise DataError(f"size is {size}; 1 or more pixels are needed")
    if boxes.shape != (count, 4):
        raise DataError(f"boxes have shape {boxes.shape}; ({count}, 4) is needed, one for each frame")
    squares = torch.empty((3, count, size, size), dtype=torch.uint8)
    for t, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
        if not np.isfinite(box).all():
            raise DataError(f"the box of frame {t} is {box.tolist()}; four finite numbers are needed")
        left, right = (int(edge) for edge in np.clip([np.floor(box[0]), np.ceil(box[2])], 0, width))
        top, bottom = (int(edge) for edge in np.clip([np.floor(box[1]), np.ceil(box[3])], 0, height))
        if left >= right or top >= bottom:
            raise DataError(f"the box of frame {t} is {box.tolist()}: nothing of the {width}x{height} frame is in it")
        # (1, 3, H, W), kept in the frame's own order of bytes
        crop = torch.from_numpy(np.ascontiguousarray(frame[top:bottom, left:right])).permute(2, 0, 1)[None].float()
        resized = F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        squares[:, t] = resized[0].round_().clamp_(0, 255)
    return squares.numpy()
