"""Protects ``torchmsaf predict``: the model's task says what its clips are, and what cannot be read stops no other clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from torchmsaf.data.prepare.actions.preparation import NtuSettings
from torchmsaf.data.synth.ntu import NtuCorpus, write_ntu
from torchmsaf.tasks.action import NETWORKS, PRESETS
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec, model_bytes

pytest.importorskip("av")
Run = Callable[..., tuple[int, str, str]]
CLASSES = ["A001 drink water", "A002 eat meal/snack", "A003 brushing teeth", "A050 punching/slapping other person"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "raw"
    write_ntu(root, NtuCorpus(subjects=3, cameras=1, actions=(1, 50), frames=12), jobs=1)
    return root


def clips(raw: Path) -> list[tuple[Path, Path]]:
    """Skeleton and video of each clip that has both."""
    videos = {path.stem.removesuffix("_rgb"): path for path in raw.rglob("*_rgb.avi")}
    return [(path, videos[path.stem]) for path in sorted(raw.rglob("*.skeleton")) if path.stem in videos]


def written(path: Path, method: str | None = "msaf", **about: Any) -> Path:
    """A model with random weights."""
    small = PRESETS["small"]
    specs = {
        "rgb": NetworkSpec((3, 8, 32, 32), NETWORKS["rgb"], {"kind": "i3d", **small.rgb["i3d"]}),
        "skeleton": NetworkSpec((3, 32, 25, 2), NETWORKS["skeleton"], small.skeleton),
    }
    parameters = NtuSettings(frames=5, size=40).parameters()
    said = {"task": "action", "classes": CLASSES, "parameters": parameters, "draw": "random", "made_up": True, **about}
    spec = ModelSpec(specs, method, len(CLASSES), about=said)
    torch.manual_seed(0)
    path.write_bytes(model_bytes(spec.build().state_dict(), spec))
    return path


def test_actions_are_a_table_of_the_likeliest_three(run: Run, raw: Path, tmp_path: Path) -> None:
    model = written(tmp_path / "model.safetensors")
    files = [file for clip in clips(raw)[:2] for file in clip]
    names = [files[0].stem, files[2].stem]
    code, out, _ = run("predict", model, *files)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:7] == ["clip", "action", "%", "second", "%", "third", "%"]
    assert "rgb alone" in lines[0]
    assert "attention 2: skeleton (even: " in lines[0]
    assert [line.split()[0] for line in lines[1:3]] == names
    assert lines[3] == "Probabilities and shares of attention are in percent."
    assert lines[4] == "The model was trained on MADE-UP clips: what it says means nothing."
    assert len(lines) == 5
    code, told, _ = run("predict", model, *files, "--format", "json")
    found = json.loads(told)
    assert [one["clip"] for one in found] == names
    best = sorted(found[0]["probabilities"].values(), reverse=True)[:3]
    assert [f"{100 * share:.1f}" for share in best] == [word for word in lines[1].split() if "." in word][:3]


def test_what_a_clip_lacks_is_absent_and_told(run: Run, raw: Path, tmp_path: Path) -> None:
    model = written(tmp_path / "model.safetensors", "averaging")
    first, second = clips(raw)[:2]
    code, out, _ = run("predict", model, *first, second[0])
    assert code == 0
    whole, lacking = out.splitlines()[1:3]
    assert "absent" not in whole
    assert lacking.split().count("absent") == 1
    assert out.endswith("1 clip without rgb, which the model knows.\n")


def test_a_file_that_cannot_be_read_stops_no_other(run: Run, raw: Path, tmp_path: Path) -> None:
    model = written(tmp_path / "model.safetensors", notes=["Mind the wiring."])
    broken = tmp_path / "broken.skeleton"
    broken.write_text("3\n")
    code, out, error = run("predict", model, broken, next(raw.rglob("*A001.skeleton")), "--format", "json")
    assert code == 1
    assert len(json.loads(out)) == 1
    assert error.startswith(f"torchmsaf: 1 of 2 clips could not be read:\n  {broken}: ")
    code, out, error = run("predict", model, tmp_path / "nothing.avi", next(raw.rglob("*A001.skeleton")))
    assert code == 1
    assert out.endswith("which the model knows.\nMind the wiring.\n")
    assert error.startswith(f"torchmsaf: 1 of 2 clips could not be read:\n  {tmp_path}/nothing.avi: there is no such")


@pytest.mark.parametrize(
    ("about", "words", "said"),
    [
        ({}, ["nothing.avi"], "nothing.avi: there is no such file"),
        ({}, ["clip.txt"], "clip.txt is no clip: they end in .skeleton"),
        ({}, ["a.avi", "--landmarks", "a.csv"], "--landmarks are for a model of emotions, and this is one of actions"),
        (
            {"task": "sentiment"},
            ["a.csd"],
            "is a model of sentiment, and predict takes those of emotions and of clips of actions",
        ),
        (
            {"task": None},
            ["a.avi"],
            "is a model of arrays, and predict takes those of emotions and of clips of actions",
        ),
        ({"task": None, "released": "i3d"}, ["a.avi"], "holds i3d weights: a start for training (--pretrained)"),
    ],
)
def test_wrong_input_is_said_in_words(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: dict[str, Any], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run("predict", written(tmp_path / "model.safetensors", **about), *words)
    assert code == 1
    assert not out
    assert error.startswith("torchmsaf: ")
    assert said in error
