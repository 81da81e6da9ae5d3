"""Who waits for whom at the fusion points, whatever way the networks are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchmsaf.errors import GraftError
from torchmsaf.grafting.players import Arrival, Player, Stop

Answers = dict[int, Any]
# a stop, and what its network goes on with
Answer = tuple[Stop, Any]
Fuse = Callable[[int, Mapping[int, Arrival]], Answers]


class Meetings:
    """The fusion points of one forward pass.

    Args:
        points: the stops of each point, of the networks that run.
        fuse: what is done when all have arrived: number of the point and arrivals by slot -> answers by slot.
    """

    def __init__(self, points: Sequence[Sequence[Stop]], fuse: Fuse) -> None:
        self.points = points
        self.fuse = fuse
        self.arrived: list[dict[int, Arrival]] = [{} for _ in points]
        # optional stops that may still be passed by
        self.open = [stop for stops in points for stop in stops if stop.tap.optional]
        self.passed_by: list[list[Stop]] = [[] for _ in points]

    def arrive(self, arrival: Arrival) -> list[Answer]:
        """A network has come to a stop.

        Returns:
            Answers of the fusions that could be done now, in the order of the point's taps.

        Raises:
            GraftError: a second call of a layer before the others have come to the first.
        """
        stop = arrival.stop
        go_on = self._pass_by(stop.network, stop) if self.open else []
        here = self.arrived[stop.point]
        if stop.slot in here:
            raise GraftError(
                f"{stop.where}: it ran again before point {stop.point} had all its maps; missing: "
                + self._missing(stop.point)
            )
        here[stop.slot] = arrival
        return go_on + self._try(stop.point)

    def leave(self, network: str) -> list[Answer]:
        """A network has ended; optional layers that it has not run by now are absent."""
        return self._pass_by(network, None) if self.open else []

    def _pass_by(self, network: str, at: Stop | None) -> list[Answer]:
        if at in self.open:
            self.open.remove(at)
        passed = [
            stop
            for stop in self.open
            if stop.network == network and (at is None or (at.order or 0) > (stop.order or 0))
        ]
        go_on: list[Answer] = []
        for stop in passed:
            self.open.remove(stop)
            self.passed_by[stop.point].append(stop)
            go_on += self._try(stop.point)
        return go_on

    def _try(self, point: int) -> list[Answer]:
        """Fuse at a point if all are there who will come."""
        here = self.arrived[point]
        if not here or len(here) + len(self.passed_by[point]) < len(self.points[point]):
            return []
        self.arrived[point] = {}
        answers = self.fuse(point, here)
        stops = [stop for stop in self.points[point] if stop.slot in here and not stop.tap.read_only]
        return [(stop, answers[stop.slot]) for stop in stops]

    def check_nobody_waits(self) -> None:
        """At the end of a pass: every network that came to a point left it.

        Raises:
            GraftError: networks wait; the message says where, and for whom.
        """
        for point, here in enumerate(self.arrived):
            if here:
                waiting = "; ".join(arrival.stop.where for arrival in here.values())
                raise GraftError(
                    f"point {point}: waiting for {self._missing(point)}, which did not come; there: {waiting}. "
                    "The networks of a point come to it equally often, in an order that all can keep; describe shows how "
                    "often each layer runs"
                )

    def _missing(self, point: int) -> str:
        there = {*self.arrived[point], *(stop.slot for stop in self.passed_by[point])}
        return "; ".join(stop.where for stop in self.points[point] if stop.slot not in there)


def perform(players: Sequence[Player], meetings: Meetings, ended: Callable[[Player], None]) -> dict[str, Any]:
    """Let networks go on in turns, in their order, until all have ended.

    Args:
        players: the networks.
        meetings: of this pass.
        ended: called with each network that has ended.

    Returns:
        What each network gave, in order.

    Raises:
        GraftError: networks wait for each other.
    """
    by_name = {player.network: player for player in players}
    outputs: dict[str, Any] = dict.fromkeys(by_name)
    ready = list(players)
    while ready:
        player = ready.pop(0)
        result = player.go_on()
        if player.arrival is None:
            ended(player)
            outputs[player.network] = result
        ready += _settle(player, meetings, by_name)
    meetings.check_nobody_waits()
    return outputs


def _settle(player: Player, meetings: Meetings, by_name: Mapping[str, Player]) -> list[Player]:
    """Tell of a network's arrivals, or its end, and hand out the answers; who can go on.

    No map is kept here: what a network is done with while the others run, it frees as it would alone.
    """
    arrivals, player.passed = player.passed, []
    stopped, player.arrival = player.arrival, None
    answers = [one for arrival in arrivals for one in meetings.arrive(arrival)]
    answers += meetings.leave(player.network) if stopped is None else meetings.arrive(stopped)
    ready = []
    for stop, fused in answers:
        other = by_name[stop.network]
        if stop.promised:
            other.keep_promise(stop, fused)
        else:
            other.answer = fused
            ready.append(other)
    return ready
