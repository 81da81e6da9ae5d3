"""Protects what actions are recognized with: the paper's sizes and options, presets, and networks for any skeleton."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchmsaf.backbones.hcn import HCN
from torchmsaf.backbones.i3d import I3D
from torchmsaf.backbones.inflated_resnet import InflatedResNet50
from torchmsaf.errors import DataError, FusionInputError
from torchmsaf.tasks.action import (
    KINDS,
    MSAF,
    NETWORKS,
    PLACEMENTS,
    PRESETS,
    STEPS,
    network_options,
    preset_of,
    rgb_network,
    skeleton_network,
)
from torchmsaf.tasks.network import FusedNetwork


def size_of(network: torch.nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def clip_shape(preset: str, rgb: str) -> tuple[int, ...]:
    sizes = PRESETS[preset]
    return (3, sizes.frames[rgb], sizes.size, sizes.size)


@pytest.mark.parametrize(("rgb", "frames", "parameters"), [("i3d", 32, 12_348_764), ("resnet50", 8, 46_265_468)])
def test_the_full_preset_is_the_papers(rgb: str, frames: int, parameters: int) -> None:
    options = network_options("full", rgb)
    assert options == {"rgb": {"kind": rgb}, "skeleton": {}}
    assert clip_shape("full", rgb) == (3, frames, 224, 224)
    assert PRESETS["full"].stored == 256
    with torch.device("meta"):
        network = rgb_network(clip_shape("full", rgb), 60, **options["rgb"])
        skeleton = skeleton_network((3, STEPS, 25, 2), 60, **options["skeleton"])
    assert type(network) is {"i3d": I3D, "resnet50": InflatedResNet50}[rgb]
    assert size_of(network) == parameters
    assert size_of(skeleton) == 1_062_652


@pytest.mark.parametrize("rgb", KINDS)
def test_the_small_preset_has_the_same_stages_and_a_fraction_of_the_parameters(rgb: str) -> None:
    options = network_options("small", rgb)
    network = rgb_network(clip_shape("small", rgb), 60, **options["rgb"])
    skeleton = skeleton_network((3, STEPS, 25, 2), 60, **options["skeleton"])
    with torch.device("meta"):
        full = rgb_network(clip_shape("full", rgb), 60, **network_options("full", rgb)["rgb"])
        full_skeleton = skeleton_network((3, STEPS, 25, 2), 60)
    for one, whole in ((network, full), (skeleton, full_skeleton)):
        assert one.names == whole.names
        assert one.placements == whole.placements
        assert size_of(one) < size_of(whole) / 10
    assert PRESETS["small"].size < PRESETS["small"].stored < PRESETS["full"].stored
    fused = FusedNetwork({"rgb": network, "skeleton": skeleton}, "msaf", outputs=60, options=MSAF).eval()
    with torch.no_grad():
        inputs = [torch.randn(2, *clip_shape("small", rgb)), torch.randn(2, 3, STEPS, 25, 2)]
        assert fused(inputs, None, [None, torch.tensor([1, 2])]).prediction.shape == (2, 60)


def test_places_are_those_of_table_5_and_both_networks_have_them() -> None:
    assert len(PLACEMENTS) == len(set(PLACEMENTS)) == 7
    assert {word for places in PLACEMENTS for word in places} == {"early", "intermediate", "late"}
    with torch.device("meta"):
        networks = [rgb_network((3, 8, 56, 56), 60, kind=kind) for kind in KINDS]
        networks += [skeleton_network((3, STEPS, 25, 2), 60)]
    for network in networks:
        assert list(network.placements) == ["early", "intermediate", "late"]
    assert networks[0].placements["intermediate"] == "mixed_5b"
    assert networks[1].placements["intermediate"] == "layer3"
    assert networks[2].placements["intermediate"] == "conv5"
    assert MSAF == {"min_attention": 0.5, "reduction": 4}
    assert list(NETWORKS) == ["rgb", "skeleton"]


@pytest.mark.parametrize(
    ("parameters", "preset"),
    [
        ({"size": 256, "modalities": ["rgb", "skeleton"]}, "full"),
        ({"size": 64, "modalities": ["rgb"]}, "small"),
        ({"size": 64}, "small"),
        ({"size": 64, "modalities": ["skeleton"]}, "full"),
        ({"size": 100, "modalities": ["skeleton"]}, "full"),
    ],
)
def test_a_preset_is_found_by_the_size_of_the_prepared_frames(parameters: dict[str, Any], preset: str) -> None:
    assert preset_of(parameters) == preset


@pytest.mark.parametrize("parameters", [{"size": 100}, {}, {"size": None, "modalities": ["rgb", "skeleton"]}])
def test_frames_of_no_preset_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="and presets are for 256 or 64: prepare with such a --size"):
        preset_of(parameters)


def test_checkpointing_is_of_the_rgb_network_alone() -> None:
    options = network_options("small", "i3d", checkpointing=True)
    assert options["rgb"]["checkpointing"] is True
    assert options["skeleton"] == network_options("small", "i3d")["skeleton"]
    assert "checkpointing" not in network_options("small", "i3d")["rgb"]
    # what is returned is the caller's own
    options["skeleton"]["widths"] = []
    assert network_options("small", "i3d")["skeleton"]["widths"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"preset": "tiny"}, "there is no preset 'tiny': choose full or small"),
        ({"rgb": "vgg"}, "there is no RGB network 'vgg': choose i3d or resnet50"),
    ],
)
def test_what_no_network_has_is_said(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        network_options(**{"preset": "small", "rgb": "i3d", **arguments})


@pytest.mark.parametrize(("channels", "joints", "persons"), [(3, 25, 2), (2, 17, 1), (4, 11, 3)])
def test_a_skeleton_network_takes_any_coordinates_joints_and_persons(channels: int, joints: int, persons: int) -> None:
    network = skeleton_network((channels, 16, joints, persons), 5, **PRESETS["small"].skeleton).eval()
    assert isinstance(network, HCN)
    fused = FusedNetwork({"skeleton": network}, None, outputs=5).eval()
    with torch.no_grad():
        x = torch.randn(3, channels, 16, joints, persons)
        assert fused([x], None, [torch.tensor([persons, 1, 1])]).prediction.shape == (3, 5)


@pytest.mark.parametrize(
    ("build", "shape", "options", "said"),
    [
        (rgb_network, (3, 8, 56), {}, r"expected clips \(3, T, H, W\), got \(3, 8, 56\)"),
        (rgb_network, (1, 8, 56, 56), {}, r"expected clips \(3, T, H, W\), got \(1, 8, 56, 56\)"),
        (rgb_network, (3, 8, 56, 56), {"kind": "c3d"}, "kind is 'c3d'; 'i3d' or 'resnet50' is needed"),
        (skeleton_network, (3, 32, 25), {}, r"expected skeletons \(C, T, V, persons\), got \(3, 32, 25\)"),
    ],
)
def test_networks_of_other_data_are_refused(build: Any, shape: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        build(shape, 5, **options)
