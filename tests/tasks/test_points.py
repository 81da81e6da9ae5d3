"""Where methods stand between stages, and what a fusion gets of several persons."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.backbones import ConvNet, StagedNetwork, VectorNet
from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import TappedFusion
from torchmsaf.tasks.action import rgb_network, skeleton_network
from torchmsaf.tasks.attention import even_attention, modality_attention
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.points import Tap, find_places

SMALL = {"widths": [16, 16, 16, 16, 32, 64, 128]}


def networks(persons: int = 2) -> dict[str, StagedNetwork]:
    return {
        "rgb": rgb_network((3, 8, 32, 32), 4, kind="i3d", width=0.125),
        "skeleton": skeleton_network((3, 32, 25, persons), 4, **SMALL),
    }


def fused(persons: int = 2, method: str = "msaf", **options: Any) -> FusedNetwork:
    torch.manual_seed(0)
    return FusedNetwork(networks(persons), method, outputs=4, options=options).eval()


def inputs(persons: int = 2, batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, 3, 8, 32, 32, generator=generator),
        torch.randn(batch, 3, 32, 25, persons, generator=generator),
    ]


@pytest.mark.parametrize("kind", ["i3d", "resnet50"])
def test_the_papers_networks_have_the_published_numbers_of_parameters(kind: str) -> None:
    frames = {"i3d": 32, "resnet50": 8}[kind]
    with torch.device("meta"):
        nets = {
            "rgb": rgb_network((3, frames, 224, 224), 60, kind=kind),
            "skeleton": skeleton_network((3, 32, 25, 2), 60),
        }
        network = FusedNetwork(nets, "msaf", outputs=60, options={"min_attention": 0.5, "reduction": 4})
    assert sum(p.numel() for p in network.parameters()) == {"i3d": 13_547_400, "resnet50": 47_533_928}[kind]
    assert [point.blocks for point in network.points] == {
        "i3d": [(13, 2, 2), (4, 2)],
        "resnet50": [(16, 2, 2), (8, 2)],
    }[kind]
    assert [point.block_channels for point in network.points] == [64, 256]


def test_mmtm_at_its_published_places_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        nets = {
            "rgb": rgb_network((3, 8, 224, 224), 60, kind="resnet50"),
            "skeleton": skeleton_network((3, 32, 25, 2), 60),
        }
        points = ["layer2+conv5.0", "layer3+conv6", "layer4+fc7"]
        network = FusedNetwork(nets, "mmtm", outputs=60, options={"points": points})
    assert sum(p.numel() for p in network.parameters()) == 55_936_440
    assert [sum(p.numel() for p in point.parameters()) for point in network.points] == [410_560, 1_640_320, 6_557_440]


@pytest.mark.parametrize("kind", ["i3d", "resnet50"])
def test_both_networks_go_on_from_what_the_first_fusion_made(kind: str) -> None:
    """The published ResNet-50 network drops the frames' part of its first fusion (row D2)."""
    torch.manual_seed(0)
    options = {"width": 0.125} if kind == "i3d" else {"width": 4, "blocks": [1, 1, 1, 1]}
    nets = {"rgb": rgb_network((3, 8, 32, 32), 4, kind=kind, **options), "skeleton": networks()["skeleton"]}
    network = FusedNetwork(nets, "msaf", outputs=4, options={"points": ["intermediate"]}).eval()
    before = network(inputs()).parts
    with torch.no_grad():
        for parameter in network.points.parameters():
            parameter.mul_(-3.0).add_(1.0)
    for was, now in zip(before, network(inputs()).parts, strict=True):
        assert (was - now).abs().max() > 1e-4


def test_every_person_is_an_input_and_an_absent_one_is_absent() -> None:
    two, (rgb, skeleton) = fused(2), inputs(2)
    assert two.owners == ((0, 1, 1), (0, 1))
    lengths = torch.tensor([1, 2, 1])
    skeleton[lengths == 1, ..., 1] = torch.nan  # what is there of an absent person reaches nothing
    out = two([rgb, skeleton], None, [None, lengths]).prediction
    assert bool(out.isfinite().all())
    alone = two([rgb, torch.where(skeleton.isnan(), 7.0, skeleton)], None, [None, lengths]).prediction
    torch.testing.assert_close(out, alone)
    as_if_there = two([rgb, torch.where(skeleton.isnan(), 0.0, skeleton)]).prediction
    assert (out - as_if_there)[lengths == 1].abs().max() > 1e-6
    torch.testing.assert_close(out[1], as_if_there[1])


def test_one_two_and_three_persons_go_through_one_model() -> None:
    network, (rgb, skeleton) = fused(3), inputs(3, batch=4)
    lengths = torch.tensor([1, 2, 3, 0])
    present = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    together = network([rgb, skeleton], present, [None, lengths]).prediction
    for row in range(4):
        one = slice(row, row + 1)
        single = network([rgb[one], skeleton[one]], present[one], [None, lengths[one]]).prediction
        torch.testing.assert_close(together[one], single)
    skeleton[3] = torch.nan
    torch.testing.assert_close(network([rgb, skeleton], present, [None, lengths]).prediction, together)


@pytest.mark.parametrize("method", ["msaf", "mmtm", "centralnet", "mfas", "sgm", "concat", "averaging"])
def test_absent_persons_change_no_gradient(method: str) -> None:
    network, (rgb, skeleton) = fused(2, method).train(), inputs(2, batch=4)
    lengths = torch.tensor([1, 2, 2, 1])
    grads = []
    for filler in (0.0, torch.nan):
        skeleton[lengths == 1, ..., 1] = filler
        torch.manual_seed(3)
        network.zero_grad()
        network([rgb, skeleton], None, [None, lengths]).prediction.square().sum().backward()
        grads.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        assert bool(a.isfinite().all())
        torch.testing.assert_close(a, b)


def test_the_attention_of_all_persons_is_their_modalitys() -> None:
    network = fused(2)
    shares = modality_attention(network, inputs())
    assert [share.shape for share in shares] == [(3, 2), (3, 2)]
    for share, even in zip(shares, even_attention(network), strict=True):
        torch.testing.assert_close(share.sum(1), torch.ones(3))
        torch.testing.assert_close(even.sum(), torch.tensor(1.0))
    points = network.points[0].blocks
    assert even_attention(network)[0][0] == pytest.approx(points[0] / sum(points))


@pytest.mark.parametrize(
    ("points", "places"),
    [
        (None, ((2, 1), (3, 4))),
        (1, ((3, 4),)),
        (2, ((2, 3), (3, 4))),
        ([1, 3], ((1, 2), (3, 4))),
        (["late", "early"], ((1, 0), (3, 4))),
        (["early", "intermediate", "late"], ((1, 0), (2, 1), (3, 4))),
        (["mixed_4f+conv6"], ((1, 2),)),
        ("late", ((3, 4),)),
        (["mixed_5b+fc7", "mixed_5c+fc7"], ((2, 4), (3, 4))),
    ],
)
def test_points_say_where_a_method_stands(points: Any, places: tuple[tuple[int, int], ...]) -> None:
    found = find_places("msaf", points, networks())
    assert found == tuple(tuple(Tap(stage) for stage in place) for place in places)


def test_one_person_alone_can_meet() -> None:
    assert find_places("mmtm", ["mixed_4f+conv5.1"], networks()) == ((Tap(1), Tap(1, 1)),)
    network, (rgb, skeleton) = fused(2, "mmtm", points=["mixed_4f+conv5.0", "mixed_5c+fc7"]), inputs()
    assert network.owners == ((0, 1), (0, 1))
    assert bool(network([rgb, skeleton], None, [None, torch.tensor([1, 2, 1])]).prediction.isfinite().all())


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (0, "1 to 4 with these networks"),
        (5, "1 to 4 with these networks"),
        ([], "or a list of them or of names, such as [mixed_5c+fc7], got []"),
        ([1, "late"], "or a list of them or of names, such as"),
        ("later", "'later' is no placement"),
        (["later"], "'later' is no placement of the network of 'rgb'; it has early, intermediate, late"),
        (["mixed_4f+conv9"], "network of 'skeleton' has no stage 'conv9'; it has conv4, conv5, conv6, flat6, fc7"),
        (["mixed_4f+conv5+fc7"], "names 3 stages for 2 networks"),
        (["mixed_4f+conv5.2"], "has persons 0 to 1, got 'conv5.2'"),
        (["mixed_4f+conv5." + "9" * 5000], "has persons 0 to 1, got 'conv5.9"),
        (["mixed_4f+conv6.0"], "has no persons, got 'conv6.0'"),
        (["mixed_4f+fc7", "mixed_5b+conv5"], "not in one order in all networks"),
        (["late", "late"], "one is given twice"),
    ],
)
def test_points_that_are_nowhere_are_refused(points: Any, said: str) -> None:
    with pytest.raises(FusionInputError, match=re.escape(said)):
        find_places("msaf", points, networks())


def test_networks_of_two_stages_have_the_papers_places() -> None:
    nets: dict[str, StagedNetwork] = {"sensor": ConvNet((6, 40), 4), "vector": VectorNet((9,), 4), **networks()}
    assert find_places("msaf", None, nets)[0] == (Tap(0), Tap(0), Tap(2), Tap(1))


class _Reads(TappedFusion):
    adds_parts = True

    def __init__(self, taps: Any, out_features: int) -> None:
        super().__init__(taps, out_features)
        self.given = taps
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Any, *, present: Tensor | None = None) -> Tensor:
        self.seen = features
        return torch.zeros(len(next(iter(features[0].values()))), 4) * self.scale


def test_a_method_that_reads_all_depths_gets_pooled_vectors_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchmsaf.fusion import registry

    monkeypatch.setitem(registry.METHODS, "reads", registry.Method("reads", "intermediate", _Reads, "", 2026))
    network = fused(2, "reads")
    assert [list(one.items()) for one in network.decide.given] == [  # type: ignore[union-attr]
        [("mixed_4f", 104), ("mixed_5b", 104), ("mixed_5c", 128), ("feature", 128)],
        [("conv5", 32), ("conv6", 64), ("flat6", 128), ("fc7", 128)],
    ]
    rgb, skeleton = inputs()
    lengths = torch.tensor([1, 2, 1])
    out = network([rgb, skeleton], None, [None, lengths])
    seen = network.decide.seen  # type: ignore[union-attr]
    nets = networks()
    for name, net in nets.items():
        net.load_state_dict(network.networks[name].state_dict())
        net.eval()
    # the first clip has one person: what is read of two is what is read of one
    maps = nets["skeleton"].stages[1](nets["skeleton"].stages[0](skeleton, lengths), lengths)  # type: ignore[operator]
    torch.testing.assert_close(seen[1]["conv5"][0], maps[0, ..., 0].mean((1, 2)))
    # the largest of the persons at each place, and then the mean, as MFAS's authors have it
    torch.testing.assert_close(seen[1]["conv5"][1], maps[1].amax(-1).mean((1, 2)))
    assert not torch.allclose(seen[1]["conv5"][1], maps[1].mean((1, 2)).amax(-1))
    torch.testing.assert_close(seen[0]["feature"], nets["rgb"].feature(_maps(nets["rgb"], rgb)))
    torch.testing.assert_close(out.prediction, out.parts[0] + out.parts[1])
    torch.testing.assert_close(out.parts[0], nets["rgb"](rgb))


def _maps(net: StagedNetwork, x: Tensor) -> Tensor:
    for stage in net.stages:
        x = stage(x)  # type: ignore[operator]
    return x
