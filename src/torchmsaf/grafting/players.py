"""Networks in one forward pass: where they stop, and how the hooks find the one that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from greenlet import getcurrent, greenlet

from torchmsaf.errors import GraftError
from torchmsaf.grafting.points import Tap
from torchmsaf.grafting.thread_state import Packing
from torchmsaf.grafting.values import Path, element_path, with_own


@dataclass(frozen=True)
class Stop:
    """One tap of one network, resolved.

    Attributes:
        point: number of the fusion point.
        slot: which of the point's maps this is.
        network: its network's name.
        tap: what the user said.
        layouts: of the tensor, by its number of axes; channels second for the others.
        path: where the tensor is in the layer's output. None, here and below: there was no dry run.
        calls: how often the layer ran.
        order: when the call that is fused (of each, the first) ended, counted over all layers of the network.
        promised: the network goes on before the fusion is done, to a further layer of the same point.
        width: channels of the map.
        shape: of the tensor, as the layer gave it.
    """

    point: int
    slot: int
    network: str
    tap: Tap
    layouts: Mapping[int, str] = field(default_factory=dict)
    path: Path | None = None
    calls: int | None = None
    order: int | None = None
    promised: bool = False
    width: int | None = None
    shape: tuple[int, ...] | None = None

    @property
    def where(self) -> str:
        """Network and layer, for messages."""
        return f"network {self.network!r}, layer {self.tap.layer!r}"

    def path_in(self, output: Any) -> Path:
        """Where the tensor is in an output of the layer."""
        return element_path(self.tap.element, output, self.where) if self.path is None else self.path

    def takes(self, call: int) -> bool:
        """Whether this call of the layer, counted from 0, is fused.

        Raises:
            GraftError: the second call of a layer that is said to run once.
        """
        if self.tap.call is None and call:
            raise GraftError(
                f"{self.where}: it runs more than once in a forward pass; say which call is fused with "
                f"Tap({self.tap.layer!r}, call='first'), 'last' or 'each'"
            )
        if self.tap.call == "last":
            return call + 1 == self.calls
        return call == 0 or self.tap.call == "each"


class Arrival(NamedTuple):
    """A network at a stop, with what its layer gave."""

    stop: Stop
    call: int
    output: Any

    def own(self) -> Arrival:
        """The same with a copy of the map: the network goes on, and may change its own in place."""
        return self._replace(output=with_own(self.output, self.stop.path_in(self.output)))


class Player:
    """One network in one forward pass.

    Attributes:
        network: its name.
        calls: how often each hook's layer has run.
        answer: what it goes on with; it takes it away.
        passed: stops that it went on from at once, not yet told to the others.
        arrival: where it waits.
        outside: hooks of saved tensors that stand around the whole model.
    """

    def __init__(self, network: str) -> None:
        self.network = network
        self.calls: dict[int, int] = {}
        self.answer: Any = None
        self.passed: list[Arrival] = []
        self.arrival: Arrival | None = None
        self.outside: Packing | None = None

    def go_on(self) -> Any:
        """Run with the answer to the next stop, where ``arrival`` says which, or to the end; what it gave, at the end."""
        raise NotImplementedError

    def keep_promise(self, stop: Stop, answer: Any) -> None:
        """The fusion has been done at a stop that the network went on from."""
        raise NotImplementedError

    def hand_over(self, arrival: Arrival) -> Any:
        """Called by a hook: give a layer's output to the fusion, and get what the network goes on with."""
        raise NotImplementedError


class Turn(greenlet):
    """The greenlet of one network, with the player that its hooks look for."""

    key: str
    player: Player


def playing(key: str) -> Player | None:
    """The network of that graft which runs in this greenlet, or in one that it is called from."""
    turn: greenlet | None = getcurrent()
    while turn is not None:
        if isinstance(turn, Turn) and turn.key == key:
            return turn.player
        turn = turn.parent
    return None
