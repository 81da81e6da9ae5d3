"""Protects predictions of clips: prepared as in training, in the colours of the weights, said with all that matters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchmsaf.data.clips import IMAGENET_MEAN, IMAGENET_STD, normalize
from torchmsaf.data.prepare.ravdess import Settings, prepare_clip
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.data.synth import synth_ravdess
from torchmsaf.errors import DataError
from torchmsaf.tasks.attention import modality_attention
from torchmsaf.tasks.emotion import NETWORKS
from torchmsaf.tasks.emotion_prediction import ClipEmotion, EmotionModel, match_landmarks
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec, model_bytes
from torchmsaf.tasks.network import FusedNetwork

pytest.importorskip("av")
SETTINGS = Settings(frames=3, size=32, sampling="uniform", landmark_slack=1)
WIDTH = {"blocks": [1, 1, 1, 1], "width": 8, "cardinality": 4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    synth_ravdess(out, actors=[3], clips=1, width=320, height=180, seconds=1.2, jobs=1)
    return out


@pytest.fixture
def clip(corpus: Path) -> Path:
    return next(corpus.glob("Actor_03/*.mp4"))


@pytest.fixture
def landmarks(corpus: Path) -> Path:
    return next(corpus.glob("FacialTracking/*.csv"))


def made(
    method: str | None = "msaf",
    *,
    names: tuple[str, ...] = ("video", "audio"),
    video: Mapping[str, Any] | None = None,
    **about: Any,
) -> tuple[FusedNetwork, ModelSpec]:
    specs = {
        "video": NetworkSpec((3, 3, 32, 32), NETWORKS["video"], {**WIDTH, **(video or {})}),
        "audio": NetworkSpec((13, 212), NETWORKS["audio"]),
        "face": NetworkSpec((5,)),
    }
    said = {"task": "emotion", "classes": list(EMOTIONS), "parameters": SETTINGS.parameters(), **about}
    spec = ModelSpec({name: specs[name] for name in names}, method, 8, about=said)
    torch.manual_seed(0)
    network = spec.build()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.bias.data.normal_(0, 0.3)
    return network, spec


def bgr(order: str) -> dict[str, Any]:
    return {"parameters": {**SETTINGS.parameters(), "channel_order": order}}


def check(said: ClipEmotion) -> None:
    for shares in (said.probabilities, *said.alone.values()):
        assert list(shares) == list(EMOTIONS)
        assert sum(shares.values()) == pytest.approx(1)
    assert said.probabilities[said.emotion] == max(said.probabilities.values())


def test_a_prediction_is_the_networks_own_of_the_clip_as_training_prepares_it(clip: Path, landmarks: Path) -> None:
    network, spec = made()
    said = EmotionModel(network.train(), spec).predict(clip, landmarks)
    check(said)
    arrays, facts = prepare_clip(clip, clip.name, landmarks, SETTINGS)
    inputs = [normalize(torch.from_numpy(arrays["video"])[None]), torch.from_numpy(arrays["audio"])[None]]
    with torch.no_grad():
        fused = network.eval()(inputs)
    assert list(said.probabilities.values()) == pytest.approx(fused.prediction[0].softmax(0).tolist())
    assert list(said.alone["audio"].values()) == pytest.approx(fused.parts[1][0].softmax(0).tolist())
    assert list(said.alone) == ["video", "audio"]
    shares = modality_attention(network, inputs)
    assert [list(one) for one in said.attention] == [["video", "audio"]] * 2
    assert [list(one.values()) for one in said.attention] == [pytest.approx(one[0].tolist()) for one in shares]
    assert said.attention[0]["video"] + said.attention[0]["audio"] == pytest.approx(1)
    # of 128 and 32 channels, and of 256 and 64
    even = [{"video": 128 / 160, "audio": 32 / 160}, {"video": 256 / 320, "audio": 64 / 320}]
    assert said.even_attention == [pytest.approx(one) for one in even]
    assert not said.made_up_model
    assert (said.clip, said.box) == (str(clip), "landmarks")
    assert said.audio_seconds == facts["audio_seconds"] == pytest.approx(0.7, abs=0.1)


def test_without_landmarks_the_face_is_looked_for_and_that_is_said(clip: Path, landmarks: Path) -> None:
    pytest.importorskip("cv2")
    model = EmotionModel(*made())
    found = model.predict(clip)
    check(found)
    assert found.box == "detector"
    assert found.probabilities != model.predict(clip, landmarks).probabilities


@pytest.mark.parametrize(
    ("method", "names", "alone", "points"),
    [("concat", ("video", "audio"), 0, 0), ("averaging", ("video", "audio"), 2, 0), (None, ("audio",), 0, 0)],
)
def test_other_methods_and_one_network_alone(
    clip: Path, landmarks: Path, method: str | None, names: tuple[str, ...], alone: int, points: int
) -> None:
    said = EmotionModel(*made(method, names=names)).predict(clip, landmarks)
    check(said)
    assert (len(said.alone), len(said.attention)) == (alone, points)


def test_a_model_of_frames_in_bgr_gets_blue_with_the_mean_of_red(clip: Path, landmarks: Path) -> None:
    """Row B7 of docs/fidelity.md, for the published weights: the order changes before the values are normalized."""
    seen: list[torch.Tensor] = []
    for order in ("rgb", "bgr"):
        network, spec = made(None, names=("video",), **bgr(order))
        network.networks["video"].conv1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][0]))
        EmotionModel(network, spec).predict(clip, landmarks)
    frames = prepare_clip(clip, clip.name, landmarks, SETTINGS)[0]["video"].astype(np.float64) / 255
    mean, std = (np.array(one)[:, None, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    np.testing.assert_allclose(seen[0], (frames - mean) / std, atol=1e-5)
    np.testing.assert_allclose(seen[1], (frames[::-1] - mean) / std, atol=1e-5)


def test_a_model_without_the_stems_relu_predicts_without_it(clip: Path, landmarks: Path, tmp_path: Path) -> None:
    """Row B1 of docs/fidelity.md: the option is in the file."""
    said = []
    for relu in (True, False):
        network, spec = made(None, names=("video",), video={"stem_relu": relu})
        network.networks["video"].bn1.bias.data -= 3  # else pooling takes positive values, and a ReLU is not seen
        path = tmp_path / f"{relu}.safetensors"
        path.write_bytes(model_bytes(network.state_dict(), spec))
        said.append(EmotionModel.load(path).predict(clip, landmarks).probabilities)
    assert np.abs(np.subtract(*(list(one.values()) for one in said))).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "digits"}, "the model's task is 'digits'; 'emotion' is needed"),
        ({"task": None}, "the model's task is None"),
        ({"parameters": {"frames": 3}}, r"does not say how its inputs are prepared: 'size' is missing"),
        ({"parameters": {**SETTINGS.parameters(), "frames": 0}}, "frames is 0; a whole number from 1 is needed"),
        (
            {"parameters": {**SETTINGS.parameters(), "hop": 256}},
            "clips were prepared with hop = 256, and this torchmsaf has 512",
        ),
        ({"classes": ["happy"]}, "the model has 8 outputs and names 1 classes"),
        ({"names": ("video", "face")}, "the model is of modality 'face'; video and audio are those of emotions"),
    ],
)
def test_models_that_say_too_little_or_something_else(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "model.safetensors"
    network, spec = made("averaging", **changes)
    path.write_bytes(model_bytes(network.state_dict(), spec))
    with pytest.raises(DataError, match=words) as caught:
        EmotionModel.load(path)
    assert str(path) in str(caught.value)


def test_clips_that_cannot_be_used_are_named(clip: Path, landmarks: Path, tmp_path: Path) -> None:
    model = EmotionModel(*made())
    with pytest.raises(DataError, match=r"nowhere\.mp4: there is no such file"):
        model.predict(tmp_path / "nowhere.mp4", landmarks)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:500])
    with pytest.raises(DataError, match=r"broken\.mp4"):
        model.predict(broken, landmarks)
    short = tmp_path / "short.csv"
    short.write_text("\n".join(landmarks.read_text().splitlines()[:9]) + "\n")
    with pytest.raises(DataError, match=r"short\.csv has 8 rows and the video has 36 frames"):
        model.predict(clip, short)


def test_landmarks_are_found_among_those_given_or_beside_the_clip(tmp_path: Path) -> None:
    clip, second = tmp_path / "me.mp4", tmp_path / "we.mp4"
    beside, other = tmp_path / "me.csv", tmp_path / "you.csv"
    folder = tmp_path / "landmarks"
    folder.mkdir()
    other.touch()
    assert match_landmarks([clip, second], []) == [None, None]
    assert match_landmarks([clip], [other]) == [other]  # one clip and one file: no doubt
    assert match_landmarks([clip], [folder]) == [None]
    beside.touch()
    assert match_landmarks([clip, second], []) == [beside, None]
    (folder / "me.csv").touch()
    assert match_landmarks([clip, second], [folder]) == [folder / "me.csv", None]
    assert match_landmarks([clip, second], [beside, folder]) == [beside, None]
    with pytest.raises(DataError, match=r"you\.csv: no clip has its name, so it is not clear whose landmarks they are"):
        match_landmarks([clip, second], [other])
    with pytest.raises(DataError, match=r"none\.csv: there is no such file or folder of landmarks"):
        match_landmarks([clip], [tmp_path / "none.csv"])
