"""Raw files as they were downloaded: in folders, and inside zip archives, which are not extracted."""

from __future__ import annotations

import io
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torchmsaf.data.array_files import BROKEN
from torchmsaf.data.natural_order import natural_key
from torchmsaf.errors import DataError

MOST_BYTES = 2**30  # a member of an archive may not say that it is larger
# what zipfile raises on bytes it cannot read
BROKEN_ZIP = (*BROKEN, lzma.LZMAError, struct.error)
_CHUNK = 2**20  # bytes read at a time
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_SEPARATOR = re.compile(r"[/\\]")
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # bits of a member's flags: by password, strongly, with its directory


@dataclass(frozen=True)
class Refusal:
    """A file that cannot be used.

    Attributes:
        name: the file's name, without folder.
        where: where it lies, as in ``RawFile``.
        reason: why, without the name.
    """

    name: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class RawFile:
    """A file in a folder or in an archive. It can be pickled, and opened in another process.

    Attributes:
        name: the file's name, without folder.
        where: where it lies below the folder that was searched, ``Actors_1.zip!Actor_01/clip.mp4`` in an archive;
            characters that do not print are escaped.
        size: bytes, unpacked.
        stamp: changes when the file does: its size with its time of change, or with its checksum in an archive.
        path: the file itself, or the archive.
        member: the full name in the archive; None = a file in a folder.
        crc: the CRC-32 of its content, as the archive says; None = a file in a folder.
    """

    name: str
    where: str
    size: int
    stamp: str
    path: Path
    member: str | None = None
    crc: int | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders and the archive that it lies in, the outermost first."""
        return tuple(re.split(r"[/\\!]", self.where)[:-1])

    def checksum(self) -> int:
        """The CRC-32 of its content: what the archive says, or of the file, which is read for that.

        Raises:
            DataError: the file is gone or cannot be read.
        """
        if self.crc is not None:
            return self.crc
        checksum = 0
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    checksum = zlib.crc32(chunk, checksum)
        except OSError as error:
            raise DataError(f"{self.where}: cannot be read: {_why(error)}") from error
        return checksum

    def open(self) -> BinaryIO:
        """The file to read from, at its start; a member of an archive is unpacked into memory.

        Raises:
            DataError: it is gone, cannot be read, or its bytes do not fit its checksum in the archive.
        """
        try:
            if self.member is None:
                return self.path.open("rb")
            with zipfile.ZipFile(self.path) as archive:
                return io.BytesIO(archive.read(self.member))
        except BROKEN_ZIP as error:
            again = "" if self.member is None else "; download the archive again"
            raise DataError(f"{self.where}: cannot be read: {_why(error)}{again}") from error


def find_files(root: Path) -> tuple[list[RawFile], list[Refusal]]:
    """All files in a folder and its folders, and in the zip archives there, in natural order.

    Hidden files and what macOS adds to archives are left out. Archives inside archives are not opened.

    Args:
        root: a folder, or one zip archive.

    Returns:
        The files, and what is refused: archives and members that cannot be read or are not safe.

    Raises:
        DataError: ``root`` does not exist, or is a file that cannot be read as a zip archive.
    """
    files: list[RawFile] = []
    refused: list[Refusal] = []
    if root.is_dir():
        found = _in_folder(root)
    elif root.is_file():
        if not zipfile.is_zipfile(root):
            if root.suffix.lower() == ".zip":
                raise DataError(f"{root} is no zip archive, or is broken; download it again")
            raise DataError(f"{root} is one file; a folder or a zip archive is needed: give the folder that it lies in")
        found = _in_archive(root, root.name)
    else:
        raise DataError(f"{root} does not exist; give the folder with the files as they were downloaded")
    for one in found:
        if isinstance(one, RawFile):
            files.append(one)
        else:
            refused.append(one)
    files.sort(key=lambda file: natural_key(file.where))
    return files, sorted(refused, key=lambda refusal: natural_key(refusal.where))


def one_file(path: Path) -> RawFile:
    """A file that somebody names; it lies where they say.

    Raises:
        DataError: it is not there, or is no file.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    (found,) = _file(path, _shown(str(path)), open_archives=False)
    if isinstance(found, Refusal):
        raise DataError(str(found))
    return found


def _in_folder(root: Path) -> Iterator[RawFile | Refusal]:
    failed: list[OSError] = []
    seen: set[Path] = set()
    for place, folders, names in os.walk(root, followlinks=True, onerror=failed.append):
        folder = Path(place)
        resolved = folder.resolve()
        folders[:] = [] if resolved in seen else [name for name in folders if not _hidden(name)]
        for name in [] if resolved in seen else names:
            if not _hidden(name):
                yield from _file(folder / name, _shown((folder / name).relative_to(root).as_posix()))
        seen.add(resolved)
    for error in failed:
        closed = Path(os.fsdecode(error.filename or root))
        yield Refusal(_shown(closed.name), _shown(str(closed)), f"the folder cannot be read: {_why(error)}")


def _file(path: Path, where: str, *, open_archives: bool = True) -> Iterator[RawFile | Refusal]:
    name = _shown(path.name)
    try:
        status = path.stat()
    except OSError as error:
        yield Refusal(name, where, f"cannot be read: {_why(error)}")
        return
    if not stat.S_ISREG(status.st_mode):
        yield Refusal(name, where, "is no regular file")
    elif open_archives and path.suffix.lower() == ".zip":
        yield from _in_archive(path, where)
    else:
        yield RawFile(name, where, status.st_size, f"{status.st_size} bytes of {status.st_mtime_ns}", path)


def _in_archive(path: Path, where: str) -> Iterator[RawFile | Refusal]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except BROKEN_ZIP as error:
        said = f"the archive is broken or not completely downloaded: {_why(error)}; download it again"
        yield Refusal(_shown(path.name), where, said)
        return
    times = Counter(member.filename for member in members)
    for member in members:
        parts = [part for part in _SEPARATOR.split(member.filename) if part not in ("", ".")]
        name, place = _shown(parts[-1] if parts else member.filename), f"{where}!{_shown(member.filename)}"
        reason = _unsafe(member, parts)
        if reason is None and (member.is_dir() or any(_hidden(part) for part in parts)):
            continue
        reason = reason or _unreadable(member)
        if reason is None and times[member.filename] > 1:
            reason = f"is in the archive {times[member.filename]} times; it is not clear which one is meant"
        if reason is not None:
            yield Refusal(name, place, reason)
        else:
            stamp = f"{member.file_size} bytes with checksum {member.CRC:08x}"
            yield RawFile(name, place, member.file_size, stamp, path, member.filename, member.CRC)


def _unsafe(member: zipfile.ZipInfo, parts: list[str]) -> str | None:
    if member.filename[:1] in ("/", "\\") or re.match("[A-Za-z]:", member.filename):
        return "is not opened: the path in the archive is absolute"
    if ".." in parts:
        return "is not opened: the path in the archive leads out of its folder"
    if not parts:
        return "is not opened: the path in the archive is empty"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is not opened: it is a link"
    return None


def _unreadable(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & _ENCRYPTED:
        return "is not opened: it is encrypted"
    if member.file_size > MOST_BYTES:
        return f"is not opened: it says that it has {member.file_size} bytes; {MOST_BYTES} are the most"
    if member.compress_type not in METHODS:
        return f"is not opened: it is compressed by method {member.compress_type}; unpack it and give the folder"
    if member.filename.lower().endswith(".zip"):
        return "is not opened: it is an archive in an archive; unpack the outer one"
    return None


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _shown(text: str) -> str:
    """The text with what does not print escaped: names come from others, and go to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _why(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _shown(text) or type(error).__name__
