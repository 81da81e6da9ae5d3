"""Protects downloads: they go on where they broke, nothing unverified gets a name, and a lying server is refused.

A server of this machine stands in for Zenodo: it answers in the form of its records, and misbehaves as it is told.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

from torchmsaf.data import download as module
from torchmsaf.data.download import download, list_files
from torchmsaf.errors import DataError

ONE, TWO = "Video_Speech_Actor_01.zip", "Video_Speech_Actor_02.zip"
RECORD = "1188976"
BYTES = bytes(range(256)) * 40


class Server:
    """Files, and how to misbehave.

    Attributes:
        breaks: after how many bytes of a body the connection breaks, one a request for a file; then no more.
        ranges: whether Range is obeyed.
        starts: where an answer to Range says that it starts; None = where it does.
        status: answer of every request for a file.
        sends_on: where requests for a file are sent on to.
        changes: what the record says otherwise, by file name.
        record: the whole record, in place of one made of the files.
        asked: (file name, Range) of each request for a file.
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self.files = {ONE: BYTES, TWO: BYTES[::-1], "Video_Song_Actor_01.zip": b"song"}
        self.breaks: list[int] = []
        self.ranges, self.status, self.starts, self.sends_on = True, 200, "", ""
        self.changes: dict[str, dict[str, Any]] = {}
        self.record: bytes | None = None
        self.asked: list[tuple[str, str | None]] = []

    def entry(self, name: str, data: bytes) -> dict[str, Any]:
        link = f"https://zenodo.org/api/records/{RECORD}/files/{name}/content"
        checksum = f"md5:{hashlib.md5(data).hexdigest()}"
        entry = {"key": name, "size": len(data), "checksum": checksum, "links": {"self": link}}
        return entry | self.changes.get(name, {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        told: Server = self.server.told  # type: ignore[attr-defined]
        path = unquote(self.path)
        assert self.headers["User-Agent"].startswith("torchmsaf/"), "else no answer: who asks is said"
        if not path.endswith("/content"):
            files = [told.entry(name, data) for name, data in told.files.items()]
            body = json.dumps({"id": 1188976, "files": files}).encode() if told.record is None else told.record
            self.answer(200 if path == f"/api/records/{RECORD}" else 404, body, len(body))
            return
        name, wanted = path.split("/")[-2], self.headers["Range"]
        told.asked.append((name, wanted))
        data = told.files[name]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and told.ranges else 0
        if told.sends_on:
            self.answer(302, b"", 0, Location=told.sends_on)
        elif told.status != 200:
            self.answer(told.status, b"no", 2)
        elif start >= len(data):
            self.answer(416, b"", 0)
        else:
            body = data[start:]
            said = told.starts or f"bytes {start}-{len(data) - 1}/{len(data)}"
            kept = told.breaks.pop(0) if told.breaks else len(body)
            self.answer(206 if start else 200, body[:kept], len(body), **({"Content-Range": said} if start else {}))

    def answer(self, status: int, body: bytes, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture(scope="module")
def running() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "_WAITS", (0.0, 0.0))
    running.told = Server(f"http://127.0.0.1:{running.server_port}")  # type: ignore[attr-defined]
    return running.told  # type: ignore[attr-defined]


def test_the_chosen_files_come_once(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    done = download(RECORD, tmp_path / "raw", mirror=server.base + "/", told=lambda *told: seen.append(told))
    assert (done.folder, done.fetched, done.already) == (tmp_path / "raw", (ONE, TWO), ())
    assert {path.name: path.read_bytes() for path in done.folder.iterdir()} == {ONE: BYTES, TWO: BYTES[::-1]}
    assert seen == [(ONE, len(BYTES), len(BYTES)), (TWO, len(BYTES), len(BYTES))]
    again = download(RECORD, tmp_path / "raw", mirror=server.base, told=lambda *told: seen.append(told))
    assert (again.fetched, again.already) == ((), (ONE, TWO))
    assert len(server.asked) == 2
    assert seen[2:] == seen[:2]
    song = download(RECORD, tmp_path / "raw", pattern="Video_Song_*", mirror=server.base)
    assert song.fetched == ("Video_Song_Actor_01.zip",)


def test_without_a_mirror_the_addresses_are_those_of_zenodo(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    record = json.dumps({"files": [server.entry(ONE, BYTES)]}).encode()
    monkeypatch.setattr(module, "_read_record", lambda url: asked.append(url) or record)
    (file,) = list_files(RECORD)
    assert asked == ["https://zenodo.org/api/records/1188976"]
    assert file.url == "https://zenodo.org/api/records/1188976/files/Video_Speech_Actor_01.zip/content"
    assert file.md5 == hashlib.md5(BYTES).hexdigest()


def test_a_broken_connection_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = [1000, 500]
    download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert server.asked == [(ONE, None), (ONE, "bytes=1000-"), (ONE, "bytes=1500-")]
    assert (tmp_path / ONE).read_bytes() == BYTES


def test_after_three_tries_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.breaks = [100, 0, 1]
    message = (
        r"3 tries failed, the last one because the connection broke after 101 of 10240 bytes; run it again, it goes on"
    )
    with pytest.raises(DataError, match=message) as caught:
        download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert str(tmp_path / f"{ONE}.part") in str(caught.value)
    assert not (tmp_path / ONE).exists()
    download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert server.asked[-1] == (ONE, "bytes=101-")
    assert [path.name for path in tmp_path.iterdir()] == [ONE]


@pytest.mark.parametrize("how", ["ignores ranges", "starts elsewhere", "nothing is after it", "part is too long"])
def test_what_cannot_be_continued_starts_anew(server: Server, tmp_path: Path, how: str) -> None:
    part = tmp_path / f"{ONE}.part"
    part.write_bytes(b"x" * {"part is too long": 20_000, "nothing is after it": 10_239}.get(how, 100))
    if how == "nothing is after it":
        server.files[ONE] = BYTES[:5000]
        server.changes[ONE] = {"size": 10_240}
        with pytest.raises(DataError, match=r"3 tries failed, .* answered 416, the file there ends before that"):
            download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
        assert [wanted for _, wanted in server.asked] == ["bytes=10239-", None, "bytes=5000-"]
        return
    server.ranges = how != "ignores ranges"
    server.starts = "bytes 0-10239/10240" if how == "starts elsewhere" else ""
    download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert (tmp_path / ONE).read_bytes() == BYTES


def test_a_wrong_sum_removes_what_came(server: Server, tmp_path: Path) -> None:
    server.changes[ONE] = {"checksum": "md5:" + "0" * 32}
    with pytest.raises(
        DataError, match=rf"gave {ONE} with md5 \w+, the record says 0+; what came was removed: run it again"
    ):
        download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert not list(tmp_path.iterdir())
    (tmp_path / f"{TWO}.part").write_bytes(b"x" * 100)  # of another file: the sum tells, and the next run is right
    with pytest.raises(DataError, match=r"what came was removed"):
        download(RECORD, tmp_path, pattern=TWO, mirror=server.base)
    assert download(RECORD, tmp_path, pattern=TWO, mirror=server.base).fetched == (TWO,)


def test_a_file_that_does_not_end(server: Server, tmp_path: Path) -> None:
    server.changes[ONE] = {"size": 99}
    with pytest.raises(DataError, match=r"is longer than the 99 bytes of the record; what came was removed"):
        download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"short", BYTES[::-1]])
def test_another_file_of_the_same_name_is_left_alone(server: Server, tmp_path: Path, content: bytes) -> None:
    (tmp_path / ONE).write_bytes(content)
    with pytest.raises(
        DataError, match=rf"{ONE} is there and is not the file of the record: move it away or delete it"
    ):
        download(RECORD, tmp_path, mirror=server.base)
    assert (tmp_path / ONE).read_bytes() == content
    assert not server.asked


@pytest.mark.parametrize(
    ("status", "words", "tries"),
    [
        (403, r"the server answered 403, access is refused", 1),
        (410, r"answered 410, it was withdrawn", 1),
        (429, r"3 tries failed, .* answered 429, too many requests came from here; run it again", 3),
        (500, r"3 tries failed, .* answered 500, Internal Server Error", 3),
    ],
)
def test_http_errors_in_words(server: Server, tmp_path: Path, status: int, words: str, tries: int) -> None:
    server.status = status
    with pytest.raises(DataError, match=words):
        download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert len(server.asked) == tries


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_only_the_web_is_followed(server: Server, tmp_path: Path, target: str) -> None:
    server.sends_on = target
    with pytest.raises(DataError, match=rf"(it sends on|Redirection) to (url )?'{target}'"):
        download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    server.sends_on = ""
    server.changes[ONE] = {"links": {"self": target}}
    with pytest.raises(DataError, match=rf"the link of {ONE} is '{target}', a web address is needed"):
        download(RECORD, tmp_path, pattern=ONE, mirror=server.base)
    assert not list(tmp_path.iterdir())


def test_a_secure_address_is_not_left() -> None:
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(DataError, match=r"https://example\.org/a is refused: it sends on to 'http://example\.org/a'"):
        module._Redirect().redirect_request(request, None, 302, "", {}, "http://example.org/a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "../Video.zip"}, r"'\.\./Video\.zip' is no plain file name"),
        ({"key": "/tmp/x.zip"}, r"'/tmp/x\.zip' is no plain"),
        ({"key": "a\\b.zip"}, r"is no plain file name"),
        ({"key": "C:x.zip"}, r"'C:x\.zip' is no plain"),
        ({"key": ".zip"}, r"'\.zip' is no plain"),
        ({"key": "x\n.zip"}, r"is no plain file name"),
        ({"key": TWO.upper().replace(".ZIP", ".zip")}, r"it lists '.*' twice"),
        ({"size": "9"}, r"the size of \S+ is '9', a number of bytes is needed"),
        ({"size": 0}, r"the size of \S+ is 0,"),
        ({"checksum": "sha256:00"}, r"the checksum of \S+ is 'sha256:00', 'md5:' and 32 digits are needed"),
        ({"checksum": None}, r"the checksum of \S+ is None"),
    ],
)
def test_a_record_with_odd_files_is_refused(server: Server, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    server.changes[ONE] = change
    with pytest.raises(DataError, match=rf"/api/records/{RECORD} is refused: .*{words}"):
        download(RECORD, tmp_path / "raw", pattern="*.zip", mirror=server.base)
    assert not server.asked


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"<html>", r"does not answer with a record \(JSON\): is it the right address\?"),
        (b"[" * 99_999, r"does not answer with a record"),
        (b"[]", r"does not list its files as a record of Zenodo does"),
        (b'{"files": {"enabled": true}}', r"does not list its files"),
        (b'{"files": []}', r"has no file 'Video_Speech_Actor_\*\.zip'; its 0 files are none"),
        (b'{"files": [{"key": "a.csv"}]}', r"has no file 'Video_Speech_Actor_\*\.zip'; its 1 files are a\.csv"),
    ],
)
def test_what_is_no_record(server: Server, record: bytes, words: str) -> None:
    server.record = record
    with pytest.raises(DataError, match=words):
        list_files(RECORD, mirror=server.base)


def test_wrong_arguments(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"a record of Zenodo is a number, such as 1188976, got '\.\./1'"):
        download("../1", tmp_path)
    for mirror in ("file:///srv", "example.org", ""):
        with pytest.raises(
            DataError, match=r"a mirror is the start of a web address, such as https://example\.org, got '"
        ):
            download(RECORD, tmp_path, mirror=mirror)
    with pytest.raises(DataError, match=r"/api/records/77 cannot be had: the server answered 404, nothing is there"):
        download("77", tmp_path, mirror=server.base)
    with pytest.raises(
        DataError, match=r"cannot be had: 3 tries failed, the last one because .*refused; run it again later"
    ):
        download(RECORD, tmp_path, mirror="http://127.0.0.1:9")
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"taken cannot be made: "):
        download(RECORD, tmp_path / "taken", mirror=server.base)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20_479))
    with pytest.raises(DataError, match=r"has 0\.0 GB free and 0\.0 GB are to come: make room"):
        download(RECORD, tmp_path, mirror=server.base)
    (tmp_path / f"{ONE}.part").write_bytes(BYTES[:1])  # one byte less is to come
    assert len(download(RECORD, tmp_path, mirror=server.base).fetched) == 2


def test_a_mirror_is_held_against_the_sums_that_are_known(server: Server, tmp_path: Path) -> None:
    server.files["Audio_Speech_Actors_01-24.zip"] = b"other"
    with pytest.raises(
        DataError, match=r"is refused: it says md5 \w{32} for Audio_Speech_Actors_01-24\.zip, which has bc69"
    ):
        download(RECORD, tmp_path, pattern="Audio_*", mirror=server.base)
    assert not server.asked
