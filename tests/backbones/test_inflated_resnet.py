"""Protects the inflated ResNet-50: its published size, shapes and names, and that it is the image network inflated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tasks.norms import randomized
from torchmsaf.backbones import InflatedResNet50
from torchmsaf.backbones.inflated_resnet import centre_inflate
from torchmsaf.errors import FusionInputError

SMALL: dict[str, Any] = {"blocks": (1, 2, 1, 1), "width": 4}


def bare() -> InflatedResNet50:
    with torch.device("meta"):
        return InflatedResNet50(60)


def small(**options: Any) -> InflatedResNet50:
    torch.manual_seed(0)
    network = InflatedResNet50(5, **{**SMALL, **options}).double()
    randomized(network)
    return network


def image_state(network: InflatedResNet50) -> dict[str, Tensor]:
    """A state dict as torchvision has it, of the same sizes and random."""
    torch.manual_seed(1)
    state = {}
    for key, value in network.cnn.state_dict().items():
        shape = value.shape
        if len(shape) == 5:
            shape = (*shape[:2], *shape[3:])
        state[key] = torch.rand(shape, dtype=torch.float64) / 2 if value.is_floating_point() else value.clone()
    state["fc.weight"], state["fc.bias"] = torch.zeros(10, network.width), torch.zeros(10)
    return state


def image_network(x: Tensor, state: dict[str, Tensor], blocks: tuple[int, ...]) -> Tensor:
    """ResNet v1.5 on images, up to the maps after the last layer."""

    def normed(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    x = F.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(normed(x, "bn1").relu(), 3, 2, 1)
    for layer, number in enumerate(blocks, start=1):
        for i in range(number):
            name = f"layer{layer}.{i}"
            stride = 2 if layer > 1 and i == 0 else 1
            y = normed(F.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1").relu()
            y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = F.conv2d(normed(y, f"{name}.bn2").relu(), state[f"{name}.conv3.weight"])
            if i == 0:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = normed(x, f"{name}.downsample.1")
            x = (normed(y, f"{name}.bn3") + x).relu()
    return x


def maps_of(network: InflatedResNet50, x: Tensor) -> Tensor:
    for stage in network.stages:
        x = stage(x)
    return x


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in bare().parameters()) == 46_265_468


def test_shapes_of_the_published_clips() -> None:
    network, x, found = bare(), torch.empty(2, 3, 8, 224, 224, device="meta"), []
    for stage in network.stages:
        x = stage(x)
        found.append(tuple(x.shape[1:]))
    assert found == [(256, 8, 56, 56), (512, 8, 28, 28), (1024, 8, 14, 14), (2048, 8, 7, 7)]
    assert network.feature(x).shape == (2, 2048)
    assert network.head(network.feature(x)).shape == (2, 60)


def test_the_state_dict_has_the_published_names() -> None:
    def norm(name: str) -> list[str]:
        return [f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    expected = ["cnn.conv1.weight", *norm("cnn.bn1")]
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for i in range(blocks):
            for part in (1, 2, 3):
                expected += [f"cnn.layer{layer}.{i}.conv{part}.weight", *norm(f"cnn.layer{layer}.{i}.bn{part}")]
            if i == 0:
                expected += [f"cnn.layer{layer}.0.downsample.0.weight", *norm(f"cnn.layer{layer}.0.downsample.1")]
    expected += ["classifier.weight", "classifier.bias"]
    state = bare().state_dict()
    assert len(expected) == 320
    assert sorted(state) == sorted(expected)
    assert state["cnn.conv1.weight"].shape == (64, 3, 7, 7)
    assert state["cnn.layer1.0.conv2.weight"].shape == (64, 64, 3, 3, 3)
    assert state["cnn.layer4.0.downsample.0.weight"].shape == (2048, 1024, 1, 1, 1)
    assert state["classifier.weight"].shape == (60, 2048)


@pytest.mark.parametrize("how", ["centre", "mean"])
def test_equal_frames_are_the_image_network(how: str) -> None:
    network = small()
    state = image_state(network)
    missing, unexpected = network.load_state_dict(centre_inflate(state, how=how), strict=False)
    assert missing == ["classifier.weight", "classifier.bias"]
    assert not unexpected
    image = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    # the mean over steps reads zeros beyond the ends: one frame more at each of five 3 x 3 x 3 convolutions
    steps, middle = (3, slice(None)) if how == "centre" else (13, slice(6, 7))
    maps = maps_of(network, image[:, :, None].expand(-1, -1, steps, -1, -1))[:, :, middle]
    expected = image_network(image, state, SMALL["blocks"])[:, :, None]
    torch.testing.assert_close(maps, expected.expand_as(maps))


def test_centre_inflation_leaves_frames_apart_and_others_do_not() -> None:
    network = small()
    x = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 3] += 1
    mixes = (maps_of(network, x) - maps_of(network, changed))[:, :, 0].abs().max()
    network.load_state_dict(centre_inflate(image_state(network)), strict=False)
    assert mixes > 0
    torch.testing.assert_close(maps_of(network, x)[:, :, :3], maps_of(network, changed)[:, :, :3])


def test_the_published_network_takes_the_state_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        image = torchvision.models.resnet50()
    inflated = centre_inflate(image.state_dict())
    own = bare().state_dict()
    assert {key: value.shape for key, value in inflated.items()} == {
        key: value.shape for key, value in own.items() if not key.startswith("classifier.")
    }


def test_inflated_kernels() -> None:
    kernel = torch.rand(2, 2, 3, 3)
    key = "layer1.0.conv2.weight"
    centre = centre_inflate({key: kernel})[f"cnn.{key}"]
    mean = centre_inflate({key: kernel}, how="mean")[f"cnn.{key}"]
    assert torch.equal(centre[:, :, 1], kernel)
    assert not centre[:, :, [0, 2]].any()
    torch.testing.assert_close(mean.sum(2), kernel)
    assert torch.equal(mean[:, :, 0], mean[:, :, 2])


@pytest.mark.parametrize(
    ("state", "options", "said"),
    [
        ({"conv1.weight": torch.zeros(4, 3, 7, 7)}, {"how": "middle"}, "how is"),
        ({"features.0.weight": torch.zeros(1)}, {}, "features.0.weight"),
        ({"layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1, 1)}, {}, "four axes"),
        ({"conv1.weight": torch.zeros(4, 3, 7, 7, 7)}, {}, "four axes"),
        ({"fc.bias": torch.zeros(4)}, {}, "no entries"),
    ],
)
def test_states_of_other_networks_are_refused(state: dict[str, Tensor], options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        centre_inflate(state, **options)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 40)])
def test_clips_of_any_size_keep_their_frames(shape: tuple[int, int, int]) -> None:
    network = small()
    maps = maps_of(network, torch.randn(2, 3, *shape, dtype=torch.float64))
    assert maps.shape[:3] == (2, network.width, shape[0])
    torch.testing.assert_close(network.feature(maps), maps.flatten(2).mean(2))


def test_as_a_staged_network_it_says_where_fusions_stand() -> None:
    network = bare()
    assert network.channels == (256, 512, 1024, 2048)
    assert network.width == 2048
    assert dict(network.placements) == {"early": "layer2", "intermediate": "layer3", "late": "layer4"}
    assert set(network.taps) <= {*network.names, "feature"}
    assert len(network.names) == len(network.stages) == len(network.streams)


def test_weights_begin_as_published() -> None:
    """Normal, of the variance 2 / (k0 k1 outputs); k0 and k1 are the first two sides of the kernel."""
    torch.manual_seed(0)
    network = InflatedResNet50(2, width=32, blocks=(1, 1, 1, 1))
    found = network.cnn.layer3[0].conv2.weight.detach().std()
    assert abs(float(found) / math.sqrt(2 / (9 * 128)) - 1) < 0.02


def test_checkpointing_changes_no_gradient() -> None:
    plain, sparing = small(), small(checkpointing=True)
    x = torch.randn(2, 3, 2, 32, 32, dtype=torch.float64)
    for network in (plain, sparing):
        network.train()(x).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outputs": 0}, "outputs"),
        ({"blocks": (1, 1, 1)}, "four layers"),
        ({"blocks": (1, 1, 0, 1)}, "blocks"),
        ({"width": 0}, "width"),
        ({"checkpointing": 1}, "checkpointing"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        InflatedResNet50(**{"outputs": 2, **options})


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 4, 16, 16)])
def test_what_is_no_clip_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FusionInputError, match="expected clips"):
        small()(torch.zeros(shape, dtype=torch.float64))
