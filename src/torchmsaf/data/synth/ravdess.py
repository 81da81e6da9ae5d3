"""A made-up corpus in the formats and under the names of RAVDESS: drawn faces, made-up voices.

It is for trying the whole chain, from raw files to a table, without the real data. Scores on it say nothing about
emotions: nobody felt or acted anything here. Each video and each archive says in its comment that it is
made up.

The face shows which pair of neighbouring emotions it is, ``label // 2``; the voice tells ``label % 4``. Both together
tell the emotion. Either alone leaves two, so that no more than 50 % can be reached with as many clips of every emotion
(53 % with RAVDESS' own counts, where neutral has half as many). Intensity, statement and repetition change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from torchmsaf.data.ravdess import ACTORS, EMOTIONS, RavdessName
from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.data.synth.recording import Clip, Recording
from torchmsaf.data.whole_files import whole_file
from torchmsaf.errors import DataError, require

CLIPS = 60  # an actor's in RAVDESS: neutral 4, the other seven 8
LANDMARK_ARCHIVE = "FacialTracking_Actors_01-24.zip"  # one for all actors, as on Zenodo
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class _Task:
    """Clips of one actor that one process makes: one loose clip, or all of an archive."""

    names: tuple[RavdessName, ...]
    out: Path
    recording: Recording
    zipped: bool


def plan_clips(actor: int, clips: int) -> list[RavdessName]:
    """The names of an actor's first clips.

    The emotions take turns, so 8, 16, 24 and 32 clips have as many of each; the rest of the 60 has no more neutral ones.

    Args:
        actor: 1 to 24.
        clips: how many, 1 to 60.

    Raises:
        DataError: one of them out of its range.
    """
    if not 1 <= actor <= ACTORS:
        raise DataError(f"actor {actor}: RAVDESS has the actors 1 to {ACTORS}")
    if not 1 <= clips <= CLIPS:
        raise DataError(f"{clips} clips an actor: RAVDESS has {CLIPS}; ask for 1 to {CLIPS}")
    names = (
        RavdessName(1, 1, emotion, 1 + turn // 4, 1 + turn // 2 % 2, 1 + turn % 2, actor)
        for turn in range(8)
        for emotion in range(1, len(EMOTIONS) + 1)
        if turn < 4 or emotion > 1
    )
    return list(islice(names, clips))


def synth_ravdess(
    out: Path,
    *,
    actors: Sequence[int] = range(1, ACTORS + 1),
    clips: int = 8,
    width: int = 1280,
    height: int = 720,
    frame_rate: Fraction = Fraction(30_000, 1001),
    seconds: float = 3.4,
    seed: int = 0,
    jobs: int | None = None,
    zipped: bool = False,
    told: Told | None = None,
) -> int:
    """Write the corpus, or what is missing of it.

    A clip depends on its name, the seed and how it is recorded, and on nothing else: fewer actors or clips give the
    same files. Video is H.264 in YUV 4:2:0, sound AAC at 48 kHz in stereo, landmarks are OpenFace's columns.

    Args:
        out: the folder. ``Actor_01/01-01-....mp4`` and ``FacialTracking/01-01-....csv`` are written into it.
        actors: which, each 1 to 24.
        clips: clips an actor, 1 to 60; see ``plan_clips``.
        width: of the frames in pixels, even, at least 64.
        height: the same.
        frame_rate: frames a second.
        seconds: the length of a clip, at least 1.
        seed: what everything is drawn from, at least 0.
        jobs: processes; None = as many as there are cores to use. One runs in this process.
        zipped: write archives as Zenodo has them: ``Video_Speech_Actor_01.zip`` with ``Actor_01/`` for each actor, and
            one of all landmark files.
        told: called with how many clips are there and how many there will be.

    Returns:
        How many clips were written. What was there from the same seed and recording is left as it is.

    Raises:
        DataError: an argument out of its range, or a file cannot be written.
        MissingDependencyError: PyAV, or for more than one process joblib, is not installed.
    """
    recording = Recording(width, height, Fraction(frame_rate), float(seconds), seed)
    _check(recording)
    plan = [tuple(plan_clips(actor, clips)) for actor in dict.fromkeys(actors)]
    require("av", "video")
    if zipped:
        tasks = [_Task(names, out, recording, zipped) for names in plan]
    else:
        tasks = [_Task((name,), out, recording, zipped) for names in plan for name in names]
    total, counts = sum(map(len, plan)), [0, 0]

    def done(result: tuple[int, int]) -> None:
        counts[:] = [before + more for before, more in zip(counts, result, strict=True)]
        if told is not None:
            told(counts[0], total)

    run_tasks(_work, tasks, jobs, done)
    if zipped and plan:
        _write_landmark_archive([name for names in plan for name in names], out / LANDMARK_ARCHIVE, recording)
    return counts[1]


def _check(recording: Recording) -> None:
    for side, value in (("height", recording.height), ("width", recording.width)):
        if value < 64 or value % 2:
            raise DataError(f"{side} is {value}; an even number of pixels, 64 or more, is needed")
    if not 1 <= recording.seconds < float("inf"):
        raise DataError(f"seconds is {recording.seconds:g}; 1 or more is needed")
    if not recording.frame_rate > 0:
        raise DataError(f"frame_rate is {recording.frame_rate}; more than 0 frames a second are needed")
    if recording.seed < 0:
        raise DataError(f"seed is {recording.seed}; 0 or more is needed")


def _work(task: _Task) -> tuple[int, int]:
    """Write what is missing of a task; how many clips it has, and how many were written."""
    write = _write_archive if task.zipped else _write_clips
    return len(task.names), write(task)


def _write_clips(task: _Task) -> int:
    written = 0
    for name in task.names:
        video = task.out / f"Actor_{name.actor:02}" / f"{name.stem}.mp4"
        landmarks = task.out / "FacialTracking" / f"{name.stem}.csv"
        if landmarks.exists() and video.exists() and _note_of(video) == task.recording.note:
            continue
        clip = Clip(name, task.recording)
        with _written(landmarks) as part:
            part.write_text(clip.landmarks(), encoding="ascii", newline="\n")
        film = clip.film()
        with _written(video) as part:
            part.write_bytes(film)
        written += 1
    return written


def _write_archive(task: _Task) -> int:
    wanted = {f"Actor_{name.actor:02}/{name.stem}.mp4": name for name in task.names}
    path = task.out / f"Video_Speech_Actor_{task.names[0].actor:02}.zip"
    if set(_entries(path, task.recording)) >= set(wanted):
        return 0
    films = ((inside, Clip(name, task.recording).film()) for inside, name in wanted.items())
    _write_zip(path, films, task.recording, ZIP_STORED)
    return len(wanted)


def _write_landmark_archive(names: list[RavdessName], path: Path, recording: Recording) -> None:
    there = {RavdessName.parse(entry) for entry in _entries(path, recording)}
    if there >= set(names):
        return
    ordered = sorted(there | set(names), key=lambda name: (name.actor, name.stem))
    texts = ((f"{name.stem}.csv", Clip(name, recording).landmarks().encode("ascii")) for name in ordered)
    _write_zip(path, texts, recording, ZIP_DEFLATED)


def _entries(path: Path, recording: Recording) -> list[str]:
    """The names in an archive of ours, of this recording; none where there is no such archive."""
    try:
        with ZipFile(path) as archive:
            return archive.namelist() if archive.comment == recording.note.encode() else []
    except (OSError, BadZipFile):
        return []


def _write_zip(path: Path, contents: Iterable[tuple[str, bytes]], recording: Recording, method: int) -> None:
    with _written(path) as part, ZipFile(part, "w") as archive:
        archive.comment = recording.note.encode()
        for inside, content in contents:
            archive.writestr(ZipInfo(inside), content, compress_type=method)  # without the time: the same bytes again


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Where to write a file, so that it is whole or not there."""
    try:
        with whole_file(path) as part:
            yield part
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}; choose another folder") from error


def _note_of(video: Path) -> str | None:
    av = require("av", "video")
    try:
        with av.open(str(video)) as container:
            note: str | None = container.metadata.get("comment")
            return note
    except av.FFmpegError:
        return None
