"""Protects the gated multimodal unit: its formula by loops, its parameters, and its weights where modalities are absent."""

from __future__ import annotations

import math

import pytest
import torch

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.gmu import GMU

WIDTHS = (3, 4, 2)


def make(modalities: int) -> tuple[GMU, list[torch.Tensor]]:
    widths = WIDTHS[:modalities]
    return GMU(widths, 5, hidden=6).double(), [torch.randn(4, width, dtype=torch.float64) for width in widths]


def dot(row: torch.Tensor, values: list[float]) -> float:
    return sum(w * v for w, v in zip(row.tolist(), values, strict=True))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def joint(fusion: GMU, vectors: list[torch.Tensor], here: list[int]) -> list[float]:
    """H of one sample, coordinate by coordinate, in plain numbers."""
    inputs = [[float(v) if m in here else 0.0 for v in x] for m, x in enumerate(vectors)]
    together = [v for x in inputs for v in x]
    found = []
    for j in range(6):
        own = [math.tanh(dot(fusion.projections[m].weight[j], x)) for m, x in enumerate(inputs)]
        if len(inputs) == 2:
            z = sigmoid(dot(fusion.gate.weight[j], together))
            weights = [z, 1 - z] if len(here) == 2 else [float(m in here) for m in range(2)]
        else:
            weights = [sigmoid(dot(fusion.gate.weight[6 * m + j], together)) for m in range(len(inputs))]
        found.append(sum(weights[m] * own[m] for m in here))
    return found


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_gmu_is_the_formula_by_loops(modalities: int) -> None:
    fusion, values = make(modalities)
    flags = torch.tensor([[True, True, True], [True, False, True], [False, True, True], [False, False, False]])
    present = flags[:, :modalities]
    for given in (None, present):
        found = fusion(values, present=given)
        for b in range(4):
            here = [m for m in range(modalities) if given is None or given[b, m]]
            h = torch.tensor(joint(fusion, [x[b] for x in values], here), dtype=torch.float64)
            torch.testing.assert_close(found[b], fusion.head(h))


def test_gmu_with_one_of_two_absent_is_the_other_alone() -> None:
    fusion, values = make(2)
    for m in range(2):
        present = torch.zeros(4, 2, dtype=torch.bool)
        present[:, m] = True
        alone = torch.tanh(fusion.projections[m](values[m]))
        torch.testing.assert_close(fusion(values, present=present), fusion.head(alone), rtol=0, atol=1e-14)


def test_gmu_keeps_its_weights_where_a_saturated_gate_leaves_nothing_to_an_only_modality() -> None:
    fusion, values = make(2)
    torch.nn.init.constant_(fusion.gate.weight, 1e4)
    present = torch.tensor([[False, True]]).expand(4, 2)
    values[1] = values[1].abs()  # z is exactly 1, and modality 1 is weighed by 1 - z = 0
    prediction = fusion(values, present=present)
    torch.testing.assert_close(prediction, fusion.head(torch.tanh(fusion.projections[1](values[1]))))


@pytest.mark.parametrize(("modalities", "gates"), [(1, 1), (2, 1), (3, 3)])
def test_gmu_has_one_gate_for_two_modalities_and_otherwise_one_each(modalities: int, gates: int) -> None:
    widths = WIDTHS[:modalities]
    with torch.device("meta"):
        fusion = GMU(widths, 5)
    expected = sum(widths) * 512 + gates * sum(widths) * 512 + 512 * 5 + 5
    assert sum(p.numel() for p in fusion.parameters()) == expected


@pytest.mark.parametrize("hidden", [0, -3, 2.5, True])
def test_gmu_needs_a_width(hidden: int) -> None:
    with pytest.raises(FusionInputError, match="hidden: expected an integer of at least 1"):
        GMU((3, 4), 5, hidden=hidden)
