"""Networks that take turns: each runs its own ``forward`` until a tapped layer, and goes on when the fusion is done.

Each network is a greenlet: a function that can be left in its middle and gone on with later, in one thread. So
autocast, profilers and debuggers see one program, and a network needs no change.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

from torchmsaf.errors import GraftError, TorchmsafError
from torchmsaf.grafting.checkpoints import refuse_reentrant
from torchmsaf.grafting.meeting import Meetings, perform
from torchmsaf.grafting.players import Arrival, Player, Stop, Turn
from torchmsaf.grafting.promises import Promise
from torchmsaf.grafting.thread_state import (
    Modes,
    Packing,
    ThreadState,
    put_hooks,
    put_modes,
    take_hooks_down_to,
    take_modes_down_to,
)
from torchmsaf.grafting.values import find, put, said


class _Turns(Player):
    """One network in one forward pass, in a greenlet of its own."""

    def __init__(self, network: str, key: str, run: Callable[[], Any], hub: ThreadState) -> None:
        super().__init__(network)
        self.hub = hub
        self.outside = hub.packing
        self.turn = Turn(run)
        self.turn.key = key
        self.hub_turn = getcurrent()
        self.turn.gr_context = contextvars.copy_context()
        self.turn.player = self
        # a grafted model inside of this network waits in a greenlet further in
        self.waits: greenlet = self.turn
        self.promises: dict[tuple[int, int], Promise] = {}

    def go_on(self) -> Any:
        """Switch into the network."""
        try:
            result = self.waits.switch()
        except TorchmsafError:
            raise
        except Exception as error:
            error.add_note(f"(in network {self.network!r} of a grafted model)")
            raise
        if isinstance(result, GreenletExit):
            raise result
        return result

    def hand_over(self, arrival: Arrival) -> Any:
        """Leave the network here."""
        if arrival.stop.tap.read_only:
            self.passed.append(arrival.own())
            return arrival.output
        if arrival.stop.promised:
            self.passed.append(arrival)
            return self._promise(arrival)
        here = ThreadState.now()
        if here != self.hub:
            hooks, modes = self._leave(here, arrival)
        try:
            self.arrival = arrival
            self.waits = getcurrent()
            self.hub_turn.switch()
        finally:  # when it is stopped too, so that its own blocks take off what they put on
            if here != self.hub:
                here.switch_on()
                put_hooks(hooks)
                put_modes(modes)
        answer, self.answer = self.answer, None
        return answer

    def _promise(self, arrival: Arrival) -> Any:
        stop = arrival.stop
        assert stop.path is not None
        value = find(arrival.output, stop.path, stop.where)
        if not isinstance(value, Tensor):
            raise GraftError(
                f"{stop.where}: of several layers at one point, each gives a tensor; this gave {said(value)}"
            )
        promise = Promise(
            value,
            f"{stop.where}: it is used before the network comes to its further layer at point {stop.point}, so the fusion "
            f"can only read it there: Tap({stop.tap.layer!r}, read_only=True)",
        )
        self.promises[stop.point, stop.slot] = promise
        return put(arrival.output, stop.path, promise)

    def keep_promise(self, stop: Stop, answer: Any) -> None:
        """Put the fused map where the network carries a promise of it."""
        assert stop.path is not None
        self.promises.pop((stop.point, stop.slot)).kept = find(answer, stop.path, stop.where)

    def _leave(self, here: ThreadState, arrival: Arrival) -> tuple[list[Packing], Modes]:
        where = arrival.stop.where
        if here.inference != self.hub.inference:
            raise GraftError(
                f"{where}: the network switches torch.inference_mode around it, and the rest of the model does not; "
                "use torch.no_grad in the network, or inference mode around the whole model"
            )
        if self.hub.gradients and not here.gradients:
            refuse_reentrant(where)
        modes = take_modes_down_to(self.hub)
        hooks = take_hooks_down_to(self.hub.packing)
        self.hub.switch_on()
        return hooks, modes

    def stop(self) -> None:
        """End a network that waits, as if its layer had raised: its ``with`` and ``finally`` blocks run."""
        while self.turn:
            self.waits.throw(GreenletExit)


def interleave(
    runs: Mapping[str, Callable[[], Any]], key: str, meetings: Meetings, ended: Callable[[Player], None]
) -> dict[str, Any]:
    """Run networks in turns.

    Args:
        runs: a call of each network.
        key: of the graft, for its hooks.
        meetings: where the networks meet.
        ended: called with each network that has ended.

    Returns:
        What each network gave.
    """
    state = ThreadState.now()
    players = [_Turns(name, key, run, state) for name, run in runs.items()]
    try:
        return perform(players, meetings, ended)
    except BaseException as error:
        for player in players:
            try:
                player.stop()
            except BaseException as other:
                error.add_note(f"(and network {player.network!r}, which was ended for it: {other!r})")
        take_modes_down_to(state)
        take_hooks_down_to(state.packing)
        state.switch_on()
        raise
