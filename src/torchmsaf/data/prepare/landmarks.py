"""Facial landmarks as OpenFace 2 writes them: one csv a clip, one row a frame, 68 points in pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.frames import nearest_boxes
from torchmsaf.errors import DataError

POINTS = 68
# x_0 is in pixels; X_0 is in millimetres, and another column
COLUMNS = ("frame", "success", *(f"{axis}_{point}" for axis in "xy" for point in range(POINTS)))
BROWS, CHIN = slice(17, 27), 8  # points
# the chin of an upright face is 0.8 or more of the face's height below the brows, that of exchanged columns about 0
LOWER = 0.25
# C++ programs write "not a number" in several ways: nan, -nan, -nan(ind)
_NAN = re.compile(r"[+-]?nan(\(\w*\))?", re.IGNORECASE)


@dataclass(frozen=True)
class Landmarks:
    """Points of one face in each frame of a clip.

    Attributes:
        name: what errors call the file.
        x: ``(rows, 68)`` pixels from the left edge.
        y: ``(rows, 68)`` pixels from the top edge.
        success: ``(rows,)``, whether a face was found.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    success: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.success)

    def boxes(self, indices: Sequence[int], width: int, height: int) -> tuple[NDArray[np.float64], int]:
        """The box around the points of each chosen frame, cut off at the frame's edges.

        A frame has no face where ``success`` is False, a point is not finite, the points have no extent, or nothing of
        the box is in the frame. It gets the box of the nearest frame of the whole clip that has a face; of two at one
        distance, the earlier.

        Args:
            indices: T frame numbers, from 0: row numbers here.
            width: of the frames, in pixels.
            height: of the frames, in pixels.

        Returns:
            ``(T, 4)`` left, top, right, bottom in pixels, and how many of the T have their box from another frame.

        Raises:
            DataError: a frame number without a row, no frame number at all, a face in fewer than half of the frames, or
                faces that do not stand upright in most of the clip's.
        """
        if not len(indices):
            raise DataError(f"{self.name}: boxes of 0 frames are asked for; 1 or more is needed")
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.min() < 0 or wanted.max() >= len(self):
            wrong = wanted.min() if wanted.min() < 0 else wanted.max()
            raise DataError(
                f"{self.name} has rows for frames 0 to {len(self) - 1} and frame {wrong} is needed; give the landmarks "
                "of this very clip"
            )
        with np.errstate(invalid="ignore"):
            edges = [self.x.min(axis=1), self.y.min(axis=1), self.x.max(axis=1), self.y.max(axis=1)]
        boxes = np.stack(edges, axis=1)
        found = self.success & np.isfinite(boxes).all(axis=1)
        wide = found & _extended(boxes)
        self._check_upright(wide)
        boxes = np.clip(boxes, 0, [width, height, width, height])
        own = wide & _extended(boxes)
        filled = int((~own[wanted]).sum())
        if 2 * filled > len(wanted):
            why = self._missing(found[wanted], wide[wanted], own[wanted], f"{width}x{height}")
            raise DataError(f"{self.name}: {why}; at least half need a face; leave the clip out")
        return nearest_boxes(boxes, own, wanted), filled

    def _check_upright(self, wide: NDArray[np.bool_]) -> None:
        y = self.y[wide]
        tall = np.ptp(y, axis=1)
        upright = y[:, CHIN] - y[:, BROWS].mean(axis=1) > LOWER * tall
        if 2 * upright.sum() < len(y):
            raise DataError(
                f"{self.name}: the brows are not above the chin in most frames: are its x and y columns exchanged?"
            )

    @staticmethod
    def _missing(found: NDArray[np.bool_], wide: NDArray[np.bool_], own: NDArray[np.bool_], picture: str) -> str:
        """What most of the frames without a face lack."""
        of = f"of {counted(len(own), 'frame')}"
        none, flat, outside = (int(one.sum()) for one in (~found, found & ~wide, wide & ~own))
        if outside > max(none, flat):
            return f"the landmarks lie outside the {picture} picture in {outside} {of}"
        if flat > none:
            return f"the landmarks have no extent, all are at one place or in one line, in {flat} {of}"
        return f"no face in {none + flat + outside} {of}"


def _extended(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    extended: NDArray[np.bool_] = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return extended


def read_landmarks(source: str | Path | BinaryIO, name: str) -> Landmarks:
    """Read the csv that OpenFace 2 writes for a clip.

    Columns are found by name, in any order; blanks around names and numbers do not matter, and other columns are passed
    over.

    Args:
        source: a file's path, or an open binary file.
        name: what errors call the file.

    Raises:
        DataError: it cannot be opened or is not text; it is empty or has no header; a column is missing or is there
            twice; a row has another number of fields or something that is not a number; ``frame`` does not rise by 1
            from row to row, or starts neither at 0 nor at 1.
    """
    lines = _lines(source, name)
    pick, fields = _columns(lines[0], name) if lines else (None, 0)
    numbered = [(number, line) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    if pick is None or not numbered:
        raise DataError(f"{name} is empty: {'a header and no row' if pick else 'no header'}; one row a frame is needed")
    values = np.empty((len(numbered), len(COLUMNS)))
    for row, (number, line) in enumerate(numbered):
        texts = line.split(",")
        if len(texts) != fields:
            raise DataError(
                f"{name}: line {number} has {counted(len(texts), 'field')} and the header {fields}; the file is damaged, "
                "get it again"
            )
        chosen = pick(texts)
        try:
            values[row] = tuple(map(float, chosen))
        except ValueError:
            values[row] = [_number(text, column, number, name) for column, text in zip(COLUMNS, chosen, strict=True)]
    _check_frames(values[:, 0], [number for number, _ in numbered], name)
    points = values[:, 2:].reshape(-1, 2, POINTS)
    return Landmarks(name, points[:, 0], points[:, 1], values[:, 1] > 0)


def _lines(source: str | Path | BinaryIO, name: str) -> list[str]:
    try:
        data = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not a text file; the csv that OpenFace writes is needed") from error
    return text.splitlines() if text.strip() else []


def _columns(line: str, name: str) -> tuple[Callable[[Sequence[str]], tuple[str, ...]], int]:
    """What picks ``COLUMNS`` out of a row's fields, and how many fields a row has."""
    header = [text.strip() for text in line.split(",")]
    missing = [column for column in COLUMNS if column not in header]
    if len(missing) == len(COLUMNS):
        raise DataError(
            f"{name} has no header of OpenFace in its first line; the csv with frame, x_0 and y_0 is needed"
        )
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(f"{name} lacks the columns {shown}; run OpenFace with 2-D landmarks (-2Dfp)")
    twice = [column for column in COLUMNS if header.count(column) > 1]
    if twice:
        raise DataError(f"{name} has the column {twice[0]} more than once; leave one of them")
    return itemgetter(*(header.index(column) for column in COLUMNS)), len(header)


def _number(text: str, column: str, line: int, name: str) -> float:
    if _NAN.fullmatch(text.strip()):
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise DataError(
            f"{name}: line {line} has {text.strip()[:20]!r} as {column}; a number is needed; get the file again"
        ) from None


def _check_frames(frame: NDArray[np.float64], lines: list[int], name: str) -> None:
    """Row i has to be frame i of the clip: with several faces, or with frames left out, it would not be."""
    if frame[0] not in (0, 1):
        raise DataError(
            f"{name}: frame is {frame[0]:g} in line {lines[0]}; the first frame is 0 or 1; get the file again"
        )
    wrong = np.flatnonzero(np.diff(frame) != 1)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{name}: frame goes from {frame[row]:g} to {frame[row + 1]:g} in line {lines[row + 1]}; it has to rise by 1, "
            "one row a frame and one face a clip"
        )
