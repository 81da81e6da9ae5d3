"""Protects the paper's second application: its networks, its one point of fusion, and the one layer that predicts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tasks.norms import randomized
from torchmsaf import MSAF
from torchmsaf.backbones.lstm_net import LSTMNet
from torchmsaf.tasks import sentiment
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec
from torchmsaf.tasks.network import FusedNetwork

SHAPES = {"video": (35, 50), "audio": (74, 50), "text": (768, 50)}
SMALL = {"video": (3, 12), "audio": (4, 12), "text": (5, 12)}


def build(shapes: dict[str, tuple[int, int]], tokens: dict[str, int] | None = None) -> FusedNetwork:
    torch.manual_seed(0)
    options = sentiment.network_options(tokens or {})
    specs = {name: NetworkSpec(shape, sentiment.NETWORKS[name], options[name]) for name, shape in shapes.items()}
    network = ModelSpec(specs, "msaf", 1, sentiment.MSAF, regression=True, decision="joint").build()
    assert isinstance(network, FusedNetwork)
    return network


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_fused_network_has_the_published_number_of_parameters() -> None:
    network = build(SHAPES)
    assert numbers(network) == 689_337
    assert numbers(network.networks) == 678_272
    assert [numbers(point) for point in network.points] == [10_840]
    assert numbers(network.decide) == 32 + 64 + 128 + 1


def test_the_point_is_that_of_the_paper() -> None:
    """Between the LSTMs: five segments, blocks of 16 channels, r = 2 for three modalities, BlockDropout of 0.2."""
    (point,) = build(SHAPES).points
    assert isinstance(point, MSAF)
    assert (point.channels, point.segments) == ((32, 64, 128), 5)
    assert (point.block_channels, point.reduction, point.block_dropout.p) == (16, 2, 0.2)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_it_is_two_lstms_with_msaf_between_and_one_linear_layer_on_the_last_states(padded: bool) -> None:
    network = build(SMALL)
    randomized(network)
    network.eval()
    inputs = [torch.randn(3, *shape) for shape in SMALL.values()]
    lengths = torch.tensor([12, 7, 1])
    nets = [net for net in network.networks.values() if isinstance(net, LSTMNet)]
    real = torch.arange(12) < lengths[:, None]
    for x in inputs:
        x.masked_fill_(~real[:, None], 0)
    ends = lengths if padded else torch.full((3,), 12)
    maps: list[Tensor] = []
    for net, x in zip(nets, inputs, strict=True):
        states = net.lstm1(x.transpose(1, 2))[0].transpose(1, 2)
        maps.append(torch.where(real[:, None], states, 0) if padded else states)
    fused = network.points[0](maps, masks=[real] * 3) if padded else network.points[0](maps)
    last = []
    for net, x in zip(nets, fused, strict=True):
        rows = [net.lstm2(x[i : i + 1, :, : ends[i]].transpose(1, 2))[0][0, -1] for i in range(3)]
        last.append(torch.stack(rows))
    (weight, bias) = network.decide.state_dict().values()
    expected = torch.cat(last, 1) @ weight.T + bias
    found = network(inputs, None, [lengths] * 3 if padded else None)
    torch.testing.assert_close(found.prediction, expected, rtol=1e-4, atol=1e-5)
    assert found.parts == ()


def test_words_are_as_wide_as_glove_and_all_else_is_as_it_was() -> None:
    assert sentiment.network_options({}) == {"video": {"hidden": 32}, "audio": {"hidden": 64}, "text": {"hidden": 128}}
    assert sentiment.network_options({"text": 9}) == {
        "video": {"hidden": 32},
        "audio": {"hidden": 64},
        "text": {"hidden": 128, "vocabulary": 9, "embedding": 300},
    }
    network = build({**SMALL, "text": (1, 12)}, {"text": 9})
    text = network.networks["text"]
    assert tuple(text.words.vectors.weight.shape) == (9, 300)
    assert text.lstm1.input_size == 300
    with torch.no_grad():
        inputs = [torch.randn(2, 3, 12), torch.randn(2, 4, 12), torch.randint(2, 9, (2, 1, 12)).float()]
        assert network.eval()(inputs).prediction.shape == (2, 1)
