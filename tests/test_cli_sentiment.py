"""Protects the chain of commands for sentiment: a made-up corpus, prepared utterances, comparison, table, model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")
pytest.importorskip("lightning")

from torchmsaf.cli import main
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.sequences import sequence_samples
from torchmsaf.experiments.results import ResultFolder
from torchmsaf.tasks.model_file import load_model

Run = Callable[..., tuple[int, str, str]]
FAST = ("--epochs", "1", "--jobs", "1")
# published models of every kind, small: one trained whole, one with losses of its own, one that is solved for
SYSTEMS = (
    "lmf_network:audio=4,video=4,text=8",
    "misa:hidden=8,feed_forward=16",
    "dcca_one_step:width=3,hidden=[8],batch_size=32",
)
SYNTH = ("--videos", "12", "--seconds", "3", "--audio-rate", "10", "--video-rate", "5")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "raw"
    assert main(["synth", "mosei", "--out", str(folder), *SYNTH]) == 0
    return folder


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    words = ["prepare", "mosei", "--raw", raw, "--out", out, "--text", "words", "--folds", raw / "folds.json"]
    assert main([str(word) for word in words]) == 0
    return out


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    return {one["key"]: one for one in ResultFolder(folder).records()}


def mae(prepared: Path, model: Path, part: str = "test") -> float:
    """The mean absolute error of a model on a part, with what its file says of inputs and nothing else."""
    network, spec = load_model(model)
    samples, vocabulary = sequence_samples(Prepared.open(prepared))
    assert list(vocabulary or ()) == spec.about["vocabulary"]
    rows = torch.tensor([row for row, own in enumerate(samples.parts or ()) if own == part])
    inputs, lengths = [], []
    for name in spec.networks:
        x, length = samples.features[name][rows], samples.lengths[name][rows]
        if name != "text":
            scale = {what: torch.tensor(values)[:, None] for what, values in spec.about["standardized"][name].items()}
            x = (x - scale["mean"]) / scale["std"]
        inputs.append(torch.where(torch.arange(x.shape[2]) < length[:, None, None], x, 0))
        lengths.append(length)
    with torch.no_grad():
        value = network(inputs, None, lengths).prediction[:, 0]
    truth = [entry.facts["target"] for entry in Prepared.open(prepared).entries]
    return float(np.abs(value.double().numpy() - np.array(truth)[rows]).mean())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_chain_from_a_corpus_to_a_table(run: Run, raw: Path, tmp_path: Path) -> None:
    """One epoch, so that it is quick: scores on what is made up say nothing."""
    again = tmp_path / "prepared"
    words = ("prepare", "mosei", "--raw", raw, "--out", again, "--text", "words", "--folds", raw / "folds.json")
    code, out, _ = run(*words)
    assert code == 0
    assert re.match(r"\d+ utterances prepared, 0 there already: ", out)
    assert re.match(r"0 utterances prepared, \d+ there already: ", run(*words)[1])
    data, runs = ("--data", again), tmp_path / "runs"
    code, out, error = run(
        "compare", "sentiment", *data, "--methods", "msaf", *SYSTEMS, "--seeds", 2, "--noise", 1, "--out", runs, *FAST
    )
    assert code == 0
    assert "CMU-MOSEI: MADE-UP utterances, video, audio, text (words learned), alignment word" in out
    for heading in ("unimodal", "intermediate fusion", "published models", "robustness, test mae"):
        assert heading in out
    rows = ResultFolder(runs).records()
    assert len(rows) == 2 * (3 + 1 + len(SYSTEMS))
    assert {one["stage"] for one in rows} == {"unimodal", "intermediate", "system"}
    assert {one["seed"] for one in rows} == {0, 1}
    for one in rows:
        scores = {"loss", "mae", "pearson", "acc2", "f1", "acc7", "acc2_has0", "f1_has0"}
        assert set(one["test"]) == scores
        assert set(one["test_noise"]) == {"video", "audio"} & {one["modality"] or "video", one["modality"] or "audio"}
    # words are not made noisy, and nobody is asked to read a column of nothing
    assert all(("text +" in out, f"{name} +" in out) == (False, True) for name in ("video", "audio"))
    msaf = next(one for one in rows if one["method"] == "msaf")
    assert msaf["options"] == {"segments": 5, "block_dropout": 0.2}
    assert msaf["test"]["mae"] == pytest.approx(mae(again, runs / msaf["weights"]), rel=1e-4)
    # the table again, without training
    weights = {path: path.stat().st_mtime_ns for path in runs.glob("weights/*/*")}
    assert run("table", runs)[1] == out
    assert "| msaf" in run("table", runs, "--format", "markdown")[1]
    assert {path: path.stat().st_mtime_ns for path in runs.glob("weights/*/*")} == weights
    # what is done is not done again
    code, out, error = run(
        "compare", "sentiment", *data, "--methods", "msaf", *SYSTEMS, "--seeds", 2, "--noise", 1, "--out", runs, *FAST
    )
    assert code == 1
    assert "has results already: add --resume" in error


@pytest.mark.slow
@pytest.mark.parametrize("method", ["msaf", SYSTEMS[2]], ids=["msaf", "dcca"])
def test_train_leaves_a_model_that_predicts_as_it_was_tested(
    run: Run, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run("train", "sentiment", "--data", prepared, "--method", method, "--seed", 3, *FAST)
    assert code == 0
    name = method.partition(":")[0]
    folder = tmp_path / f"runs/sentiment-{name}-seed-3"
    assert f"Model: runs/sentiment-{name}-seed-3/model.safetensors" in error
    network, spec = load_model(folder / "model.safetensors")
    assert (spec.method, spec.kind, spec.decision, spec.outputs) == (name, "sentiment", "joint", 1)
    assert not network.training
    assert spec.about["task"] == "sentiment"
    assert spec.about["made_up"] is True
    if name == "msaf":
        assert spec.options == {"segments": 5, "block_dropout": 0.2}
    record = next(one for one in kept(folder).values() if one["method"] == name)
    assert (folder / "model.safetensors").read_bytes() == (folder / record["weights"]).read_bytes()
    assert record["seed"] == 3
    assert record["test"]["mae"] == pytest.approx(mae(prepared, folder / "model.safetensors"), rel=1e-4)
    assert record["validation"]["mae"] == pytest.approx(
        mae(prepared, folder / "model.safetensors", "validation"), rel=1e-4
    )
    # whose videos it has seen
    samples, _ = sequence_samples(Prepared.open(prepared), "CMU-MOSEI")
    pairs = zip(samples.groups or (), samples.parts or (), strict=True)
    assert set(spec.seen["CMU-MOSEI"]) == {group for group, part in pairs if part != "test"}


@pytest.mark.slow
def test_the_ablation_has_a_folder_of_its_own_and_msaf_alone_where_nothing_else_is_asked_for(
    run: Run, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, _ = run("compare", "sentiment", "--data", prepared, "--ablation", "--seeds", 1, *FAST)
    assert code == 0
    rows = [one for one in kept(tmp_path / "runs/sentiment-ablation").values() if one["stage"] != "unimodal"]
    usual = {"segments": 5, "block_dropout": 0.2}
    changes = [
        {},
        {"block_channels": 8},
        {"block_channels": 32},
        {"block_dropout": 0.0},
        {"segments": 1},
        {"segments": 10},
    ]
    assert [one["options"] for one in rows] == [{**usual, **change} for change in changes]
    counts = [one["added_parameters"] for one in rows]
    # BlockDropout has no parameters; every segment has its own, beside the one layer that predicts
    assert counts[0] == counts[3] == 10_840 + 225
    assert [10_840 // 5 * segments + 225 for segments in (1, 10)] == counts[4:]
    config = json.loads((tmp_path / "runs/sentiment-ablation/config.json").read_text())
    assert (config["random_start"], config["decision"], config["target_as_it_is"]) == (True, "joint", True)
    assert config["recipe"]["batch_size"] == 16


WRONG: dict[str, tuple[list[str], str]] = {
    "no data": (["compare", "sentiment"], "--data FOLDER is needed: what torchmsaf prepare mosei wrote"),
    "data that is not there": (["compare", "sentiment", "--data", "nothing"], "nothing is not there or is no folder"),
    "raw data": (["train", "sentiment", "--data", "RAW"], "holds nothing prepared; the folder that was prepared into"),
    "method": (["compare", "sentiment", "--data", "DATA", "--methods", "missa"], "(did you mean 'misa'?)"),
    "option": (["train", "sentiment", "--data", "DATA", "--method", "misa:hiden=3"], "misa: got an unexpected keyword"),
    "task": (["train", "sentiment", "--data", "DATA", "--method", "multiplication"], "'multiplication' is for classifi"),
    "twice": (["compare", "sentiment", "--data", "DATA", "--methods", "misa", "misa"], "method 'misa' is given twice"),
    "segments": (["train", "sentiment", "--data", "DATA", "--method", "msaf:segments=51"], "are fewer than segments=51"),
    "seed": (["train", "sentiment", "--data", "DATA", "--seed", "-1"], "seed is -1; 0 or more is needed"),
    "seeds": (["compare", "sentiment", "--data", "DATA", "--seeds", "0"], "no seeds; one or more are needed"),
    "resume": (["train", "sentiment", "--data", "DATA", "--resume"], "--resume needs --out FOLDER"),
    "noise": (["compare", "sentiment", "--data", "DATA", "--noise", "-1"], "noise of -1.0; numbers of 0 or more are needed"),
    "jobs": (["compare", "sentiment", "--data", "DATA", "--jobs", "0"], "jobs is 0; 1 or more is needed"),
    "epochs": (["compare", "sentiment", "--data", "DATA", "--epochs", "0"], "epochs is 0; 1 or more is needed"),
    "config": (["compare", "sentiment", "--data", "DATA", "--config", "gone.yaml"], "gone.yaml cannot be read as YAML"),
    "videos": (["synth", "mosei", "--out", "x", "--videos", "9"], "9 videos: 10 or more are needed, for training"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_said_in_words(
    run: Run, raw: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"DATA": prepared, "RAW": raw}
    code, out, error = run(*[places.get(word, word) for word in words])
    assert code == 1
    assert not out
    assert error.startswith("torchmsaf: ")
    assert said in error
    assert not (tmp_path / "runs").exists()


def test_damaged_utterances_are_found_before_anything_is_trained(run: Run, prepared: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(prepared, tmp_path / "copy"))
    clip = sorted(copy.glob("*/clips/*"))[4]
    content = clip.read_bytes()
    clip.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, error = run("train", "sentiment", "--data", copy)
    assert code == 1
    assert "utterances 1 are damaged (" in error
    assert "delete their files in clips/ and run the preparation again" in error


def test_what_was_prepared_without_text_can_be_compared(run: Run, raw: Path, tmp_path: Path) -> None:
    words = ("--raw", raw, "--out", tmp_path / "p", "--text", "none", "--folds", raw / "folds.json")
    assert run("prepare", "mosei", *words)[0] == 0
    code, out, error = run(
        "compare",
        "sentiment",
        "--data",
        tmp_path / "p",
        "--methods",
        "msaf",
        "--seeds",
        1,
        "--out",
        tmp_path / "r",
        *FAST,
    )
    assert (code, error.startswith("torchmsaf: ")) == (0, False), error
    assert list(kept(tmp_path / "r"))[:2] == ["unimodal.video", "unimodal.audio"]
    assert "video, audio, alignment word" in out


def test_the_shipped_options_are_those_of_the_authors_and_the_help_says_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["compare", "sentiment", "--help"], ["train", "sentiment", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        for option in (
            "budget of each training (default: 10)",
            "samples a batch; systems may have their own (default: 16)",
            "of Adam; systems may have their own (default: 0.001)",
        ):
            assert option in said
        assert ("--ablation" in said) == (words[0] == "compare")
