"""What is absent cannot hurt the network either, and what cannot be told apart is asked."""

import pytest
import torch
from torch import nn

from torchmsaf import FusionPoint, GraftError, Tap, graft
from torchmsaf.grafting import describe


def conv(width):
    return nn.Sequential(nn.Conv1d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 4))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_garbage_in_an_absent_sample_reaches_no_gradient(garbage):
    networks = {"a": conv(8), "b": conv(12)}
    clean = {"a": torch.randn(4, 3, 9), "b": torch.randn(4, 3, 7)}
    clean["b"][1] = 0
    dirty = {"a": clean["a"], "b": clean["b"].clone()}
    dirty["b"][1] = garbage
    present = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]]).bool()
    model = graft(networks, [FusionPoint({"a": "0", "b": "0"})], example=clean)
    results = []
    for inputs in (clean, dirty):
        loss = model(inputs, present=present).square().sum()
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


class Turned(nn.Module):
    """Steps first from some layer on, which no layer's class says."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 12, batch_first=True)
        self.seen = nn.Identity()
        self.out = nn.Linear(12, 4)

    def forward(self, x):
        return self.out(self.seen(self.rnn(x)[0].transpose(0, 1)).mean(0))


def test_samples_and_steps_that_cannot_be_told_apart_are_an_error_that_asks():
    example = {"a": torch.randn(6, 6, 5)}
    with pytest.raises(
        GraftError, match=r"network 'a', layer 'seen'.*\(6, 6, 12\).*another number of samples, or say Tap"
    ):
        graft({"a": Turned()}, [FusionPoint({"a": "seen"})], example=example)
    told = graft({"a": Turned()}, [FusionPoint({"a": Tap("seen", layout="TBC")})], example=example)
    assert told._plan[0][0].layouts == {3: "TBC"}
    # a recurrent layer says itself, and other numbers of samples can be told apart
    graft({"a": Turned()}, [FusionPoint({"a": "rnn"})], example=example)
    found = graft({"a": Turned()}, [FusionPoint({"a": "seen"})], example={"a": torch.randn(4, 6, 5)})
    assert found._plan[0][0].layouts == {3: "TBC"}
    describe({"a": Turned()}, example)


def test_ungraft_unfreezes():
    model = graft({"a": conv(8)}, [FusionPoint({"a": "0"})], example={"a": torch.randn(2, 3, 9)})
    assert all(p.requires_grad for p in model.freeze().ungraft()["a"].parameters())


def test_a_misspelt_option_says_what_there_is():
    with pytest.raises(GraftError, match=r"blockdropout.*its arguments are: channels, block_channels"):
        graft({"a": conv(8)}, [FusionPoint({"a": "0"}, blockdropout=0.2)], example={"a": torch.randn(2, 3, 9)})
