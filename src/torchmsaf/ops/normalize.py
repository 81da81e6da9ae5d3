"""The normalization of the joint representation, with statistics of the rows that hold data alone."""

# B batch, q segments, C' joint channels

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.support import known_true

JointNorm = nn.BatchNorm1d | nn.SyncBatchNorm | nn.GroupNorm


def make_norm(norm: str, segments: int, joint: int) -> JointNorm:
    """One norm of q·C' features, segment-major; layer norm is a group norm with a group a segment."""
    if norm == "batch":
        return nn.BatchNorm1d(segments * joint)
    if norm != "layer":
        raise FusionInputError(f"norm is 'batch' or 'layer', got {norm!r}")
    if joint < 2:
        raise FusionInputError(
            f"layer norm over C' = {joint} channel is always zero; choose a smaller reduction, larger block_channels, or "
            "norm='batch'"
        )
    return nn.GroupNorm(segments, segments * joint)


def normalize_joint(norm: JointNorm, z: Tensor, alive: Tensor | None, *, training: bool) -> Tensor:
    """Normalize ``(B, q·C')`` with a norm of q·C' features, segment-major.

    Batch norm in training takes its statistics from the rows that hold data. Synchronized batch norm cannot: rows that
    hold nothing enter it as the constant they are.

    Args:
        norm: ``BatchNorm1d``, ``SyncBatchNorm``, or ``GroupNorm`` with a group a segment.
        z: ``(B, q·C')``.
        alive: ``(B, q)`` booleans, True where the segment of a sample holds data; None = everywhere.
        training: whether batch norm uses and updates the statistics of this batch.
    """
    if not isinstance(norm, nn.GroupNorm) and norm.running_mean is None:
        training = True  # it has no other statistics than those of the batch
    if training and isinstance(norm, nn.SyncBatchNorm):
        synchronized: Tensor = norm(z.to(norm.weight.dtype)).to(z.dtype)
        return synchronized
    same_type = norm.weight is None or norm.weight.dtype == z.dtype
    if same_type and training == norm.training and (not training or alive is None or known_true(alive)):
        normalized: Tensor = norm(z)
        return normalized
    weight, bias = (None if p is None else p.to(z.dtype) for p in (norm.weight, norm.bias))
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(z, norm.num_groups, weight, bias, norm.eps)
    if not training and norm.running_mean is not None and norm.running_var is not None:
        mean, variance = norm.running_mean.to(z.dtype), norm.running_var.to(z.dtype)
        return F.batch_norm(z, mean, variance, weight, bias, False, 0.0, norm.eps)
    assert isinstance(norm, nn.BatchNorm1d)
    return _batch_norm_of_rows(norm, z, alive)


def _batch_norm_of_rows(norm: nn.BatchNorm1d, flat: Tensor, alive: Tensor | None) -> Tensor:
    """Batch norm in training over the rows that hold data; equal to ``norm`` when all of them do.

    A segment in which fewer than two samples hold data has no variance: it leaves the running statistics as they are.
    """
    alive = flat.new_ones(flat.shape[0], 1, dtype=torch.bool) if alive is None else alive
    z, alive = flat.view(flat.shape[0], alive.shape[1], -1), alive.unsqueeze(2)  # (B, q, C'), (B, q, 1)
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
    z = (real - mean) * torch.rsqrt(variance + norm.eps)
    if norm.affine:
        z = z * norm.weight.view_as(mean).to(z.dtype) + norm.bias.view_as(mean).to(z.dtype)
    return z.flatten(1)
