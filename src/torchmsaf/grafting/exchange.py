"""What is done at a fusion point: maps out of the layers' outputs, the fusion, and the fused maps back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError, GraftError
from torchmsaf.fusion.base import BranchFusion
from torchmsaf.grafting.maps import Map, check_batch
from torchmsaf.grafting.meeting import Answers
from torchmsaf.grafting.players import Arrival, Stop
from torchmsaf.grafting.values import said
from torchmsaf.ops.support import over_samples


@dataclass(frozen=True)
class Exchange:
    """The fusions of one forward pass.

    Attributes:
        plan: the stops of each point, of all networks.
        fusions: one a point.
        takes: which of ``masks`` and ``present`` each fusion takes.
        masks: of the networks' inputs, by name.
        presence: who is there.
        branch: the last state of the fusions' own branch, for those that have one; empty before the first.
    """

    plan: Sequence[Sequence[Stop]]
    fusions: Sequence[nn.Module]
    takes: Sequence[frozenset[str]]
    masks: Mapping[str, Tensor | None]
    presence: Presence
    branch: list[Tensor] = field(default_factory=list)

    def fuse(self, point: int, arrivals: Mapping[int, Arrival]) -> Answers:
        """What each network goes on with.

        Args:
            point: its number.
            arrivals: by slot, of the networks that run.

        Raises:
            GraftError: maps that do not fit each other or the fusion, or a fusion that cannot do what is asked of it.
        """
        stops, fusion = self.plan[point], self.fusions[point]
        maps = [Map.of(arrivals[stop.slot]) if stop.slot in arrivals else None for stop in stops]
        batch = check_batch(point, maps)
        _check_channels(maps, fusion)
        some = next(one.features for one in maps if one is not None)
        features = [
            _nothing(stop, fusion, batch, some) if one is None else one.features
            for stop, one in zip(stops, maps, strict=True)
        ]
        masks = [None if one is None else one.mask(self.masks.get(one.stop.network)) for one in maps]
        asked: dict[str, Any] = {}
        given = any(self.masks.get(stop.network) is not None for stop in stops)
        # a packed sequence brings a mask of its own, for the fusions that take one
        if given or ("masks" in self.takes[point] and any(mask is not None for mask in masks)):
            asked["masks"] = masks
        present = self.presence.of([stop.network for stop in stops], batch, some.device)
        if len(arrivals) < len(stops) and any(
            one is None and stop.network in self.presence.active for stop, one in zip(stops, maps, strict=True)
        ):
            ran = torch.tensor([one is not None for one in maps], device=some.device)
            present = ran.expand(batch, -1) if present is None else present & ran
        if present is not None:
            asked["present"] = present
        for name in asked:
            if name not in self.takes[point]:
                raise GraftError(
                    f"point {point}: {_name(fusion)} has no parameter {name!r}, and "
                    + ("a mask reaches it" if name == "masks" else "a modality is missing")
                    + "; all methods of torchmsaf have it"
                )
        try:
            fused = (
                self._grow(fusion, features, asked) if isinstance(fusion, BranchFusion) else fusion(features, **asked)
            )
        except FusionInputError as error:
            order = "; ".join(f"modality {stop.slot} is {stop.where}" for stop in stops)
            raise GraftError(f"point {point}: {error} ({order})") from error
        except Exception as error:
            error.add_note(f"(in the fusion of point {point} of a grafted model)")
            raise
        if not isinstance(fused, tuple | list) or len(fused) != len(stops):
            raise GraftError(
                f"point {point}: {_name(fusion)} gave {said(fused)}; expected a list of {len(stops)} maps, one a tap"
            )
        return {stop.slot: one.back(x) for stop, one, x in zip(stops, maps, fused, strict=True) if one is not None}

    def _grow(self, fusion: BranchFusion, features: Sequence[Tensor], asked: Mapping[str, Any]) -> list[Tensor]:
        """Maps and branch go through a point that has a branch; the branch is kept for the next, and for the head."""
        fused, grown = fusion.grow(features, self.branch[0] if self.branch else None, **asked)
        self.branch[:] = [grown]
        return fused


@dataclass(frozen=True)
class Presence:
    """Which samples have which modality.

    Attributes:
        networks: names of all, in order.
        active: names of those that run.
        flags: ``(B, M)`` booleans, or None = all of those that run.
    """

    networks: Sequence[str]
    active: Sequence[str]
    flags: Tensor | None

    def blank(self, name: str, value: Any) -> Any:
        """A network's input with zeros in the place of absent samples: of NaN, the network's gradients would be NaN."""
        if self.flags is None:
            return value
        if isinstance(value, Mapping):
            return {key: self.blank(name, part) for key, part in value.items()}
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(self.blank(name, part) for part in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() == 0:
            return value
        if value.shape[0] != self.flags.shape[0]:
            return value
        flags = self.flags[:, list(self.networks).index(name)].to(value.device)
        return torch.where(over_samples(flags, value), value, 0)

    def of(self, names: Sequence[str], batch: int, device: torch.device) -> Tensor | None:
        """``(B, len(names))`` booleans; None where all are there."""
        if self.flags is None and (
            len(self.active) == len(self.networks) or all(name in self.active for name in names)
        ):
            return None
        if self.flags is not None and self.flags.shape[0] != batch:
            raise GraftError(
                f"present: expected (B, M) = {(batch, len(self.networks))}, the samples that the networks gave, got "
                f"{tuple(self.flags.shape)}"
            )
        columns = []
        for name in names:
            if name not in self.active:
                columns.append(torch.zeros(batch, dtype=torch.bool, device=device))
            elif self.flags is None:
                columns.append(torch.ones(batch, dtype=torch.bool, device=device))
            else:
                columns.append(self.flags[:, list(self.networks).index(name)])
        return torch.stack(columns, 1)


class PlainFusion(nn.Module):
    """A fusion that is a plain function, as a module without parameters."""

    # asked for at every point: a module is slow to say that it has no such attribute
    channels = None

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Sequence[Tensor], **asked: Any) -> Any:
        """Call the function."""
        return self.function(features, **asked)

    def extra_repr(self) -> str:
        """The function's name."""
        return getattr(self.function, "__qualname__", repr(self.function))


def asked_for(module: nn.Module) -> frozenset[str]:
    """Which of ``masks``, ``present`` and ``branch`` a fusion or a head takes."""
    called = module.function if isinstance(module, PlainFusion) else module.forward
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # a builtin
        return frozenset()
    every = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return frozenset(name for name in ("masks", "present", "branch") if every or name in parameters)


def needs_branch(head: nn.Module) -> bool:
    """Whether a head cannot do without a branch."""
    parameter = inspect.signature(head.forward).parameters.get("branch")
    return parameter is not None and parameter.default is parameter.empty


def _check_channels(maps: Sequence[Map | None], fusion: nn.Module) -> None:
    channels = getattr(fusion, "channels", None)
    if not isinstance(channels, tuple | list) or len(channels) != len(maps):
        return
    for one, count in zip(maps, channels, strict=True):
        if one is not None and one.features.shape[1] != count:
            raise GraftError(
                f"{one.stop.where}: it gave {one.features.shape[1]} channels (map {tuple(one.features.shape)}, read with "
                f"layout {one.layout!r}), and {type(fusion).__name__} of point {one.stop.point} was built for {count}; "
                f"build it with channels={_counts(maps)}, or say the axes with Tap({one.stop.tap.layer!r}, layout=...)"
            )


def _counts(maps: Sequence[Map | None]) -> tuple[int | None, ...]:
    """The channels that are there."""
    return tuple(None if one is None else one.features.shape[1] for one in maps)


def _nothing(stop: Stop, fusion: nn.Module, batch: int, like: Tensor) -> Tensor:
    """A map of zeros, without memory, in the place of a network that does not run."""
    width, positions = stop.width, [1]
    if stop.shape is not None:
        layout = stop.layouts[len(stop.shape)]
        positions = [length for axis, length in zip(layout, stop.shape, strict=True) if axis not in "BC"]
    elif isinstance(segments := getattr(fusion, "segments", 1), int):
        positions = [max(1, segments)]  # a fusion of time segments needs a step in each
    channels = getattr(fusion, "channels", None)
    if width is None and isinstance(channels, tuple | list):
        width = channels[stop.slot]
    if width is None:
        raise GraftError(f"{stop.where}: the width of a missing map is read from the example; give graft an example")
    return like.new_zeros(()).expand(batch, width, *positions)


def _name(fusion: nn.Module) -> str:
    return fusion.extra_repr() if isinstance(fusion, PlainFusion) else type(fusion).__name__
