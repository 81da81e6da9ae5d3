"""Protects dense multimodal fusion: its formula by loops, its parameters, and its silence about absent modalities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.dense import DenseFusion

WIDTHS = (3, 4, 2)
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])


def joint(fusion: DenseFusion, vectors: list[Tensor], here: list[int], depth: int) -> Tensor:
    """The last h_s of one sample, with one product for every matrix of the formula."""
    h = {m: vectors[m] for m in here}
    last: Tensor | None = None
    for level in range(depth):
        total = fusion.shared[level].bias.clone()
        blocks = fusion.shared[level].weight.split(6, dim=1)  # W_1, ..., W_M, and W_s but at the first
        assert len(blocks) == (3 if level == 0 else 4)
        for m in here:
            h[m] = (fusion.own[level][m].weight @ h[m]).clamp(min=0)
            total += blocks[m] @ h[m]
        if last is not None:
            total += blocks[3] @ last
        last = total.clamp(min=0)
    assert last is not None
    return last


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_dense_is_the_formula_by_loops_over_the_present_modalities(depth: int) -> None:
    fusion = DenseFusion(WIDTHS, 5, hidden=6, depth=depth).double()
    values = [torch.randn(4, width, dtype=torch.float64) for width in WIDTHS]
    for present in (None, PRESENT):
        found = fusion(values, present=present)
        for b in range(4):
            here = [m for m in range(3) if present is None or present[b, m]]
            last = joint(fusion, [x[b] for x in values], here, depth)
            torch.testing.assert_close(found[b], fusion.head(last))


def test_every_depth_has_a_path_of_its_own_to_the_prediction() -> None:
    fusion = DenseFusion(WIDTHS, 5, hidden=16)
    fusion([torch.randn(8, width) for width in WIDTHS]).sum().backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for row in fusion.own for layer in row)


def test_dense_has_the_parameters_of_its_formula() -> None:
    with torch.device("meta"):
        fusion = DenseFusion((2048, 1664), 8)
    own = (2048 + 1664) * 128 + 2 * 2 * 128 * 128
    shared = (2 + 3 + 3) * 128 * 128 + 3 * 128
    assert sum(p.numel() for p in fusion.parameters()) == own + shared + 128 * 8 + 8


@pytest.mark.parametrize("options", [{"hidden": 0}, {"depth": 0}, {"depth": 1.5}])
def test_wrong_options_are_errors_that_name_them(options: dict[str, Any]) -> None:
    with pytest.raises(FusionInputError, match=f"{next(iter(options))}: expected an integer of at least 1"):
        DenseFusion(WIDTHS, 5, **options)
