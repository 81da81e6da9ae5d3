"""Protects MMTM: its formula, and its published width and parameters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.mmtm import MMTM


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_mmtm_is_its_formula(scale: float) -> None:
    fusion = MMTM((6, 4), gate_scale=scale).double()
    a, b = torch.randn(3, 6, 2, 5, dtype=torch.float64), torch.randn(3, 4, 7, dtype=torch.float64)
    z = F.relu(fusion.squeeze(torch.cat([a.mean((2, 3)), b.mean(2)], dim=1)))
    gates = [scale * torch.sigmoid(layer(z)) for layer in fusion.excite]
    found = fusion([a, b])
    torch.testing.assert_close(found[0], a * gates[0][:, :, None, None])
    torch.testing.assert_close(found[1], b * gates[1][:, :, None])


@pytest.mark.parametrize(("channels", "width", "count"), [((1024, 32), 528, 1_116_720), ((2048, 64), 1056, 4_463_712)])
def test_mmtm_has_the_published_width_and_parameters(channels: tuple[int, ...], width: int, count: int) -> None:
    with torch.device("meta"):
        fusion = MMTM(channels)
    assert fusion.squeeze.out_features == width
    assert sum(p.numel() for p in fusion.parameters()) == count


def test_mmtm_identity_start_changes_nothing_and_needs_a_gate_of_two() -> None:
    values = [torch.randn(2, 6, 3), torch.randn(2, 4)]
    for x, y in zip(values, MMTM((6, 4), gate_scale=2, identity_start=True)(values), strict=True):
        torch.testing.assert_close(x, y)
    with pytest.raises(FusionInputError, match="gate_scale=2"):
        MMTM((6, 4), identity_start=True)


@pytest.mark.parametrize("ratio", [0, -1, 1e6])
def test_mmtm_needs_a_width(ratio: float) -> None:
    with pytest.raises(FusionInputError, match="ratio"):
        MMTM((6, 4), ratio=ratio)
