"""NTU RGB+D from raw files to what networks take: frames squeezed to squares, and the joints of the persons."""

# F frames, S side of a frame in pixels, T steps of a skeleton, V joints, M persons

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.ntu import MADE_UP, MADE_UP_BODIES, NtuName
from torchmsaf.data.prepare.actions.bodies import PUBLISHED_BODIES, to_array
from torchmsaf.data.prepare.actions.plan import MODALITIES, RGB, SKELETON, told_aside
from torchmsaf.data.prepare.actions.rgb import PUBLISHED_FRAMES, SAMPLING, read_square
from torchmsaf.data.prepare.actions.skeleton_file import check_size, read_skeleton
from torchmsaf.data.prepare.actions.sources import Sources, plan_sources, read_posed
from torchmsaf.data.prepare.clip_runs import Report, check_refusals, or_refusal, run_clips
from torchmsaf.data.prepare.raw import RawFile, Refusal
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.errors import DataError, require

SET_NAME = "ntu"
CODECS = ("h264", "mpeg4")  # as they are handed out, and as FFmpeg writes AVI
RECIPE = 1  # to be raised when the same settings give other bytes
BODIES: dict[str, int | None] = {"2": 2, "all": None, "published": PUBLISHED_BODIES}
MOST_SIDE = 1024  # of what is prepared, frames and pixels
FARTHEST = 20.0  # metres: how far a joint may be before a person should look; the sensor sees less than 10
DIFFERENCE = 0.1  # of the frames: how much longer or shorter a skeleton may be before a person should look


@dataclass(frozen=True)
class NtuSettings:
    """How clips are prepared.

    Attributes:
        frames: F, how many frames of a clip, 1 to 1024.
        size: S, side of a frame in pixels, 16 to 1024.
        sampling: which frames, a name of ``SAMPLING``: ``inside`` or ``published``.
        bodies: which bodies of a skeleton file or a pose: ``2`` that move most, ``all``, who moves most first, or
            ``published``, the first two of the file.
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
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_SIDE:
                raise DataError(f"{name} is {value!r}; a whole number from {least} to {MOST_SIDE} is needed")
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

    def parameters(self, skeletons: str = "kinect", layout: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All that decides the arrays, as plain JSON values: what makes a version of the prepared clips.

        Args:
            skeletons: where they come from, ``kinect`` for the data set's own files or ``poses``.
            layout: of the poses, as ``Pose.layout`` gives it; None or empty = that of the data set's own files.
        """
        chosen: dict[str, Any] = {"recipe": RECIPE, "modalities": list(self.modalities)}
        if RGB in self.modalities:
            chosen |= {"sampling": self.sampling, "frames": self.frames, "size": self.size}
            chosen |= {"channel_order": self.channel_order}
            if self.sampling == "published":
                chosen["short_clips"] = "black"
        if SKELETON in self.modalities:
            chosen |= {"bodies": self.bodies, "skeletons": skeletons, **(layout or {})}
            if skeletons == "poses" and self.bodies == "published":
                chosen["gaps"] = "zeros"
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
    ``setup``, ``replication``, ``persons`` (bodies of the file), ``frames`` (of the video), ``steps`` (T), ``farthest``
    (the largest coordinate of a skeleton file, metres), ``made_up``, …

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
    posed = None if poses is None else read_posed(poses)
    tasks, plan_refused, set_aside, listed = plan_sources(roots, settings.modalities, missing, posed)
    run_tasks(_prepare, (), jobs)  # says what is wrong with jobs before a folder is made
    where = ", ".join(map(str, roots))
    if not tasks:
        check_refusals(where, plan_refused, 0, strict, told_aside(set_aside))
    writer = PreparedWriter(
        out, SET_NAME, settings.parameters() if posed is None else settings.parameters("poses", posed.layout)
    )
    stamps = writer.stamps()
    to_do = [_Task(clip, writer, settings) for clip in tasks if stamps.get(clip.name.stem) != clip.stamp]
    already = len(tasks) - len(to_do)
    failed = run_clips(_prepare, to_do, jobs, already, told)
    refused = sorted([*plan_refused, *failed], key=lambda one: natural_key(one.where))
    prepared = len(to_do) - len(failed)
    check_refusals(where, refused, prepared + already, strict, told_aside(set_aside))
    good = {clip.name.stem for clip in tasks} - {_stem(one.name) for one in failed}
    # a clip that is refused or listed now may be there from an earlier run
    ids = writer.stamps().keys() - ({_stem(one.name) for one in refused} - good) - listed
    made = writer.finish([asdict(one) for one in refused], ids=ids)
    doubtful = tuple(f"{entry.id}: {doubt}" for entry in made.entries for doubt in _doubts(entry.facts))
    return Report(writer.path, prepared, already, len(ids) - prepared - already, set_aside, tuple(refused), doubtful)


@dataclass(frozen=True)
class _Task:
    sources: Sources
    writer: PreparedWriter
    settings: NtuSettings


def _prepare(task: _Task) -> Refusal | None:
    """Prepare a clip and write it, or say why its files cannot be used. What stops the writing stops everything."""
    sources = task.sources
    at = [sources.title]  # the file that is read

    def read() -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        facts = _facts(sources.name)
        for modality, read_one in ((SKELETON, _read_skeleton), (RGB, _read_rgb)):
            if modality not in task.settings.modalities:
                continue
            file = sources.clip.files.get(modality)
            if file is not None:
                at[0] = (file.name, file.where)
            more, told = read_one(sources, task.settings)
            arrays |= more
            facts |= {**told, "made_up": facts["made_up"] or told["made_up"]}
        return arrays, facts

    made = or_refusal(read, lambda: at[0])
    if isinstance(made, Refusal):
        return made
    arrays, facts = made
    task.writer.write(sources.name.stem, arrays, facts, sources.stamp)
    return None


def _read_skeleton(sources: Sources, settings: NtuSettings) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    if sources.pose is None:
        return read_bodies(sources.clip.files[SKELETON], settings)
    xyz, tracked = sources.pose.to_array(BODIES[settings.bodies], mode=_mode(settings))
    facts = {"persons": sources.pose.persons, "made_up": False, "steps": xyz.shape[1]}
    return {"skeleton": xyz, "tracked": tracked}, facts


def _read_rgb(sources: Sources, settings: NtuSettings) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    return read_frames(sources.clip.files[RGB], settings, CODECS)


def read_bodies(raw: RawFile, settings: NtuSettings) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of a skeleton file, as :func:`prepare_ntu` writes them, and what is to be said of it.

    Raises:
        DataError: it is damaged, or has no body.
    """
    check_size(raw.size, raw.name)
    with raw.open() as opened:
        file = read_skeleton(opened.read(), name=raw.name)
    xyz, tracked = to_array(file, BODIES[settings.bodies], mode=_mode(settings))
    return {"skeleton": xyz, "tracked": tracked}, {
        "persons": sum(bool(body.tracked.any()) for body in file.bodies),
        "farthest": float(np.abs(xyz).max()),
        "made_up": any(body.id in MADE_UP_BODIES for body in file.bodies),
        "steps": xyz.shape[1],
    }


def read_frames(
    raw: RawFile, settings: NtuSettings, codecs: Collection[str] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The frames of a video, as :func:`prepare_ntu` writes them, and what is to be said of it.

    Raises:
        DataError: as :func:`~torchmsaf.data.prepare.actions.rgb.read_square`.
        MissingDependencyError: PyAV is not installed.
    """
    choose = functools.partial(_choose, settings)
    with raw.open() as opened:
        clip = read_square(opened, raw.name, choose, settings.size, codecs=codecs)
    frames = clip.frames if settings.channel_order == "rgb" else np.ascontiguousarray(clip.frames[::-1])
    facts = {"frames": clip.total, "frame_rate": clip.rate, "codec": clip.codec}
    return {"rgb": frames}, {**facts, "made_up": clip.comment.startswith(MADE_UP)}


def _mode(settings: NtuSettings) -> Literal["motion", "published"]:
    return "published" if settings.bodies == "published" else "motion"


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
        "farthest": None,
        "made_up": False,
    }


def _doubts(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a person should look at in a clip that could be prepared."""
    frames, steps, farthest = facts["frames"], facts["steps"], facts.get("farthest")
    if frames and steps and abs(frames - steps) > max(2, DIFFERENCE * frames):
        yield f"its video has {counted(frames, 'frame')} and its skeleton {steps}"
    if farthest and farthest > FARTHEST:
        yield f"a joint is at {farthest:.4g} m along one of the axes; the sensor sees less than half of {FARTHEST:g} m"


def _stem(name: str) -> str:
    try:
        return NtuName.parse(name).stem
    except DataError:
        return name
