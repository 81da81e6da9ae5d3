"""Protects the choice of networks: by rank, at any size, or by class path with errors that say what is missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchmsaf.backbones import ConvNet, VectorNet, network_for
from torchmsaf.errors import FusionInputError

SHAPES = [
    (1,),
    (7,),
    (1, 1),
    (3, 7),
    (2, 100),
    (1, 1, 1),
    (1, 2, 3),
    (3, 28, 28),
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 8, 16, 9),
]


class Good(VectorNet):
    """A user's network."""


class Bare(nn.Module):
    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()


class Miscounted(VectorNet):
    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(shape, outputs)
        self.channels = (64,)


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_rank_and_size(shape: tuple[int, ...]) -> None:
    network = network_for(shape, 5)
    assert isinstance(network, VectorNet if len(shape) == 1 else ConvNet)
    x = torch.randn(3, *shape)
    maps = x
    for stage, count in zip(network.stages, network.channels, strict=True):
        maps = stage(maps)
        assert maps.shape[:2] == (3, count)
        assert maps.dim() == x.dim()
    assert network.feature(maps).shape == (3, network.width)
    prediction = network(x)
    assert prediction.shape == (3, 5)
    prediction.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()
    assert network(x[:1]).shape == (1, 5)


def test_features_keep_at_most_four_positions_an_axis() -> None:
    assert ConvNet((1, 28, 28), 5).width == 32 * 16
    assert ConvNet((1, 8, 4), 5).width == 32 * 4
    assert ConvNet((1, 16, 16, 16), 5).width == 32 * 8


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 1, 1, 1)])
def test_a_sample_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(FusionInputError, match="expected a sample of"):
        network_for(shape, 2)


def test_a_class_path() -> None:
    assert isinstance(network_for((4,), 2, class_path=f"{__name__}.Good"), Good)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Good", r"expected package\.module\.Class"),
        ("..x", r"expected package\.module\.Class"),
        (".x", r"expected package\.module\.Class"),
        ("x.", r"expected package\.module\.Class"),
        ("nowhere.Net", "cannot be imported"),
        (f"{__name__}.Nothing", "cannot be imported"),
        (f"{__name__}.Bare", "lacks feature, head, channels, width"),
        (f"{__name__}.Miscounted", r"channels \(64,\) has one count for each of its 2 stages"),
        (f"{__name__}.Fails", r"cannot be built with \(shape, outputs\) = \(\(4,\), 2\)"),
        (f"{__name__}.pytest", r"cannot be built with \(shape, outputs\)"),
    ],
)
def test_a_class_path_that_does_not_do(path: str, message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        network_for((4,), 2, class_path=path)
