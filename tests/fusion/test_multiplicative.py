"""Protects the multiplicative layer: its losses, its boosted rule, and where no gradient flows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.multiplicative import Multiplicative, loss_of_scores

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, True]])


def logits() -> list[torch.Tensor]:
    return [torch.randn(4, 5, dtype=torch.float64) * 3 for _ in range(3)]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_multiplicative_is_the_formula_by_loops(beta: float) -> None:
    values = logits()
    fusion = Multiplicative(3, beta=beta)
    found = fusion(values, present=PRESENT)
    for b in range(4):
        here = [m for m in range(3) if PRESENT[b, m]]
        p = {m: values[m][b].softmax(0) for m in here}
        for k in range(5):
            loss = 0.0
            for i in here:
                q = 1.0
                for j in here:
                    if j != i:
                        q *= float(1 - p[j][k]) ** (beta / (len(here) - 1))
                loss -= q * float(p[i][k].log())
            assert float(found[b, k]) == pytest.approx(-loss, rel=1e-6)


def test_multiplicative_trains_on_the_loss_of_the_true_class() -> None:
    values, target = logits(), torch.tensor([0, 4, 2, 1])
    fusion = Multiplicative(3)
    loss = fusion.training_loss(fusion(values), values, target, None, F.cross_entropy)
    torch.testing.assert_close(loss, -fusion(values)[torch.arange(4), target].mean())


def test_multiplicative_with_beta_0_is_the_sum_of_cross_entropies() -> None:
    values, target = logits(), torch.tensor([0, 4, 2, 1])
    fusion = Multiplicative(3, beta=0)
    loss = fusion.training_loss(fusion(values), values, target, None, F.cross_entropy)
    torch.testing.assert_close(loss, sum(F.cross_entropy(z, target) for z in values))


def test_multiplicative_lets_no_gradient_through_q() -> None:
    values = [z.requires_grad_() for z in logits()[:2]]
    target = torch.tensor([0, 4, 2, 1])
    fusion = Multiplicative(2)
    fusion.training_loss(fusion(values), values, target, None, F.cross_entropy).backward()
    for z, other in ((values[0], values[1]), (values[1], values[0])):
        q = (1 - other.detach().softmax(1)[torch.arange(4), target]) ** 0.3
        expected = q[:, None] * (z.detach().softmax(1) - F.one_hot(target, 5)) / 4
        torch.testing.assert_close(z.grad, expected)


def test_multiplicative_stays_finite_where_a_modality_is_sure() -> None:
    values = [torch.tensor([[1000.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 1000.0]], requires_grad=True)]
    fusion = Multiplicative(2)
    loss = fusion.training_loss(fusion(values), values, torch.tensor([0]), None, F.cross_entropy)
    loss.backward()
    assert loss.isfinite()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in values)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_beta_out_of_range(beta: float) -> None:
    with pytest.raises(FusionInputError, match=r"beta is in \[0, 1\]"):
        Multiplicative(2, beta=beta)


def test_probabilities_have_no_meaning_in_regression() -> None:
    with pytest.raises(FusionInputError, match="regression"):
        Multiplicative(2, regression=True)


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_boosted_leaves_out_what_is_won_by_loops(margin: float) -> None:
    values, target = (
        [torch.randn(40, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)],
        torch.arange(40) % 4,
    )
    fusion = Multiplicative(3, boosted=True, margin=margin)
    scores = fusion(values)
    loss = fusion.training_loss(scores, values, target, None, F.cross_entropy)
    total, won = 0.0, []
    for b, y in enumerate(target.tolist()):
        losses = (-scores[b]).tolist()
        if all(losses[y] + margin < losses[k] for k in range(4) if k != y):
            won.append(b)
        else:
            total += losses[y]
    assert 0 < len(won) < 40
    assert loss.item() == pytest.approx(total / 40)
    loss.backward()
    for z in values:
        assert [b for b in range(40) if not z.grad[b].any()] == won


def test_the_boosted_mask_has_no_gradient() -> None:
    scores = torch.tensor([[-1.0, -3.0], [-2.0, -1.0]], requires_grad=True)
    loss_of_scores(scores, torch.tensor([0, 0]), True, 0.0).backward()
    assert torch.equal(scores.grad, torch.tensor([[0.0, 0.0], [-0.5, 0.0]]))


def test_a_tie_with_another_class_is_not_won() -> None:
    scores, target = torch.tensor([[-1.0, -1.0]]), torch.tensor([0])
    assert loss_of_scores(scores, target, True, 0.0).item() == 1
    assert loss_of_scores(torch.tensor([[-1.0, -1.5]]), target, True, 0.5).item() == 1


def test_a_boosted_batch_without_any_modality_is_finite() -> None:
    values = [z.requires_grad_() for z in logits()]
    fusion, nothing = Multiplicative(3, boosted=True, margin=1.0), torch.zeros(4, 3, dtype=torch.bool)
    loss = fusion.training_loss(fusion(values, present=nothing), values, torch.arange(4), nothing, F.cross_entropy)
    loss.backward()
    assert loss.item() == 0
    assert not any(z.grad.any() for z in values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"boosted": 1}, "True or False"),
        ({"boosted": True, "margin": -1.0}, "margin is a (finite number|number of at least 0)"),
        ({"boosted": True, "margin": math.inf}, "margin is a (finite number|number of at least 0)"),
        ({"boosted": True, "margin": "1"}, "margin is a (finite number|number of at least 0)"),
        ({"margin": 1.0}, "boosted=True"),
    ],
)
def test_boosting_that_means_nothing_is_an_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        Multiplicative(2, **options)
