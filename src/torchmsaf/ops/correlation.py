"""The total canonical correlation of two views, the objective of deep CCA.

Andrew, Arora, Bilmes and Livescu, "Deep Canonical Correlation Analysis", ICML 2013.
"""

# N samples, D_1 and D_2 widths of the views

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer, check_number
from torchmsaf.ops.precision import full_precision

_WITHOUT_DOUBLES = ("mps",)  # devices that have no float64


def canonical_correlation(
    first: Tensor, second: Tensor, *, regularization: float = 1e-3, count: int | None = None
) -> Tensor:
    """Sum of the canonical correlations of two views: the sum of the singular values of ``S11^(-1/2) S12 S22^(-1/2)``.

    With centred views H, ``S12 = H1^T H2 / (N - 1)`` and ``Sii = Hi^T Hi / (N - 1) + regularization I``. Deep CCA maximizes
    it, so its loss is the negative. It needs many more samples than widths to mean something (:func:`least_samples`).

    ``Sii = R_i^T R_i`` stands for the square root: ``R1^(-T) S12 R2^(-1)`` has the same singular values, and its gradient
    is finite where eigenvalues repeat, which those of Sii do as soon as samples are fewer than widths. R_i is the triangle
    of a QR decomposition of Hi with the regularization below it, so Sii is never formed, which would square its condition.
    The gradient of a singular value needs no other: it is finite where they repeat and where they are zero. All is computed
    in float64, or in float32 on a device without it. Public code that takes the square root of each entry of ``T^T T`` in
    place of its singular values computes something else.

    Args:
        first: ``(N, D_1)``, N at least 2. Where a view is not finite, neither is the result.
        second: ``(N, D_2)``; D_2 may differ from D_1.
        regularization: r > 0; 1e-3 as in the PyTorch ports of the authors' code.
        count: so many of the largest; None = all.

    Returns:
        A number in [0, min(D_1, D_2)), in the type of the views, float32 at least.

    Raises:
        FusionInputError: views of other shapes, one sample, or a number out of range.
    """
    shapes = tuple(first.shape), tuple(second.shape)
    if first.dim() != 2 or second.dim() != 2 or len(first) != len(second) or len(first) < 2:
        raise FusionInputError(f"expected two views (N, D_1) and (N, D_2) of 2 samples or more, got {shapes}")
    check_options(regularization, count)
    kind = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    exact = torch.float32 if first.device.type in _WITHOUT_DOUBLES else torch.float64
    with full_precision(first):
        one, two = (_whitened(view.to(exact), regularization) for view in (first, second))
        shared = one.T @ two  # R1^(-T) S12 R2^(-1)
        if not bool(shared.isfinite().all()):  # a decomposition would raise; a loss that is no number is the trainer's
            return (shared.sum() * math.nan).to(kind)
        correlations: Tensor = torch.linalg.svdvals(shared)  # largest first
        return correlations[:count].sum().to(kind)


def check_options(regularization: float, count: int | None) -> None:
    """What :func:`canonical_correlation` takes beside the views.

    Raises:
        FusionInputError: a number out of range.
    """
    if not check_number("regularization", regularization) > 0:
        raise FusionInputError(f"regularization is greater than 0, got {regularization!r}")
    if count is not None:
        check_integer("count", count, advice="None is all of them")


def least_samples(first: int, second: int) -> int:
    """How many samples two views of these widths need at least, ``D_1 + D_2 + 1``, for their correlations to say something.

    Centred views of N samples lie in N - 1 dimensions. With fewer than ``D_1 + D_2`` of them the views meet whatever the
    data are, so ``D_1 + D_2 - (N - 1)`` correlations are 1 but for the regularization, and there is nothing to learn.
    """
    return first + second + 1


def _whitened(view: Tensor, regularization: float) -> Tensor:
    """``H R^(-1) / sqrt(N - 1)``, ``(N, D)``, where ``R^T R = H^T H / (N - 1) + regularization I``."""
    samples, width = view.shape
    centred = (view - view.mean(0)) / math.sqrt(samples - 1)
    below = math.sqrt(regularization) * torch.eye(width, dtype=view.dtype, device=view.device)
    orthogonal: Tensor = torch.linalg.qr(torch.cat([centred, below])).Q
    return orthogonal[:samples]
