"""Protects docs/published-numbers.md: which of the paper's numbers of parameters and FLOPs the real modules have.

The paper is Su et al., arXiv 2012.07175: Table 1, Table 2, Table 4, and Fig. 5 with Sec. 5.5.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from torchmsaf.analysis.cost import (
    count_flops,
    count_parameters,
    published_flops,
    published_mmtm_flops,
    published_msaf_flops,
)
from torchmsaf.backbones import MFCCNet, ResNeXt3D
from torchmsaf.fusion import create_fusion
from torchmsaf.grafting import FusionPoint, graft
from torchmsaf.msaf import MSAF
from torchmsaf.tasks.action import MSAF as ACTION_MSAF
from torchmsaf.tasks.action import rgb_network, skeleton_network
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.systems.registry import create_system

PAGE = Path(__file__).parents[2] / "docs" / "published-numbers.md"
CLASSES = 8
VECTORS = (2048, 1664)  # the feature vectors of the two networks
POINTS = ((1024, 32), (2048, 64))  # the maps at the paper's two points: layer3 and relu2, layer4 and bn3
PRINTED = {"late": "25.92", "concat": "26.87", "mcbp": "51.03", "mmtm": "31.97", "msaf": "25.94"}
WIDTHS = (64, 128, 256, 512, 1024)
BATCH = 4


@pytest.fixture(scope="module")
def networks() -> list[nn.Module]:
    """The two unimodal networks of Table 1."""
    with torch.device("meta"):
        return [ResNeXt3D(CLASSES), MFCCNet(CLASSES)]


def total(networks: list[nn.Module], *added: nn.Module, classifiers: bool = True) -> int:
    """Parameters of the networks and what is added, with the networks' own classifiers or without."""
    video, audio = networks
    own = count_parameters(nn.ModuleList([*networks, *added]))
    return own if classifiers else own - count_parameters(video.fc) - count_parameters(audio.fc1)


def built(name: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return create_fusion(name, **arguments)


def concat(**options: object) -> nn.Module:
    return built("concat", widths=VECTORS, out_features=CLASSES, **options)


def mmtm(*points: tuple[int, int]) -> list[nn.Module]:
    return [built("mmtm", channels=channels, ratio=4) for channels in points]


def printed(count: int) -> str:
    """As Table 1 has it: millions, two decimals."""
    return f"{count / 1e6:.2f}"


def as_figure(flops: int) -> str:
    """As Sec. 5.5 has it: thousands or millions, one decimal."""
    return f"{flops / 1e3:.1f}K" if flops < 1e6 else f"{flops / 1e6:.1f}M"


# Table 1


def test_the_unimodal_networks(networks: list[nn.Module]) -> None:
    counts = [count_parameters(network) for network in networks]
    assert counts == [25_882_056, 34_024]
    assert [printed(count) for count in counts] == ["25.88", "0.03"]


@pytest.mark.parametrize("name", ["averaging", "multiplication", "multiplicative"])
def test_late_fusion_is_met(networks: list[nn.Module], name: str) -> None:
    count = total(networks, built(name, modalities=2))
    assert count == 25_916_080
    assert printed(count) == PRINTED["late"]


@pytest.mark.parametrize(
    ("options", "classifiers", "expected"),
    [
        ({"hidden": (256,)}, True, 26_868_664),
        ({"hidden": (256, 128)}, False, 26_870_824),
        ({"project": 256, "hidden": ()}, True, 26_870_968),
        ({"project": 256, "hidden": (64,)}, False, 26_870_504),
    ],
    ids=["A", "B", "C", "D"],
)
def test_concat_is_met_by_four(
    networks: list[nn.Module], options: dict[str, object], classifiers: bool, expected: int
) -> None:
    count = total(networks, concat(**options), classifiers=classifiers)
    assert count == expected
    assert printed(count) == PRINTED["concat"]
    assert printed(total(networks, concat(**options), classifiers=not classifiers)) != PRINTED["concat"]


def test_mcbp_is_not_met(networks: list[nn.Module]) -> None:
    fusion = built("mcbp", widths=VECTORS, out_features=CLASSES)
    for classifiers, expected in ((True, 26_044_088), (False, 26_014_376)):
        count = total(networks, fusion, classifiers=classifiers)
        assert count == expected
        assert printed(count) != PRINTED["mcbp"]


@pytest.mark.parametrize("classifiers", [True, False])
def test_mcbp_as_printed_has_no_hidden_layer_of_a_round_width(networks: list[nn.Module], classifiers: bool) -> None:
    own = total(networks, classifiers=classifiers)
    met = {
        sketch: [h for h in range(1, 2**14) if printed(own + (sketch + 1) * h + (h + 1) * CLASSES) == PRINTED["mcbp"]]
        for sketch in (2048, 4096, 8000, 8192, 16000)
    }
    if classifiers:
        assert (met[8000], met[8192], met[16000]) == ([3136], [3062], [1569])
    for hidden in (h for widths in met.values() for h in widths):
        assert hidden % 50
        assert hidden.bit_count() > 1  # no power of two


def test_mcbp_is_met_by_chance(networks: list[nn.Module]) -> None:
    """Projections to one width, a sketch, one hidden layer: found by trying many."""

    def head(video: int, audio: int, project: int, sketch: int, hidden: int) -> nn.Module:
        pairs = ((video, project), (audio, project), (sketch, hidden), (hidden, CLASSES))
        with torch.device("meta"):
            return nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    found = [
        total(networks, head(2048, 64, 512, 8000, 3000)),
        total(networks, head(2048, 64, 256, 8192, 3000), classifiers=False),
    ]
    assert found == [51_025_456, 51_030_560]
    assert {printed(count) for count in found} == {PRINTED["mcbp"]}


def test_mmtm_at_the_points_of_msaf_is_not_met(networks: list[nn.Module]) -> None:
    for fusions, expected in (
        (mmtm(*POINTS), 31_496_512),
        (mmtm(*POINTS, (512, 32), (256, 32)), 31_876_640),  # after layer2 and layer1 as well
    ):
        for classifiers in (True, False):
            count = total(networks, *fusions, classifiers=classifiers)
            assert count == expected - (0 if classifiers else 29_712)
            assert printed(count) != PRINTED["mmtm"]


def test_mmtm_with_a_head_is_met_and_not_by_one_configuration_alone(networks: list[nn.Module]) -> None:
    with_head = total(networks, *mmtm(*POINTS), concat(hidden=(128,)))
    assert with_head == 31_972_808
    # audio maps of 64 channels at every point, which the audio network does not have
    four = total(networks, *mmtm(*((width, 64) for width in (256, 512, 1024, 2048))), classifiers=False)
    assert four == 31_970_976
    assert printed(with_head) == printed(four) == PRINTED["mmtm"]


# Table 4


@pytest.mark.parametrize(
    ("blocks", "expected"), [((8, 16), 25_929_906), ((16, 32), 25_940_724), ((32, 64), 25_962_840)]
)
def test_msaf_is_met(networks: list[nn.Module], blocks: tuple[int, int], expected: int) -> None:
    fusions = [
        built("msaf", channels=channels, block_channels=block, reduction=4)
        for channels, block in zip(POINTS, blocks, strict=True)
    ]
    count = total(networks, *fusions)
    assert count == expected
    assert (printed(count) == PRINTED["msaf"]) == (blocks == (16, 32))
    if blocks == (16, 32):
        assert [count_parameters(fusion) for fusion in fusions] == [5_356, 19_288]


def test_msaf_grafted_onto_the_real_networks_is_met() -> None:
    example = {"video": torch.randn(2, 3, 2, 16, 16), "audio": torch.randn(2, 13, 212)}
    video, audio = ResNeXt3D(CLASSES), MFCCNet(CLASSES)
    model = graft(
        {"video": video, "audio": audio},
        [
            FusionPoint({"video": "layer3", "audio": "relu2"}, "msaf", block_channels=16, reduction=4),
            FusionPoint({"video": "layer4", "audio": "bn3"}, "msaf", block_channels=32, reduction=4),
        ],
        head="sum",
        example=example,
    ).eval()
    assert count_parameters(model) == 25_940_724
    assert sum(parameter.numel() for parameter in model.fusion_parameters()) == 24_644
    with torch.no_grad():
        fused = model(example)
        assert fused.shape == (2, CLASSES)
        assert not torch.allclose(fused, video(example["video"]) + audio(example["audio"]))


# Fig. 5 and Sec. 5.5


def of_width(name: str, width: int) -> nn.Module:
    options = {"block_channels": width // 2, "reduction": 4} if name == "msaf" else {"ratio": 4}
    return create_fusion(name, channels=(width, width), **options).eval()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("msaf", (1_432, 5_424, 21_088, 83_136, 330_112)),
        ("mmtm", (16_576, 65_920, 262_912, 1_050_112, 4_197_376)),
    ],
)
def test_parameters_of_the_figure(name: str, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert tuple(count_parameters(of_width(name, width)) for width in WIDTHS) == expected


@pytest.mark.parametrize(
    ("name", "expected", "said"),
    [
        ("msaf", (10_432, 41_344, 164_608, 656_896, 2_624_512), ("10.4K", "2.6M")),
        ("mmtm", (131_584, 525_312, 2_099_200, 8_392_704, 33_562_624), ("131.6K", "33.6M")),
    ],
)
def test_published_flops_of_the_figure(name: str, expected: tuple[int, ...], said: tuple[str, str]) -> None:
    if name == "msaf":
        found = [published_msaf_flops((width, width), width // 2, 4, BATCH) for width in WIDTHS]
    else:
        found = [published_mmtm_flops((width, width), 4, BATCH) for width in WIDTHS]
    assert tuple(found) == expected
    assert (as_figure(found[0]), as_figure(found[-1])) == said


@pytest.mark.parametrize("width", WIDTHS)
def test_published_flops_of_the_real_mmtm(width: int) -> None:
    maps = [torch.randn(BATCH, width, 2, 3), torch.randn(BATCH, width, 5)]
    found = published_flops(of_width("mmtm", width), maps)
    assert found == published_mmtm_flops((width, width), 4, BATCH)


@pytest.mark.parametrize("width", WIDTHS)
def test_published_flops_of_the_real_msaf_are_its_products_its_norm_and_its_relu(width: int) -> None:
    """MSAF has its linear layers in one tensor, which hooks do not see: the products are counted where they run."""
    module = of_width("msaf", width)
    products = count_flops(module, [torch.randn(BATCH, width, 2, 3), torch.randn(BATCH, width, 5)])
    joint = width // 2 // 4
    assert products + (4 + 2) * BATCH * joint == published_msaf_flops((width, width), width // 2, 4, BATCH)


@pytest.mark.parametrize("relu", [0, 1])
def test_a_cheaper_relu_does_not_give_the_printed_flops_of_mmtm(relu: int) -> None:
    linear = published_mmtm_flops((64, 64), 4, BATCH) - 2 * BATCH * 64
    assert as_figure(linear + relu * BATCH * 64) != "131.6K"


# Table 2


def test_the_sentiment_network_of_msaf_is_met() -> None:
    """Two LSTMs a modality, five modules between them and one linear layer on 32 + 64 + 128 features."""
    sizes = {"video": (35, 32), "audio": (74, 64), "text": (768, 128)}
    with torch.device("meta"):
        lstms = nn.ModuleList([nn.LSTM(*pair) for (d, h) in sizes.values() for pair in ((d, h), (h, h))])
        module = MSAF([h for _, h in sizes.values()], block_channels=16, reduction=2, segments=5)
        last = nn.Linear(32 + 64 + 128, 1)
    assert [count_parameters(part) for part in (lstms, module, last)] == [678_272, 10_840, 225]
    assert 678_272 + 10_840 + 225 == 689_337


def test_misa_is_met_with_the_two_parts_that_change_no_output() -> None:
    """The authors' code has a linear layer from 128 features to 4 and a layer norm of 600 that change no output."""
    model = create_system("misa", {"video": (35, 50), "audio": (74, 50), "text": (768, 50)}, 1)
    without = count_parameters(nn.Linear(128, 4)) + count_parameters(nn.LayerNorm(600))
    assert count_parameters(model) == 1_431_517
    assert count_parameters(model) + without == 1_433_233


# the page


@pytest.mark.parametrize(
    ("kind", "alone", "fused", "modules"),
    [
        ("i3d", 12_348_764, 13_547_400, [19_568, 116_416]),
        ("resnet50", 46_265_468, 47_533_928, [22_832, 182_976]),
    ],
)
def test_networks_for_actions(kind: str, alone: int, fused: int, modules: list[int]) -> None:
    """Of 60 actions, two persons; MMTM is at its own points on ResNet-50, MFAS its central part with the weights alpha."""
    with torch.device("meta"):
        nets = {"rgb": rgb_network((3, 8, 224, 224), 60, kind=kind), "skeleton": skeleton_network((3, 32, 25, 2), 60)}
        network = FusedNetwork(nets, "msaf", outputs=60, options=dict(ACTION_MSAF))
        assert [count_parameters(net) for net in nets.values()] == [alone, 1_062_652]
        assert [count_parameters(point) for point in network.points] == modules
        assert count_parameters(network) == fused
        if kind == "resnet50":
            points = ["layer2+conv5.0", "layer3+conv6", "layer4+fc7"]
            assert count_parameters(FusedNetwork(nets, "mmtm", outputs=60, options={"points": points})) == 55_936_440
            mfas = {"architecture": "ntu-paper", "weights": True}
            assert count_parameters(FusedNetwork(nets, "mfas", outputs=60, options=mfas).decide) == 2_048_064


def test_the_page_has_every_number_and_names_tests_that_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`tests/analysis/test_published_totals\.py::(\w+)`", page)
    assert named
    assert all(name in globals() for name in named)
    source = Path(__file__).read_text(encoding="utf-8")
    there = {int(number.replace(",", "")) for number in re.findall(r"\d{1,3}(?:,\d{3})+", page)}
    pinned = {int(number.replace("_", "")) for number in re.findall(r"\b\d{1,3}(?:_\d{3})+\b", source)}
    assert there == pinned
    assert set(PRINTED.values()) <= set(re.findall(r"\d+\.\d\d", page))
