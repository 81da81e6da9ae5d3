"""Protects the sketch of an outer product: against sums over all its entries, and its types, gradients and hashes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torchmsaf.ops.sketch import count_sketch, draw_hashes, multiply_sketches, normalize_sketch


def drawn(widths: tuple[int, ...], size: int) -> tuple[list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
    return [torch.randn(3, n, dtype=torch.float64) for n in widths], [draw_hashes(n, size) for n in widths]


def test_a_count_sketch_adds_each_entry_with_its_sign_to_its_bin() -> None:
    (x,), ((bins, signs),) = drawn((12,), 5)
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for b in range(3):
        for i in range(12):
            expected[b, bins[i]] += signs[i] * x[b, i]
    torch.testing.assert_close(count_sketch(x, bins, signs, 5), expected)


@pytest.mark.parametrize("size", [1, 7, 8])
@pytest.mark.parametrize("widths", [(6,), (6, 4), (3, 4, 5), (2, 3, 2, 2)], ids=len)
def test_the_product_is_the_count_sketch_of_the_outer_product(widths: tuple[int, ...], size: int) -> None:
    vectors, hashes = drawn(widths, size)
    expected = torch.zeros(3, size, dtype=torch.float64)
    for index in itertools.product(*map(range, widths)):
        place = sum(int(bins[i]) for (bins, _), i in zip(hashes, index, strict=True)) % size
        sign = math.prod(int(signs[i]) for (_, signs), i in zip(hashes, index, strict=True))
        expected[:, place] += sign * math.prod(x[:, i] for x, i in zip(vectors, index, strict=True))
    found = multiply_sketches([count_sketch(x, *h, size) for x, h in zip(vectors, hashes, strict=True)], None)
    torch.testing.assert_close(found, expected)


def test_an_absent_modality_is_left_out_of_the_product() -> None:
    vectors, hashes = drawn((6, 4, 5), 16)
    sketches = [count_sketch(x, *h, 16) for x, h in zip(vectors, hashes, strict=True)]
    present = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    found = multiply_sketches(sketches, present)
    torch.testing.assert_close(found[:1], multiply_sketches([sketches[0][:1], sketches[2][:1]], None))
    torch.testing.assert_close(found[1], sketches[1][1])
    torch.testing.assert_close(found[2], torch.eye(16, dtype=torch.float64)[0])


def test_inner_products_of_sketches_are_on_average_those_of_the_outer_products() -> None:
    x, y = (torch.randn(2, 10, dtype=torch.float64) for _ in range(2))
    exact = (x[0] @ x[1]) * (y[0] @ y[1])
    found = []
    for _ in range(500):
        a, b = multiply_sketches([count_sketch(v, *draw_hashes(10, 256), 256) for v in (x, y)], None)
        found.append(a @ b)
    values = torch.stack(found)
    assert (values.mean() - exact).abs() < 4 * values.std() / math.sqrt(500)


def test_normalized_is_the_signed_root_of_length_one() -> None:
    z = torch.randn(3, 20, dtype=torch.float64)
    root = z.sign() * z.abs().sqrt()
    torch.testing.assert_close(normalize_sketch(z), root / root.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_rounding_errors_in_empty_bins_stay_small() -> None:
    z = torch.tensor([[1.0, 1e-17, -1e-17, 0.0]], dtype=torch.float64)
    assert normalize_sketch(z)[0, 1:].abs().max() < 1e-12


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-4, 1.0, 1e8])
def test_gradients_are_finite_at_zero_and_at_every_scale(scale: float) -> None:
    z = (torch.randn(2, 20) * scale).requires_grad_()
    z.data[:, :3] = 0
    y = normalize_sketch(z)
    (y * torch.randn(2, 20)).sum().backward()
    assert z.grad is not None
    assert y.isfinite().all()
    assert z.grad.isfinite().all()
    assert scale > 0 or not (y.any() or z.grad.any())
