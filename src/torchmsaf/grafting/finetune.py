"""What may learn in a grafted model, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from torchmsaf.errors import GraftError

# options of an optimizer for some parameters: a learning rate, or all of them
Rate = float | Mapping[str, Any]


@dataclass(frozen=True)
class Frozen:
    """What was frozen of one network.

    Attributes:
        parameters: names of those that could learn before.
        layers: names of the layers with running statistics, which stay in evaluation mode.
    """

    parameters: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @classmethod
    def by_freezing(cls, network: nn.Module, parts: Iterable[str], before: Frozen) -> Frozen:
        """Freeze parts of a network: no gradients, and running statistics as they are."""
        parameters, layers = list(before.parameters), list(before.layers)
        inside = tuple(parts)
        for name, parameter in network.named_parameters():
            if _within(name, inside) and parameter.requires_grad:
                parameter.requires_grad_(False)
                parameters.append(name)
        for name, layer in network.named_modules():
            if _within(name, inside) and getattr(layer, "running_mean", None) is not None and name not in layers:
                layer.eval()
                layers.append(name)
        return cls(tuple(parameters), tuple(layers))

    def keep(self, network: nn.Module) -> None:
        """Put the frozen layers in evaluation mode again."""
        for name in self.layers:
            network.get_submodule(name).eval()

    def undo(self, network: nn.Module) -> None:
        """Let what learned before learn again."""
        parameters = dict(network.named_parameters())
        for name in self.parameters:
            parameters[name].requires_grad_(True)
        for name in self.layers:
            network.get_submodule(name).train(network.training)


def parameter_groups(parts: Sequence[tuple[str, Iterator[nn.Parameter], Rate | None]]) -> list[dict[str, Any]]:
    """Groups for an optimizer, of the parameters that learn; each parameter is in the first group that has it.

    Args:
        parts: name, parameters, and a learning rate or the optimizer's options; None = the optimizer's own.
    """
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()
    for name, parameters, rate in parts:
        learning = [p for p in dict.fromkeys(parameters) if p.requires_grad and id(p) not in taken]
        taken |= {id(p) for p in learning}
        options = dict(rate) if isinstance(rate, Mapping) else {} if rate is None else {"lr": rate}
        if "params" in options or "name" in options:
            raise GraftError(f"parameter group {name!r}: 'params' and 'name' are set from the model")
        if learning:
            groups.append({"params": learning, "name": name, **options})
    return groups


def _within(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in ("", name) or name.startswith(f"{part}.") for part in parts)
