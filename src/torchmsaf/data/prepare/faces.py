"""Faces in clips without landmarks, found by OpenCV's cascade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.frames import nearest_boxes
from torchmsaf.errors import DataError, require

# faces are looked for in a copy whose longer side has at most this many pixels
LONGEST = 640
# a face has at least this share of the copy's shorter side
SMALLEST = 0.09
# two boxes of one face share more than this fraction of what they cover
SAME = 0.2


def find_faces(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The box of one face in each frame, found with OpenCV's Haar cascade for frontal faces.

    This is ours, for a user's own clips; the paper's boxes come from landmarks. The box of this detector is another one:
    a square that holds some hair and background, not the smallest box around the points of brows, chin and cheeks. Do not
    mix the two in one data set.

    The cascade also takes other things for faces, now and then, and finds bystanders. Each box is followed from frame to
    frame, to the box that shares most with the one before. The face taken is the one whose boxes have the largest sum of
    sides, in half of the frames or more: a large one that is seen often. A frame in which it is not found gets its box
    from the nearest frame that has one.

    Args:
        frames: RGB ``(T, H, W, 3)`` uint8.

    Returns:
        ``(T, 4)`` left, top, right, bottom in pixels, inside the frame.

    Raises:
        DataError: a face in fewer than half of the frames, or no frame at all.
        MissingDependencyError: OpenCV is not installed.
    """
    cv2 = require("cv2", "faces")
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"))
    threads = cv2.getNumThreads()
    # clips are prepared side by side
    cv2.setNumThreads(1)
    try:
        found = [_detect(cv2, cascade, frame) for frame in frames]
    finally:
        cv2.setNumThreads(threads)
    boxes, own = _follow(found)
    missed = int((~own).sum())
    if 2 * missed > len(frames) or not own.any():
        raise DataError(
            f"no face in {missed} of {counted(len(frames), 'frame')}; give landmarks for this clip, or leave it out"
        )
    return nearest_boxes(boxes, own, np.arange(len(frames)))


def _detect(cv2: Any, cascade: Any, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """All faces of one frame, ``(F, 4)`` left, top, right, bottom in pixels of the frame."""
    height, width, _ = frame.shape
    scale = min(1.0, LONGEST / max(height, width))
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    gray = cv2.cvtColor(cv2.resize(frame, shape, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    smallest = max(1, round(SMALLEST * min(shape)))
    found = cascade.detectMultiScale(gray, scaleFactor=1.1, minNeighbors=4, minSize=(smallest, smallest))
    corners = np.asarray(found, dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    corners *= np.tile([width / shape[0], height / shape[1]], 2)
    return corners.clip(0, [width, height, width, height])


def _follow(found: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """One box a frame, ``(T, 4)`` with zeros where a frame has none, and whether it has one, from all boxes of each."""
    tracks = [_track(found, start, face) for start, faces in enumerate(found) for face in faces]
    sides = [np.sqrt(_area(track)) for track in tracks]
    # one that is seen too seldom to be of use does not displace another
    worth = [(bool(2 * (side > 0).sum() >= len(found)), float(side.sum())) for side in sides]
    boxes = tracks[worth.index(max(worth))] if tracks else np.zeros((len(found), 4))
    return boxes, _area(boxes) > 0


def _track(found: list[NDArray[np.float64]], start: int, face: NDArray[np.float64]) -> NDArray[np.float64]:
    """A face from frame ``start`` on, ``(T, 4)``, with zeros before it and where nothing is at about its place."""
    boxes = np.zeros((len(found), 4))
    before = boxes[start] = face
    for t in range(start + 1, len(found)):
        shares = _overlap(before, found[t])
        if len(shares) and shares.max() > SAME:
            before = boxes[t] = found[t][shares.argmax()]
    return boxes


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides: NDArray[np.float64] = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    return sides[..., 0] * sides[..., 1]


def _overlap(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a box shares with each of ``(F, 4)`` others, as a fraction of all that either covers: ``(F,)`` in [0, 1]."""
    both = np.concatenate([np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])], axis=1)
    shared = _area(both)
    return shared / (_area(box) + _area(boxes) - shared)
