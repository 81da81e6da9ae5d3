"""Networks that nobody edited, with fusions between their layers, as one model."""

# B batch, M networks

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path as FilePath
from typing import Any, Self, TextIO

import torch
from torch import Tensor, nn

from torchmsaf.errors import GraftError
from torchmsaf.fusion.base import check_flags
from torchmsaf.grafting.describe import Candidate, print_table
from torchmsaf.grafting.dry_run import call_network, find_layer
from torchmsaf.grafting.exchange import Exchange, Presence, asked_for, needs_branch
from torchmsaf.grafting.finetune import Frozen, Rate, parameter_groups
from torchmsaf.grafting.heads import Concat
from torchmsaf.grafting.hooks import Board, LayerHook, attach, detach
from torchmsaf.grafting.interleave import interleave
from torchmsaf.grafting.meeting import Meetings
from torchmsaf.grafting.plan import Plan
from torchmsaf.grafting.players import Player
from torchmsaf.grafting.replay import call_again, replay
from torchmsaf.grafting.values import Path, find, logits_path, said
from torchmsaf.grafting.weights import check_state, load_tensors, save_tensors


class Networks(nn.Module):
    """The networks by name. A container without the names that a dict has, so that any name will do."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)

    def __getitem__(self, name: str) -> nn.Module:
        network = self._modules[name]
        assert network is not None
        return network

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


class GraftedModel(nn.Module):
    """Networks with fusions between their layers. Made by :func:`torchmsaf.graft`.

    Attributes:
        networks: the networks themselves, by name; their parameters keep their names under ``networks.<name>.``.
        fusions: the fusion of each point, in order.
        head: what is made of the networks' outputs; None = a dict of them.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        plan: Plan,
        fusions: Sequence[nn.Module],
        head: nn.Module | None,
        outputs: Mapping[str, Path],
        shapes: Mapping[str, tuple[int, ...]],
        candidates: Sequence[Candidate] = (),
    ) -> None:
        super().__init__()
        self.networks = Networks(networks)
        self._names = tuple(networks)
        self.fusions = nn.ModuleList(fusions)
        self.head = head
        self._plan = plan
        self._takes = [asked_for(fusion) for fusion in fusions]
        self._head_takes: frozenset[str] = frozenset() if head is None else asked_for(head)
        self._outputs = dict(outputs)
        self._shapes = dict(shapes)
        self._candidates = list(candidates)
        self._frozen: dict[str, Frozen] = {}
        self._board = Board()
        self._hooks = self._attach()

    def forward(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> Any:
        """Run all networks with their fusions.

        Args:
            inputs: by the name of each network: its argument, a tuple of positional arguments, or a dict of keyword
                arguments. None: the modality is missing for the whole batch; its network does not run.
            masks: which positions of a network's input are real, ``(B, *positions)`` booleans by name; at each point
                the mask is brought to the map's positions.
            present: ``(B, M)`` booleans in the order of the networks; False = this sample lacks this modality, and what
                its network makes of it changes nothing in the others.

        Returns:
            What the head gives; without one, the networks' own outputs by name, of those that ran.

        Raises:
            GraftError: unknown or missing names, no input at all, or something that cannot be fused.
        """
        active = self._check(inputs, {} if masks is None else masks, present)
        presence = Presence(self._names, active, present)
        exchange = Exchange(self._plan, list(self.fusions), self._takes, masks or {}, presence)
        meetings = Meetings([[stop for stop in stops if stop.network in active] for stops in self._plan], exchange.fuse)
        networks = self.networks  # an attribute of a module is slow to find
        replays = self._replays()
        call = call_again if replays else call_network
        runs = {name: partial(call, networks[name], presence.blank(name, inputs[name])) for name in active}
        if replays:
            outputs = replay(runs, self._board, meetings, self._check_met)
        else:
            outputs = interleave(runs, self._board.key, meetings, self._check_met)
        head = self.head
        return outputs if head is None else self._decide(head, outputs, presence, exchange.branch)

    def _decide(self, head: nn.Module, outputs: Mapping[str, Any], presence: Presence, branch: Sequence[Tensor]) -> Any:
        parts: dict[str, Tensor] = {}
        for name, output in outputs.items():
            owner = f"network {name!r}"
            path = self._outputs[name] if name in self._outputs else logits_path(output, owner)
            part = find(output, path, owner)
            if not isinstance(part, Tensor):
                raise GraftError(f"{owner}: what goes to the head is {said(part)}, and should be a tensor")
            parts[name] = part
        some = next(iter(parts.values()))
        for name in self._names:
            if name not in parts:
                parts[name] = some.new_zeros(()).expand(self._shape_of_missing(name, some))
        ordered = [parts[name] for name in self._names]
        present = presence.of(self._names, some.shape[0], some.device)
        asked = {"branch": branch[0]} if branch and "branch" in self._head_takes else {}
        if not branch and needs_branch(head):
            raise GraftError(f"{type(head).__name__} as head needs a branch, and no network that grows one runs")
        if present is not None:
            if "present" not in self._head_takes:
                raise GraftError(f"{type(head).__name__} as head has no parameter 'present', and a modality is missing")
            asked["present"] = present
        return head(ordered, **asked)

    def _shape_of_missing(self, name: str, some: Tensor) -> tuple[int, ...]:
        """Of the output of a network that does not run: its width on the example, its positions as the others'."""
        if name not in self._shapes:
            if isinstance(self.head, Concat):
                raise GraftError(
                    f"network {name!r}: the width of its output is read from the example; give graft an example"
                )
            return tuple(some.shape)
        shape = self._shapes[name]
        return (some.shape[0], *shape[1:2], *(some.shape[2:] if some.dim() == len(shape) else shape[2:]))

    def _check(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor | None], present: Tensor | None
    ) -> tuple[str, ...]:
        if not self._hooks:
            raise GraftError("these networks were given back by ungraft(); graft them again")
        for argument, given in (("inputs", inputs), ("masks", masks)):
            if not isinstance(given, Mapping):
                raise GraftError(f"{argument} is a dict by network ({self._said_names()}), got {type(given).__name__}")
            if unknown := [name for name in given if name not in self._names]:
                raise GraftError(f"{argument}: no network {unknown[0]!r}; there are: {self._said_names()}")
        if missing := [name for name in self._names if name not in inputs]:
            raise GraftError(f"inputs: nothing for network {missing[0]!r}; a modality that is missing is None")
        active = tuple(name for name in self._names if inputs[name] is not None)
        if not active:
            raise GraftError("inputs: every modality is None; at least one network has to run")
        for name, mask in masks.items():
            if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise GraftError(
                    f"masks: of network {name!r}, expected booleans (B, *positions), True = real, got {kind}; use .bool()"
                )
        if present is not None:
            if not isinstance(present, Tensor):
                raise GraftError(f"present: expected booleans (B, {len(self._names)}), got {type(present).__name__}")
            check_flags(present, present.shape[0] if present.dim() else 0, len(self._names))
        return active

    def _said_names(self) -> str:
        return ", ".join(map(repr, self._names))

    def _replays(self) -> bool:
        """Whether a tracer looks on, which cannot see networks take turns; in training they have to all the same."""
        if not (torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None):
            return False
        if not any(layer.training for layer in self.networks.modules()):
            return True
        exporting = getattr(torch.compiler, "is_exporting", None)  # torch 2.7 and later
        if torch._C._get_tracing_state() is not None or (exporting is not None and exporting()):
            raise GraftError("a grafted model is exported or traced in evaluation mode alone; call model.eval() before")
        return False

    def _check_met(self, player: Player) -> None:
        for hook in self._hooks:
            hook.check_met(player)

    def _attach(self) -> list[LayerHook]:
        hooks: dict[nn.Module, LayerHook] = {}
        for stops in self._plan:
            for stop in stops:
                layer = find_layer(stop.network, self.networks[stop.network], stop.tap.layer)
                hook = hooks.setdefault(layer, LayerHook(self._board, len(hooks)))
                hook.stops.setdefault(stop.network, []).append(stop)
        for layer, hook in hooks.items():
            attach(layer, hook)
        return list(hooks.values())

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for name, frozen in self._frozen.items():
            frozen.keep(self.networks[name])
        return self

    def freeze(self, *names: str, layers: Iterable[str] = ("",)) -> Self:
        """Let networks learn no more: no gradients, and batch norms stay in evaluation mode whatever ``train()`` says.

        Args:
            *names: of networks; none = all.
            layers: only these layers of theirs and what is in them, such as ``("conv1", "layer1")``.

        Raises:
            GraftError: no such network or layer.
        """
        parts = [layers] if isinstance(layers, str) else list(layers)
        chosen = self._named(names)
        for name in chosen:
            for part in parts:
                find_layer(name, self.networks[name], part)
        for name in chosen:
            before = self._frozen.get(name, Frozen())
            self._frozen[name] = Frozen.by_freezing(self.networks[name], parts, before)
        return self

    def unfreeze(self, *names: str) -> Self:
        """Let networks learn again, as far as they did before :meth:`freeze`.

        Args:
            *names: of networks; none = all.

        Raises:
            GraftError: no such network.
        """
        for name in self._named(names):
            if name in self._frozen:
                self._frozen.pop(name).undo(self.networks[name])
        return self

    def parameter_groups(
        self, *, fusion: Rate | None = None, networks: float | Mapping[str, Rate] | None = None
    ) -> list[dict[str, Any]]:
        """Groups for an optimizer: one for what is new (fusions and head), one for each network that learns.

        Args:
            fusion: learning rate of what is new, or the optimizer's options, such as ``{"lr": 1e-3, "weight_decay": 0}``;
                None = the optimizer's own.
            networks: a learning rate for all networks, or by network's name a rate or options.

        Raises:
            GraftError: no such network.
        """
        rates = networks if isinstance(networks, Mapping) else dict.fromkeys(self.networks, networks)
        self._named(tuple(rates))
        parts: list[tuple[str, Iterator[nn.Parameter], Rate | None]] = [("fusion", self.fusion_parameters(), fusion)]
        parts += [(name, self.networks[name].parameters(), rates.get(name)) for name in self.networks]
        return parameter_groups(parts)

    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the graft adds: of fusions and head, and of no network."""
        known = {id(parameter) for parameter in self.networks.parameters()}
        new = [*self.fusions.parameters(), *([] if self.head is None else self.head.parameters())]
        return (parameter for parameter in dict.fromkeys(new) if id(parameter) not in known)

    def fusion_state_dict(self) -> dict[str, Tensor]:
        """The parameters and buffers that the graft adds, under their names in ``state_dict()``."""
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(("fusions.", "head."))}

    def load_fusion_state_dict(self, state: Mapping[str, Tensor], source: str = "this state") -> None:
        """Take what :meth:`fusion_state_dict` gave. Nothing is changed if it does not fit.

        Raises:
            GraftError: names or shapes are not this model's; the message lists them.
        """
        check_state(self.fusion_state_dict(), state, source)
        self.load_state_dict(dict(state), strict=False)

    def save_fusion(self, path: str | PathLike[str]) -> None:
        """Write what the graft adds to a safetensors file.

        Raises:
            GraftError: it cannot be written.
            MissingDependencyError: safetensors is not installed.
        """
        save_tensors(FilePath(path), self.fusion_state_dict(), self._places())

    def load_fusion(self, path: str | PathLike[str]) -> None:
        """Read a file of :meth:`save_fusion`. Nothing is changed if it does not fit.

        Raises:
            GraftError: no such file, or not of fusions at the same layers.
            MissingDependencyError: safetensors is not installed.
        """
        self.load_fusion_state_dict(load_tensors(FilePath(path), self._places()), str(path))

    def describe(self, *, depth: int | None = 3, file: TextIO | None = None) -> None:
        """Print the layers that can be fused with the shapes that they gave on the example, and where fusions stand.

        Args:
            depth: names of at most so many parts; None = all.
            file: where to; None = standard output.

        Raises:
            GraftError: the model was grafted without an example.
        """
        if not self._candidates:
            raise GraftError("there was no example at graft time; describe(networks, example) shows the layers")
        points: dict[tuple[str, str], list[int]] = {}
        for stop in (stop for stops in self._plan for stop in stops):
            points.setdefault((stop.network, stop.tap.layer), []).append(stop.point)
        print_table(self._candidates, points, depth=depth, file=file)

    def _places(self) -> list[list[str]]:
        return [[f"{stop.network}.{stop.tap.layer}" for stop in stops] for stops in self._plan]

    def _named(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if name not in self.networks._modules:
                raise GraftError(f"no network {name!r}; there are: {', '.join(self.networks)}")
        return tuple(names) or tuple(self.networks)

    def ungraft(self) -> dict[str, nn.Module]:
        """Take all hooks off and give the networks back as they came, not frozen. The model cannot run any more."""
        self.unfreeze()
        detach(self.networks.modules(), self._board.key)
        self._hooks = []
        return {name: self.networks[name] for name in self.networks}
