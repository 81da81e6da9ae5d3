"""The ``.skeleton`` text files of NTU RGB+D: what the Kinect's body tracker wrote, frame by frame.

A file is a number of frames; then for each frame a number of bodies; then for each body ten values, the number of joints
and a line of twelve values for each joint. The order of the values is that of the data set's own ``read_skeleton_file.m``
(https://github.com/shahroudy/NTURGB-D).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.ntu import JOINTS
from torchmsaf.errors import DataError

# of a joint's line; positions in metres from the camera, pixels in the depth and in the RGB frames
JOINT_VALUES = (
    "x", "y", "z", "depth x", "depth y", "color x", "color y", "orientation w", "orientation x", "orientation y",
    "orientation z", "tracking state",
)  # fmt: skip
# of a body's line, after its id
BODY_VALUES = (
    "clipped edges", "left hand confidence", "left hand state", "right hand confidence", "right hand state", "restricted",
    "lean x", "lean y", "tracking state",
)  # fmt: skip
# far beyond the data set's clips, of some hundred frames and a few bodies
MOST_BYTES = 2**26
MOST_FRAMES = 20_000
MOST_CELLS = 20_000  # bodies times frames; each makes 25 joints
_TOGETHER = 2**12  # lines whose numbers are read at once


@dataclass(frozen=True, eq=False)
class Body:
    """One body that the tracker saw, over all frames of the file.

    Attributes:
        id: the tracker's number of it; a person who is lost and found again gets another one.
        xyz: (T, 25, 3) float32, metres from the camera, as written; NaN where the body is not in a frame, and where the
            file has no finite number.
        tracked: (T,) bool: the body is in the frame, all its positions are finite, and not all of them are zero.
        place: (T,) int16: its place among the bodies of the frame, from 0; −1 = it is not there.
        joints: (T, 25, 12) float32, in the order of ``JOINT_VALUES``, NaN where it is not there; None unless asked for.
        values: (T, 9) float32, in the order of ``BODY_VALUES``, NaN where it is not there; None unless asked for.
    """

    id: int
    xyz: NDArray[np.float32]
    tracked: NDArray[np.bool_]
    place: NDArray[np.int16]
    joints: NDArray[np.float32] | None = None
    values: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class SkeletonFile:
    """All of a file.

    Attributes:
        name: for messages.
        frames: T.
        bodies: in the order in which they first appear; may be empty.
    """

    name: str
    frames: int
    bodies: tuple[Body, ...]


def read_skeleton(data: bytes | str | Path, *, name: str | None = None, full: bool = False) -> SkeletonFile:
    """Read a ``.skeleton`` file.

    Args:
        data: the file's bytes, or its path.
        name: of the file, for messages; None = that of the path.
        full: keep all values of each joint and of each body, not the positions alone.

    Returns:
        The bodies with their positions. float32 keeps the seven digits that the files have.

    Raises:
        DataError: the file cannot be read, or has more bytes, frames or bodies than a clip; or a line is not as it should
            be, and the message has its number.
    """
    name = name or (Path(data).name if isinstance(data, str | Path) else "the skeleton file")
    most = 1 + MOST_FRAMES + MOST_CELLS * (2 + len(JOINTS))  # lines
    reader = _Reader(name, _bytes(data, name).split(b"\n", most + 1))
    frames = reader.number("the number of frames")
    if frames > MOST_FRAMES:
        raise _too_large(name, f"{frames} frames; {MOST_FRAMES} are the most")
    if len(reader.lines) > most + 1:
        raise _too_large(name, f"more than {most} lines")
    for frame in range(frames):
        for place in range(reader.number(f"the number of bodies in frame {frame + 1}")):
            reader.body(frame, place)
    reader.end(frames)
    return SkeletonFile(name, frames, reader.bodies(frames, full=full))


@dataclass
class _Reader:
    """Goes through the lines once and notes where bodies are; their numbers are read together in the end."""

    name: str
    lines: list[bytes]
    at: int = 0
    ids: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the index of each body's own line

    def wrong(self, line: int, said: str) -> DataError:
        return DataError(f"{self.name}: line {line + 1}: {said}; get the file again")

    def shown(self, line: int) -> str:
        return repr(self.lines[line][:40].decode("latin-1").strip())

    def line(self, what: str) -> bytes:
        if self.at >= len(self.lines) or (self.at == len(self.lines) - 1 and not self.lines[self.at]):
            raise self.wrong(self.at, f"the file ends where {what} is needed; it is cut off")
        self.at += 1
        return self.lines[self.at - 1]

    def number(self, what: str) -> int:
        text = self.line(what).strip()
        if not text.isdigit() or len(text) > 9:
            raise self.wrong(self.at - 1, f"{what} is needed, a whole number; {self.shown(self.at - 1)} is there")
        return int(text)

    def body(self, frame: int, place: int) -> None:
        start = self.at
        of = f"of body {place + 1} in frame {frame + 1}"
        parts = self.line(f"the line {of}").split()
        if len(parts) != 1 + len(BODY_VALUES) or not parts[0].isdigit() or len(parts[0]) > 20:
            said = f"the ten values {of} are needed, the first one its id; {self.shown(start)} is there"
            raise self.wrong(start, said)
        if (count := self.number(f"the number of joints {of}")) != len(JOINTS):
            raise self.wrong(self.at - 1, f"{count} joints {of}; {len(JOINTS)} are needed")
        self.at += len(JOINTS)
        if self.at > len(self.lines):
            raise self.wrong(len(self.lines) - 1, f"the file ends within the joints {of}; it is cut off")
        self.ids.append(int(parts[0]))
        self.frames.append(frame)
        self.places.append(place)
        self.starts.append(start)

    def end(self, frames: int) -> None:
        for index in range(self.at, len(self.lines)):
            if self.lines[index].strip():
                said = f"{self.shown(index)} follows the last of {frames} frames; nothing should"
                raise self.wrong(index, said)

    def bodies(self, frames: int, *, full: bool) -> tuple[Body, ...]:
        kinds = {number: index for index, number in enumerate(dict.fromkeys(self.ids))}
        if len(kinds) * frames > MOST_CELLS:
            said = f"{len(kinds)} bodies in {counted(frames, 'frame')}; {MOST_CELLS} is the most for their product"
            raise _too_large(self.name, said)
        which = np.array([kinds[number] for number in self.ids], np.intp)
        when = np.array(self.frames, np.intp)
        place = np.full((len(kinds), frames), -1, np.int16)
        for index, (body, frame) in enumerate(zip(which, when, strict=True)):
            if place[body, frame] >= 0:
                said = f"the body {self.ids[index]} is in frame {frame + 1} twice"
                raise self.wrong(self.starts[index], said)
            place[body, frame] = self.places[index]
        joints = self.spread(self.joint_values(), kinds, which, when, frames)
        values = self.spread(self.body_values(), kinds, which, when, frames)
        return tuple(
            _body(number, joints[index], values[index], place[index], full=full) for number, index in kinds.items()
        )

    def spread(
        self, rows: NDArray[np.float32], kinds: dict[int, int], which: NDArray[Any], when: NDArray[Any], frames: int
    ) -> NDArray[np.float32]:
        out = np.full((len(kinds), frames, *rows.shape[1:]), np.nan, np.float32)
        out[which, when] = rows
        return out

    def joint_values(self) -> NDArray[np.float32]:
        first = 2  # after the body's own line and the number of joints
        where = [at for start in self.starts for at in range(start + first, start + first + len(JOINTS))]
        return self.numbers(where, len(JOINT_VALUES), "a joint").reshape(-1, len(JOINTS), len(JOINT_VALUES))

    def body_values(self) -> NDArray[np.float32]:
        return self.numbers(self.starts, 1 + len(BODY_VALUES), "a body")[:, 1:]

    def numbers(self, where: list[int], width: int, what: str) -> NDArray[np.float32]:
        """The numbers of these lines, (lines, width)."""
        out = np.empty((len(where), width), np.float32)
        for first in range(0, len(where), _TOGETHER):
            out[first : first + _TOGETHER] = self.some_numbers(where[first : first + _TOGETHER], width, what)
        return out

    def some_numbers(self, where: list[int], width: int, what: str) -> NDArray[np.float32]:
        """All at once, and line by line only to name the wrong one."""
        for at in where:
            if self.lines[at].strip().count(b" ") != width - 1 and len(self.lines[at].split()) != width:
                said = f"{width} numbers of {what} are needed; {len(self.lines[at].split())} are there"
                raise self.wrong(at, said)
        table = _parse(b" ".join([self.lines[at] for at in where]))
        if table is None or table.size != len(where) * width:
            for at in where:
                found = _parse(self.lines[at])
                if found is None or found.size != width:
                    raise self.wrong(at, f"{width} numbers of {what} are needed; {self.shown(at)} is there")
            raise DataError(f"{self.name}: the numbers of {what} cannot be read; get the file again")
        with np.errstate(over="ignore"):
            return table.reshape(-1, width).astype(np.float32)


def _body(
    number: int, joints: NDArray[np.float32], values: NDArray[np.float32], place: NDArray[np.int16], *, full: bool
) -> Body:
    xyz = joints[..., :3].copy()
    finite = np.isfinite(xyz)
    xyz[~finite] = np.nan
    tracked = np.asarray(finite.all(axis=(1, 2)) & xyz.any(axis=(1, 2)))
    return Body(number, xyz, tracked, place, joints if full else None, values if full else None)


def _bytes(data: bytes | str | Path, name: str) -> bytes:
    if not isinstance(data, bytes):
        try:
            with Path(data).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}; give the file's own path") from error
    check_size(len(data), name)
    return data


def check_size(size: int, name: str) -> None:
    """Before a file is read, or unpacked.

    Args:
        size: of the file, bytes.
        name: of the file, for the message.

    Raises:
        DataError: no ``.skeleton`` file is so large.
    """
    if size > MOST_BYTES:
        raise DataError(f"{name} has more than {MOST_BYTES} bytes; a .skeleton file is much smaller: get it again")


def _too_large(name: str, said: str) -> DataError:
    return DataError(f"{name}: {said}; a clip has some hundred frames and a few bodies: cut it, or get the file again")


def _parse(text: bytes) -> NDArray[np.float64] | None:
    """Numbers between blanks; None = there is something else. Older NumPy warns where newer raises ValueError."""
    if not text.strip():
        return np.empty(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            return np.fromstring(text.decode("latin-1"), dtype=np.float64, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
