"""Small files in the format of CMU-MOSEI's computational sequences, whole and spoiled, for the tests of others.

The names, roots and types of the files are those of ``torchmsaf.data.synth.mosei``, which says what of them is a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchmsaf.data.synth.csd import write_csd

VIDEOS = ("-Zq0aB3xY_9", "_1cD2eF3gH4", "kLmN5oP6qR7")  # one for each part
FOLDS = {"train": [VIDEOS[0]], "validation": [VIDEOS[1]], "test": [VIDEOS[2]]}
FILES = {
    "words": "CMU_MOSEI_TimestampedWords.csd",
    "video": "CMU_MOSEI_VisualFacet42.csd",
    "audio": "CMU_MOSEI_COVAREP.csd",
    "labels": "CMU_MOSEI_Labels.csd",
}
ROOTS = {"words": "words", "video": "FACET 4.2", "audio": "COVAREP", "labels": "All Labels"}
SAID = ("sp", "this", "Movie", "sp", "was", "really", "good", "sp", "i", "hate", "it", "sp")  # half a second each
UTTERANCES = ((0.5, 4.0), (4.0, 5.5))  # of each video; their sentiment is 2 and -1 2/3
AUDIO, VIDEO = 74, 35  # features
AUDIO_RATE, VIDEO_RATE = 20, 10  # rows a second, of 6 seconds
Rows = tuple[np.ndarray, np.ndarray]


def words_rows() -> Rows:
    """Twelve words of half a second."""
    edges = np.arange(len(SAID) + 1) / 2
    return np.array(SAID, dtype="S32")[:, None], np.stack([edges[:-1], edges[1:]], axis=1)


def labels_rows() -> Rows:
    """Two utterances: sentiment and six emotions, float32 as in the real files."""
    features = np.zeros((2, 7), dtype=np.float32)
    features[:, 0] = 2, -5 / 3
    features[:, 1] = 4 / 3, 0
    return features, np.array(UTTERANCES, dtype=np.float32)


def feature_rows(number: int, width: int, rate: int) -> Rows:
    """Six seconds of a video: feature 0 is the number of the row, feature 1 never changes, the others are drawn."""
    features = np.random.default_rng(number).standard_normal((6 * rate, width)).astype(np.float32)
    features[:, 0] = np.arange(6 * rate)
    features[:, 1] = 3.5
    edges = np.arange(6 * rate + 1) / rate
    return features, np.stack([edges[:-1], edges[1:]], axis=1)


def rows_of(kind: str, number: int) -> Rows:
    """What ``kind`` of ``FILES`` has of the video ``VIDEOS[number]``."""
    if kind == "words":
        return words_rows()
    if kind == "labels":
        return labels_rows()
    if kind == "audio":
        return feature_rows(number, AUDIO, AUDIO_RATE)
    return feature_rows(10 + number, VIDEO, VIDEO_RATE)


def write_file(path: Path, kind: str, changed: Mapping[str, Rows | None] | None = None) -> Path:
    """One file of the three videos.

    Args:
        path: of the file, or the folder it gets its own name in.
        kind: ``words``, ``video``, ``audio`` or ``labels``.
        changed: other rows of a video, or None for a video that is not in it; more videos.
    """
    path = path / FILES[kind] if path.is_dir() else path
    rows: dict[str, Rows | None] = {video: rows_of(kind, number) for number, video in enumerate(VIDEOS)}
    rows |= changed or {}
    junk = dict.fromkeys(("computational sequence description", "dataset name", "creator"), "asdfasdf")
    kept = {video: one for video, one in rows.items() if one is not None}
    write_csd(path, ROOTS[kind], kept, junk, compressed=kind == "labels")
    return path


def write_corpus(folder: Path, **changed: Mapping[str, Rows | None]) -> Path:
    """All four files in a folder.

    Args:
        folder: made if it is not there.
        **changed: by kind, as for ``write_file``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind in FILES:
        write_file(folder, kind, changed.get(kind))
    return folder


def truncate(path: Path, part: float = 0.5) -> Path:
    """Leave only the first part of a file, as a download that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    return path


def write_other_kind(path: Path) -> Path:
    """A file that is no HDF5: the page that a server sends in place of what it no longer has."""
    path.write_bytes(b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n" * 20)
    return path


def without(path: Path, video: str, what: str = "intervals") -> Path:
    """Take ``features`` or ``intervals`` of a video out of a file."""
    import h5py

    with h5py.File(path, "r+") as file:
        del file[next(iter(file))]["data"][video][what]
    return path


def replaced(path: Path, video: str, what: str, values: Any) -> Path:
    """Put other ``features`` or ``intervals`` of a video into a file."""
    import h5py

    with h5py.File(path, "r+") as file:
        group = file[next(iter(file))]["data"][video]
        del group[what]
        group.create_dataset(what, data=values)
    return path


def write_spoiled(folder: Path, how: str, kind: str = "audio") -> tuple[Path, str]:
    """One file of ``kind`` that is spoiled in one way, and the id of the video that is, or "" if it is the whole file.

    Args:
        folder: the file gets its own name in it.
        how: ``truncated``, ``not_hdf5``, ``empty``, ``no_data``, ``no_videos``, ``no_intervals``, ``no_features``,
            ``other_counts``, ``nan_intervals``, ``reversed_interval``, ``flat_features`` or ``flat_intervals``.
        kind: of ``FILES``.
    """
    import h5py

    path, video = write_file(folder, kind), VIDEOS[1]
    features, intervals = rows_of(kind, 1)
    if how == "truncated":
        return truncate(path), ""
    if how == "not_hdf5":
        return write_other_kind(path), ""
    if how == "empty":
        path.write_bytes(b"")
        return path, ""
    if how in ("no_data", "no_videos"):
        with h5py.File(path, "r+") as file:
            root = file[next(iter(file))]
            del root["data"]
            if how == "no_videos":
                root.create_group("data")
        return path, ""
    if how in ("no_intervals", "no_features"):
        return without(path, video, how.removeprefix("no_")), video
    spoiled = intervals.copy()
    if how == "nan_intervals":
        spoiled[1, 0] = np.nan
    elif how == "reversed_interval":
        spoiled[1] = spoiled[1, ::-1]
    elif how == "other_counts":
        spoiled = spoiled[:-1]
    elif how == "flat_intervals":
        spoiled = spoiled.ravel()
    elif how == "flat_features":
        return replaced(path, video, "features", features[:, 0]), video
    else:
        raise KeyError(how)
    return replaced(path, video, "intervals", spoiled), video
