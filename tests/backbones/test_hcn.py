"""Protects HCN: its published size, shapes, names and formula, and that absent persons do not exist for it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.backbones import HCN
from torchmsaf.errors import FusionInputError

PUBLISHED = {
    "conv1.0": (64, 3, 1, 1),
    "conv2": (32, 64, 3, 1),
    "conv3.0": (32, 25, 3, 3),
    "conv4.0": (64, 32, 3, 3),
    "conv1m.0": (64, 3, 1, 1),
    "conv2m": (32, 64, 3, 1),
    "conv3m.0": (32, 25, 3, 3),
    "conv4m.0": (64, 32, 3, 3),
    "conv5.0": (128, 128, 3, 3),
    "conv6.0": (256, 128, 3, 3),
    "fc7.0": (512, 1024),
    "fc8": (60, 512),
}


def small(**options: Any) -> HCN:
    torch.manual_seed(0)
    sizes = {"joints": 6, "steps": 16, "widths": (5, 16, 6, 4, 7, 9, 8), "dropout": 0.0}
    network = HCN(4, **{**sizes, **options}).double()
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.data.normal_(0, 0.3)
    return network.eval()


def skeletons(batch: int = 3, persons: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 16, 6, persons, dtype=torch.float64, generator=generator)


def by_formula(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """One clip ``(C, T, V, M)`` of real persons alone, step by step and person by person, to ``(K,)``."""

    def conv(x: Tensor, name: str, padding: Any = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def stream(x: Tensor, m: str) -> Tensor:
        x = conv(conv(x, f"conv1{m}.0", 0).relu(), f"conv2{m}", (1, 0)).transpose(1, 3)
        x = F.max_pool2d(conv(x, f"conv3{m}.0"), 2)
        return F.max_pool2d(conv(x, f"conv4{m}.0"), 2)

    persons = []
    for m in range(x.shape[-1]):
        one = x[None, ..., m]
        steps = one.shape[2]
        motion = one[:, :, 1:] - one[:, :, :-1]
        resized = torch.zeros_like(one)
        for t in range(steps):
            at = min(max((t + 0.5) * (steps - 1) / steps - 0.5, 0.0), steps - 2.0)
            low = math.floor(at)
            high = min(low + 1, steps - 2)
            resized[:, :, t] = motion[:, :, low] * (1 - (at - low)) + motion[:, :, high] * (at - low)
        maps = torch.cat([stream(one, ""), stream(resized, "m")], 1)
        for name in ("conv5.0", "conv6.0"):
            maps = F.max_pool2d(conv(maps, name).relu(), 2)
        persons.append(maps)
    vector = torch.stack(persons).amax(0).flatten()
    hidden = (state["fc7.0.weight"] @ vector + state["fc7.0.bias"]).relu()
    return state["fc8.weight"] @ hidden + state["fc8.bias"]


def test_it_has_the_published_size_and_names() -> None:
    network = HCN(60)
    assert sum(p.numel() for p in network.parameters()) == 1_062_652
    expected = {f"{name}.weight": shape for name, shape in PUBLISHED.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in PUBLISHED.items()}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected


def test_published_shapes_between_stages() -> None:
    with torch.device("meta"):
        network, x = HCN(60), torch.empty(5, 3, 32, 25, 2)
    found = []
    for stage in network.stages:
        x = stage(x, None)
        found.append(tuple(x.shape[1:]))
    assert found == [(128, 8, 8, 2), (128, 4, 4, 2), (256, 2, 2), (1024,), (512,)]
    assert network.head(network.feature(x, None)).shape == (5, 60)
    assert network.channels == (128, 128, 256, 1024, 512)
    assert network.width == 512


@pytest.mark.parametrize("persons", [1, 2, 3])
def test_the_network_is_its_formula(persons: int) -> None:
    network, x = small(), skeletons(persons=persons)
    state = dict(network.state_dict())
    torch.testing.assert_close(network(x), torch.stack([by_formula(clip, state) for clip in x]))


def test_an_absent_person_is_as_one_who_is_not_there() -> None:
    network, x = small(persons=3), skeletons(persons=3)
    lengths = torch.tensor([1, 2, 3])
    expected = torch.cat([network(x[i : i + 1, ..., : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, lengths), expected)


@pytest.mark.parametrize("garbage", [0.0, 1e6, math.nan, math.inf])
def test_what_stands_in_an_absent_place_changes_nothing(garbage: float) -> None:
    network, x, lengths = small(), skeletons(), torch.tensor([1, 2, 1])
    gradients, outputs = [], []
    for value in (0.0, garbage):
        clips = x.clone()
        clips[[0, 2], ..., 1] = value
        clips.requires_grad_()
        network.zero_grad()
        output = network(clips, lengths)
        output.square().sum().backward()
        outputs.append(output.detach())
        gradients.append([clips.grad, *(p.grad.clone() for p in network.parameters())])
    assert torch.equal(*outputs)
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    assert not gradients[1][0][[0, 2], ..., 1].any()


def test_maps_of_absent_persons_are_zeros_and_never_read() -> None:
    """A fusion between stages may leave anything there."""
    network, lengths = small(), torch.tensor([1, 2, 0])
    maps = network.stages[0](skeletons(), lengths)
    assert not maps[0, ..., 1].any()
    assert not maps[2].any()
    assert maps[1, ..., 1].any()
    for stage in network.stages[1:3]:
        spoiled = maps.clone()
        spoiled[0, ..., 1], spoiled[2] = math.nan, math.nan
        assert torch.equal(stage(spoiled, lengths), stage(maps, lengths))
        maps = stage(maps, lengths)
    assert not maps[2].any()


def test_nobody_at_all_is_finite() -> None:
    network = small()
    x = torch.full((2, 3, 16, 6, 2), math.nan, dtype=torch.float64)
    output = network(x, torch.tensor([0, 0]))
    output.sum().backward()
    assert output.isfinite().all()
    assert torch.equal(output[0], output[1])
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_the_order_of_persons_and_of_clips_does_not_matter() -> None:
    network, x = small(), skeletons()
    torch.testing.assert_close(network(x.flip(-1)), network(x))
    torch.testing.assert_close(network(x.flip(0)).flip(0), network(x))


def test_a_still_body_has_no_motion() -> None:
    network, x = small(), skeletons()[:, :, :1].repeat(1, 1, 16, 1, 1)
    before = network.stages[0](x, None)
    network.conv1m[0].weight.data.normal_()
    torch.testing.assert_close(network.stages[0](x, None), before)


def test_dropout_leaves_absent_persons_out() -> None:
    network = small(dropout=0.5).train()
    maps = network.stages[1](network.stages[0](skeletons(), torch.tensor([1, 1, 1])), torch.tensor([1, 1, 1]))
    assert not maps[..., 1].any()
    pooled = network.stages[2](maps, torch.tensor([1, 1, 1]))
    assert (pooled >= 0).all()


def test_as_a_staged_network_it_says_where_fusions_stand() -> None:
    network = HCN(2, persons=3)
    assert network.takes_lengths
    assert network.streams == (3, 3, 0, 0, 0)
    assert network.names == ("conv4", "conv5", "conv6", "flat6", "fc7")
    assert dict(network.placements) == {"early": "conv4", "intermediate": "conv5", "late": "fc7"}
    assert set(network.taps) <= {*network.names, "feature"}
    assert len(network.names) == len(network.stages) == len(network.channels)


def test_a_copy_has_stages_of_its_own() -> None:
    network = small()
    other = copy.deepcopy(network)
    other.fc8.bias.data += 1
    torch.testing.assert_close(other(skeletons()), network(skeletons()) + 1)


def test_weights_begin_glorot_uniform() -> None:
    torch.manual_seed(0)
    network = HCN(60)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert not module.bias.any()
            shape, field = module.weight.shape, math.prod(module.weight.shape[2:])
            bound = math.sqrt(6 / ((shape[0] + shape[1]) * field))
            assert module.weight.abs().max() <= bound
            assert module.weight.abs().max() > 0.95 * bound


def test_other_sizes_of_everything() -> None:
    network = HCN(3, channels=2, joints=17, steps=48, persons=1, widths=(4, 32, 4, 4, 4, 5, 6))
    assert network.channels == (8, 4, 5, 5 * 3 * 2, 6)
    assert network(torch.randn(2, 2, 48, 17, 1)).shape == (2, 3)


def test_it_learns() -> None:
    network = small().float().train()
    x, target = skeletons(12, seed=3).float(), torch.arange(12) % 4
    lengths = torch.arange(12) % 2 + 1
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(network(x, lengths), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outputs": 0}, "outputs"),
        ({"channels": 0}, "channels"),
        ({"joints": 0}, "joints"),
        ({"persons": 0}, "persons"),
        ({"steps": 15}, "at least 16"),
        ({"widths": (64, 8, 32, 64, 128, 256, 512)}, "at least 16"),
        ({"widths": (64, 32)}, "widths"),
        ({"widths": (64, 32, 0, 64, 128, 256, 512)}, "widths"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        HCN(**{"outputs": 2, **options})


@pytest.mark.parametrize(
    "shape", [(2, 3, 16, 6), (2, 3, 15, 6, 2), (2, 3, 16, 5, 2), (2, 2, 16, 6, 2), (2, 3, 16, 6, 0)]
)
def test_skeletons_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FusionInputError, match="expected skeletons"):
        small()(torch.zeros(shape, dtype=torch.float64))
