"""Protects MCBP: the formula, its layers and sizes, absent modalities and wrong options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.mcbp import MCBP


def sketch_by_loops(fusion: MCBP, vectors: list[torch.Tensor]) -> torch.Tensor:
    """The normalized sketch of two vectors, entry by entry."""
    widths, size = [x.shape[1] for x in vectors], fusion.sketch.size
    bins, signs = fusion.sketch.bins.split(widths), fusion.sketch.signs.split(widths)
    z = torch.zeros(len(vectors[0]), size, dtype=vectors[0].dtype)
    for i in range(widths[0]):
        for j in range(widths[1]):
            z[:, (bins[0][i] + bins[1][j]) % size] += signs[0][i] * signs[1][j] * vectors[0][:, i] * vectors[1][:, j]
    y = z.sign() * z.abs().sqrt()
    return y / y.norm(dim=1, keepdim=True)


def test_mcbp_is_its_formula_with_projections_and_hidden_layers() -> None:
    fusion = MCBP((5, 3), 4, sketch_size=6, project=7, hidden=(9,)).double().eval()
    vectors = [torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)]
    assert fusion.projections is not None
    parts = [layer(x) for layer, x in zip(fusion.projections, vectors, strict=True)]
    first, last = (layer for layer in fusion.layers if isinstance(layer, nn.Linear))
    expected = last(F.relu(first(sketch_by_loops(fusion, parts))))
    torch.testing.assert_close(fusion(vectors), expected, rtol=1e-5, atol=1e-6)


def test_mcbp_drops_bins_after_the_norm() -> None:
    fusion = MCBP((5, 3), 4, sketch_size=6, dropout=0.5).double()
    vectors = [torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)]
    torch.manual_seed(1)
    found = fusion(vectors)
    torch.manual_seed(1)
    expected = fusion.layers[-1](F.dropout(sketch_by_loops(fusion, vectors), 0.5))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert MCBP((5, 3), 4).layers[0].p == 0.1


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 128_008),
        ({"hidden": (3000,)}, 16000 * 3000 + 3000 + 3000 * 8 + 8),
        ({"project": 512, "sketch_size": 8000}, (2048 + 1) * 512 + (1664 + 1) * 512 + 8000 * 8 + 8),
    ],
    ids=["default", "hidden", "projected"],
)
def test_mcbp_has_parameters_in_its_linear_layers_alone(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        fusion = MCBP((2048, 1664), 8, **options)
    assert sum(p.numel() for p in fusion.parameters()) == count


@pytest.mark.parametrize("project", [None, 6])
def test_mcbp_without_a_modality_is_that_of_the_others(project: int | None) -> None:
    fusion = MCBP((5, 3), 2, sketch_size=32, project=project).eval()
    vectors = [torch.randn(2, 5), torch.randn(2, 3)]
    found = fusion(vectors, present=torch.tensor([[False, True], [False, False]]))
    less = MCBP((3,), 2, sketch_size=32, project=project).eval()
    less.layers.load_state_dict(fusion.layers.state_dict())
    less.sketch.bins.copy_(fusion.sketch.bins[project or 5 :])
    less.sketch.signs.copy_(fusion.sketch.signs[project or 5 :])
    if less.projections is not None and fusion.projections is not None:
        less.projections[0].load_state_dict(fusion.projections[1].state_dict())
    torch.testing.assert_close(found[:1], less(vectors[1:])[:1])
    head = fusion.layers[-1]
    torch.testing.assert_close(found[1], head.weight[:, 0] + head.bias)


@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
def test_mcbp_with_projections_does_not_see_what_an_absent_modality_holds(junk: float) -> None:
    fusion = MCBP((5, 3), 2, sketch_size=32, project=6, hidden=(4,)).eval()
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
        ({"sketch_size": 0}, "sketch_size: expected an integer of at least 1, got 0; the authors have 16000"),
        ({"project": 0}, "project: expected an integer of at least 1, got 0; None is no projection"),
        ({"project": (4, 4)}, r"project: expected an integer of at least 1, got \(4, 4\)"),
        ({"hidden": 3000}, r"hidden is a list of positive widths, such as \[3000\], got 3000"),
        ({"hidden": (0,)}, r"hidden is a list of positive widths, such as \[3000\], got \(0,\)"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0; use 0 for no dropout"),
    ],
)
def test_mcbp_says_what_is_wrong_with_an_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        MCBP((5, 3), 2, **options)
