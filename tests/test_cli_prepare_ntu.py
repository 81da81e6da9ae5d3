"""Protects the command that prepares NTU RGB+D: the report on the screen, and wrong input said in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("safetensors")

from torchmsaf.data.prepared import Prepared

Run = Callable[..., tuple[int, str, str]]
NAMES = ("S001C001P001R001A001", "S001C001P002R001A013", "S001C001P003R001A002")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    joint = "0.5 0.25 3 1 1 2 2 1 0 0 0 2"
    body = ["72057594037927930 0 1 1 1 1 0 0.1 -0.2 2", "25", *[joint] * 25]
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.skeleton").write_text("\n".join(["2", *["1", *body] * 2, ""]))
    (folder / "some_missing_skeletons.txt").write_text(f"Missing:\n{NAMES[2]}\n")
    return folder


def test_a_preparation_is_reported_line_by_line(run: Run, raw: Path, tmp_path: Path) -> None:
    (raw / "S001C001P001R001A004.skeleton").write_text("1\n")
    command = ("prepare", "ntu", "--raw", raw, "--out", tmp_path / "out", "--modalities", "skeleton", "--jobs", 1)
    code, out, _ = run(*command)
    assert code == 0
    assert out.startswith("2 clips prepared, 0 there already: ")
    assert "Left alone: 1 with missing skeletons by the lists.\n" in out
    assert "1 file cannot be used (also in index.json):\n  S001C001P001R001A004.skeleton: line 2: the file ends" in out
    assert "get the file again" in out
    assert [entry.id for entry in Prepared.open(tmp_path / "out").entries] == list(NAMES[:2])
    assert run(*command)[1].startswith("0 clips prepared, 2 there already: ")
    code, _, error = run(*command, "--strict")
    assert code == 1
    assert "1 file is refused, so the index is not written" in error


WRONG = {
    "nothing": (["--raw", "nothing"], "nothing does not exist"),
    "frames": (["--raw", "RAW", "--frames", "0"], "frames is 0; a whole number from 1 to 1024 is needed"),
    "size": (["--raw", "nothing", "--size", "2000"], "size is 2000; a whole number from 16 to 1024 is needed"),
    "published": (["--raw", "RAW", "--published", "--frames", "8"], "leave --frames and --bodies out"),
    "jobs": (["--raw", "RAW", "--modalities", "skeleton", "--jobs", "0"], "jobs is 0; at least 1 is needed"),
    "list": (["--raw", "RAW", "--missing", "gone.txt"], "gone.txt cannot be read"),
    "poses": (["--raw", "RAW", "--modalities", "skeleton", "--poses", "gone.pkl"], "gone.pkl"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_said_in_words(run: Run, raw: Path, tmp_path: Path, words: list[str], said: str) -> None:
    pytest.importorskip("av")
    code, _, error = run(
        "prepare", "ntu", "--out", tmp_path / "out", *[raw if word == "RAW" else word for word in words]
    )
    assert code == 1
    assert said in error
    assert not (tmp_path / "out").exists()
