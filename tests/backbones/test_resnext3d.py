"""Protects the 3D ResNeXt-50: its published size, shapes, names and formula, on clips of any length and size."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tasks.norms import randomized
from torchmsaf.backbones import ResNeXt3D
from torchmsaf.backbones.resnext3d import ResNeXtBlock
from torchmsaf.errors import FusionInputError

PUBLISHED_SHAPES = {
    "conv1": (64, 30, 112, 112),
    "relu": (64, 30, 112, 112),
    "maxpool": (64, 15, 56, 56),
    "layer1": (256, 15, 56, 56),
    "layer2": (512, 8, 28, 28),
    "layer3": (1024, 4, 14, 14),
    "layer4": (2048, 2, 7, 7),
    "avgpool": (2048, 1, 1, 1),
    "fc": (8,),
}


@pytest.fixture(scope="module")
def network() -> ResNeXt3D:
    torch.manual_seed(0)
    return ResNeXt3D(8)


def bare() -> ResNeXt3D:
    with torch.device("meta"):
        return ResNeXt3D(8)


def shapes_of(network: nn.Module, x: Tensor, names: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's output without the batch."""
    found: dict[str, tuple[int, ...]] = {}

    def keep(name: str):
        return lambda module, inputs, output: found.update({name: tuple(output.shape[1:])})

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    network(x)
    for handle in handles:
        handle.remove()
    return found


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    wide = (1, -1, 1, 1, 1)
    scaled = (x - mean.view(wide)) / (var.view(wide) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"].view(wide) + state[f"{name}.bias"].view(wide)


def block_by_formula(x: Tensor, state: dict[str, Tensor], stride: int) -> Tensor:
    y = normed(F.conv3d(x, state["conv1.weight"]), state, "bn1").clamp(min=0)
    groups = [
        F.conv3d(part, weight, stride=stride, padding=1)
        for part, weight in zip(y.chunk(32, 1), state["conv2.weight"].chunk(32, 0), strict=True)
    ]
    y = normed(torch.cat(groups, 1), state, "bn2").clamp(min=0)
    y = normed(F.conv3d(y, state["conv3.weight"]), state, "bn3")
    if "downsample.0.weight" in state:
        x = normed(F.conv3d(x, state["downsample.0.weight"], stride=stride), state, "downsample.1")
    return (x + y).clamp(min=0)


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in bare().parameters()) == 25_882_056


def test_shapes_of_the_published_clips() -> None:
    x = torch.empty(2, 3, 30, 224, 224, device="meta")
    assert shapes_of(bare(), x, PUBLISHED_SHAPES) == PUBLISHED_SHAPES


def test_the_state_dict_has_the_published_names() -> None:
    def norm(name: str) -> list[str]:
        return [f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    expected = ["conv1.weight", *norm("bn1")]
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for i in range(blocks):
            for part in (1, 2, 3):
                expected += [f"layer{layer}.{i}.conv{part}.weight", *norm(f"layer{layer}.{i}.bn{part}")]
            if i == 0:
                expected += [f"layer{layer}.0.downsample.0.weight", *norm(f"layer{layer}.0.downsample.1")]
    expected += ["fc.weight", "fc.bias"]
    state = bare().state_dict()
    assert len(expected) == 320
    assert sorted(state) == sorted(expected)
    assert state["conv1.weight"].shape == (64, 3, 7, 7, 7)
    assert state["layer3.5.conv2.weight"].shape == (512, 16, 3, 3, 3)
    assert state["layer4.0.downsample.0.weight"].shape == (2048, 1024, 1, 1, 1)


@pytest.mark.parametrize(("in_channels", "stride", "project"), [(32, 2, True), (32, 1, True), (128, 1, False)])
def test_a_block_is_its_formula(in_channels: int, stride: int, project: bool) -> None:
    block = ResNeXtBlock(in_channels, 64, stride=stride, project=project).double().eval()
    randomized(block)
    x = torch.randn(2, in_channels, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), block_by_formula(x, dict(block.state_dict()), stride))


def test_the_network_is_its_formula(network: ResNeXt3D) -> None:
    """The stem keeps its ReLU, and only the first blocks of the second to fourth layers have a stride."""
    network = copy.deepcopy(network).double().eval()
    randomized(network)
    network.bn1.bias.data -= 3  # else the maxima that the pooling takes are positive, and a lost ReLU is not seen
    state = dict(network.state_dict())
    x = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    y = normed(F.conv3d(x, state["conv1.weight"], stride=(1, 2, 2), padding=3), state, "bn1").clamp(min=0)
    y = F.max_pool3d(y, 3, 2, 1)
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for i in range(blocks):
            prefix = f"layer{layer}.{i}."
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            y = block_by_formula(y, own, 2 if i == 0 and layer > 1 else 1)
    expected = y.mean((2, 3, 4)) @ state["fc.weight"].T + state["fc.bias"]
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected)


def test_the_pooling_is_the_published_one_on_the_published_clips() -> None:
    maps = torch.randn(1, 2048, 2, 7, 7)
    torch.testing.assert_close(bare().avgpool(maps), F.avg_pool3d(maps, (2, 7, 7), stride=1))


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 16, 7), (9, 5, 33)])
def test_clips_of_any_length_and_size(network: ResNeXt3D, size: tuple[int, ...]) -> None:
    with torch.no_grad():
        x = torch.randn(2, 3, *size)
        assert network.eval()(x).shape == (2, 8)
        assert network.features(x).shape == (2, network.width) == (2, 2048)


def test_gradients_reach_all_parameters() -> None:
    torch.manual_seed(0)
    network = ResNeXt3D(5).train()
    x = torch.randn(3, 3, 4, 32, 32, requires_grad=True)
    F.cross_entropy(network(x), torch.tensor([0, 3, 4])).backward()
    for name, parameter in [("x", x), *network.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_start_is_that_of_the_published_code(network: ResNeXt3D) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d):
            fan_out = module.out_channels * math.prod(module.kernel_size)  # as torch counts it, groups left out
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05), name
        elif isinstance(module, nn.BatchNorm3d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name


def test_outputs_do_not_depend_on_what_else_is_in_the_batch(network: ResNeXt3D) -> None:
    x = torch.randn(3, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 4, 8, 8), (3, 4, 8, 8), (2, 4, 3, 8, 8)])
def test_what_is_not_a_clip(shape: tuple[int, ...]) -> None:
    with pytest.raises(FusionInputError, match=r"expected clips \(B, 3, T, H, W\), got"):
        bare()(torch.empty(shape, device="meta"))


def test_outputs_is_a_positive_integer() -> None:
    with pytest.raises(FusionInputError, match="outputs"):
        ResNeXt3D(0)


# narrow networks of the same make, and its parts

SMALL: dict[str, Any] = {"blocks": (1, 2, 1, 1), "width": 8, "cardinality": 4}


def small(**options: Any) -> ResNeXt3D:
    torch.manual_seed(0)
    network = ResNeXt3D(5, **{**SMALL, **options})
    randomized(network)
    return network


def clips() -> Tensor:
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_stages_the_feature_and_the_head_are_the_network() -> None:
    network, x = small().eval(), clips()
    assert network.channels == (8 * 16, 8 * 32)
    assert network.width == 8 * 32
    maps = x
    for stage, count in zip(network.stages, network.channels, strict=True):
        maps = stage(maps)
        assert maps.shape[1] == count
    assert torch.equal(network.head(network.feature(maps)), network(x))
    assert torch.equal(network.feature(maps), network.features(x))


@torch.no_grad()
@pytest.mark.parametrize("again", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copys_stages_are_its_own(again: Callable[[ResNeXt3D], ResNeXt3D]) -> None:
    network, x = small().eval(), clips()
    expected, other = network(x), again(network)
    for parameter in network.parameters():
        parameter.zero_()
    maps = x
    for stage in other.stages:
        maps = stage(maps)
    assert torch.equal(other.head(other.feature(maps)), expected)
    assert list(other.state_dict()) == list(network.state_dict())


def test_blocks_width_and_cardinality_are_those_of_the_layers() -> None:
    network = small(blocks=[1, 3, 2, 1], width=6, cardinality=3)
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    assert [len(layer) for layer in layers] == [1, 3, 2, 1]
    assert [layer[0].conv2.groups for layer in layers] == [3] * 4
    shapes = shapes_of(network.eval(), torch.randn(2, 3, 30, 32, 32), PUBLISHED_SHAPES)
    assert [shapes[name][0] for name in PUBLISHED_SHAPES] == [6, 6, 6, 24, 48, 96, 192, 192, 5]
    with torch.device("meta"):
        deep = ResNeXt3D(400, blocks=(3, 4, 23, 3))
    assert len(deep.state_dict()) == 626  # ResNeXt-101


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (3, 4, 6)}, r"blocks is one number for each of four layers, got \(3, 4, 6\)"),
        ({"blocks": (3, 4, 0, 3)}, "blocks"),
        ({"blocks": (3, 4, 6, 2.5)}, "blocks"),
        ({"width": 0}, "width"),
        ({"cardinality": 0}, "cardinality"),
        ({"width": 8, "cardinality": 3}, "cardinality divides twice the width, 16, got 3"),
        ({"stem_relu": 1}, "stem_relu"),
        ({"checkpointing": "yes"}, "checkpointing"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        ResNeXt3D(5, **options)


@torch.no_grad()
def test_without_the_stems_relu_the_pooling_sees_what_is_negative() -> None:
    """Row B1 of docs/fidelity.md: the option for the authors' fused checkpoints; the state dict is the same."""
    networks = [small(stem_relu=value).eval() for value in (True, False)]
    for network in networks:
        network.bn1.bias -= 3  # else the maxima that the pooling takes are positive
    x = clips()
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())
    stem = networks[1].maxpool(networks[1].bn1(networks[1].conv1(x)))
    maps = networks[1].layer3(networks[1].layer2(networks[1].layer1(stem)))
    assert (stem < 0).any()
    assert torch.equal(networks[1].to_layer3(x), maps)
    assert not torch.allclose(networks[0](x), networks[1](x), rtol=1e-3)
    for network in networks:
        network.bn1.bias += 30  # nothing is negative: nothing is lost
    assert torch.equal(networks[0](x), networks[1](x))


def test_checkpointing_gives_the_same_outputs_and_gradients_and_computes_twice() -> None:
    outputs, gradients, runs = [], [], []
    for checkpointing in (False, True):
        network, count = small(checkpointing=checkpointing).train(), []
        network.layer2[1].conv2.register_forward_hook(lambda *_, count=count: count.append(1))
        x = clips().requires_grad_()
        outputs.append(network(x))
        F.cross_entropy(outputs[-1], torch.tensor([0, 3])).backward()
        gradients.append([x.grad, *(parameter.grad for parameter in network.parameters())])
        runs.append(len(count))
        network.eval()(clips())
        with torch.no_grad():
            network.train()(clips())
        assert len(count) == runs[-1] + 2  # nothing to compute again there
    assert runs == [1, 2]
    assert torch.equal(*outputs)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_in_bfloat16_on_a_cpu_few_frames_are_convolved_in_float32() -> None:
    """Gradients of bfloat16 kernels that are longer than the clip are made up by torch 2.15."""
    network, seen = small().train(), {}
    for name in ("conv1", "layer1.0.conv2", "layer1.0.conv3", "layer4.0.conv2"):
        network.get_submodule(name).register_forward_hook(lambda *args, name=name: seen.update({name: args[2].dtype}))
    for frames, stem in ((4, torch.float32), (8, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16):
            network(torch.randn(2, 3, frames, 32, 32)).float().sum().backward()
        assert seen["conv1"] == stem
        assert seen["layer1.0.conv2"] == (torch.float32 if frames == 4 else torch.bfloat16)
        assert seen["layer1.0.conv3"] == torch.bfloat16
        assert seen["layer4.0.conv2"] == torch.float32
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
