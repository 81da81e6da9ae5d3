"""The normalization of the joint representation, with statistics of the rows that hold data alone."""

# B batch, q segments, C' joint channels

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.ops.support import plain_operations_only

JointNorm = nn.BatchNorm1d | nn.SyncBatchNorm | nn.GroupNorm


def normalize_joint(norm: JointNorm, z: Tensor, alive: Tensor | None, *, training: bool) -> Tensor:
    """Normalize ``(B, q, C')`` with a norm of q·C' features.

    Batch norm in training takes its statistics from the rows that hold data. Synchronized batch norm cannot: rows that
    hold nothing enter it as the constant they are.

    Args:
        norm: ``BatchNorm1d``, ``SyncBatchNorm``, or ``GroupNorm`` with a group a segment.
        z: ``(B, q, C')``.
        alive: ``(B, q, 1)`` booleans, True where the segment of a sample holds data; None = everywhere.
        training: whether batch norm uses and updates the statistics of this batch.
    """
    flat = z.flatten(1)
    weight, bias = (None if p is None else p.to(z.dtype) for p in (norm.weight, norm.bias))
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(flat, norm.num_groups, weight, bias, norm.eps).view_as(z)
    if not training and norm.running_mean is not None and norm.running_var is not None:
        mean, variance = norm.running_mean.to(z.dtype), norm.running_var.to(z.dtype)
        return F.batch_norm(flat, mean, variance, weight, bias, False, 0.0, norm.eps).view_as(z)
    if isinstance(norm, nn.SyncBatchNorm) or (norm.weight.dtype == z.dtype and _all(alive)):
        normalized: Tensor = norm(flat)
        return normalized.view_as(z)
    alive = torch.ones_like(z[..., :1], dtype=torch.bool) if alive is None else alive
    return _batch_norm_of_rows(norm, z, alive)


def _all(alive: Tensor | None) -> bool:
    """True when every row is known to hold data; asking is free on a CPU, and a wait on a GPU."""
    if alive is None:
        return True
    if plain_operations_only() or alive.device.type != "cpu":
        return False
    return bool(alive.all())


def _batch_norm_of_rows(norm: nn.BatchNorm1d, z: Tensor, alive: Tensor) -> Tensor:
    """Batch norm in training over the rows that hold data; equal to ``norm`` when all of them do.

    A segment in which fewer than two samples hold data has no variance: it leaves the running statistics as they are.
    """
    weight = alive.to(z.dtype)
    count = weight.sum(0)  # (q, 1)
    real = torch.where(alive, z, z.new_zeros(()))
    mean = real.sum(0) / count.clamp(min=1)  # (q, C')
    variance = ((real - mean).square() * weight).sum(0) / count.clamp(min=1)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            momentum = 1.0 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
            step = momentum * (count > 1).to(z.dtype)  # (q, 1)
            unbiased = variance * count / (count - 1).clamp(min=1)
            for running, value in ((norm.running_mean, mean), (norm.running_var, unbiased)):
                old = running.view_as(value).to(value.dtype)
                running.copy_((old + step * (value - old)).flatten())
    scale, shift = norm.weight.view_as(mean).to(z.dtype), norm.bias.view_as(mean).to(z.dtype)
    return (real - mean) * torch.rsqrt(variance + norm.eps) * scale + shift
