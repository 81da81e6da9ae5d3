"""A made-up corpus in the formats and under the names of NTU RGB+D.

It is for trying the whole chain, from raw files to a table, without the real data. Scores on it say nothing about actions:
nobody did anything here. Each video says in its comment that it is made up; the bodies of the skeleton files have ids of
``MADE_UP_BODIES``, which no sensor gives.

Six actions are written unless others are asked for. Video and skeletons tell 1 (drink water) and 50 (punching, two
persons); only the video tells 2 (eat meal) from 3 (brushing teeth), by the colour of the object; only the skeletons tell 23
(hand waving) from 24 (kicking something), which are done in the dark. With as many clips of each, no more than 5/6 of
the six can be told by one modality. There is 51 (kicking, two persons) too, which both tell.

As in genuine files there are ghosts, which are still bodies that nobody is, gaps in the tracking, bystanders, and a clip
without skeletons, which the list of such clips names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torchmsaf.data.ntu import MADE_UP, NtuName
from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.data.synth.ntu_clip import MISSING, NtuClip, Shot, draw_oddity
from torchmsaf.data.synth.ntu_film import film
from torchmsaf.data.whole_files import PART, whole_file
from torchmsaf.errors import DataError, require

ACTIONS: Final = (1, 2, 3, 23, 24, 50, 51)  # that can be made up
NOTE: Final = "README.txt"
MISSING_LIST: Final = "NTU_RGBD_samples_with_missing_skeletons.txt"
SKELETONS: Final = "nturgb+d_skeletons"
VIDEOS: Final = "nturgb+d_rgb"
_SUBJECTS = 39  # NTU RGB+D has 40; the last is the clip without skeletons
_SETUPS = 4
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class NtuCorpus:
    """What is written.

    Attributes:
        subjects: how many, 3 to 39: 1, 2 and so on. The first three are 1 and 2, whom the cross-subject protocol trains
            on, and 3, whom it tests.
        cameras: 1 to 3, which see the same performances.
        actions: of ``ACTIONS``.
        replications: 1 or 2.
        frames: of a clip, at least 8; its own number is within a fifth of this.
        size: width and height of the video in pixels, even and at least 32. The skeleton files tell places in a picture of
            1920 x 1080 all the same.
        frame_rate: frames a second.
        seed: what everything is drawn from, at least 0.
    """

    subjects: int = 8
    cameras: int = 3
    actions: tuple[int, ...] = (1, 2, 3, 23, 24, 50)
    replications: int = 2
    frames: int = 40
    size: tuple[int, int] = (128, 72)
    frame_rate: int = 30
    seed: int = 0

    @property
    def shot(self) -> Shot:
        """How each clip is recorded."""
        return Shot(self.frames, *self.size, self.frame_rate, self.seed)

    def names(self) -> list[NtuName]:
        """The clips with skeletons, in the order of their names. Subjects take turns with the setups 1 to 4."""
        return sorted(
            (
                NtuName(1 + (person - 1) % _SETUPS, camera, person, replication, action)
                for person in range(1, self.subjects + 1)
                for camera in range(1, self.cameras + 1)
                for replication in range(1, self.replications + 1)
                for action in self.actions
            ),
            key=lambda name: name.stem,
        )


@dataclass(frozen=True)
class MadeUpActions:
    """What is there now.

    Attributes:
        clips: how many have skeletons.
        written: how many clips were written, with the one without skeletons; the others were there.
        missing: ids of the clips without skeletons, as in the list.
        ghosts: ids of the clips with a still body that nobody is.
        gaps: ids of the clips in which the first body is not there for some frames.
        bystanders: ids of the clips with one person more than act.
    """

    clips: int
    written: int
    missing: tuple[str, ...] = field(repr=False)
    ghosts: tuple[str, ...] = field(repr=False)
    gaps: tuple[str, ...] = field(repr=False)
    bystanders: tuple[str, ...] = field(repr=False)


def write_ntu(
    out: Path, corpus: NtuCorpus | None = None, *, jobs: int | None = None, told: Told | None = None
) -> MadeUpActions:
    """Write the corpus, or what is missing of it.

    A clip depends on its name, ``frames``, ``size``, ``frame_rate`` and ``seed``, and on nothing else: more subjects,
    cameras or actions add to what is there. The same corpus gives the same bytes with the same version of PyAV.

    Args:
        out: the folder, new or empty, or with a corpus made up earlier. ``nturgb+d_skeletons/S001....skeleton``,
            ``nturgb+d_rgb/S001..._rgb.avi``, the list of clips without skeletons and ``README.txt`` are written into it.
        corpus: what to write; None = the defaults.
        jobs: processes, from 1; None = as many as there are cores to use.
        told: called with how many clips are done and how many there will be.

    Raises:
        DataError: a value out of its range, the folder holds clips that were not made up here or not so, or a file cannot
            be written.
        MissingDependencyError: PyAV is not installed.
    """
    corpus = NtuCorpus() if corpus is None else corpus
    _check(corpus)
    require("av", "video")
    _refuse_others(out, corpus.shot)
    _write_texts(out, corpus.shot)
    names = corpus.names()
    tasks = [_Task(name, out, corpus.shot) for name in (*names, MISSING)]
    counts = [0, 0]

    def done(written: bool) -> None:
        counts[0] += 1
        counts[1] += written
        if told is not None:
            told(counts[0], len(tasks))

    run_tasks(_write_clip, tasks, jobs, done)
    oddities = {name.stem: draw_oddity(name, corpus.seed) for name in names}
    return MadeUpActions(
        clips=len(names),
        written=counts[1],
        missing=(MISSING.stem,),
        ghosts=tuple(stem for stem, oddity in oddities.items() if oddity.ghost),
        gaps=tuple(stem for stem, oddity in oddities.items() if oddity.gap),
        bystanders=tuple(stem for stem, oddity in oddities.items() if oddity.bystander),
    )


@dataclass(frozen=True)
class _Task:
    """A clip that one process makes."""

    name: NtuName
    out: Path
    shot: Shot


def _check(corpus: NtuCorpus) -> None:
    for name, value, least, most in (
        ("subjects", corpus.subjects, 3, _SUBJECTS),
        ("cameras", corpus.cameras, 1, 3),
        ("replications", corpus.replications, 1, 2),
        ("frames", corpus.frames, 8, 10_000),
        ("frame_rate", corpus.frame_rate, 1, 120),
    ):
        if not least <= value <= most:
            raise DataError(f"{name} is {value}; {least} to {most} are needed")
    for side, value in zip(("width", "height"), corpus.size, strict=True):
        if value < 32 or value % 2:
            raise DataError(f"{side} is {value}; an even number of pixels, 32 or more, is needed")
    if wrong := [action for action in corpus.actions if action not in ACTIONS]:
        raise DataError(f"action {wrong[0]} cannot be made up; choose of {', '.join(map(str, ACTIONS))}")
    if not corpus.actions or len(set(corpus.actions)) < len(corpus.actions):
        raise DataError("actions must name at least one action, and each once")
    if corpus.seed < 0:
        raise DataError(f"seed is {corpus.seed}; 0 or more is needed")


def _refuse_others(out: Path, shot: Shot) -> None:
    """Only a folder of its own is written: made-up files beside real ones would be read as real."""
    try:
        told = (out / NOTE).read_text(encoding="ascii", errors="replace") if (out / NOTE).is_file() else ""
    except OSError as error:
        raise DataError(f"{out / NOTE} cannot be read: {error.strerror or error}; choose another folder") from error
    if told.startswith(f"{shot.note}.\n"):
        return
    if told.startswith(MADE_UP):
        raise DataError(f"{out} holds clips of another size, length or seed; choose another folder, empty or new")
    if out.is_dir() and (there := sorted(path for path in out.iterdir() if path.suffix != PART)):
        raise DataError(f"{there[0]} is there and was not made up here; choose another folder, empty or new")


def _write_texts(out: Path, shot: Shot) -> None:
    readme = (
        f"{shot.note}.\n"
        "The names and the formats are those of NTU RGB+D. Scores on these files mean nothing.\n\n"
        "Told by video and skeletons: A001, A050, A051. Told apart by the video only: A002 and A003.\n"
        "Told apart by the skeletons only: A023 and A024.\n"
    )
    missing = (
        f"1 of the samples has no skeleton; {MADE_UP} like all the others.\n"
        f"Leave it out of training and tests.\n\n{MISSING.stem}\n"
    )
    for name, text in ((NOTE, readme), (MISSING_LIST, missing)):
        with _written(out / name) as part:
            part.write_text(text, encoding="ascii", newline="\n")


def _write_clip(task: _Task) -> bool:
    """Write a clip if it is missing; whether it was."""
    skeleton = task.out / SKELETONS / f"{task.name.stem}.skeleton"
    video = task.out / VIDEOS / f"{task.name.stem}_rgb.avi"
    if skeleton.exists() and video.exists():
        return False
    clip = NtuClip(task.name, task.shot)
    for path, content in ((skeleton, clip.skeleton_text().encode("ascii")), (video, film(clip))):
        with _written(path) as part:
            part.write_bytes(content)
    return True


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Where to write a file, so that it is whole or not there."""
    try:
        with whole_file(path) as part:
            yield part
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}; choose another folder") from error
