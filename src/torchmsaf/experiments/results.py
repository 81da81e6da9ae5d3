"""The result folder: configuration, splits, metrics, weights and tables.

::

    config.json                              what was run, on what, with which versions
    splits.json                              the ids of every fold's train, validation and test part
    metrics/fold-F.seed-S.jsonl              one line a trained network
    weights/fold-F.seed-S/<name>.safetensors
    table.txt  table.md  table.html          rebuilt from the above by ``torchmsaf table FOLDER``

Every file appears whole or not at all, but for the last line of a metrics file, which is dropped when it was cut.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from torchmsaf.analysis.report import render_html, render_markdown, render_text
from torchmsaf.analysis.table import Table, build_table
from torchmsaf.errors import ResultError, require

Json = dict[str, Any]


class ResultFolder:
    """A comparison's folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: Json, splits: Json, versions: Json, *, resume: bool) -> ResultFolder:
        """Make a folder, or open one to go on with it.

        Args:
            path: the folder; it is made with its parents.
            config: what decides the results; a resumed run must have the same.
            splits: fold -> part -> ids.
            versions: of the software; noted for each start.
            resume: go on with an interrupted comparison, or start when there is none.

        Raises:
            ResultError: the folder has results and ``resume`` is False; or it has those of another comparison.
        """
        folder = cls(path)
        file = folder.path / "config.json"
        if file.exists():
            if not resume:
                raise ResultError(
                    f"{folder.path} has results already: add --resume to go on with them, or choose another --out"
                )
            old = folder.config()
            changed = [key for key in sorted({*old, *config} - {"starts"}) if old.get(key) != config.get(key)]
            if changed:
                told = "; ".join(
                    f"{key}: {_short(old.get(key))} there, {_short(config.get(key))} now" for key in changed
                )
                raise ResultError(
                    f"{folder.path} holds another comparison ({told}): use the same arguments, or another --out"
                )
            _write(file, json.dumps({**old, "starts": [*old["starts"], versions]}, indent=1))
            return folder
        if folder.path.exists() and any(folder.path.iterdir()):
            raise ResultError(f"{folder.path} is not empty and is no result folder: choose another --out")
        (folder.path / "metrics").mkdir(parents=True)
        (folder.path / "weights").mkdir()
        _write(folder.path / "splits.json", json.dumps(splits))
        _write(file, json.dumps({**config, "starts": [versions]}, indent=1))
        return folder

    def config(self) -> Json:
        """The configuration.

        Raises:
            ResultError: the folder is no result folder.
        """
        file = self.path / "config.json"
        if not file.is_file():
            raise ResultError(f"{self.path} is no result folder: there is no config.json")
        try:
            config: Json = json.loads(file.read_text())
        except ValueError as error:
            raise ResultError(f"{file} cannot be read: {error}") from error
        return config

    def records(self) -> list[Json]:
        """All lines of all metrics files, in the order of folds and seeds; a cut last line is left out."""
        files = sorted((self.path / "metrics").glob("fold-*.seed-*.jsonl"), key=_fold_and_seed)
        return [record for file in files for record in _read_lines(file)]

    def count(self) -> int:
        """Number of trained networks on record."""
        return sum(file.read_bytes().count(b"\n") for file in (self.path / "metrics").glob("*.jsonl"))

    @contextmanager
    def unit(self, fold: int, seed: int) -> Iterator[UnitFile]:
        """The metrics of one fold and seed, open for one process at a time."""
        with (self.path / "metrics" / f"fold-{fold}.seed-{seed}.jsonl").open("a+b") as file:
            _lock(file)
            yield UnitFile(self, file, f"fold-{fold}.seed-{seed}")


class UnitFile:
    """The records and weights of one fold and seed."""

    def __init__(self, folder: ResultFolder, file: IO[bytes], name: str) -> None:
        self.folder, self.file, self.name = folder, file, name
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)  # a line that was cut when the process was killed
        self.done = {record["key"]: record for record in _read_lines(Path(file.name))}

    def weights(self, key: str) -> dict[str, Tensor] | None:
        """Weights on record; None when the network is to be trained."""
        if key not in self.done:
            return None
        path = self.folder.path / self.done[key]["weights"]
        if not path.is_file():
            raise ResultError(f"{path} is missing though its metrics are there: put it back, or use another --out")
        tensors: dict[str, Tensor] = require("safetensors.torch", "compare").load_file(path)
        return tensors

    def save(self, key: str, record: Json, state: Mapping[str, Tensor]) -> None:
        """Write weights, then the record that names them."""
        relative = f"weights/{self.name}/{key}.safetensors"
        path = self.folder.path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().contiguous().clone() for name, value in state.items()}
        _write(path, require("safetensors.torch", "compare").save(tensors))
        record = {"key": key, **record, "weights": relative}
        self.file.write(json.dumps(record).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.done[key] = record


def make_table(folder: ResultFolder) -> Table:
    """The table of what is on record.

    Raises:
        ResultError: nothing is.
    """
    config = folder.config()
    records = [record for record in folder.records() if record["stage"] != "start"]
    if not records:
        raise ResultError(f"{folder.path} holds no finished method yet: go on with --resume")
    protocol = config["protocol"]
    caption = protocol["description"] + (f" ({protocol['citation']})" if protocol["citation"] else "")
    return build_table(
        records,
        title=config["title"],
        protocol=caption,
        score=config["objective"]["score"],
        higher_is_better=config["objective"]["higher_is_better"],
        expected_runs=protocol["folds"] * len(config["seeds"]),
    )


def write_tables(folder: ResultFolder) -> Table:
    """Build the table and write it as text, Markdown and HTML."""
    table = make_table(folder)
    _write(folder.path / "table.txt", render_text(table) + "\n")
    _write(folder.path / "table.md", render_markdown(table) + "\n")
    _write(folder.path / "table.html", render_html(table))
    return table


def _write(path: Path, content: str | bytes) -> None:
    """Write a file whole: beside it first, then in its place."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    beside.replace(path)


def _read_lines(path: Path) -> list[Json]:
    records = []
    content = path.read_bytes()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ResultError(f"{path}, line {number} cannot be read: {error}") from error
    return records


def _fold_and_seed(path: Path) -> tuple[int, int]:
    fold, seed = path.stem.split(".")
    return int(fold.removeprefix("fold-")), int(seed.removeprefix("seed-"))


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _lock(file: IO[bytes]) -> None:
    """Wait until no other process works on this fold and seed. The lock goes with the process; Windows has none."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)
