"""Networks for a tracer, which cannot leave a function in its middle.

A network runs from its start each time, with the answers that it has had so far put in at its tapped layers, and what
comes after the first tap without an answer is not used. In the traced graph each layer's last run alone has an effect;
the others are dead code, or equal to it, and compilers take both out. In evaluation mode this gives the same numbers as
:mod:`torchmsaf.grafting.interleave`; in training it does not, as dropout and batch statistics would be drawn anew.

Networks change maps in place, so what is kept over a run is a copy. A network that changes its own state in evaluation
mode changes it at each run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchmsaf.grafting.dry_run import call_network
from torchmsaf.grafting.hooks import Board
from torchmsaf.grafting.meeting import Meetings, perform
from torchmsaf.grafting.players import Arrival, Player, Stop


class _Replay(Player):
    """One network, run again for each answer."""

    def __init__(self, network: str, run: Callable[[], Any], board: Board) -> None:
        super().__init__(network)
        self.run = run
        self.board = board
        self.answers: list[Any] = []
        # what it goes on with where it does not wait
        self.passing: dict[tuple[int, int, int], Any] = {}
        self.started = False
        self.handed = 0

    def go_on(self) -> Any:
        """Run from the start, with one answer more."""
        if self.started:
            self.answers.append(self.answer)
        self.started = True
        self.calls = {}
        self.handed = 0
        self.board.traced = self
        try:
            return self.run()
        finally:
            self.board.traced = None

    def keep_promise(self, stop: Stop, answer: Any) -> None:
        """Go on with the answer the next time."""
        for place in self.passing:
            if place[:2] == (stop.point, stop.slot):
                self.passing[place] = answer

    def hand_over(self, arrival: Arrival) -> Any:
        """The answer to this stop, if there is one yet."""
        if self.arrival is not None:
            return arrival.output
        stop = arrival.stop
        if stop.tap.read_only or stop.promised:
            place = (stop.point, stop.slot, arrival.call)
            if place not in self.passing:
                self.passing[place] = arrival.own().output
                self.passed.append(arrival.own())
            return arrival._replace(output=self.passing[place]).own().output
        self.handed += 1
        if self.handed <= len(self.answers):
            return arrival._replace(output=self.answers[self.handed - 1]).own().output
        self.arrival = arrival.own()
        return arrival.output


def call_again(network: nn.Module, value: Any) -> Any:
    """Call a network with a copy of its input, which it may change in place."""
    return call_network(network, tree_map_only(Tensor, torch.clone, value))


def replay(
    runs: Mapping[str, Callable[[], Any]], board: Board, meetings: Meetings, ended: Callable[[Player], None]
) -> dict[str, Any]:
    """Run networks from their start again and again, as :func:`torchmsaf.grafting.interleave.interleave` would in turns."""
    return perform([_Replay(name, run, board) for name, run in runs.items()], meetings, ended)
