"""The two passes over the maps that every channel-gating fusion makes: pool all positions, scale all channels.

:func:`recalibrate` pools each map to one descriptor a channel and segment, and returns the function that scales the maps
by one gate a channel and segment. Both ends belong together: written apart, autograd walks each map five more times.

Under ``torch.compile``, ``torch.export`` and ``torch.func`` the same equations run as plain operations, which those
tools fuse or transform themselves.
"""

# B batch, C channels of one modality, q segments, R positions of one segment, M modalities

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.ops.support import (
    Support,
    blank,
    blank_,
    join_segments,
    keep_bits,
    plain_operations_only,
    segment_of_steps,
    segment_views,
    sum_segments,
)

Rescale = Callable[[Sequence[Tensor]], list[Tensor]]


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
        The mean over the real positions of each segment, ``(q, B, C_m)`` a modality, zeros where nothing is real; and
        ``rescale(gates)``, which takes gates of these shapes and gives the scaled maps, zeros where nothing is real.
    """
    maps = tuple(_Map(segments, dim, support, dtype) for dim, support in zip(segment_dims, supports, strict=True))
    if plain_operations_only():
        pooled = [m.pool(x) for m, x in zip(maps, features, strict=True)]
        return pooled, lambda gates: [m.scale(x, g) for m, x, g in zip(maps, features, gates, strict=True)]
    if not torch.is_grad_enabled():
        pooled = [m.pool_fast(x) for m, x in zip(maps, features, strict=True)]
        return pooled, lambda gates: [m.scale_fast(x, g) for m, x, g in zip(maps, features, gates, strict=True)]
    results = _Pool.apply(maps, *features)
    carriers = results[len(maps) :]

    def rescale(gates: Sequence[Tensor]) -> list[Tensor]:
        return list(_Scale.apply(maps, *gates, *carriers, *features))

    return list(results[: len(maps)]), rescale


@dataclass(frozen=True)
class _Map:
    """How one map is cut and which of it is real; the operations on it.

    The plain operations are differentiable. The fast ones give the same numbers without autograd and are made for a CPU:
    they write where they can, and use batch norm's kernels, which read a map row by row without a temporary.
    """

    segments: int
    dim: int
    support: Support | None
    dtype: torch.dtype

    def pool(self, x: Tensor) -> Tensor:
        """Mean over the real positions, ``(q, B, C)``."""
        if self.support is not None and not self.support.whole:
            return (
                sum_segments(blank(x, self.support.keep).to(self.dtype), self.segments, self.dim) / self.support.count
            )
        sizes = sum_segments(torch.ones_like(x[:1, :1], dtype=self.dtype), self.segments, self.dim)
        pooled = sum_segments(x.to(self.dtype), self.segments, self.dim) / sizes
        return pooled if self.support is None else blank(pooled, self.support.alive)

    def scale(self, x: Tensor, gate: Tensor) -> Tensor:
        """One gate a channel and segment, ``(q, B, C)``, times the map; zeros where nothing is real."""
        gate = gate.to(x.dtype).permute(1, 2, 0)  # (B, C, q)
        if self.segments > 1:
            gate = gate.index_select(2, segment_of_steps(x.shape[self.dim], self.segments, x.device))
        gate = gate[(...,) + (None,) * (x.dim() - 3)].movedim(2, self.dim) if x.dim() > 2 else gate[..., 0]
        y = x * gate
        return y if self.support is None else blank(y, self.support.keep)

    def pool_fast(self, x: Tensor) -> Tensor:
        """:meth:`pool` without autograd."""
        if self.support is None:
            return self._reduce(x, mean=True)
        if self.support.whole:
            return blank(self._reduce(x, mean=True), self.support.alive)
        real = blank_(x.clone(), keep_bits(self.support.keep, x.dtype))
        return self._reduce(real, mean=False) / self.support.count

    def scale_fast(self, x: Tensor, gate: Tensor) -> Tensor:
        """:meth:`scale` without autograd."""
        y = torch.empty_like(x)
        views = segment_views(x, self.segments, self.dim)
        outs = segment_views(y, self.segments, self.dim)
        for view, part, out in zip(views, self._gates(gate.to(x.dtype), views), outs, strict=True):
            torch.mul(view, part, out=out)
        return self._blank_(y)

    def gate_grad(self, gy: Tensor, x: Tensor) -> Tensor:
        """Sum over the real positions of ``gy * x``, ``(q, B, C)``: the gradient of the gate."""
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            product = gy * x if self.support is None else blank(gy * x, self.support.keep)
            product = self._reduce(product, mean=False)
        elif self._rows(x, gy) and self._masks_nothing():
            rows, zeros, ones = self._row_constants(x)
            product = torch.ops.aten.native_batch_norm_backward(
                gy.reshape(rows), x.reshape(rows), None, zeros, ones, None, None, False, 0.0, [False, True, False]
            )[1]
            product = product.view(x.shape[0], x.shape[1], self.segments).permute(2, 0, 1)
        else:
            product = gy * x
            if not self._masks_nothing():
                self._blank_(product)
            product = self._reduce(product, mean=False)
        return product if self.support is None else blank(product, self.support.alive)

    def input_grad(self, gy: Tensor, gate: Tensor, pooled_grad: Tensor) -> Tensor:
        """``gy * gate + pooled_grad / R`` where the map is real: the gradient of the map."""
        gate, shift = gate.to(gy.dtype), self._spread(pooled_grad, gy).to(gy.dtype)
        views = segment_views(gy, self.segments, self.dim)
        if torch.is_grad_enabled():
            parts = zip(views, self._gates(gate, views), self._gates(shift, views), strict=True)
            gx = join_segments([view * g + s for view, g, s in parts], self.segments, self.dim)
            return gx if self.support is None else blank(gx, self.support.keep)
        if self._rows(gy, gy):
            rows, zeros, ones = self._row_constants(gy)
            weight, bias = (t.permute(1, 2, 0).reshape(-1) for t in (gate, shift))
            gx = F.batch_norm(gy.reshape(rows), zeros, ones, weight, bias, False, 0.0, 0.0).view(gy.shape)
            return self._blank_(gx)
        gx = torch.empty_like(gy)
        outs = segment_views(gx, self.segments, self.dim)
        for view, g, s, out in zip(views, self._gates(gate, views), self._gates(shift, views), outs, strict=True):
            torch.mul(view, g, out=out).add_(s)
        return self._blank_(gx)

    def _spread(self, pooled_grad: Tensor, like: Tensor) -> Tensor:
        """The gradient of each position of a mean, ``(q, B, C)``."""
        if self.support is not None and not self.support.whole:
            return pooled_grad / self.support.count
        if self.support is not None:
            pooled_grad = blank(pooled_grad, self.support.alive)
        sizes = [(view.shape[2], view[0, 0, 0].numel()) for view in segment_views(like, self.segments, self.dim)]
        if len(sizes) == 1:
            return pooled_grad / sizes[0][1]
        parts = pooled_grad.split([k for k, _ in sizes])
        return torch.cat([part / size for part, (_, size) in zip(parts, sizes, strict=True)])

    def _reduce(self, x: Tensor, *, mean: bool) -> Tensor:
        """Mean or sum over the positions of each segment, ``(q, B, C)``."""
        parts = []
        for view in segment_views(x, self.segments, self.dim):
            turned = view.permute(2, *range(3, view.dim()), 0, 1)  # (k, *positions, B, C): reads LSTM outputs in order
            dims = tuple(range(1, view.dim() - 2))
            if not dims:
                parts.append(turned.to(self.dtype))
            else:
                parts.append((turned.mean if mean else turned.sum)(dims, dtype=self.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _gates(self, gate: Tensor, views: Sequence[Tensor]) -> list[Tensor]:
        """Gates ``(q, B, C)`` as ``(B, C, segments in the run, 1, …)``, one a run."""
        parts = gate.permute(1, 2, 0).split([view.shape[2] for view in views], dim=2)
        return [part[(...,) + (None,) * (view.dim() - 3)] for part, view in zip(parts, views, strict=True)]

    def _rows(self, x: Tensor, gy: Tensor) -> bool:
        """Whether each segment of a channel is one run of memory, in a type that batch norm's kernels read exactly."""
        even = self.segments == 1 or (self.dim == 2 and x.shape[2] % self.segments == 0)
        return (
            even
            and x.dim() > 2
            and x.dtype in (torch.float32, torch.float64)
            and x.is_contiguous()
            and gy.is_contiguous()
        )

    def _row_constants(self, x: Tensor) -> tuple[tuple[int, int, int], Tensor, Tensor]:
        rows = x.shape[0] * x.shape[1] * self.segments
        return (1, rows, x.numel() // max(rows, 1)), x.new_zeros(rows), x.new_ones(rows)

    def _masks_nothing(self) -> bool:
        """True when no single position is masked; whole samples may still be absent."""
        return self.support is None or self.support.whole

    def _blank_(self, x: Tensor) -> Tensor:
        return x if self.support is None else blank_(x, keep_bits(self.support.keep, x.dtype))


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
        pooled = [m.pool_fast(x) for m, x in zip(maps, features, strict=True)]
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
        return tuple(m.scale_fast(x, g) for m, x, g in zip(maps, features, gates, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n = len(ctx.maps)
        gates, features = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        gate_grads = [m.gate_grad(gy, x) for m, gy, x in zip(ctx.maps, grads, features, strict=True)]
        return None, *gate_grads, *grads, *gates, *[None] * n
