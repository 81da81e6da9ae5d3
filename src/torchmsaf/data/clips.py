"""Prepared clips as samples: read from disk batch by batch."""

# n clips, C channels, T frames

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from torchmsaf.data.prepared import Prepared
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.data.samples import Samples
from torchmsaf.data.stored import StoredFeatures
from torchmsaf.errors import DataError

# of RGB values in [0, 1]: what video networks are customarily fed
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PreparedRows(StoredFeatures):
    """A modality of prepared clips, some of their rows.

    Attributes:
        prepared: where they are read.
        rows: of its entries, ``(n,)``.
    """

    prepared: Prepared
    rows: Tensor

    def take(self, rows: Tensor) -> Self:
        """Some of the clips, not read yet."""
        some = copy.copy(self)  # whose clips were found to be of one shape already
        some.rows = self.rows[rows]
        some.shape = torch.Size((len(some.rows), *self.shape[1:]))
        return some


class Clips(PreparedRows):
    """One modality of prepared clips.

    Bytes, as frames are, become values in [0, 1] that are normalized by channel; other values come as they were prepared.

    Args:
        prepared: where they are read.
        name: of the modality.
        mean: of each channel, for bytes.
        std: of each channel, for bytes.

    Raises:
        DataError: there is no such modality, or its clips are of different shapes.
    """

    def __init__(
        self,
        prepared: Prepared,
        name: str,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.prepared, self.name = prepared, name
        self.rows = torch.arange(len(prepared))
        self.mean, self.std = tuple(mean), tuple(std)
        self.shape = torch.Size((len(self.rows), *_shape_of(prepared, name)))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read clips: ``(b, C, *positions)`` float32."""
        return normalize(self.prepared.read_many(self.rows[rows].tolist(), self.name), self.mean, self.std)


def normalize(x: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Bytes ``(b, C, *positions)`` to (value / 255 - mean) / std by channel, float32; floats as they are.

    Raises:
        DataError: bytes of other than C channels.
    """
    if x.dtype != torch.uint8:
        return x
    if x.shape[1] != len(mean):
        raise DataError(f"bytes of {x.shape[1]} channels came, and there are means of {len(mean)}")
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    scale = 1 / (255 * torch.tensor(std).view(shape))
    shift = torch.tensor(mean).view(shape) / torch.tensor(std).view(shape)
    return x.float().mul_(scale).sub_(shift)


def _shape_of(prepared: Prepared, name: str) -> tuple[int, ...]:
    for entry in prepared.entries:
        if name not in entry.shapes:
            raise DataError(f"{prepared.path}: clip {entry.id} has no {name!r}; it has {', '.join(entry.shapes)}")
        if entry.shapes[name] != prepared.entries[0].shapes[name]:
            first = prepared.entries[0]
            raise DataError(
                f"{prepared.path}: {name!r} of clip {entry.id} is {entry.shapes[name]}, and {first.shapes[name]} of clip "
                f"{first.id}; clips of one shape are needed"
            )
    if not len(prepared):
        raise DataError(f"{prepared.path} has no clips")
    return prepared.entries[0].shapes[name]


def emotion_samples(prepared: Prepared, name: str = "RAVDESS") -> Samples:
    """Prepared RAVDESS clips as samples with video and audio, the eight emotions as classes and the actors as groups.

    Args:
        prepared: as ``torchmsaf prepare ravdess`` makes it.
        name: what tables call the data set.

    Raises:
        DataError: it is prepared from another data set.
    """
    if prepared.set_name != "ravdess":
        raise DataError(f"{prepared.path} is prepared from {prepared.set_name!r}; 'ravdess' is needed")
    labels = [_fact(entry.facts, "label", entry.id) for entry in prepared.entries]
    actors = [_fact(entry.facts, "actor", entry.id) for entry in prepared.entries]
    ids = tuple(entry.id for entry in prepared.entries)
    return Samples(
        name=name,
        features={part: Clips(prepared, part) for part in ("video", "audio")},
        target=torch.tensor(labels),
        present=torch.ones(len(ids), 2, dtype=torch.bool),
        ids=ids,
        classes=EMOTIONS,
        groups=tuple(map(str, actors)),
        parts=None,
        fingerprint=hashlib.sha256(json.dumps([prepared.fingerprint, labels, actors]).encode()).hexdigest(),
    )


def _fact(facts: Mapping[str, object], key: str, clip: str) -> int:
    value = facts.get(key)
    if not isinstance(value, int):
        raise DataError(f"clip {clip}: its {key} is {value!r}; a whole number is needed: prepare it again")
    return value
