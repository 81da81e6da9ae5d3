"""Protects FiLM: its formula, who conditions whom, and where its shift may not reach."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.film import FiLM

CHANNELS = (3, 4, 2)


def maps() -> list[Tensor]:
    return [torch.randn(2, c, *s, dtype=torch.float64) for c, s in zip(CHANNELS, ((5,), (), (2, 3)), strict=True)]


def by_loops(fusion: FiLM, values: list[Tensor], present: Tensor | None = None) -> list[Tensor]:
    """The formula, with each W_mj cut out of its layer."""
    out = [x.clone() for x in values]
    means = [x.flatten(2).mean(2) if x.dim() > 2 else x for x in values]
    for b in range(2):
        here = [m for m in range(3) if present is None or present[b, m]]
        for m in range(3):
            if m not in here:
                out[m][b] = 0
        for m, layer in zip(fusion.modulated, fusion.conditions, strict=True):
            if m not in here:
                continue
            total, column = layer.bias.detach().clone(), 0
            for j in range(3):
                if j == m:
                    continue
                w_mj = layer.weight.detach()[:, column : column + CHANNELS[j]]
                column += CHANNELS[j]
                if j in here:
                    total += w_mj @ means[j][b]
            for c in range(CHANNELS[m]):
                out[m][b, c] = (1 + total[c]) * values[m][b, c] + total[CHANNELS[m] + c]
    return out


@pytest.mark.parametrize("modulated", [None, (0,), (2, 0)])
@pytest.mark.parametrize("some", [False, True])
def test_it_is_its_formula_by_loops(modulated: tuple[int, ...] | None, some: bool) -> None:
    fusion, values = FiLM(CHANNELS, modulated=modulated).double(), maps()
    present = torch.tensor([[True, False, True], [False, True, True]]) if some else None
    for found, expected in zip(fusion(values, present=present), by_loops(fusion, values, present), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_modality_that_is_not_modulated_passes_with_all_its_bits_and_has_no_layer() -> None:
    fusion, values = FiLM(CHANNELS, modulated=[1]), [x.float() for x in maps()]
    found = fusion(values)
    assert torch.equal(found[0], values[0])
    assert not torch.equal(found[1], values[1])
    assert torch.equal(found[2], values[2])
    assert sum(p.numel() for p in fusion.parameters()) == (3 + 2 + 1) * 2 * 4


def test_number_of_parameters() -> None:
    with torch.device("meta"):
        fusion = FiLM((512, 64))
    assert sum(p.numel() for p in fusion.parameters()) == (64 + 1) * 2 * 512 + (512 + 1) * 2 * 64


def test_a_modality_does_not_condition_itself() -> None:
    """Where its own map is zero, what comes out is the shift alone, whatever its other samples are."""
    fusion, values = FiLM((3, 4)), [torch.randn(2, 3, 5), torch.randn(2, 4)]
    values[0][:, :, 0] = 0
    first = fusion(values)[0][:, :, 0]
    values[0][:, :, 1:] += 3
    assert torch.equal(first, fusion(values)[0][:, :, 0])


def test_identity_start_gives_the_bits_of_the_input() -> None:
    values = [x.float() for x in maps()]
    fusion = FiLM(CHANNELS, identity_start=True)
    assert all(torch.equal(x, y) for x, y in zip(values, fusion(values), strict=True))


def test_a_mask_is_as_the_cut_off_sequence_and_the_shift_does_not_fill_it() -> None:
    fusion, x, y = FiLM((3, 4)), torch.randn(2, 3, 7), torch.randn(2, 4, 2)
    mask = (torch.arange(7) < 4).expand(2, 7)
    junk = torch.where(mask[:, None], x, math.nan)
    found, short = fusion([junk, y], masks=[mask, None]), fusion([x[:, :, :4], y])
    torch.testing.assert_close(found[0][:, :, :4], short[0])
    torch.testing.assert_close(found[1], short[1])
    assert not found[0][:, :, 4:].any()


def test_with_the_others_absent_the_bias_alone_is_left() -> None:
    fusion, values = FiLM((3, 4)), [torch.randn(2, 3), torch.randn(2, 4)]
    found = fusion(values, present=torch.tensor([[True, False]] * 2))
    difference, beta = fusion.conditions[0].bias.chunk(2)
    torch.testing.assert_close(found[0], (1 + difference) * values[0] + beta)
    assert not found[1].any()


@pytest.mark.parametrize("modulated", [(), (2,), (-1,), (True,), (0, 0), 1, "0", (0.5,)])
def test_wrong_modulated(modulated: Any) -> None:
    with pytest.raises(FusionInputError, match="modulated"):
        FiLM((3, 4), modulated=modulated)


def test_one_modality_has_nothing_to_be_conditioned_on() -> None:
    with pytest.raises(FusionInputError, match="2 or more modalities"):
        FiLM((3,))


def test_half_precision_maps_with_parameters_in_full() -> None:
    fusion, values = FiLM(CHANNELS), [x.float() for x in maps()]
    found = fusion([x.bfloat16() for x in values], present=torch.tensor([[True, True, False]] * 2))
    assert all(y.dtype == torch.bfloat16 for y in found)
