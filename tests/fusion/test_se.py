"""Protects squeeze-and-excitation: its formula, its size, and that modalities stay apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.se import SqueezeExcitation


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_it_is_its_formula_by_loops(scale: float) -> None:
    fusion = SqueezeExcitation((6, 4), reduction=2, gate_scale=scale).double()
    maps = [torch.randn(3, 6, 2, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)]
    found = fusion(maps)
    for m, x in enumerate(maps):
        w1, b1, w2, b2 = (p.detach() for layer in (fusion.squeeze[m], fusion.excite[m]) for p in layer.parameters())
        for b in range(3):
            mean = [float(x[b, c].mean()) for c in range(x.shape[1])]
            inner = [
                max(0.0, float(b1[i]) + sum(float(w) * v for w, v in zip(row, mean, strict=True)))
                for i, row in enumerate(w1)
            ]
            for c in range(x.shape[1]):
                logit = float(b2[c]) + sum(float(w) * v for w, v in zip(w2[c], inner, strict=True))
                torch.testing.assert_close(found[m][b, c], x[b, c] * scale / (1 + math.exp(-logit)))


@pytest.mark.parametrize(
    ("channels", "options", "count"),
    [
        ((1024,), {}, 2 * 1024 * 64 + 64 + 1024),
        ((32, 8), {"reduction": 4}, 2 * 32 * 8 + 8 + 32 + 2 * 8 * 2 + 2 + 8),
        ((8,), {}, 2 * 8 * 1 + 1 + 8),
    ],
)
def test_number_of_parameters(channels: tuple[int, ...], options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        fusion = SqueezeExcitation(channels, **options)
    assert sum(p.numel() for p in fusion.parameters()) == count


def test_modalities_do_not_see_each_other() -> None:
    fusion, a = SqueezeExcitation((6, 4), reduction=2), torch.randn(2, 6, 3)
    first, second = (fusion([a, torch.randn(2, 4, 5)])[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_mask_is_as_the_cut_off_sequence() -> None:
    fusion, x, y = SqueezeExcitation((6, 4), reduction=2), torch.randn(2, 6, 7), torch.randn(2, 4)
    mask = (torch.arange(7) < 4).expand(2, 7)
    found = fusion([x, y], masks=[mask, None])
    torch.testing.assert_close(found[0][:, :, :4], fusion([x[:, :, :4], y])[0])
    assert not found[0][:, :, 4:].any()


def maps() -> list[Tensor]:
    return [torch.randn(2, 6, 3), torch.randn(2, 4)]


def test_identity_start_gives_the_bits_of_the_input_and_needs_a_gate_of_two() -> None:
    values = maps()
    fusion = SqueezeExcitation((6, 4), gate_scale=2, identity_start=True)
    assert all(torch.equal(x, y) for x, y in zip(values, fusion(values), strict=True))
    with pytest.raises(FusionInputError, match="gate_scale=2"):
        SqueezeExcitation((6, 4), identity_start=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduction": 0}, "reduction: expected an integer of at least 1, got 0"),
        ({"reduction": 2.0}, "reduction: expected an integer of at least 1, got 2.0"),
        ({"gate_scale": math.nan}, "gate_scale is a finite number, got nan"),
        ({"gate_scale": "2"}, "gate_scale is a finite number, got '2'"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(FusionInputError, match=words):
        SqueezeExcitation((6, 4), **options)


def test_half_precision_maps_with_parameters_in_full() -> None:
    fusion, values = SqueezeExcitation((6, 4)), maps()
    found = fusion([x.bfloat16() for x in values])
    assert all(y.dtype == torch.bfloat16 for y in found)
    for y, z in zip(found, fusion(values), strict=True):
        torch.testing.assert_close(y.float(), z, atol=0.05, rtol=0.05)
