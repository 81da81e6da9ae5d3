"""Protects the reading of released weights of action networks: every key of every layout lands in its place.

The keys are written out here once more. Most of a tensor is one value repeated, which takes no room in a file; no two
tensors have the same one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf import MSAF
from torchmsaf.backbones.hcn import HCN
from torchmsaf.backbones.i3d import I3D
from torchmsaf.backbones.inflated_resnet import InflatedResNet50
from torchmsaf.backbones.released import Converted, read_released
from torchmsaf.errors import DataError
from torchmsaf.fusion.mmtm import MMTM

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
COUNTER = "num_batches_tracked"

# inputs; 1 x 1 x 1 | 1 x 1 x 1, 3 x 3 x 3 | 1 x 1 x 1, 3 x 3 x 3 | after pooling
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32), "3c": (256, 128, 128, 192, 32, 96, 64), "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64), "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64), "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128), "5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip
INDICES = (5, 6, 8, 9, 10, 11, 12, 14, 15)
# stem, mixed layer, its branches, convolution, norm, head
PORTS: dict[str, dict[str, Any]] = {
    "rimchang": {
        "stem": ("features.0", "features.2", "features.3"),
        "mixed": [f"features.{k}" for k in INDICES],
        "branches": ("branch0.0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch3.1"),
        "parts": ("conv", "bn"),
        "head": "features.18",
    },
    "hassony2": {
        "stem": ("conv3d_1a_7x7", "conv3d_2b_1x1", "conv3d_2c_3x3"),
        "mixed": [f"mixed_{name}" for name in MIXED],
        "branches": ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1"),
        "parts": ("conv3d", "batch3d"),
        "head": "conv3d_0c_1x1.conv3d",
    },
    "piergiaj": {
        "stem": ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"),
        "mixed": [f"Mixed_{name}" for name in MIXED],
        "branches": ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"),
        "parts": ("conv3d", "bn"),
        "head": "logits.conv3d",
    },
}


def norm(name: str, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.{COUNTER}": ()}


def i3d_shapes(port: str, classes: int) -> Shapes:
    names = PORTS[port]
    shapes: Shapes = {}

    def unit(name: str, inputs: int, out: int, kernel: int) -> None:
        convolution, after = names["parts"]
        shapes[f"{name}.{convolution}.weight"] = (out, inputs, kernel, kernel, kernel)
        shapes.update(norm(f"{name}.{after}", out))

    for name, sizes in zip(names["stem"], ((3, 64, 7), (64, 64, 1), (64, 192, 3)), strict=True):
        unit(name, *sizes)
    for name, (inputs, b0, b1a, b1b, b2a, b2b, b3) in zip(names["mixed"], MIXED.values(), strict=True):
        sizes = [(inputs, b0, 1), (inputs, b1a, 1), (b1a, b1b, 3), (inputs, b2a, 1), (b2a, b2b, 3), (inputs, b3, 1)]
        for branch, size in zip(names["branches"], sizes, strict=True):
            unit(f"{name}.{branch}", *size)
    return shapes | {f"{names['head']}.weight": (classes, 1024, 1, 1, 1), f"{names['head']}.bias": (classes,)}


def resnet_shapes(start: str, axes: int, head: str, classes: int) -> Shapes:
    """Of kernels with so many axes; the stem has two in any case."""
    shapes: Shapes = {f"{start}conv1.weight": (64, 3, 7, 7), **norm(f"{start}bn1", 64)}
    inputs = 64
    for layer, count in enumerate((3, 4, 6, 3)):
        inside = 64 * 2**layer
        for block in range(count):
            name = f"{start}layer{layer + 1}.{block}"
            kernels = ((inside, inputs, 1), (inside, inside, 3), (4 * inside, inside, 1))
            for k, (out, before, kernel) in enumerate(kernels, start=1):
                shapes[f"{name}.conv{k}.weight"] = (out, before, *[kernel] * axes)
                shapes |= norm(f"{name}.bn{k}", out)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inside, inputs, *[1] * axes)
                shapes |= norm(f"{name}.downsample.1", 4 * inside)
            inputs = 4 * inside
    return shapes | {f"{head}.weight": (classes, 2048), f"{head}.bias": (classes,)}


def skeleton_shapes() -> Shapes:
    weights: Shapes = {}
    for m in ("", "m"):
        weights |= {f"conv1{m}.0": (64, 3, 1, 1), f"conv2{m}": (32, 64, 3, 1)}
        weights |= {f"conv3{m}.0": (32, 25, 3, 3), f"conv4{m}.0": (64, 32, 3, 3)}
    weights |= {"conv5.0": (128, 128, 3, 3), "conv6.0": (256, 128, 3, 3), "fc7.0": (512, 1024), "fc8": (60, 512)}
    shapes: Shapes = {f"{name}.weight": shape for name, shape in weights.items()}
    return shapes | {f"{name}.bias": shape[:1] for name, shape in weights.items()}


def msaf_shapes(name: str, width: int, joint: int, blocks: int) -> Shapes:
    start = f"{name}.blocks.0"
    shapes: Shapes = {f"{start}.joint_features.0.weight": (joint, width), f"{start}.joint_features.0.bias": (joint,)}
    shapes |= norm(f"{start}.joint_features.1", joint)
    for b in range(blocks):
        shapes |= {f"{start}.dense_group.{b}.weight": (width, joint), f"{start}.dense_group.{b}.bias": (width,)}
    return shapes


def mmtm_shapes() -> Shapes:
    shapes: Shapes = {}
    for k, (visual, skeleton) in enumerate(((512, 128), (1024, 256), (2048, 512))):
        joint = (visual + skeleton) // 2
        sizes = {"squeeze": (joint, visual + skeleton), "visual": (visual, joint), "skeleton": (skeleton, joint)}
        for name, size in sizes.items():
            shapes |= {f"mmtm{k}.fc_{name}.weight": size, f"mmtm{k}.fc_{name}.bias": size[:1]}
    return shapes


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{key}": shape for key, shape in shapes.items()}


def filled(shapes: Shapes) -> State:
    """Tensors that differ from each other: numbered, the small ones random on top."""
    state: State = {}
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        if name.endswith(COUNTER):
            state[name] = torch.tensor(number)
        elif torch.Size(shape).numel() <= 256:
            state[name] = number + torch.rand(shape)
        else:
            state[name] = torch.tensor(float(number)).expand(shape)
    return state


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def check(converted: Converted, name: str, network: nn.Module, expected: State) -> None:
    """The state fits the network strictly and has the values; memory is nobody else's."""
    state = converted.networks[name]
    network.load_state_dict(state, strict=True, assign=True)
    assert all(torch.equal(state[key], expected[key]) for key in network.state_dict())
    assert all(value.is_contiguous() for value in state.values())
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in state.values())


@pytest.fixture(scope="module")
def i3d() -> I3D:
    """Whatever is loaded into it: each test loads all of it."""
    return I3D(60)


@pytest.fixture(scope="module")
def resnet() -> InflatedResNet50:
    return InflatedResNet50(60)


@pytest.mark.parametrize("port", PORTS)
def test_i3d_of_kinetics_in_the_names_of_each_port(port: str, tmp_path: Path) -> None:
    file = filled(i3d_shapes(port, 400))
    assert len(file) == 344
    converted = read_released(saved(tmp_path / "rgb.pt", file))
    assert (converted.kind, converted.matched, converted.unmatched_file) == ("i3d", 344, ())
    # their order is the same, whatever they are called
    expected = dict(zip(i3d_shapes("rimchang", 400), file.values(), strict=True))
    check(converted, "rgb", I3D(400), expected)
    assert converted.settings["padding"] == ("symmetric" if port == "rimchang" else "same")
    assert converted.settings["mean"] == converted.settings["std"] == [127.5] * 3
    assert "from -1 to 1" in converted.notes[0]


def test_i3d_without_counters_and_with_other_classes(i3d: I3D, tmp_path: Path) -> None:
    file = {key: value for key, value in filled(i3d_shapes("hassony2", 60)).items() if not key.endswith(COUNTER)}
    converted = read_released(saved(tmp_path / "model_rgb.pth", file))
    assert (converted.kind, converted.matched) == ("i3d", 344 - 57)
    assert "57 counters" in converted.notes[-1]
    i3d.load_state_dict(converted.networks["rgb"], strict=True, assign=True)
    assert not any(value for key, value in i3d.state_dict().items() if key.endswith(COUNTER))


def test_the_networks_of_one_modality_for_ntu(i3d: I3D, resnet: InflatedResNet50, tmp_path: Path) -> None:
    path = tmp_path / "w.checkpoint"
    file = filled(i3d_shapes("rimchang", 60))
    converted = read_released(saved(path, file))
    assert converted.kind == "ntu-i3d"
    assert converted.settings == {"channel_order": "bgr", "padding": "symmetric"}
    check(converted, "rgb", i3d, file)
    file = filled(resnet_shapes("cnn.", 3, "classifier", 60))
    assert len(file) == 320
    converted = read_released(saved(path, file))
    assert (converted.kind, converted.matched) == ("ntu-rgb", 320)
    assert converted.settings == {"channel_order": "bgr"}
    check(converted, "rgb", resnet, file)
    file = filled(skeleton_shapes())
    assert len(file) == 24
    converted = read_released(saved(path, {f"module.{key}": value for key, value in file.items()}))
    assert (converted.kind, converted.matched, converted.settings) == ("ntu-skeleton", 24, {})
    check(converted, "skeleton", HCN(60), file)


@pytest.mark.parametrize("with_i3d", [True, False])
def test_the_fused_networks_of_the_authors(with_i3d: bool, i3d: I3D, resnet: InflatedResNet50, tmp_path: Path) -> None:
    own = i3d_shapes("rimchang", 60) if with_i3d else resnet_shapes("cnn.", 3, "classifier", 60)
    first, second = (13 + 2 + 2, 4 + 2) if with_i3d else (16 + 2 + 2, 8 + 2)
    msaf = msaf_shapes("msaf1", 64, 16, first) | msaf_shapes("msaf2", 256, 64, second)
    file = filled(under("visual", own) | under("skeleton", skeleton_shapes()) | msaf)
    converted = read_released(saved(tmp_path / "msaf_ntu.checkpoint", file))
    assert len(file) == converted.matched == (428 if with_i3d else 418)
    assert converted.kind == ("ntu-fused-i3d" if with_i3d else "ntu-fused-resnet50")
    assert any("loses those of RGB" in note for note in converted.notes) is not with_i3d
    for name, network, prefix in (("rgb", i3d if with_i3d else resnet, "visual"), ("skeleton", HCN(60), "skeleton")):
        expected = {key.removeprefix(f"{prefix}."): value for key, value in file.items()}
        check(converted, name, network, expected)
    channels = ((832, 128, 128), (1024, 512)) if with_i3d else ((1024, 128, 128), (2048, 512))
    for number, (widths, state) in enumerate(zip(channels, converted.points, strict=True), start=1):
        MSAF(widths, reduction=4).load_state_dict(state, strict=True)
        expected = MSAF.from_published(file, widths, prefix=f"msaf{number}.").state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in state.items())


def test_the_network_fused_by_mmtm(resnet: InflatedResNet50, tmp_path: Path) -> None:
    own = under("visual", resnet_shapes("cnn.", 3, "classifier", 60)) | under("skeleton", skeleton_shapes())
    file = filled(own | mmtm_shapes())
    assert tuple(file["mmtm2.fc_squeeze.weight"].shape) == (1280, 2560)
    converted = read_released(saved(tmp_path / "fusion_mmtm.checkpoint", file))
    assert (converted.kind, converted.matched) == ("ntu-mmtm", len(file))
    for number, widths in enumerate(((512, 128), (1024, 256), (2048, 512))):
        module = MMTM(widths)
        module.load_state_dict(converted.points[number], strict=True)
        assert torch.equal(module.squeeze.bias, file[f"mmtm{number}.fc_squeeze.bias"])
        assert torch.equal(module.excite[0].weight, file[f"mmtm{number}.fc_visual.weight"])
        assert torch.equal(module.excite[1].weight, file[f"mmtm{number}.fc_skeleton.weight"])


def test_kernels_of_images_become_the_middle_frame(resnet: InflatedResNet50, tmp_path: Path) -> None:
    file = filled(resnet_shapes("", 2, "fc", 1000))
    converted = read_released(saved(tmp_path / "resnet50.pth", file))
    assert (converted.kind, converted.matched) == ("torchvision-resnet50", 318)
    assert converted.unmatched_file == tuple(
        f"fc.{name}: it is for 1000 classes of images" for name in ("weight", "bias")
    )
    assert converted.unmatched_network == ("rgb classifier.weight", "rgb classifier.bias")
    state = converted.networks["rgb"]
    missing, extra = resnet.load_state_dict(state, strict=False)
    assert (missing, extra) == (["classifier.weight", "classifier.bias"], [])
    assert torch.equal(state["cnn.conv1.weight"], file["conv1.weight"])
    middle = state["cnn.layer3.2.conv2.weight"]
    assert torch.equal(middle[:, :, 1], file["layer3.2.conv2.weight"])
    assert not middle[:, :, ::2].any()
    assert torch.equal(state["cnn.layer3.2.conv1.weight"][:, :, 0], file["layer3.2.conv1.weight"])


def refused(path: Path, content: Any, match: str, **options: Any) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_released(saved(path, content), **options)
    assert str(path) in str(caught.value)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    flow = filled(i3d_shapes("piergiaj", 400)) | {"Conv3d_1a_7x7.conv3d.weight": torch.rand(64, 2, 7, 7, 7)}
    refused(
        path, flow, r"does not fit the I3D network as piergiaj names it: Conv3d_1a_7x7\.conv3d\.weight is \(64, 2, 7"
    )
    refused(path, filled(i3d_shapes("rimchang", 400)), r"features\.18\.weight is \(400, 1024, 1, 1", kind="ntu-i3d")
    skeleton = filled(skeleton_shapes())
    refused(path, skeleton | {"fc9.bias": torch.rand(2)}, r"skeleton network for NTU RGB\+D: fc9\.bias has no place")
    refused(path, skeleton | {"fc7.0.weight": torch.rand(256, 4096)}, r"\(256, 4096\), \(512, 1024\) is needed")
    refused(path, skeleton, r"cnn\.conv1\.weight is missing", kind="ntu-rgb")
    whole = under("visual", i3d_shapes("rimchang", 60)) | under("skeleton", skeleton_shapes())
    refused(
        path, filled(whole), r"fused network for NTU RGB\+D with I3D: msaf1\.blocks\.0\.joint_features\.0\.weight is"
    )
    images = filled(resnet_shapes("", 2, "fc", 1000))
    del images["layer4.2.bn3.running_var"]
    refused(path, images, r"torchvision's ResNet-50: layer4\.2\.bn3\.running_var is missing, \(2048,\) is needed")
