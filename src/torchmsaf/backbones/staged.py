"""Small networks for one modality, made of stages between which a fusion can stand."""

# B batch, C channels, K outputs

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from torchmsaf.backbones.clip_conv3d import ClipConv3d
from torchmsaf.errors import FusionInputError

Part = Callable[..., Tensor]


class StagedNetwork(nn.Module):
    """A network as a row of stages, a feature vector and a head.

    ``forward`` runs ``stages`` one after the other, ``feature`` and ``head``. A subclass with these parts can take part in
    every comparison; what is between two stages is where a fusion can stand.

    A network for sequences that are padded at their end may take their lengths: stages and ``feature`` are then called with
    maps ``(B, C, T)`` and lengths ``(B,)``, or None where nothing is padded. Its stages keep T, and read no padding. Other
    networks see zeros there.

    A network of several persons has maps ``(B, C, *positions, S)`` after some of its stages, one of each person, and its
    lengths say how many of the S are real: these come first.

    Attributes:
        takes_lengths: whether it is such a network.
        names: of the stages, such as those of their last layers; empty = they have none.
        placements: from the words of the MSAF paper's Table 5, ``early``, ``intermediate`` and ``late``, to the names of the
            stages after which such a fusion stands.
        streams: of each stage, S, or 0 for maps without persons; empty = all of them are.
        taps: names of the stages, or ``feature``, that a method reads which reads several depths at once; empty = all.
        stages: from maps to maps, ``(B, C, *positions)`` each: modules, or methods of a network whose layers keep names
            of their own.
        head: from the feature vector to ``(B, K)``; a module or a method.
        channels: channel count after each stage.
        width: width of the feature vector.
    """

    takes_lengths = False
    names: tuple[str, ...] = ()
    placements: Mapping[str, str] = MappingProxyType({})
    streams: tuple[int, ...] = ()
    taps: tuple[str, ...] = ()
    stages: nn.ModuleList | tuple[Part, ...]
    head: Part
    channels: tuple[int, ...]
    width: int

    # the maps, and with takes_lengths the lengths
    feature: Part

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *shape)`` to ``(B, K)``, nothing of it padded."""
        more = (None,) if self.takes_lengths else ()
        for stage in self.stages:
            x = stage(x, *more)
        prediction: Tensor = self.head(self.feature(x, *more))
        return prediction


class VectorNet(StagedNetwork):
    """Two fully connected layers with batch norm, for vectors ``(B, C)``.

    Args:
        shape: shape of one sample, ``(C,)``.
        outputs: K.
        width: width of both layers.
        dropout: probability of dropping a feature before the head.
    """

    def __init__(self, shape: Sequence[int], outputs: int, *, width: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        _check_shape(shape, (1,))
        self.channels, self.width = (width, width), width
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(a, width), nn.BatchNorm1d(width), nn.ReLU()) for a in (shape[0], width)
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))

    def feature(self, maps: Tensor) -> Tensor:
        """The vectors themselves."""
        return maps


class ConvNet(StagedNetwork):
    """Two convolutions with batch norm, ReLU and pooling, for sequences, images and volumes.

    Args:
        shape: shape of one sample: ``(C, T)``, ``(C, H, W)`` or ``(C, T, H, W)``.
        outputs: K.
        width: channels after the first stage; twice as many after the second.
        dropout: probability of dropping a feature before the head.
    """

    def __init__(self, shape: Sequence[int], outputs: int, *, width: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        _check_shape(shape, (2, 3, 4))
        positions = list(shape[1:])
        rank = len(positions)
        convolution = (nn.Conv1d, nn.Conv2d, ClipConv3d)[rank - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
        maximum = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[rank - 1]
        kernel, stride = (5, 4) if rank == 1 else (3, 2)
        self.channels = (width, 2 * width)
        stages = []
        for a, b in zip((shape[0], width), self.channels, strict=True):
            strides = tuple(stride if size >= 2 * stride else 1 for size in positions)
            pool: nn.Module = maximum(strides) if max(strides) > 1 else nn.Identity()
            stages.append(nn.Sequential(convolution(a, b, kernel, padding=kernel // 2), norm(b), nn.ReLU(), pool))
            positions = [size // s for size, s in zip(positions, strides, strict=True)]
        self.stages = nn.ModuleList(stages)
        kept = tuple(min(size, 2 if rank == 3 else 4) for size in positions)
        average = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[rank - 1]
        self.pool: nn.Module = average(kept) if kept != tuple(positions) else nn.Identity()
        self.width = self.channels[-1] * math.prod(kept)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.width, outputs))
        if rank == 2:
            self.to(memory_format=torch.channels_last)  # maximum pooling on the CPU is eight times as fast

    def feature(self, maps: Tensor) -> Tensor:
        """Pooled to at most four (in volumes two) positions an axis, which keeps where things are, and flattened."""
        pooled: Tensor = self.pool(maps)
        return pooled.flatten(1)


def _check_shape(shape: Sequence[int], ranks: Sequence[int]) -> None:
    if len(shape) not in ranks or min(shape) < 1:
        raise FusionInputError(
            f"expected a sample of {' or '.join(map(str, ranks))} axes, channels first, got {tuple(shape)}"
        )
