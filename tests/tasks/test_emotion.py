"""Protects the paper's first application: its networks, its two points of fusion, and the same values as a graft."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.tasks.norms import randomized
from torchmsaf import MSAF, FusionPoint, graft
from torchmsaf.backbones import MFCCNet, ResNeXt3D
from torchmsaf.errors import DataError, FusionInputError
from torchmsaf.tasks.emotion import AUGMENT, NETWORKS, PRESETS, TOP_K, audio_network, preset_of, video_network
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec
from torchmsaf.tasks.network import FusedNetwork

VIDEO, AUDIO = (3, 30, 224, 224), (13, 212)
SMALL = {"blocks": [1, 1, 1, 1], "width": 8, "cardinality": 4}


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def published() -> FusedNetwork:
    specs = {"video": NetworkSpec(VIDEO, NETWORKS["video"]), "audio": NetworkSpec(AUDIO, NETWORKS["audio"])}
    return ModelSpec(specs, "msaf", 8, {"block_dropout": 0.2}).build()


def test_the_networks_and_the_fused_one_have_the_published_numbers_of_parameters(published: FusedNetwork) -> None:
    assert {name: numbers(net) for name, net in published.networks.items()} == {"video": 25_882_056, "audio": 34_024}
    assert numbers(published) == 25_940_724
    assert sum(p.numel() for p in published.fusion_parameters()) == 25_940_724 - 25_882_056 - 34_024


def test_the_points_are_those_of_the_paper(published: FusedNetwork) -> None:
    points = [(point.channels, point.block_channels, point.block_dropout.p) for point in published.points]
    assert points == [((1024, 32), 16, 0.2), ((2048, 64), 32, 0.2)]
    assert all(isinstance(point, MSAF) and point.segments == 1 for point in published.points)


def small(method: str = "msaf") -> FusedNetwork:
    """Eight outputs of a narrow network of the same make, all of whose norms do something in evaluation."""
    torch.manual_seed(0)
    networks = {"video": video_network((3, 4, 32, 32), 8, **SMALL), "audio": audio_network(AUDIO, 8)}
    network = FusedNetwork(networks, method, outputs=8, options={"block_dropout": 0.2} if method == "msaf" else {})
    randomized(network)
    return network


def inputs() -> list[Tensor]:
    return [torch.randn(2, 3, 4, 32, 32), torch.randn(2, *AUDIO)]


@torch.no_grad()
def test_the_logits_of_the_two_networks_are_summed() -> None:
    network, values = small(), inputs()
    fused = network(values)
    torch.testing.assert_close(fused.prediction, fused.parts[0] + fused.parts[1])
    alone = [net(x) for net, x in zip(network.networks.values(), values, strict=True)]
    assert all(not torch.allclose(part, own, rtol=1e-3) for part, own in zip(fused.parts, alone, strict=True))


@torch.no_grad()
def test_the_fused_network_is_a_graft_at_the_layers_that_the_paper_names() -> None:
    network, values = small(), inputs()
    networks = {name: copy.deepcopy(net) for name, net in network.networks.items()}
    layers = ({"video": "layer3", "audio": "relu2"}, {"video": "layer4", "audio": "bn3"})
    points = [FusionPoint(layer, point) for layer, point in zip(layers, network.points, strict=True)]
    grafted = graft(networks, points).eval()({"video": values[0], "audio": values[1]})
    torch.testing.assert_close(grafted, network(values).prediction)


def test_augmentation_is_of_the_video_and_the_accuracies_are_those_of_the_published_code() -> None:
    assert list(AUGMENT) == ["video"]
    assert TOP_K == (2, 4)


@pytest.mark.parametrize(("name", "frames", "size"), [("full", 30, 224), ("small", 8, 112)])
def test_a_preset_is_known_by_its_sizes(name: str, frames: int, size: int) -> None:
    assert preset_of({"frames": frames, "size": size, "sampling": "uniform"}) == name


def test_the_full_preset_is_the_published_network_and_the_small_one_can_be_built() -> None:
    assert not PRESETS["full"].video
    count = numbers(video_network(VIDEO, 8, **PRESETS["small"].video))
    assert 700_000 < count < 900_000  # "0.8 million"


def test_sizes_of_no_preset() -> None:
    words = r"the clips have 30 frames of 112 x 112, which is no preset: say with --preset .*, full or small"
    with pytest.raises(DataError, match=words):
        preset_of({"frames": 30, "size": 112})
    with pytest.raises(DataError, match="None frames of None x None, which is no preset"):
        preset_of({})


def test_networks_are_for_their_shapes() -> None:
    assert isinstance(video_network((3, 1, 16, 16), 2, **SMALL), ResNeXt3D)
    assert isinstance(audio_network((5, 30), 2), MFCCNet)
    assert audio_network((5, 30), 2).coefficients == 5
    with pytest.raises(FusionInputError, match=r"expected clips \(3, T, H, W\), got \(1, 8, 16, 16\)"):
        video_network((1, 8, 16, 16), 2)
    with pytest.raises(FusionInputError, match=r"expected coefficients \(F, T\), got \(3, 5, 6\)"):
        audio_network((3, 5, 6), 2)
