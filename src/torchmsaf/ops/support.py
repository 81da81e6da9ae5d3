"""What is real in a map: which samples have the modality, which positions are data, which step is in which segment."""

# B batch, C channels of one modality, M modalities, q segments, S steps of the segmented axis

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# a sample is blanked by itself when the map has so many elements for each absent sample; else all are, by one operation
_SAMPLE_COST = 1 << 14
_SAME_SIZE_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Support:
    """Where one modality is real.

    Attributes:
        keep: ``(B, 1, *positions)`` booleans, or ``(B, 1, 1, …)`` when only whole samples are absent.
        count: real positions of each segment, at least 1 so that it can divide; ``(B, 1)`` for one segment, else
            ``(q, B, 1)``. None when only whole samples are absent.
        absent: the numbers of the absent samples, where asking for them is free; only with ``count`` None.
    """

    def __init__(self, keep: Tensor, count: Tensor | None = None, absent: Sequence[int] | None = None) -> None:
        self.keep, self.count, self.absent = keep, count, absent
        self._bits: dict[int, Tensor] = {}

    def bits(self, dtype: torch.dtype) -> Tensor:
        """All bits set where real, none elsewhere, as integers as wide as ``dtype``."""
        if dtype.itemsize not in self._bits:
            self._bits[dtype.itemsize] = self.keep.to(_SAME_SIZE_INTEGER[dtype.itemsize]).neg_()
        return self._bits[dtype.itemsize]


def plain_operations_only() -> bool:
    """True where a tool reads or transforms the operations, and cannot look into autograd functions."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._is_tracing()


def known_true(flags: Tensor) -> bool:
    """Whether all flags are True, where asking is free: on a CPU, and when nobody records the operations."""
    return not plain_operations_only() and flags.device.type == "cpu" and bool(flags.all())


def segment_runs(length: int, segments: int) -> list[tuple[int, int, int]]:
    """Runs ``(segments, first step, steps)`` of equal segments: floor(S / q) steps each, the remainder in the last.

    One run where q divides S, otherwise two: the first q - 1 segments, and the last one.
    """
    step = length // segments
    if step * segments == length:
        return [(segments, 0, length)]
    return [(segments - 1, 0, (segments - 1) * step), (1, (segments - 1) * step, length - (segments - 1) * step)]


def segment_views(x: Tensor, segments: int, dim: int) -> list[Tensor]:
    """Views ``(segments, steps of one, B, C, *other positions)``, one a run; nothing is copied."""
    steps = x.movedim(dim, 0) if x.dim() > 3 else x.permute(2, 0, 1)
    runs = segment_runs(x.shape[dim], segments)
    if len(runs) == 1:
        return [steps.view(segments, steps.shape[0] // segments, *steps.shape[1:])]
    return [steps.narrow(0, a, n).view(k, n // k, *steps.shape[1:]) for k, a, n in runs]


def segment_of_steps(length: int, segments: int, device: torch.device) -> Tensor:
    """The segment of each step, ``(S,)``; says the same as :func:`segment_runs` without a size that depends on S."""
    return (torch.arange(length, device=device) // (length // segments)).clamp(max=segments - 1)


def sum_segments(x: Tensor, segments: int, dim: int) -> Tensor:
    """Sums over the positions: ``(B, C)``, or ``(q, B, C)`` for several segments. Holds for every length when compiled."""
    if segments == 1:
        return x.sum(tuple(range(2, x.dim()))) if x.dim() > 2 else x
    steps = x.movedim(dim, 2)
    steps = steps.sum(tuple(range(3, x.dim()))) if x.dim() > 3 else steps  # (B, C, S)
    member = segment_of_steps(steps.shape[2], segments, x.device)[:, None] == torch.arange(segments, device=x.device)
    # not a product: it would be in half precision under autocast, and NaN in one segment would reach the others
    return torch.where(member, steps.unsqueeze(3), 0).sum(2).permute(2, 0, 1)


def make_supports(
    features: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    present: Tensor | None,
    *,
    segments: int,
    segment_dims: Sequence[int],
    dtype: torch.dtype,
) -> tuple[list[Support | None], Tensor | None]:
    """Combine masks of positions and flags of presence.

    Args:
        features: maps ``(B, C_m, *positions)``; only their shapes are read.
        masks: ``(B, *positions)`` booleans, True = real, or None, a modality.
        present: ``(B, M)`` booleans, or None.
        segments: q.
        segment_dims: the axis of each map that is segmented.
        dtype: the type of the counts.

    Returns:
        A support a modality, None where everything is real; and which modality is alive, ``(B, M)`` or ``(q, B, M)``,
        None when everything is real everywhere.
    """
    unmasked = all(mask is None for mask in masks)
    if unmasked and (present is None or known_true(present)):
        return [None] * len(features), None
    made: dict[int, tuple[Support, Tensor]] = {}  # modalities that share a mask share the work
    supports: list[Support | None] = []
    alive: list[Tensor | None] = []
    for m, (x, mask, dim) in enumerate(zip(features, masks, segment_dims, strict=True)):
        here = None if present is None else present[:, m]
        if mask is None:
            supports.append(None if here is None else _whole_samples(x, here))
            alive.append(here)
            continue
        key = id(mask) if here is None else -1 - m
        if key not in made:
            made[key] = _masked(x, mask, here, segments=segments, dim=dim, dtype=dtype)
        supports.append(made[key][0])
        alive.append(made[key][1])
    if unmasked and present is not None:
        return supports, present if segments == 1 else present.expand(segments, -1, -1)
    batch = features[0].shape[0]
    ones = features[0].new_ones((batch,) if segments == 1 else (segments, batch), dtype=torch.bool)
    return supports, torch.stack([ones if a is None else a.expand_as(ones) for a in alive], dim=-1)


def _whole_samples(x: Tensor, here: Tensor) -> Support:
    keep = over_samples(here, x)
    if plain_operations_only() or here.device.type != "cpu":
        return Support(keep)
    return Support(keep, absent=[b for b, there in enumerate(here.tolist()) if not there])


def _masked(
    x: Tensor, mask: Tensor, here: Tensor | None, *, segments: int, dim: int, dtype: torch.dtype
) -> tuple[Support, Tensor]:
    if here is not None:
        mask = mask & over_samples(here, mask)
    keep = mask.unsqueeze(1)
    if segments == 1 or plain_operations_only():
        count = sum_segments(keep.to(dtype), segments, dim)
    else:
        views = segment_views(keep, segments, dim)
        counts = [view.sum((1, *range(4, view.dim())), dtype=dtype) for view in views]
        count = counts[0] if len(counts) == 1 else torch.cat(counts)
    return Support(keep, count.clamp(min=1)), (count > 0).squeeze(-1)


def over_samples(flags: Tensor, x: Tensor) -> Tensor:
    """What is said of each sample, ``(B,)``, in the rank of ``x``."""
    return flags.view(-1, *[1] * (x.dim() - 1))


def blank(x: Tensor, keep: Tensor) -> Tensor:
    """Zeros where ``keep`` is False, whatever is there, NaN included. Differentiable, and slow on CPUs."""
    return torch.where(keep, x, 0)


def blank_fast(x: Tensor, support: Support) -> Tensor:
    """:func:`blank` without autograd by a bitwise and, four times as fast on a CPU."""
    bits = support.bits(x.dtype)
    return x.view(bits.dtype).bitwise_and(bits).view(x.dtype)


def blank_(x: Tensor, support: Support | None) -> Tensor:
    """Zeros in place where the modality is not real."""
    if support is None:
        return x
    if support.absent is not None and len(support.absent) * _SAMPLE_COST <= x.numel():
        for sample in support.absent:
            x[sample].zero_()
        return x
    bits = support.bits(x.dtype)
    x.view(bits.dtype).bitwise_and_(bits)
    return x


def blank_samples_(x: Tensor, support: Support | None) -> Tensor:
    """Zeros in place where a sample is absent as a whole; ``x`` is ``(B, C)`` or ``(q, B, C)``."""
    if support is None or support.count is not None:
        return x
    bits = support.bits(x.dtype).view(-1, 1)
    x.view(bits.dtype).bitwise_and_(bits)
    return x
