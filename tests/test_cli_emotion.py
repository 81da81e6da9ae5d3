"""Protects the chain of commands for RAVDESS: raw files, prepared clips, training, table, prediction, released weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("lightning")

from tests.data.ravdess.data import SPOILED, spoil, write_corpus
from torchmsaf.cli import main
from torchmsaf.data.prepare.ravdess import Settings
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.experiments.results import ResultFolder

Run = Callable[..., tuple[int, str, str]]
FAST = ("--epochs", "1", "--jobs", "1", "--batch-size", "8")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of every actor, of noise, as the small preset has them."""
    root = tmp_path_factory.mktemp("prepared")
    writer = PreparedWriter(root, "ravdess", Settings(preset="small", frames=8, size=112).parameters())
    draw = np.random.default_rng(0)
    for actor in range(1, 25):
        label = actor % 8
        arrays = {
            "video": draw.integers(0, 256, (3, 8, 112, 112), dtype=np.uint8),
            "audio": draw.normal(size=(13, 212)).astype(np.float32),
        }
        facts = {"actor": actor, "label": label, "emotion": EMOTIONS[label]}
        writer.write(f"01-01-{label + 1:02}-01-01-01-{actor:02}", arrays, facts)
    writer.finish()
    return root


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    words = ["train", "emotion", "--data", str(prepared), "--out", str(out), "--fold", "2", *FAST]
    assert main(words) == 0
    return out


def test_train_leaves_a_model_that_says_what_it_is(trained: Path) -> None:
    from torchmsaf.tasks.model_file import load_model

    network, spec = load_model(trained / "model.safetensors")
    assert spec.method == "msaf"
    assert spec.options == {"block_dropout": 0.2}
    assert spec.about["task"] == "emotion"
    assert spec.about["parameters"]["frames"] == 8
    assert tuple(spec.about["classes"]) == EMOTIONS
    assert [point.block_channels for point in network.points] == [16, 32]
    splits = json.loads((trained / "splits.json").read_text())
    actors = {part: sorted(int(name[-2:]) for name in ids) for part, ids in splits["2"].items()}
    assert actors["test"] == [9, 10, 11, 12]
    assert actors["validation"] == [13, 14, 15, 16]
    assert set(actors["train"]) == set(range(1, 25)) - set(range(9, 17))
    record = next(one for one in ResultFolder(trained).records() if one["key"].startswith("msaf"))
    assert set(record["test_noise"]) == {"video", "audio"}
    assert {"accuracy", "top2", "top4"} <= set(record["test"])


def test_published_is_said_in_title_and_folder(run: Run, prepared: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--data", prepared, "--protocol", "published", "--folds", 1, "--methods", "multiplication", *FAST)
    code, out, _ = run("compare", "emotion", *words, "--noise", 1)
    assert code == 0
    assert "protocol published" in out
    assert "PUBLISHED PROTOCOL" in out
    config = json.loads((tmp_path / "runs/emotion-published/config.json").read_text())
    assert config["protocol"]["chosen_on_test"] is True
    assert config["objective"]["epoch_chosen_by"] == "largest accuracy on the test samples"
    for name in ("table.txt", "table.md", "table.html"):
        assert "published" in (tmp_path / "runs/emotion-published" / name).read_text()
    splits = json.loads((tmp_path / "runs/emotion-published/splits.json").read_text())
    assert splits["1"]["validation"] == splits["1"]["test"]


WRONG: dict[str, tuple[list[str], str]] = {
    "no data": (["compare", "emotion"], "--data FOLDER is needed: what torchmsaf prepare ravdess wrote"),
    "data that is not there": (["compare", "emotion", "--data", "nothing"], "nothing"),
    "fold": (["compare", "emotion", "--data", "DATA", "--folds", "6"], "there is no fold 6: 0 to 5 are there"),
    "fold twice": (["compare", "emotion", "--data", "DATA", "--folds", "1", "1"], "folds are 1, 1: one or more are needed"),
    "method": (["train", "emotion", "--data", "DATA", "--method", "masf"], "masf"),
    "pretrained": (["train", "emotion", "--data", "DATA", "--pretrained", "x.pt"], "expected video=FILE or audio=FILE"),
    "no pretrained": (["train", "emotion", "--data", "DATA", "--pretrained", "video=x.pt"], "x.pt: there is no such file"),
    "seed": (["train", "emotion", "--data", "DATA", "--seed", "-1"], "seed is -1; 0 or more is needed"),
    "resume": (["train", "emotion", "--data", "DATA", "--resume"], "--resume needs --out FOLDER"),
    "noise": (["compare", "emotion", "--data", "DATA", "--noise", "-1"], "noise of -1.0; numbers of 0 or more are needed"),
    "threads": (["compare", "emotion", "--data", "DATA", "--threads", "0"], "threads is 0; 1 or more is needed"),
    "raw": (["prepare", "ravdess", "--raw", "nothing", "--out", "x"], "nothing does not exist"),
    "frames": (["prepare", "ravdess", "--raw", "DATA", "--out", "x", "--frames", "0"], "frames is 0; a whole number from 1"),
    "synth": (["synth", "ravdess", "--out", "x", "--clips", "61"], "61"),
    "model": (["predict", "nothing.safetensors", "clip.mp4"], "nothing.safetensors: there is no such file"),
    "released": (["convert", "nothing.pth"], "nothing.pth does not exist; a file of weights is needed"),
    "actor": (["download", "ravdess", "--out", "x", "--actors", "25"], "there is no actor 25: 1 to 24 are there"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_said_in_words(run: Run, prepared: Path, tmp_path: Path, monkeypatch, words, said) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run(*[prepared if word == "DATA" else word for word in words])
    assert code == 1
    assert not out
    assert error.startswith("torchmsaf: ")
    assert said in error
    assert not (tmp_path / "runs").exists()


def test_convert_makes_a_model_that_training_begins_with(run: Run, prepared: Path, tmp_path: Path) -> None:
    from torchmsaf.backbones import MFCCNet

    torch.manual_seed(3)
    network = MFCCNet(8)
    torch.save(network.state_dict(), tmp_path / "fold_1_mfccNet_best.pth")
    code, out, _ = run("convert", tmp_path / "fold_1_mfccNet_best.pth")
    assert code == 0
    assert "ravdess-audio, 23 tensors" in out
    code, _, error = run("convert", tmp_path / "fold_1_mfccNet_best.pth")
    assert code == 1
    assert "is there already" in error
    model = tmp_path / "fold_1_mfccNet_best.safetensors"
    words = ("--data", prepared, "--out", tmp_path / "run", "--pretrained", f"audio={model}", "--learning-rate", 1e-12)
    code, _, error = run("train", "emotion", "--method", "multiplication", *words, *FAST)
    assert code == 1
    assert "was trained, or its epoch chosen, on 1, 2, 3, 4, which test in fold 0" in error
    words = (*words, "--protocol", "published")
    assert run("train", "emotion", "--method", "multiplication", *words, *FAST)[0] == 0
    from safetensors.torch import load_file

    start = load_file(tmp_path / "run/weights/fold-0.seed-0/start.audio.safetensors")
    torch.testing.assert_close(start["networks.audio.conv1.weight"], network.conv1.weight.detach(), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up corpus, small pictures: 24 actors, 8 emotions."""
    root = tmp_path_factory.mktemp("corpus") / "raw"
    write_corpus(root, jobs=2)
    spoil(root)
    return root


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_chain_from_raw_files_to_table_and_prediction(run: Run, raw: Path, tmp_path: Path) -> None:
    """Six folds of one epoch, so that it is quick; what the networks learn is in docs/results.md."""
    code, out, _ = run("prepare", "ravdess", "--raw", raw, "--out", tmp_path / "prepared", "--preset", "small")
    assert code == 0
    assert out.startswith("190 clips prepared, 0 there already")
    assert "Left alone: 1 video only." in out
    assert "3 files cannot be used" in out
    for name, reason in SPOILED.items():
        assert re.search(rf"{re.escape(name)}: .*{re.escape(reason)}", out), name
    code, out, _ = run("prepare", "ravdess", "--raw", raw, "--out", tmp_path / "prepared", "--preset", "small")
    assert out.startswith("0 clips prepared, 190 there already")
    runs = tmp_path / "runs"
    words = ("--data", tmp_path / "prepared", "--out", runs, "--epochs", 1, "--noise", 1)
    code, out, _ = run("compare", "emotion", *words, "--methods", "multiplication", "msaf:block_dropout=0.2")
    assert code == 0
    assert "MADE-UP clips" in out
    assert "protocol leak-free" in out
    assert "robustness" in out
    rows = [one for one in ResultFolder(runs).records() if one["stage"] != "start"]
    assert len(rows) == 6 * 4
    assert {one["fold"] for one in rows} == set(range(6))
    assert sum(one["test_size"] for one in rows if one["method"] == "msaf") == 190
    weights = next(one["weights"] for one in rows if one["method"] == "msaf" and one["fold"] == 0)
    clip = raw / "Actor_01" / "01-01-03-01-01-01-01.mp4"
    assert clip.is_file()
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    shutil.copy(clip, tmp_path / "clip.mp4")
    shutil.copy(raw / "FacialTracking" / "01-01-03-01-01-01-01.csv", tmp_path / "clip.csv")
    code, out, error = run("predict", runs / weights, tmp_path / "clip.mp4", text, "--format", "json")
    assert code == 1
    assert "1 of 2 clips could not be read" in error
    (found,) = json.loads(out)
    assert found["box"] == "landmarks"
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert [sum(point.values()) for point in found["attention"]] == pytest.approx([1, 1], abs=1e-5)
    code, out, _ = run("predict", runs / weights, clip, "--landmarks", raw / "FacialTracking")
    assert code == 0
    assert out.split()[:2] == ["clip", "emotion"]
    assert "attention 1: video" in out
