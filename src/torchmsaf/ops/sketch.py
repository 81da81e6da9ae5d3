"""The count sketch of an outer product, without the outer product.

Pham and Pagh, "Fast and Scalable Polynomial Kernels via Explicit Feature Maps", KDD 2013 (the tensor sketch); the count
sketch is of Charikar, Chen and Farach-Colton, "Finding Frequent Items in Data Streams", ICALP 2002.
"""

# B batch, M modalities, n_m width of modality m, d bins

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROOT_EPSILON = 1e-8
SMALLEST_LENGTH = 1e-12


def draw_hashes(width: int, size: int) -> tuple[Tensor, Tensor]:
    """A bin in 0 ... size - 1 and a sign for each of ``width`` entries, uniform, from torch's global generator."""
    return torch.randint(size, (width,)), 2 * torch.randint(2, (width,), dtype=torch.int8) - 1


def count_sketch(x: Tensor, bins: Tensor, signs: Tensor, size: int) -> Tensor:
    """Add each entry, with its sign, to its bin: ``psi(x)_j = sum over i with h_i = j of s_i x_i``.

    On CUDA the sums of a bin are in any order, so the last bits may differ from run to run, unless
    ``torch.use_deterministic_algorithms(True)`` is set.

    Args:
        x: ``(B, n)``.
        bins: ``(n,)`` integers, h.
        signs: ``(n,)`` of -1 and 1, s.
        size: d.
    """
    return x.new_zeros(x.shape[0], size).index_add(1, bins, x * signs.to(x.dtype))


def multiply_sketches(sketches: Sequence[Tensor], present: Tensor | None) -> Tensor:
    """Circular convolution of sketches ``(B, d)``, by their Fourier transforms: the sketch of the outer product.

    ``z = irfft(rfft(psi_1) * ... * rfft(psi_M))``: an entry of the outer product is in the bin (h_1 + ... + h_M) mod d,
    with the sign s_1 * ... * s_M. An absent modality is left out: its factor is 1. Of none, z is 1 in bin 0, the sketch of
    the empty product.

    Args:
        sketches: one a modality, in float32 or float64.
        present: ``(B, M)`` booleans, or None = all.
    """
    spectrum = None
    for m, sketch in enumerate(sketches):
        factor = torch.fft.rfft(sketch)
        if present is not None:
            factor = torch.where(present[:, m, None], factor, torch.ones_like(factor))
        spectrum = factor if spectrum is None else spectrum * factor
    assert spectrum is not None
    z: Tensor = torch.fft.irfft(spectrum, n=sketches[0].shape[1])
    return z


def normalize_sketch(z: Tensor) -> Tensor:
    """Signed square root, then L2 norm per sample: ``y = sign(z) |z| / sqrt(|z| + eps)``, ``y / ||y||``.

    For |z| far above eps = 1e-8, y is ``sign(z) sqrt(|z|)``. Near zero it is linear: the transforms leave rounding errors of
    any sign in empty bins, and a root with a jump or an infinite slope there would make much of them. All zeros stay zeros,
    with gradient zero, as they have no direction.
    """
    y = z * torch.rsqrt(z.abs() + ROOT_EPSILON)
    length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
    return torch.where(length > SMALLEST_LENGTH, y / length.clamp(min=SMALLEST_LENGTH), torch.zeros_like(y))
