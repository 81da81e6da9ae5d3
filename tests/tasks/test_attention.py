"""Protects the shares of attention: they are those of MSAF on the maps that it gets, and looking changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchmsaf import MSAF
from torchmsaf.backbones import ConvNet, VectorNet
from torchmsaf.tasks.attention import modality_attention
from torchmsaf.tasks.network import FusedNetwork

B, K = 4, 3


def fused(method: str = "msaf", **options: object) -> FusedNetwork:
    torch.manual_seed(0)
    networks = {"a": ConvNet((2, 40), K, width=8), "b": VectorNet((5,), K, width=12)}
    network = FusedNetwork(networks, method, outputs=K, options=options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    for point in network.points.children():
        if isinstance(point, MSAF):
            nn.init.constant_(point.norm.bias, 3)  # joint representations are alive
    return network


def inputs() -> list[Tensor]:
    return [torch.randn(B, 2, 40), torch.randn(B, 5)]


def test_shares_are_those_of_msaf_on_the_maps_between_the_stages() -> None:
    network, values = fused().eval(), inputs()
    shares = modality_attention(network, values)
    assert len(shares) == len(network.points) == 2
    maps = list(values)
    for k, point in enumerate(network.points):
        maps = [net.stages[k](x) for net, x in zip(network.networks.values(), maps, strict=True)]
        attention = point.attention(maps)
        # (B, 1, N_m, C): all blocks of a modality, the mean over channels
        expected = [torch.stack([one[b, 0].sum(0).mean() for b in range(B)]) for one in attention]
        torch.testing.assert_close(shares[k], torch.stack(expected, dim=1))
        torch.testing.assert_close(shares[k].sum(1), torch.ones(B))
        maps = point(maps)
    assert shares[0].std(0).min() > 0  # each sample has its own


def test_even_attention_is_shared_by_blocks() -> None:
    """A fresh identity start: 8 and 12 channels in blocks of 4 are 2 and 3 of 5 blocks."""
    shares = modality_attention(fused(identity_start=True), inputs())
    torch.testing.assert_close(shares[0], torch.tensor([[2 / 5, 3 / 5]]).expand(B, 2))


def test_segments_are_averaged() -> None:
    networks = {name: ConvNet((2, 40), K, width=8) for name in "ab"}
    network = FusedNetwork(networks, "msaf", outputs=K, options={"segments": 2})
    values = [torch.randn(B, 2, 40) for _ in range(2)]
    for share in modality_attention(network, values):
        torch.testing.assert_close(share.sum(1), torch.ones(B))


@pytest.mark.parametrize("method", ["concat", "averaging", "mmtm"])
def test_other_methods_have_none(method: str) -> None:
    network = fused(method)
    network.register_forward_pre_hook(lambda *_: pytest.fail("it need not run"))
    assert modality_attention(network, inputs()) == []


def test_looking_leaves_no_trace() -> None:
    network, values = fused().train(), inputs()
    network.networks["a"].eval()  # frozen, as in fine-tuning
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    shares = modality_attention(network, values)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert not shares[0].requires_grad
    for one, other in zip(shares, modality_attention(network.eval(), values), strict=True):
        assert torch.equal(one, other)


def test_a_network_that_fails_leaves_no_trace_either() -> None:
    network = fused().train()
    with pytest.raises(RuntimeError):
        modality_attention(network, [torch.randn(B, 2, 40), torch.randn(B, 6)])
    assert all(module.training and not module._forward_pre_hooks for module in network.modules())
