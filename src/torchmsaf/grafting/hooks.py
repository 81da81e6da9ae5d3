"""The hooks on the tapped layers, and where they hand a layer's output over.

A hook holds no tensor and no network: which forward pass it serves is asked when it runs. So a network copied, pickled
or run outside of its grafted model works as ever.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from torch import nn

from torchmsaf.errors import GraftError
from torchmsaf.grafting.checkpoints import keep, recomputed
from torchmsaf.grafting.players import Arrival, Player, Stop, playing


class Board:
    """What the hooks of one grafted model ask.

    Attributes:
        key: tells the hooks of this graft from those of another on the same layer; copies of a model share it.
        traced: the player of a traced forward pass, while there is one.
    """

    def __init__(self) -> None:
        self.key = uuid.uuid4().hex
        self.traced: Player | None = None

    def player(self) -> Player | None:
        """Who runs now, or None outside of a forward pass of this model."""
        if self.traced is not None:
            return self.traced
        return playing(self.key)


class LayerHook:
    """The forward hook of one tapped layer.

    Args:
        board: of the grafted model.
        number: of this hook in the model.
    """

    def __init__(self, board: Board, number: int) -> None:
        self.board = board
        self.number = number
        self.stops: dict[str, list[Stop]] = {}

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What the layer gives after the fusion; called by the layer."""
        player = self.board.player()
        if player is None:
            return recomputed(self.board.key, self.number, output)
        call = player.calls.get(self.number, 0)
        player.calls[self.number] = call + 1
        stops = [stop for stop in self.stops.get(player.network, ()) if stop.takes(call)]
        for stop in stops:
            output = player.hand_over(Arrival(stop, call, output))
        if self.board.traced is None:
            keep(self.board.key, self.number, stops, output, player.outside)
        return output

    def check_met(self, player: Player) -> None:
        """That a network which has ended ran the layer, and as often as was said.

        Raises:
            GraftError: it did not.
        """
        for stop in self.stops.get(player.network, ()):
            ran = player.calls.get(self.number, 0)
            if ran == 0 and not stop.tap.optional:
                raise GraftError(
                    f"{stop.where}: it did not run in this forward pass. The network may never call it, as an "
                    "nn.ModuleList; or it drops layers at random in training: let it not, or say "
                    f"Tap({stop.tap.layer!r}, optional=True)"
                )
            if stop.tap.call == "last" and ran != stop.calls:
                raise GraftError(
                    f"{stop.where}: it ran {ran} times, and {stop.calls} times on the example, from which call='last' is "
                    "known"
                )


class _HookedForward:
    """A layer's ``forward`` followed by its hook, for a layer that works otherwise where it has hooks.

    ``nn.TransformerEncoderLayer`` leaves its fast path when it, or a part of it, has any.
    """

    def __init__(self, layer: nn.Module, hook: LayerHook) -> None:
        self.layer = layer
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.hook(self.layer, args, type(self.layer).forward(self.layer, *args, **kwargs))


def attach(layer: nn.Module, hook: LayerHook) -> None:
    """Put a hook on a layer, before those of others: what they see of the layer's output is the fused map."""
    if isinstance(layer, nn.TransformerEncoderLayer) and "forward" not in vars(layer):
        object.__setattr__(layer, "forward", _HookedForward(layer, hook))
    else:
        layer.register_forward_hook(hook)
        hooks = layer._forward_hooks
        for number in [n for n, other in hooks.items() if not isinstance(other, LayerHook)]:
            hooks[number] = hooks.pop(number)  # to the end


def detach(layers: Iterable[nn.Module], key: str) -> None:
    """Take the hooks of one graft from layers."""
    for layer in layers:
        own = vars(layer).get("forward")
        if isinstance(own, _HookedForward) and own.hook.board.key == key:
            object.__delattr__(layer, "forward")
        hooks = layer._forward_hooks
        for number in [n for n, hook in hooks.items() if isinstance(hook, LayerHook) and hook.board.key == key]:
            del hooks[number]
