"""Which videos of CMU-MOSEI and CMU-MOSI train, validate and test: the standard folds, and folds that a person gives.

The standard folds are those of the CMU-MultimodalSDK (https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK,
``mmsdk/mmdatasdk/dataset/standard_datasets``). ``standard_folds.json`` beside this file has, for each set and part, the
first ten hexadecimal digits of the sha256 of every video's id, sorted; no two videos share them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torchmsaf.errors import DataError

PARTS = ("train", "validation", "test")
SOURCE = "standard folds of the CMU-MultimodalSDK"
# videos of each part
STANDARD_VIDEOS: dict[str, dict[str, int]] = {
    "mosei": {"train": 2249, "validation": 300, "test": 678},
    "mosi": {"train": 52, "validation": 10, "test": 31},
}
_DIGITS = 10
# what others call the parts
_KEYS = {
    "train": ("train", "standard_train_fold"),
    "validation": ("validation", "valid", "val", "dev", "standard_valid_fold"),
    "test": ("test", "standard_test_fold"),
}


GIVEN = "given"  # the name of folds that files ship
STANDARD = "standard"


@dataclass(frozen=True, eq=False)
class Folds:
    """The part of every video.

    Attributes:
        name: ``standard``, ``given`` by the files, or ``file`` and the first eight digits of a sha256 over what it says.
        videos: part -> number of videos.
        digests: digest of a video's id, as :func:`digest` gives it -> part.
    """

    name: str
    videos: Mapping[str, int]
    digests: Mapping[str, str]

    def part(self, video: str) -> str | None:
        """``train``, ``validation`` or ``test``; None = the video is in no fold."""
        return self.digests.get(digest(video))


def digest(video: str) -> str:
    """The first ten hexadecimal digits of the sha256 of a video's id."""
    return hashlib.sha256(video.encode()).hexdigest()[:_DIGITS]


@functools.cache
def standard_folds(set_name: str) -> Folds:
    """The standard folds of a set.

    Args:
        set_name: ``mosei`` or ``mosi``.

    Raises:
        DataError: the set has no standard folds.
    """
    if set_name not in STANDARD_VIDEOS:
        raise DataError(
            f"{set_name!r} has no standard folds, as {' and '.join(STANDARD_VIDEOS)} have; give --folds FILE"
        )
    text = resources.files("torchmsaf.data").joinpath("standard_folds.json").read_text(encoding="utf-8")
    parts: dict[str, list[str]] = json.loads(text)[set_name]
    return Folds("standard", STANDARD_VIDEOS[set_name], {one: part for part in PARTS for one in parts[part]})


def standard_part(set_name: str, video: str) -> str | None:
    """The part that a video is in by the standard folds.

    Args:
        set_name: ``mosei`` or ``mosi``.
        video: its id, as the data set has it.

    Returns:
        ``train``, ``validation`` or ``test``; None = the video is in no standard fold.

    Raises:
        DataError: the set has no standard folds.
    """
    return standard_folds(set_name).part(video)


def read_folds(path: Path, set_name: str) -> Folds:
    """Read folds from a JSON file: lists of video ids under ``train``, ``validation`` (or ``valid``) and ``test``.

    The names of the CMU-MultimodalSDK, ``standard_train_fold`` and so on, are known too, and the three lists may lie
    under the set's name, ``mosei`` or ``cmu_mosei``. Validation may be missing.

    Args:
        path: of the file.
        set_name: of the data set.

    Raises:
        DataError: the file cannot be read, a list is missing or empty, or a video is in two parts or twice in one.
    """
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}; lists of video ids by part are needed") from error
    parts = _parts(path, said, set_name)
    found: dict[str, str] = {}
    for part, videos in parts.items():
        for video in videos:
            if (other := found.get(digest(video))) is not None:
                where = f"both in {other} and in {part}" if other != part else f"in {part} twice"
                raise DataError(f"{path}: video {video} is {where}; each video belongs into one part, once")
            found[digest(video)] = part
    canonical = json.dumps({part: sorted(videos) for part, videos in parts.items()}, sort_keys=True)
    name = f"file {hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
    return Folds(name, {part: len(videos) for part, videos in parts.items()}, found)


def _parts(path: Path, said: Any, set_name: str) -> dict[str, list[str]]:
    for key in (set_name, f"cmu_{set_name}"):
        if isinstance(said, dict) and isinstance(said.get(key), dict):
            said = said[key]
    if not isinstance(said, dict):
        raise DataError(
            f"{path} holds a {type(said).__name__}; lists of video ids under train, validation and test are needed"
        )
    parts = {}
    for part, keys in _KEYS.items():
        here = [key for key in keys if key in said]
        if not here and part == "validation":
            continue
        if len(here) != 1:
            problem = f"has both {' and '.join(here)}" if here else f"has no {part} list"
            raise DataError(f"{path} {problem}; one of {', '.join(keys)} is needed; it has {', '.join(map(str, said))}")
        videos = said[here[0]]
        if not isinstance(videos, list) or not videos or not all(isinstance(video, str | int) for video in videos):
            raise DataError(f"{path}: {here[0]} is no list of video ids; one with at least one id is needed")
        parts[part] = [str(video) for video in videos]
    return parts
