"""What is real in a map: which samples have the modality, which positions are data, which step is in which segment."""

# B batch, C channels of one modality, q segments, S steps of the segmented axis, R positions of one segment

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SAME_SIZE_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Support:
    """Where one modality is real.

    Attributes:
        keep: ``(B, 1, *positions)`` booleans, or ``(B, 1, 1, …)`` when only whole samples are absent.
        count: real positions of each segment, ``(q, B, 1)``, at least 1 so that it can divide.
        alive: ``(q, B, 1)`` booleans, True where a segment has a real position.
        whole: True when samples are present or absent as a whole.
    """

    keep: Tensor
    count: Tensor
    alive: Tensor
    whole: bool


def plain_operations_only() -> bool:
    """True where a tool reads or transforms the operations, and cannot look into autograd functions."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._is_tracing()


def segment_runs(length: int, segments: int) -> list[tuple[int, int, int]]:
    """Runs ``(segments, first step, steps)`` of equal segments: floor(S / q) steps each, the remainder in the last.

    One run where q divides S, otherwise two: the first q - 1 segments, and the last one.
    """
    step = length // segments
    if step * segments == length:
        return [(segments, 0, length)]
    return [(segments - 1, 0, (segments - 1) * step), (1, (segments - 1) * step, length - (segments - 1) * step)]


def segment_of_steps(length: int, segments: int, device: torch.device) -> Tensor:
    """The segment of each step, ``(S,)``; says the same as :func:`segment_runs` without a size that depends on S."""
    return (torch.arange(length, device=device) // (length // segments)).clamp(max=segments - 1)


def sum_segments(x: Tensor, segments: int, dim: int) -> Tensor:
    """Sums over the positions of each segment, ``(q, B, C)``, in operations that hold for every length."""
    if segments == 1:
        return (x.sum(tuple(range(2, x.dim()))) if x.dim() > 2 else x).unsqueeze(0)
    steps = x.movedim(dim, 2)
    steps = steps.sum(tuple(range(3, x.dim()))) if x.dim() > 3 else steps  # (B, C, S)
    member = segment_of_steps(steps.shape[2], segments, x.device)[:, None] == torch.arange(segments, device=x.device)
    return (steps @ member.to(steps.dtype)).permute(2, 0, 1)


def segment_views(x: Tensor, segments: int, dim: int) -> list[Tensor]:
    """Views ``(B, C, segments in the run, *positions of one segment)``, one a run; nothing is copied."""
    if segments == 1:
        return [x.unsqueeze(2)]
    moved = x.movedim(dim, 2)
    runs = segment_runs(moved.shape[2], segments)
    return [moved.narrow(2, first, steps).unflatten(2, (k, steps // k)) for k, first, steps in runs]


def join_segments(views: list[Tensor], segments: int, dim: int) -> Tensor:
    """The inverse of :func:`segment_views`: a map from its runs."""
    if segments == 1:
        return views[0].squeeze(2)
    return torch.cat([view.flatten(2, 3) for view in views], dim=2).movedim(2, dim)


def make_support(
    x: Tensor, mask: Tensor | None, present: Tensor | None, *, segments: int, segment_dim: int, dtype: torch.dtype
) -> Support | None:
    """Combine a mask of positions and a flag of presence; None when neither is given.

    Args:
        x: the map, ``(B, C, *positions)``; only its shape is read.
        mask: ``(B, *positions)`` booleans, True = real, or None.
        present: ``(B,)`` booleans, or None.
        segments: q.
        segment_dim: the axis of ``x`` that is segmented.
        dtype: the type of the counts.
    """
    if mask is None:
        if present is None:
            return None
        alive = present[None, :, None]
        keep = present.reshape(-1, *[1] * (x.dim() - 1))
        return Support(keep, alive.new_ones((), dtype=dtype), alive.expand(segments, -1, -1), whole=True)
    keep = mask.unsqueeze(1)
    if present is not None:
        keep = keep & present.reshape(-1, *[1] * (keep.dim() - 1))
    if plain_operations_only():
        count = sum_segments(keep.to(dtype), segments, segment_dim)
    else:
        views = segment_views(keep, segments, segment_dim)
        counts = [view.sum(tuple(range(3, view.dim()))) if view.dim() > 3 else view for view in views]
        count = torch.cat(counts, dim=2).permute(2, 0, 1).to(dtype)
    return Support(keep, count.clamp(min=1), count > 0, whole=False)


def blank(x: Tensor, keep: Tensor) -> Tensor:
    """Zeros where ``keep`` is False, whatever is there, NaN included. Differentiable, and slow on CPUs."""
    return torch.where(keep, x, x.new_zeros(()))


def keep_bits(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """All bits set where ``keep`` is True, none elsewhere, as integers as wide as ``dtype``."""
    return keep.to(_SAME_SIZE_INTEGER[dtype.itemsize]).neg_()


def blank_(x: Tensor, bits: Tensor) -> Tensor:
    """:func:`blank` in place by :func:`keep_bits`: a bitwise and, four times as fast as ``where`` on a CPU."""
    x.view(bits.dtype).bitwise_and_(bits)
    return x
