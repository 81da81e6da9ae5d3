"""What each clip of NTU RGB+D is made of: its files, or its video and a pose out of a pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmsaf.data.counted import counted
from torchmsaf.data.ntu import NtuName
from torchmsaf.data.prepare.actions.plan import SKELETON, NtuClip, plan_ntu
from torchmsaf.data.prepare.actions.pose_pickle import Pose, read_poses
from torchmsaf.data.prepare.raw import Refusal
from torchmsaf.errors import DataError


@dataclass(frozen=True)
class Sources:
    """What a clip is made of: its files, and its pose where skeletons come from elsewhere.

    Attributes:
        clip: its files.
        pose: in place of a skeleton file; None = there is that file.
        pose_stamp: changes when the file of the pose does.
    """

    clip: NtuClip
    pose: Pose | None = None
    pose_stamp: str = ""

    @property
    def name(self) -> NtuName:
        """What its id says."""
        return self.clip.name

    @property
    def stamp(self) -> str:
        """Changes when one of the files does."""
        return ", ".join(filter(None, (self.clip.stamp, self.pose_stamp)))

    @property
    def title(self) -> tuple[str, str]:
        """The name of the file that errors name, and where it lies."""
        for file in self.clip.files.values():
            return file.name, file.where
        return self.name.stem, self.name.stem


@dataclass(frozen=True)
class Posed:
    """Poses in place of skeleton files.

    Attributes:
        poses: by the id of their clip.
        refused: those that cannot be used.
        stamp: changes when the file does.
        layout: ``Pose.layout``, the same for all; empty where there is no pose.
    """

    poses: Mapping[str, Pose]
    refused: tuple[Refusal, ...]
    stamp: str
    layout: Mapping[str, Any]


def read_posed(path: Path) -> Posed:
    """Read a pickle of skeletons whose ids are names of NTU RGB+D.

    A pose is refused whose id is another name, names the clip of another pose as well, or tells another action than its
    label.

    Raises:
        DataError: the file cannot be read, has no annotation, or its poses differ in joints, in coordinates, or in whether
            they have a score.
    """
    file = read_poses(path)
    if not file.annotations and not file.refused:
        raise DataError(f"{path} has an empty list of annotations; a file with the poses of clips is needed")
    status = path.stat()
    refused = list(file.refused)
    found: dict[str, list[Pose]] = {}
    for pose in file.annotations:
        where = f"{path.name}: {pose.id}"
        try:
            name = NtuName.parse(pose.id)
        except DataError as error:
            refused.append(Refusal(pose.id, where, str(error).removeprefix(f"{pose.id}: ")))
            continue
        if pose.label is not None and pose.label != name.label:
            said = f"its label is {pose.label}, and that of its name {name.label}"
            refused.append(Refusal(pose.id, where, said))
        else:
            found.setdefault(name.stem, []).append(pose)
    poses = {}
    for stem, (pose, *others) in found.items():
        if not others:
            poses[stem] = pose
        for one in (pose, *others) if others else ():
            said = f"{1 + len(others)} poses are of this clip; it is not clear which one is meant"
            refused.append(Refusal(one.id, f"{path.name}: {one.id}", said))
    stamp = f"poses {status.st_size} bytes of {status.st_mtime_ns}"
    return Posed(poses, tuple(refused), stamp, _one_layout(poses, path))


def _one_layout(poses: Mapping[str, Pose], path: Path) -> dict[str, Any]:
    layouts = {stem: pose.layout for stem, pose in poses.items()}
    first = next(iter(layouts), "")
    for stem, layout in layouts.items():
        if layout != layouts[first]:
            said = f"{first} has {_words(layouts[first])}, and {stem} {_words(layout)}"
            raise DataError(f"{path}: {said}; prepare them from two files, each with poses of one kind")
    return layouts.get(first, {})


def _words(layout: Mapping[str, Any]) -> str:
    score = "with a score" if layout["score"] else "without a score"
    return f"{counted(layout['joints'], 'joint')} of {counted(layout['coordinates'], 'coordinate')} {score}"


def plan_sources(
    roots: Sequence[Path], modalities: Sequence[str], missing: Sequence[Path], posed: Posed | None
) -> tuple[list[Sources], list[Refusal], dict[str, int], frozenset[str]]:
    """Find what each clip is made of.

    Args:
        roots: folders or archives of raw files.
        modalities: that are prepared.
        missing: lists of clips with missing skeletons, beside those in the roots.
        posed: what is taken in place of skeleton files; None = skeleton files.

    Returns:
        The clips; what is refused; how many of each kind are left alone; the ids on the lists.

    Raises:
        DataError: as :func:`~torchmsaf.data.prepare.actions.plan.plan_ntu`.
    """
    files = [one for one in modalities if posed is None or one != SKELETON]
    plan = plan_ntu(roots, files, missing=missing, others=None if posed is None else posed.poses)
    refused, set_aside = list(plan.refused), dict(plan.set_aside)
    if posed is None:
        return [Sources(clip) for clip in plan.clips], refused, set_aside, plan.listed
    poses = posed.poses
    if files:
        sources = [Sources(clip, poses[clip.name.stem], posed.stamp) for clip in plan.clips]
        rest = len(poses.keys() - {one.name.stem for one in sources} - plan.listed)
        if rest:
            set_aside["poses without a video"] = rest
    else:
        names = sorted(poses.keys() - plan.listed)
        sources = [Sources(NtuClip(NtuName.parse(name), {}), poses[name], posed.stamp) for name in names]
    if dropped := len(poses.keys() & plan.listed):
        set_aside["poses of clips with missing skeletons"] = dropped
    return sources, [*refused, *posed.refused], set_aside, plan.listed
