"""Protects files against halves: whole or as before, whoever writes at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from torchmsaf.data.counted import counted
from torchmsaf.data.whole_files import PART, whole_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_at_the_end_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.json"
    with whole_file(path) as part:
        part.write_text("new")
        assert part.parent == path.parent
        assert part.name.startswith("file.json.")
        assert part.name.endswith(PART)
        assert not path.exists()
    assert names(path.parent) == ["file.json"]
    assert path.read_text() == "new"


def test_an_error_leaves_what_was_there_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def write() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (names(tmp_path), path.read_text()) == (["file"], "before")


def test_threads_write_one_file_without_mixing(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(number: int) -> None:
        with whole_file(path) as part, part.open("w") as file:
            for _ in range(50):
                file.write(f"{number}")
                file.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert names(tmp_path) == ["file"]
    assert path.read_text() in {f"{number}" * 50 for number in range(8)}


def test_things_are_counted() -> None:
    assert [counted(number, "frame") for number in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
