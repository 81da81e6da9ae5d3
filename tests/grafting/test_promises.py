"""Several layers of one network at one point: parallel branches are fused both, and what is used too early is an error."""

import pytest
import torch
from torch import nn

from torchmsaf import MSAF, FusionPoint, GraftError, Tap, graft
from torchmsaf.grafting.promises import Promise


class TwoBranches(nn.Module):
    """Both branches run before either is used, and are used in several ways."""

    def __init__(self):
        super().__init__()
        self.slow = nn.Conv1d(3, 8, 1)
        self.fast = nn.Conv1d(3, 10, 1)
        self.slow_out = nn.Linear(8, 4)
        self.fast_out = nn.Linear(10, 4)

    def forward(self, x):
        slow = self.slow(x)
        fast = self.fast(x)
        assert slow.shape == (len(x), 8, x.shape[2])  # asking for the shape is not using it
        return self.join(slow, fast)

    def join(self, slow, fast):
        both = torch.cat([slow, fast], 1).amax((1, 2))[:, None]
        return self.slow_out(slow.relu().mean(2)) + self.fast_out((1 + fast).mean(2)) + both


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(3, 8, 1)
        self.second = nn.Conv1d(8, 12, 1)
        self.out = nn.Linear(12, 4)

    def forward(self, x):
        return self.out(self.second(self.first(x)).mean(2))


@pytest.fixture
def example():
    return {"two": torch.randn(4, 3, 5), "chain": torch.randn(4, 3, 9)}


def test_parallel_branches_are_fused_both_as_if_written_by_hand(example):
    two, chain, fusion = TwoBranches(), Chain(), MSAF((8, 10, 12))
    taps = {"two": ["slow", "fast"], "chain": "second"}
    model = graft({"two": two, "chain": chain}, [FusionPoint(taps, fusion)], example=example)
    got = model(example)
    second = chain.second(chain.first(example["chain"]))
    slow, fast, second = fusion([two.slow(example["two"]), two.fast(example["two"]), second])
    by_hand = two.join(slow, fast) + chain.out(second.mean(2))
    assert torch.equal(got, by_hand)
    wanted = torch.autograd.grad(by_hand.square().sum(), list(model.parameters()))
    given = torch.autograd.grad(got.square().sum(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(given, wanted, strict=True))


def test_the_order_of_the_taps_is_the_fusions_and_not_the_order_in_which_they_run(example):
    seen = []

    def look(maps):
        seen.append([m.shape[1] for m in maps])
        return maps

    taps = {"two": ["fast", "slow"], "chain": "first"}
    graft({"two": TwoBranches(), "chain": Chain()}, [FusionPoint(taps, look)], example=example)(example)
    assert seen[-1] == [10, 8, 8]


def test_parallel_branches_change_no_bit_with_an_identity(example):
    two = TwoBranches()
    wanted = two(example["two"])
    taps = {"two": ["slow", "fast"], "chain": "second"}
    model = graft({"two": two, "chain": Chain()}, [FusionPoint(taps, lambda maps: maps)], head=None, example=example)
    assert torch.equal(model(example)["two"], wanted)


def test_a_layer_that_is_used_before_the_further_one_runs_is_an_error_of_graft_that_leaves_no_hooks(example):
    networks = {"two": TwoBranches(), "chain": Chain()}
    with pytest.raises(
        GraftError, match=r"network 'chain', layer 'first': it is used before.*Tap\('first', read_only=True\)"
    ):
        graft(networks, [FusionPoint({"chain": ["first", "second"], "two": "slow"})], example=example)
    assert not any(layer._forward_hooks for network in networks.values() for layer in network.modules())


def test_a_layer_that_is_only_read_goes_into_the_fusion_and_stays_as_it_is(example):
    two, chain, fusion = TwoBranches(), Chain(), MSAF((8, 12, 8))
    taps = {"chain": [Tap("first", read_only=True), "second"], "two": "slow"}
    model = graft({"two": two, "chain": chain}, [FusionPoint(taps, fusion)], head=None, example=example)
    first = chain.first(example["chain"])
    _, second, _ = fusion([first, chain.second(first), two.slow(example["two"])])
    assert torch.equal(model(example)["chain"], chain.out(second.mean(2)))


def test_without_an_example_several_layers_of_a_network_need_one():
    with pytest.raises(GraftError, match="which of 'slow', 'fast' of network 'two' runs last is read from the example"):
        graft({"two": TwoBranches()}, [FusionPoint({"two": ["slow", "fast"]}, MSAF((8, 6), reduction=1))])


def test_several_layers_at_each_call_are_refused(example):
    with pytest.raises(GraftError, match="none is fused at each call"):
        graft(
            {"two": TwoBranches()},
            [FusionPoint({"two": [Tap("slow", call="each"), "fast"]})],
            example={"two": example["two"]},
        )


def test_parallel_branches_in_a_traced_graph(example):
    taps = {"two": ["slow", "fast"], "chain": "second"}
    model = graft({"two": TwoBranches(), "chain": Chain()}, [FusionPoint(taps)], example=example).eval()
    program = torch.export.export(model, (example,))
    torch.testing.assert_close(program.module()(example), model(example), atol=0, rtol=0)


def test_a_promise_is_its_tensor_once_it_is_kept():
    promise = Promise(torch.zeros(2, 3), "too early")
    assert promise.dim() == 2
    assert promise.dtype == torch.float32
    with pytest.raises(GraftError, match="too early"):
        promise + 1
    promise.kept = torch.ones(2, 3)
    for result in (promise + 1, 1 + promise, torch.add(promise, 1), torch.stack([promise + 1])[0]):
        assert type(result) is torch.Tensor
        assert torch.equal(result, torch.full((2, 3), 2.0))
