"""RAVDESS from raw files to what networks take: the cropped face of each frame, and the MFCCs of the sound."""

# T frames, S side of a frame in pixels

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.audio import cut, read_audio
from torchmsaf.data.prepare.clip_runs import Report, check_refusals, or_refusal, run_clips
from torchmsaf.data.prepare.faces import find_faces
from torchmsaf.data.prepare.frames import SAMPLING, crop_and_resize
from torchmsaf.data.prepare.landmarks import read_landmarks
from torchmsaf.data.prepare.mfcc import PadMode, mfcc
from torchmsaf.data.prepare.plan import VIDEO, Clip, plan_ravdess
from torchmsaf.data.prepare.raw import RawFile, Refusal
from torchmsaf.data.prepare.video import Video, read_video
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.ravdess import EMOTIONS, INTENSITIES, MADE_UP, RavdessName
from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.errors import DataError, require

SET_NAME = "ravdess"
CODECS = ("h264",)  # of the videos as they were published
RECIPE = 1  # to be raised when the same settings give other bytes
RATE = 44_100  # samples of sound a second
PIECE = {"offset": 0.5, "duration": 2.45}  # seconds of sound
MFCC = {"coefficients": 13, "n_fft": 2048, "hop": 512, "mels": 128, "top_db": 80.0}
LEAST_SOUND = 1.0  # seconds
LEAST_PEAK = 1e-4  # of 1: three steps of a 16-bit file
MOST_FILLED = 0.25  # of the frames
MOST_LINES = 20  # of refusals in one message

Source = RawFile | str | Path | BinaryIO


@dataclass(frozen=True)
class Settings:
    """How clips are prepared.

    Attributes:
        preset: what a person calls these settings; it decides nothing.
        frames: T, how many frames of a clip, from 1.
        size: S, side of a frame in pixels, from 16.
        sampling: which frames, a name of ``SAMPLING``: ``consecutive`` or ``uniform``.
        pad_mode: what MFCCs see beyond the ends of the sound: ``reflect`` or ``constant``.
        landmark_slack: by how many rows landmarks may be more or fewer than the frames of the video.

    Raises:
        DataError: a value is out of its range.
    """

    preset: str = "full"
    frames: int = 30
    size: int = 224
    sampling: str = "consecutive"
    pad_mode: PadMode = "reflect"
    landmark_slack: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("size", 16), ("landmark_slack", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DataError(f"{name} is {value!r}; a whole number from {least} is needed")
        for name, known in (("sampling", tuple(SAMPLING)), ("pad_mode", get_args(PadMode))):
            value = getattr(self, name)
            if value not in known:
                raise DataError(f"{name} is {value!r}; {' or '.join(map(repr, known))} is needed")

    def parameters(self) -> dict[str, Any]:
        """All that decides the arrays, as plain JSON values: what makes a version of the prepared clips."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "preset"}
        return {"recipe": RECIPE, **chosen, "boxes": "landmarks", "rate": RATE, **PIECE, **MFCC}


def prepare_clip(
    video: Source, name: str, landmarks: Source | None, settings: Settings, *, codecs: Sequence[str] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Prepare one clip, of RAVDESS or one's own.

    Args:
        video: a file with pictures and sound.
        name: what errors call it.
        landmarks: the csv of OpenFace, a row a frame; None = the face is looked for (extra ``faces``).
        settings: the rules.
        codecs: FFmpeg's names of the codecs that may come; None = any.

    Returns:
        ``{"video": (3, T, S, S) uint8 RGB, "audio": (13, 212) float32}`` and the facts: ``frames`` (the T frame
        numbers), ``total_frames``, ``frame_rate``, ``codec``, ``filled_boxes`` (frames with the box of another frame; None
        without landmarks), ``audio_seconds`` (of sound; zeros follow up to 2.45 s), ``audio_peak`` (the largest
        absolute sample of the 2.45 s, 0 to 1) and ``made_up`` (by torchmsaf).

    Raises:
        DataError: a file cannot be used, or the two do not fit together.
        MissingDependencyError: PyAV, or OpenCV where it is needed, is not installed.
    """
    with _opened(video) as file:
        seen = read_video(file, name, lambda total: SAMPLING[settings.sampling](total, settings.frames), codecs=codecs)
        wave = read_audio(file, name, rate=RATE)
    if landmarks is None:
        boxes, filled = _found(seen, name), None
    else:
        boxes, filled = _read_boxes(seen, name, landmarks, settings.landmark_slack)
    piece = cut(wave, RATE, **PIECE, name=name)
    arrays: dict[str, NDArray[Any]] = {
        "video": crop_and_resize(seen.frames, boxes, settings.size),
        "audio": mfcc(piece, RATE, **MFCC, pad_mode=settings.pad_mode),  # type: ignore[arg-type]
    }
    facts = {
        "frames": list(seen.indices),
        "total_frames": seen.total,
        "frame_rate": seen.rate,
        "codec": seen.codec,
        "filled_boxes": filled,
        "audio_seconds": min(len(piece), len(wave) - round(PIECE["offset"] * RATE)) / RATE,
        "audio_peak": float(np.abs(piece).max()),
        "made_up": seen.comment.startswith(MADE_UP),
    }
    return arrays, facts


def prepare_ravdess(
    raw: Path,
    out: Path,
    settings: Settings,
    *,
    jobs: int | None = None,
    strict: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> Report:
    """Prepare the full-AV speech clips of RAVDESS, those that are not prepared yet.

    A clip that cannot be prepared stops no other; it is refused with its reason, and tried again in the next run. An
    interrupted preparation goes on where it was. Clips of an earlier run stay in the index when their raw files are gone,
    so archives can be prepared one after the other.

    Args:
        raw: the folder with the archives as they were downloaded, or with their content; or one archive.
        out: where the version's folder is made, see :mod:`torchmsaf.data.prepared`.
        settings: the rules.
        jobs: processes, from 1; None = as many as there are cores to use. Several need the extra ``compare``.
        strict: whether a refusal is an error, after everything was tried.
        told: called after each clip with the clips that are done, those of earlier runs included, and all there are.

    Raises:
        DataError: there is nothing to prepare; nothing could be prepared; ``out`` cannot be written; a process was killed;
            or files were refused and ``strict`` is on: then no index is written.
        MissingDependencyError: an optional package is not installed.
    """
    require("av", "video")
    require("safetensors", "video")
    plan = plan_ravdess(Path(raw))
    run_tasks(_prepare, (), jobs)  # says what is wrong with jobs before a folder is made
    if not plan.clips:
        check_refusals(raw, _in_order(plan.refused), 0, strict)
    writer = PreparedWriter(out, SET_NAME, settings.parameters())
    stamps = writer.stamps()
    to_do = [_Task(clip, writer, settings) for clip in plan.clips if stamps.get(clip.name.stem) != clip.stamp]
    already = len(plan.clips) - len(to_do)
    failed = run_clips(_prepare, to_do, jobs, already, told)
    refused = _in_order([*plan.refused, *failed])
    prepared = len(to_do) - len(failed)
    check_refusals(raw, refused, prepared + already, strict)
    # a clip that is refused now may be there from an earlier state of its files; a misplaced copy of a good one is too
    good = {clip.name.stem for clip in plan.clips} - {Path(one.name).stem for one in failed}
    wrong = {Path(one.name).stem for one in refused if one.name.lower().endswith(VIDEO)} - good
    ids = writer.stamps().keys() - wrong
    made = writer.finish([asdict(one) for one in refused], ids=ids)
    doubtful = tuple(sorted(f"{entry.id}: {doubt}" for entry in made.entries for doubt in _doubts(entry.facts)))
    earlier = len(ids) - prepared - already
    return Report(writer.path, prepared, already, earlier, plan.set_aside, tuple(refused), doubtful)


@dataclass(frozen=True)
class _Task:
    clip: Clip
    writer: PreparedWriter
    settings: Settings


def _prepare(task: _Task) -> Refusal | None:
    """Prepare a clip and write it, or say why its files cannot be used. What stops the writing stops everything."""
    clip = task.clip
    file = clip.video
    made = or_refusal(
        lambda: prepare_clip(file, file.name, clip.landmarks, task.settings, codecs=CODECS),
        lambda: (file.name, file.where),
    )
    if isinstance(made, Refusal):
        return made
    arrays, facts = made
    task.writer.write(clip.name.stem, arrays, {**_facts(clip.name), "source": file.where, **facts}, clip.stamp)
    return None


def _facts(name: RavdessName) -> dict[str, Any]:
    return {
        "actor": name.actor,
        "gender": name.gender,
        "emotion": EMOTIONS[name.label],
        "label": name.label,
        "intensity": INTENSITIES[name.intensity - 1],
        "statement": name.statement,
        "repetition": name.repetition,
    }


def _doubts(facts: dict[str, Any]) -> Iterator[str]:
    """What a person should look at in a clip that could be prepared."""
    seconds, frames, filled = facts["audio_seconds"], len(facts["frames"]), facts["filled_boxes"] or 0
    if seconds < LEAST_SOUND:
        yield f"only {seconds:.2f} s of sound, zeros follow"
    if facts.get("audio_peak", 1.0) < LEAST_PEAK:  # clips of earlier versions do not say it
        yield "its sound is silent"
    if filled > MOST_FILLED * frames:
        yield f"{filled} of {counted(frames, 'frame')} {'has' if filled == 1 else 'have'} the face box of another frame"


def _read_boxes(video: Video, name: str, landmarks: Source, slack: int) -> tuple[NDArray[np.float64], int]:
    title = landmarks.name if isinstance(landmarks, RawFile | Path) else f"the landmark file of {name}"
    with _opened(landmarks) as file:
        points = read_landmarks(file, title)
    if abs(len(points) - video.total) > slack:
        within = f", give or take {slack}" if slack else ""
        raise DataError(
            f"{title} has {counted(len(points), 'row')} and the video has {counted(video.total, 'frame')}; a row a "
            f"frame{within} is needed"
        )
    rows = [min(index, len(points) - 1) for index in video.indices]
    return points.boxes(rows, video.frames.shape[2], video.frames.shape[1])


def _found(video: Video, name: str) -> NDArray[np.float64]:
    try:
        return find_faces(video.frames)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


@contextmanager
def _opened(source: Source) -> Iterator[str | Path | BinaryIO]:
    if not isinstance(source, RawFile):
        yield source
        return
    with source.open() as file:
        yield file


def _in_order(refused: Iterable[Refusal]) -> list[Refusal]:
    return sorted(refused, key=lambda one: natural_key(one.where))
