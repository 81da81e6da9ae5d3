"""How far a batch of vectors is from a normal distribution."""

# N vectors, D their width

from __future__ import annotations

import torch
from torch import Tensor

from torchmsaf.ops.precision import full_precision


def gaussian_discrepancy(z: Tensor) -> Tensor:
    """The squared maximum mean discrepancy between vectors ``(N, D)`` and as many draws of a standard normal distribution.

    ``E k(g, g') + E k(z, z') - 2 E k(g, z)`` with ``k(a, b) = exp(-|a - b|^2 / D^2)``, as the released code of MFM
    (github.com/pliang279/factorized) has it; each mean is over all pairs, a vector with itself among them. The draws are
    from torch's global generator. 0 without vectors.
    """
    if not len(z):
        return z.sum()
    return discrepancy(torch.randn_like(z), z)


def discrepancy(g: Tensor, z: Tensor) -> Tensor:
    """That of two batches of vectors, ``(N, D)`` each."""
    with full_precision(z):  # the kernel is close to one
        return _discrepancy(g.float() if g.dtype != torch.float64 else g, z.float() if z.dtype != torch.float64 else z)


def _discrepancy(g: Tensor, z: Tensor) -> Tensor:
    joint = torch.cat([g, z])
    squares = joint.square().sum(1)
    distances = (squares[:, None] + squares - 2 * joint @ joint.T).clamp(min=0)
    kernel = torch.exp(-distances / z.shape[1] ** 2)
    n = len(g)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
