"""Computational sequences (.csd) as CMU's SDK writes them: HDF5 with features and intervals of each video.

The layout is ``/<root>/data/<video>/{features,intervals}`` and ``/<root>/metadata/<key>``, one string each (CMU
Multimodal SDK, ``computational_sequence/file_ops.py``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from torchmsaf.data.whole_files import whole_file
from torchmsaf.errors import DataError, in_one_line, require


class CsdWriter:
    """One open sequence, to which videos are added one by one.

    Args:
        data: the HDF5 group of the videos.
        path: of the file, for errors.
        compressed: whether what is added is compressed with gzip.
    """

    def __init__(self, data: Any, path: Path, compressed: bool) -> None:
        self._data, self._path, self._compressed = data, path, compressed

    def add(self, video: str, features: ArrayLike, intervals: ArrayLike) -> None:
        """Write one video as it is given; nothing is checked, so that broken files can be made.

        Args:
            video: its id, not there yet.
            features: (n, D) numbers, or (n, 1) byte strings for words.
            intervals: (n, 2) start and end in seconds.

        Raises:
            DataError: the video is there already, or cannot be written.
        """
        if video in self._data:
            raise DataError(f"{self._path}: video {video} is there already; a sequence has each video once")
        how = {"compression": "gzip"} if self._compressed else {}
        try:
            group = self._data.create_group(video)
            group.create_dataset("features", data=features, **how)
            group.create_dataset("intervals", data=intervals, **how)
        except OSError as error:
            raise _cannot_write(self._path, error) from error


@contextmanager
def csd_writer(
    path: Path, root: str, metadata: Mapping[str, object] | None = None, *, compressed: bool = False
) -> Iterator[CsdWriter]:
    """Write a sequence of any length video by video; the file is whole or not there.

    Args:
        path: of the file.
        root: name of the root group, e.g. ``"COVAREP"``.
        metadata: written under these keys as JSON, as the SDK does; ``root name`` is added.
        compressed: gzip, as in the labels of CMU-MOSI; its words are not compressed.

    Yields:
        Takes the videos.

    Raises:
        DataError: the file cannot be written.
        MissingDependencyError: h5py is not installed.
    """
    h5py = require("h5py", "sentiment")
    try:
        with whole_file(path) as part:
            file = h5py.File(part, "w")
            try:
                group = file.create_group(root)
                kept = group.create_group("metadata")
                for key, value in {"root name": root, **(metadata or {})}.items():
                    kept.create_dataset(key, (1,), dtype=h5py.string_dtype())[0] = json.dumps(value)
                yield CsdWriter(group.create_group("data"), path, compressed)
            finally:
                _close(file, path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_csd(
    path: Path,
    root: str,
    videos: Mapping[str, tuple[ArrayLike, ArrayLike]],
    metadata: Mapping[str, object] | None = None,
    *,
    compressed: bool = False,
) -> None:
    """Write a sequence that fits in memory.

    Args:
        path: of the file.
        root: name of the root group.
        videos: id to features (n, D) and intervals (n, 2) in seconds.
        metadata: as for ``csd_writer``.
        compressed: as for ``csd_writer``.

    Raises:
        DataError: the file cannot be written.
        MissingDependencyError: h5py is not installed.
    """
    with csd_writer(path, root, metadata, compressed=compressed) as writer:
        for video, (features, intervals) in videos.items():
            writer.add(video, features, intervals)


def _close(file: Any, path: Path) -> None:
    try:
        file.close()
    except RuntimeError as error:  # h5py's when what it held back does not fit on the disk
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> DataError:
    number = re.search(r"errno = (\d+)", str(error))  # in HDF5's own account
    why = os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or in_one_line(error)
    return DataError(f"{path} cannot be written: {why}; choose another folder")
