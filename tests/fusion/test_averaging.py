"""Protects averaging: what is averaged, over what is present."""

from __future__ import annotations

import pytest
import torch

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.averaging import Averaging

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, True]])


def logits() -> list[torch.Tensor]:
    return [torch.randn(4, 5, dtype=torch.float64) * 3 for _ in range(3)]


def test_averaging_is_the_mean_of_the_present_softmaxes() -> None:
    values = logits()
    found = Averaging(3)(values, present=PRESENT).exp()
    for b in range(4):
        here = [values[m][b].softmax(0) for m in range(3) if PRESENT[b, m]]
        torch.testing.assert_close(found[b], torch.stack(here).mean(0))


def test_averaging_of_values_is_their_mean() -> None:
    values = [torch.randn(4, 1) for _ in range(3)]
    found = Averaging(3, regression=True)(values, present=PRESENT)
    for b in range(4):
        torch.testing.assert_close(found[b], torch.stack([values[m][b] for m in range(3) if PRESENT[b, m]]).mean(0))


def test_averaging_stays_finite_where_a_probability_underflows() -> None:
    found = Averaging(2)([torch.tensor([[0.0, 500.0]]), torch.tensor([[0.0, 400.0]])])
    assert found.isfinite().all()


def test_averaging_of_logits_is_the_mean_of_the_present_logits() -> None:
    values = logits()
    found = Averaging(3, of="logits")(values, present=PRESENT)
    for b in range(4):
        here = [values[m][b] for m in range(3) if PRESENT[b, m]]
        torch.testing.assert_close(found[b], sum(here) / len(here))


def test_the_two_kinds_of_averaging_can_decide_differently() -> None:
    sure, unsure = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[-30.0, 0.1, 0.0]])
    probabilities, of_logits = (Averaging(2, of=of)([sure, unsure]).argmax(1) for of in ("probabilities", "logits"))
    assert (probabilities.item(), of_logits.item()) == (0, 1)


def test_in_regression_both_kinds_are_the_mean_of_the_values() -> None:
    values = [torch.randn(4, 1) for _ in range(3)]
    both = [Averaging(3, regression=True, of=of)(values, present=PRESENT) for of in ("probabilities", "logits")]
    assert torch.equal(*both)


@pytest.mark.parametrize("of", ["votes", None, 1])
def test_an_unknown_kind_of_averaging_is_an_error_that_lists_both(of: object) -> None:
    with pytest.raises(FusionInputError, match="'probabilities' or 'logits', got"):
        Averaging(2, of=of)
