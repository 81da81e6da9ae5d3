"""What is timed: the two implementations as plain calls, and a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shapes import Shape
from benchmarks.straightforward import StraightforwardMSAF
from torchmsaf.msaf import MSAF

# one line of each table: (module state, with the backward)
MODES = (("eval", False), ("eval", True), ("train", False), ("train", True))


@dataclass(frozen=True)
class Case:
    """A module with its inputs, ready to be called.

    Attributes:
        module: the module.
        features: its inputs.
        arguments: its other arguments, by name.
    """

    module: nn.Module
    features: Sequence[Tensor]
    arguments: dict[str, Any]

    def call(self, state: str, backward: bool) -> Callable[[], object]:
        """Return one forward, or one forward and backward to all inputs and parameters.

        An evaluation forward runs without autograd. The gradients of the outputs are made beforehand.
        """
        self.module.train(state == "train")
        if state == "eval" and not backward:
            features = list(self.features)

            def evaluate() -> object:
                with torch.no_grad():
                    return self.module(features, **self.arguments)

            return evaluate
        leaves = [x.detach().requires_grad_() for x in self.features]
        if not backward:
            return lambda: self.module(leaves, **self.arguments)
        wanted = [*leaves, *self.module.parameters()]
        gradients = [torch.randn_like(x) for x in leaves]  # of the same layout

        def step() -> object:
            fused = self.module(leaves, **self.arguments)
            return fused, torch.autograd.grad(fused, wanted, gradients)

        return step


def straightforward(shape: Shape, device: str = "cpu") -> Case:
    torch.manual_seed(0)
    module = StraightforwardMSAF(shape.channels, **shape.arguments)
    return Case(module.to(device), shape.features(device), {})


def fast(shape: Shape, device: str = "cpu", **arguments: Any) -> Case:
    """torchmsaf.MSAF on a shape; arguments beside the features are given to its forward."""
    torch.manual_seed(0)
    identity_start = arguments.pop("identity_start", False)
    module = MSAF(shape.channels, **shape.arguments, identity_start=identity_start)
    return Case(module.to(device), shape.features(device), arguments)


def some_masks(shape: Shape, device: str = "cpu") -> list[Tensor | None]:
    """A mask of each map with positions; about a fifth of its last axis is padding, another share in every sample."""
    masks: list[Tensor | None] = []
    for _, *positions in shape.maps:
        if not positions:
            masks.append(None)
            continue
        padding = (torch.arange(shape.batch) % 3) * max(1, positions[-1] // 5)
        real = torch.arange(positions[-1]) < (positions[-1] - padding).unsqueeze(1)  # (B, last)
        mask = real.reshape(shape.batch, *[1] * (len(positions) - 1), positions[-1])
        masks.append(mask.expand(shape.batch, *positions).contiguous().to(device))
    return masks


def some_present(shape: Shape, device: str = "cpu") -> Tensor:
    """Presence flags ``(B, M)``; every fourth sample lacks the last modality."""
    present = torch.ones(shape.batch, len(shape.maps), dtype=torch.bool)
    present[::4, -1] = False
    return present.to(device)


def copy(shape: Shape, device: str = "cpu") -> Callable[[], object]:
    """Return a copy of all maps into buffers that exist: 2 x their bytes moved a call."""
    sources = [x.contiguous() for x in shape.features(device)]
    targets = [torch.zeros_like(x) for x in sources]

    def run() -> None:
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)

    return run


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Return a call as the replay of a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
