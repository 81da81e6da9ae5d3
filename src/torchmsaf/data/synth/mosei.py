"""A made-up corpus in the format and under the names of CMU-MOSEI's computational sequences.

It is for trying the whole chain, from .csd files to a table, without the real data, which is 23,453 utterances of 3228
videos. Scores on it say nothing about sentiment: nobody said or felt anything here. ``opinions`` has what is to be
learned. File names and root names are those of CMU's Multimodal SDK (``standard_datasets/CMU_MOSEI/cmu_mosei.py``).
Types of the arrays are as in the files of CMU-MOSI: float32 labels, float64 times, words as bytes. That features are
float32, and words of at most 32 bytes, is a guess.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from torchmsaf.data.ravdess import MADE_UP
from torchmsaf.data.synth.csd import CsdWriter, csd_writer
from torchmsaf.data.synth.mosei_video import LABELS, MadeUpVideo, Oddity, Shooting
from torchmsaf.data.whole_files import PART, whole_file
from torchmsaf.errors import DataError, require

SEQUENCES: Final = {  # what is in it: the file, and its root
    "words": ("CMU_MOSEI_TimestampedWords.csd", "words"),
    "video": ("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2"),
    "audio": ("CMU_MOSEI_COVAREP.csd", "COVAREP"),
    "labels": ("CMU_MOSEI_Labels.csd", "All Labels"),
}
FOLDS: Final = "folds.json"
NOTE: Final = "README.txt"
_FEWEST = 10  # videos, so that each part has one and the training part one of each oddity
_ODDITIES: Final = {
    "an utterance of pauses only": Oddity(silent=True),
    "the last utterance without a face": Oddity(faceless_last=True),
    "the last utterance ends before it starts": Oddity(reversed_last=True),
    "faces only after two fifths of it": Oddity(late=True),
    "no faces at all": Oddity(faceless=True),
}
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class MadeUp:
    """What was written.

    Attributes:
        videos: how many.
        utterances: how many labels there are, the one with a reversed interval among them.
        parts: video ids of ``train``, ``validation`` and ``test``.
        odd: what is wrong, by what it is: the id of the one training video that has it.
    """

    videos: int
    utterances: int
    parts: dict[str, list[str]] = field(repr=False)
    odd: dict[str, str] = field(repr=False)


def synth_mosei(
    out: Path,
    *,
    videos: int = 60,
    seconds: float = 6.0,
    audio_rate: float = 100.0,
    video_rate: float = 30.0,
    seed: int = 0,
    told: Told | None = None,
) -> MadeUp:
    """Write the corpus: four .csd files, ``folds.json`` and ``README.txt``, all of them or none.

    A video depends on its number, the seed, seconds and rates; which of them are for training, and so what is wrong
    with five of them, depends on how many there are. One video is in memory at a time. The same arguments give the
    same bytes. A corpus made up earlier in the same folder is replaced.

    Args:
        out: the folder, new or empty, or with a corpus made up earlier.
        videos: how many, at least 10; about 7 utterances each.
        seconds: of an utterance in the mean, 1 to 30.
        audio_rate: rows of COVAREP a second, 100 in the real ones.
        video_rate: rows of FACET a second, 30 in the real ones.
        seed: what everything is drawn from, at least 0.
        told: called with how many videos are done and how many there will be.

    Returns:
        What was written.

    Raises:
        DataError: an argument out of its range, the folder holds files that were not made up here, or a file cannot
            be written.
        MissingDependencyError: h5py is not installed.
    """
    shooting = Shooting(float(seconds), float(audio_rate), float(video_rate), seed)
    _check(shooting, videos)
    require("h5py", "sentiment")
    _refuse_others(out)
    numbers = _divide(videos, seed)
    oddities = dict(zip(numbers["train"], _ODDITIES.items(), strict=False))
    note = f"{videos} videos, {seconds:g} s, {audio_rate:g} and {video_rate:g} Hz, seed {seed}"
    ids: list[str] = []
    utterances = 0
    try:
        with ExitStack() as stack:
            writers = {
                kind: stack.enter_context(
                    csd_writer(out / name, root, _metadata(kind, note), compressed=kind == "labels")
                )
                for kind, (name, root) in SEQUENCES.items()
            }
            for number in range(videos):
                video = MadeUpVideo(number, shooting, oddities.get(number, ("", Oddity()))[1])
                _add(writers, video)
                ids.append(video.id)
                utterances += len(video.opinions)
                if told is not None:
                    told(number + 1, videos)
            parts = {part: sorted(ids[number] for number in chosen) for part, chosen in numbers.items()}
            made = MadeUp(videos, utterances, parts, {what: ids[number] for number, (what, _) in oddities.items()})
            _write_texts(stack, out, made, note)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}; choose another folder") from error
    return made


def _check(shooting: Shooting, videos: int) -> None:
    if videos < _FEWEST:
        raise DataError(f"{videos} videos: {_FEWEST} or more are needed, for training, validation and test")
    if not 1 <= shooting.seconds <= 30:
        raise DataError(f"seconds is {shooting.seconds:g}; 1 to 30 are needed")
    for name, rate in (("audio_rate", shooting.audio_rate), ("video_rate", shooting.video_rate)):
        if not 1 <= rate <= 1000:
            raise DataError(f"{name} is {rate:g}; 1 to 1000 rows a second are needed")
    if shooting.seed < 0:
        raise DataError(f"seed is {shooting.seed}; 0 or more is needed")


def _refuse_others(out: Path) -> None:
    """Only a folder of its own is written: made-up files beside real ones would be read as real."""
    if not out.is_dir():
        return
    there = sorted(path for path in out.iterdir() if path.suffix != PART)  # a killed run leaves parts
    note = out / NOTE
    if there and not (note.is_file() and note.read_bytes().startswith(MADE_UP.encode())):
        raise DataError(f"{there[0]} is there and was not made up here; choose another folder, empty or new")
    ours = {*(name for name, _ in SEQUENCES.values()), FOLDS, NOTE}
    if others := [path for path in there if path.suffix == ".csd" and path.name not in ours]:
        raise DataError(f"{others[0]} is there and was not made up here; choose another folder, empty or new")


def _divide(videos: int, seed: int) -> dict[str, list[int]]:
    """Numbers of the videos of each part: 70, 10 and 20 of a hundred."""
    order = np.random.default_rng([seed, 0]).permutation(videos).tolist()
    validation, test = max(1, round(0.1 * videos)), max(1, round(0.2 * videos))
    train = videos - validation - test
    return {
        "train": order[:train],
        "validation": order[train : train + validation],
        "test": order[train + validation :],
    }


def _add(writers: dict[str, CsdWriter], video: MadeUpVideo) -> None:
    writers["words"].add(video.id, *video.words())
    writers["labels"].add(video.id, *video.labels())
    writers["audio"].add(video.id, *video.audio())
    if (faces := video.video()) is not None:
        writers["video"].add(video.id, *faces)


def _metadata(kind: str, note: str) -> dict[str, object]:
    """The SDK's keys. The words' say nothing, as in a file of CMU-MOSI."""
    told: dict[str, object] = {
        "computational sequence description": f"{MADE_UP}: {note}",
        "computational sequence version": "1.0",
        "alignment compatible": True,
        "dataset name": "CMU-MOSEI, made up",
        "dataset version": "1.0",
        "creator": "torchmsaf",
        "contact": "",
        "featureset bib citation": "",
        "dataset bib citation": "",
    }
    if kind == "words":
        told = dict.fromkeys(told, "asdfasdf")
    if kind == "labels":
        told["dimension names"] = list(LABELS)
    return {**told, "md5": None, "uuid": str(uuid5(NAMESPACE_URL, f"{kind}: {note}"))}


def _write_texts(stack: ExitStack, out: Path, made: MadeUp, note: str) -> None:
    folds = stack.enter_context(whole_file(out / FOLDS))
    folds.write_text(json.dumps(made.parts, indent=1) + "\n", encoding="ascii", newline="\n")
    lines = [
        f"{MADE_UP}, no recording of anybody: {note}.",
        f"The names and the format are those of CMU-MOSEI. {made.utterances} utterances. Scores on them mean nothing.",
        "",
        "As real files do, these have faults; each is in one video of the training part:",
        *(f"{video}  {what}" for what, video in made.odd.items()),
    ]
    readme = stack.enter_context(whole_file(out / NOTE))  # the last to be made, so the first to take its place
    readme.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")
