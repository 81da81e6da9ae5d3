"""Skeletons out of the pickles that MMAction2 and PYSKL share, read without running anything of them.

The layout, by PYSKL's ``tools/data/README.md``: a dict of ``split`` (name: list of ids) and ``annotations``, a list of dicts
with ``frame_dir`` (the id), ``total_frames`` (T), ``label``, ``keypoint`` (M, T, V, C) for M persons and V joints, and
``keypoint_score`` (M, T, V) and ``img_shape`` (height, width) beside joints in the image. A list of annotations alone is
read too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.actions.bodies import PUBLISHED_BODIES, energy, fill_gaps
from torchmsaf.data.prepare.pickles import read_pickle
from torchmsaf.data.prepare.raw import Refusal
from torchmsaf.errors import DataError

_SHOWN = 80  # characters of an id in a message
_MOST_SIDE = 2**16  # pixels of an image
_AXES = "(persons, frames, joints, coordinates)"


@dataclass(frozen=True, eq=False)
class Pose:
    """One clip's skeletons.

    Attributes:
        id: ``frame_dir``, as it is in the file; for NTU RGB+D the clip's name.
        label: the class, from 0; None = the file has none.
        keypoint: (M, T, V, C), as in the file, in its number type: metres in 3-D, pixels in 2-D.
        score: (M, T, V); None = the file has none.
        img_shape: height and width of the image in pixels, of 2-D joints alone; None = the file has none.
    """

    id: str
    label: int | None
    keypoint: NDArray[Any]
    score: NDArray[Any] | None = None
    img_shape: tuple[int, int] | None = None

    @property
    def frames(self) -> int:
        """T."""
        return int(self.keypoint.shape[1])

    @property
    def layout(self) -> dict[str, Any]:
        """``joints``, ``coordinates`` of each, and whether there is a ``score`` beside them, as plain JSON values.

        Where :meth:`to_array` scales the coordinates, ``scaled`` is there too; values in the file's unit have no such key.
        """
        _, _, joints, coordinates = self.keypoint.shape
        told: dict[str, Any] = {"joints": joints, "coordinates": coordinates, "score": self.score is not None}
        return told if self.img_shape is None else {**told, "scaled": True}

    @property
    def persons(self) -> int:
        """How many persons are there, M at most."""
        return int(self._tracked().any(axis=1).sum())

    def to_array(
        self, most: int | None = None, *, mode: Literal["motion", "published"] = "motion"
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The joints of the persons that are there.

        A person whose coordinates are zero in all frames is not there; where they are zero in some frames, the person is
        not tracked there, and the coordinates are interpolated as those of a skeleton file. Scores stay as they are.

        With an ``img_shape`` x and y are brought to -1…1, from the left and the top of the image to the right and the
        bottom, the scale of PYSKL's ``PreNormalize2D`` (github.com/kennymckormick/pyskl,
        ``pyskl/datasets/pipelines/pose_related.py``). A joint that is zero in the file is absent, and stays zero.

        Args:
            most: only so many persons; None = all.
            mode: ``"motion"``: who moves most by :func:`~torchmsaf.data.prepare.actions.bodies.energy` of the coordinates
                in the file, without the score, is first, equal ones as in the file; ``"published"``: always the first two
                of the file, each at its place, there or not; no interpolation, and where a person is not tracked all is
                zero, the score too.

        Returns:
            Values (C, T, V, M) float32, with a score (C + 1, T, V, M); and which frames each person is tracked in,
            (T, M) uint8, 1 or 0. M is at least 1.

        Raises:
            DataError: no person is there, of those that are taken, or an argument is out of its range.
        """
        if most is not None and most < 1:
            raise DataError(f"most is {most}; 1 or more persons are needed")
        if mode not in ("motion", "published"):
            raise DataError(f"mode is {mode!r}; 'motion' or 'published' is needed")
        tracked = self._tracked()
        if mode == "published":
            return self._published(tracked[:PUBLISHED_BODIES])
        persons = np.flatnonzero(tracked.any(axis=1)).tolist()
        persons.sort(key=lambda person: energy(self.keypoint[person], tracked[person]), reverse=True)
        persons = persons[:most]
        if not persons:
            raise DataError(f"{self.id}: all coordinates are zero; leave this clip out")
        filled = []
        for person in persons:
            coordinates, *score = self._values(person)
            filled.append(np.concatenate([fill_gaps(coordinates, tracked[person]), *score], axis=-1))
        values = np.stack(filled, axis=-1)  # (T, V, C, M)
        return np.ascontiguousarray(values.transpose(2, 0, 1, 3)), tracked[persons].T.astype(np.uint8)

    def _tracked(self) -> NDArray[np.bool_]:
        return np.asarray((self.keypoint != 0).any(axis=(2, 3)))

    def _published(self, tracked: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        if not tracked.any():
            said = f"the first {PUBLISHED_BODIES} persons are zero in all frames; leave this clip out"
            raise DataError(f"{self.id}: {said}")
        _, frames, joints, coordinates = self.keypoint.shape
        channels = coordinates + (self.score is not None)
        values = np.zeros((channels, frames, joints, PUBLISHED_BODIES), np.float32)
        there = np.zeros((frames, PUBLISHED_BODIES), np.uint8)
        for person, known in enumerate(tracked):
            whole = np.concatenate(self._values(person), axis=-1)  # (T, V, C)
            values[..., person][:, known] = whole[known].transpose(2, 0, 1)
            there[:, person] = known
        return values, there

    def _values(self, person: int) -> list[NDArray[np.float32]]:
        """Coordinates (T, V, C), and the score (T, V, 1) where there is one."""
        values = self.keypoint[person].astype(np.float32)
        if self.img_shape is not None:
            half = np.array(self.img_shape[::-1], np.float32) / 2
            values = np.where((values != 0).any(axis=-1, keepdims=True), (values - half) / half, np.float32(0))
        if self.score is None:
            return [values]
        return [values, self.score[person, ..., None].astype(np.float32)]


@dataclass(frozen=True, eq=False)
class PoseFile:
    """What a pickle of skeletons holds.

    Attributes:
        annotations: the clips that can be used, in the order of the file.
        split: the ids of each named part, as in the file; they may name clips that are not there.
        refused: the clips that cannot be used, by their id.
    """

    annotations: tuple[Pose, ...]
    split: Mapping[str, tuple[str, ...]]
    refused: tuple[Refusal, ...]


def read_poses(path: str | Path) -> PoseFile:
    """Read a pickle of skeletons.

    The arrays stay as they are in the file until :meth:`Pose.to_array`, so that a large file is in memory once.

    Args:
        path: a file as MMAction2 or PYSKL share it, any number of joints.

    Returns:
        The clips. One whose arrays are missing, ragged, not finite, without a person or of another shape than it says,
        whose label is no whole number from 0, or whose id comes twice is refused by its id; so is one of 2-D joints whose
        ``img_shape`` is wrong, or missing where other annotations have one.

    Raises:
        DataError: the file cannot be read, wants something run, or has another layout.
    """
    path = Path(path)
    content = read_pickle(path)
    named = content if isinstance(content, dict) else {"annotations": content}
    entries = named.get("annotations")
    if not isinstance(entries, list):
        raise DataError(
            f"{path} has no list of annotations; a pickle of MMAction2's or PYSKL's layout is needed: a dict of split and "
            "annotations"
        )
    times = Counter(_id(entry, place) for place, entry in enumerate(entries))
    sized = any(isinstance(entry, dict) and entry.get("img_shape") is not None for entry in entries)
    poses: list[Pose] = []
    refused: list[Refusal] = []
    for place, entry in enumerate(entries):
        name = _id(entry, place)
        try:
            if times[name] > 1:
                raise ValueError(f"is in the file {times[name]} times; it is not clear which one is meant")
            poses.append(_pose(entry, name, sized))
        except ValueError as error:
            shown = name if name.isprintable() else name.encode("unicode_escape").decode()
            refused.append(Refusal(shown[:_SHOWN], f"{path.name}: {shown[:_SHOWN]}", str(error)))
    return PoseFile(tuple(poses), _split(named.get("split"), path), tuple(refused))


def _id(entry: Any, place: int) -> str:
    name = entry.get("frame_dir") if isinstance(entry, dict) else None
    return str(name) if isinstance(name, str) and name else f"annotation {place + 1}"


def _pose(entry: Any, name: str, sized: bool) -> Pose:
    if not isinstance(entry, dict) or not isinstance(entry.get("frame_dir"), str) or not entry["frame_dir"]:
        raise ValueError("has no frame_dir, the clip's id")
    keypoint = _finite(entry.get("keypoint"), "keypoint")
    if keypoint.ndim != 4:
        raise ValueError(f"keypoint is {keypoint.shape}; {_AXES} with 2 or 3 coordinates is needed")
    if not keypoint.size or not keypoint.any():
        raise ValueError("has no person: keypoint is empty or zero")
    if keypoint.shape[3] not in (2, 3):
        raise ValueError(f"keypoint is {keypoint.shape}; {_AXES} with 2 or 3 coordinates is needed")
    frames = entry.get("total_frames", keypoint.shape[1])
    if not _whole(frames) or frames != keypoint.shape[1]:
        there = f"keypoint has {counted(keypoint.shape[1], 'frame')}"
        said = f"keypoint is {keypoint.shape}; {_AXES} is needed"
        raise ValueError(f"total_frames is {_shown(frames)} and {there}: {said}")
    score = None
    if entry.get("keypoint_score") is not None:
        score = _finite(entry["keypoint_score"], "keypoint_score")
        if score.shape != keypoint.shape[:3]:
            raise ValueError(f"keypoint_score has shape {score.shape}; {keypoint.shape[:3]} is needed")
    label = entry.get("label")
    if label is not None and (not _whole(label) or label < 0):
        raise ValueError(f"the label is {_shown(label)}; a whole number from 0 is needed")
    img_shape = _img_shape(entry.get("img_shape"), sized) if keypoint.shape[3] == 2 else None
    return Pose(name, None if label is None else int(label), keypoint, score, img_shape)


def _img_shape(value: Any, sized: bool) -> tuple[int, int] | None:
    if value is None:
        if sized:
            raise ValueError("has no img_shape, and other annotations have one; it is not clear how large its image is")
        return None
    sides = list(value) if isinstance(value, tuple | list) or getattr(value, "ndim", 0) == 1 else []
    if len(sides) != 2 or not all(_whole(side) and 2 <= side <= _MOST_SIDE for side in sides):
        told = ", ".join(map(_shown, sides[:4])) or _shown(value)
        raise ValueError(f"img_shape is {told}; height and width are needed, whole numbers from 2 to {_MOST_SIDE}")
    return int(sides[0]), int(sides[1])


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return f"{value!r:.40}" if isinstance(value, str | int | float | np.number) else f"a {type(value).__name__}"


def _finite(value: Any, what: str) -> NDArray[Any]:
    if value is None:
        raise ValueError(f"has no {what}")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ValueError(f"{what} is no array of numbers: ragged, or of another kind")
    with np.errstate(over="ignore"):
        if not np.isfinite(value.astype(np.float32)).all():
            raise ValueError(f"{what} has numbers that are not finite")
    return value


def _split(parts: Any, path: Path) -> dict[str, tuple[str, ...]]:
    if parts is None:
        return {}
    named = isinstance(parts, dict) and all(
        isinstance(part, str) and isinstance(ids, list | tuple) and all(isinstance(one, str) for one in ids)
        for part, ids in parts.items()
    )
    if not named:
        raise DataError(f"{path}: split is no dict of lists of ids; get the file again")
    return {part: tuple(map(str, ids)) for part, ids in parts.items()}
