"""Protects the one file of all rows that processes share: its content, other clips, and folders that cannot be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from torchmsaf.data import joined as module
from torchmsaf.data.joined import FOLDER, joined
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter


def prepare(root: Path, *, add: float = 0.0) -> Prepared:
    writer = PreparedWriter(root, "mosi", {"alignment": "word"})
    for k, steps in enumerate((2, 3, 1)):
        writer.write(f"v{k}", {"audio": np.full((steps, 2), k + add, np.float32)}, {})
    return writer.finish()


EXPECTED = [[0, 0], [0, 0], [1, 1], [1, 1], [1, 1], [2, 2]]


def test_rows_are_end_to_end_and_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(tmp_path)
    first = joined(prepared, "audio")
    assert first.tolist() == EXPECTED
    (file,) = (prepared.path / FOLDER).iterdir()
    monkeypatch.setattr(module, "_each", None)  # not asked for again
    again = joined(prepared, "audio")
    again[0] = 9  # a copy of one's own, not the file
    assert joined(prepared, "audio").tolist() == EXPECTED
    assert file.exists()


def test_clips_that_were_prepared_anew_are_joined_anew(tmp_path: Path) -> None:
    joined(prepare(tmp_path), "audio")
    changed = prepare(tmp_path, add=0.5)
    assert joined(changed, "audio").tolist() == (torch.tensor(EXPECTED) + 0.5).tolist()
    assert len(list((changed.path / FOLDER).iterdir())) == 1


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    joined(prepared, "audio")
    (file,) = (prepared.path / FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert joined(prepared, "audio").tolist() == EXPECTED


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    (prepared.path / FOLDER).write_text("in the way")
    assert joined(prepared, "audio").tolist() == EXPECTED
