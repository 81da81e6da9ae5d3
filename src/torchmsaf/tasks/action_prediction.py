"""The actions of somebody's own clips: videos, and skeletons as Kinect's are filed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, get_args

import torch
from torch import Tensor

from torchmsaf.data.actions import Draw, cut_frames, ready_skeleton
from torchmsaf.data.clips import normalize
from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.actions.plan import RGB, SKELETON
from torchmsaf.data.prepare.actions.preparation import NtuSettings, read_bodies, read_frames
from torchmsaf.data.prepare.raw import RawFile, find_files, one_file
from torchmsaf.errors import DataError
from torchmsaf.tasks.action import NETWORKS
from torchmsaf.tasks.clip_model import ClipModel
from torchmsaf.tasks.model_file import ModelSpec
from torchmsaf.tasks.models import Model
from torchmsaf.tasks.systems.base import System

# of the files of each modality; `_rgb` before it is not part of a clip's name
SUFFIXES = {SKELETON: (".skeleton",), RGB: (".avi", ".mp4", ".mkv", ".mov", ".webm")}
_RGB_NAME = "_rgb"
_SETTINGS = ("frames", "size", "sampling", "bodies", "channel_order")


@dataclass(frozen=True)
class ClipAction:
    """What a model says of one clip.

    Attributes:
        clip: its name, which its files share.
        files: modality -> file.
        action: the likeliest.
        probabilities: of each action; they sum to one.
        alone: what each modality's own network says within the fused one, as probabilities; empty for early fusion.
        attention: share of each modality at each point of MSAF; empty for other methods.
        even_attention: the shares if attention were even: those of the modalities in the blocks.
        absent: modalities of the model that the clip lacks.
        persons: bodies in the skeleton file; None without one.
        made_up_model: the model was trained on made-up clips, so that what it says means nothing.
    """

    clip: str
    files: dict[str, str]
    action: str
    probabilities: dict[str, float]
    alone: dict[str, dict[str, float]]
    attention: list[dict[str, float]]
    even_attention: list[dict[str, float]]
    absent: tuple[str, ...]
    persons: int | None
    made_up_model: bool


class ActionModel(ClipModel):
    """A trained network of actions with all that is needed to feed it files.

    Args:
        network: of frames and skeletons, or of one of them.
        spec: how it is built, and how its inputs are prepared.

    Attributes:
        reads: the modalities whose files it reads.

    Raises:
        DataError: the model is of another task, is of poses or arrays, or says too little.
    """

    task = "action"
    modalities = tuple(NETWORKS)

    def __init__(self, network: Model, spec: ModelSpec) -> None:
        if spec.about.get("task") == self.task and "parameters" not in spec.about:
            raise DataError(
                "the model was trained on arrays, and takes no files: read it with torchmsaf.tasks.model_file.load_model"
            )
        super().__init__(network, spec)
        parameters = spec.about["parameters"]
        if SKELETON in spec.networks and parameters.get("skeletons", "kinect") != "kinect":
            raise DataError("the model was trained on poses out of a pickle, which skeleton files are not like")
        self.settings = NtuSettings(
            **{name: parameters[name] for name in _SETTINGS if name in parameters}, modalities=tuple(spec.networks)
        )
        self.check_settings(self.settings.parameters())
        needs = network.needs if isinstance(network, System) else ()
        self.reads = needs or tuple(spec.networks)
        # of the files of others, which say nothing of it
        published = "published" in (parameters.get("bodies"), parameters.get("sampling"))
        self.draw: Draw = spec.about.get("draw") or ("published" if published else "random")
        if self.draw not in get_args(Draw):
            raise DataError(f"the model was trained with draw {self.draw!r}; {', '.join(get_args(Draw))} are known")
        if RGB in spec.networks and max(spec.networks[RGB].shape[2:]) > self.settings.size:
            raise DataError(
                f"the model takes frames larger than the {self.settings.size} pixels that it says they have"
            )

    def predict(self, files: Mapping[str, str | Path | RawFile], clip: str | None = None) -> ClipAction:
        """The action of one clip.

        Args:
            files: modality, ``rgb`` or ``skeleton``, -> its file. A modality that the model knows and the clip lacks is
                absent to the fusion; one that the model does not know is not read.
            clip: what it is called; None = by its files.

        Raises:
            DataError: a file cannot be used, and the message names it; or the clip has nothing that the model takes.
        """
        raw = {name: file if isinstance(file, RawFile) else one_file(Path(file)) for name, file in files.items()}
        clip = clip or next((_clip_name(file.name) for file in raw.values()), "the clip")
        taken = {name: raw[name] for name in self.reads if name in raw}
        if not taken:
            there = " and ".join(sorted(raw)) or "no file"
            wanted = " or ".join(self.reads)
            raise DataError(f"{clip}: there is {there} of it, and the model takes {wanted}")
        inputs, persons = [], None
        lengths: list[Tensor | None] = []
        for name, network in self.spec.networks.items():
            x, length = torch.zeros(1, *network.shape), None
            if name in taken:
                try:
                    x, length, facts = self._read(name, taken[name], network.shape)
                except DataError as error:
                    file = taken[name].name
                    reason = str(error).removeprefix(f"{file}: ").removeprefix(f"{file} ")
                    raise DataError(f"{_place(taken[name])}: {reason}") from error
                persons = facts.get("persons", persons)
            elif name == SKELETON:
                length = torch.zeros(1, dtype=torch.long)
            inputs.append(x)
            lengths.append(length)
        present = torch.tensor([[name in taken for name in self.spec.networks]])
        said = self.say(inputs, present, lengths)
        return ClipAction(
            clip=clip,
            files={name: _place(file) for name, file in taken.items()},
            action=said.likeliest,
            **vars(said),
            absent=tuple(name for name in self.reads if name not in taken),
            persons=persons,
            made_up_model=self.made_up,
        )

    def _read(self, name: str, raw: RawFile, shape: Sequence[int]) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
        """A modality's input, as evaluation has it, how many persons are there, and what is to be said of the file."""
        if name == RGB:
            arrays, facts = read_frames(raw, self.settings)
            whole = torch.from_numpy(arrays[RGB])
            return normalize(cut_frames(whole, frames=shape[1], size=shape[2], draw=self.draw)[None]), None, facts
        arrays, facts = read_bodies(raw, self.settings)
        x = torch.from_numpy(arrays[SKELETON])
        persons = shape[-1] if self.draw == "published" else min(x.shape[-1], shape[-1])
        return (
            ready_skeleton(x, steps=shape[1], persons=shape[-1], draw=self.draw)[None],
            torch.tensor([persons]),
            facts,
        )


def find_clips(paths: Sequence[Path]) -> tuple[dict[str, dict[str, RawFile]], list[str]]:
    """The clips in files, folders and zip archives: files that share a name, but for the suffix and ``_rgb`` before it.

    Where several files of one modality share a name, those that lie in one folder belong together, and clips are named with
    as much of their folders as tells them apart. Other files in folders and archives are left alone.

    Returns:
        Clip -> modality -> file, in natural order; and what cannot be used, with the reason.
    """
    found: dict[tuple[Path, str | None], RawFile] = {}
    refused: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            files, wrong = _files(path)
        except DataError as error:
            refused.append(str(error))
            continue
        refused += wrong
        for file in files:
            found.setdefault((file.path.resolve(), file.member), file)
    named: dict[str, list[RawFile]] = {}
    for file in found.values():
        named.setdefault(_clip_name(file.name), []).append(file)
    clips: dict[str, dict[str, RawFile]] = {}
    for name, same in named.items():
        several = len({_modality(file.name) for file in same}) < len(same)
        for folder, own in (_by_folder(same) if several else {"": same}).items():
            clip: dict[str, RawFile] = {}
            for file in own:
                other = clip.setdefault(str(_modality(file.name)), file)
                if other is not file:
                    both = f"{_place(other)} and {_place(file)} are both the {_modality(file.name)} of one clip"
                    refused.append(f"{both}: give one")
                    break
            else:
                clips[f"{folder}/{name}" if folder else name] = clip
    return dict(sorted(clips.items(), key=lambda item: natural_key(item[0]))), refused


def _files(path: Path) -> tuple[list[RawFile], list[str]]:
    if not path.is_dir() and path.suffix.lower() != ".zip":
        if _modality(path.name) is None:
            raise DataError(f"{path} is no clip: they end in {_suffixes()}")
        return [one_file(path)], []
    files, refused = find_files(path)
    wrong = [
        f"{path}: {one}" for one in refused if _modality(one.name) is not None or one.name.lower().endswith(".zip")
    ]
    files = [file for file in files if _modality(file.name) is not None]
    if not files and not wrong:
        raise DataError(f"{path} has no clips, which end in {_suffixes()}")
    return files, wrong


def _by_folder(files: Sequence[RawFile]) -> dict[str, list[RawFile]]:
    """The files of each folder, by as much of its path, from the end, as tells it from the others."""
    groups: dict[tuple[str, ...], list[RawFile]] = {}
    for file in files:
        inside = () if file.member is None else (file.path.name, *PurePath(file.member).parts[:-1])
        groups.setdefault((*file.path.resolve().parent.parts, *inside), []).append(file)
    length = 1
    while len({folder[-length:] for folder in groups}) < len(groups):
        length += 1
    return {"/".join(folder[-length:]): own for folder, own in groups.items()}


def _place(file: RawFile) -> str:
    return str(file.path) if file.member is None else file.where


def _clip_name(name: str) -> str:
    stem = PurePath(name).stem
    return stem[: -len(_RGB_NAME)] if stem.lower().endswith(_RGB_NAME) and _modality(name) == RGB else stem


def _modality(name: str) -> str | None:
    suffix = PurePath(name).suffix.lower()
    return next((modality for modality, known in SUFFIXES.items() if suffix in known), None)


def _suffixes() -> str:
    *most, last = (suffix for known in SUFFIXES.values() for suffix in known)
    return f"{', '.join(most)} or {last}"
