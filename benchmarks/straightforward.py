"""MSAF written down step by step: what the benchmark compares with.

The same equations in the order in which the published code computes them: every map is padded and cut into blocks, the
blocks are summed and then averaged, every block has a linear layer of its own, and every time segment a module of its
own. Parameters are named as in the published checkpoints, so that ``MSAF.from_published`` reads this module too.

BlockDropout is applied as published: the mask, scaled by 1 / (1 - p), multiplies the blocks before the join and again
the re-weighted blocks. torchmsaf follows the paper instead, so the two agree in evaluation and not in training with
dropout.
"""

# B batch, C block channels, C' joint channels, n blocks of a modality, N blocks of all modalities, q segments

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StraightforwardBlock(nn.Module):
    """MSAF of one segment.

    Args:
        channels: channel count of each modality.
        block_channels: C.
        reduction: r; C' = C // r.
        min_attention: λ.
        block_dropout: p.
    """

    def __init__(
        self, channels: Sequence[int], block_channels: int, reduction: int, min_attention: float, block_dropout: float
    ) -> None:
        super().__init__()
        joint = block_channels // reduction
        self.block_channels, self.min_attention, self.block_dropout = block_channels, min_attention, block_dropout
        self.counts = [-(-width // block_channels) for width in channels]
        self.joint_features = nn.Sequential(nn.Linear(block_channels, joint), nn.BatchNorm1d(joint), nn.ReLU())
        self.dense_group = nn.ModuleList(nn.Linear(joint, block_channels) for _ in range(sum(self.counts)))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Re-weight one segment of each map."""
        groups = [self._split(x, n) for x, n in zip(features, self.counts, strict=True)]  # (B, n, C, *positions)
        masks = self._masks(features[0])
        if masks is not None:
            groups = [group * _like(mask, group) for group, mask in zip(groups, masks, strict=True)]
        sums = [group.sum(1) for group in groups]  # (B, C, *positions)
        pooled = [total.flatten(2).mean(2) if total.dim() > 2 else total for total in sums]
        joint = self.joint_features(torch.stack(pooled).sum(0))  # (B, C')
        attention = torch.stack([dense(joint) for dense in self.dense_group], 1).softmax(1)  # (B, N, C)
        weights = (self.min_attention + (1 - self.min_attention) * attention).split_with_sizes(self.counts, 1)
        groups = [group * _like(weight, group) for group, weight in zip(groups, weights, strict=True)]
        if masks is not None:
            groups = [group * _like(mask, group) for group, mask in zip(groups, masks, strict=True)]
        return [group.flatten(1, 2)[:, : x.shape[1]] for group, x in zip(groups, features, strict=True)]

    def _split(self, x: Tensor, count: int) -> Tensor:
        missing = count * self.block_channels - x.shape[1]
        padded = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))  # copies, also when nothing is missing
        return padded.reshape(x.shape[0], count, self.block_channels, *x.shape[2:])

    def _masks(self, like: Tensor) -> tuple[Tensor, ...] | None:
        """One draw a sample and block, ``(B, n, 1)`` a modality."""
        if not self.training or self.block_dropout == 0:
            return None
        keep = 1 - self.block_dropout
        drawn = torch.bernoulli(like.new_full((like.shape[0], sum(self.counts), 1), keep)) / keep
        return tuple(drawn.split_with_sizes(self.counts, 1))


class StraightforwardMSAF(nn.Module):
    """One :class:`StraightforwardBlock` for each time segment (axis 2).

    Args:
        channels: channel count of each modality.
        block_channels: C.
        reduction: r.
        min_attention: λ.
        block_dropout: p.
        segments: q; the last segment has the remaining steps too.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        block_channels: int,
        reduction: int,
        min_attention: float = 0.0,
        block_dropout: float = 0.0,
        segments: int = 1,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            StraightforwardBlock(channels, block_channels, reduction, min_attention, block_dropout)
            for _ in range(segments)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Re-weight one map ``(B, C_m, *positions)`` of each modality."""
        q = len(self.blocks)
        if q == 1:
            fused: list[Tensor] = self.blocks[0](features)
            return fused
        segments = [_segments(x, q) for x in features]
        pieces = [block(parts) for block, parts in zip(self.blocks, zip(*segments, strict=True), strict=True)]
        return [torch.cat(parts, 2) for parts in zip(*pieces, strict=True)]


def _like(weight: Tensor, group: Tensor) -> Tensor:
    return weight.reshape(*weight.shape, *[1] * (group.dim() - 3))


def _segments(x: Tensor, q: int) -> Sequence[Tensor]:
    steps = x.shape[2] // q
    return x.split_with_sizes([steps] * (q - 1) + [x.shape[2] - steps * (q - 1)], 2)
