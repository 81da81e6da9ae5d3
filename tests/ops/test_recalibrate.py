"""Pooling and scaling joined: precision of the pooling, and gates that are given."""

import pytest
import torch

from torchmsaf.ops.recalibrate import recalibrate
from torchmsaf.ops.support import make_supports


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("segments", [1, 3])
def test_pools_means_and_scales_by_given_gates(grad, segments):
    x = torch.randn(2, 5, 7, 2, requires_grad=grad)
    (pooled,), rescale = recalibrate([x], [None], segments=segments, segment_dims=[2], dtype=torch.float32)
    parts = [x] if segments == 1 else [x[:, :, :2], x[:, :, 2:4], x[:, :, 4:]]
    means = torch.stack([part.mean((2, 3)) for part in parts])
    torch.testing.assert_close(pooled, means[0] if segments == 1 else means)
    gates = torch.randn(segments, 2, 5)
    expected = torch.cat([part * g[..., None, None] for part, g in zip(parts, gates, strict=True)], 2)
    torch.testing.assert_close(rescale([gates[0] if segments == 1 else gates])[0], expected)


@pytest.mark.parametrize("masked", [True, False])
def test_large_offsets_lose_no_precision_in_pooling(masked):
    x = torch.randn(2, 3, 50_000) + 1000
    mask = torch.rand(2, 50_000) < 0.5
    supports = [None]
    if masked:
        supports, _ = make_supports([x], [mask], None, segments=1, segment_dims=[2], dtype=torch.float32)
    (pooled,), _ = recalibrate([x], supports, segment_dims=[2], dtype=torch.float32)
    weight = mask[:, None].double() if masked else torch.ones(2, 1, 50_000).double()
    expected = (x.double() * weight).sum(2) / weight.sum(2)
    torch.testing.assert_close(pooled.double(), expected, rtol=1e-6, atol=0)
