"""A network in one batch: its stages on the samples that have its modality, and its persons as inputs of a fusion."""

# B batch, C channels, T steps, S persons

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchmsaf.backbones.staged import Part, StagedNetwork
from torchmsaf.ops.modes import evaluating
from torchmsaf.ops.steps import entry_mask, masked_mean, step_mask
from torchmsaf.ops.support import over_samples
from torchmsaf.tasks.points import FEATURE, Tap, inputs_of, persons_at, stage_name, taps_of


@dataclass(frozen=True)
class Way:
    """A network in one batch.

    Attributes:
        net: the network.
        rows: ``(B,)`` booleans, the samples that have its modality; None = all.
        lengths: ``(B,)`` real steps or persons, where the network takes lengths and there is padding.
        batch: B.
        device: of the batch.
    """

    net: StagedNetwork
    rows: Tensor | None
    lengths: Tensor | None
    batch: int
    device: torch.device

    def run_stages(self, x: Tensor, first: int, last: int, read: dict[str, Tensor] | None = None) -> Tensor:
        """Run stages ``first`` to before ``last``; what is tapped of them is put into ``read``, pooled."""
        for k in range(first, last):
            x = self.run(self.net.stages[k], x, self.lengths)
            if read is not None and (name := stage_name(self.net, k)) in taps_of(self.net):
                read[name] = self._pooled(x, k)
        return x

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """What is tapped of a network without a fusion: pooled vectors ``(B, C)`` by name, in the order of their depths."""
        read: dict[str, Tensor] = {}
        x = self.run_stages(x, 0, len(self.net.stages), read)
        if FEATURE in taps_of(self.net):
            read[FEATURE] = self.run(self.net.feature, x, self.lengths)
        return read

    def has_persons(self, tap: Tap) -> bool:
        """Whether some persons may be absent at a stage while their modality is there."""
        return (self.lengths is not None and persons_at(self.net, tap.stage) > 0) or inputs_of(self.net, tap) != 1

    def streams(self, tap: Tap, maps: Tensor) -> list[Tensor]:
        """The inputs of a fusion: the maps, or those of each person."""
        if not persons_at(self.net, tap.stage):
            return [maps]
        return list(maps.unbind(-1)) if tap.person is None else [maps[..., tap.person]]

    def put(self, tap: Tap, maps: Tensor, streams: list[Tensor]) -> Tensor:
        """The maps after a fusion has changed some of their streams."""
        if not persons_at(self.net, tap.stage):
            return streams[0]
        if tap.person is None:
            return torch.stack(streams, dim=-1)
        return torch.stack([streams[0] if k == tap.person else x for k, x in enumerate(maps.unbind(-1))], dim=-1)

    def here(self, tap: Tap) -> list[Tensor]:
        """Presence ``(B,)`` of each input that a fusion gets of this network."""
        rows = torch.ones(self.batch, dtype=torch.bool, device=self.device) if self.rows is None else self.rows
        if not persons_at(self.net, tap.stage) or self.lengths is None:
            return [rows] * inputs_of(self.net, tap)
        numbers = range(persons_at(self.net, tap.stage)) if tap.person is None else [tap.person]
        return [rows & (self.lengths > k) for k in numbers]

    def _pooled(self, maps: Tensor, stage: int) -> Tensor:
        """Of several persons the largest, averaged over positions: ``(B, C)``; absent ones do not count."""
        if persons_at(self.net, stage):
            if self.lengths is None:
                maps = maps.amax(-1)
            else:
                largest = maps.masked_fill(~entry_mask(self.lengths, maps), -torch.inf).amax(-1)
                maps = torch.where(over_samples(self.lengths > 0, largest), largest, 0)
            return maps.flatten(2).mean(2) if maps.dim() > 2 else maps
        if maps.dim() == 3 and self.lengths is not None:
            return masked_mean(maps.transpose(1, 2), step_mask(self.lengths, maps.shape[2]))
        return maps.flatten(2).mean(2) if maps.dim() > 2 else maps

    def run(self, part: Part, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run a part of the network on the rows that have the modality; the others come out as zeros.

        In training, absent rows are left out, so that batch norm never sees them. In evaluation rows do not meet: absent
        ones run as zeros, as the gradient of what is NaN would be NaN.
        """
        net, rows = self.net, self.rows
        takes = net.takes_lengths and part is not net.head
        if rows is None or (net.training and bool(rows.all())):
            return part(x, lengths) if takes else part(x)
        if not net.training:
            return self._run_blanked(part, x, rows, lengths, takes)
        if int(rows.sum()) < 2:  # no statistics of one row: use the running ones
            with evaluating(net):
                return self._run_blanked(part, x, rows, lengths, takes)
        own = None if lengths is None else lengths[rows]
        some = part(x[rows], own) if takes else part(x[rows])
        return some.new_zeros(len(x), *some.shape[1:]).index_put((rows.nonzero()[:, 0],), some)

    def _run_blanked(self, part: Part, x: Tensor, rows: Tensor, lengths: Tensor | None, takes: bool) -> Tensor:
        clean = torch.where(over_samples(rows, x), x, 0)
        y = part(clean, lengths) if takes else part(clean)
        return torch.where(over_samples(rows, y), y, 0)

    def mask(self, maps: Tensor) -> Tensor | None:
        """``(B, T)`` booleans over the steps of maps ``(B, C, T)``, True = real; None = all are."""
        return None if self.lengths is None or self.net.streams else step_mask(self.lengths, maps.shape[2])
