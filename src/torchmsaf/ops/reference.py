"""MSAF as the paper writes it: Eqs. 1-6 of Su, Hu, Li and Cao (arXiv 2012.07175), one a line, with loops.

This is the slow truth that the fast path is tested against. It is differentiable, never modifies its inputs and is not
made to be quick. Masks, presence, a given BlockDropout mask and the identity start are the only things added.
"""

# B batch, C block channels, C' joint channels, N blocks of all modalities, q segments, M modalities

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameters:
    """Weights of one MSAF: ``W_Z`` and ``b_Z`` of the join, ``W`` and ``b`` of every block, for each segment."""

    join_weight: Tensor  # (q, C', C)
    join_bias: Tensor  # (q, C')
    highlight_weight: Tensor  # (q, N, C, C')
    highlight_bias: Tensor  # (q, N, C)


def split(feature: Tensor, block_channels: int) -> list[Tensor]:
    """Cut ``(B, C_m, ...)`` into ceil(C_m / C) blocks of C channels; zeros complete the last one (Sec. 3, Split)."""
    blocks = list(feature.split(block_channels, dim=1))
    missing = block_channels - blocks[-1].shape[1]
    if missing:
        zeros = blocks[-1].new_zeros(feature.shape[0], missing, *feature.shape[2:])
        blocks[-1] = torch.cat([blocks[-1], zeros], dim=1)
    return blocks


def merge(blocks: Sequence[Tensor], channels: int) -> Tensor:
    """Put blocks together again and drop the padding: the inverse of :func:`split`."""
    return torch.cat(list(blocks), dim=1)[:, :channels]


def segment_bounds(length: int, segments: int) -> list[tuple[int, int]]:
    """First and last-plus-one step of each segment: floor(S / q) steps, the remainder in the last (Sec. 3.2)."""
    step = length // segments
    return [(s * step, length if s == segments - 1 else (s + 1) * step) for s in range(segments)]


def attend(
    features: Sequence[Tensor],
    masks: Sequence[Tensor],
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    normalize: Callable[[Tensor, Tensor], Tensor],
    keep: Tensor,
    block_channels: int,
) -> Tensor:
    """Join and highlight for one segment, Eqs. 1-5: the attention A, ``(B, N, C)``.

    Args:
        features: one segment of each modality, ``(B, C_m, *positions)``.
        masks: True where a position is real, ``(B, *positions)``; an absent modality is False everywhere.
        weights: ``W_Z`` (C', C), ``b_Z`` (C',), ``W`` (N, C, C'), ``b`` (N, C).
        normalize: batch norm of ``(B, C')``; its second argument says which rows hold anything, ``(B,)``.
        keep: BlockDropout's scaled mask, ``(B, N)``; ones in evaluation.
        block_channels: C.
    """
    join_weight, join_bias, highlight_weight, highlight_bias = weights
    batch = features[0].shape[0]
    total = features[0].new_zeros(batch, block_channels)
    alive, first = [], 0
    for feature, mask in zip(features, masks, strict=True):
        blocks = split(feature, block_channels)
        kept = [block * keep[:, first + i].reshape(-1, *[1] * (block.dim() - 1)) for i, block in enumerate(blocks)]
        first += len(blocks)
        summed = torch.stack(kept).sum(0)  # Eq. 1: S_m = sum of the blocks
        rows = []
        for b in range(batch):
            real = summed[b][:, mask[b]]  # (C, real positions)
            rows.append(
                real.mean(1) if real.shape[1] else real.new_zeros(block_channels)
            )  # Eq. 2: D_m = mean over positions
        total = total + torch.stack(rows)  # Eq. 3, G = sum of D_m
        alive += [mask.reshape(batch, -1).any(1)] * len(blocks)
    present = torch.stack(alive, dim=1)  # (B, N)
    joint = total @ join_weight.T + join_bias
    joint = torch.relu(normalize(joint, present.any(1)))  # Eq. 3: Z = ReLU(BN(W_Z G + b_Z))
    rows = []
    for b in range(batch):
        logits = [highlight_weight[i] @ joint[b] + highlight_bias[i] for i in range(present.shape[1])]  # Eq. 4: U
        attention = torch.zeros_like(torch.stack(logits))
        if present[b].any():
            chosen = torch.stack([u for u, p in zip(logits, present[b], strict=True) if p])
            attention = attention.index_put((present[b].nonzero()[:, 0],), torch.softmax(chosen, dim=0))  # Eq. 5: A
        rows.append(attention)
    return torch.stack(rows)


def msaf_reference(
    features: Sequence[Tensor],
    parameters: Parameters,
    normalize: Callable[..., Tensor],
    *,
    block_channels: int,
    min_attention: float = 0.0,
    segment_dim: int = 2,
    identity_start: bool = False,
    keep: Tensor | None = None,
    masks: Sequence[Tensor | None] | None = None,
    present: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The whole module: maps and attention.

    Args:
        features: maps ``(B, C_m, *positions)``.
        parameters: the weights of every segment.
        normalize: ``(joint, rows that hold anything, segment=s) -> joint``.
        block_channels: C.
        min_attention: lambda of Eq. 6.
        segment_dim: the axis that is cut into segments.
        identity_start: the gate is lambda + (1 - lambda) n A instead of lambda + (1 - lambda) A.
        keep: BlockDropout's scaled mask ``(B, q, N)``, None for none.
        masks: ``(B, *positions)`` booleans or None a modality.
        present: ``(B, M)`` booleans.

    Returns:
        The maps, same shapes, and the attention of each modality, ``(B, q, N_m, C)``.
    """
    batch, segments = features[0].shape[0], parameters.join_weight.shape[0]
    counts = [-(-feature.shape[1] // block_channels) for feature in features]
    if keep is None:
        keep = features[0].new_ones(batch, segments, sum(counts))
    whole = []
    for m, feature in enumerate(features):
        mask = None if masks is None else masks[m]
        mask = feature.new_ones(batch, *feature.shape[2:], dtype=torch.bool) if mask is None else mask
        here = feature.new_ones(batch, dtype=torch.bool) if present is None else present[:, m]
        whole.append(mask & here.reshape(-1, *[1] * (mask.dim() - 1)))
    outputs: list[list[Tensor]] = [[] for _ in features]
    attentions = []
    for s in range(segments):
        pieces, piece_masks = list(features), whole
        if segments > 1:
            dims = [segment_dim % feature.dim() for feature in features]
            bounds = [segment_bounds(f.shape[d], segments)[s] for f, d in zip(features, dims, strict=True)]
            pieces = [f.narrow(d, a, z - a) for f, d, (a, z) in zip(features, dims, bounds, strict=True)]
            piece_masks = [m.narrow(d - 1, a, z - a) for m, d, (a, z) in zip(whole, dims, bounds, strict=True)]
        pieces = [torch.where(k.unsqueeze(1), f, 0) for f, k in zip(pieces, piece_masks, strict=True)]
        p = parameters
        weights = (p.join_weight[s], p.join_bias[s], p.highlight_weight[s], p.highlight_bias[s])
        attention = attend(pieces, piece_masks, weights, partial(normalize, segment=s), keep[:, s], block_channels)
        attentions.append(attention)
        alive = [k.reshape(batch, -1).any(1) for k in piece_masks]
        n = torch.stack([a.to(attention.dtype) * c for a, c in zip(alive, counts, strict=True)]).sum(0)
        first = 0
        for m, piece in enumerate(pieces):
            blocks = []
            for i, block in enumerate(split(piece, block_channels)):
                a = attention[:, first + i] * (n[:, None] if identity_start else 1.0)
                gate = (min_attention + (1 - min_attention) * a) * keep[:, s, first + i, None]
                blocks.append(gate.reshape(*gate.shape, *[1] * (block.dim() - 2)) * block)  # Eq. 6
            first += counts[m]
            outputs[m].append(merge(blocks, piece.shape[1]))
    maps = [o[0] if segments == 1 else torch.cat(o, dim=segment_dim % o[0].dim()) for o in outputs]
    return maps, list(torch.stack(attentions, dim=1).split(counts, dim=2))
