"""Actions from raw files to the table, as a user goes: made up, prepared, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("lightning")

from torchmsaf.cli import main
from torchmsaf.data.prepared import Prepared


def test_from_raw_files_to_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, prepared, out = (str(tmp_path / name) for name in ("raw", "prepared", "out"))
    made = ["--subjects", "4", "--cameras", "1", "--frames", "12", "--size", "48x32", "--jobs", "1"]
    assert main(["synth", "ntu", "--out", raw, *made, "--actions", "1", "23", "50"]) == 0
    assert (
        main(["prepare", "ntu", "--raw", raw, "--out", prepared, "--frames", "4", "--size", "64", "--jobs", "1"]) == 0
    )
    capsys.readouterr()
    clips = Prepared.open(prepared)
    assert len(clips) == 4 * 3 * 2
    two = [entry.id for entry in clips.entries if entry.facts["action"] == 50]
    assert all(entry.shapes["skeleton"][-1] == 2 for entry in clips.entries if entry.id in two)
    arguments = ["--methods", "msaf", "--epochs", "1", "--batch-size", "4", "--jobs", "1", "--out", out]
    assert main(["compare", "action", "--data", prepared, *arguments]) == 0
    said = capsys.readouterr().out
    assert "MADE-UP clips, rgb, skeleton (i3d and hcn, preset small), protocol cross-subject" in said
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["about"]["made_up"] is True
    assert config["data"]["classes"][0] == "A001 drink water"
    for row in ("rgb", "skeleton", "msaf"):
        assert f"\n  {row} " in said
    assert (tmp_path / "out" / "table.html").exists()
    weights = next(tmp_path.glob("out/weights/*/msaf*.safetensors"))
    files = sorted(Path(raw).rglob(f"{clips.entries[0].id}*"))
    assert len(files) == 2
    assert main(["predict", str(weights), *map(str, files)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(clips.entries[0].id)
