"""From what the user said to stops: which layer, which of its tensors, in which order. Checked before anything trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from torchmsaf.errors import GraftError
from torchmsaf.grafting.dry_run import Seen, Sight, find_layer
from torchmsaf.grafting.layouts import channels_second, layout_of_parts
from torchmsaf.grafting.meeting import Answers, Meetings, perform
from torchmsaf.grafting.players import Arrival, Player, Stop
from torchmsaf.grafting.points import FusionPoint
from torchmsaf.grafting.values import Path, as_path

Plan = list[list[Stop]]
# of outputs, for a layer that was not seen running
RANKS = (2, 3, 4, 5)


def make_plan(
    networks: Mapping[str, nn.Module], points: Sequence[FusionPoint], sights: Mapping[str, Sight] | None
) -> Plan:
    """The stops of each point.

    Args:
        networks: by name.
        points: as the user said.
        sights: of each network on the example; None = there is none.

    Raises:
        GraftError: a network or layer that does not exist, that did not run, or that ran more than once where nothing
            is said of it; an output without the element, or of another rank than the layout; points in an order that
            no run can meet.
    """
    plan: Plan = []
    for number, point in enumerate(points):
        stops: list[Stop] = []
        for name, taps in point.taps.items():
            if name not in networks:
                raise GraftError(f"point {number}: no network {name!r}; there are: {', '.join(networks)}")
            for tap in taps:
                layer = find_layer(name, networks[name], tap.layer)
                stop = Stop(number, len(stops), name, tap)
                if sights is None:
                    stops.append(_unseen(stop, layer))
                else:
                    stops.append(_seen(stop, layer, sights[name]))
        plan.append(_promise(stops))
    if sights is not None:
        rehearse(plan, networks, sights)
    return plan


def _unseen(stop: Stop, layer: nn.Module) -> Stop:
    if stop.tap.call == "last" or stop.tap.optional:
        asked = "which call is the last" if stop.tap.call == "last" else "when an optional layer has been passed by"
        raise GraftError(f"{stop.where}: {asked} is read from the example; give graft an example")
    if stop.tap.layout is not None:
        return replace(stop, layouts={len(stop.tap.layout): stop.tap.layout})
    return replace(stop, layouts={rank: known for rank in RANKS if (known := layout_of_parts(layer, rank)) is not None})


def _seen(stop: Stop, layer: nn.Module, sight: Sight) -> Stop:
    calls = sight.calls.get(layer, [])
    if not calls:
        raise GraftError(
            f"{stop.where}: it did not run on the example (in evaluation mode); a container whose parts the network "
            "calls itself, such as an nn.ModuleList, never runs, but its parts do"
        )
    if stop.tap.call is None and len(calls) > 1:
        raise GraftError(
            f"{stop.where}: it ran {len(calls)} times on the example; say which call is fused with "
            f"Tap({stop.tap.layer!r}, call='first'), 'last' or 'each'"
        )
    call = calls[-1 if stop.tap.call == "last" else 0]
    path = _path(stop, call)
    shape = call.shapes[path]
    if len(shape) < 2:
        raise GraftError(f"{stop.where}: its output is {shape}; a map is (B, C, *positions)")
    layout = stop.tap.layout or call.layouts.get(path) or channels_second(len(shape))
    if len(layout) != len(shape):
        raise GraftError(
            f"{stop.where}: its output is {shape}, {len(shape)} axes, and layout {layout!r} says {len(layout)}"
        )
    if stop.tap.layout is None and path not in call.sure and layout in ("BTC", "TBC") and shape[0] == shape[1]:
        raise GraftError(
            f"{stop.where}: its output is {shape}, and whether samples or steps come first cannot be told from it; give an "
            f"example with another number of samples, or say Tap({stop.tap.layer!r}, layout='BTC') or 'TBC'"
        )
    width = shape[layout.index("C")]
    return replace(
        stop, path=path, layouts={len(shape): layout}, calls=len(calls), order=call.order, width=width, shape=shape
    )


def _path(stop: Stop, call: Seen) -> Path:
    element = stop.tap.element
    if element is None:
        if call.default is None:
            raise GraftError(f"{stop.where}: it gave no tensor but {call.output}")
        return call.default
    path = call.elements[as_path(element)]
    if path not in call.shapes:
        raise GraftError(f"{stop.where}: element {element!r} of its output ({call.output}) is not a tensor")
    return path


def _promise(stops: Sequence[Stop]) -> list[Stop]:
    """Of several layers of one network at a point, it waits at the last one that runs."""
    promised = []
    for network in dict.fromkeys(stop.network for stop in stops):
        writing = [stop for stop in stops if stop.network == network and not stop.tap.read_only]
        if len(writing) == 1 or not writing:
            continue
        names = ", ".join(repr(stop.tap.layer) for stop in writing)
        if any(stop.order is None for stop in writing):
            raise GraftError(
                f"point {stops[0].point}: which of {names} of network {network!r} runs last is read from the example; give "
                "graft an example, or say Tap(..., read_only=True) of all but the last"
            )
        if any(stop.tap.call == "each" or stop.tap.optional for stop in writing):
            raise GraftError(
                f"point {stops[0].point}: network {network!r} is tapped at {names}; of several layers at one point none is "
                "fused at each call, and none is optional"
            )
        promised += sorted(writing, key=lambda stop: stop.order or 0)[:-1]
    return [replace(stop, promised=True) if stop in promised else stop for stop in stops]


class _Rehearsal(Player):
    """A network that only says where it stops."""

    def __init__(self, network: str, arrivals: list[Arrival]) -> None:
        super().__init__(network)
        self.arrivals = arrivals
        self.waits_at: Stop | None = None

    def go_on(self) -> Any:
        self.waits_at = None
        while self.arrivals:
            arrival = self.arrivals.pop(0)
            if not arrival.stop.tap.read_only and not arrival.stop.promised:
                self.arrival = arrival
                self.waits_at = arrival.stop
                return
            self.passed.append(arrival)

    def keep_promise(self, stop: Stop, answer: Any) -> None:
        """Nothing was promised."""


def rehearse(plan: Plan, networks: Mapping[str, nn.Module], sights: Mapping[str, Sight]) -> list[int]:
    """Go through the points as the networks came to their layers on the example.

    Returns:
        The points in the order in which they are met.

    Raises:
        GraftError: networks wait for each other.
    """
    players = []
    for name, sight in sights.items():
        made = []
        for stop in (stop for stops in plan for stop in stops if stop.network == name):
            calls = sight.calls[find_layer(name, networks[name], stop.tap.layer)]
            made += [(seen.order, Arrival(stop, call, None)) for call, seen in enumerate(calls) if stop.takes(call)]
        players.append(_Rehearsal(name, [arrival for _, arrival in sorted(made, key=lambda pair: pair[0])]))
    met: list[int] = []

    def fuse(point: int, arrivals: Mapping[int, Arrival]) -> Answers:
        met.append(point)
        return dict.fromkeys(arrivals)

    meetings = Meetings(plan, fuse)
    try:
        perform(players, meetings, ended=lambda player: None)
    except GraftError as error:
        waiting = [(player, player.waits_at) for player in players if player.waits_at is not None]
        if len(waiting) < 2:
            raise
        to_come = [
            f"{player.network!r} waits at point {stop.point} (layer {stop.tap.layer!r})"
            + "".join(f", then comes to point {a.stop.point} (layer {a.stop.tap.layer!r})" for a in player.arrivals)
            for player, stop in waiting
        ]
        raise GraftError(
            "these points cannot be met in any order, the networks would wait for each other: " + "; ".join(to_come)
        ) from error
    return met
