"""Protects cross-attention between modalities: its formula with explicit softmax matrices, absence and options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.cross_attention import CrossAttention

WIDTHS = (3, 4, 2)
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])


def make() -> tuple[CrossAttention, list[Tensor]]:
    fusion = CrossAttention(WIDTHS, 5, hidden=8, tokens=3).double().eval()
    return fusion, [torch.randn(4, width, dtype=torch.float64) for width in WIDTHS]


def normalize(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def attend(layer: nn.MultiheadAttention, queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Of one sample: a softmax matrix for each head."""
    pieces = zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), (queries, keys, keys), strict=True)
    q, k, v = (x @ weight.T + bias for weight, bias, x in pieces)
    size = q.shape[1] // heads
    seen = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        matrix = (q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(1)
        seen.append(matrix @ v[:, part])
    return torch.cat(seen, 1) @ layer.out_proj.weight.T + layer.out_proj.bias


def predict(fusion: CrossAttention, vectors: list[Tensor], here: list[int]) -> Tensor:
    """Of one sample, with the absent modalities left out."""
    tokens = {}
    for m in here:
        projected = fusion.projections[m].weight @ vectors[m] + fusion.projections[m].bias
        tokens[m] = torch.stack([projected[8 * t : 8 * t + 8] for t in range(3)])
    means = []
    for m, block in enumerate(fusion.blocks):
        if m not in here:
            means.append(torch.zeros(8, dtype=torch.float64))
            continue
        u = tokens[m]
        others = [tokens[n] for n in here if n != m]
        if others:
            keys = normalize(torch.cat(others), block.norm)
            u = u + attend(block.attention, normalize(u, block.norm), keys, 2)
        norm, first, last = block.feed[0], block.feed[1], block.feed[4]
        fed = (normalize(u, norm) @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
        means.append((u + fed).mean(0))
    return fusion.head(normalize(torch.cat(means), fusion.norm))


def test_cross_attention_is_the_formula_over_the_present_modalities_alone() -> None:
    fusion, values = make()
    for present in (None, PRESENT):
        found = fusion(values, present=present)
        for b in range(4):
            here = [m for m in range(3) if present is None or present[b, m]]
            torch.testing.assert_close(found[b], predict(fusion, [x[b] for x in values], here))


def test_results_do_not_depend_on_whether_gradients_are_recorded() -> None:
    fusion, values = make()
    for present in (None, PRESENT):
        with torch.no_grad():
            found = fusion(values, present=present)
        torch.testing.assert_close(found, fusion(values, present=present))


def test_attention_learns_nothing_from_a_sample_without_others() -> None:
    fusion, values = make()
    fusion(values, present=torch.tensor([[True, False, False]]).expand(4, 3)).square().sum().backward()
    for block in fusion.blocks:
        assert all(p.grad is not None and not p.grad.any() for p in block.attention.parameters())
    assert fusion.projections[0].weight.grad.any()
    assert not fusion.projections[1].bias.grad.any()


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_finite_where_nothing_is_present(training: bool) -> None:
    fusion, values = make()
    fusion.train(training)
    fusion(values, present=torch.zeros(4, 3, dtype=torch.bool)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())


def test_cross_attention_has_the_parameters_of_its_formula() -> None:
    with torch.device("meta"):
        fusion = CrossAttention((2048, 1664), 8)
    projections = (2048 + 1) * 512 + (1664 + 1) * 512
    block = 4 * (128 + 1) * 128 + (128 + 1) * 512 + (512 + 1) * 128 + 2 * 2 * 128
    assert sum(p.numel() for p in fusion.parameters()) == projections + 2 * block + 2 * 256 + 256 * 8 + 8


def test_one_modality_has_no_others_to_attend_to() -> None:
    with pytest.raises(FusionInputError, match="2 or more modalities"):
        CrossAttention((3,), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "hidden=128 cannot be shared among heads=3"),
        ({"heads": 0}, "heads: expected an integer"),
        ({"hidden": 0}, "hidden: expected an integer"),
        ({"tokens": 0}, "tokens: expected an integer"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\)"),
    ],
)
def test_wrong_options_are_errors_that_name_them(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        CrossAttention(WIDTHS, 5, **options)
