"""The implementation that benchmarks compare with gives MSAF's outputs from the same published-style weights."""

import dataclasses

import pytest
import torch

from benchmarks.shapes import SHAPES, Shape
from benchmarks.straightforward import StraightforwardMSAF
from torchmsaf import MSAF

SMALL = [
    Shape("two maps", ((16, 3, 4, 4), (8, 11)), 3, 8),
    Shape("vector beside map", ((12, 5), (6,)), 3, 6, reduction=2, min_attention=0.5),
    Shape("uneven channels", ((13, 5), (6, 2, 2)), 3, 4, reduction=2),
    Shape("segments", ((8, 12), (16, 12)), 3, 8, reduction=2, segments=3, time_major=True),
    Shape("uneven segments", ((8, 13), (16, 17)), 3, 8, segments=4),
]
BIG = [SHAPES[name] for name in ("rav1", "rav2", "mosei16", "ntu1", "ntu2")]


@pytest.mark.parametrize("shape", [*SMALL, *BIG], ids=lambda shape: shape.name)
def test_agrees_with_msaf(shape):
    torch.manual_seed(0)
    slow = StraightforwardMSAF(shape.channels, **shape.arguments)
    for block in slow.blocks:  # statistics and affine of a network that has been trained
        norm = block.joint_features[1]
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
            torch.nn.init.normal_(tensor)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    fast = MSAF.from_published(slow.state_dict(), shape.channels, min_attention=shape.min_attention)
    slow.eval()
    fast.eval()
    ours, theirs = (
        [x.requires_grad_() for x in dataclasses.replace(shape, batch=min(shape.batch, 4)).features()] for _ in range(2)
    )
    fused, expected = fast(ours), slow(theirs)
    for y, z in zip(fused, expected, strict=True):
        torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-5)
    gradients = [torch.randn_like(y) for y in expected]
    wanted = torch.autograd.grad(expected, theirs, gradients)
    for found, gradient in zip(torch.autograd.grad(fused, ours, gradients), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)
