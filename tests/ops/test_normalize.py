"""The norm of the joint representation equals torch's where all rows hold data, and sees living rows alone where not."""

import pytest
import torch
from torch import nn

from torchmsaf.ops.normalize import _batch_norm_of_rows, normalize_joint


def norms(features, **options):
    norm = nn.BatchNorm1d(features, **options)
    for p in norm.parameters():
        nn.init.normal_(p)
    other = nn.BatchNorm1d(features, **options)
    other.load_state_dict(norm.state_dict())
    return norm.double(), other.double()


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("alive", [None, True])
@pytest.mark.parametrize("rows", [True, False])
def test_all_rows_alive_is_torchs_batch_norm_with_its_statistics(momentum, alive, rows):
    norm, expected = norms(6, momentum=momentum)
    alive = torch.ones(5, 2, dtype=torch.bool) if alive or rows else None
    for _ in range(3):
        z = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
        got = _batch_norm_of_rows(norm, z, alive) if rows else normalize_joint(norm, z, alive, training=True)
        want = expected(z)
        torch.testing.assert_close(got, want)
        weight = torch.randn_like(z)
        torch.testing.assert_close(*(torch.autograd.grad(y, z, weight)[0] for y in (got, want)))
        torch.testing.assert_close(norm.state_dict(), expected.state_dict())


def test_dead_rows_change_nothing_for_the_living_each_segment_by_itself():
    norm, _ = norms(6)
    alive = torch.tensor([[1, 1], [0, 1], [1, 0], [1, 1]]).bool()
    z = torch.randn(4, 2, 3, dtype=torch.float64)
    z[~alive] = float("nan")
    got = normalize_joint(norm, z.flatten(1), alive, training=True).view_as(z)
    assert torch.isfinite(got).all()
    for s, rows in enumerate(([0, 2, 3], [0, 1, 3])):
        part = slice(3 * s, 3 * s + 3)
        real = z[rows, s]
        want = (real - real.mean(0)) / (real.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight[part] + norm.bias[
            part
        ]
        torch.testing.assert_close(got[rows, s], want)
        torch.testing.assert_close(norm.running_mean[part], 0.1 * real.mean(0))
        torch.testing.assert_close(norm.running_var[part], 0.9 + 0.1 * real.var(0, unbiased=True))


def test_evaluation_uses_running_statistics_and_keeps_them():
    norm, expected = norms(6)
    norm.running_mean.normal_()
    expected.load_state_dict(norm.state_dict())
    z = torch.randn(1, 6).double()
    torch.testing.assert_close(normalize_joint(norm.eval(), z, None, training=False), expected.eval()(z))
    assert norm.num_batches_tracked == 0


def test_group_norm_is_a_layer_norm_of_each_segment():
    norm = nn.GroupNorm(2, 6)
    nn.init.normal_(norm.weight)
    z = torch.randn(4, 2, 3)
    got = normalize_joint(norm, z.flatten(1), None, training=True).view_as(z)
    for s in range(2):
        want = nn.functional.layer_norm(z[:, s], (3,), norm.weight[3 * s : 3 * s + 3], norm.bias[3 * s : 3 * s + 3])
        torch.testing.assert_close(got[:, s], want)
