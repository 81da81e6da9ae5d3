"""Protects EmbraceNet: what is drawn and how often, the expectation, modality dropout, and its parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.embracenet import EmbraceNet, keep_one

WIDTHS = (3, 4, 2)
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
C = 4000


def make(hidden: int = C, **options: Any) -> tuple[EmbraceNet, list[Tensor]]:
    return EmbraceNet(WIDTHS, 5, hidden=hidden, **options), [torch.randn(4, width) for width in WIDTHS]


def embraced(fusion: EmbraceNet, values: list[Tensor], present: Tensor | None) -> Tensor:
    """What goes into the last layer."""
    seen: list[Tensor] = []
    hook = fusion.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    fusion(values, present=present)
    hook.remove()
    return seen[0]


def mark(fusion: EmbraceNet) -> None:
    """Every docked value of modality m becomes m + 1, so that what was drawn can be read off."""
    for m, layer in enumerate(fusion.docking):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, m + 1.0)


def dock(fusion: EmbraceNet, values: list[Tensor]) -> list[Tensor]:
    pairs = zip(fusion.docking, values, strict=True)
    return [(x @ layer.weight.T + layer.bias).clamp(min=0).detach() for layer, x in pairs]


@pytest.mark.parametrize("prior", [None, (1.0, 2.0, 5.0)])
def test_every_present_modality_is_drawn_with_its_probability_and_an_absent_one_never(
    prior: tuple[float, ...] | None,
) -> None:
    fusion, values = make(prior=prior)
    mark(fusion)
    drawn = embraced(fusion, values, PRESENT)
    for b in range(4):
        here = [m for m in range(3) if PRESENT[b, m]]
        total = sum((prior or (1, 1, 1))[m] for m in here)
        for m in range(3):
            count = int((drawn[b] == m + 1).sum())
            p = (prior or (1, 1, 1))[m] / total if m in here else 0.0
            assert abs(count - p * C) <= 5 * math.sqrt(C * p * (1 - p))
    assert not drawn[3].any()


def test_every_coordinate_in_training_is_the_docked_value_of_a_present_modality_at_that_place() -> None:
    fusion, values = make(hidden=60)
    found, docked = embraced(fusion, values, PRESENT), dock(fusion, values)
    for b in range(3):
        for j in range(60):
            choices = [float(docked[m][b, j]) for m in range(3) if PRESENT[b, m]]
            assert min(abs(float(found[b, j]) - choice) for choice in choices) < 1e-6


def test_coordinates_and_samples_are_drawn_independently() -> None:
    fusion, values = make()
    mark(fusion)
    drawn = embraced(fusion, values, None)
    for a, b in ((drawn[0], drawn[1]), (drawn[0, 1:], drawn[0, :-1])):
        n = len(a)
        assert abs(int((a == b).sum()) - n / 3) <= 5 * math.sqrt(n * 2 / 9)


@pytest.mark.parametrize("prior", [None, (1.0, 2.0, 5.0)])
def test_evaluation_takes_the_expectation_by_loops(prior: tuple[float, ...] | None) -> None:
    fusion, values = make(hidden=7, prior=prior)
    fusion, values = fusion.double().eval(), [x.double() for x in values]
    found, docked = fusion(values, present=PRESENT), dock(fusion, values)
    for b in range(4):
        here = [m for m in range(3) if PRESENT[b, m]]
        weights = {m: (prior or (1, 1, 1))[m] for m in here}
        e = torch.zeros(7, dtype=torch.float64)
        for j in range(7):
            e[j] = sum(float(docked[m][b, j]) * weights[m] / sum(weights.values()) for m in here)
        torch.testing.assert_close(found[b], fusion.head(e))


def test_the_expectation_is_the_mean_of_many_draws() -> None:
    fusion, values = make(hidden=8)
    draws = torch.stack([embraced(fusion, values, PRESENT) for _ in range(1500)])
    expected = embraced(fusion.eval(), values, PRESENT)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-5).all()


def test_evaluation_draws_only_if_told_to_and_from_the_global_generator() -> None:
    fusion, values = make(hidden=64, sample_in_evaluation=True)
    fusion.eval()
    torch.manual_seed(5)
    first, other = fusion(values), fusion(values)
    torch.manual_seed(5)
    assert torch.equal(fusion(values), first)
    assert not torch.equal(first, other)
    fusion.sample_in_evaluation = False
    assert torch.equal(fusion(values), fusion(values))


def test_modality_dropout_keeps_exactly_one_of_the_present_modalities_in_training() -> None:
    fusion, values = make(hidden=64, modality_dropout=1.0)
    mark(fusion)
    kinds = [set(row.tolist()) for row in embraced(fusion, values, PRESENT)]
    assert all(len(kind) == 1 for kind in kinds)
    assert kinds[0] <= {1, 2, 3}
    assert kinds[1] <= {1, 3}
    assert kinds[2:] == [{2}, {0}]
    expected = torch.tensor([2.0, 2.0, 2.0, 0.0])[:, None].expand(4, 64)
    torch.testing.assert_close(embraced(fusion.eval(), values, PRESENT), expected)


def test_modality_dropout_draws_evenly_and_once_a_batch() -> None:
    kept = keep_one(torch.tensor([[True, False, True]]).expand(C, 3))
    assert torch.equal(kept.sum(1), torch.ones(C, dtype=torch.long))
    assert not kept[:, 1].any()
    assert abs(int(kept[:, 0].sum()) - C / 2) <= 5 * math.sqrt(C / 4)
    fusion, values = make(hidden=64, modality_dropout=0.5)
    mark(fusion)
    dropped = [[len(row.unique()) == 1 for row in embraced(fusion, values, None)] for _ in range(200)]
    assert all(all(batch) or not any(batch) for batch in dropped)
    assert abs(sum(batch[0] for batch in dropped) - 100) <= 5 * math.sqrt(50)


def test_embracenet_has_the_parameters_of_its_formula() -> None:
    for c in (256, 512):
        with torch.device("meta"):
            fusion = EmbraceNet((2048, 1664), 8, hidden=c)
        assert sum(p.numel() for p in fusion.parameters()) == (2048 + 1) * c + (1664 + 1) * c + 8 * c + 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden: expected an integer of at least 1"),
        ({"modality_dropout": 1.5}, r"modality_dropout is a probability in \[0, 1\]"),
        ({"prior": (1.0, 2.0)}, "prior is one positive number a modality, 3 in all"),
        ({"prior": (1.0, 0.0, 2.0)}, "prior is one positive number"),
        ({"prior": (1.0, math.nan, 2.0)}, "prior is one positive number"),
        ({"prior": 0.5}, "prior is one positive number"),
    ],
)
def test_wrong_options_are_errors_that_name_them(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        make(**{"hidden": 4, **options})


def test_priors_far_apart_stay_finite() -> None:
    fusion = EmbraceNet((5, 4), 2, prior=(1e-50, 1e308))
    values = [torch.randn(3, 5), torch.randn(3, 4)]
    present = torch.tensor([[True, False]] * 3)
    for mode in (True, False):
        alone = fusion.train(mode)(values, present=present)
        torch.testing.assert_close(alone, fusion.head(torch.relu(fusion.docking[0](values[0]))))
    with pytest.raises(FusionInputError, match="prior is one positive number a modality"):
        EmbraceNet((5, 4), 2, prior=(True, True))
