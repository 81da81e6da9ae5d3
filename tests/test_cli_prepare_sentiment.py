"""Protects the commands that prepare sentiment: the report on the screen, and wrong input said in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors")

from torchmsaf.data.prepared import Prepared

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    arrays = {}
    for part, names in (("train", ["a_1", "a_2", "b_1"]), ("test", ["c_1"])):
        arrays |= {f"{name}_{part}": np.ones((len(names), 3), np.float32) for name in ("text", "audio", "video")}
        arrays |= {f"y_{part}": np.zeros(len(names)), f"id_{part}": np.array(names)}
    np.savez(tmp_path / "vectors.npz", **arrays)
    return tmp_path / "vectors.npz"


def test_a_preparation_is_reported_line_by_line(run: Run, vectors: Path, tmp_path: Path) -> None:
    code, out, _ = run("prepare", "mosi", "--raw", vectors, "--out", tmp_path / "out")
    assert code == 0
    assert out.startswith("4 utterances prepared, 0 there already: ")
    assert "  train: 3 utterances of 2 videos\n" in out
    assert "  test: 1 utterance of 1 video\n" in out
    assert len(Prepared.open(tmp_path / "out")) == 4
    code, out, _ = run("prepare", "mosi", "--raw", vectors, "--out", tmp_path / "out")
    assert out.startswith("0 utterances prepared, 4 there already: ")


def test_folds_of_a_file_replace_those_of_the_set(run: Run, vectors: Path, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"train": ["a"], "validation": ["b"], "test": ["x"]}')
    code, out, _ = run("prepare", "mosi", "--raw", vectors, "--out", tmp_path / "out", "--folds", tmp_path / "f.json")
    assert code == 0
    assert "  validation: 1 utterance of 1 video\n" in out
    assert "1 refused (all in index.json):\n  c.0: is in no fold of the file of folds" in out
    code, _, error = run(
        "prepare", "mosi", "--raw", vectors, "--out", tmp_path / "o", "--folds", tmp_path / "f.json", "--strict"
    )
    assert code == 1
    assert "1 of the utterances and videos are refused, so the index is not written" in error


WRONG = {
    "nothing": (["mosei", "--raw", "nothing"], "nothing does not exist; give the folder with the files of CMU-MOSEI"),
    "text": (
        ["mosi", "--raw", "DATA", "--text", "words"],
        "does not say the words of its steps, which --text words needs",
    ),
    "model": (["mosi", "--raw", "DATA", "--text-model", "x"], "which --text-model needs: choose --text-model NAME"),
    "published": (["mosi", "--raw", "DATA", "--alignment", "published"], "--alignment published needs frames"),
    "steps": (["mosi", "--raw", "DATA", "--steps", "0"], "steps is 0; a whole number from 1 is needed"),
    "folds": (["mosi", "--raw", "DATA", "--folds", "gone.json"], "gone.json cannot be read as JSON"),
    "files": (["ur_funny", "--raw", "."], "lacks humor_label_sdk.pkl, data_folds.pkl"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_said_in_words(
    run: Run, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run("prepare", *[vectors if word == "DATA" else word for word in words], "--out", "out")
    assert code == 1
    assert not out
    assert re.match("torchmsaf: .*" + re.escape(said), error)
    assert not (tmp_path / "out").exists()
