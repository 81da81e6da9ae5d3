"""Computational sequences: the HDF5 files (.csd) in which CMU-MOSI and CMU-MOSEI come.

A file has one root group. Below it, ``data`` has one group a video with ``features``, one row each of numbers or one
word, and ``intervals``, the seconds at which each row starts and ends. ``metadata`` beside ``data`` says what the rows
are; genuine files have junk there, so nothing depends on it.

The format: Zadeh et al. 2018, "Multi-attention Recurrent Network for Human Communication Comprehension" (AAAI), and
the CMU Multimodal SDK, https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK.
"""

# n rows, D features

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.array_files import BROKEN
from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.raw import find_files
from torchmsaf.errors import DataError, in_one_line, require

Kind = Literal["words", "phones", "labels", "features"]

MOST_BYTES = 2**31  # of one video's rows; ten minutes of 74 features at 100 rows a second have 2**25
_SAMPLED = 25  # videos whose rows say how wide the rows of the file are
_SEGMENT = re.compile(r"(.+)\[([0-9]+)\]")  # the SDK's name of a piece of a video
_AGAIN = "download the file again"


@dataclass(frozen=True, eq=False)
class Rows:
    """What one video has in one computational sequence, in the order of the file, which need not be that of time.

    Attributes:
        features: ``(n, D)`` float32 or float64 as in the file, where ±inf and NaN do occur, or ``(n,)`` words as ``str``.
        intervals: ``(n, 2)``, start and end of each row in seconds, finite, the end never before the start, but for
            labels. Rows may be moments (start = end), overlap, leave gaps, and start below 0.
    """

    features: NDArray[Any]
    intervals: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.intervals)


@dataclass(eq=False)
class ComputationalSequence:
    """One ``.csd`` file. It is opened at the first reading, and again after ``close``; it can be pickled.

    Attributes:
        path: the file.
        root: the name of its root group, without quotes and blanks at the ends.
        kind: ``"words"`` for text, or ``"phones"`` where the file's or the root's name has "phon" in it; ``"labels"`` for
            numbers where one of the names has "label" in it; else ``"features"``.
        dimensions: D, the features a row; 1 for words. Where rows of videos differ, what most of those looked at have.
        videos: the video ids in natural order.
    """

    path: Path
    root: str
    kind: Kind
    dimensions: int
    videos: tuple[str, ...] = field(repr=False)
    _group: str = field(repr=False)  # the root group as it is spelled in the file
    _entries: dict[str, tuple[str, ...]] = field(repr=False)  # video -> names of its groups, in order
    _file: Any = field(default=None, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Look into a file: which videos it has, and of what.

        Raises:
            DataError: the file is not there, is not HDF5 or is cut off; its groups are not those of one computational
                sequence; it has no video, or none of the videos looked at has features.
            MissingDependencyError: h5py is not installed.
        """
        path = Path(path)
        with _opened(path) as file:
            try:
                return cls._described(path, file)
            except BROKEN as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{path} is damaged: {in_one_line(error)}; {_AGAIN}") from error

    @classmethod
    def _described(cls, path: Path, file: Any) -> Self:
        groups = [name for name in file if _has_data(file, name)]
        if len(groups) != 1:
            has = f"the groups {', '.join(map(repr, list(file)[:5]))}" if len(file) else "nothing"
            what = f"{len(groups)} groups with 'data'" if groups else f"no group with 'data', but {has}"
            raise DataError(f"{path} is no computational sequence: it has {what}; one root group with 'data' is needed")
        data = file[groups[0]]["data"]
        entries = _by_video(list(data))
        if not entries:
            raise DataError(f"{path} is empty: its 'data' has no video; {_AGAIN}")
        chosen = list(entries)[:: max(1, len(entries) // _SAMPLED)]
        seen = Counter(look for video in chosen if (look := _look(data, entries[video][0])) is not None)
        if not seen:
            raise DataError(f"{path}: no 'features' in {counted(len(chosen), 'video')} of {len(entries)}; {_AGAIN}")
        text, dimensions = seen.most_common(1)[0][0]
        root = groups[0].strip(" \t\r\n'\"")
        names = f"{root} {path.name}".lower()
        kind: Kind = "phones" if text and "phon" in names else "words" if text else "features"
        if not text and "label" in names:
            kind = "labels"
        return cls(path, root, kind, dimensions, tuple(entries), groups[0], entries)

    def read(self, video: str) -> Rows:
        """The rows of one video; pieces that are in the file as ``video[0]``, ``video[1]`` are joined.

        Args:
            video: one of ``videos``.

        Raises:
            DataError: the file has no such video, or what it has of it cannot be used: damaged, no rows, features or
                intervals missing or of another shape, width or type, intervals that are not finite or end before they
                start (of labels these come as they are). Other videos of the file may be sound.
        """
        if video not in self._entries:
            raise DataError(f"{self.path} has no video {video!r}; it has {counted(len(self.videos), 'video')}")
        pieces = []
        for entry in self._entries[video]:
            try:
                pieces.append(self._piece(entry))
            except BROKEN as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(
                    f"{self.path}, video {entry!r}: cannot be read: {in_one_line(error)}; {_AGAIN}, or leave the video out"
                ) from error
        if len(pieces) == 1:
            return pieces[0]
        features, intervals = zip(*((piece.features, piece.intervals) for piece in pieces), strict=True)
        return Rows(np.concatenate(features), np.concatenate(intervals))

    def _piece(self, entry: str) -> Rows:
        where = f"{self.path}, video {entry!r}"
        data = self._root()["data"]
        if not _is_group(data, entry):
            raise DataError(f"{where}: is no group with 'features' and 'intervals'; leave the video out")
        features = _array(data[entry], "features", where)
        intervals = _array(data[entry], "intervals", where)
        if intervals.shape == (2,):  # a single row, as old versions of the SDK wrote it
            intervals = intervals[None]
            features = features[None] if features.ndim == 1 else features
        if intervals.ndim != 2 or intervals.shape[1] != 2 or intervals.dtype.kind not in "fiu":
            raise DataError(
                f"{where}: the intervals are {intervals.dtype} of the shape {intervals.shape}; (rows, 2) numbers are needed"
            )
        if not features.ndim or len(features) != len(intervals):
            raise DataError(
                f"{where}: {counted(len(features) if features.ndim else 0, 'row')} of features and "
                f"{counted(len(intervals), 'interval')}; each row needs its interval; leave the video out"
            )
        if not len(features):
            raise DataError(f"{where}: has no rows; leave the video out")
        times = intervals.astype(np.float64)
        text = self.kind in ("words", "phones")
        if self.kind != "labels":  # each label is of an utterance, which is refused alone
            _check_times(times, where)
        return Rows(_words(features, where) if text else _numbers(features, self.dimensions, where), times)

    @property
    def metadata(self) -> dict[str, str]:
        """What is said about the file, as far as it can be read. Not to be relied on; read each time it is asked for."""
        with suppress(*BROKEN):
            return _metadata(self._root())
        return {}

    def _root(self) -> Any:
        if self._file is None:
            self._file = _opened(self.path)
        return self._file[self._group]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def find_sequences(raw: str | Path) -> list[ComputationalSequence]:
    """Every ``.csd`` file in a folder and its folders, in natural order, or the one file.

    Hidden files and folders are left out. The list is empty where a folder has no such file.

    Raises:
        DataError: ``raw`` does not exist; a file lies in an archive; a file is no computational sequence.
        MissingDependencyError: h5py is not installed.
    """
    raw = Path(raw)
    if raw.suffix.lower() == ".csd" and not raw.is_dir():
        return [ComputationalSequence.open(raw)]
    files = [file for file in find_files(raw)[0] if file.name.lower().endswith(".csd")]
    packed = [file.where for file in files if file.member is not None]
    if packed:
        raise DataError(f"{packed[0]} lies in an archive; HDF5 files are read from a folder: unpack it there")
    return [ComputationalSequence.open(file.path) for file in files]


def _opened(path: Path) -> Any:
    h5py = require("h5py", "sentiment")
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; a .csd file is needed")
    try:
        return h5py.File(path, "r", locking=False)  # file systems without locks are no obstacle to reading
    except BROKEN as error:
        raise DataError(f"{path} is no HDF5 file, or is cut off: {in_one_line(error)}; {_AGAIN}") from error


def _is_group(parent: Any, name: str) -> bool:
    """Whether a group of this name lies in this very file: links could lead to any file of the machine."""
    h5py = require("h5py", "sentiment")
    return isinstance(parent.get(name, getlink=True), h5py.HardLink) and parent.get(name, getclass=True) is h5py.Group


def _has_data(file: Any, name: str) -> bool:
    return _is_group(file, name) and _is_group(file[name], "data")


def _by_video(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Video id -> the names of its groups, pieces by number; videos in natural order."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _SEGMENT.fullmatch(name)
        video, number = (match[1], int(match[2])) if match else (name, -1)
        found.setdefault(video, []).append((number, name))
    return {video: tuple(name for _, name in sorted(found[video])) for video in sorted(found, key=natural_key)}


def _look(data: Any, entry: str) -> tuple[bool, int] | None:
    """Whether the features are text, and how many a row has; None where there are none."""
    if not _is_group(data, entry):
        return None
    features, intervals = (_dataset(data[entry], name) for name in ("features", "intervals"))
    if features is None:
        return None
    if require("h5py", "sentiment").check_string_dtype(features.dtype) is not None:
        return True, 1
    one_row = len(features.shape) == 1 and intervals is not None and intervals.shape == (2,)
    return False, int(features.shape[-1]) if len(features.shape) > 1 or one_row else 1


def _metadata(root: Any) -> dict[str, str]:
    """What can be read of it as text. The SDK writes JSON; others write anything."""
    found: dict[str, str] = {}
    if not _is_group(root, "metadata"):
        return found
    for name in root["metadata"]:
        try:
            values = np.asarray(_array(root["metadata"], name, "")).reshape(-1)
        except BROKEN:
            continue
        text = _text(values[0]) if len(values) else ""
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            said = text
        found[name] = said if isinstance(said, str) else text
    return found


def _dataset(group: Any, name: str) -> Any | None:
    """The array of this name, if its bytes lie in this very file."""
    h5py = require("h5py", "sentiment")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    found = group[name]
    own = isinstance(found, h5py.Dataset) and not found.is_virtual and not found.external and found.shape is not None
    return found if own else None


def _array(group: Any, name: str, where: str) -> NDArray[Any]:
    dataset = _dataset(group, name)
    if dataset is None and group.get(name, getlink=True) is None:
        raise DataError(f"{where}: has no {name!r}; {_AGAIN}, or leave the video out")
    if dataset is None:
        raise DataError(f"{where}: {name!r} is no array in the file itself; leave the video out")
    if dataset.size * dataset.dtype.itemsize > MOST_BYTES:
        raise DataError(
            f"{where}: {name!r} says that it has the shape {dataset.shape}, more than {MOST_BYTES} bytes; {_AGAIN}"
        )
    return np.asarray(dataset[()])


def _check_times(times: NDArray[np.float64], where: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(times).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{where}: {counted(len(wrong), 'interval')} of {len(times)} not finite, the first in row {wrong[0]}; "
            "seconds are needed; leave the video out"
        )
    wrong = np.flatnonzero(times[:, 1] < times[:, 0])
    if len(wrong):
        start, end = times[wrong[0]]
        raise DataError(
            f"{where}: {counted(len(wrong), 'interval')} of {len(times)} end before they start, the first in row "
            f"{wrong[0]}, from {start:g} s to {end:g} s; leave the video out"
        )


def _words(features: NDArray[Any], where: str) -> NDArray[Any]:
    words = features.reshape(-1).tolist()
    if len(words) != len(features) or not all(isinstance(word, str | bytes) for word in words):
        raise DataError(
            f"{where}: the features are {features.dtype} of the shape {features.shape}; one word a row is needed"
        )
    return np.array([_text(word) for word in words], dtype=np.str_)


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _numbers(features: NDArray[Any], dimensions: int, where: str) -> NDArray[Any]:
    if features.ndim == 1:
        features = features[:, None]
    if features.dtype.kind not in "fiub" or features.ndim != 2 or features.shape[1] != dimensions:
        raise DataError(
            f"{where}: the features are {features.dtype} of the shape {features.shape}; the file has {dimensions} numbers "
            "a row; leave the video out"
        )
    narrow = features.dtype.kind == "f" and features.dtype.itemsize <= 4
    return features.astype(np.float32 if narrow else np.float64, copy=False)
