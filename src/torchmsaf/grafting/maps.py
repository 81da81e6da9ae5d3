"""A layer's output as the map that a fusion takes, and the fused map back in the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from torchmsaf.errors import GraftError
from torchmsaf.grafting.layouts import channels_second, fit_mask, from_channels_second, to_channels_second
from torchmsaf.grafting.players import Arrival, Stop
from torchmsaf.grafting.values import Path, find, put, said


class Map(NamedTuple):
    """What arrived from one layer.

    Attributes:
        stop: where.
        output: all that the layer gave.
        path: where the map is in it.
        layout: of the map there.
        features: the map, ``(B, C, *positions)``.
        real: ``(B, *positions)``, of a packed sequence.
    """

    stop: Stop
    output: Any
    path: Path
    layout: str
    features: Tensor
    real: Tensor | None

    @classmethod
    def of(cls, arrival: Arrival) -> Map:
        """Read a layer's output.

        Raises:
            GraftError: no such element, not a tensor of floating-point numbers, or of another rank than the layout.
        """
        stop, output = arrival.stop, arrival.output
        path = stop.path_in(output)
        value = find(output, path, stop.where)
        real = None
        if isinstance(value, PackedSequence):
            value, real = _unpack(value)
            layout = "BTC"
        elif isinstance(value, Tensor) and value.dim() >= 2:
            layout = stop.layouts.get(value.dim()) or channels_second(value.dim())
        else:
            raise GraftError(f"{stop.where}: expected a tensor (B, C, *positions) to fuse, got {said(value)}")
        if not value.is_floating_point():
            raise GraftError(f"{stop.where}: its output is {value.dtype}; a map has floating-point numbers")
        if value.is_nested or value.layout != torch.strided:
            raise GraftError(
                f"{stop.where}: its output is a nested or sparse tensor, which cannot be fused; an nn.TransformerEncoder "
                "gives plain ones with enable_nested_tensor=False"
            )
        known = stop.tap.layout or (stop.shape and stop.layouts.get(len(stop.shape)))
        if known and len(known) != value.dim():
            raise GraftError(
                f"{stop.where}: its output is {tuple(value.shape)}, {value.dim()} axes, and its layout is {known!r}"
            )
        return cls(stop, output, path, layout, to_channels_second(value, layout), real)

    def mask(self, given: Tensor | None) -> Tensor | None:
        """The mask of this map's positions, from the network's."""
        if given is None:
            return self.real
        return fit_mask(given, self.features.shape[2:], prefix=self.stop.tap.prefix, owner=self.stop.where)

    def back(self, fused: object) -> Any:
        """What the network goes on with: the output itself where the fusion gave the map itself.

        Raises:
            GraftError: the fusion gave something of another shape.
        """
        if (fused is self.features and self.real is None) or self.stop.tap.read_only:
            return self.output
        if not isinstance(fused, Tensor) or fused.shape != self.features.shape:
            raise GraftError(
                f"{self.stop.where}: the fusion of point {self.stop.point} got a map {tuple(self.features.shape)} "
                f"(channels second) and gave {said(fused)}; it gives maps of the same shapes"
            )
        value: Any = from_channels_second(fused, self.layout)
        if self.real is not None:
            value = _pack(value, find(self.output, self.path, self.stop.where))
        return put(self.output, self.path, value)


def check_batch(point: int, maps: Sequence[Map | None]) -> int:
    """The number of samples, the same in all maps of a point.

    Raises:
        GraftError: it is not.
    """
    here = [one for one in maps if one is not None]
    first = here[0]
    for one in here[1:]:
        if one.features.shape[0] != first.features.shape[0]:
            raise GraftError(
                f"point {point}: {one.stop.where} gave {one.features.shape[0]} samples {_seen(one)}, and "
                f"{first.stop.where} gave {first.features.shape[0]} {_seen(first)}; say where the batch axis is with "
                "Tap(..., layout=...), and give every network the same number of samples"
            )
    return first.features.shape[0]


def _seen(one: Map) -> str:
    return f"({tuple(from_channels_second(one.features, one.layout).shape)} as {one.layout})"


def _unpack(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """A padded ``(B, T, C)`` and which steps are real, ``(B, T)``."""
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    real = torch.arange(padded.shape[1])[None] < lengths[:, None]
    return padded, real.to(padded.device)


def _pack(padded: Tensor, like: PackedSequence) -> PackedSequence:
    """The inverse, in the order of the sequence that it came from."""
    _, lengths = pad_packed_sequence(like, batch_first=True)
    if like.sorted_indices is not None:
        padded = padded.index_select(0, like.sorted_indices)
        lengths = lengths[like.sorted_indices.cpu()]
    packed = pack_padded_sequence(padded, lengths, batch_first=True)
    return PackedSequence(packed.data, packed.batch_sizes, like.sorted_indices, like.unsorted_indices)
