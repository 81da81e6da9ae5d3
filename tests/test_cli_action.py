"""Protects the commands for actions: compare, train and search on clips, other skeletons, and what wrong input is told."""

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

pytest.importorskip("lightning")

from tests.data.ntu_clips import write_clips
from torchmsaf.cli import main
from torchmsaf.cli.settings import shipped
from torchmsaf.experiments.results import ResultFolder
from torchmsaf.tasks.action import PLACEMENTS
from torchmsaf.tasks.model_file import load_model, read_spec

Run = Callable[..., tuple[int, str, str]]
FAST = ("--epochs", "1", "--jobs", "1", "--batch-size", "4")
PAPER = {"min_attention": 0.5, "reduction": 4}
SEARCH = ("--levels", "1", "--iterations", "1", "--sampled", "2", "--search-epochs", "1", "--inner", "4")
SUBJECTS = (1, 4, 2, 3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), subjects=SUBJECTS).path


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("bodies"), subjects=SUBJECTS, modalities=("skeleton",)).path


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random, n = np.random.default_rng(0), 24
    path = tmp_path_factory.mktemp("arrays") / "utd.npz"
    inertial = random.normal(size=(n, 6, 20)).astype(np.float32)
    part = np.array((["train"] * 2 + ["validation", "test"]) * 6)
    skeleton = random.normal(size=(n, 3, 12, 20)).astype(np.float32)
    np.savez(
        path, skeleton=skeleton, inertial=inertial, label=np.arange(n) // 4 % 3, part=part, subject=np.arange(n) % 6
    )
    return path


def rows(folder: Path) -> list[dict[str, Any]]:
    return [one for one in ResultFolder(folder).records() if one["stage"] != "start"]


def config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def test_compare_prints_a_table_and_leaves_its_folder(
    run: Run, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("compare", "action", "--data", clips, "--methods", "msaf", "averaging", *FAST)
    code, out, error = run(*words)
    assert code == 0, error
    assert (
        "Actions of NTU RGB+D, MADE-UP clips, rgb, skeleton (i3d and hcn, preset small), protocol cross-subject" in out
    )
    assert "late fusion" in out
    assert "Table 3" not in out
    assert "Results: runs/action (table.html" in error
    found = rows(tmp_path / "runs/action")
    assert [one["key"] for one in found][:2] == ["unimodal.rgb", "unimodal.skeleton"]
    assert {one["method"]: one["options"] for one in found[2:]} == {"averaging": {}, "msaf": PAPER}
    # the preset's own defaults, but for what was said
    recipe, usual = config(tmp_path / "runs/action")["recipe"], shipped("action-small")
    assert (recipe["epochs"], recipe["batch_size"], recipe["alternate"]) == (1, 4, None)
    for name in ("patience", "learning_rate", "weight_decay", "decay_epochs"):
        assert recipe[name] == usual[name]
    assert run("table", "runs/action")[1] == out


@pytest.mark.slow
def test_train_leaves_a_model(run: Run, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run("train", "action", "--data", clips, "--seed", 3, "--persons", 3, *FAST)
    assert code == 0, error
    assert "Model: runs/action-msaf-seed-3/model.safetensors" in error
    model = tmp_path / "runs/action-msaf-seed-3/model.safetensors"
    network, spec = load_model(model)
    assert (spec.method, spec.options, spec.outputs) == ("msaf", PAPER, 3)
    assert spec.networks["skeleton"].shape == (3, 32, 25, 3)
    assert not network.training
    with torch.no_grad():
        inputs = [torch.randn(2, *one.shape) for one in spec.networks.values()]
        assert network(inputs, None, [None, torch.tensor([1, 3])]).prediction.shape == (2, 3)
    assert [one["method"] for one in rows(model.parent)][2:] == ["msaf"]
    # what was trained is what others begin with
    more = ("--pretrained", f"rgb={model}", f"skeleton={model}", "--persons", 3)
    code, _, error = run("train", "action", "--data", clips, "--method", "averaging", *more, *FAST)
    assert code == 0, error
    assert set(config(tmp_path / "runs/action-averaging-seed-0")["pretrained"]) == {"rgb", "skeleton"}


@pytest.mark.slow
def test_placement_is_table_5_in_a_folder_of_its_own(
    run: Run, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run("compare", "action", "--data", clips, "--placement", *FAST)
    assert code == 0, error
    found = rows(tmp_path / "runs/action-placement")
    assert [one["stage"] for one in found] == ["unimodal"] * 2 + ["intermediate"] * 7
    assert [one["options"] for one in found[2:]] == [{**PAPER, "points": list(places)} for places in PLACEMENTS]
    assert out.count("msaf (") == 7


def test_the_published_protocol_and_recipe_are_on_record(
    run: Run, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--protocol", "published", "--recipe", "published", "--rgb", "resnet50", "--methods", "msaf")
    code, out, error = run("compare", "action", "--data", clips, *words, "--epochs", 2, "--jobs", 1)
    assert code == 0, error
    assert "PUBLISHED PROTOCOL" in out
    assert "protocol published" in out
    recipe = config(tmp_path / "runs/action-published")["recipe"]
    said = {"learning_rate": 1e-4, "weight_decay": 1e-4, "decay_epochs": [5, 20], "batch_size": 4, "alternate": True}
    assert {name: recipe[name] for name in said} == said
    # no training stops early
    assert (recipe["epochs"], recipe["patience"]) == (2, 2)


@pytest.mark.slow
def test_search_prints_the_best_and_says_how_to_compare_it(run: Run, clips: Path, tmp_path: Path) -> None:
    words = ("search", "action", "--data", clips, "--out", tmp_path / "s", *SEARCH, *FAST)
    code, out, error = run(*words)
    assert code == 0, error
    assert "The best on validation samples, by accuracy; as the best of many their figures are too high:" in out
    assert "Places: rgb: 0 mixed_4f, 1 mixed_5b, 2 mixed_5c, 3 feature; skeleton: 0 conv5, 1 conv6" in out
    assert error.count("round 1 of 1, level 1 of 1, ") == 32
    assert re.search(r"1 of 1, 32 of 32: \d-\d-\d, validation accuracy \d+\.\d %\n", error)
    assert "((" not in error
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert found["settings"]["levels"] == 1
    asked = out.partition("--methods ")[2].split()[0]
    assert asked == f"mfas:architecture={str(found['best']).replace(' ', '')}"
    # and it can be compared so
    code, _, error = run("train", "action", "--data", clips, "--method", asked, "--out", tmp_path / "t", *FAST)
    assert code == 0, error
    assert rows(tmp_path / "t")[-1]["options"] == {"architecture": found["best"]}
    code, again, error = run(*words, "--resume")
    assert (code, again) == (0, out)


def test_skeletons_alone_are_compared_with_the_systems_that_take_them(run: Run, bodies: Path, tmp_path: Path) -> None:
    """The methods that are shipped are for two modalities; of these the ones that fit are left."""
    words = ("compare", "action", "--data", bodies, "--preset", "small", "--out", tmp_path / "r")
    code, out, error = run(*words, *FAST)
    assert code == 0, error
    assert [one["key"] for one in rows(tmp_path / "r")] == ["unimodal.skeleton", "pose_image"]
    assert "skeleton (hcn, preset small), protocol cross-subject" in out
    told = "Left out: averaging, multiplication, concat, centralnet, mfas, mmtm, sgm, msaf (there is one modality)\n"
    assert error.startswith(told)


def test_all_methods_are_those_that_other_joints_allow(
    run: Run, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``all``, as the methods that are shipped, leaves out what knows other joints, and says so; a name is not left out."""
    asked: list[str] = []
    monkeypatch.setattr("torchmsaf.cli.action.run", lambda made, *_: asked.extend(one.key for one in made.methods))
    words = ("compare", "action", "--data", arrays, "--out", tmp_path / "r")
    bones = "Left out: pose_image (bones are those of NTU RGB+D's 25 joints, and these skeletons have 20: give bones, "
    for methods in (("--methods", "all"), ()):
        asked.clear()
        code, _, error = run(*words, *methods)
        assert code == 0, error
        assert error.startswith(bones)
        assert error.count("\n") == 1
        assert "pose_image" not in asked
        assert {"msaf_min_attention=0.5", "mfas", "averaging"} <= {one.partition(",")[0] for one in asked}
    asked.clear()
    code, _, error = run(*words, "--methods", "pose_image")
    assert (code, error, asked) == (0, "", ["pose_image"])


def test_clips_of_other_joints_are_compared_without_the_image_of_poses(run: Run, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "p", subjects=SUBJECTS, modalities=("skeleton",), joints=17).path
    code, _, error = run("compare", "action", "--data", clips, "--preset", "small", "--out", tmp_path / "r", *FAST)
    assert code == 0, error
    assert [one["key"] for one in rows(tmp_path / "r")] == ["unimodal.skeleton"]
    assert "Left out: pose_image (bones are those of NTU RGB+D's 25 joints" in error


def test_a_file_of_arrays_is_compared_by_its_own_split(run: Run, arrays: Path, tmp_path: Path) -> None:
    words = ("compare", "action", "--data", arrays, "--split", "part", "--methods", "msaf", "--out", tmp_path / "r")
    code, out, error = run(*words, *FAST)
    assert code == 0, error
    assert "Actions of utd: skeleton, inertial" in out
    assert "The split that utd ships" in out
    assert [one["key"] for one in rows(tmp_path / "r")][:2] == ["unimodal.skeleton", "unimodal.inertial"]
    assert config(tmp_path / "r")["data"]["modalities"]["skeleton"] == [3, 32, 20, 1]


def test_a_split_without_a_validation_part_leaves_its_share_to_the_user(
    run: Run, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def told(made: Any, *_: Any) -> None:
        (fold,) = made.protocol.folds
        shares.append(len(fold.validation) / (len(fold.train) + len(fold.validation)))

    monkeypatch.setattr("torchmsaf.cli.action.run", told)
    with np.load(arrays) as whole:
        content = dict(whole)
    content["part"] = np.where(content["part"] == "test", "test", "train")
    np.savez(tmp_path / "two.npz", **content)
    for share in (0.5, 0.25):
        words = ("--data", tmp_path / "two.npz", "--split", "part", "--validation", share, "--methods", "msaf")
        code, _, error = run("compare", "action", *words)
        assert code == 0, error
    assert shares == pytest.approx([0.5, 0.25], abs=0.06)


def test_a_training_on_arrays_is_of_one_fold(run: Run, arrays: Path, tmp_path: Path) -> None:
    words = ("--data", arrays, "--group", "subject", "--folds", 2, "--out", tmp_path / "r")
    code, _, error = run("train", "action", *words, *FAST)
    assert code == 0, error
    assert read_spec(tmp_path / "r/model.safetensors").method == "msaf"
    assert {one["fold"] for one in rows(tmp_path / "r")} == {0}


def test_options_are_read_from_a_file_too(run: Run, bodies: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "preset: small\nmethods: [pose_image]\nepochs: 1\nbatch_size: 4\njobs: 1\nprotocol: cross-subject\n"
    )
    code, _, error = run("compare", "action", "--data", bodies, "--config", file, "--out", tmp_path / "r")
    assert code == 0, error
    assert config(tmp_path / "r")["recipe"]["epochs"] == 1
    file.write_text("folds: 3\n")
    code, _, error = run("compare", "action", "--data", bodies, "--config", file, "--out", tmp_path / "r")
    assert code == 1
    assert "--folds is for a file of arrays" in error


WRONG: dict[str, tuple[list[str], str]] = {
    "no data": (["compare", "action"], "torchmsaf prepare ntu wrote; or a .npz or .safetensors file, or"),
    "no data to train": (["train", "action"], "--data FOLDER is needed: what torchmsaf prepare ntu wrote"),
    "no data to search": (["search", "action"], "--data FOLDER is needed: what torchmsaf prepare ntu wrote\n"),
    "not there": (["compare", "action", "--data", "nothing"], "nothing is not there or is no folder"),
    "no such file": (["compare", "action", "--data", "no.npz"], "no.npz"),
    "folds": (["compare", "action", "--data", "CLIPS", "--folds", "3"], "--folds is for a file of arrays, and --data is a"),
    "group": (["train", "action", "--data", "CLIPS", "--group", "s"], "--group is for a file of arrays, and --data is a"),
    "seed of the split": (["search", "action", "--data", "CLIPS", "--split-seed", "1"], "--split-seed is for a file of"),
    "preset": (["compare", "action", "--data", "ARRAYS", "--preset", "small"], "--preset is for clips of NTU RGB+D, and"),
    "protocol": (["train", "action", "--data", "ARRAYS", "--protocol", "published"], "--protocol is for clips of NTU RGB+D"),
    "persons": (["train", "action", "--data", "ARRAYS", "--persons", "1"], "--persons is for clips of NTU RGB+D"),
    "checkpointing": (["train", "action", "--data", "ARRAYS", "--checkpointing"], "--checkpointing is for clips of NTU"),
    "target": (["compare", "action", "--data", "ARRAYS", "--target", "gone"], "gone"),
    "other preset": (["compare", "action", "--data", "CLIPS", "--preset", "full"], "preset full is for frames of 256 x 256"),
    "nobody": (["compare", "action", "--data", "CLIPS", "--persons", "0"], "persons is 0; 1 or more are needed"),
    "setups": (["compare", "action", "--data", "CLIPS", "--protocol", "cross-setup"], "cross-setup is for NTU RGB+D 120"),
    "views": (["compare", "action", "--data", "CLIPS", "--protocol", "cross-view"], "the training part is empty"),
    "pretrained": (["train", "action", "--data", "CLIPS", "--pretrained", "x"], "expected rgb=FILE or skeleton=FILE"),
    "no weights": (["train", "action", "--data", "CLIPS", "--pretrained", "rgb="], "'rgb=': nothing stands behind the ="),
    "no network": (["train", "action", "--data", "CLIPS", "--pretrained", "=x"], "'=x': nothing stands before the ="),
    "folds of a split": (["compare", "action", "--data", "ARRAYS", "--split", "part", "--folds", "3"], "--folds is for"),
    "validation of a split": (["train", "action", "--data", "ARRAYS", "--split", "part", "--validation", "0.4"],
                              "--validation is for splits without a validation part, and that of --split has one"),
    "draw of a split": (["train", "action", "--data", "ARRAYS", "--split", "part", "--split-seed", "1"],
                        "--split-seed is for splits without a validation part"),
    "weights": (["train", "action", "--data", "CLIPS", "--pretrained", "rgb=x"], "x: there is no such file"),
    "method": (["compare", "action", "--data", "CLIPS", "--methods", "msav"], "no fusion method 'msav'"),
    "all": (["train", "action", "--data", "CLIPS", "--method", "all"], "--method takes one method"),
    "point": (["train", "action", "--data", "CLIPS", "--method", "msaf:points=[soon]"], "'soon' is no placement of the"),
    "seed": (["train", "action", "--data", "CLIPS", "--seed", "-1"], "seed is -1; 0 or more is needed"),
    "seed of a search": (["search", "action", "--data", "CLIPS", "--seed", "-1"], "seed is an integer of at least 0"),
    "seeds": (["compare", "action", "--data", "CLIPS", "--seeds", "0"], "no seeds; one or more are needed"),
    "resume": (["compare", "action", "--data", "CLIPS", "--resume"], "--resume needs --out FOLDER"),
    "resumed search": (["search", "action", "--data", "CLIPS", "--resume"], "--resume needs --out FOLDER"),
    "levels": (["search", "action", "--data", "CLIPS", "--levels", "0"], "levels"),
    "search of arrays": (["search", "action", "--data", "ARRAYS"], "a search needs prepared clips, and these are arrays"),
    "search of one": (["search", "action", "--data", "BODIES"], "two or more modalities that every sample has"),
    "epochs": (["compare", "action", "--data", "CLIPS", "--epochs", "0"], "epochs is 0; 1 or more is needed"),
    "jobs": (["compare", "action", "--data", "CLIPS", "--jobs", "0"], "jobs is 0; 1 or more is needed"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_said_in_words(
    run: Run,
    clips: Path,
    bodies: Path,
    arrays: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"CLIPS": clips, "BODIES": bodies, "ARRAYS": arrays}
    code, out, error = run(*[places.get(word, word) for word in words])
    assert code == 1
    assert not out
    assert error.startswith("torchmsaf: ")
    assert said in error
    assert not (tmp_path / "runs").exists()


def test_frames_of_no_preset_ask_for_one(run: Run, tmp_path: Path) -> None:
    path = write_clips(tmp_path / "p", subjects=SUBJECTS, size=60).path
    code, _, error = run("compare", "action", "--data", path)
    assert code == 1
    assert "the frames are 60 x 60, and presets are for 256 or 64: prepare with such a --size" in error


def test_damaged_clips_are_found_before_anything_is_trained(run: Run, bodies: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bodies, tmp_path / bodies.name))
    clip = sorted(copy.glob("clips/*"))[4]
    content = clip.read_bytes()
    clip.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, error = run("train", "action", "--data", copy)
    assert code == 1
    assert "clips 1 are damaged (" in error


@pytest.mark.parametrize("words", [("compare", "action"), ("train", "action"), ("search", "action")])
def test_the_help_says_the_defaults_of_both_presets(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    full, small = shipped("action")["batch_size"], shipped("action-small")["batch_size"]
    assert full != small
    assert f"samples a batch; systems may have their own (default: {full}; preset small: {small})" in said
    assert "published chooses epochs on test subjects (default: cross-subject)" in said
    assert ("--placement" in said) == (words[0] == "compare")
    assert ("--search-epochs" in said) == (words[0] == "search")
