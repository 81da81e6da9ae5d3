"""Protects the reading of released weights: every tensor lands in its place, and nothing but tensors is ever read.

The files are made here in the documented forms. Most of a tensor is one value repeated, which takes no room in a file; no
two tensors have the same one.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchmsaf import MSAF
from torchmsaf.backbones import MFCCNet, ResNeXt3D
from torchmsaf.backbones.released import Converted, read_released
from torchmsaf.errors import DataError

State = dict[str, Tensor]


def filled(shapes: dict[str, Any], start: int = 1) -> State:
    """Tensors that differ from each other: numbered, the small ones random on top."""
    state: State = {}
    for number, (name, tensor) in enumerate(shapes.items(), start=start):
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(number)
        elif tensor.numel() <= 256:
            state[name] = number + torch.rand(shape)
        else:
            state[name] = torch.tensor(float(number)).expand(shape)
    return state


def video_shapes(outputs: int, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> State:
    """The released names of a ResNeXt of any depth, written out here once more."""
    shapes: State = {}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = torch.empty(width, device="meta")
        shapes[f"{name}.num_batches_tracked"] = torch.empty((), device="meta")

    def convolution(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = torch.empty(*shape, device="meta")

    convolution("conv1", 64, 3, 7, 7, 7)
    norm("bn1", 64)
    inputs = 64
    for layer, count in enumerate(blocks):
        inside = 128 * 2**layer
        for block in range(count):
            start = f"layer{layer + 1}.{block}"
            convolution(f"{start}.conv1", inside, inputs, 1, 1, 1)
            norm(f"{start}.bn1", inside)
            convolution(f"{start}.conv2", inside, inside // 32, 3, 3, 3)
            norm(f"{start}.bn2", inside)
            convolution(f"{start}.conv3", 2 * inside, inside, 1, 1, 1)
            norm(f"{start}.bn3", 2 * inside)
            if block == 0:
                convolution(f"{start}.downsample.0", 2 * inside, inputs, 1, 1, 1)
                norm(f"{start}.downsample.1", 2 * inside)
            inputs = 2 * inside
    convolution("fc", outputs, 2048)
    shapes["fc.bias"] = torch.empty(outputs, device="meta")
    return shapes


def published_msaf(width: int, joint: int) -> nn.Module:
    """The authors' module of one segment with 66 blocks, as their keys have it."""
    block = nn.Module()
    block.joint_features = nn.Sequential(nn.Linear(width, joint), nn.BatchNorm1d(joint), nn.ReLU())
    block.dense_group = nn.ModuleList([nn.Linear(joint, width) for _ in range(66)])
    module = nn.Module()
    module.blocks = nn.ModuleList([block])
    return module


def fused(video: nn.Module, audio: nn.Module) -> nn.Module:
    """The authors' network, cut as they cut it: the video stem without its ReLU, each audio ReLU before its norm."""
    whole = nn.Module()
    whole.msaf = nn.ModuleList([published_msaf(16, 4), published_msaf(32, 8)])
    stem = nn.Sequential(video.conv1, video.bn1, video.maxpool, video.layer1, video.layer2, video.layer3)
    tail = nn.Sequential(nn.AvgPool3d((2, 7, 7)), nn.Flatten(), video.fc)
    whole.video_model_blocks = nn.ModuleList([stem, nn.Sequential(video.layer4), tail])
    first = nn.Sequential(audio.conv1, nn.ReLU(), audio.bn1, audio.conv2, nn.ReLU())
    second = nn.Sequential(nn.MaxPool1d(8), audio.bn2, nn.Dropout(0.2), audio.conv3, nn.ReLU(), audio.bn3)
    third = nn.Sequential(nn.Flatten(), nn.Dropout(0.4), audio.fc1)
    whole.audio_model_blocks = nn.ModuleList([first, second, third])
    return whole


@pytest.fixture(scope="module")
def network() -> ResNeXt3D:
    """Whatever is loaded into it: each test loads all of it."""
    return ResNeXt3D(8)


def saved(path: Path, content: Any, *, old: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def check(converted: Converted, name: str, network: nn.Module, expected: State) -> None:
    """The state fits the network strictly and has the values; memory is nobody else's."""
    state = converted.networks[name]
    network.load_state_dict(state, strict=True, assign=True)
    assert all(torch.equal(state[key], expected[key]) for key in network.state_dict())
    assert all(value.is_contiguous() for value in state.values())
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in state.values())


@pytest.fixture(scope="module")
def kinetics() -> dict[str, Any]:
    """The form of the Kinetics file of the ResNeXt-101, without counters of batches, as it was written before 2018."""
    state = filled(video_shapes(400, (3, 4, 23, 3)))
    assert len(state) == 626
    state = {f"module.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"epoch": 201, "arch": "resnext-101", "state_dict": OrderedDict(state), "optimizer": optimizer}


def test_the_first_blocks_of_the_kinetics_network_are_taken(
    kinetics: dict[str, Any], network: ResNeXt3D, tmp_path: Path
) -> None:
    converted = read_released(saved(tmp_path / "resnext-101-kinetics.pth", kinetics, old=True))
    expected = {key.removeprefix("module."): value for key, value in kinetics["state_dict"].items()}
    state = converted.networks["video"]
    assert converted.kind == "kinetics"
    assert not any(value.count_nonzero() for key, value in state.items() if key.endswith("num_batches_tracked"))
    assert converted.unmatched_network == ("video fc.weight", "video fc.bias")
    missing, extra = network.load_state_dict(state, strict=False, assign=True)
    assert (missing, extra) == (["fc.weight", "fc.bias"], [])
    weights = [key for key in state if not key.endswith("num_batches_tracked")]
    assert all(torch.equal(state[key], expected[key]) for key in weights)
    assert converted.matched == len(weights) == 320 - 53 - 2
    assert len(converted.unmatched_file) == 17 * (18 - 3) + 2 + 3
    assert "layer3.6.conv1.weight: layer3 has 6 blocks here" in converted.unmatched_file
    assert "layer3.5.conv1.weight" not in " ".join(converted.unmatched_file)
    assert "fc.bias: it is for 400 classes, not 8" in converted.unmatched_file
    assert "optimizer: not a weight of the network" in converted.unmatched_file
    notes = " ".join(converted.notes)
    assert "3 of 3, 4 of 4, 6 of 23, 3 of 3" in notes
    assert "0 to 255" in notes
    assert "53 counters" in notes
    assert converted.settings["mean"] == [114.7748, 107.7354, 99.475]
    assert converted.settings["std"] == [1, 1, 1]
    assert converted.settings["stem_relu"] is True
    assert (converted.settings["frames"], converted.settings["size"]) == (16, 112)


def test_a_last_layer_of_as_many_classes_is_used(tmp_path: Path) -> None:
    state = filled(video_shapes(400))
    path = saved(tmp_path / "resnext-50.pth", {"epoch": 1, "state_dict": state})
    converted = read_released(path, outputs=400)
    check(converted, "video", ResNeXt3D(400), state)
    assert converted.matched == 320
    assert converted.unmatched_file == ("epoch: not a weight of the network",)
    assert converted.unmatched_network == ()


def test_the_unimodal_networks_of_the_authors(network: ResNeXt3D, tmp_path: Path) -> None:
    state = filled(video_shapes(8))
    # the prefix of DataParallel and half precision, both of which files from elsewhere have
    state["fc.bias"] = state["fc.bias"].half()
    told = {f"module.{key}": value for key, value in state.items()}
    converted = read_released(saved(tmp_path / "fold_0_resnext50_best.pth", told))
    assert converted.networks["video"]["fc.bias"].dtype == torch.float32
    state["fc.bias"] = state["fc.bias"].float()
    assert converted.kind == "ravdess-video"
    assert converted.settings == {"stem_relu": True, "channel_order": "bgr"}
    assert "BGR" in converted.notes[0]
    check(converted, "video", network, state)
    sound = filled(MFCCNet(8).state_dict())
    converted = read_released(saved(tmp_path / "fold_0_mfccNet_best.pth", sound, old=True))
    assert (converted.kind, converted.matched, converted.settings) == ("ravdess-audio", 23, {})
    check(converted, "audio", MFCCNet(8), sound)


def test_the_fused_network_of_the_authors(network: ResNeXt3D, tmp_path: Path) -> None:
    video, audio = network, MFCCNet(8)
    file = filled(fused(video, audio).state_dict())
    assert len(file) == 621
    converted = read_released(saved(tmp_path / "fold_1_msaf_ravdess_best.pth", file))
    assert (converted.kind, converted.matched) == ("ravdess-fused", 621)
    assert converted.unmatched_file == converted.unmatched_network == ()
    assert converted.settings == {"stem_relu": False, "channel_order": "bgr"}
    assert "no ReLU after the video stem" in converted.notes[0]
    # loading the converted states and cutting the loaded networks gives the file again
    video.load_state_dict(converted.networks["video"], strict=True, assign=True)
    audio.load_state_dict(converted.networks["audio"], strict=True, assign=True)
    again = fused(video, audio).state_dict()
    assert all(torch.equal(again[key], file[key]) for key in file if not key.startswith("msaf."))
    for number, (channels, state) in enumerate(zip(((1024, 32), (2048, 64)), converted.points, strict=True)):
        module = MSAF(channels)
        module.load_state_dict(state, strict=True)
        expected = MSAF.from_published(file, channels, prefix=f"msaf.{number}.").state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in state.values())


def test_the_cut_audio_network_computes_the_same(network: ResNeXt3D, tmp_path: Path) -> None:
    """The ReLU stands before the norm: only with the right indices are the outputs equal."""
    source = MFCCNet(8).eval()
    for tensor in source.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) * 0.2 + 0.1 if tensor.is_floating_point() else tensor)
    whole = fused(network, source)
    file = {key: value for key, value in whole.state_dict().items() if not key.startswith("video")}
    file |= {key: value for key, value in filled(whole.state_dict()).items() if key.startswith("video")}
    whole_again = MFCCNet(8)
    whole_again.load_state_dict(read_released(saved(tmp_path / "fused.pth", file)).networks["audio"])
    x = torch.randn(2, 13, 212)
    y = x
    for row in whole.audio_model_blocks.eval():
        y = row(y)
    assert torch.allclose(whole_again.eval()(x), y, rtol=1e-5)


# what does not fit


@pytest.fixture
def sound() -> State:
    return filled(MFCCNet(8).state_dict())


def refused(path: Path, content: Any, match: str, **options: Any) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_released(saved(path, content), **options)
    assert str(path) in str(caught.value)


def test_missing_and_misshapen_tensors_are_listed_with_both_shapes(sound: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for key in ("bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias", "bn3.weight", "bn3.bias"):
        del sound[key]
    sound["fc1.weight"] = torch.rand(6, 1664)
    refused(path, sound, r"bn1\.weight is missing, \(32,\) is needed; .*bn3\.weight is missing.*; and 2 more\. Is it")
    refused(path, filled(video_shapes(7)), r"fc\.weight is \(7, 2048\), \(8, 2048\) is needed", kind="ravdess-video")
    plain = filled(video_shapes(400)) | {"layer1.0.conv1.weight": torch.rand(64, 64, 1, 1, 1)}
    wrapped = {"arch": "resnet-50", "state_dict": plain}
    refused(
        path, wrapped, r"says arch 'resnet-50'\): layer1\.0\.conv1\.weight is \(64, 64, 1, 1, 1\), \(128, 64, 1, 1, 1\)"
    )


def test_tensors_without_a_place_and_values_that_are_no_weights(
    sound: State, network: ResNeXt3D, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    refused(path, sound | {"conv4.weight": torch.rand(2)}, r"conv4\.weight has no place in it")
    refused(path, sound | {"bn1.bias": torch.full((32,), torch.nan)}, r"bn1\.bias has values that are not finite")
    refused(path, sound | {"bn1.bias": torch.ones(32, dtype=torch.int8)}, r"bn1\.bias is of torch\.int8, real numbers")
    refused(path, sound | {"bn1.num_batches_tracked": torch.rand(())}, r"of torch\.float32, an integer is needed")
    refused(path, sound | {"bn1.bias": torch.zeros(32).to_sparse()}, r"under 'bn1\.bias' is sparse, nested")
    more = {f"msaf.0.blocks.0.dense_group.66.{name}": torch.rand(16) for name in ("weight", "bias")}
    file = filled(fused(network, MFCCNet(8)).state_dict())
    refused(path, file | more, r"dense_group\.66\.weight has no place in it; .*66\.bias has no place")


def test_files_that_are_no_state_dict(sound: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    refused(path, torch.rand(3, 4), r"holds a tensor \(3, 4\), not a dict of tensors")
    refused(path, [1, 2], r"holds a list, not a dict of tensors")
    refused(path, {}, r"holds no tensors: the dict is empty")
    refused(path, {"state_dict": {}}, r"holds no tensors")
    refused(path, {"epoch": 6, "weights": sound}, r"under 'epoch' is a int, not a tensor; its keys are 'epoch', 'w")
    refused(path, {"features.0.weight": torch.rand(1)}, r"of no kind that is known \(kinetics, .*'features\.0\.weight")
    refused(path, sound, r"cannot be read as 'audio'; the kinds are kinetics, ravdess-video", kind="audio")
    refused(path, sound, r"conv1\.weight is \(32, 13, 7\), \(64, 3, 7, 7, 7\) is needed", kind="kinetics")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_file_is_refused_and_never_run(sound: State, tmp_path: Path) -> None:
    target, path = tmp_path / "was run", tmp_path / "w.pth"
    content = sound | {"extra": Bomb(target)}
    for old in (False, True):
        saved(path, content, old=old)
        with pytest.raises(
            DataError, match=r"is refused: it holds posix\.mkdir, and only tensors .* nothing of it was run"
        ):
            read_released(path)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"w\.pth is (refused|truncated)"):
        read_released(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "the bomb of this test works"


def test_objects_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "w.pth", MFCCNet(8), r"is refused: it holds torchmsaf\.backbones\.mfcc_cnn\.MFCCNet")
    refused(tmp_path / "w.pth", {"best": np.float64(1)}, r"is refused: it holds numpy\.[\w.]+scalar")


def test_damaged_files_and_files_of_something_else(sound: State, tmp_path: Path) -> None:
    whole, old = saved(tmp_path / "a.pth", sound), saved(tmp_path / "b.pth", sound, old=True)
    path = tmp_path / "w.pth"
    for data in (
        whole.read_bytes()[:-100],
        old.read_bytes()[:-100],
        b"",
        b"hello world\n" * 9,
        b"PK\x03\x04" + b"\0" * 99,
    ):
        path.write_bytes(data)
        with pytest.raises(
            DataError, match=r"w\.pth is truncated or no file that torch saved \(.+\): compare .*download it again"
        ):
            read_released(path)
    path.write_bytes(b"\n<!DOCTYPE html><title>Virus scan warning</title>")
    with pytest.raises(DataError, match=r"w\.pth is a web page: download the file again"):
        read_released(path)
    with pytest.raises(DataError, match=r"no\.pth does not exist; a file of weights is needed"):
        read_released(tmp_path / "no.pth")
    with pytest.raises(DataError, match=r"is a folder; a file of weights is needed"):
        read_released(tmp_path)
