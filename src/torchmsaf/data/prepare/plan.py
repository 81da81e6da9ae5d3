"""Which raw files of RAVDESS belong together as a clip, which are left alone, and which are wrong."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.raw import RawFile, Refusal, find_files
from torchmsaf.data.ravdess import MODALITIES, RavdessName
from torchmsaf.errors import DataError

VIDEO, LANDMARKS, SOUND = ".mp4", ".csv", ".wav"
# recordings in the same names that are not as they were published
_VIDEOS = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
_SOUNDS = (".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus")
OTHER_MEDIA = frozenset(_VIDEOS + _SOUNDS)
NEEDED = "full-AV speech recordings, 01-01-*.mp4 as in Video_Speech_Actor_01.zip of https://zenodo.org/records/1188976"
NEEDED_TOO = "facial landmarks, FacialTracking_Actors_01-24.zip of https://zenodo.org/records/3255102,"
_ACTOR = re.compile(r"(?:.*[_ ])?actor[_ ]?([0-9]+)(?:\.zip)?", re.IGNORECASE)


@dataclass(frozen=True)
class Clip:
    """A recording and its landmarks, not yet opened."""

    name: RavdessName
    video: RawFile
    landmarks: RawFile

    @property
    def stamp(self) -> str:
        """Changes when one of the files does."""
        return f"video {self.video.stamp}, landmarks {self.landmarks.stamp}"


@dataclass(frozen=True)
class Plan:
    """What is to be done with a folder of raw files.

    Attributes:
        clips: in the order of their names.
        set_aside: how many files of each kind are left alone.
        refused: files that are wrong.
    """

    clips: tuple[Clip, ...]
    set_aside: dict[str, int]
    refused: tuple[Refusal, ...]


def plan_ravdess(raw: Path) -> Plan:
    """Find the clips in a folder of downloads, or in one archive.

    Raises:
        DataError: there is no such folder or archive, or nothing in it is a recording of the kind that is needed.
    """
    files, refused = find_files(raw)
    set_aside: Counter[str] = Counter()
    found: dict[str, dict[str, list[RawFile]]] = {VIDEO: {}, LANDMARKS: {}}
    for file in files:
        try:
            kind, name = _kind(file)
        except DataError as error:
            refused.append(Refusal(file.name, file.where, str(error).removeprefix(f"{file.name}: ")))
            continue
        if name is None:
            set_aside[kind] += 1
        else:
            found[kind].setdefault(name.stem, []).append(file)
    videos, landmarks = (_each_once(found[kind], refused, set_aside) for kind in (VIDEO, LANDMARKS))
    if not videos and not any(refusal.name.lower().endswith(VIDEO) for refusal in refused):
        others = dict(set_aside) | ({"landmarks": len(landmarks)} if landmarks else {})
        raise DataError(f"{raw} holds none of the {NEEDED}; {_listed(others)}{_first(refused)}")
    if videos and not landmarks and not any(refusal.name.lower().endswith(LANDMARKS) for refusal in refused):
        held = f"{raw} holds {counted(len(videos), 'recording')} and no landmark file"
        raise DataError(f"{held}; put the {NEEDED_TOO} beside {'it' if len(videos) == 1 else 'them'}")
    clips = _pairs(videos, landmarks, refused, set_aside)
    return Plan(clips, dict(set_aside), tuple(refused))


def _kind(file: RawFile) -> tuple[str, RavdessName | None]:
    """The suffix and name of a file that is needed, or the kind of one that is left alone.

    Raises:
        DataError: it is wrong.
    """
    suffix = Path(file.name).suffix.lower()
    if suffix not in (VIDEO, LANDMARKS, SOUND, *OTHER_MEDIA):
        return "other", None
    try:
        name = RavdessName.parse(file.name)
    except DataError:
        if suffix in OTHER_MEDIA:
            return "other", None
        raise
    kind = "song" if name.channel == 2 else MODALITIES[name.modality - 1]
    if suffix == LANDMARKS and kind != MODALITIES[0]:
        return f"landmarks of {kind}", None
    if kind != MODALITIES[0]:
        return kind, None
    if suffix not in (VIDEO, LANDMARKS):
        raise DataError(f"a full-AV recording is needed as {VIDEO}, as it was published; this is {suffix}")
    for folder in file.folders:
        actor = _ACTOR.fullmatch(folder)
        if actor is not None and int(actor[1]) != name.actor:
            raise DataError(f"is of actor {name.actor:02} by its name and lies in {folder}; put it where it belongs")
    return suffix, name


def _each_once(found: dict[str, list[RawFile]], refused: list[Refusal], set_aside: Counter[str]) -> dict[str, RawFile]:
    """The first of the places where a file lies; empty files, and other files under the same name, are refused."""
    once = {}
    for stem, files in found.items():
        first = files[0]
        reason = _differs(first, files[1:]) or (None if first.size else "is empty; download it again")
        if reason is not None:
            refused.append(Refusal(first.name, first.where, reason))
            continue
        once[stem] = first
        if len(files) > 1:
            set_aside["copies"] += len(files) - 1
    return once


def _differs(first: RawFile, others: list[RawFile]) -> str | None:
    """Why a file cannot be used that lies in other places, too: it is another one there."""
    for other in others:
        if other.size != first.size:
            here, there = (counted(file.size, "byte") for file in (first, other))
            return f"has {here} here and {there} in {other.where}; keep the right one"
    for other in others:
        try:
            same = first.checksum() == other.checksum()
        except DataError as error:
            return f"cannot be compared with its copy in {other.where} ({error}); keep the right one"
        if not same:
            return f"is not the same here and in {other.where}, both of {first.size} bytes; keep the right one"
    return None


def _pairs(
    videos: dict[str, RawFile], landmarks: dict[str, RawFile], refused: list[Refusal], set_aside: Counter[str]
) -> tuple[Clip, ...]:
    wrong = {refusal.name.lower(): refusal for refusal in refused}
    filmed = {RavdessName.parse(stem).actor for stem in videos} | _filmed(refused)
    clips = []
    for stem in sorted(videos.keys() | landmarks.keys()):
        video, points = videos.get(stem), landmarks.get(stem)
        if video is not None and points is not None:
            clips.append(Clip(RavdessName.parse(stem), video, points))
        elif video is not None:
            cause = wrong.get(stem + LANDMARKS)
            reason = f"its landmark file {cause.where} is refused" if cause else f"no landmark file {stem}{LANDMARKS}"
            refused.append(Refusal(video.name, video.where, reason))
        elif points is not None and RavdessName.parse(stem).actor not in filmed:
            set_aside["landmarks of actors without videos"] += 1
        elif points is not None and stem + VIDEO not in wrong:
            refused.append(Refusal(points.name, points.where, f"landmarks without a video {stem}{VIDEO}"))
    return tuple(clips)


def _filmed(refused: list[Refusal]) -> set[int]:
    """The actors of full-AV speech recordings that are there and are refused."""
    actors = set()
    for refusal in refused:
        with suppress(DataError):
            name = RavdessName.parse(refusal.name)
            if (name.modality, name.channel) == (1, 1) and Path(refusal.name).suffix.lower() != LANDMARKS:
                actors.add(name.actor)
    return actors


def _listed(counts: dict[str, int]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"found: {kinds}" if kinds else "it holds no files"


def _first(refused: list[Refusal]) -> str:
    if not refused:
        return ""
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return f"; refused: {refused[0]}{more}"
