"""Blocks of channels: split and merge, and the attention over them."""

# C_m channels of modality m, C block channels, N blocks of all modalities

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def block_counts(channels: Sequence[int], block_channels: int) -> tuple[int, ...]:
    """Blocks of each modality, ceil(C_m / C)."""
    return tuple(-(-count // block_channels) for count in channels)


def split_blocks(vectors: Sequence[Tensor], block_channels: int) -> Tensor:
    """Vectors ``(..., C_m)`` to blocks ``(..., N, C)``; zeros complete the last block of each (Sec. 3, Split)."""
    padded = [F.pad(v, (0, -v.shape[-1] % block_channels)) if v.shape[-1] % block_channels else v for v in vectors]
    joined = padded[0] if len(padded) == 1 else torch.cat(padded, dim=-1)
    blocks: Tensor = joined.unflatten(-1, (-1, block_channels))
    return blocks


def merge_blocks(blocks: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """Blocks ``(..., N, C)`` to vectors ``(..., C_m)`` without the padding: the inverse of :func:`split_blocks`."""
    parts = blocks.split(block_counts(channels, blocks.shape[-1]), dim=-2)
    vectors = [part.flatten(-2) for part in parts]
    return [v if v.shape[-1] == count else v[..., :count] for v, count in zip(vectors, channels, strict=True)]


def block_attention(logits: Tensor, alive: Tensor | None) -> Tensor:
    """Eq. 5: softmax over the blocks, for each channel by itself.

    Args:
        logits: ``(..., N, C)``.
        alive: ``(..., N, 1)`` booleans, False = the block takes no part and its attention is 0; None = all take part.

    Returns:
        ``(..., N, C)``, sums to 1 over N, or to 0 where no block takes part.
    """
    if alive is None:
        return _softmax(logits)
    attention = _softmax(logits + _bar(alive, logits))
    return attention * alive  # where no block takes part, the softmax is even


def relative_attention(logits: Tensor, alive: Tensor | None) -> Tensor:
    """N A, with n the number of blocks that take part: attention in units of its even share.

    Equal logits give 1 to the last bit, which ``n * softmax`` does not.

    Args:
        logits: ``(..., N, C)``.
        alive: as in :func:`block_attention`.
    """
    if alive is not None:
        logits = logits + _bar(alive, logits)
    powers = _powers(logits)
    # a tensor: a Python number over a tensor is its reciprocal times the number, which rounds twice
    number = logits.new_full((), logits.shape[-2]) if alive is None else alive.sum(-2, keepdim=True)
    return powers * (number / powers.sum(-2, keepdim=True))


def _powers(logits: Tensor) -> Tensor:
    """Powers of e, the largest over the blocks 1."""
    return torch.exp(logits - logits.detach().amax(-2, keepdim=True))


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the blocks."""
    if not torch.compiler.is_compiling():
        return torch.softmax(logits, dim=-2)
    # torch.compile (2.13 and 2.15, CPU) gives wrong gradients for a softmax that is split afterwards
    powers = _powers(logits)
    return powers / powers.sum(-2, keepdim=True)


def _bar(alive: Tensor, logits: Tensor) -> Tensor:
    """What keeps a block out of a softmax: so low that its power is exactly 0, beside any block that takes part."""
    return torch.where(alive, logits.new_zeros(()), torch.finfo(logits.dtype).min / 2)
