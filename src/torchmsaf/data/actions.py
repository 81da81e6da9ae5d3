"""Prepared clips of actions as samples: frames and skeletons, read and cut to size batch by batch."""

# n clips, b of them; F stored frames, T steps of a skeleton, V joints, S persons

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.data.clips import PreparedRows, normalize
from torchmsaf.data.ntu import ACTIONS, JOINTS
from torchmsaf.data.prepared import Entry, Prepared
from torchmsaf.data.samples import Samples
from torchmsaf.data.stored import StoredFeatures
from torchmsaf.errors import DataError
from torchmsaf.ops.checks import is_integer

Draw = Literal["random", "published", "none"]
# the joint in the middle of the spine, which Kinect calls SpineMid
CENTRE = 1
_LEAST_STEPS = 64  # of a random part of a skeleton, as in the authors' code


class Frames(PreparedRows):
    """The frames of prepared clips, a part of them in space and time: ``(n, 3, frames, size, size)``, normalized.

    As they are, the middle of all frames. In training with ``draw="random"``: a part of the time, of a length uniform in
    (0.5, 1] of the clip and at a uniform place, and a square at a uniform place, mirrored half of the time; both are drawn
    once a clip, so that it stays one film. ``"published"`` is what the authors' code does: the middle of the time, of that
    length, and the middle of the frames, in training too. ``"none"``: nothing is drawn.

    Args:
        prepared: with arrays ``rgb``, ``(3, F, S, S)`` bytes.
        frames: of a sample, evenly spread over those stored, which are repeated where they are fewer.
        size: of a frame, at most that stored.
        draw: what training changes.

    Raises:
        DataError: a clip without frames, or of other sizes than the first; frames smaller than ``size``.
    """

    def __init__(self, prepared: Prepared, *, frames: int, size: int, draw: Draw = "random") -> None:
        self.prepared, self.frames, self.size, self.draw = prepared, frames, size, draw
        self.rows = torch.arange(len(prepared))
        first = _shape(prepared, prepared.entries[0], "rgb") if len(prepared) else ()
        for entry in prepared.entries:
            found = _shape(prepared, entry, "rgb")
            if len(found) != 4 or found != first:
                raise DataError(f"{prepared.path}: 'rgb' of clip {entry.id} is {found}, and of the first {first}")
            if min(found[2:]) < size:
                raise DataError(
                    f"{prepared.path}: the frames of clip {entry.id} are {found[2]} x {found[3]}; {size} or more is needed"
                )
        self.shape = torch.Size((len(prepared), 3, frames, size, size))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The middle of all frames, ``(b, 3, frames, size, size)`` float32."""
        return normalize(torch.stack([self._cut(row) for row in self.rows[rows].tolist()]))

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As training sees them."""
        if self.draw == "none":
            return self[rows]
        clips = []
        for row in self.rows[rows].tolist():
            share, place, down, along, flip = torch.rand(5, generator=generator).tolist()
            if self.draw == "published":
                clips.append(self._cut(row, share=1 - share / 2))
            else:
                clips.append(self._cut(row, share=1 - share / 2, place=place, down=down, along=along, flip=flip < 0.5))
        return normalize(torch.stack(clips))

    def _cut(self, row: int, **where: Any) -> Tensor:
        whole = self.prepared.read(row, "rgb")  # mapped: only what is taken is read
        return cut_frames(whole, frames=self.frames, size=self.size, draw=self.draw, **where)


def cut_frames(
    whole: Tensor,
    *,
    frames: int,
    size: int,
    draw: Draw = "random",
    share: float = 1.0,
    place: float = 0.5,
    down: float = 0.5,
    along: float = 0.5,
    flip: bool = False,
) -> Tensor:
    """A part of a clip in space and time, by default the middle of all frames; still bytes.

    Args:
        whole: ``(3, F, H, W)`` bytes.
        frames: of what comes, evenly spread over the part, and repeated where it has fewer.
        size: of a frame.
        draw: with ``"published"`` which frames these are is rounded as in the authors' code.
        share: length of the part in time, of the clip's.
        place: of the part in time, from 0 for the start to 1.
        down: of the square, from 0 for the top to 1.
        along: of the square, from 0 for the left to 1.
        flip: mirror it, left and right.

    Returns:
        ``(3, frames, size, size)``.
    """
    stored, height, width = whole.shape[1:]
    if draw == "published":
        first = (stored - int(stored * share)) // 2
        length = stored - 2 * first
        index = first + torch.linspace(0, length - 1, frames).long()
    else:
        length = max(1, round(stored * share))
        first = min(int(place * (stored - length + 1)), stored - length)
        index = first + torch.linspace(0, length - 1, frames).round().long()
    top, left = _place(down, height - size), _place(along, width - size)
    part = whole[:, :, top : top + size, left : left + size][:, index]
    return part.flip(-1) if flip else part


class Skeletons(PreparedRows):
    """Skeletons of prepared clips, ``(n, 3, steps, V, S)``: centred, with as many steps and persons as a network takes.

    The first person is that of the file, where :mod:`torchmsaf.data.prepare.actions.bodies` puts the one that moves most. In
    every frame the joint in the middle of this person's spine is the origin; of skeletons without such a joint it is the
    mean of the joints. A score behind the coordinates, as poses have, has no origin and stays as it is. Absent persons are
    zeros behind those that are there, and :func:`action_samples` says how many are.
    In training with a ``draw`` a part of the time is taken: at a uniform place, and of a length uniform in [0.5, 1) of the
    clip, but of 64 steps or more where there are so many.

    Args:
        prepared: with arrays ``skeleton``, ``(3, T, V, persons)`` float32; its parameter ``coordinates`` says how many of
            the channels are coordinates, all where there is none.
        steps: of a sample; the time is interpolated linearly to so many.
        persons: S; the first so many of each clip.
        draw: what training changes; ``"published"`` and ``"random"`` are the same, but that with the first an absent person
            is minus the origin, as in the authors' code.

    Raises:
        DataError: a clip without a skeleton, or with other joints than the first.
    """

    def __init__(self, prepared: Prepared, *, steps: int = 32, persons: int = 2, draw: Draw = "random") -> None:
        self.prepared, self.steps, self.persons, self.draw = prepared, steps, persons, draw
        self.rows = torch.arange(len(prepared))
        self.coordinates: int | None = prepared.parameters.get("coordinates")
        channels, _, joints, _ = self._shape_of(prepared.entries[0]) if len(prepared) else (0, 0, 0, 0)
        for entry in prepared.entries:
            found = self._shape_of(entry)
            if (found[0], found[2]) != (channels, joints):
                raise DataError(
                    f"{prepared.path}: clip {entry.id} has {found[2]} joints of {found[0]} coordinates, and the first clip "
                    f"{joints} of {channels}"
                )
        self.shape = torch.Size((len(prepared), channels, steps, joints, persons))

    def _shape_of(self, entry: Entry) -> tuple[int, ...]:
        found = _shape(self.prepared, entry, "skeleton")
        if len(found) != 4:
            raise DataError(
                f"{self.prepared.path}: 'skeleton' of clip {entry.id} is {found}; (C, T, V, persons) is needed"
            )
        return found

    @property
    def present(self) -> Tensor:
        """How many persons each clip has, at most S: ``(n,)``."""
        if self.draw == "published":
            return torch.full((len(self),), self.persons)
        entries = self.prepared.entries
        return torch.tensor([min(entries[row].shapes["skeleton"][-1], self.persons) for row in self.rows.tolist()])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """All the time, ``(b, C, steps, V, S)`` float32."""
        return torch.stack([self._ready(self.prepared.read(row, "skeleton")) for row in self.rows[rows].tolist()])

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As training sees them."""
        if self.draw == "none":
            return self[rows]
        parts = []
        for row in self.rows[rows].tolist():
            share, place = torch.rand(2, generator=generator).tolist()
            whole = self.prepared.read(row, "skeleton")
            total = whole.shape[1]
            length = min(total, max(_LEAST_STEPS, int(total * (0.5 + share / 2))))
            first = min(int(place * (total - length + 1)), total - length)
            parts.append(self._ready(whole[:, first : first + length]))
        return torch.stack(parts)

    def _ready(self, x: Tensor) -> Tensor:
        return ready_skeleton(x, steps=self.steps, persons=self.persons, draw=self.draw, coordinates=self.coordinates)


def ready_skeleton(
    x: Tensor, *, steps: int, persons: int, draw: Draw = "random", coordinates: int | None = None
) -> Tensor:
    """A skeleton as :class:`Skeletons` gives it: centred, with so many steps and persons.

    Args:
        x: ``(C, T, V, persons)``, the first person first.
        steps: of what comes.
        persons: S of what comes.
        draw: with ``"published"`` an absent person is minus the origin.
        coordinates: so many channels are centred, the first ones; others, such as a score, stay as they are. None = all.

    Returns:
        ``(C, steps, V, S)`` float32.
    """
    x = x[..., :persons].float()
    centred = x.shape[2] == len(JOINTS)
    first = x[:coordinates, ..., :1]
    origin = first[:, :, CENTRE].unsqueeze(2) if centred else first.mean(2, keepdim=True)
    origin = F.pad(origin, (0, 0, 0, 0, 0, 0, 0, len(x) - len(first)))
    absent = persons - x.shape[-1]
    x = F.pad(x, (0, absent)) - origin if draw == "published" else F.pad(x - origin, (0, absent))
    channels, total, joints, persons = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(1, -1, total)
    flat = F.interpolate(flat, size=steps, mode="linear", align_corners=False) if total != steps else flat
    return flat.view(channels, joints, persons, steps).permute(0, 3, 1, 2).contiguous()


def _place(share: float, room: int) -> int:
    return min(int(share * (room + 1)), room)


def _shape(prepared: Prepared, entry: Entry, name: str) -> tuple[int, ...]:
    if name not in entry.shapes:
        raise DataError(f"{prepared.path}: clip {entry.id} has no {name!r}; it has {', '.join(entry.shapes)}")
    return entry.shapes[name]


def action_samples(
    prepared: Prepared,
    *,
    groups: tuple[str, ...],
    frames: int = 32,
    size: int = 224,
    steps: int = 32,
    persons: int = 2,
    draw: Draw = "random",
    name: str = "NTU RGB+D",
) -> Samples:
    """Prepared clips as samples with ``rgb`` and ``skeleton``, or with the one of them that was prepared.

    Args:
        prepared: as ``torchmsaf prepare ntu`` makes it.
        groups: of each clip, as a protocol has them.
        frames: that the RGB network takes.
        size: of a frame, as it takes them.
        steps: of a skeleton.
        persons: S; whether a clip has so many is in the samples' lengths.
        draw: what training changes.
        name: what tables call the data set.

    Returns:
        The samples; the classes are the actions that occur.

    Raises:
        DataError: it is prepared from another data set, or nothing of it is left; a clip lacks what the others have.
    """
    if prepared.set_name != "ntu":
        raise DataError(f"{prepared.path} is prepared from {prepared.set_name!r}; 'ntu' is needed")
    if not len(prepared):
        raise DataError(f"{prepared.path} has no clips")
    if draw not in get_args(Draw):
        raise DataError(f"draw is {draw!r}; {', '.join(get_args(Draw))} are there")
    if prepared.parameters.get("bodies") == "published" and draw != "published":
        raise DataError(
            f"{prepared.path} was prepared as the published code reads, where an absent person is there: train with its "
            "augmentation too (--draw published), or prepare without --published"
        )
    if not is_integer(persons) or persons < 1:
        raise DataError(f"persons is {persons!r}; 1 or more are needed")
    if persons > 2 and prepared.parameters.get("bodies") in ("2", "published"):
        raise DataError(f"persons is {persons}, and {prepared.path} has two of each clip: prepare with --bodies all")
    actions = [fact(entry, "action") for entry in prepared.entries]
    occurring = sorted(set(actions))
    number = {action: k for k, action in enumerate(occurring)}
    held = action_modalities(prepared)
    features: dict[str, StoredFeatures] = {}
    lengths = {}
    if "rgb" in held:
        features["rgb"] = Frames(prepared, frames=frames, size=size, draw=draw)
    if "skeleton" in held:
        skeletons = Skeletons(prepared, steps=steps, persons=persons, draw=draw)
        features["skeleton"], lengths["skeleton"] = skeletons, skeletons.present
    ids = tuple(entry.id for entry in prepared.entries)
    content = [prepared.fingerprint, actions, groups, frames, size, steps, persons, draw]
    if prepared.parameters.get("score"):
        content.append("scores are not centred")  # no run goes on from one where they were
    return Samples(
        name=name,
        features=features,
        target=torch.tensor([number[action] for action in actions]),
        present=torch.ones(len(ids), len(features), dtype=torch.bool),
        ids=ids,
        classes=tuple(f"A{action:03} {ACTIONS[action - 1]}" for action in occurring),
        groups=groups,
        parts=None,
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        lengths=lengths,
    )


def action_modalities(prepared: Prepared) -> tuple[str, ...]:
    """The modalities that prepared clips have, in the order in which a fusion sees them."""
    held = prepared.entries[0].shapes if len(prepared) else {}
    return tuple(name for name in ("rgb", "skeleton") if name in held)


def fact(entry: Entry, key: str) -> int:
    """A whole number that the preparation says of a clip.

    Raises:
        DataError: it says none.
    """
    value = entry.facts.get(key)
    if not isinstance(value, int):
        raise DataError(f"clip {entry.id}: its {key} is {value!r}; a whole number is needed: prepare it again")
    return value
