"""The sketch that compact bilinear pooling and MCBP are made of."""

# B batch, M modalities, n_m width of modality m, d bins

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.ops.precision import full_precision
from torchmsaf.ops.sketch import count_sketch, draw_hashes, multiply_sketches, normalize_sketch


class OuterSketch(nn.Module):
    """The normalized sketch of the outer product of all modalities. It has no parameters.

    The hashes are drawn at construction, anew for each modality, and stay: they are buffers, saved with the state.

    Args:
        widths: n_m of each modality.
        size: d.
    """

    bins: Tensor
    signs: Tensor

    def __init__(self, widths: Sequence[int], size: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.size = size
        drawn = [draw_hashes(width, size) for width in widths]
        self.register_buffer("bins", torch.cat([bins for bins, _ in drawn]))
        self.register_buffer("signs", torch.cat([signs for _, signs in drawn]))

    def forward(self, vectors: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """Vectors ``(B, n_m)`` to ``(B, d)`` in their type; computed in float32, or in float64 for float64 vectors."""
        dtype = torch.float64 if vectors[0].dtype == torch.float64 else torch.float32
        hashes = zip(self.bins.split(self.widths), self.signs.split(self.widths), strict=True)
        with full_precision(vectors[0]):
            sketches = [count_sketch(x.to(dtype), *drawn, self.size) for x, drawn in zip(vectors, hashes, strict=True)]
            return normalize_sketch(multiply_sketches(sketches, present)).to(vectors[0].dtype)
