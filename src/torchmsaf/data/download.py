"""Files of a Zenodo record, on the user's machine: resumed when a connection breaks, and verified before they are used.

The record is read from ``https://zenodo.org/api/records/ID``, which lists name, size and md5 sum of every file (the form is
described at https://developers.zenodo.org). A file comes as ``NAME.part`` and gets its name when its size and sum are right.
"""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import itertools
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from torchmsaf import __version__
from torchmsaf.errors import DataError

ZENODO = "https://zenodo.org"
# RAVDESS: one archive of videos an actor, of which the song archives are not needed; its landmarks: one archive of
# tables, beside which the record has archives of videos with the landmarks drawn in
PATTERNS = {"1188976": "Video_Speech_Actor_*.zip", "3255102": "FacialTracking_Actors_*.zip"}
# As public repositories state them that have downloaded the files; the first is in many, the second in one. The sums of
# the archives of single actors were not found. They are held against what a mirror says; Zenodo itself is believed.
KNOWN_MD5 = {
    ("1188976", "Audio_Speech_Actors_01-24.zip"): "bc696df654c87fed845eb13823edef8a",
    ("3255102", "FacialTracking_Actors_01-24.zip"): "5753bbc64a9a790f8a8d3e03cba526ee",
}

Pattern = str | list[str] | None
Told = Callable[[str, int, int], None]

_TRIES = 3
_WAITS = (2.0, 10.0)  # seconds before the second and the third try
_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20
_LARGEST_RECORD = 32 << 20
_NAME = re.compile(r"\w(?:[\w .,+@=()-]*[\w)])?", re.ASCII)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_WORDS = {
    401: "access is refused", 403: "access is refused", 404: "nothing is there", 410: "it was withdrawn",
    416: "the file there ends before that", 429: "too many requests came from here", 503: "the server is overloaded",
}  # fmt: skip


@dataclass(frozen=True)
class RecordFile:
    """A file of a record.

    Attributes:
        name: a plain file name.
        size: in bytes, 1 or more.
        md5: 32 hexadecimal digits.
        url: where it is.
    """

    name: str
    size: int
    md5: str
    url: str


@dataclass(frozen=True)
class Downloaded:
    """What a download did.

    Attributes:
        folder: where the files are.
        fetched: names of the files that came.
        already: names of the files that were there, whole.
    """

    folder: Path
    fetched: tuple[str, ...]
    already: tuple[str, ...]


def download(
    record: str, out: str | Path, *, pattern: Pattern = None, mirror: str | None = None, told: Told | None = None
) -> Downloaded:
    """Download the files of a record.

    Args:
        record: the number of the record, e.g. ``"1188976"``.
        out: a folder; it is made.
        pattern: which files, as in a shell, or a list of such; None = that of ``PATTERNS``, or ``*.zip``.
        mirror: a base URL in place of ``ZENODO`` that answers as it does.
        told: called with a file's name, the bytes of it that are there and its size; often.

    Raises:
        DataError: the record or a file cannot be had, is not what it should be, or does not fit on the disk. What came of
            a file stays as ``NAME.part``, and the next call goes on from there; one with a wrong sum is removed.
    """
    files = list_files(record, pattern=pattern, mirror=mirror)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error}") from error
    already = tuple(file.name for file in files if _is_there(folder / file.name, file))
    missing = [file for file in files if file.name not in already]
    _check_space(folder, sum(max(0, file.size - _had(_part(folder, file))) for file in missing))
    for file in files:
        if file.name in already and told:
            told(file.name, file.size, file.size)
    for file in missing:
        _fetch(file, folder, told)
    return Downloaded(folder, tuple(file.name for file in missing), already)


def list_files(record: str, *, pattern: Pattern = None, mirror: str | None = None) -> tuple[RecordFile, ...]:
    """The files of a record that a pattern chooses, by name; arguments and errors as of :func:`download`."""
    if not re.fullmatch("[0-9]{1,12}", record):
        raise DataError(f"a record of Zenodo is a number, such as 1188976, got {record!r}")
    base = ZENODO if mirror is None else mirror.rstrip("/")
    if not _is_web(base):
        raise DataError(f"a mirror is the start of a web address, such as https://example.org, got {mirror!r}")
    pattern = pattern or PATTERNS.get(record, "*.zip")
    patterns = [pattern] if isinstance(pattern, str) else pattern
    url = f"{base}/api/records/{record}"
    entries = _entries(url, _tried(url, lambda: _read_record(url)))
    names = sorted(str(entry.get("key")) for entry in entries)
    chosen = [entry for entry in entries if any(fnmatch.fnmatchcase(str(entry.get("key")), one) for one in patterns)]
    if not chosen:
        shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        raise DataError(f"{url} has no file {pattern!r}; its {len(names)} files are {shown or 'none'}")
    files = sorted((_file(url, base, entry) for entry in chosen), key=lambda file: file.name.lower())
    for one, other in itertools.pairwise(files):
        if one.name.lower() == other.name.lower():
            raise DataError(f"{url} is refused: it lists {other.name!r} twice")
    for file in files:
        known = KNOWN_MD5.get((record, file.name))
        if mirror is not None and known not in (None, file.md5):
            said = f"it says md5 {file.md5} for {file.name}, which has {known} at {ZENODO}"
            raise DataError(f"{mirror} is refused: {said}")
    return tuple(files)


class _BrokenError(Exception):
    """A request may go well when it is tried again."""


class _Redirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        downgraded = req.full_url.startswith("https:") and not newurl.startswith("https:")
        if not _is_web(newurl) or downgraded:
            raise DataError(f"{req.full_url} is refused: it sends on to {newurl[:200]!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Web addresses alone; the standard opener also opens local files and ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler, _Redirect,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _request(url: str, **headers: str) -> Any:
    """A response, to be closed."""
    headers["User-Agent"] = f"torchmsaf/{__version__}"
    try:
        return _opener().open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except DataError:  # a refused redirection; it is a ValueError too
        raise
    except urllib.error.HTTPError as error:
        error.close()
        words = f"the server answered {error.code}, {_WORDS.get(error.code, error.reason)}"
        if error.code == 416 or error.code in _AGAIN:
            raise _BrokenError(words) from error
        raise DataError(f"{url} cannot be had: {words}") from error
    except urllib.error.URLError as error:
        raise _BrokenError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error
    except ValueError as error:
        raise DataError(f"{url!r} is no web address: {error}") from error


def _tried(url: str, work: Callable[[], Any], note: str = "run it again later") -> Any:
    """The work, up to three times."""
    reason = ""
    for k in range(_TRIES):
        if k:
            time.sleep(_WAITS[k - 1])
        try:
            return work()
        except _BrokenError as error:
            reason = str(error)
    raise DataError(f"{url} cannot be had: {_TRIES} tries failed, the last one because {reason}; {note}")


def _read(response: Any, size: int) -> bytes:
    try:
        data: bytes = response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke ({error or type(error).__name__})") from error
    return data


def _read_record(url: str) -> bytes:
    with _request(url, Accept="application/json") as response:
        data = _read(response, _LARGEST_RECORD + 1)
        promised = response.headers.get("Content-Length", "")
    if len(data) > _LARGEST_RECORD:
        raise DataError(f"{url} is refused: its answer is larger than any record")
    if promised.isdigit() and len(data) < int(promised):
        raise _BrokenError("the connection broke")
    return data


def _entries(url: str, data: bytes) -> list[dict[str, Any]]:
    """The files that the record lists."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{url} does not answer with a record (JSON): is it the right address?") from error
    entries = record.get("files") if isinstance(record, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            f"{url} does not list its files as a record of Zenodo does: is it restricted, or another server?"
        )
    return entries


def _file(url: str, base: str, entry: dict[str, Any]) -> RecordFile:
    """One file of a record, with everything checked that is used."""
    name, size, checksum = entry.get("key"), entry.get("size"), entry.get("checksum")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 200 or name.endswith(".part"):
        raise DataError(f"{url} is refused: {name!r} is no plain file name")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise DataError(f"{url} is refused: the size of {name} is {size!r}, a number of bytes is needed")
    if not isinstance(checksum, str) or not re.fullmatch("md5:[0-9a-f]{32}", checksum.lower()):
        raise DataError(f"{url} is refused: the checksum of {name} is {checksum!r}, 'md5:' and 32 digits are needed")
    links = entry.get("links")
    link = links.get("self") if isinstance(links, dict) else None
    if link is None:
        link = f"{url}/files/{quote(name)}/content"
    elif isinstance(link, str) and link.startswith(ZENODO + "/"):
        link = base + link.removeprefix(ZENODO)
    if not isinstance(link, str) or not _is_web(link):
        raise DataError(f"{url} is refused: the link of {name} is {link!r}, a web address is needed")
    return RecordFile(name, size, checksum.lower().removeprefix("md5:"), link)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and url.isprintable()


def _part(folder: Path, file: RecordFile) -> Path:
    return folder / f"{file.name}.part"


def _had(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_there(path: Path, file: RecordFile) -> bool:
    """Whether the whole file is there already.

    Raises:
        DataError: something else has its name.
    """
    if not path.exists():
        return False
    if not path.is_file() or path.stat().st_size != file.size or _md5(path) != file.md5:
        raise DataError(f"{path} is there and is not the file of the record: move it away or delete it")
    return True


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"{folder} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are to come: make room")


def _fetch(file: RecordFile, folder: Path, told: Told | None) -> None:
    """One file, verified and with its name."""
    part = _part(folder, file)
    note = f"run it again, it goes on from what is in {part}"
    try:
        _tried(file.url, lambda: _go_on(file, part, told), note)
        found = _md5(part)
        if found != file.md5:
            part.unlink()
            raise DataError(
                f"{file.url} gave {file.name} with md5 {found}, the record says {file.md5}; what came was removed: run it "
                "again, and if it happens again the server has another file"
            )
        part.replace(folder / file.name)
    except OSError as error:
        raise DataError(f"{part} cannot be written: {error}") from error


def _go_on(file: RecordFile, part: Path, told: Told | None) -> None:
    """Ask for what is not there yet and append it."""
    had = _had(part)
    if had > file.size:
        part.unlink()
        had = 0
    if had == file.size:
        return
    try:
        response = _request(file.url, **({"Range": f"bytes={had}-"} if had else {}))
    except _BrokenError as error:
        if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 416:
            part.unlink(missing_ok=True)  # the server has nothing after it, so it is of another file
        raise
    with response:
        if had and response.status == 206:
            start = response.headers.get("Content-Range", "")
            if not start.startswith(f"bytes {had}-"):
                part.unlink()
                raise _BrokenError(f"the server went on at {start!r}, not at {had}")
        else:
            had = 0  # everything comes, from the start
        with part.open("ab" if had else "wb") as stream:
            while chunk := _read(response, _CHUNK):
                had += len(chunk)
                if had > file.size:
                    break
                stream.write(chunk)
                if told:
                    told(file.name, had, file.size)
    if had > file.size:
        part.unlink()
        raise DataError(f"{file.url} is longer than the {file.size} bytes of the record; what came was removed")
    if had < file.size:
        raise _BrokenError(f"the connection broke after {had} of {file.size} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
