"""Protects the reading of the lists of clips with missing skeletons."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchmsaf.data.prepare.actions.missing import PATTERN, read_missing
from torchmsaf.errors import DataError

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
TEXT = "3 of the samples have missing skeletons.\nPlease ignore these files.\n\nS001C002P005R002A008\nS017C003P016R002A060\n"


def test_text_before_the_names_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "NTU_RGBD_samples_with_missing_skeletons.txt"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode("utf-8-sig") + b"S002C001P001R001A003.skeleton\r\n\r\n")
    names = read_missing(path)
    assert names == {"S001C002P005R002A008", "S017C003P016R002A060", "S002C001P001R001A003"}
    assert path.match(PATTERN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no name of a clip"),
        ("only text\n", "holds no name of a clip"),
        (TEXT + "and more\n", r"line 6: and more: five letters"),
        ("S001C009P001R001A001\n", "line 1: .*camera is 009"),
        ("S001C001P001R001\nS001C001P001R001A001\n", "line 1: .*five letters"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "missing_skeletons.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_missing(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the list's own path"):
        read_missing(tmp_path / "none.txt")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match="is no text"):
        read_missing(tmp_path / "image.txt")


@pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")
def test_the_official_lists() -> None:
    folder = Path(SHARED or "") / "ntu_samples" / "lists"
    first = read_missing(folder / "NTU_RGBD_samples_with_missing_skeletons.txt")
    both = read_missing(folder / "NTU_RGBD120_samples_with_missing_skeletons.txt")
    assert (len(first), len(both)) == (302, 535)
    assert first < both
