"""Protects self-attention over modalities: its formula with explicit softmax matrices, absence, gradients and options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.self_attention import SelfAttention

WIDTHS = (3, 4, 2)
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])


def make(tokens: int = 2) -> tuple[SelfAttention, list[Tensor]]:
    fusion = SelfAttention(WIDTHS, 5, hidden=8, tokens=tokens, feed_forward=16).double().eval()
    return fusion, [torch.randn(4, width, dtype=torch.float64) for width in WIDTHS]


def normalize(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / ((centred**2).mean() + norm.eps).sqrt() * norm.weight + norm.bias


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


def predict(fusion: SelfAttention, vectors: list[Tensor], here: list[int], tokens: int) -> Tensor:
    """Of one sample, with the absent modalities left out of the sequence."""
    slots = torch.zeros(len(WIDTHS) * tokens, 8, dtype=torch.float64)
    places, rows = [], []
    for m in here:
        projected = fusion.projections[m].weight @ vectors[m] + fusion.projections[m].bias
        for t in range(tokens):
            places.append(m * tokens + t)
            rows.append(projected[8 * t : 8 * t + 8] + fusion.embeddings[m])
    if rows:
        s, layer = torch.stack(rows), fusion.layer
        u = torch.stack([normalize(x, layer.norm1) for x in s + attend(layer.self_attn, s, s, 2)])
        fed = (u @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0) @ layer.linear2.weight.T
        slots[places] = torch.stack([normalize(x, layer.norm2) for x in u + fed + layer.linear2.bias])
    return fusion.head(slots.flatten())


@pytest.mark.parametrize("tokens", [1, 2])
def test_self_attention_is_the_formula_over_the_present_modalities_alone(tokens: int) -> None:
    fusion, values = make(tokens)
    for present in (None, PRESENT):
        found = fusion(values, present=present)
        for b in range(4):
            here = [m for m in range(3) if present is None or present[b, m]]
            torch.testing.assert_close(found[b], predict(fusion, [x[b] for x in values], here, tokens))


def test_results_do_not_depend_on_whether_gradients_are_recorded() -> None:
    fusion, values = make()
    for present in (None, PRESENT):
        with torch.no_grad():
            found = fusion(values, present=present)
        torch.testing.assert_close(found, fusion(values, present=present))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_finite_where_nothing_is_present(training: bool) -> None:
    fusion, values = make()
    fusion.train(training)
    fusion(values, present=torch.zeros(4, 3, dtype=torch.bool)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())
    assert not any(p.grad.any() for name, p in fusion.named_parameters() if name != "head.bias" and p.grad is not None)


def test_self_attention_has_the_layer_of_misa_and_its_parameters() -> None:
    with torch.device("meta"):
        fusion = SelfAttention((2048, 1664), 8)
    projections = (2048 + 1) * 128 + (1664 + 1) * 128 + 2 * 128
    layer = 4 * (128 + 1) * 128 + (128 + 1) * 2048 + (2048 + 1) * 128 + 4 * 128
    assert sum(p.numel() for p in fusion.parameters()) == projections + layer + 2 * 128 * 8 + 8
    assert not fusion.layer.norm_first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "hidden=128 cannot be shared among heads=3"),
        ({"heads": 0}, "heads: expected an integer"),
        ({"hidden": 0}, "hidden: expected an integer"),
        ({"tokens": 0}, "tokens: expected an integer"),
        ({"feed_forward": 0}, "feed_forward: expected an integer"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\)"),
    ],
)
def test_wrong_options_are_errors_that_name_them(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        SelfAttention(WIDTHS, 5, **options)
