"""Protects multiplication: the product of probabilities, over what is present."""

from __future__ import annotations

import pytest
import torch

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.multiplication import Multiplication

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, True]])


def logits() -> list[torch.Tensor]:
    return [torch.randn(4, 5, dtype=torch.float64) * 3 for _ in range(3)]


def test_multiplication_is_the_renormalized_product_of_probabilities() -> None:
    values = logits()
    found = Multiplication(3)(values, present=PRESENT).softmax(1)
    for b in range(4):
        product = torch.stack([values[m][b].softmax(0) for m in range(3) if PRESENT[b, m]]).prod(0)
        torch.testing.assert_close(found[b], product / product.sum())
    torch.testing.assert_close(Multiplication(3)(values), sum(values))


def test_probabilities_have_no_meaning_in_regression() -> None:
    with pytest.raises(FusionInputError, match="regression"):
        Multiplication(2, regression=True)
