"""Protects models of released weights: they compute what they did, and are used as they were trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tasks.norms import randomized
from torchmsaf import MSAF
from torchmsaf.backbones import MFCCNet, ResNeXt3D
from torchmsaf.backbones.released import Converted
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.data.clips import normalize
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.errors import DataError
from torchmsaf.tasks.emotion import audio_network, video_network
from torchmsaf.tasks.emotion_prediction import EmotionModel
from torchmsaf.tasks.model_file import load_model, load_pretrained, model_bytes
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.released_models import model_of

MEAN = [114.7748, 107.7354, 99.475]
SMALL: dict[str, Any] = {"blocks": [1, 1, 1, 1], "width": 8, "cardinality": 4}


def converted(kind: Any, networks: dict[str, nn.Module], **rest: Any) -> Converted:
    states = {name: dict(net.state_dict()) for name, net in networks.items()}
    given = {"points": (), "notes": ("a note",), "matched": 1, "unmatched_file": (), "unmatched_network": ()}
    return Converted(kind, states, **{**given, **rest})


def kinetics(network: nn.Module, std: tuple[float, ...] = (1, 1, 1)) -> Converted:
    settings = {
        "stem_relu": True, "channel_order": "rgb", "value_range": [0, 255], "mean": MEAN, "std": list(std), "frames": 16,
        "size": 112,
    }  # fmt: skip
    return converted("kinetics", {"video": network}, settings=settings)


@pytest.mark.parametrize("std", [(1, 1, 1), (38.7, 37.2, 36.9)])
@torch.no_grad()
def test_kinetics_weights_see_in_normalized_values_what_they_saw_in_0_to_255(std: tuple[float, ...]) -> None:
    original = randomized(ResNeXt3D(8, **SMALL))
    before = {key: value.clone() for key, value in original.state_dict().items()}
    given = kinetics(original, std)
    state, spec = model_of(given)
    assert all(torch.equal(value, before[key]) for key, value in given.networks["video"].items())  # the file's are kept
    network = ResNeXt3D(8, **SMALL).eval()
    network.load_state_dict({key.removeprefix("networks.video."): value for key, value in state.items()})
    x = torch.randint(0, 256, (2, 3, 9, 24, 26), dtype=torch.uint8)
    wide = (1, 3, 1, 1, 1)
    theirs = (x.float() - torch.tensor(MEAN).view(wide)) / torch.tensor(std).view(wide)
    outputs = [net.bn1(net.conv1(z)) for net, z in ((original, theirs), (network, normalize(x)))]
    inner = [out[:, :, 3:-3, 2:-2, 2:-2] for out in outputs]  # a kernel of 7 sees the border's zeros no further
    torch.testing.assert_close(*inner, rtol=1e-4, atol=1e-3)
    assert inner[0].std() > 0.1
    changed = {
        key for key, value in state.items() if not torch.equal(value, before[key.removeprefix("networks.video.")])
    }
    assert changed == {"networks.video.conv1.weight", "networks.video.bn1.running_mean"}
    assert (spec.networks["video"].shape, spec.networks["video"].options, spec.method) == ((3, 16, 112, 112), {}, None)


def written(path: Path, given: Converted, small: bool = True) -> Path:
    """The model's file; of narrow networks as if the published ones were as narrow."""
    state, spec = model_of(given)
    if small and "video" in spec.networks:
        spec.networks["video"].options.update(SMALL)  # type: ignore[attr-defined]
    path.write_bytes(model_bytes(state, spec))
    return path


def test_kinetics_weights_are_a_start_and_no_model_of_emotions(tmp_path: Path) -> None:
    original = randomized(ResNeXt3D(400, **SMALL))
    path = written(tmp_path / "kinetics.safetensors", kinetics(original))
    network = ResNeXt3D(8, **SMALL)
    assert load_pretrained(network, path, "video", options=SMALL) == ("fc.weight", "fc.bias")
    assert torch.equal(network.layer4[0].conv3.weight, original.layer4[0].conv3.weight)
    without = converted("kinetics", {"video": original}, settings=kinetics(original).settings)
    for key in ("fc.weight", "fc.bias"):
        del without.networks["video"][key]
    path = written(tmp_path / "headless.safetensors", without)
    assert load_pretrained(ResNeXt3D(8, **SMALL), path, "video", options=SMALL) == ("fc.weight", "fc.bias")
    with pytest.raises(
        DataError,
        match=r"holds kinetics weights, a start for training .* and no whole model: .*networks\.video\.fc\.weight",
    ):
        load_model(path)
    path = written(tmp_path / "eight.safetensors", kinetics(randomized(ResNeXt3D(8, **SMALL))))
    with pytest.raises(DataError, match=r"holds kinetics weights: a start for training \(--pretrained\), no model yet"):
        EmotionModel.load(path)


def test_the_fused_network_comes_back_as_it_was_trained(tmp_path: Path) -> None:
    video, audio = (randomized(net) for net in (ResNeXt3D(8, stem_relu=False, **SMALL), MFCCNet(8)))
    points = [randomized(MSAF(channels)) for channels in ((128, 32), (256, 64))]
    given = converted(
        "ravdess-fused",
        {"video": video, "audio": audio},
        points=tuple(dict(point.state_dict()) for point in points),
        settings={"stem_relu": False, "channel_order": "bgr"},
    )
    model = EmotionModel.load(written(tmp_path / "fused.safetensors", given))
    network, spec = model.network, model.spec
    assert model.bgr
    with pytest.raises(DataError, match=r"fused\.safetensors was trained on frames in BGR order, and training has RGB"):
        load_pretrained(video, tmp_path / "fused.safetensors", "video")
    assert model.classes == EMOTIONS
    assert (model.settings.frames, model.settings.size, model.settings.sampling) == (30, 224, "uniform")
    assert (spec.method, spec.options, spec.about["notes"]) == ("msaf", {"block_dropout": 0.2}, ["a note"])
    assert network.networks["video"].stem_relu is False
    # by hand, stage by stage, from the networks that were converted
    inputs = [torch.randn(2, 3, 4, 32, 32), torch.randn(2, 13, 212)]
    with torch.no_grad():
        maps = points[0]([video.to_layer3(inputs[0]), audio.to_relu2(inputs[1])])
        maps = points[1]([video.to_layer4(maps[0]), audio.to_bn3(maps[1])])
        logits = [net.classify(net.feature(x)) for net, x in zip((video, audio), maps, strict=True)]
        fused = network(inputs)
    torch.testing.assert_close(list(fused.parts), logits)
    torch.testing.assert_close(fused.prediction, logits[0] + logits[1])


@torch.no_grad()
def test_a_video_network_alone_takes_rgb_and_sees_what_it_saw_in_bgr(tmp_path: Path) -> None:
    """Row B7 of docs/fidelity.md: it was trained on blue with the mean of red."""
    original = randomized(ResNeXt3D(8, **SMALL))
    given = converted("ravdess-video", {"video": original}, settings={"stem_relu": True, "channel_order": "bgr"})
    model = EmotionModel.load(written(tmp_path / "video.safetensors", given))
    assert not model.bgr
    network = model.network.networks["video"]
    assert network.stem_relu is True
    x = torch.randint(0, 256, (2, 3, 9, 24, 26), dtype=torch.uint8)
    outputs = [net.bn1(net.conv1(z)) for net, z in ((original, normalize(x.flip(1))), (network, normalize(x)))]
    torch.testing.assert_close(*(out[:, :, 3:-3, 2:-2, 2:-2] for out in outputs), rtol=1e-4, atol=1e-3)


def test_an_audio_network_alone_is_as_it_was(tmp_path: Path) -> None:
    audio = MFCCNet(8)
    model = EmotionModel.load(written(tmp_path / "audio.safetensors", converted("ravdess-audio", {"audio": audio})))
    assert not model.bgr
    assert list(model.spec.networks) == ["audio"]
    own = model.network.networks["audio"].state_dict()
    assert all(torch.equal(value, own[key]) for key, value in audio.state_dict().items())


class Identity(nn.Module):
    def forward(self, maps: list[Tensor], *, present: Tensor | None = None) -> list[Tensor]:
        return maps


@pytest.mark.parametrize("stem_relu", [True, False])
@torch.no_grad()
def test_with_an_identity_in_place_of_the_fusion_the_networks_are_themselves(stem_relu: bool) -> None:
    """Row B1 of docs/fidelity.md: cut into stages the published code's video network loses a ReLU; only on demand here."""
    build: list[Callable[[], StagedNetwork]] = [
        lambda: video_network((3, 4, 32, 32), 8, stem_relu=stem_relu, **SMALL),
        lambda: audio_network((13, 212), 8),
    ]
    video, audio = (randomized(make()) for make in build)
    video.bn1.bias.data -= 3  # else the maxima that the pooling takes are positive, and a lost ReLU is not seen
    network = FusedNetwork({"video": video, "audio": audio}, "msaf", outputs=8).eval()
    network.points[0] = network.points[1] = Identity()
    inputs = [torch.randn(2, 3, 4, 32, 32), torch.randn(2, 13, 212)]
    parts = network(inputs).parts
    assert torch.equal(parts[1], audio(inputs[1]))
    plain = ResNeXt3D(8, **SMALL).eval()
    plain.load_state_dict(video.state_dict())
    # layer by layer, as the published network for one modality runs
    x = plain.maxpool(plain.relu(plain.bn1(plain.conv1(inputs[0]))))
    for layer in (plain.layer1, plain.layer2, plain.layer3, plain.layer4, plain.avgpool):
        x = layer(x)
    expected = plain.fc(x.flatten(1))
    assert torch.equal(parts[0], video(inputs[0]))
    assert torch.allclose(parts[0], expected, rtol=1e-5, atol=1e-6) is stem_relu
