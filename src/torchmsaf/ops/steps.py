"""Sequences of different lengths, padded at their end: masks, means and last steps of what is real."""

# B batch, T steps, C channels

from __future__ import annotations

import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError


def step_mask(lengths: Tensor, steps: int) -> Tensor:
    """``(B,)`` lengths to ``(B, T)`` booleans, True = a real step."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def entry_mask(lengths: Tensor, x: Tensor) -> Tensor:
    """``(B,)`` lengths along the last axis of ``(B, C, *positions, S)`` to booleans ``(B, 1, …, S)``, True = real."""
    return step_mask(lengths, x.shape[-1]).view(len(lengths), *(1 for _ in x.shape[1:-1]), x.shape[-1])


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over the real steps of ``(B, T, C)``: ``(B, C)``; zeros where there are none. Padding is not read."""
    real = torch.where(mask.unsqueeze(2), x, 0)
    return real.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def last_step(x: Tensor, lengths: Tensor) -> Tensor:
    """The last real step of ``(B, T, C)``: ``(B, C)``; zeros where there is none."""
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.shape[2])
    last = x.gather(1, index).squeeze(1)
    return torch.where(lengths[:, None] > 0, last, 0)


def check_lengths(lengths: Tensor, batch: int, steps: int, of: str) -> None:
    """Lengths are ``(B,)`` whole numbers; that they are 0 to T is not looked at, which would wait for the device.

    Raises:
        FusionInputError: they are something else; the message begins with what they are of.
    """
    whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    if tuple(lengths.shape) != (batch,) or not whole:
        raise FusionInputError(
            f"lengths of {of}: expected whole numbers ({batch},), 0 to {steps}, got {lengths.dtype} {tuple(lengths.shape)}"
        )
