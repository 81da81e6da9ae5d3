"""Protects the sketch of an outer product: against sums over all its entries, and its types, gradients and hashes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torchmsaf.ops.sketch import OuterSketch, count_sketch, draw_hashes, multiply_sketches, normalize_sketch


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


def test_hashes_are_buffers_and_differ_from_modality_to_modality() -> None:
    sketch = OuterSketch((50, 50), 64)
    assert set(sketch.state_dict()) == {"bins", "signs"}
    assert not list(sketch.parameters())
    assert sketch.signs.unique().tolist() == [-1, 1]
    assert sketch.bins.min() >= 0
    assert sketch.bins.max() < 64
    assert not sketch.bins[:50].equal(sketch.bins[50:])
    assert not sketch.signs[:50].equal(sketch.signs[50:])


def test_hashes_are_drawn_from_the_global_generator() -> None:
    torch.manual_seed(5)
    first, second = OuterSketch((9, 4), 16), OuterSketch((9, 4), 16)
    torch.manual_seed(5)
    again = OuterSketch((9, 4), 16)
    assert first.bins.equal(again.bins)
    assert first.signs.equal(again.signs)
    assert not first.bins.equal(second.bins)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_type_of_the_vectors_and_the_precision_of_float32(dtype: torch.dtype) -> None:
    sketch = OuterSketch((30, 20), 32)
    vectors = [torch.randn(4, n).to(dtype) for n in (30, 20)]
    found, exact = sketch(vectors, None), sketch([x.double() for x in vectors], None)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_autocast_leaves_it_in_full_precision() -> None:
    sketch, vectors = OuterSketch((30, 20), 32), [torch.randn(4, 30), torch.randn(4, 20)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sketch(vectors, None)
    assert torch.equal(found, sketch(vectors, None))


def test_it_can_be_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        sketch = OuterSketch((30, 20), 32)
    assert sketch.bins.is_meta
    assert sketch.bins.shape == sketch.signs.shape == (50,)
