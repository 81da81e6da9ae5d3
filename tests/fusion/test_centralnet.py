"""Protects CentralNet: the sum of each point, the branch that grows, all losses, and maps that stay as they are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.centralnet import CentralNet

MAPS = ((4, 6, 5), (4, 3), (4, 2, 2, 3))


def maps() -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in MAPS]


def point() -> CentralNet:
    fusion = CentralNet([shape[1] for shape in MAPS], width=7).double()
    with torch.no_grad():
        for parameter in fusion.parameters():  # scalars too: even ones hide which belongs to which
            parameter.copy_(torch.randn_like(parameter))
    return fusion


def test_a_point_is_its_formula_sample_by_sample() -> None:
    fusion, values, branch = point(), maps(), torch.randn(4, 7, dtype=torch.float64)
    _, found = fusion.grow(values, branch)
    for b in range(4):
        total = fusion.alpha_central * branch[b]
        for m, x in enumerate(values):
            mean = torch.stack([x[b, c].mean() for c in range(x.shape[1])])
            total = total + fusion.alpha[m] * (fusion.projections[m].weight @ mean)
        torch.testing.assert_close(found[b], F.relu(fusion.layer.weight @ total + fusion.layer.bias))


def test_the_first_point_has_no_branch_before_it() -> None:
    fusion, values = point(), maps()
    nothing = torch.zeros(4, 7, dtype=torch.float64)
    assert torch.equal(fusion.grow(values, None)[1], fusion.grow(values, nothing)[1])


def test_maps_pass_as_they_are_and_a_branch_reaches_the_last_point() -> None:
    first, second, values = point(), point(), maps()
    passed, branch = first.grow(values, None)
    assert all(torch.equal(a, b) for a, b in zip(passed, values, strict=True))
    second.grow(passed, branch)[1].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in (first.alpha, second.alpha, second.alpha_central))


def test_what_is_absent_adds_nothing_to_the_branch() -> None:
    fusion, values = point(), maps()
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    for m, x in enumerate(values):
        x[~present[:, m]] = math.nan
    passed, branch = fusion.grow(values, None, present=present)
    assert not passed[1][1].any()
    only = fusion.layer(fusion.alpha[1] * fusion.projections[1](values[1][2]))
    torch.testing.assert_close(branch[2], F.relu(only))
    torch.testing.assert_close(branch[3], F.relu(fusion.layer.bias))


def test_the_loss_is_that_of_the_prediction_and_of_every_network() -> None:
    fusion, target = CentralNet((6, 3)), torch.tensor([0, 2, 1, 1])
    prediction, parts = torch.randn(4, 3), [torch.randn(4, 3) for _ in range(2)]
    present = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    loss = fusion.training_loss(prediction, parts, target, present, F.cross_entropy)
    own = F.cross_entropy(parts[0], target) + F.cross_entropy(parts[1][[0, 2]], target[[0, 2]])
    torch.testing.assert_close(loss, F.cross_entropy(prediction, target) + own)


def test_parameters() -> None:
    fusion = CentralNet((1024, 32), width=64)
    assert sum(p.numel() for p in fusion.parameters()) == (1024 + 32) * 64 + 2 + 1 + 64 * 64 + 64
    assert sum(p.numel() for p in fusion.head(8).parameters()) == 64 * 8 + 8


def test_points_of_other_widths_are_an_error() -> None:
    with pytest.raises(FusionInputError, match=r"branch: expected \(B, width\) = \(4, 7\), got \(4, 8\)"):
        point().grow(maps(), torch.zeros(4, 8, dtype=torch.float64))
    with pytest.raises(FusionInputError, match="width: expected an integer of at least 1"):
        CentralNet((3, 4), width=0)


def test_it_can_be_exported_for_any_number_of_samples() -> None:
    fusion, values = point().eval(), maps()
    batch = torch.export.Dim("batch", min=2)
    shapes = {"features": [{0: batch}] * 3, "branch": None}
    program = torch.export.export(Grown(fusion), (values, None), dynamic_shapes=shapes)
    more = [torch.randn(6, *x.shape[1:], dtype=torch.float64) for x in values]
    torch.testing.assert_close(program.module()(more, None), fusion.grow(more, None)[1])


class Grown(torch.nn.Module):
    """The branch alone, as tools want a module."""

    def __init__(self, fusion: CentralNet) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, features: list[torch.Tensor], branch: torch.Tensor | None) -> torch.Tensor:
        return self.fusion.grow(features, branch)[1]
