"""Protects the losses of networks that learn each by itself: of the samples that have the modality, and of them alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.own_losses import own_losses

PRESENT = torch.tensor([[True, True, False], [True, False, False], [False, True, False], [False, False, False]])
TARGET = torch.tensor([0, 2, 1, 2])


def predictions() -> list[torch.Tensor]:
    return [torch.randn(4, 3, requires_grad=True) for _ in range(3)]


def test_it_is_the_sum_of_the_mean_losses_of_the_present_rows_by_loops() -> None:
    parts, total = predictions(), 0.0
    for m in range(2):
        rows = [b for b in range(4) if PRESENT[b, m]]
        total += sum(-parts[m][b].log_softmax(0)[TARGET[b]].item() for b in rows) / len(rows)
    assert own_losses(parts, TARGET, PRESENT, F.cross_entropy).item() == pytest.approx(total, rel=1e-5)


def test_without_presence_it_is_the_sum_of_all_losses() -> None:
    parts = predictions()
    expected = sum(F.cross_entropy(part, TARGET) for part in parts)
    torch.testing.assert_close(own_losses(parts, TARGET, None, F.cross_entropy), expected)


@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_absent_rows_change_neither_the_loss_nor_a_gradient(junk: float) -> None:
    results = []
    clean = [part.detach() for part in predictions()]
    for value in (0.0, junk):
        parts = [torch.where(PRESENT[:, m, None], part, value).requires_grad_() for m, part in enumerate(clean)]
        loss = own_losses(parts, TARGET, PRESENT, F.cross_entropy)
        loss.backward()
        results.append([loss, *(part.grad for part in parts)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(not gradient[~PRESENT[:, m]].any() for m, gradient in enumerate(results[0][1:]))


def test_a_batch_without_anything_has_a_loss_of_zero_and_gradients_of_zero() -> None:
    parts = predictions()
    loss = own_losses(parts, TARGET, torch.zeros(4, 3, dtype=torch.bool), F.cross_entropy)
    loss.backward()
    assert loss.item() == 0
    assert all(part.grad is not None and not part.grad.any() for part in parts)


def test_the_task_decides_how_values_are_compared() -> None:
    parts, target = [torch.randn(4, 1) for _ in range(3)], torch.randn(4)
    found = own_losses(parts, target, None, lambda value, truth: F.l1_loss(value[:, 0], truth * 2))
    torch.testing.assert_close(found, sum((part[:, 0] - target * 2).abs().mean() for part in parts))


def test_networks_without_predictions_and_presence_of_another_shape_are_errors() -> None:
    with pytest.raises(FusionInputError, match="own predictions"):
        own_losses([], TARGET, None, F.cross_entropy)
    with pytest.raises(FusionInputError, match="present: expected booleans"):
        own_losses(predictions(), TARGET, PRESENT[:, :2], F.cross_entropy)
