"""Landmark files as OpenFace 2.1.0 wrote them for RAVDESS.

Comma-separated with a space after each comma, one row a frame. The column families and their order are those of
https://github.com/TadasBaltrusaitis/OpenFace/wiki/Output-Format; as in the files of
https://zenodo.org/records/3255102, x_0 is column 298, counted from 1. The drawn points fill x_0 ... y_67. Gaze, pose,
points in space, shape parameters and action units are 0: nothing measures them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from torchmsaf.data.synth.faces import Array

_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 28, 45)  # the action units; 28 has no intensity


def _series(names: str, count: int) -> Iterator[str]:
    return (f"{name}_{number}" for name in names.split() for number in range(count))


_BEFORE = (
    *(f"gaze_{eye}_{axis}" for eye in (0, 1) for axis in "xyz"),
    *_series("eye_lmk_x eye_lmk_y eye_lmk_X eye_lmk_Y eye_lmk_Z", 56),
    *(f"pose_{kind}{axis}" for kind in "TR" for axis in "xyz"),
)
_AFTER = (
    *_series("X Y Z", 68),
    *(f"p_{name}" for name in ("scale", "rx", "ry", "rz", "tx", "ty")),
    *_series("p", 34),
    *(f"AU{unit:02}_r" for unit in _UNITS if unit != 28),
    *(f"AU{unit:02}_c" for unit in _UNITS),
)
COLUMNS = ("frame", "face_id", "timestamp", "confidence", "success", *_BEFORE, *_series("x y", 68), *_AFTER)


def landmark_text(points: Array, frame_rate: Fraction) -> str:
    """The text of a landmark file.

    Args:
        points: ``(T, 68, 2)`` x and y in pixels; written with one decimal.
        frame_rate: frames a second, for the time stamps.
    """
    before, after = "0, " * len(_BEFORE), ", 0" * len(_AFTER)
    lines = [", ".join(COLUMNS)]
    for number, row in enumerate(points.transpose(0, 2, 1).reshape(len(points), -1).tolist()):
        places = ", ".join([f"{value:.1f}" for value in row])
        lines.append(f"{number + 1}, 0, {float(number / frame_rate):.3f}, 0.98, 1, {before}{places}{after}")
    return "\n".join(lines) + "\n"
