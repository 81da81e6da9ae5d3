"""Protects the comparison on prepared clips: its folds, presets and titles, and a run from the files to the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.errors import DataError, ProtocolError
from torchmsaf.experiments import MethodChoice, ResultFolder, compare
from torchmsaf.experiments.emotion import emotion_comparison
from torchmsaf.tasks.augment import CropAndFlip
from torchmsaf.tasks.emotion import PRESETS, Preset
from torchmsaf.tasks.model_file import load_model
from torchmsaf.tasks.recipe import Recipe

METHODS = [MethodChoice("msaf"), MethodChoice("averaging")]
TINY = {"blocks": [1, 1, 1, 1], "width": 4, "cardinality": 2}


def write(root: Path, **facts: Any) -> Prepared:
    """Two clips of each actor; the label is in the sound and in the brightness."""
    writer, random = (
        PreparedWriter(root, "ravdess", {"frames": 2, "size": 16, "sampling": "uniform"}),
        np.random.default_rng(0),
    )
    for actor in range(1, 25):
        for take in range(2):
            label = (actor + 4 * take) % 8
            video = (random.integers(0, 60, (3, 2, 16, 16)) + 20 * label).astype(np.uint8)
            audio = (random.normal(size=(13, 20)) + label).astype(np.float32)
            writer.write(
                f"{actor:02}-{take}", {"video": video, "audio": audio}, {"label": label, "actor": actor, **facts}
            )
    return writer.finish()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "small", Preset(2, 16, TINY))  # type: ignore[arg-type]


def test_titles_state_the_preset_the_protocol_and_made_up_clips(prepared: Prepared, tmp_path: Path) -> None:
    made = emotion_comparison(prepared, METHODS)
    assert made.title == "Emotions of RAVDESS, video and audio, preset small, protocol leak-free"
    made_up = emotion_comparison(write(tmp_path, made_up=True), METHODS, preset="full", protocol="published")
    assert made_up.title == "Emotions of RAVDESS, MADE-UP clips, video and audio, protocol published"


def test_the_protocols_choose_epochs_as_their_names_say(prepared: Prepared) -> None:
    clean, published = (emotion_comparison(prepared, METHODS, protocol=name) for name in ("leak-free", "published"))
    assert (clean.protocol.chosen_on_test, clean.objective.chosen_by) == (False, "loss")
    assert (published.protocol.chosen_on_test, published.objective.chosen_by) == (True, "accuracy")
    assert published.config()["protocol"]["name"] == "ravdess-published"
    assert published.config()["objective"]["epoch_chosen_by"] == "largest accuracy on the test samples"
    assert (published.config()["protocol"]["chosen_on_test"], clean.config()["protocol"].get("chosen_on_test")) == (
        True,
        None,
    )


def test_folds_can_be_chosen_and_the_description_says_which(prepared: Prepared) -> None:
    whole = emotion_comparison(prepared, METHODS)
    assert [fold.index for fold in whole.protocol.folds] == list(range(6))
    assert whole.protocol.description.startswith("6 folds of 4")
    some = emotion_comparison(prepared, METHODS, folds=[4, 1])
    assert [fold.index for fold in some.protocol.folds] == [1, 4]
    assert [tuple(fold.test) for fold in some.protocol.folds] == [tuple(whole.protocol.folds[k].test) for k in (1, 4)]
    assert some.protocol.description == f"Folds 1, 4 of {whole.protocol.description}"
    assert emotion_comparison(prepared, METHODS, folds=range(6)).config() == whole.config()


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ([0, 6], "there is no fold 6: 0 to 5 are there"),
        ([-1], "there is no fold -1"),
        ([], "folds are none: one or more are needed, each once"),
        ([2, 2], "folds are 2, 2: one or more are needed, each once"),
    ],
)
def test_folds_that_are_not_there(prepared: Prepared, folds: list[int], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        emotion_comparison(prepared, METHODS, folds=folds)


def test_the_preset_is_that_of_the_clips_or_the_one_that_is_named(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert emotion_comparison(prepared, METHODS).network_options == {"video": TINY}
    assert emotion_comparison(prepared, METHODS, preset="full").network_options == {}
    both = emotion_comparison(prepared, METHODS, checkpointing=True).network_options
    assert both == {"video": {**TINY, "checkpointing": True}}
    assert emotion_comparison(prepared, METHODS, preset="full", checkpointing=True).network_options == {
        "video": {"checkpointing": True}
    }
    with pytest.raises(DataError, match="there is no preset 'huge': choose full or small"):
        emotion_comparison(prepared, METHODS, preset="huge")
    monkeypatch.setitem(PRESETS, "small", Preset(8, 112))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the clips have 2 frames of 16 x 16, which is no preset: say with --preset"):
        emotion_comparison(prepared, METHODS)


def test_what_a_comparison_does_is_in_its_configuration(prepared: Prepared) -> None:
    config = emotion_comparison(prepared, METHODS, noise=(0.5,)).config()
    assert config["augment"] == {"video": repr(CropAndFlip())}
    parameters = {"frames": 2, "size": 16, "sampling": "uniform"}
    assert config["about"] == {"task": "emotion", "parameters": parameters, "made_up": False}
    assert (config["noise"], config["top_k"]) == ([0.5], [2, 4])
    assert config["data"]["classes"] == list(EMOTIONS)
    assert config["data"]["modalities"] == {"video": [3, 2, 16, 16], "audio": [13, 20]}


@pytest.mark.slow
def test_from_the_files_to_the_table(prepared: Prepared, tmp_path: Path) -> None:
    made = emotion_comparison(
        prepared, METHODS, folds=[2], recipe=Recipe(epochs=1, batch_size=16), noise=(0, 1), seeds=(3,)
    )
    table = compare(made, tmp_path / "r", jobs=1)
    assert table.title == made.title
    records = {record["key"]: record for record in ResultFolder(tmp_path / "r").records()}
    assert set(records) == {f"{row}.{name}" for row in ("start", "unimodal") for name in ("video", "audio")} | {
        "msaf",
        "averaging",
    }
    for key in ("msaf", "averaging"):
        test = records[key]["test"]
        assert 0 <= test["accuracy"] <= test["top2"] <= test["top4"] <= 1
        noise = records[key]["test_noise"]
        assert {name: list(levels) for name, levels in noise.items()} == {"video": ["0", "1"], "audio": ["0", "1"]}
        assert noise["video"]["0"]["loss"] == pytest.approx(test["loss"], rel=1e-5)
        assert noise["audio"]["1"]["loss"] != test["loss"]
        assert set(records[key]["test_missing"]) == {"video", "audio"}
    assert list(records["unimodal.video"]["test_noise"]) == ["video"]
    sizes = [records["msaf"][f"{part}_size"] for part in ("train", "validation", "test")]
    assert sizes == [32, 8, 8]
    network, spec = load_model(tmp_path / "r" / records["msaf"]["weights"])
    assert (spec.method, spec.outputs, spec.about["task"]) == ("msaf", 8, "emotion")
    assert spec.about["classes"] == list(EMOTIONS)
    assert spec.about["parameters"] == prepared.parameters
    samples, rows = made.samples, torch.from_numpy(made.protocol.folds[0].test)
    with torch.no_grad():
        fused = network([x[rows] for x in samples.features.values()])
    right = (fused.prediction.argmax(1) == samples.target[rows]).double().mean()
    assert float(right) == pytest.approx(records["msaf"]["test"]["accuracy"])
    assert "protocol leak-free" in (tmp_path / "r/table.txt").read_text()
    # another comparison begins with these weights
    weights = str(tmp_path / "r" / records["msaf"]["weights"])
    further = emotion_comparison(prepared, METHODS, folds=[2], pretrained={"video": weights, "audio": weights})
    further.check()
    assert "video pretrained (own), audio pretrained (own), protocol leak-free" in further.title
    with pytest.raises(
        DataError, match=r"its network of 'video' has blocks=\[1, 1, 1, 1\], and the one to train blocks=as usual"
    ):
        emotion_comparison(prepared, METHODS, preset="full", pretrained={"video": weights}).check()
