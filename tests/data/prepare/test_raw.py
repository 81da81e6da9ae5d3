"""Protects finding raw files: what lies in archives is read without extracting, and nothing unsafe is opened."""

from __future__ import annotations

import pickle
import re
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from torchmsaf.data.prepare.raw import RawFile, Refusal, find_files
from torchmsaf.errors import DataError


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            member = zipfile.ZipInfo("x", (2018, 1, 1, 0, 0, 0))
            member.filename, member.compress_type = name, method  # as it is, without the constructor's cleaning
            file.writestr(member, data)
    return path


def patch(path: Path, offset: int, value: bytes) -> None:
    """Change a field of the only member, by its offset in the archive's directory."""
    raw = bytearray(path.read_bytes())
    start = raw.rindex(b"PK\x01\x02") + offset
    raw[start : start + len(value)] = value
    path.write_bytes(bytes(raw))


def content(file: RawFile) -> bytes:
    with file.open() as stream:
        return stream.read()


def reasons(refused: list[Refusal]) -> dict[str, str]:
    return {refusal.where: refusal.reason for refusal in refused}


def test_folders_and_archives_are_listed_in_natural_order_without_extracting(tmp_path: Path) -> None:
    (tmp_path / "b10").mkdir()
    (tmp_path / "b10" / "x.csv").write_bytes(b"ten")
    (tmp_path / "b9.ZIP").write_bytes(archive(tmp_path / "b", {"A/": b"", "A/y.mp4": b"nine", "A/z": b""}).read_bytes())
    (tmp_path / "b").unlink()
    files, refused = find_files(tmp_path)
    assert [(file.where, file.name, file.size) for file in files] == [
        ("b9.ZIP!A/y.mp4", "y.mp4", 4),
        ("b9.ZIP!A/z", "z", 0),
        ("b10/x.csv", "x.csv", 3),
    ]
    assert not refused
    copies = pickle.loads(pickle.dumps(files))
    assert [content(file) for file in copies] == [b"nine", b"", b"ten"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b10", "b9.ZIP", "x.csv"]
    assert files[0].folders == ("b9.ZIP", "A")


def test_one_archive_is_a_root_too(tmp_path: Path) -> None:
    files, _ = find_files(archive(tmp_path / "a.zip", {"A/x.mp4": b"1"}))
    assert [file.where for file in files] == ["a.zip!A/x.mp4"]


def test_hidden_files_and_those_of_macos_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    for name in (".cache/x.mp4", "._x.mp4", ".DS_Store"):
        (tmp_path / name).write_bytes(b"1")
    archive(tmp_path / "a.zip", {"__MACOSX/A/._x.mp4": b"1", "A/._y.mp4": b"1", "A/.git/z.mp4": b"1"})
    assert find_files(tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../../x.mp4", "leads out of its folder"),
        ("A/../x.mp4", "leads out of its folder"),
        ("A\\..\\x.mp4", "leads out of its folder"),
        ("/etc/x.mp4", "is absolute"),
        ("\\\\server\\x.mp4", "is absolute"),
        ("C:/x.mp4", "is absolute"),
        ("c:x.mp4", "is absolute"),
        ("A/inner.zip", "an archive in an archive"),
    ],
)
def test_unsafe_members_are_refused_by_name_and_the_others_stay(tmp_path: Path, name: str, words: str) -> None:
    archive(tmp_path / "a.zip", {name: b"1", "A/fine.mp4": b"2"})
    files, refused = find_files(tmp_path)
    assert [file.name for file in files] == ["fine.mp4"]
    assert len(refused) == 1
    assert words in reasons(refused)[f"a.zip!{name}"]


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        link = zipfile.ZipInfo("A/x.mp4")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    assert reasons(find_files(tmp_path)[1]) == {"a.zip!A/x.mp4": "is not opened: it is a link"}


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (8, struct.pack("<H", 1), "it is encrypted"),
        (24, struct.pack("<I", 2**30 + 1), "it says that it has 1073741825 bytes; 1073741824 are the most"),
        (10, struct.pack("<H", 9), "it is compressed by method 9; unpack it"),
    ],
)
def test_members_that_cannot_be_unpacked_are_refused(tmp_path: Path, offset: int, value: bytes, words: str) -> None:
    patch(archive(tmp_path / "a.zip", {"x.mp4": b"1" * 100}), offset, value)
    files, refused = find_files(tmp_path)
    assert not files
    assert words in reasons(refused)["a.zip!x.mp4"]


def test_a_member_that_is_larger_than_it_says_gives_no_more_than_it_says(tmp_path: Path) -> None:
    patch(archive(tmp_path / "a.zip", {"x.mp4": bytes(10**6)}), 24, struct.pack("<I", 10))
    with pytest.raises(DataError, match=r"a\.zip!x\.mp4: cannot be read: .*download the archive again"):
        find_files(tmp_path)[0][0].open()


def test_a_wrong_checksum_is_an_error_when_the_member_is_opened(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"x.mp4": b"right bytes"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"right bytes", b"wrong bytes"))
    (file,), refused = find_files(tmp_path)
    assert not refused
    with pytest.raises(DataError, match=r"a\.zip!x\.mp4: cannot be read: Bad CRC-32 .*; download the archive again"):
        file.open()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.mp4", b"1")
        file.writestr("x.mp4", b"2")
    files, refused = find_files(tmp_path)
    assert not files
    assert [refusal.reason for refusal in refused] == [
        "is in the archive 2 times; it is not clear which one is meant"
    ] * 2


@pytest.mark.parametrize("keep", [0, 4, 40, -30])
def test_a_broken_archive_is_refused_and_the_others_stay(tmp_path: Path, keep: int) -> None:
    whole = archive(tmp_path / "whole.zip", {"x.mp4": b"1"}).read_bytes()
    (tmp_path / "part.zip").write_bytes(whole[:keep])
    files, refused = find_files(tmp_path)
    assert [file.where for file in files] == ["whole.zip!x.mp4"]
    assert [refusal.where for refusal in refused] == ["part.zip"]
    assert str(refused[0]).startswith("part.zip: the archive is broken or not completely downloaded")
    with pytest.raises(DataError, match=r"part\.zip is no zip archive, or is broken"):
        find_files(tmp_path / "part.zip")


def test_links_in_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "x.mp4").write_bytes(b"1")
    (tmp_path / "A" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    files, refused = find_files(tmp_path)
    assert [file.where for file in files] == ["A/x.mp4"]
    assert reasons(refused) == {"gone.mp4": "cannot be read: No such file or directory"}


def test_names_that_do_not_print_are_escaped(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", {"A/\x1b[31mx\n.mp4": b"1"})
    (file,), _ = find_files(tmp_path)
    assert file.where == "a.zip!A/\\x1b[31mx\\n.mp4"
    assert content(file) == b"1"


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    def stamp() -> str:
        return find_files(archive(tmp_path / "a.zip", {"x": data}))[0][0].stamp

    data = b"1"
    first = stamp()
    assert stamp() == first
    data = b"2"
    assert stamp() != first


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"1")
    (file,), _ = find_files(tmp_path)
    assert isinstance(file, RawFile)
    file.path.unlink()
    with pytest.raises(DataError, match=r"^x\.mp4: cannot be read: No such file or directory$"):
        file.open()


def test_a_root_that_is_not_there_or_no_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"{re.escape(str(tmp_path))}/no does not exist; give the folder with the files as"
    ):
        find_files(tmp_path / "no")
    (tmp_path / "x.mp4").write_bytes(b"1")
    with pytest.raises(
        DataError, match=r"x\.mp4 is one file; a folder or a zip archive is needed: give the folder that"
    ):
        find_files(tmp_path / "x.mp4")
