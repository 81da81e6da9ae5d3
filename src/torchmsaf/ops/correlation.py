"""The total canonical correlation of two views, the objective of deep CCA.

Andrew, Arora, Bilmes and Livescu, "Deep Canonical Correlation Analysis", ICML 2013.
"""

# N samples, D_1 and D_2 widths of the views

from __future__ import annotations

import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer, check_number
from torchmsaf.ops.precision import full_precision


def canonical_correlation(
    first: Tensor, second: Tensor, *, regularization: float = 1e-3, count: int | None = None
) -> Tensor:
    """Sum of the canonical correlations of two views: the sum of the singular values of ``S11^(-1/2) S12 S22^(-1/2)``.

    With centred views H, ``S12 = H1^T H2 / (N - 1)`` and ``Sii = Hi^T Hi / (N - 1) + regularization I``. Deep CCA maximizes
    it, so its loss is the negative. It needs many more samples than widths to mean something.

    ``Sii = L_i L_i^T`` stands for the square root: ``L1^(-1) S12 L2^(-T)`` has the same singular values, and its gradient
    is finite where eigenvalues repeat, which those of Sii do as soon as samples are fewer than widths. Public code that
    takes the square root of each entry of ``T^T T`` in place of its singular values computes something else.

    Args:
        first: ``(N, D_1)``, N at least 2.
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
    if not check_number("regularization", regularization) > 0:
        raise FusionInputError(f"regularization is greater than 0, got {regularization!r}")
    if count is not None:
        check_integer("count", count, advice="None is all of them")
    kind = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    free = len(first) - 1
    with full_precision(first):
        one, two = (view.to(kind) - view.to(kind).mean(0) for view in (first, second))
        lower1, lower2 = (
            torch.linalg.cholesky(view.T @ view / free + regularization * _unit(view)) for view in (one, two)
        )
        left = torch.linalg.solve_triangular(lower1, one.T @ two / free, upper=False)  # L1^(-1) S12
        whitened = torch.linalg.solve_triangular(lower2, left.T, upper=False)  # its transpose, after L2^(-1)
        correlations: Tensor = torch.linalg.svdvals(whitened)  # largest first
    return correlations[:count].sum()


def _unit(view: Tensor) -> Tensor:
    return torch.eye(view.shape[1], dtype=view.dtype, device=view.device)
