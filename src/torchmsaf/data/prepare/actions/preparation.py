"""NTU RGB+D from raw files to what networks take: frames squeezed to squares, and the joints of the persons."""

# F frames, S side of a frame in pixels, T steps of a skeleton, V joints, M persons

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.ntu import MADE_UP, NtuName
from torchmsaf.data.prepare.actions.bodies import PUBLISHED_BODIES, to_array
from torchmsaf.data.prepare.actions.plan import MODALITIES, RGB, SKELETON, SUFFIXES, NtuClip, plan_ntu
from torchmsaf.data.prepare.actions.pose_pickle import Pose, read_poses
from torchmsaf.data.prepare.actions.rgb import PUBLISHED_FRAMES, SAMPLING, read_square
from torchmsaf.data.prepare.actions.skeleton_file import read_skeleton
from torchmsaf.data.prepare.ravdess import Report
from torchmsaf.data.prepare.raw import Refusal
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.errors import DataError, MissingDependencyError, require

SET_NAME = "ntu"
CODECS = ("h264", "mpeg4")  # as they are handed out, and as FFmpeg writes AVI
RECIPE = 1  # to be raised when the same settings give other bytes
BODIES: dict[str, int | None] = {"2": 2, "all": None, "published": PUBLISHED_BODIES}
MOST_LINES = 20  # of refusals in one message
DIFFERENCE = 0.1  # of the frames: how much longer or shorter a skeleton may be before a person should look


@dataclass(frozen=True)
class NtuSettings:
    """How clips are prepared.

    Attributes:
        frames: F, how many frames of a clip, from 1.
        size: S, side of a frame in pixels, from 16.
        sampling: which frames, a name of ``SAMPLING``: ``inside`` or ``published``.
        bodies: which bodies of a skeleton file: ``2`` that move most, ``all``, or ``published``, the first two of the file.
        modalities: what is prepared, of ``rgb`` and ``skeleton``.
        channel_order: of the frames, ``rgb`` or ``bgr``.

    Raises:
        DataError: a value is out of its range.
    """

    frames: int = 32
    size: int = 256
    sampling: str = "inside"
    bodies: str = "2"
    modalities: tuple[str, ...] = MODALITIES
    channel_order: str = "rgb"

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("size", 16)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DataError(f"{name} is {value!r}; a whole number from {least} is needed")
        for name, known in (
            ("sampling", tuple(SAMPLING)),
            ("bodies", tuple(BODIES)),
            ("channel_order", ("rgb", "bgr")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise DataError(f"{name} is {value!r}; {' or '.join(map(repr, known))} is needed")
        if not self.modalities or set(self.modalities) - set(MODALITIES):
            raise DataError(f"modalities is {self.modalities!r}; one or both of {', '.join(MODALITIES)} are needed")
        ordered = tuple(one for one in MODALITIES if one in self.modalities)
        object.__setattr__(self, "modalities", ordered)

    @classmethod
    def published(cls, *, size: int = 256, modalities: tuple[str, ...] = MODALITIES) -> NtuSettings:
        """As the code published with MSAF reads: 24 frames with the last one black, BGR, the first two bodies."""
        return cls(PUBLISHED_FRAMES, size, "published", "published", modalities, "bgr")

    def parameters(self, skeletons: str = "kinect") -> dict[str, Any]:
        """All that decides the arrays, as plain JSON values: what makes a version of the prepared clips.

        Args:
            skeletons: where they come from, ``kinect`` for the data set's own files or ``poses``.
        """
        chosen: dict[str, Any] = {"recipe": RECIPE, "modalities": list(self.modalities)}
        if RGB in self.modalities:
            chosen |= {"sampling": self.sampling, "frames": self.frames, "size": self.size}
            chosen |= {"channel_order": self.channel_order}
        if SKELETON in self.modalities:
            chosen |= {"bodies": self.bodies, "skeletons": skeletons}
        return chosen


def prepare_ntu(
    raw: Path | Sequence[Path],
    out: Path,
    settings: NtuSettings,
    *,
    missing: Sequence[Path] = (),
    poses: Path | None = None,
    jobs: int | None = None,
    strict: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> Report:
    """Prepare the clips of NTU RGB+D or NTU RGB+D 120, those that are not prepared yet.

    A clip that cannot be prepared stops no other; it is refused with its reason, and tried again in the next run. An
    interrupted preparation goes on where it was. Clips of an earlier run stay in the index when their raw files are gone,
    so archives can be prepared one after the other; those that a list of missing skeletons names by now do not.

    Arrays of a clip: ``rgb`` (3, F, S, S) uint8; ``skeleton`` (3, T, V, M) float32, metres from the camera, real persons
    alone except for bodies ``published``; ``tracked`` (T, M) uint8. Facts: ``label``, ``action``, ``subject``, ``camera``,
    ``setup``, ``replication``, ``persons`` (bodies of the file), ``frames`` (of the video), ``steps`` (T), ``made_up``, …

    Args:
        raw: the folders with the archives as they were downloaded, or with their content; or the archives.
        out: where the version's folder is made, see :mod:`torchmsaf.data.prepared`.
        settings: the rules.
        missing: lists of clips with missing skeletons, beside those in ``raw``.
        poses: a pickle of skeletons whose ids are names of NTU RGB+D, in place of the skeleton files.
        jobs: processes, from 1; None = as many as there are cores to use. Several need the extra ``compare``.
        strict: whether a refusal is an error, after everything was tried.
        told: called after each clip with the clips that are done, those of earlier runs included, and all there are.

    Raises:
        DataError: there is nothing to prepare; nothing could be prepared; ``out`` cannot be written; a process was killed;
            or files were refused and ``strict`` is on: then no index is written.
        MissingDependencyError: an optional package is not installed.
    """
    roots = [Path(raw)] if isinstance(raw, str | Path) else [Path(one) for one in raw]
    if RGB in settings.modalities:
        require("av", "video")
    require("safetensors", "video")
    if poses is not None and SKELETON not in settings.modalities:
        raise DataError(f"poses are given, and skeleton is not among the modalities {', '.join(settings.modalities)}")
    posed, wrong_poses, stamp = _posed(poses) if poses is not None else (None, [], "")
    tasks, plan_refused, set_aside, listed = _planned(roots, settings, missing, posed, stamp)
    plan_refused += wrong_poses
    run_tasks(_prepare, (), jobs)  # says what is wrong with jobs before a folder is made
    where = ", ".join(map(str, roots))
    if not tasks:
        _check(where, plan_refused, 0, strict)
    writer = PreparedWriter(out, SET_NAME, settings.parameters("kinect" if poses is None else "poses"))
    stamps = writer.stamps()
    to_do = [_Task(clip, writer, settings) for clip in tasks if stamps.get(clip.name.stem) != clip.stamp]
    already = done = len(tasks) - len(to_do)
    failed: list[Refusal] = []

    def count(refusal: Refusal | None) -> None:
        nonlocal done
        done += 1
        if refusal is not None:
            failed.append(refusal)
        if told is not None:
            told(done, len(tasks))

    run_tasks(_prepare, to_do, jobs, count)
    refused = sorted([*plan_refused, *failed], key=lambda one: natural_key(one.where))
    prepared = len(to_do) - len(failed)
    _check(where, refused, prepared + already, strict)
    good = {clip.name.stem for clip in tasks} - {_stem(one.name) for one in failed}
    # a clip that is refused or listed now may be there from an earlier run
    ids = writer.stamps().keys() - ({_stem(one.name) for one in refused} - good) - listed
    made = writer.finish([asdict(one) for one in refused], ids=ids)
    doubtful = tuple(f"{entry.id}: {doubt}" for entry in made.entries for doubt in _doubts(entry.facts))
    return Report(writer.path, prepared, already, len(ids) - prepared - already, set_aside, tuple(refused), doubtful)


@dataclass(frozen=True)
class _Sources:
    """What a clip is made of: its files, and its pose where skeletons come from elsewhere."""

    clip: NtuClip
    pose: Pose | None = None
    pose_stamp: str = ""

    @property
    def name(self) -> NtuName:
        return self.clip.name

    @property
    def stamp(self) -> str:
        return ", ".join(filter(None, (self.clip.stamp, self.pose_stamp)))

    @property
    def title(self) -> tuple[str, str]:
        """The name of the file that errors name, and where it lies."""
        for file in self.clip.files.values():
            return file.name, file.where
        return self.name.stem, self.name.stem


@dataclass(frozen=True)
class _Task:
    sources: _Sources
    writer: PreparedWriter
    settings: NtuSettings


def _posed(poses: Path) -> tuple[dict[str, Pose], list[Refusal], str]:
    """The poses by the name of their clip, those of other names, and what changes when the file does."""
    file = read_poses(poses)
    status = poses.stat()
    named, refused = {}, list(file.refused)
    for pose in file.annotations:
        try:
            name = NtuName.parse(pose.id)
        except DataError as error:
            refused.append(Refusal(pose.id, f"{poses.name}: {pose.id}", str(error).removeprefix(f"{pose.id}: ")))
            continue
        if pose.label is not None and pose.label != name.label:
            said = f"its label is {pose.label}, and that of its name {name.label}"
            refused.append(Refusal(pose.id, f"{poses.name}: {pose.id}", said))
        else:
            named[name.stem] = pose
    return named, refused, f"poses {status.st_size} bytes of {status.st_mtime_ns}"


def _planned(
    roots: Sequence[Path],
    settings: NtuSettings,
    missing: Sequence[Path],
    posed: Mapping[str, Pose] | None,
    stamp: str,
) -> tuple[list[_Sources], list[Refusal], dict[str, int], frozenset[str]]:
    files = [one for one in settings.modalities if posed is None or one != SKELETON]
    plan = plan_ntu(roots, files, missing=missing, others=posed)
    refused, set_aside = list(plan.refused), dict(plan.set_aside)
    if posed is None:
        return [_Sources(clip) for clip in plan.clips], refused, set_aside, plan.listed
    if files:
        sources = [_Sources(clip, posed[clip.name.stem], stamp) for clip in plan.clips]
        rest = len(posed.keys() - {one.name.stem for one in sources} - plan.listed)
        if rest:
            set_aside["poses without a video"] = rest
    else:
        names = sorted(posed.keys() - plan.listed)
        sources = [_Sources(NtuClip(NtuName.parse(name), {}), posed[name], stamp) for name in names]
    if dropped := len(posed.keys() & plan.listed):
        set_aside["poses of clips with missing skeletons"] = dropped
    return sources, refused, set_aside, plan.listed


def _prepare(task: _Task) -> Refusal | None:
    """Prepare a clip and write it, or say why its files cannot be used. What stops the writing stops everything."""
    sources = task.sources
    name, where = sources.title
    arrays: dict[str, NDArray[Any]] = {}
    facts = _facts(sources.name)
    try:
        for modality, read in ((SKELETON, _read_skeleton), (RGB, _read_rgb)):
            if modality not in task.settings.modalities:
                continue
            file = sources.clip.files.get(modality)
            if file is not None:
                name, where = file.name, file.where
            more, told = read(sources, task.settings)
            arrays |= more
            facts |= told
    except MissingDependencyError:
        raise
    except DataError as error:
        return Refusal(name, where, str(error).removeprefix(where).removeprefix(name).removeprefix(":").strip())
    except Exception as error:  # whatever a damaged file makes a decoder raise, the other clips go on
        return Refusal(name, where, f"{type(error).__name__}: {error}")
    task.writer.write(sources.name.stem, arrays, facts, sources.stamp)
    return None


def _read_skeleton(sources: _Sources, settings: NtuSettings) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    most = BODIES[settings.bodies]
    if sources.pose is not None:
        xyz, tracked = sources.pose.to_array(most)
        persons = sources.pose.to_array()[0].shape[-1]
        if settings.bodies == "published":
            absent = PUBLISHED_BODIES - xyz.shape[-1]
            xyz, tracked = np.pad(xyz, [(0, 0)] * 3 + [(0, absent)]), np.pad(tracked, [(0, 0), (0, absent)])
    else:
        raw = sources.clip.files[SKELETON]
        with raw.open() as opened:
            file = read_skeleton(opened.read(), name=raw.name)
        xyz, tracked = to_array(file, most, mode="published" if settings.bodies == "published" else "motion")
        persons = sum(bool(body.tracked.any()) for body in file.bodies)
    return {"skeleton": xyz, "tracked": tracked}, {"persons": persons, "steps": xyz.shape[1]}


def _read_rgb(sources: _Sources, settings: NtuSettings) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    raw = sources.clip.files[RGB]
    choose = functools.partial(_choose, settings)
    with raw.open() as opened:
        clip = read_square(opened, raw.name, choose, settings.size, codecs=CODECS)
    frames = clip.frames if settings.channel_order == "rgb" else np.ascontiguousarray(clip.frames[::-1])
    facts = {"frames": clip.total, "frame_rate": clip.rate, "codec": clip.codec}
    return {"rgb": frames}, {**facts, "made_up": clip.comment.startswith(MADE_UP)}


def _choose(settings: NtuSettings, total: int) -> list[int]:
    return SAMPLING[settings.sampling](total, settings.frames)


def _facts(name: NtuName) -> dict[str, Any]:
    return {
        "label": name.label,
        "action": name.action,
        "action_name": name.action_name,
        "subject": name.person,
        "camera": name.camera,
        "setup": name.setup,
        "replication": name.replication,
        "persons": None,
        "frames": None,
        "steps": None,
        "made_up": False,
    }


def _doubts(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a person should look at in a clip that could be prepared."""
    frames, steps = facts["frames"], facts["steps"]
    if frames and steps and abs(frames - steps) > max(2, DIFFERENCE * frames):
        yield f"its video has {counted(frames, 'frame')} and its skeleton {steps}"


def _stem(name: str) -> str:
    for suffix in SUFFIXES.values():
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _check(where: str, refused: Sequence[Refusal], usable: int, strict: bool) -> None:
    lines = "".join(f"\n  {refusal}" for refusal in refused[:MOST_LINES])
    if len(refused) > MOST_LINES:
        lines += f"\n  and {len(refused) - MOST_LINES} more"
    if not usable:
        raise DataError(f"{where}: not one clip could be prepared; refused are{lines or ' none'}")
    if strict and refused:
        said = f"{counted(len(refused), 'file')} {'is' if len(refused) == 1 else 'are'} refused, so the index is not written"
        raise DataError(f"{where}: {said}; mend them, take them away, or accept them without strict:{lines}")
