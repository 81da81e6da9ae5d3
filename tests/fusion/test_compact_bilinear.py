"""Protects compact bilinear pooling: the formula, its size, absent modalities and wrong options."""

from __future__ import annotations

import pytest
import torch

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.compact_bilinear import CompactBilinear


def test_compact_bilinear_is_its_formula_on_the_written_out_outer_product() -> None:
    fusion = CompactBilinear((5, 3), 4, sketch_size=6).double()
    a, b = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    bins, signs = fusion.sketch.bins.split([5, 3]), fusion.sketch.signs.split([5, 3])
    outer = torch.einsum("bi,bj->bij", a, b)
    z = torch.zeros(2, 6, dtype=torch.float64)
    for i in range(5):
        for j in range(3):
            z[:, (bins[0][i] + bins[1][j]) % 6] += signs[0][i] * signs[1][j] * outer[:, i, j]
    y = z.sign() * z.abs().sqrt()
    expected = fusion.head(y / y.norm(dim=1, keepdim=True))
    torch.testing.assert_close(fusion([a, b]), expected, rtol=1e-5, atol=1e-6)


def test_compact_bilinear_has_8192_bins_and_no_parameters_but_the_classifier() -> None:
    with torch.device("meta"):
        fusion = CompactBilinear((2048, 1664), 8)
    assert sum(p.numel() for p in fusion.parameters()) == 8192 * 8 + 8


def test_compact_bilinear_without_a_modality_is_that_of_the_others() -> None:
    fusion = CompactBilinear((5, 3, 4), 2, sketch_size=32)
    vectors = [torch.randn(2, n) for n in (5, 3, 4)]
    present = torch.tensor([[True, False, True], [False, False, False]])
    found = fusion(vectors, present=present)
    less = CompactBilinear((5, 4), 2, sketch_size=32)
    less.head.load_state_dict(fusion.head.state_dict())
    for name in ("bins", "signs"):
        first, _, last = getattr(fusion.sketch, name).split([5, 3, 4])
        getattr(less.sketch, name).copy_(torch.cat([first, last]))
    torch.testing.assert_close(found[0], less([vectors[0], vectors[2]])[0])
    torch.testing.assert_close(found[1], fusion.head.weight[:, 0] + fusion.head.bias)


def test_compact_bilinear_does_not_depend_on_the_scale_of_a_modality() -> None:
    fusion, vectors = CompactBilinear((5, 3), 2, sketch_size=32), [torch.randn(2, 5), torch.randn(2, 3)]
    torch.testing.assert_close(fusion(vectors), fusion([vectors[0] * 100, vectors[1]]), rtol=1e-3, atol=1e-3)


def test_compact_bilinear_of_zero_vectors_and_a_batch_of_one_has_finite_gradients() -> None:
    fusion = CompactBilinear((5, 3), 2, sketch_size=32)
    vectors = [torch.zeros(1, 5, requires_grad=True), torch.randn(1, 3, requires_grad=True)]
    fusion(vectors).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (*vectors, *fusion.parameters()))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8192"])
def test_compact_bilinear_says_what_sketch_size_must_be(size: object) -> None:
    with pytest.raises(FusionInputError, match=r"sketch_size: expected an integer of at least 1, got .*; .*8192"):
        CompactBilinear((5, 3), 2, sketch_size=size)  # type: ignore[arg-type]
