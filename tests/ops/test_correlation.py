"""Protects the total canonical correlation: inverse roots, singular values and not entries, gradients that stay finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.correlation import canonical_correlation, least_samples


def views(n: int = 40, a: int = 5, b: int = 3) -> tuple[Tensor, Tensor]:
    common = torch.randn(n, 2, dtype=torch.float64)
    return tuple(common @ torch.randn(2, w, dtype=torch.float64) + torch.randn(n, w).double() for w in (a, b))  # type: ignore[return-value]


def by_eigendecomposition(first: Tensor, second: Tensor, r: float) -> np.ndarray:
    """The singular values, with inverse roots by eigendecomposition, in NumPy."""
    one, two = (view.numpy() - view.numpy().mean(0) for view in (first, second))

    def inverse_root(view: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(view.T @ view / (len(view) - 1) + r * np.eye(view.shape[1]))
        return (vectors / np.sqrt(values)) @ vectors.T

    t = inverse_root(one) @ (one.T @ two / (len(one) - 1)) @ inverse_root(two)
    return np.linalg.svd(t, compute_uv=False)


@pytest.mark.parametrize("widths", [(5, 3), (3, 5), (4, 4), (1, 1)])
@pytest.mark.parametrize("r", [1e-4, 1e-3, 0.5])
def test_it_is_the_sum_of_singular_values_with_inverse_roots_by_eigendecomposition(
    widths: tuple[int, int], r: float
) -> None:
    first, second = views(40, *widths)
    expected = by_eigendecomposition(first, second, r)
    assert float(canonical_correlation(first, second, regularization=r)) == pytest.approx(expected.sum(), rel=1e-9)
    largest = canonical_correlation(first, second, regularization=r, count=1)
    assert float(largest) == pytest.approx(expected[0], rel=1e-9)


def test_it_is_not_the_trace_of_the_entries_roots() -> None:
    """What public code computes, with S11 and S22 unit matrices: T is S12 alone then."""
    t = torch.tensor([[0.5, 0.4], [0.4, 0.5]], dtype=torch.float64)
    roots = float((t.T @ t).sqrt().trace())
    assert roots == pytest.approx(2 * 0.41**0.5)
    assert float(torch.linalg.svdvals(t).sum()) == pytest.approx(1.0)
    # two views with this T: white ones, of which the second repeats the first as far as T says
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 5)))[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0] * 7  # centred columns with variance one
    first = torch.from_numpy(basis[:, :2])
    rest = torch.linalg.cholesky(torch.eye(2, dtype=torch.float64) - t.T @ t)
    second = first @ t + torch.from_numpy(basis[:, 2:4]) @ rest.T
    found = float(canonical_correlation(first, second, regularization=1e-9))
    assert found == pytest.approx(1.0, abs=1e-6)
    assert abs(found - roots) > 0.2


def test_a_view_with_itself_correlates_fully_and_independent_ones_hardly() -> None:
    first = torch.randn(5000, 4, dtype=torch.float64)
    mixed = first @ torch.randn(4, 4, dtype=torch.float64) + 7
    assert float(canonical_correlation(first, mixed, regularization=1e-8)) == pytest.approx(4, abs=1e-5)
    assert float(canonical_correlation(first, torch.randn(5000, 4).double())) < 0.3


def test_gradients_are_those_of_the_formula() -> None:
    first, second = (view.requires_grad_() for view in views(12, 3, 2))
    assert torch.autograd.gradcheck(canonical_correlation, (first, second))


def test_gradients_are_finite_with_fewer_samples_than_widths() -> None:
    first, second = torch.randn(4, 9, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    (-canonical_correlation(first, second)).backward()
    assert all(view.grad is not None and view.grad.isfinite().all() for view in (first, second))


def test_half_precision_is_computed_in_float32() -> None:
    first, second = (view.bfloat16() for view in views())
    assert canonical_correlation(first, second).dtype == torch.float32


def test_autocast_does_not_reach_it() -> None:
    first, second = (view.float() for view in views())
    expected = canonical_correlation(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(canonical_correlation(first, second), expected)


def test_wrong_views_and_numbers() -> None:
    first, second = views()
    with pytest.raises(
        FusionInputError, match=r"expected two views .* of 2 samples or more, got \(\(1, 5\), \(1, 3\)\)"
    ):
        canonical_correlation(first[:1], second[:1])
    with pytest.raises(FusionInputError, match="expected two views"):
        canonical_correlation(first, second[:-1])
    with pytest.raises(FusionInputError, match="regularization is greater than 0"):
        canonical_correlation(first, second, regularization=0)
    with pytest.raises(FusionInputError, match="regularization is a finite number"):
        canonical_correlation(first, second, regularization="x")  # type: ignore[arg-type]
    with pytest.raises(FusionInputError, match="count: expected an integer"):
        canonical_correlation(first, second, count=0)


def gradients(first: Tensor, second: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    leaves = first.clone().requires_grad_(), second.clone().requires_grad_()
    canonical_correlation(*leaves, **options).backward()  # type: ignore[arg-type]
    return leaves[0].grad, leaves[1].grad  # type: ignore[return-value]


def by_differences(first: Tensor, second: Tensor, r: float, k: int | None = None) -> np.ndarray:
    """The gradient for the first view by central differences of the formula with eigendecompositions."""
    found = np.zeros(tuple(first.shape))
    for index in np.ndindex(*first.shape):
        values = []
        for sign in (1, -1):
            moved = first.clone()
            moved[index] += sign * 1e-6
            values.append(by_eigendecomposition(moved, second, r)[:k].sum())
        found[index] = (values[0] - values[1]) / 2e-6
    return found


@pytest.mark.parametrize("k", [None, 1, 2])
@pytest.mark.parametrize("shape", [(20, 3, 4), (6, 4, 5), (9, 1, 3)])
def test_gradients_agree_with_differences_of_the_other_formula(shape: tuple[int, int, int], k: int | None) -> None:
    n, a, b = shape
    first, second = views(n, a, b)
    expected = by_differences(first, second, 1e-2, k)
    found = gradients(first, second, regularization=1e-2, count=k)[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def white(n: int, width: int) -> Tensor:
    """Centred columns that are orthogonal, with variance one."""
    x = np.random.default_rng(0).normal(size=(n, width))
    return torch.from_numpy(np.linalg.qr(x - x.mean(0))[0] * np.sqrt(n - 1))


def test_gradients_are_finite_where_all_correlations_are_the_same_or_zero() -> None:
    basis = white(40, 6)
    same = gradients(basis[:, :3], basis[:, :3])  # three equal ones
    none = gradients(basis[:, :3], basis[:, 3:])  # three of zero
    assert all(g.isfinite().all() for g in (*same, *none))
    assert max(float(g.abs().max()) for g in same) < 1e-3  # at the largest value that there is


def test_gradients_are_finite_with_constant_and_repeated_columns() -> None:
    first, second = views(30, 5, 4)
    first[:, 1] = 7.0
    first[:, 3] = first[:, 2]
    second[:, 0] = 0.0
    expected = by_eigendecomposition(first, second, 1e-3).sum()
    assert float(canonical_correlation(first, second)) == pytest.approx(expected, rel=1e-8)
    assert all(g.isfinite().all() for g in gradients(first, second))
    flat = torch.ones(8, 3, dtype=torch.float64)
    assert float(canonical_correlation(flat, flat)) == 0
    assert all(g.isfinite().all() for g in gradients(flat, flat))


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e6])
def test_views_of_any_scale_keep_their_digits(scale: float) -> None:
    """A covariance of 1e12 beside a regularization of 1e-3 would have 4 digits, if it were formed."""
    first, second = views(30, 4, 3)
    first[:, 3] = first[:, 0]  # without the regularization the covariance could not be inverted
    scaled = float(canonical_correlation(first * scale, second, regularization=1e-3))
    whole = [view - view.mean(0) for view in (first * scale, second)]
    kept = [np.linalg.svd(view.numpy(), full_matrices=False) for view in whole]
    damped = [u * (s / np.sqrt(s**2 + 29 * 1e-3)) for u, s, _ in kept]  # U s (s^2 + (N - 1) r)^(-1/2)
    assert scaled == pytest.approx(np.linalg.svd(damped[0].T @ damped[1], compute_uv=False).sum(), rel=1e-9)


def test_float32_views_are_worked_on_in_float64() -> None:
    first, second = (view.float() for view in views(30, 6, 5))
    exact = canonical_correlation(first.double(), second.double())
    found = canonical_correlation(first, second)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact.float())
    for single, double in zip(gradients(first, second), gradients(first.double(), second.double()), strict=True):
        assert single.dtype == torch.float32
        assert torch.equal(single, double.float())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_view_that_is_not_finite_has_no_correlation(wrong: float) -> None:
    first, second = views()
    first[2, 1] = wrong
    assert canonical_correlation(first.requires_grad_(), second).isnan()


@pytest.mark.parametrize("widths", [(4, 3), (2, 6), (1, 1)])
def test_below_the_least_number_of_samples_views_correlate_whatever_they_are(widths: tuple[int, int]) -> None:
    a, b = widths
    least = least_samples(a, b)
    assert least == a + b + 1
    for n in range(2, least + 2):
        first, second = torch.randn(n, a, dtype=torch.float64), torch.randn(n, b, dtype=torch.float64)
        values = by_eigendecomposition(first, second, 1e-10)
        trivial = min(a, n - 1) + min(b, n - 1) - (n - 1)
        assert (values > 1 - 1e-6).sum() == max(0, trivial)
        found = canonical_correlation(first, second, regularization=1e-10)
        assert float(found) == pytest.approx(values.sum(), rel=1e-4)
