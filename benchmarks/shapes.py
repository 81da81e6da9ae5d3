"""The shapes that are timed: the fusion points of the paper's three tasks, and the maps of its Fig. 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A fusion point.

    Attributes:
        name: what ``--shapes`` calls it.
        maps: shape of each modality's map without the batch, ``(C_m, *positions)``.
        batch: samples.
        block_channels: C.
        reduction: r.
        block_dropout: p.
        min_attention: λ.
        segments: q.
        time_major: the maps lie in memory as ``nn.LSTM(batch_first=True)`` leaves them, strides (C, 1, B * C).
    """

    name: str
    maps: tuple[tuple[int, ...], ...]
    batch: int
    block_channels: int
    reduction: int = 4
    block_dropout: float = 0.0
    min_attention: float = 0.0
    segments: int = 1
    time_major: bool = False

    @property
    def channels(self) -> list[int]:
        """Channels of each modality."""
        return [shape[0] for shape in self.maps]

    @property
    def arguments(self) -> dict[str, Any]:
        """What both implementations are built with, beside the channels."""
        names = ("block_channels", "reduction", "min_attention", "block_dropout", "segments")
        return {name: getattr(self, name) for name in names}

    def features(self, device: str = "cpu") -> list[Tensor]:
        """Draw one map of each modality, ``(B, C_m, *positions)``, with a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        drawn = []
        for channels, *positions in self.maps:
            if self.time_major:
                x = torch.randn(*positions, self.batch, channels, generator=generator).permute(1, 2, 0)
            else:
                x = torch.randn(self.batch, channels, *positions, generator=generator)
            drawn.append(x.to(device))
        return drawn


def _mosei(batch: int) -> Shape:
    maps = ((32, 50), (64, 50), (128, 50))
    return Shape(f"mosei{batch}", maps, batch, 16, 2, block_dropout=0.2, segments=5, time_major=True)


def _fig5(channels: int) -> Shape:
    return Shape(f"fig5_{channels}", ((channels, 3, 128, 128),) * 2, 4, channels // 2)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("rav1", ((1024, 4, 14, 14), (32, 208)), 4, 16, block_dropout=0.2),
        Shape("rav2", ((2048, 2, 7, 7), (64, 26)), 4, 32, block_dropout=0.2),
        *(_mosei(batch) for batch in (16, 64, 256)),
        Shape("ntu1", ((832, 4, 7, 7), (128, 4, 4), (128, 4, 4)), 4, 64, min_attention=0.5),
        Shape("ntu2", ((1024, 4, 7, 7), (512,)), 4, 256, min_attention=0.5),
        *(_fig5(channels) for channels in (64, 256)),
    )
}


def growth_pairs() -> Sequence[tuple[str, Shape, Shape]]:
    """What should cost about the same: (name, the larger setting, the smaller one)."""
    wide = Shape("wide", ((1024, 4, 7, 7),) * 2, 4, 8)
    return [
        *(
            (f"q=25 / q=1, mosei{batch}", replace(_mosei(batch), segments=25), replace(_mosei(batch), segments=1))
            for batch in (16, 64)
        ),
        ("C=8 / C=512, 2 x 1024 channels", wide, replace(wide, block_channels=512)),
    ]
