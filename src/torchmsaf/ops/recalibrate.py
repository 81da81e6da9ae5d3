"""The two passes over the maps that every channel-gating fusion makes: pool all positions, scale all channels.

:func:`recalibrate` pools each map to one descriptor a channel and segment, and returns the function that scales the
maps by one gate a channel and segment. Both ends belong together: written apart, autograd walks each map five more times.

Under ``torch.compile``, ``torch.export`` and ``torch.func`` the same equations run as plain operations, which those
tools fuse or transform themselves.
"""

# B batch, C channels of one modality, q segments, R positions of one segment, M modalities

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.ops.support import (
    Support,
    blank,
    blank_,
    blank_fast,
    blank_samples_,
    plain_operations_only,
    segment_of_steps,
    segment_views,
    sum_segments,
)

Rescale = Callable[[Sequence[Tensor]], list[Tensor]]

# maps of fewer elements take the route with fewer operations, larger ones the one with fewer passes
_SMALL = 1 << 15


def recalibrate(
    features: Sequence[Tensor],
    supports: Sequence[Support | None],
    *,
    segments: int = 1,
    segment_dims: Sequence[int],
    dtype: torch.dtype,
) -> tuple[list[Tensor], Rescale]:
    """Pool every map, and get the function that scales it.

    Args:
        features: maps ``(B, C_m, *positions)``.
        supports: what is real in each map; None = everything.
        segments: q.
        segment_dims: the axis of each map that is cut into segments; not read with one segment.
        dtype: the type of the descriptors.

    Returns:
        The mean over the real positions, ``(B, C_m)`` a modality, or ``(q, B, C_m)`` for several segments,
        zeros where nothing is real; and ``rescale(gates)``, which takes gates of these shapes and gives the scaled maps,
        zeros where nothing is real.
    """
    maps = tuple(_Map(segments, dim, support, dtype) for dim, support in zip(segment_dims, supports, strict=True))
    if plain_operations_only():
        pooled = [m.pool_plain(x) for m, x in zip(maps, features, strict=True)]
        return pooled, lambda gates: [m.scale_plain(x, g) for m, x, g in zip(maps, features, gates, strict=True)]
    if not torch.is_grad_enabled():
        pooled = [m.pool(x) for m, x in zip(maps, features, strict=True)]
        return pooled, lambda gates: [m.scale(x, g) for m, x, g in zip(maps, features, gates, strict=True)]
    results = _Pool.apply(maps, *features)
    carriers = results[len(maps) :]

    def rescale(gates: Sequence[Tensor]) -> list[Tensor]:
        return list(_Scale.apply(maps, *gates, *carriers, *features))

    return list(results[: len(maps)]), rescale


class _Map:
    """One map's operations, for one call: how it is cut, and which of it is real.

    ``pool``, ``scale``, ``gate_grad`` and ``input_grad`` run without autograd and are made for a CPU: they write where they
    can, and use batch norm's kernels, which read a map row by row without a temporary.
    """

    def __init__(self, segments: int, dim: int, support: Support | None, dtype: torch.dtype) -> None:
        self.segments, self.dim, self.support, self.dtype = segments, dim, support, dtype
        self.masked = support is not None and support.count is not None
        self.real: Tensor | None = None  # a masked map with zeros in place, from pool to scale

    def pool_plain(self, x: Tensor) -> Tensor:
        """:meth:`pool` in differentiable operations that hold for every length."""
        if self.support is not None and self.support.count is not None:
            return (
                sum_segments(blank(x, self.support.keep).to(self.dtype), self.segments, self.dim) / self.support.count
            )
        sizes = sum_segments(torch.ones_like(x[:1, :1], dtype=self.dtype), self.segments, self.dim)
        pooled = sum_segments(x.to(self.dtype), self.segments, self.dim) / sizes
        return pooled if self.support is None else blank(pooled, self.support.keep.view(-1, 1))

    def scale_plain(self, x: Tensor, gate: Tensor) -> Tensor:
        """:meth:`scale` in differentiable operations that hold for every length."""
        gate = gate.to(x.dtype)
        if self.segments > 1:
            steps = segment_of_steps(x.shape[self.dim], self.segments, x.device)
            gate = gate.permute(1, 2, 0).index_select(2, steps)[(...,) + (None,) * (x.dim() - 3)].movedim(2, self.dim)
        else:
            gate = gate[(...,) + (None,) * (x.dim() - 2)]
        if self.support is None:
            return x * gate
        # before, so that what is there reaches no gradient of the gate; after, so that what comes back does not either
        return blank(blank(x, self.support.keep) * gate, self.support.keep)

    def pool(self, x: Tensor) -> Tensor:
        """Mean over the real positions."""
        if self.support is None or self.support.count is None:
            return blank_samples_(self._reduce(x, mean=True), self.support)
        self.real = blank_fast(x, self.support)
        return self._reduce(self.real, mean=False) / self.support.count

    def scale(self, x: Tensor, gate: Tensor) -> Tensor:
        """One gate a channel and segment times the map; zeros where nothing is real."""
        gate = gate if gate.dtype == x.dtype else gate.to(x.dtype)
        if self.real is not None:  # the zeros are there already
            y, self.real = self.real, None
            for out, part in zip(*self._cut(y, gate), strict=True):
                out.mul_(part)
            return y
        if self.segments == 1:
            y = x * self._beside(x, gate)
        else:
            y = torch.empty_like(x)
            views, parts = self._cut(x, gate)
            for view, part, out in zip(views, parts, segment_views(y, self.segments, self.dim), strict=True):
                torch.mul(view, part, out=out)
        return blank_(y, self.support)

    def gate_grad(self, gy: Tensor, x: Tensor) -> Tensor:
        """Sum over the real positions of ``gy * x``: the gradient of the gate."""
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            return self._reduce(gy * x if self.support is None else blank(gy * x, self.support.keep), mean=False)
        if not self.masked and self._is_rows(x) and gy.is_contiguous():
            rows = (1, x.shape[0] * x.shape[1], -1)
            zeros, ones = x.new_zeros(rows[1]), x.new_ones(rows[1])
            product: Tensor = torch.ops.aten.native_batch_norm_backward(
                gy.view(rows), x.view(rows), None, zeros, ones, None, None, False, 0.0, [False, True, False]
            )[1]
            return blank_samples_(product.view(x.shape[:2]), self.support)
        product = gy * x
        if self.masked:
            return self._reduce(blank_(product, self.support), mean=False)
        return blank_samples_(self._reduce(product, mean=False), self.support)

    def input_grad(self, gy: Tensor, gate: Tensor, pooled_grad: Tensor) -> Tensor:
        """``gy * gate + pooled_grad / R`` where the map is real: the gradient of the map."""
        gate, shift = gate.to(gy.dtype), self._spread(pooled_grad, gy).to(gy.dtype)
        if torch.is_grad_enabled():
            gx = self.scale_plain(gy, gate) + self.scale_plain(torch.ones_like(gy), shift)
            return gx if self.support is None else blank(gx, self.support.keep)
        if self._is_rows(gy):
            rows = (1, gy.shape[0] * gy.shape[1], -1)
            zeros, ones = gy.new_zeros(rows[1]), gy.new_ones(rows[1])
            flat = F.batch_norm(gy.view(rows), zeros, ones, gate.reshape(-1), shift.reshape(-1), False, 0.0, 0.0)
            return blank_(flat.view(gy.shape), self.support)
        if self.segments == 1:
            gx = gy * self._beside(gy, gate)
            return blank_(gx.add_(self._beside(gy, shift)), self.support)
        gx = torch.empty_like(gy)
        views, gates = self._cut(gy, gate)
        outs, shifts = self._cut(gx, shift)
        for view, g, s, out in zip(views, gates, shifts, outs, strict=True):
            if gy.stride(1) == 1:  # channels lie side by side, as recurrent layers leave them
                torch.addcmul(s, view, g, out=out)
            else:
                torch.mul(view, g, out=out).add_(s)
        return blank_(gx, self.support)

    def _spread(self, pooled_grad: Tensor, like: Tensor) -> Tensor:
        """What each position of a mean gets of its gradient."""
        if self.support is not None and self.support.count is not None:
            return pooled_grad / self.support.count
        positions = like.shape[2:].numel()
        if self.segments == 1:
            return pooled_grad / positions
        length, step = like.shape[self.dim], like.shape[self.dim] // self.segments
        if step * self.segments == length:
            return pooled_grad / (positions // self.segments)
        others, last = positions // length, length - (self.segments - 1) * step
        return torch.cat([pooled_grad[:-1] / (step * others), pooled_grad[-1:] / (last * others)])

    def _reduce(self, x: Tensor, *, mean: bool) -> Tensor:
        """Mean or sum over the positions of each segment."""
        if x.dim() == 2:
            return x.to(self.dtype, copy=True)
        if self.segments == 1:
            dims = tuple(range(2, x.dim()))
            return x.mean(dims, dtype=self.dtype) if mean else x.sum(dims, dtype=self.dtype)
        parts = []
        for view in segment_views(x, self.segments, self.dim):
            dims = (1, *range(4, view.dim()))
            parts.append(view.mean(dims, dtype=self.dtype) if mean else view.sum(dims, dtype=self.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _beside(self, x: Tensor, gate: Tensor) -> Tensor:
        """``(B, C)`` with an axis of size one for each position axis of ``x``."""
        return gate if x.dim() == 2 else gate.view(gate.shape + (1,) * (x.dim() - 2))

    def _cut(self, x: Tensor, gate: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Views of the runs of segments, and the gates beside them."""
        if self.segments == 1:
            return [x], [self._beside(x, gate)]
        views = segment_views(x, self.segments, self.dim)
        parts = [gate] if len(views) == 1 else [gate[:-1], gate[-1:]]
        return views, [part.view(part.shape[:1] + (1,) + part.shape[1:] + (1,) * (x.dim() - 3)) for part in parts]

    def _is_rows(self, x: Tensor) -> bool:
        """Whether a channel is one long run of memory, in a type that batch norm's kernels read exactly."""
        exact = x.dtype in (torch.float32, torch.float64)
        return exact and self.segments == 1 and x.dim() > 2 and x.numel() >= _SMALL and x.is_contiguous()


class _Pool(torch.autograd.Function):
    """Descriptors of the maps, and what :class:`_Scale` needs so that the gradient of a map is written in one pass.

    The gradient of a map is ``gy * gate + pooled_grad / R``. Its first term belongs to the scaling, its second to the
    pooling. So that no map is written twice, the scaling hands the two factors of its term back through *carriers*:
    outputs of this function that hold no data, one in the shape of the map (its gradient is gy) and one in the shape of
    the gate (its gradient is the gate). Carriers never leave this file.
    """

    @staticmethod
    def forward(ctx: Any, maps: tuple[_Map, ...], *features: Tensor) -> tuple[Tensor, ...]:
        ctx.maps = maps
        pooled = [m.pool(x) for m, x in zip(maps, features, strict=True)]
        return (
            *pooled,
            *[x.new_empty(()).expand(x.shape) for x in features],
            *[p.new_empty(()).expand(p.shape) for p in pooled],
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n = len(ctx.maps)
        rows = zip(ctx.maps, grads[n : 2 * n], grads[2 * n :], grads[:n], ctx.needs_input_grad[1:], strict=True)
        return None, *[
            m.input_grad(gy, gate, pooled_grad) if needed else None for m, gy, gate, pooled_grad, needed in rows
        ]


class _Scale(torch.autograd.Function):
    """The scaled maps. Takes gates, the carriers of :class:`_Pool`, and the maps."""

    @staticmethod
    def forward(ctx: Any, maps: tuple[_Map, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        n = len(maps)
        gates, features = tensors[:n], tensors[3 * n :]
        ctx.maps = maps
        ctx.save_for_backward(*gates, *features)
        return tuple(m.scale(x, g) for m, x, g in zip(maps, features, gates, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n = len(ctx.maps)
        saved = ctx.saved_tensors  # once: activation checkpointing lets it be asked for once
        gates, features = saved[:n], saved[n:]
        gate_grads = [m.gate_grad(gy, x) for m, gy, x in zip(ctx.maps, grads, features, strict=True)]
        return None, *gate_grads, *grads, *gates, *[None] * n
