"""Protects I3D: its published size, shapes, names and formula, both ways of padding, on clips of any length and size."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tasks.norms import randomized
from torchmsaf.backbones import I3D
from torchmsaf.backbones.i3d import ClipPool, ConvUnit, WindowAverage
from torchmsaf.errors import FusionInputError

PUBLISHED_SHAPES = {
    0: (64, 16, 112, 112),
    1: (64, 16, 56, 56),
    2: (64, 16, 56, 56),
    3: (192, 16, 56, 56),
    4: (192, 16, 28, 28),
    5: (256, 16, 28, 28),
    6: (480, 16, 28, 28),
    7: (480, 8, 14, 14),
    8: (512, 8, 14, 14),
    9: (512, 8, 14, 14),
    10: (512, 8, 14, 14),
    11: (528, 8, 14, 14),
    12: (832, 8, 14, 14),
    13: (832, 4, 7, 7),
    14: (832, 4, 7, 7),
    15: (1024, 4, 7, 7),
    16: (1024,),
}
PUBLISHED_SIZES = {
    0: 65_984,
    2: 4_224,
    3: 332_160,
    5: 386_272,
    6: 837_888,
    8: 737_760,
    9: 904_464,
    10: 1_103_664,
    11: 1_356_672,
    12: 1_799_168,
    14: 1_974_272,
    15: 2_784_736,
    18: 61_500,
}
UNITS = ("branch0.0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch3.1")


def bare(**options: Any) -> I3D:
    with torch.device("meta"):
        return I3D(60, **options)


def small(**options: Any) -> I3D:
    torch.manual_seed(0)
    network = I3D(5, width=0.07, **options)
    randomized(network)
    return network.double()


def unit(x: Tensor, state: dict[str, Tensor], name: str, *, stride: int = 1, same: bool = False) -> Tensor:
    kernel = state[f"{name}.conv.weight"]
    half = kernel.shape[-1] // 2
    if same:  # of an even size
        x, half = F.pad(x, (half - 1, half) * 3), 0
    y = F.conv3d(x, kernel, stride=stride, padding=half)
    wide = (1, -1, 1, 1, 1)
    mean, var, weight, bias = (
        state[f"{name}.bn.{k}"].view(wide) for k in ("running_mean", "running_var", "weight", "bias")
    )
    return ((y - mean) / (var + 1e-3).sqrt() * weight + bias).clamp(min=0)


def by_formula(x: Tensor, state: dict[str, Tensor], *, same: bool) -> Tensor:
    """The published network, its last layers in the published order."""

    def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        if same:
            pads = [k - s for k, s in zip(kernel, stride, strict=True)]
            ends = [n for p in reversed(pads) for n in (p // 2, p - p // 2)]
            return F.max_pool3d(F.pad(x, ends, value=float("-inf")), kernel, stride)
        return F.max_pool3d(x, kernel, stride, [k // 2 if k % 2 else 0 for k in kernel])

    def mixed(x: Tensor, index: int) -> Tensor:
        a, b1, b2, c1, c2, d = (f"features.{index}.{name}" for name in UNITS)
        pooled = F.max_pool3d(x, 3, 1, 1)
        second, third = unit(unit(x, state, b1), state, b2), unit(unit(x, state, c1), state, c2)
        return torch.cat([unit(x, state, a), second, third, unit(pooled, state, d)], 1)

    x = pool(unit(x, state, "features.0", stride=2, same=same), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, state, "features.2"), state, "features.3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, 5), 6), (3, 3, 3), (2, 2, 2))
    for index in (8, 9, 10, 11, 12):
        x = mixed(x, index)
    x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), 14), 15)
    x = F.avg_pool3d(x, (2, *x.shape[-2:]), 1)
    x = F.conv3d(x, state["features.18.weight"], state["features.18.bias"])
    return x.flatten(2).mean(2)


def test_it_has_the_published_number_of_parameters_in_every_layer() -> None:
    network = bare()
    assert sum(p.numel() for p in network.parameters()) == 12_348_764
    sizes = {i: sum(p.numel() for p in layer.parameters()) for i, layer in enumerate(network.features)}
    assert {i: size for i, size in sizes.items() if size} == PUBLISHED_SIZES


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_shapes_of_the_published_clips(padding: str) -> None:
    network = bare(padding=padding)
    found = {}
    for index in PUBLISHED_SHAPES:
        network.features[index].register_forward_hook(
            lambda module, inputs, output, index=index: found.update({index: tuple(output.shape[1:])})
        )
    assert network(torch.empty(2, 3, 32, 224, 224, device="meta")).shape == (2, 60)
    assert found == PUBLISHED_SHAPES


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_state_dict_has_the_published_names(padding: str) -> None:
    expected = ["features.18.weight", "features.18.bias"]
    units = ["features.0", "features.2", "features.3"]
    units += [f"features.{i}.{name}" for i in (5, 6, 8, 9, 10, 11, 12, 14, 15) for name in UNITS]
    for name in units:
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        expected += [f"{name}.conv.weight", *(f"{name}.bn.{key}" for key in norm)]
    state = bare(padding=padding).state_dict()
    assert len(expected) == 344
    assert sorted(state) == sorted(expected)
    assert state["features.0.conv.weight"].shape == (64, 3, 7, 7, 7)
    assert state["features.14.branch2.1.conv.weight"].shape == (128, 32, 3, 3, 3)
    assert state["features.18.weight"].shape == (60, 1024, 1, 1, 1)


def test_norms_have_the_published_settings() -> None:
    norms = [module for module in bare().modules() if isinstance(module, torch.nn.BatchNorm3d)]
    assert len(norms) == 57
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 1e-3)}


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("shape", [(16, 32, 64), (24, 32, 32)])
def test_the_network_is_its_formula(padding: str, shape: tuple[int, int, int]) -> None:
    network = small(padding=padding)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    expected = by_formula(x, dict(network.state_dict()), same=padding == "same")
    torch.testing.assert_close(network(x), expected)


def test_the_two_ways_of_padding_give_other_values() -> None:
    symmetric, same = small(), small(padding="same")
    x = torch.randn(1, 3, 16, 32, 32, dtype=torch.float64)
    assert (symmetric(x) - same(x)).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_head_after_the_mean_is_the_published_order(steps: int) -> None:
    """Pooling of 2 x 7 x 7, the last convolution, the mean over time: the convolution is linear."""
    network = small()
    maps = torch.randn(3, network.width, steps, 7, 7, dtype=torch.float64)
    pooled = F.avg_pool3d(maps, (min(steps, 2), 7, 7), 1)
    published = network.features[18](pooled)[..., 0, 0].mean(-1)
    torch.testing.assert_close(network.head(network.feature(maps)), published)


def test_dropout_drops_whole_features() -> None:
    network = small(dropout=0.5).train()
    vectors = torch.ones(400, network.width, dtype=torch.float64)
    network.features[18].weight.data.fill_(1)
    network.features[18].bias.data.zero_()
    sums = network.head(vectors)[:, 0].detach() / 2
    torch.testing.assert_close(sums, sums.round())
    assert abs(float(sums.mean()) / network.width - 0.5) < 0.02


def test_one_step_is_averaged_as_it_is() -> None:
    maps = torch.tensor([[[[[1.0, 3.0]]]]])
    assert WindowAverage()(maps).tolist() == [[2.0]]
    steps = torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 3, 1, 1)
    assert WindowAverage()(steps).tolist() == [[(1.5 + 4.0) / 2]]


@pytest.mark.parametrize(("size", "expected"), [(6, [2, 4, 5]), (5, [1, 3, 4])])
def test_same_pooling_pads_as_tensorflow(size: int, expected: list[int]) -> None:
    """Of an even size the first window of three begins at the first value; of an odd one, before it."""
    x = torch.arange(float(size)).view(1, 1, 1, 1, size)
    assert ClipPool((1, 1, 3), (1, 1, 2), same=True)(x).flatten().tolist() == expected


@pytest.mark.parametrize("size", [7, 8, 9, 10])
def test_same_convolution_pads_as_tensorflow(size: int) -> None:
    """Output i is centred where TensorFlow's formula says: total padding, its smaller half in front."""
    layer = ConvUnit(1, 1, 7, stride=2, same=True).double().eval()
    layer.bn.eps = 0.0
    kernel = torch.rand(7, dtype=torch.float64)
    layer.conv.weight.data.zero_()
    layer.conv.weight.data[0, 0, 3 if size % 2 else 2, 3 if size % 2 else 2] = kernel
    x = torch.rand(size, dtype=torch.float64)
    out = -(-size // 2)
    front = ((out - 1) * 2 + 7 - size) // 2
    cube = torch.zeros(1, 1, size, size, size, dtype=torch.float64)
    cube[0, 0, 0, 0] = x
    expected = [
        sum(float(kernel[j] * x[2 * i + j - front]) for j in range(7) if 0 <= 2 * i + j - front < size)
        for i in range(out)
    ]
    found = layer(cube)[0, 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 40), (9, 65, 33)])
def test_clips_of_any_size(padding: str, shape: tuple[int, int, int]) -> None:
    network = small(padding=padding)
    maps = torch.randn(2, 3, *shape, dtype=torch.float64)
    for stage, channels in zip(network.stages, network.channels, strict=True):
        maps = stage(maps)
        assert maps.shape[1] == channels
    assert network.head(network.feature(maps)).isfinite().all()


def test_an_odd_size_leaves_the_incomplete_window_out() -> None:
    x = torch.arange(5.0).view(1, 1, 5, 1, 1)
    assert ClipPool((2, 2, 2), (2, 2, 2))(x).flatten().tolist() == [1.0, 3.0]
    assert ClipPool((2, 2, 2), (2, 2, 2), same=True)(x).flatten().tolist() == [1.0, 3.0, 4.0]


def test_as_a_staged_network_it_says_where_fusions_stand() -> None:
    network = bare()
    assert network.channels == (528, 832, 832, 1024)
    assert network.width == 1024
    assert not network.takes_lengths
    assert network.names == ("mixed_4e", "mixed_4f", "mixed_5b", "mixed_5c")
    assert dict(network.placements) == {"early": "mixed_4f", "intermediate": "mixed_5b", "late": "mixed_5c"}
    assert set(network.taps) <= {*network.names, "feature"}
    assert len(network.names) == len(network.stages) == len(network.streams)


def test_a_copy_has_stages_of_its_own() -> None:
    network = small()
    other = copy.deepcopy(network)
    other.features[0].conv.weight.data.zero_()
    x = torch.randn(1, 3, 4, 16, 16, dtype=torch.float64)
    assert not torch.equal(network(x), other(x))


def test_width_scales_every_layer() -> None:
    network = bare(width=0.25)
    assert network.channels == (132, 208, 208, 256)
    assert bare(width=1e-6).channels == (16, 16, 16, 16)


def test_checkpointing_changes_no_gradient() -> None:
    plain, sparing = small(dropout=0.0), small(dropout=0.0, checkpointing=True)
    x = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64)
    for network in (plain, sparing):
        network.train()(x).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_it_learns() -> None:
    torch.manual_seed(1)
    network = I3D(2, width=0.07, dropout=0.0)
    x = torch.randn(4, 3, 8, 24, 24)
    target = torch.tensor([0, 1, 0, 1])
    x[target == 1] += 1
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(network(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outputs": 0}, "outputs"),
        ({"padding": "valid"}, "padding"),
        ({"width": 0.0}, "width"),
        ({"width": "wide"}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"checkpointing": "no"}, "checkpointing"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        I3D(**{"outputs": 2, **options})


@pytest.mark.parametrize("shape", [(1, 3, 8, 16), (1, 1, 4, 16, 16)])
def test_what_is_no_clip_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FusionInputError, match="expected clips"):
        small()(torch.zeros(shape, dtype=torch.float64))
