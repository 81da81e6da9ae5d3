"""Protects models of released action weights: they compute what the published arithmetic gives, and say what they saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tasks.norms import randomized
from torchmsaf.backbones.hcn import HCN
from torchmsaf.backbones.i3d import I3D
from torchmsaf.backbones.inflated_resnet import InflatedResNet50
from torchmsaf.backbones.released import Converted
from torchmsaf.cli import main
from torchmsaf.data.clips import normalize
from torchmsaf.data.ntu import ACTIONS
from torchmsaf.data.prepare.actions.preparation import NtuSettings
from torchmsaf.errors import DataError
from torchmsaf.fusion.mmtm import MMTM
from torchmsaf.tasks.action_prediction import ActionModel
from torchmsaf.tasks.model_file import ModelSpec, load_model, model_bytes
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.released_models import model_of

State = dict[str, Tensor]
INNER = (..., slice(3, -3), slice(2, -2), slice(2, -2))  # what a kernel of 7 makes without seeing beyond the border


def named(prefix: str, network: nn.Module) -> State:
    return {f"{prefix}.{key}": value.clone() for key, value in network.state_dict().items()}


def msaf_tensors(name: str, width: int, joint: int, blocks: int) -> State:
    """One published module under its keys, with values of a size that makes every part count."""
    start = f"{name}.blocks.0"
    state = {
        f"{start}.joint_features.0.weight": torch.randn(joint, width) / width**0.5,
        f"{start}.joint_features.0.bias": torch.randn(joint),
        f"{start}.joint_features.1.weight": torch.rand(joint) + 0.5,
        f"{start}.joint_features.1.bias": torch.randn(joint),
        f"{start}.joint_features.1.running_mean": torch.randn(joint),
        f"{start}.joint_features.1.running_var": torch.rand(joint) + 0.5,
        f"{start}.joint_features.1.num_batches_tracked": torch.tensor(7),
    }
    for b in range(blocks):
        state[f"{start}.dense_group.{b}.weight"] = torch.randn(width, joint)
        state[f"{start}.dense_group.{b}.bias"] = torch.randn(width)
    return state


def msaf_by_hand(state: State, name: str, width: int, maps: list[Tensor]) -> list[Tensor]:
    """Theirs in evaluation: blocks of the inputs in order, and half of the features pass whatever the attention is."""
    start = f"{name}.blocks.0"
    split = [x.split(width, dim=1) for x in maps]
    pooled = sum(block.flatten(2).mean(2) if block.dim() > 2 else block for group in split for block in group)
    z = F.linear(pooled, state[f"{start}.joint_features.0.weight"], state[f"{start}.joint_features.0.bias"])
    norm = [state[f"{start}.joint_features.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    z = F.relu(F.batch_norm(z, *norm))
    number = sum(len(group) for group in split)
    layers = [[state[f"{start}.dense_group.{b}.{key}"] for key in ("weight", "bias")] for b in range(number)]
    attention = iter(torch.stack([F.linear(z, *layer) for layer in layers]).softmax(0))
    outputs = []
    for group in split:
        gates = [(0.5 + 0.5 * next(attention)).view(*block.shape[:2], *[1] * (block.dim() - 2)) for block in group]
        outputs.append(torch.cat([block * gate for block, gate in zip(group, gates, strict=True)], dim=1))
    return outputs


def subjects(spec: ModelSpec) -> set[str]:
    """Of the groups that ``action_samples`` makes, those that the weights have seen."""
    return set(spec.seen["NTU RGB+D"])


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@torch.no_grad()
def test_the_fused_network_predicts_what_the_published_arithmetic_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rgb, skeleton = randomized(I3D(60)), HCN(60).eval()
    file = named("visual", rgb) | named("skeleton", skeleton)
    file |= msaf_tensors("msaf1", 64, 16, 17) | msaf_tensors("msaf2", 256, 64, 6)
    assert main(["convert", str(saved(tmp_path / "msaf_ntu_epoch12_92.24.checkpoint", file))]) == 0
    network, spec = load_model(tmp_path / "msaf_ntu_epoch12_92.24.safetensors")
    fed = ActionModel(network, spec)  # files are read as the published code reads them
    assert (fed.settings, fed.draw) == (NtuSettings.published(), "published")
    assert isinstance(network, FusedNetwork)
    assert sum(p.numel() for p in network.parameters()) == 13_547_400
    clips, poses = torch.randn(2, 3, 16, 64, 64), torch.randn(2, 3, 32, 25, 2)
    fused = network([clips, poses])
    # up to Mixed_5b with both persons' conv5, then Mixed_5c with fc7
    a, b = clips, poses
    for stage in rgb.stages[:3]:
        a = stage(a)
    for stage in skeleton.stages[:2]:
        b = stage(b, None)
    a, *persons = msaf_by_hand(file, "msaf1", 64, [a, b[..., 0], b[..., 1]])
    a = rgb.stages[3](a)
    b = torch.stack([F.max_pool2d(F.relu(skeleton.conv6[0](person)), 2) for person in persons]).amax(0)
    b = F.relu(skeleton.fc7[0](b.flatten(1)))
    a, b = msaf_by_hand(file, "msaf2", 256, [a, b])
    logits = [rgb.head(rgb.feature(a)), skeleton.fc8(b)]
    torch.testing.assert_close(list(fused.parts), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.prediction, (logits[0] + logits[1]) / 2, rtol=1e-4, atol=1e-4)
    assert logits[0].std() > 1e-3
    about = spec.about
    assert about["task"] == "action"
    assert [name[5:] for name in about["classes"]] == list(ACTIONS[:60])
    assert about["classes"][59].startswith("A060 ")
    assert about["parameters"] == NtuSettings.published().parameters()
    assert about["parameters"]["channel_order"] == "bgr"
    # all that trained, and the test subjects that its epoch was chosen by, in every protocol
    assert {"P001", "P038", "P003", "P010", "C001P001", "S017P001"} <= subjects(spec)
    assert len([name for name in subjects(spec) if name.startswith("P")]) == 24
    assert spec.networks["rgb"].shape == (3, 32, 224, 224)
    assert (spec.networks["skeleton"].shape, list(spec.networks)) == ((3, 32, 25, 2), ["rgb", "skeleton"])


@torch.no_grad()
def test_mmtm_stands_where_it_stood() -> None:
    """As it was meant: both outputs of each module are used."""
    torch.manual_seed(1)
    rgb, skeleton = randomized(InflatedResNet50(60)), HCN(60).eval()
    modules = [MMTM(widths) for widths in ((512, 128), (1024, 256), (2048, 512))]
    states = {"rgb": dict(rgb.state_dict()), "skeleton": dict(skeleton.state_dict())}
    points = tuple(dict(module.state_dict()) for module in modules)
    state, spec = model_of(Converted("ntu-mmtm", states, points, (), 362, (), (), {"channel_order": "bgr"}))
    network = spec.build().eval()
    network.load_state_dict(state, strict=True, assign=True)
    assert spec.method == "mmtm"
    assert sum(p.numel() for p in network.parameters()) == 55_936_440
    assert spec.networks["rgb"].shape == (3, 8, 224, 224)
    clips, poses = torch.randn(2, 3, 2, 32, 32), torch.randn(2, 3, 32, 25, 2)
    a = rgb.stages[1](rgb.stages[0](clips))
    b = skeleton.stages[1](skeleton.stages[0](poses, None), None)
    a, first = modules[0]([a, b[..., 0]])
    b = skeleton.stages[2](torch.stack([first, b[..., 1]], dim=-1), None)
    a, b = modules[1]([rgb.stages[2](a), b])
    a, b = modules[2]([rgb.stages[3](a), skeleton.stages[4](skeleton.stages[3](b, None), None)])
    logits = [rgb.head(rgb.feature(a)), skeleton.head(b)]
    torch.testing.assert_close(list(network([clips, poses]).parts), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "padding"), [("i3d", "same"), ("ntu-i3d", "symmetric")])
@torch.no_grad()
def test_i3d_alone_sees_in_normalized_rgb_what_it_saw(kind: Any, padding: str, tmp_path: Path) -> None:
    classes = 400 if kind == "i3d" else 60
    original = randomized(I3D(classes, padding=padding))
    half = [127.5] * 3
    settings: dict[str, Any] = {"channel_order": "bgr", "padding": padding}
    if kind == "i3d":
        settings |= {"channel_order": "rgb", "value_range": [0, 255], "mean": half, "std": half}
    given = Converted(kind, {"rgb": dict(original.state_dict())}, (), ("a note",), 344, (), (), settings)
    path = tmp_path / "i3d.safetensors"
    path.write_bytes(model_bytes(*model_of(given)))
    network, spec = load_model(path)
    assert spec.networks["rgb"].options.get("padding", "symmetric") == padding
    assert (spec.outputs, spec.method, spec.about.get("task")) == (
        (400, None, None) if kind == "i3d" else (60, None, "action")
    )
    x = torch.randint(0, 256, (2, 3, 20, 24, 26), dtype=torch.uint8)
    theirs = x.float() / 127.5 - 1 if kind == "i3d" else normalize(x.flip(1))
    taken = network.networks["rgb"]
    assert isinstance(taken, I3D)
    outputs = [net.features[0](z)[INNER] for net, z in ((original, theirs), (taken, normalize(x)))]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    assert outputs[0].std() > 0.1
    assert spec.about["notes"][-1].startswith("Its first layer was changed to take normalized RGB")
    if kind == "ntu-i3d":
        assert spec.about["parameters"]["channel_order"] == "rgb"


@torch.no_grad()
def test_the_resnet_alone_sees_what_it_saw_in_bgr(tmp_path: Path) -> None:
    original = randomized(InflatedResNet50(60))
    given = Converted("ntu-rgb", {"rgb": dict(original.state_dict())}, (), (), 320, (), (), {"channel_order": "bgr"})
    state, spec = model_of(given)
    taken = {key.removeprefix("networks.rgb."): value for key, value in state.items()}
    x = torch.randint(0, 256, (2, 3, 24, 26), dtype=torch.uint8)
    frames = [normalize(z[:, :, None])[:, :, 0] for z in (x.flip(1), x)]
    norms = [
        [own[f"cnn.bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        for own in (original.state_dict(), taken)
    ]
    kernels = [original.state_dict()["cnn.conv1.weight"], taken["cnn.conv1.weight"]]
    outputs = [F.batch_norm(F.conv2d(z, k), *own) for z, k, own in zip(frames, kernels, norms, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    # of the training code's subjects alone
    assert len([name for name in subjects(spec) if name.startswith("P")]) == 20
    assert spec.networks["rgb"].options == {"kind": "resnet50"}


def test_a_start_from_images_is_no_model_of_actions(tmp_path: Path) -> None:
    images = {key: value for key, value in InflatedResNet50(60).state_dict().items() if key.startswith("cnn.")}
    given = Converted("torchvision-resnet50", {"rgb": images}, (), ("a note",), 318, (), (), {"channel_order": "rgb"})
    state, spec = model_of(given)
    assert all(torch.equal(state[f"networks.rgb.{key}"], value) for key, value in images.items())
    assert (spec.about, spec.outputs) == ({"released": "torchvision-resnet50", "notes": ["a note"]}, 60)
    path = tmp_path / "start.safetensors"
    path.write_bytes(model_bytes(state, spec))
    with pytest.raises(DataError, match="holds torchvision-resnet50 weights, a start for training"):
        load_model(path)


def test_the_skeleton_network_alone_is_as_it_was(tmp_path: Path) -> None:
    original = HCN(60)
    path = saved(tmp_path / "skeleton_32frames_85.24.checkpoint", dict(original.state_dict()))
    assert main(["convert", str(path)]) == 0
    network, spec = load_model(tmp_path / "skeleton_32frames_85.24.safetensors")
    own = network.networks["skeleton"].state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, own[key]) for key, value in original.state_dict().items())
    assert spec.about["parameters"]["bodies"] == "published"
