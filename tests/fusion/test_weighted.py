"""Protects the weighted sum: its formula, absent modalities, and how its weights are chosen on validation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.averaging import Averaging
from torchmsaf.fusion.weighted import WeightedSum

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, True]])


def weighted(weights: list[float], **options: bool) -> WeightedSum:
    fusion = WeightedSum(len(weights), **options).double()
    fusion.weights.copy_(torch.tensor(weights, dtype=torch.float64))
    return fusion


def squared(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of a target that the task standardizes itself."""
    return F.mse_loss(value[:, 0], (target - 2) / 3)


def mixed(values: list[torch.Tensor], present: torch.Tensor, weights: list[float], b: int) -> torch.Tensor:
    """The formula of one sample, by loops."""
    here = [m for m in range(len(values)) if present[b, m]]
    total = sum(weights[m] for m in here)
    share = {m: weights[m] / total if total > 0 else 1 / len(here) for m in here}
    return sum(share[m] * values[m][b] for m in here)


def test_it_is_the_weighted_mean_of_the_present_softmaxes_by_loops() -> None:
    values, weights = [torch.randn(4, 5, dtype=torch.float64) * 3 for _ in range(3)], [0.5, 0.2, 0.3]
    found = weighted(weights)(values, present=PRESENT).exp()
    for b in range(4):
        torch.testing.assert_close(found[b], mixed([z.softmax(1) for z in values], PRESENT, weights, b))


def test_values_are_weighted_by_loops() -> None:
    values, weights = [torch.randn(4, 1, dtype=torch.float64) for _ in range(3)], [0.5, 0.2, 0.3]
    found = weighted(weights, regression=True)(values, present=PRESENT)
    for b in range(4):
        torch.testing.assert_close(found[b], mixed(values, PRESENT, weights, b))


def test_present_modalities_of_weight_0_count_the_same() -> None:
    values, weights = [torch.randn(4, 5, dtype=torch.float64) for _ in range(3)], [0.0, 1.0, 0.0]
    found = weighted(weights)(values, present=PRESENT).exp()
    torch.testing.assert_close(found[0], values[1][0].softmax(0))
    torch.testing.assert_close(found[1], (values[0][1].softmax(0) + values[2][1].softmax(0)) / 2)
    torch.testing.assert_close(found[3], values[2][3].softmax(0))


def test_it_starts_as_averaging_and_answers_evenly_where_nothing_is_present() -> None:
    values, present = [torch.randn(4, 5) for _ in range(3)], PRESENT & torch.tensor([[True], [True], [True], [False]])
    torch.testing.assert_close(WeightedSum(3)(values, present=present), Averaging(3)(values, present=present))
    numbers = WeightedSum(3, regression=True)([z[:, :1] for z in values], present=present)
    assert numbers[3].item() == 0


def test_it_stays_finite_where_a_probability_underflows() -> None:
    values = [torch.tensor([[0.0, 500.0]], requires_grad=True), torch.tensor([[0.0, 400.0]], requires_grad=True)]
    fusion = WeightedSum(2)
    fusion.weights.copy_(torch.tensor([1.0, 0.0]))
    found = fusion(values)
    found.sum().backward()
    assert found.isfinite().all()
    assert all(z.grad.isfinite().all() for z in values)


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("absences", [False, True])
def test_fit_finds_the_best_of_all_grid_points_by_brute_force(regression: bool, absences: bool) -> None:
    n, width = 30, 1 if regression else 4
    target = torch.randn(n) * 3 + 2 if regression else torch.arange(n) % 4
    truth = ((target - 2) / 3)[:, None] if regression else F.one_hot(target, 4) * 2.0
    parts = [truth + torch.randn(n, width) * noise for noise in (0.7, 1.0, 2.0)]
    present = torch.rand(n, 3) < 0.7 if absences else torch.ones(n, 3, dtype=torch.bool)
    fusion = WeightedSum(3, regression=regression, step=0.1)
    fusion.fit(parts, target, present if absences else None, squared if regression else F.cross_entropy)
    values = parts if regression else [z.softmax(1) for z in parts]
    rows, best = [b for b in range(n) if present[b].any()], (math.inf, [0.0] * 3)
    grid = [[a / 10, b / 10, (10 - a - b) / 10] for a, b in itertools.product(range(11), range(11)) if a + b <= 10]
    for weights in [[1 / 3] * 3, *grid]:
        fused = torch.stack([mixed(values, present, weights, row) for row in rows])
        loss = squared(fused, target[rows]) if regression else F.nll_loss(fused.log(), target[rows])
        best = min(best, (float(loss), weights))
    torch.testing.assert_close(fusion.weights, torch.tensor(best[1]))


def test_weights_that_are_equally_good_stay_even() -> None:
    same = torch.randn(20, 4)
    for modalities in (2, 3):  # a third is not on the grid
        fusion = WeightedSum(modalities)
        fusion.fit([same] * modalities, torch.arange(20) % 4, None, F.cross_entropy)
        torch.testing.assert_close(fusion.weights, torch.full((modalities,), 1 / modalities))


def test_of_equals_the_one_nearest_to_even_is_taken() -> None:
    good, bad, target = torch.eye(4) * 5, torch.eye(4).roll(1, 0) * 5, torch.arange(4)
    fusion = WeightedSum(3)
    fusion.fit([good, bad, good], target, None, F.cross_entropy)
    torch.testing.assert_close(fusion.weights, torch.tensor([0.5, 0.0, 0.5]))


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_useless_modality_gets_weight_0(spoiled: bool) -> None:
    target = torch.arange(40) % 4
    useless = torch.full((40, 4), math.nan) if spoiled else F.one_hot((target + 1) % 4, 4) * 9.0
    parts = [F.one_hot(target, 4) * 3.0 + torch.randn(40, 4), useless]
    fusion = WeightedSum(2)
    fusion.fit(parts, target, None, F.cross_entropy)
    assert fusion.weights.tolist() == [1, 0]


def test_what_is_there_of_an_absent_validation_modality_chooses_nothing() -> None:
    target, parts = torch.arange(30) % 4, [torch.randn(30, 4) for _ in range(2)]
    present = torch.rand(30, 2) < 0.6
    chosen = []
    for junk in (0.0, math.nan):
        fusion = WeightedSum(2)
        fusion.fit(
            [torch.where(present[:, m, None], z, junk) for m, z in enumerate(parts)], target, present, F.cross_entropy
        )
        chosen.append(fusion.weights)
    assert torch.equal(*chosen)


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_without_a_finite_loss_or_a_sample_the_weights_stay(value: float) -> None:
    parts, present = [torch.full((6, 4), value)] * 2, torch.full((6, 2), math.isnan(value))
    fusion = WeightedSum(2)
    fusion.fit(parts, torch.zeros(6, dtype=torch.long), present, F.cross_entropy)
    assert fusion.weights.tolist() == [0.5, 0.5]


def test_fit_is_deterministic_and_leaves_gradients_and_modes_alone() -> None:
    parts, target = [torch.randn(20, 4, requires_grad=True) for _ in range(3)], torch.arange(20) % 4
    chosen = []
    for _ in range(2):
        fusion = WeightedSum(3).train()
        state = torch.get_rng_state()
        fusion.fit(parts, target, None, F.cross_entropy)
        fusion.fit(parts, target, None, F.cross_entropy)
        assert torch.equal(state, torch.get_rng_state())
        assert fusion.training
        assert torch.is_grad_enabled()
        chosen.append(fusion.state_dict()["weights"])
    assert torch.equal(*chosen)
    assert all(z.grad is None for z in parts)
    assert chosen[0].dtype == torch.float32
    assert not chosen[0].requires_grad


def test_each_network_learns_from_its_own_samples() -> None:
    parts, target = [torch.randn(3, 4) for _ in range(2)], torch.tensor([0, 1, 2])
    present = torch.tensor([[True, True], [True, False], [True, False]])
    loss = WeightedSum(2).training_loss(torch.zeros(3, 4), parts, target, present, F.cross_entropy)
    torch.testing.assert_close(loss, F.cross_entropy(parts[0], target) + F.cross_entropy(parts[1][:1], target[:1]))


@pytest.mark.parametrize("step", [0, -0.5, 0.3, 1.5, True, "0.1", math.nan])
def test_a_step_that_does_not_divide_1_is_an_error(step: object) -> None:
    with pytest.raises(FusionInputError, match=r"step (must divide 1|is a finite number)"):
        WeightedSum(2, step=step)


@pytest.mark.parametrize(
    ("modalities", "step", "advice"),
    [(6, 0.05, "0.1"), (4, 0.01, "0.025"), (20, 0.05, "0.25"), (30, 0.1, "0.5"), (300, 0.1, "1")],
)
def test_a_grid_of_too_many_points_is_an_error_whose_step_works(modalities: int, step: float, advice: str) -> None:
    with pytest.raises(FusionInputError, match=rf"points.*use step={advice} or larger"):
        WeightedSum(modalities, step=step)
    WeightedSum(modalities, step=float(advice))
