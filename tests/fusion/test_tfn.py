"""Protects TFN: its tensor and layers, sizes, absent modalities and wrong options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.tfn import TFN


def parts(fusion: TFN, vectors: list[torch.Tensor]) -> list[torch.Tensor]:
    """[1; h_m] of each modality."""
    states = [F.relu(layer(x)) for layer, x in zip(fusion.projections, vectors, strict=True)]
    return [torch.cat([torch.ones_like(h[:, :1]), h], dim=1) for h in states]


def test_the_tensor_of_tfn_is_the_outer_product_with_ones_appended() -> None:
    fusion = TFN((5, 3, 4), 2, project=(2, 4, 3))
    vectors = [torch.randn(6, n) for n in (5, 3, 4)]
    expected = torch.einsum("bi,bj,bk->bijk", *parts(fusion, vectors)).flatten(1)
    torch.testing.assert_close(fusion.tensor(vectors, None), expected)


def test_tfn_is_its_formula() -> None:
    fusion = TFN((5, 3), 2, project=4, hidden=(7, 6)).eval()
    vectors = [torch.randn(6, 5), torch.randn(6, 3)]
    z = torch.einsum("bi,bj->bij", *parts(fusion, vectors)).flatten(1)
    first, second, last = (layer for layer in fusion.layers if isinstance(layer, nn.Linear))
    torch.testing.assert_close(fusion(vectors), last(F.relu(second(F.relu(first(z))))))


def test_tfn_drops_entries_of_the_tensor_alone() -> None:
    fusion = TFN((5, 3), 2)
    dropouts = [(i, layer.p) for i, layer in enumerate(fusion.layers) if isinstance(layer, nn.Dropout)]
    assert dropouts == [(0, 0.2)]


def test_tfn_has_the_tensor_and_the_head_of_the_authors_code() -> None:
    fusion = TFN((300, 74, 35), 1, project=(64, 32, 32))
    tensor = fusion.tensor([torch.randn(2, n) for n in (300, 74, 35)], None)
    assert tensor.shape == (2, 70_785)
    assert sum(p.numel() for p in fusion.layers.parameters()) == 11_351_681
    assert sum(p.numel() for p in fusion.projections.parameters()) == 301 * 64 + 75 * 32 + 36 * 32


@pytest.mark.parametrize(
    ("modalities", "width"), [(1, 32), (2, 32), (3, 32), (4, 16), (5, 8), (6, 4), (7, 4), (8, 2), (16, 1)]
)
def test_tfn_projects_to_less_where_there_are_more_modalities(modalities: int, width: int) -> None:
    with torch.device("meta"):
        fusion = TFN((9,) * modalities, 2)
    assert [layer.out_features for layer in fusion.projections] == [width] * modalities
    assert fusion.layers[1].in_features == (width + 1) ** modalities


def test_tfn_without_a_modality_keeps_the_products_without_it() -> None:
    fusion = TFN((5, 3, 4), 2, project=(2, 4, 3)).eval()
    for layer in fusion.projections:
        nn.init.ones_(layer.bias)  # a projection of zeros would not be zero
    vectors = [torch.randn(2, n) for n in (5, 3, 4)]
    a, _, c = parts(fusion, vectors)
    found = fusion.tensor(vectors, torch.tensor([[True, False, True], [False, False, False]])).view(2, 3, 5, 4)
    torch.testing.assert_close(found[0, :, 0], torch.outer(a[0], c[0]))
    assert not found[0, :, 1:].any()
    assert found[1, 0, 0, 0] == 1
    assert found[1].sum() == 1


@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
def test_tfn_does_not_see_what_an_absent_modality_holds(junk: float) -> None:
    fusion = TFN((5, 3), 2, project=4, hidden=(6,)).eval()
    present, results = torch.tensor([[True, True], [True, False]]), []
    a, b = torch.randn(2, 5), torch.randn(2, 3)
    for value in (0.0, junk):
        fusion.zero_grad()
        b[1] = value
        out = fusion([a, b], present=present)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in fusion.parameters())])
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"project": 0}, "project: expected an integer of at least 1, got 0; None chooses by the number"),
        ({"project": "32"}, "project: expected an integer of at least 1, got '32'"),
        ({"project": (4, 4)}, r"expected 3 widths, got \(4, 4\)"),
        ({"project": [4, 0, 4]}, "project of modality 1: expected an integer of at least 1, got 0"),
        ({"project": 256}, r"a tensor of 16,974,593 entries a sample, more than 4,000,000; choose smaller .* or LMF"),
        ({"hidden": 160}, r"hidden is a list of positive widths, such as \[160, 160\], got 160"),
        ({"hidden": [160, -1]}, r"hidden is a list of positive widths, such as \[160, 160\], got \[160, -1\]"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0; use 0 for no dropout"),
    ],
)
def test_tfn_says_what_is_wrong_with_an_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        TFN((5, 3, 4), 2, **options)


def test_tfn_of_too_many_modalities_is_an_error_and_not_a_tensor() -> None:
    with pytest.raises(FusionInputError, match="16,777,216 entries"):
        TFN((5,) * 24, 2)
