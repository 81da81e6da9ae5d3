"""Protects the audio network: its published size, shapes, names, order of layers, and the lengths that it takes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.backbones import MFCCNet
from torchmsaf.errors import FusionInputError
from torchmsaf.grafting import FusionPoint, graft

KEYS = [
    "conv1.weight",
    "conv1.bias",
    "conv2.weight",
    "conv2.bias",
    "conv3.weight",
    "conv3.bias",
    "fc1.weight",
    "fc1.bias",
    *(
        f"bn{i}.{key}"
        for i in (1, 2, 3)
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ),
]


def published_shapes(steps: int) -> dict[str, tuple[int, ...]]:
    return {
        "relu1": (32, steps - 2),
        "bn1": (32, steps - 2),
        "relu2": (32, steps - 4),
        "maxpool": (32, 26),
        "bn2": (32, 26),
        "relu3": (64, 26),
        "bn3": (64, 26),
        "drop3": (1664,),
        "fc1": (8,),
    }


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"][:, None], state[f"{name}.running_var"][:, None]
    return (x - mean) / (var + 1e-5).sqrt() * state[f"{name}.weight"][:, None] + state[f"{name}.bias"][:, None]


def by_formula(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """ReLU before batch norm; the maximum of whole windows of eight, before its batch norm."""

    def convolved(x: Tensor, name: str) -> Tensor:
        return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=2).clamp(min=0)

    x = normed(convolved(x, "conv1"), state, "bn1")
    x = convolved(x, "conv2")
    x = x[:, :, : x.shape[2] // 8 * 8].unflatten(2, (-1, 8)).amax(3)
    x = normed(x, state, "bn2")
    x = normed(convolved(x, "conv3"), state, "bn3")
    return x.reshape(len(x), -1) @ state["fc1.weight"].T + state["fc1.bias"]


def settled(**options: int) -> MFCCNet:
    """In evaluation, with batch norms that do something."""
    torch.manual_seed(0)
    network = MFCCNet(8, **options).double().eval()
    for norm in (network.bn1, network.bn2, network.bn3):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.normal_()  # with a negative weight the order of pooling and norm matters
        norm.bias.data.normal_()
    return network


def test_it_has_the_published_number_of_parameters_and_names() -> None:
    with torch.device("meta"):
        network = MFCCNet(8)
    assert sum(p.numel() for p in network.parameters()) == 34_024
    assert sorted(network.state_dict()) == sorted(KEYS)
    assert network.width == network.fc1.in_features == 1664


@pytest.mark.parametrize("steps", [212, 219])
def test_shapes_of_the_published_recordings(steps: int) -> None:
    expected = published_shapes(steps)
    found: dict[str, tuple[int, ...]] = {}

    def keep(name: str):
        return lambda module, inputs, output: found.update({name: tuple(output.shape[1:])})

    with torch.device("meta"):
        network = MFCCNet(8)
    for name in expected:
        network.get_submodule(name).register_forward_hook(keep(name))
    network(torch.empty(2, 13, steps, device="meta"))
    assert found == expected


@pytest.mark.parametrize(("options", "steps"), [({}, 212), ({}, 219), ({"coefficients": 5, "steps": 12}, 17)])
def test_it_is_its_formula(options: dict[str, int], steps: int) -> None:
    network = settled(**options)
    x = torch.randn(3, options.get("coefficients", 13), steps, dtype=torch.float64)
    torch.testing.assert_close(network(x), by_formula(x, dict(network.state_dict())))
    torch.testing.assert_close(network.fc1(network.features(x)), network(x))


@pytest.mark.parametrize(("steps", "width"), [(12, 64), (19, 64), (20, 128), (212, 1664), (219, 1664), (220, 1728)])
def test_the_width_follows_from_the_steps(steps: int, width: int) -> None:
    network = MFCCNet(4, steps=steps).eval()
    shortest, longest = network.lengths
    assert network.width == width
    assert shortest <= steps <= longest == shortest + 7
    for length in network.lengths:
        assert network(torch.randn(2, 13, length)).shape == (2, 4)


@pytest.mark.parametrize("steps", [1, 211, 220, 300])
def test_a_length_that_does_not_fit_names_those_that_do(steps: int) -> None:
    with pytest.raises(FusionInputError, match=rf"takes 212 to 219 steps, got {steps}"):
        MFCCNet(8)(torch.randn(2, 13, steps))


@pytest.mark.parametrize("shape", [(2, 212, 13), (13, 212), (2, 1, 13, 212)])
def test_what_is_not_a_recording(shape: tuple[int, ...]) -> None:
    with pytest.raises(FusionInputError, match=r"expected coefficients \(B, 13, T\), got"):
        MFCCNet(8)(torch.randn(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 0}, "outputs"),
        ({"outputs": 8, "coefficients": 0}, "coefficients"),
        ({"outputs": 8, "steps": 11}, "steps is 12 or more, got 11"),
        ({"outputs": 8, "steps": 212.0}, "steps"),
    ],
)
def test_arguments_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        MFCCNet(**options)


def test_gradients_reach_all_parameters() -> None:
    torch.manual_seed(0)
    network = MFCCNet(5).train()
    x = torch.randn(4, 13, 212, requires_grad=True)
    F.cross_entropy(network(x), torch.tensor([0, 3, 4, 1])).backward()
    for name, parameter in [("x", x), *network.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_in_training_alone() -> None:
    torch.manual_seed(0)
    network, x = MFCCNet(5), torch.randn(4, 13, 212)
    assert (network.drop2.p, network.drop3.p) == (0.2, 0.4)
    assert not torch.equal(network.train().features(x), network.features(x))
    assert torch.equal(network.eval().features(x), network.features(x))


def test_the_points_of_the_paper_can_be_tapped() -> None:
    """After the second ReLU and before the pooling, and after the third batch norm."""
    x = torch.randn(2, 13, 212)
    shapes: list[tuple[int, ...]] = []

    def look(maps: list[Tensor]) -> list[Tensor]:
        shapes.append(tuple(maps[0].shape))
        return maps

    network = MFCCNet(8).eval()
    expected = network(x)
    points = [FusionPoint({"audio": layer}, look) for layer in ("relu2", "bn3")]
    model = graft({"audio": network}, points).eval()
    assert torch.equal(model({"audio": x}), expected)
    assert shapes == [(2, 32, 208), (2, 64, 26)]


@torch.no_grad()
def test_the_stages_the_feature_and_the_head_are_the_network() -> None:
    network, x = MFCCNet(5, coefficients=7, steps=40).eval(), torch.randn(2, 7, 43)
    assert network.channels == (32, 64)
    maps, shapes = x, []
    for stage in network.stages:
        maps = stage(maps)
        shapes.append(tuple(maps.shape))
    assert shapes == [(2, 32, 39), (2, 64, 4)]
    assert torch.equal(network.head(network.feature(maps)), network(x))
    with pytest.raises(FusionInputError, match=r"expected coefficients \(B, 7, T\), got \(2, 13, 43\)"):
        network.stages[0](torch.randn(2, 13, 43))


@torch.no_grad()
def test_a_copys_stages_are_its_own() -> None:
    network, x = MFCCNet(5).eval(), torch.randn(2, 13, 212)
    expected, other = network(x), copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.zero_()
    assert torch.equal(other.head(other.feature(other.stages[1](other.stages[0](x)))), expected)
