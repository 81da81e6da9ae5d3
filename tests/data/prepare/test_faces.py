"""Protects the finding of faces where no landmarks are: one face is followed, and no box is made up for a clip without."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from torchmsaf.data.prepare import faces
from torchmsaf.data.prepare.faces import find_faces
from torchmsaf.errors import DataError

pytest.importorskip("cv2")
# left, top, right, bottom
SMALL, LARGE, FAR = [100, 100, 160, 160], [200, 50, 300, 150], [400, 100, 480, 180]


def draw(frame: NDArray[np.uint8], x: float, y: float, half: float) -> None:
    """Draw a face around (x, y) that is twice ``half`` pixels high."""
    down, right = np.mgrid[: frame.shape[0], : frame.shape[1]]
    u, v = (right - x) / half, (down - y) / half

    def ellipse(level: int, at: tuple[float, float], radii: tuple[float, float]) -> None:
        frame[((u - at[0]) / radii[0]) ** 2 + ((v - at[1]) / radii[1]) ** 2 < 1] = level

    ellipse(40, (0, -0.1), (0.85, 1.1))
    ellipse(200, (0, 0.1), (0.72, 0.95))
    for side in (-0.32, 0.32):
        ellipse(110, (side, -0.12), (0.24, 0.13))
        ellipse(60, (side, -0.32), (0.24, 0.05))
        ellipse(20, (side, -0.12), (0.09, 0.09))
    ellipse(225, (0, 0.12), (0.07, 0.25))
    ellipse(90, (0, 0.62), (0.3, 0.08))


def test_the_box_is_around_the_face_in_pixels_of_the_frame_and_gaps_are_filled() -> None:
    frames = np.full((4, 360, 1280, 3), 90, np.uint8)
    centres = [(500, 180), (520, 180), None, (560, 190)]
    for frame, centre in zip(frames, centres, strict=True):
        if centre is not None:
            draw(frame, *centre, 110)
    boxes = find_faces(frames)
    assert boxes.shape == (4, 4)
    for box, (x, y) in zip(boxes, [(500, 180), (520, 180), (520, 180), (560, 190)], strict=True):
        # the whole frame is 1280 wide, the copy that is searched is half as wide
        assert np.abs((box[:2] + box[2:]) / 2 - (x, y)).max() < 30
        assert 150 < box[2] - box[0] < 300
    assert (boxes[2] == boxes[1]).all()


def test_a_clip_without_a_face_in_half_of_its_frames_asks_for_landmarks() -> None:
    frames = np.full((5, 90, 120, 3), 90, np.uint8)
    for frame in frames[:2]:
        draw(frame, 60, 45, 35)
    with pytest.raises(DataError, match=r"no face in 3 of 5 frames; give landmarks for this clip, or leave it out"):
        find_faces(frames)
    with pytest.raises(DataError, match=r"no face in 0 of 0 frames"):
        find_faces(frames[:0])


def follow(monkeypatch: pytest.MonkeyPatch, found: list[list[list[int]]]) -> list[list[float]]:
    left = iter(found)
    monkeypatch.setattr(faces, "_detect", lambda *_: np.array(next(left), dtype=float).reshape(-1, 4))
    boxes: list[list[float]] = find_faces(np.zeros((len(found), 720, 1280, 3), np.uint8)).tolist()
    return boxes


def test_of_two_faces_the_larger_is_followed_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert follow(monkeypatch, [[SMALL, LARGE], [LARGE, SMALL], [SMALL, LARGE]]) == [LARGE] * 3


def test_a_box_that_is_seen_once_is_not_followed_even_if_it_is_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [0, 0, 700, 700]
    assert follow(monkeypatch, [[wrong, SMALL], [SMALL], [SMALL], [SMALL]]) == [SMALL] * 4


def test_a_face_that_moves_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = [[FAR, [x, 50, x + 100, 150]] if x != 160 else [FAR] for x in range(100, 300, 20)]
    boxes = follow(monkeypatch, path)
    assert [box[0] for box in boxes] == [100, 120, 140, 140, 180, 200, 220, 240, 260, 280]


def test_opencv_has_as_many_threads_as_before() -> None:
    import cv2

    before = cv2.getNumThreads()
    with pytest.raises(DataError):
        find_faces(np.zeros((1, 40, 40, 3), np.uint8))
    assert cv2.getNumThreads() == before
