"""Which raw files of NTU RGB+D belong together as a clip, which are left alone, and which are wrong."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.data.ntu import NtuName
from torchmsaf.data.prepare.actions.missing import PATTERN, read_missing
from torchmsaf.data.prepare.clip_runs import told_refusals
from torchmsaf.data.prepare.raw import RawFile, Refusal, find_files
from torchmsaf.errors import DataError

RGB, SKELETON = "rgb", "skeleton"
MODALITIES = (RGB, SKELETON)
SUFFIXES = {RGB: "_rgb.avi", SKELETON: ".skeleton"}
# how a set-aside clip and a set-aside file of each modality are called
LISTED = "with missing skeletons by the lists"
_PLURAL = {RGB: "videos", SKELETON: "skeletons"}
# first words of kinds that are set aside
_SINGULAR = {"videos": "video", "skeletons": "skeleton", "poses": "pose", "copies": "copy"}
_NEEDED = {
    RGB: "videos, S001C001P001R001A001_rgb.avi as in nturgbd_rgb_s001.zip",
    SKELETON: "skeletons, S001C001P001R001A001.skeleton as in nturgbd_skeletons_s001_to_s017.zip",
}


@dataclass(frozen=True)
class NtuClip:
    """The files of a clip, not yet opened.

    Attributes:
        name: what its id says.
        files: modality -> file; those that are asked for and come as files.
    """

    name: NtuName
    files: Mapping[str, RawFile]

    @property
    def stamp(self) -> str:
        """Changes when one of the files does."""
        return ", ".join(
            f"{modality} {self.files[modality].stamp}" for modality in MODALITIES if modality in self.files
        )


@dataclass(frozen=True)
class NtuPlan:
    """What is to be done with raw files.

    Attributes:
        clips: in the order of their names.
        set_aside: how many of each kind are left alone: files, or clips where the lists name them.
        refused: files that are wrong.
        listed: ids on the lists of missing skeletons.
    """

    clips: tuple[NtuClip, ...]
    set_aside: dict[str, int]
    refused: tuple[Refusal, ...]
    listed: frozenset[str]


def plan_ntu(
    raw: Sequence[Path],
    modalities: Collection[str] = MODALITIES,
    *,
    missing: Sequence[Path] = (),
    others: Collection[str] | None = None,
) -> NtuPlan:
    """Find the clips in folders of downloads, or in archives.

    A clip on a list of missing skeletons is set aside; lists are those given and all files ``*missing_skeletons*.txt``
    among the raw ones. A file without its counterpart is refused; but where a whole setup has none of one kind (its archive
    is not there), the other files of the setup are set aside.

    Args:
        raw: folders or zip archives.
        modalities: that every clip needs as a file, of ``MODALITIES``.
        missing: lists of missing skeletons.
        others: ids that have what comes from elsewhere, e.g. poses; None = all.

    Raises:
        DataError: a folder, archive or list is not there; or nothing of a kind that is needed is found.
    """
    files, refused = _all_files(raw)
    listed = frozenset[str]().union(*(read_missing(path) for path in missing))
    set_aside: Counter[str] = Counter()
    found: dict[str, dict[str, list[RawFile]]] = {modality: {} for modality in MODALITIES}
    for file in files:
        if fnmatch(file.name.lower(), PATTERN):
            listed |= _read_list(file)
            continue
        modality = next((kind for kind in MODALITIES if file.name.lower().endswith(SUFFIXES[kind])), None)
        if modality is None or modality not in modalities:
            set_aside["other" if modality is None else _PLURAL[modality]] += 1
            continue
        try:
            name = NtuName.parse(file.name)
        except DataError as error:
            refused.append(Refusal(file.name, file.where, str(error).removeprefix(f"{file.name}: ")))
            continue
        found[modality].setdefault(name.stem, []).append(file)
    _drop_listed(found, listed, set_aside)
    once = {
        modality: _each_once(found[modality], refused, set_aside) for modality in MODALITIES if modality in modalities
    }
    for modality, some in once.items():
        if not some and not set_aside[LISTED] and not any(_is(refusal.name, modality) for refusal in refused):
            kinds = told_aside(set_aside + Counter({_PLURAL[one]: len(held) for one, held in once.items()}))
            lines = f"; refused are{told_refusals(refused)}" if refused else ""
            said = f"none of the {_NEEDED[modality]}; found: {kinds or 'nothing of use'}{lines}"
            raise DataError(f"{', '.join(map(str, raw))} holds {said}")
    clips = _pairs(once, others, refused, set_aside)
    return NtuPlan(clips, {kind: count for kind, count in set_aside.items() if count}, tuple(refused), listed)


def told_aside(set_aside: Mapping[str, int]) -> str:
    """What is left alone, in words: ``1 copy, 2 videos``."""
    told = []
    for kind, count in sorted(set_aside.items()):
        first, blank, rest = kind.partition(" ")
        if count:
            told.append(f"{count} {_SINGULAR.get(first, first) if count == 1 else first}{blank}{rest}")
    return ", ".join(told)


def _all_files(raw: Sequence[Path]) -> tuple[list[RawFile], list[Refusal]]:
    files: list[RawFile] = []
    refused: list[Refusal] = []
    for root in dict.fromkeys(raw):
        some, wrong = find_files(root)
        files += some
        refused += wrong
    return files, refused


def _read_list(file: RawFile) -> frozenset[str]:
    if file.member is None:
        return read_missing(file.path)
    with tempfile.TemporaryDirectory() as folder, file.open() as packed:
        path = Path(folder) / "missing_skeletons.txt"
        path.write_bytes(packed.read())
        try:
            return read_missing(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), file.where)) from error


def _is(name: str, modality: str) -> bool:
    return name.lower().endswith(SUFFIXES[modality])


def _drop_listed(found: dict[str, dict[str, list[RawFile]]], listed: Collection[str], set_aside: Counter[str]) -> None:
    """Leave alone what is on a list; a clip counts once, whichever of its files are there."""
    there = {stem for some in found.values() for stem in some if stem in listed}
    for stem in there:
        for some in found.values():
            some.pop(stem, None)
    set_aside[LISTED] += len(there)


def _each_once(
    found: Mapping[str, list[RawFile]], refused: list[Refusal], set_aside: Counter[str]
) -> dict[str, RawFile]:
    """The first of the places where a file lies that is not empty; other files under the same name are refused."""
    once = {}
    for stem, places in found.items():
        first, *copies = [file for file in places if file.size] or places
        reason = None if first.size else "is empty; get the file again"
        for copy in copies:
            reason = reason or _differs(first, copy)
        if reason is not None:
            refused.append(Refusal(first.name, first.where, reason))
            continue
        once[stem] = first
        set_aside["copies"] += len(places) - 1
    return once


def _differs(first: RawFile, copy: RawFile) -> str | None:
    if copy.size != first.size:
        return f"has {counted(first.size, 'byte')} here and {copy.size} in {copy.where}; keep the right one"
    try:
        same = first.checksum() == copy.checksum()
    except DataError as error:
        return f"cannot be compared with its copy in {copy.where} ({error}); keep the right one"
    return None if same else f"is not the same here and in {copy.where}; keep the right one"


def _pairs(
    once: Mapping[str, dict[str, RawFile]],
    others: Collection[str] | None,
    refused: list[Refusal],
    set_aside: Counter[str],
) -> tuple[NtuClip, ...]:
    wrong = {refusal.name.lower(): refusal for refusal in refused}
    setups = {
        modality: {_setup(stem) for stem in some}
        | {_setup(refusal.name) for refusal in refused if _is(refusal.name, modality)}
        for modality, some in once.items()
    }
    clips = []
    for stem in natural_sorted(stem for some in once.values() for stem in some):
        files = {modality: some[stem] for modality, some in once.items() if stem in some}
        lacking = [modality for modality in once if modality not in files]
        if not lacking and (others is None or stem in others):
            clips.append(NtuClip(NtuName.parse(stem), files))
            continue
        for modality, file in files.items():
            if any(_setup(stem) not in setups[other] for other in lacking):
                set_aside[f"{_PLURAL[modality]} of setups without {_PLURAL[lacking[0]]}"] += 1
            else:
                refused.append(Refusal(file.name, file.where, _lacks(stem, lacking, wrong)))
    return tuple(clips)


def _lacks(stem: str, lacking: Sequence[str], wrong: Mapping[str, Refusal]) -> str:
    if not lacking:
        return "no poses of this clip are in the file of poses"
    name = stem + SUFFIXES[lacking[0]]
    cause = wrong.get(name.lower())
    return f"its counterpart {cause.where} is refused" if cause else f"no {name} is there"


def _setup(name: str) -> str:
    return name[:4].upper()
