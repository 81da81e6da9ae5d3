"""Protects voting: the class with the most votes, ties by the mean probability, networks that learn each by itself."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.voting import Voting


@pytest.mark.parametrize("modalities", [1, 2, 3, 5])
def test_the_decision_is_the_counted_vote_with_ties_by_the_summed_probability(modalities: int) -> None:
    values = [torch.randn(200, 4, dtype=torch.float64) * 2 for _ in range(modalities)]
    present = torch.rand(200, modalities) < 0.7
    decisions = Voting(modalities)(values, present=present).argmax(1)
    ties = 0
    for b in range(200):
        here = [values[m][b] for m in range(modalities) if present[b, m]]
        if not here:
            continue
        votes = Counter(int(z.argmax()) for z in here)
        most = [k for k, count in votes.items() if count == max(votes.values())]
        ties += len(most) > 1
        summed = sum(z.softmax(0) for z in here)
        assert int(decisions[b]) == max(most, key=lambda k: float(summed[k]))
    assert modalities == 1 or ties > 10


def test_the_answer_is_a_distribution_of_votes_and_the_mean_probability() -> None:
    values = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    present = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    found = Voting(3)(values, present=present).exp()
    for b in range(2):
        here = [values[m][b] for m in range(3) if present[b, m]]
        votes = torch.stack([F.one_hot(z.argmax(), 4) for z in here]).sum(0)
        mean = torch.stack([z.softmax(0) for z in here]).mean(0)
        torch.testing.assert_close(found[b], (votes + mean) / (len(here) + 1))
    torch.testing.assert_close(found[2], torch.full((4,), 0.25, dtype=torch.float64))


def test_the_gradient_is_that_of_the_mean_probability_alone() -> None:
    values = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    target = torch.tensor([0, 1, 2, 0, 1])
    F.nll_loss(Voting(2)(values), target).backward()
    copies = [z.detach().clone().requires_grad_() for z in values]
    mean = (copies[0].softmax(1) + copies[1].softmax(1)) / 2
    votes = sum(F.one_hot(z.argmax(1), 3) for z in copies)
    F.nll_loss(((votes + mean) / 3).log(), target).backward()
    for z, copy in zip(values, copies, strict=True):
        torch.testing.assert_close(z.grad, copy.grad)


def test_voting_stays_finite_where_a_class_has_no_vote_and_no_probability() -> None:
    values = [torch.tensor([[0.0, 500.0]], requires_grad=True), torch.tensor([[0.0, 400.0]], requires_grad=True)]
    found = Voting(2)(values)
    found.sum().backward()
    assert found.isfinite().all()
    assert all(z.grad.isfinite().all() for z in values)
    assert found[0, 1].item() == pytest.approx(0.0, abs=1e-6)


def test_each_network_learns_from_its_own_samples_whatever_the_vote() -> None:
    parts = [torch.randn(3, 4, requires_grad=True) for _ in range(2)]
    target, present = torch.tensor([0, 1, 2]), torch.tensor([[True, True], [True, False], [True, False]])
    loss = Voting(2).training_loss(torch.full((3, 4), math.nan), parts, target, present, F.cross_entropy)
    expected = F.cross_entropy(parts[0], target) + F.cross_entropy(parts[1][:1], target[:1])
    torch.testing.assert_close(loss, expected)


def test_votes_have_no_meaning_in_regression() -> None:
    with pytest.raises(FusionInputError, match="regression"):
        Voting(2, regression=True)
