"""A grafted model beside the same networks and fusions interleaved by hand.

Both have the very same parameters, buffers and fusion modules; the hand-written one has copies of the layers, without
hooks. What differs is who calls the layers: the networks' own ``forward`` in turns, or :class:`HandWritten`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchmsaf import FusionPoint, GraftedModel, graft

Call = Callable[[], Sequence[Tensor]]
Layer = Callable[[Tensor], Tensor]

# one line of the table: with the backward in training, or the context of an evaluation forward
MODES: dict[str, Callable[[], Any] | None] = {
    "eval fwd": torch.no_grad,
    "inference fwd": torch.inference_mode,
    "train fwd+bwd": None,
}


@dataclass(frozen=True)
class Pair:
    """Two networks and their fusion points.

    Attributes:
        name: what ``--grafts`` calls it.
        make: the two networks.
        taps: the layers of each point.
        shapes: of one sample, of each network.
        batch: samples.
        fusions: what stands at the points, one line of the table each.
    """

    name: str
    make: Callable[[], tuple[nn.Module, nn.Module]]
    taps: Sequence[tuple[str, str]]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    batch: int
    fusions: tuple[str, ...] = ("identity", "msaf")


class Tiny(nn.Module):
    """A small linear layer for each point, and one more."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(points + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(B, 8)``, through all layers."""
        for layer in self.layers:
            x = layer(x)
        return x


class Audio(nn.Module):
    """A small convolutional network for MFCCs, ``(B, 13, T)``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            nn.Conv1d(13, 64, 3), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 64, 3), nn.ReLU()
        )
        self.stage2 = nn.Sequential(nn.MaxPool1d(2), nn.Conv1d(64, 128, 3), nn.BatchNorm1d(128), nn.ReLU())
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc(_mean(self.stage2(self.stage1(x))))
        return logits


class HandWritten(nn.Module):
    """The layers of two networks and the fusions, in the order in which they have to run."""

    def __init__(self, networks: Sequence[nn.Module], fusions: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.fusions = nn.ModuleList(fusions)
        one, two = map(_sections, networks)
        self.before = list(zip(one, two, fusions, strict=False))  # one section more than fusions
        self.last = one[-1], two[-1]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The sum of the two outputs."""
        x, y = inputs["one"], inputs["two"]
        for one, two, fusion in self.before:
            for layer in one:
                x = layer(x)
            for layer in two:
                y = layer(y)
            x, y = fusion([x, y])
        one, two = self.last
        for layer in one:
            x = layer(x)
        for layer in two:
            y = layer(y)
        return x + y


def build(pair: Pair, fusion: str, device: str = "cpu") -> tuple[GraftedModel, HandWritten, dict[str, Tensor]]:
    """Return the grafted model, the hand-written one with the same parameters, and an input of both."""
    torch.manual_seed(0)
    networks = [network.to(device) for network in pair.make()]
    names = ("one", "two")
    inputs = {name: torch.randn(pair.batch, *shape).to(device) for name, shape in zip(names, pair.shapes, strict=True)}
    shared = {id(x): x for network in networks for x in (*network.parameters(), *network.buffers())}
    copies = copy.deepcopy(networks, shared)
    points = [FusionPoint({"one": a, "two": b}, _identity if fusion == "identity" else fusion) for a, b in pair.taps]
    grafted = graft(dict(zip(names, networks, strict=True)), points, example=inputs)
    return grafted, HandWritten(copies, list(grafted.fusions)), inputs


def calls(pair: Pair, fusion: str, mode: str, device: str = "cpu") -> dict[str, Call]:
    """Return one call of each of the two, as ``hand-written`` and ``grafted``.

    Raises:
        RuntimeError: they do not give the same, to the last bit.
    """
    grafted, written, inputs = build(pair, fusion, device)
    made = {"hand-written": _call(written, inputs, MODES[mode]), "grafted": _call(grafted, inputs, MODES[mode])}
    outputs = [call() for call in made.values()]
    if not all(torch.equal(x, y) for x, y in zip(*outputs, strict=True)):
        raise RuntimeError(f"{pair.name}, {fusion}, {mode}: the grafted and the hand-written model differ")
    return made


def _call(model: nn.Module, inputs: Mapping[str, Tensor], context: Callable[[], Any] | None) -> Call:
    model.train(context is None)
    if context is not None:

        def evaluate() -> Sequence[Tensor]:
            with context():
                return [model(inputs)]

        return evaluate
    wanted = list(model.parameters())

    def step() -> Sequence[Tensor]:
        output = model(inputs)
        return [output, *torch.autograd.grad(output, wanted, torch.ones_like(output))]

    return step


def _sections(network: nn.Module) -> list[list[Layer]]:
    """What a network calls up to each point, and after the last."""
    if isinstance(network, Tiny):
        return [[layer] for layer in network.layers]
    if isinstance(network, Audio):
        return [[network.stage1], [network.stage2], [_mean, network.fc]]
    layers = dict(network.named_children())  # torchvision's, in the order of their forward
    before: list[Layer] = [layers[name] for name in layers if name not in ("layer4", "avgpool", "fc")]
    return [before, [layers["layer4"]], [layers["avgpool"], _flat, layers["fc"]]]


def _mean(x: Tensor) -> Tensor:
    return x.mean(2)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def _identity(maps: list[Tensor]) -> list[Tensor]:
    return maps


def _tiny(points: int) -> Pair:
    taps = [(f"layers.{i}",) * 2 for i in range(points)]
    return Pair(f"tiny{points}", lambda: (Tiny(points), Tiny(points)), taps, ((8,), (8,)), 2, ("identity",))


def _images() -> tuple[nn.Module, nn.Module]:
    from torchvision.models import resnet50  # type: ignore[import-untyped]

    return resnet50(num_classes=8), Audio(8)


def _videos() -> tuple[nn.Module, nn.Module]:
    from torchvision.models.video import r3d_18  # type: ignore[import-untyped]

    return r3d_18(num_classes=8), Audio(8)


_STAGES = (("layer3", "stage1"), ("layer4", "stage2"))
_MFCC = (13, 212)

PAIRS = {
    pair.name: pair
    for pair in (
        *(_tiny(points) for points in (1, 2, 4, 8)),
        *(Pair(f"resnet50_{batch}", _images, _STAGES, ((3, 224, 224), _MFCC), batch) for batch in (2, 4)),
        Pair("r3d_18", _videos, _STAGES, ((3, 8, 64, 64), _MFCC), 2),
    )
}
