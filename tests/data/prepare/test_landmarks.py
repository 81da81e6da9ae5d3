"""Protects reading OpenFace's csv: columns by name, errors that name the line, boxes that are never made up silently."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest

from torchmsaf.data.prepare.landmarks import Landmarks, read_landmarks
from torchmsaf.errors import DataError

POINTS = [f"{axis}_{point}" for axis in "xy" for point in range(68)]
# as OpenFace 2.1 names them; X_0 is in millimetres
HEADER = ["frame", "face_id", "timestamp", "confidence", "success", "gaze_0_x", "eye_lmk_x_0", "pose_Tx"]
HEADER += [*POINTS, *(name.upper() for name in POINTS), "AU01_r"]


def row(frame: int, success: bool = True, left: float = 100, top: float = 50) -> dict[str, str]:
    """A face whose points fill 68 pixels from left and top, the chin the lowest; every other column is -1."""
    values = dict.fromkeys(HEADER, "-1") | {"frame": str(frame), "success": str(int(success))}
    values |= {f"x_{point}": f"{left + point:.1f}" for point in range(68)}
    return values | {f"y_{point}": f"{top + (point + 59) % 68:.1f}" for point in range(68)}


def csv(rows: list[dict[str, str]], header: list[str] = HEADER, end: str = "\n") -> bytes:
    lines = [", ".join(header), *(", ".join(values[name] for name in header) for values in rows)]
    return (end.join(lines) + end).encode()


def read(data: bytes) -> Landmarks:
    return read_landmarks(io.BytesIO(data), "a.csv")


def test_columns_are_found_by_name_in_any_order() -> None:
    rows = [row(frame, frame != 2, left=10 * frame) for frame in (1, 2, 3)]
    shuffled = random.Random(0).sample(HEADER, len(HEADER))
    for landmarks in (read(csv(rows)), read(csv(rows, shuffled, "\r\n")), read(b"\xef\xbb\xbf" + csv(rows) + b"\n\n")):
        assert len(landmarks) == 3
        assert landmarks.success.tolist() == [True, False, True]
        assert landmarks.x.tolist() == [[10 * frame + point for point in range(68)] for frame in (1, 2, 3)]
        assert landmarks.y.tolist() == [[50 + (point + 59) % 68 for point in range(68)]] * 3


def test_a_path_reads_as_its_bytes_do(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(csv([row(0), row(1)]))
    assert read_landmarks(path, "a.csv").x.shape == (2, 68)
    with pytest.raises(DataError, match=r"b\.csv cannot be read: No such file or directory; check the path"):
        read_landmarks(tmp_path / "b.csv", "b.csv")


@pytest.mark.parametrize("value", ["nan", "-nan(ind)", "inf"])
def test_a_point_that_is_not_finite_makes_a_frame_without_a_face(value: str) -> None:
    bad = row(2) | {"x_5": value}
    landmarks = read(csv([row(1), bad, row(3, left=200)]))
    boxes, filled = landmarks.boxes([0, 1, 2], 1280, 720)
    assert filled == 1
    assert boxes.tolist() == [[100, 50, 167, 117], [100, 50, 167, 117], [200, 50, 267, 117]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"a\.csv is empty: no header; one row a frame is needed"),
        (csv([]), r"a\.csv is empty: a header and no row"),
        (b"1, 2, 3\n4, 5, 6\n", r"a\.csv has no header of OpenFace in its first line"),
        (b"\x89PNG\xff\n", r"a\.csv is not a text file"),
        (csv([row(1)], HEADER[:8]), r"a\.csv lacks the columns x_0, x_1, x_2 and 133 more; run OpenFace with 2-D"),
        (csv([row(1)], [name for name in HEADER if name != "y_67"]), r"lacks the columns y_67; "),
        (csv([row(1)], [*HEADER, "x_3"]), r"a\.csv has the column x_3 more than once"),
        (csv([row(1), row(2)])[:-20], r"a\.csv: line 3 has 27[0-9] fields and the header 281; the file is damaged"),
        (csv([row(1), row(2) | {"y_9": "what"}]), r"a\.csv: line 3 has 'what' as y_9; a number is needed"),
        (csv([row(1), row(1)]), r"a\.csv: frame goes from 1 to 1 in line 3; it has to rise by 1"),
        (csv([row(1), row(2), row(4)]), r"a\.csv: frame goes from 2 to 4 in line 4"),
        (csv([row(7), row(8)]), r"a\.csv: frame is 7 in line 2; the first frame is 0 or 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_line_and_column(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(data)


def test_boxes_are_the_extent_of_the_points_cut_off_at_the_frame() -> None:
    landmarks = read(csv([row(1), row(2, left=-20, top=-10), row(3, left=260, top=200)]))
    boxes, filled = landmarks.boxes([0, 1, 1, 2], 300, 240)
    assert filled == 0
    assert boxes.dtype == np.float64
    assert boxes.tolist() == [[100, 50, 167, 117], [0, 0, 47, 57], [0, 0, 47, 57], [260, 200, 300, 240]]


def test_a_frame_without_a_face_takes_the_box_of_the_nearest_frame_of_the_whole_clip() -> None:
    # frame 4 is out of the picture; the nearest face is not always among the chosen frames
    faces = [row(1, left=1), row(2), row(3, success=False), row(4, left=5000), row(5, left=5), row(6, left=6)]
    landmarks = read(csv(faces))
    boxes, filled = landmarks.boxes([1, 2, 3, 5], 1280, 720)
    assert filled == 2
    assert boxes[:, 0].tolist() == [100, 100, 5, 6]


def test_a_face_in_fewer_than_half_of_the_chosen_frames_is_refused() -> None:
    landmarks = read(csv([row(frame, success=frame > 3) for frame in range(1, 7)]))
    assert landmarks.boxes([1, 2, 3, 4], 1280, 720)[1] == 2
    with pytest.raises(DataError, match=r"a\.csv: no face in 3 of 5 frames; at least half need a face; leave"):
        landmarks.boxes([0, 1, 2, 3, 4], 1280, 720)


def test_points_outside_the_picture_or_at_one_place_are_said_to_be_so() -> None:
    outside = [row(frame, left=5000) for frame in (1, 2)]
    flat = [row(frame) | dict.fromkeys(POINTS, "7") for frame in (1, 2, 3)]
    for rows, words in (
        (
            outside,
            r"a\.csv: the landmarks lie outside the 1280x720 picture in 2 of 2 frames; at least half need a face",
        ),
        (flat, r"a\.csv: the landmarks have no extent, all are at one place or in one line, in 3 of 3 frames"),
        (flat[:1], r"in 1 of 1 frame; at least half"),
    ):
        with pytest.raises(DataError, match=words):
            read(csv(rows)).boxes(range(len(rows)), 1280, 720)


def exchanged(face: dict[str, str]) -> dict[str, str]:
    return face | {f"{a}_{point}": face[f"{b}_{point}"] for a, b in ("xy", "yx") for point in range(68)}


def mirrored(face: dict[str, str], axis: str) -> dict[str, str]:
    return face | {f"{axis}_{point}": str(250 - float(face[f"{axis}_{point}"])) for point in range(68)}


def test_faces_that_do_not_stand_upright_are_refused() -> None:
    # chin and brows above each other, the chin 3 pixels off to either side: a face leans a little
    for chin in (-3, 3):
        face = row(1) | {f"x_{point}": "130" for point in range(17, 27)} | {"x_8": str(130 + chin)}
        read(csv([face])).boxes([0], 1280, 720)
        read(csv([mirrored(face, "x")])).boxes([0], 1280, 720)
        for wrong in (exchanged(face), mirrored(face, "y")):
            told = r"a\.csv: the brows are not above the chin in most frames: are its x and y columns exchanged\?"
            with pytest.raises(DataError, match=told):
                read(csv([wrong])).boxes([0], 1280, 720)


def test_half_of_the_faces_may_not_be_upright() -> None:
    faces = [row(1), mirrored(row(2), "y"), row(3) | {"success": "0"}]
    assert read(csv(faces)).boxes([0, 1], 1280, 720)[1] == 0
    with pytest.raises(DataError, match="the brows are not above the chin"):
        read(csv([*faces, mirrored(row(4), "y")])).boxes([0], 1280, 720)


def test_a_frame_beyond_the_rows_is_refused() -> None:
    landmarks = read(csv([row(1), row(2)]))
    for index in (2, -1):
        with pytest.raises(DataError, match=rf"a\.csv has rows for frames 0 to 1 and frame {index} is needed"):
            landmarks.boxes([0, index], 1280, 720)
    with pytest.raises(DataError, match=r"a\.csv: boxes of 0 frames are asked for"):
        landmarks.boxes([], 1280, 720)
