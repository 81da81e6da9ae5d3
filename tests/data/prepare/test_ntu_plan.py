"""Protects what is said where no clip of NTU RGB+D can be made: what is there, what is broken, and what is left alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

pytest.importorskip("safetensors")

from torchmsaf.data.prepare.actions.plan import plan_ntu
from torchmsaf.data.prepare.actions.preparation import NtuSettings, prepare_ntu
from torchmsaf.data.prepare.actions.skeleton_file import MOST_BYTES
from torchmsaf.errors import DataError

ONE, TWO, OTHER = "S001C001P001R001A001", "S001C001P002R001A001", "S002C001P001R001A001"


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"content")
    return folder


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"nturgb+d/{name}", "content")
    return path


def test_an_archive_that_is_cut_off_is_named_where_nothing_of_its_kind_is_there(tmp_path: Path) -> None:
    zipped(tmp_path / "nturgbd_skeletons_s001_to_s017.zip", f"{ONE}.skeleton", f"{TWO}.skeleton", "notes.txt")
    videos = zipped(tmp_path / "nturgbd_rgb_s001.zip", f"{ONE}_rgb.avi", f"{TWO}_rgb.avi")
    videos.write_bytes(videos.read_bytes()[: videos.stat().st_size // 2])
    with pytest.raises(DataError) as error:
        plan_ntu([tmp_path])
    said = str(error.value)
    assert said.startswith(f"{tmp_path} holds none of the videos, ")
    assert (
        "; found: 1 other, 2 skeletons; refused are\n  nturgbd_rgb_s001.zip: the archive is broken or not comp" in said
    )
    assert said.endswith("download it again")


def test_what_is_found_of_the_other_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds none of the skeletons, .*; found: 1 video$"):
        plan_ntu([touch(tmp_path, f"{ONE}_rgb.avi")])


def prepare(raw: Path, out: Path) -> str:
    pytest.importorskip("av")
    with pytest.raises(DataError) as error:
        prepare_ntu(raw, out, NtuSettings(4, 16), jobs=1)
    assert not out.exists()
    return str(error.value)


def test_setups_of_which_each_has_one_kind_are_told(tmp_path: Path) -> None:
    raw = touch(tmp_path / "raw", f"{ONE}.skeleton", f"{TWO}.skeleton", f"{OTHER}_rgb.avi")
    assert prepare(raw, tmp_path / "out") == (
        f"{raw}: not one clip could be prepared; left alone are 2 skeletons of setups without videos, "
        "1 video of setups without skeletons; refused are none"
    )


def test_clips_that_are_all_on_a_list_are_told(tmp_path: Path) -> None:
    raw = touch(tmp_path / "raw", f"{ONE}.skeleton", f"{ONE}_rgb.avi")
    (raw / "NTU_RGBD_samples_with_missing_skeletons.txt").write_text(f"Missing:\n{ONE}\n")
    said = "not one clip could be prepared; left alone are 1 with missing skeletons by the lists; refused are none"
    assert prepare(raw, tmp_path / "out") == f"{raw}: {said}"


def test_what_is_left_alone_stands_beside_what_is_refused(tmp_path: Path) -> None:
    raw = touch(tmp_path / "raw", f"{ONE}.skeleton", f"{ONE}_rgb.avi", f"{OTHER}_rgb.avi")
    with pytest.raises(DataError) as error:
        prepare_ntu(raw, tmp_path / "out", NtuSettings(modalities=("skeleton",)), jobs=1)
    said = "not one clip could be prepared; left alone are 2 videos; refused are\n"
    assert str(error.value).startswith(f"{raw}: {said}  {ONE}.skeleton: line 1")


def test_a_packed_skeleton_that_is_too_large_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{ONE}.skeleton", b"\n" * (MOST_BYTES + 1))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match=rf"{ONE}\.skeleton: has more than {MOST_BYTES} bytes"):
        prepare_ntu(tmp_path, tmp_path / "out", NtuSettings(modalities=("skeleton",)), jobs=1)
