"""Protects LMF: the full tensor that it stands for, its size and start, absent modalities and wrong options."""

from __future__ import annotations

import math

import pytest
import torch

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.lmf import LMF


def with_one(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.ones_like(x[:, :1]), x], dim=1)


@pytest.mark.parametrize("out_features", [1, 5])
def test_lmf_is_the_full_tensor_of_its_factors_on_the_outer_product(out_features: int) -> None:
    fusion = LMF((5, 3, 4), out_features, rank=3).double()
    vectors = [torch.randn(6, n, dtype=torch.float64) for n in (5, 3, 4)]
    tensor = torch.einsum("r,rak,rvk,rtk->avtk", fusion.weights[0], *fusion.factors)
    assert tensor.shape == (6, 4, 5, out_features)
    outer = torch.einsum("ba,bv,bt->bavt", *map(with_one, vectors))
    torch.testing.assert_close(fusion(vectors), torch.einsum("bavt,avtk->bk", outer, tensor) + fusion.bias)


def test_lmf_is_its_formula_by_loops() -> None:
    fusion = LMF((3, 2), 4, rank=2).double()
    a, b = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    found = fusion([a, b])
    for i in range(2):
        for k in range(4):
            y = fusion.bias[0, k]
            for r in range(2):
                term = fusion.weights[0, r]
                for x, factor in zip((a, b), fusion.factors, strict=True):
                    term = term * (factor[r, 0, k] + sum(x[i, d] * factor[r, d + 1, k] for d in range(x.shape[1])))
                y = y + term
            torch.testing.assert_close(found[i, k], y)


def test_lmf_has_rank_times_width_plus_one_times_outputs() -> None:
    with torch.device("meta"):
        fusion = LMF((2048, 1664), 8)
    assert sum(p.numel() for p in fusion.parameters()) == 4 * (2049 + 1665) * 8 + 4 + 8


def test_lmf_starts_as_the_authors_code() -> None:
    fusion = LMF((300, 200), 6)
    assert not fusion.bias.any()
    for factor in fusion.factors:
        _, width, out = factor.shape
        assert factor.std().item() == pytest.approx(math.sqrt(2 / (width * out + 4 * out)), rel=0.05)
    assert fusion.weights.abs().max().item() < 5 * math.sqrt(2 / 5)


def test_lmf_without_a_modality_keeps_the_products_without_it() -> None:
    fusion = LMF((5, 3), 2)
    a, b = torch.randn(3, 5), torch.full((3, 3), math.nan)
    found = fusion([a, b], present=torch.tensor([[True, False], [True, False], [False, False]]))
    assert torch.equal(found[:2], fusion([a, torch.zeros(3, 3)])[:2])
    alone = (fusion.weights[0, :, None] * fusion.factors[0][:, 0] * fusion.factors[1][:, 0]).sum(0)
    torch.testing.assert_close(found[2], alone + fusion.bias[0])


def test_lmf_takes_a_batch_of_one() -> None:
    fusion, vectors = LMF((5, 3), 1), [torch.randn(4, 5), torch.randn(4, 3)]
    torch.testing.assert_close(fusion([x[:1] for x in vectors]), fusion(vectors)[:1])


@pytest.mark.parametrize("rank", [0, -1, 2.5, True])
def test_lmf_says_what_rank_must_be(rank: object) -> None:
    with pytest.raises(FusionInputError, match=r"rank: expected an integer of at least 1, got .*; the authors search"):
        LMF((5, 3), 2, rank=rank)  # type: ignore[arg-type]
