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

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from torch import Tensor

from torchmsaf.analysis.published_actions import build_published_actions
from torchmsaf.analysis.published_tables import Published, build_published
from torchmsaf.analysis.references import row_made_by
from torchmsaf.analysis.report import render_html, render_markdown, render_text
from torchmsaf.analysis.robustness import Robustness, build_robustness
from torchmsaf.analysis.table import Part, Table, build_table, label
from torchmsaf.analysis.training_notes import note_on_divergence, notes_on_training
from torchmsaf.data.ntu import FIRST_ACTIONS
from torchmsaf.data.whole_files import whole_file
from torchmsaf.errors import FusionInputError, ResultError, require
from torchmsaf.experiments.methods import parse_method
from torchmsaf.experiments.plain_data import difference, is_same, what_is_wrong, without_nan
from torchmsaf.tasks.model_file import ModelSpec, model_bytes

Json = dict[str, Any]

_UNIT = re.compile(r"fold-([0-9]+)\.seed-([0-9]+)\.jsonl")
# what is read of config.json, of each line of the metrics, and of those lines that are in the table
_CONFIG = {
    "title": str,
    "protocol": {"description": str, "citation": str | None, "folds": int},
    "objective": {"score": str, "higher_is_better": bool},
    "seeds": list,
    "starts": list,
}
_RECORD = {
    "key": str,
    "fold": int,
    "seed": int,
    "method": str,
    "stage": str,
    "modality": str | None,
    "validation": dict,
    "diverged": bool,
    "train_size": int,
    "weights": str,
}
_TABLED = {**_RECORD, "test": dict, "test_size": int, "validation_size": int}


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
        try:
            config = json.loads(json.dumps(config))  # as it will be read again: tuples are lists
        except TypeError as error:
            raise ResultError(f"the configuration holds more than plain data: {error}") from error
        try:
            folder._open(config, splits, versions, resume)
        except OSError as error:
            raise ResultError(f"{folder.path} cannot be written: {error}; choose another --out") from error
        return folder

    def _open(self, config: Json, splits: Json, versions: Json, resume: bool) -> None:
        file, starts = self.path / "config.json", []
        if file.exists():
            if not resume:
                raise ResultError(
                    f"{self.path} has results already: add --resume to go on with them, or choose another --out"
                )
            old = self.config()
            self._check_same(old, config, splits)
            self.records()  # a line that cannot be read is found before any training
            starts = old["starts"]
        elif self.path.exists() and not self._is_unborn():
            raise ResultError(f"{self.path} is not empty and is no result folder: choose another --out")
        (self.path / "metrics").mkdir(parents=True, exist_ok=True)
        (self.path / "weights").mkdir(exist_ok=True)
        _write(self.path / "splits.json", json.dumps(splits))
        _write(file, json.dumps({**config, "starts": [*starts, versions]}, indent=1))

    def _is_unborn(self) -> bool:
        """Empty, or what a process leaves that was killed while it made the folder."""
        ours = {"metrics", "weights", "splits.json"}
        names = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".part")}
        return not names or (names <= ours and not any((self.path / "metrics").iterdir()))

    def _check_same(self, old: Json, config: Json, splits: Json) -> None:
        changed = [
            f"{key}{difference(old.get(key), config.get(key))}"
            for key in sorted({*old, *config} - {"starts", "tuning"})
            if not is_same(old.get(key), config.get(key))
        ]
        file = self.path / "splits.json"
        if not changed and file.exists() and _read(file) != splits:
            changed = ["the ids of the folds, as another --split-seed makes them"]
        if changed:
            raise ResultError(
                f"{self.path} holds another comparison ({'; '.join(changed)}): use the same arguments, or another --out"
            )

    def config(self) -> Json:
        """The configuration.

        Raises:
            ResultError: the folder is no result folder, or its configuration is broken.
        """
        file = self.path / "config.json"
        if not file.is_file():
            raise ResultError(f"{self.path} is no result folder: there is no config.json")
        config: Json = _read(file)
        wrong = what_is_wrong(config, _CONFIG)
        if wrong is not None:
            raise ResultError(f"{file} is no configuration of a comparison: {wrong}")
        return config

    def records(self) -> list[Json]:
        """All lines of all metrics files, in the order of folds and seeds; a cut last line is left out."""
        return [record for file in self._files() for record in _read_lines(file)]

    def count(self) -> int:
        """Number of trained networks on record."""
        return sum(file.read_bytes().count(b"\n") for file in self._files())

    def _files(self) -> list[Path]:
        """The metrics files, in the order of folds and seeds; files of other names are not ours."""
        files = [file for file in (self.path / "metrics").glob("fold-*.seed-*.jsonl") if _UNIT.fullmatch(file.name)]
        return sorted(files, key=_fold_and_seed)

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
        try:
            tensors: dict[str, Tensor] = require("safetensors.torch", "compare").load_file(path)
        except require("safetensors", "compare").SafetensorError as error:
            raise ResultError(f"{path} is broken ({error}): put it back, or use another --out") from error
        return tensors

    def save(self, key: str, record: Json, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
        """Write weights, with what network they are of, then the record that names them."""
        relative = f"weights/{self.name}/{_file_name(key)}.safetensors"
        path = self.folder.path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, model_bytes(state, spec))
        record = {"key": key, **record, "weights": relative}
        self.file.write(json.dumps(without_nan(record), allow_nan=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.done[key] = record


def make_table(folder: ResultFolder, *, reference: str | None = None, part: Part = "test") -> Table:
    """The table of what is on record.

    Args:
        folder: with the records.
        reference: the row that differences are to, by its name, or as ``--methods`` takes it; default: the best unimodal
            network by validation.
        part: the samples that scores are of.

    Raises:
        ResultError: nothing is on record; there is no such row, or there are several.
    """
    told = _told(folder)
    table = build_table(**told, reference=_row_name(told["records"], reference), part=part)
    further = [*notes_on_training(folder.config()), *note_on_divergence(folder.records())]
    return replace(table, notes=(*table.notes, *further))


def _row_name(records: Sequence[Json], asked: str | None) -> str | None:
    """The name of the row that is asked for; what is asked where it is the name of none."""
    if asked is None or asked in map(label, records):
        return asked
    try:
        choice = parse_method(asked)
    except FusionInputError:
        return asked
    return row_made_by(records, choice.name, choice.options) or asked


def make_robustness(folder: ResultFolder) -> Robustness | None:
    """The table of scores with noise and without modalities; None where no noise was asked for.

    Args:
        folder: with the records.

    Raises:
        ResultError: nothing is on record.
    """
    robustness = build_robustness(**_told(folder))
    return robustness if robustness is not None and robustness.levels else None


def make_published(folder: ResultFolder, table: Table) -> Published | None:
    """The numbers that the MSAF paper prints for the same data set, beside a table of test scores; None = it has none."""
    config = folder.config()
    about = config.get("about") or {}
    if about.get("made_up"):
        return None
    if about.get("task") == "action" and about.get("protocol") in ("cross-subject", "published"):
        whole = len(config["data"]["classes"]) == FIRST_ACTIONS
        return build_published_actions(table, video=about["rgb"]) if whole else None
    return build_published(table) if about.get("set") == "mosei" else None


def _told(folder: ResultFolder) -> dict[str, Any]:
    """What both tables are made of."""
    config = folder.config()
    records = [record for record in folder.records() if record["stage"] != "start"]
    if not records:
        raise ResultError(f"{folder.path} holds no finished method yet: go on with --resume")
    protocol = config["protocol"]
    return {
        "records": records,
        "title": config["title"],
        "protocol": protocol["description"] + (f" ({protocol['citation']})" if protocol["citation"] else ""),
        "score": config["objective"]["score"],
        "higher_is_better": config["objective"]["higher_is_better"],
        "expected_runs": protocol["folds"] * len(config["seeds"]),
        "chosen_on_test": bool(protocol.get("chosen_on_test")),
    }


def write_tables(folder: ResultFolder) -> Table:
    """Build the tables of test scores, with the reference by default, and write them as text, Markdown and HTML."""
    table, robustness = make_table(folder), make_robustness(folder)
    published = make_published(folder, table)
    _write(folder.path / "table.txt", render_text(table, robustness=robustness, published=published))
    _write(folder.path / "table.md", render_markdown(table, robustness=robustness, published=published))
    _write(folder.path / "table.html", render_html(table, robustness=robustness, published=published))
    return table


def _write(path: Path, content: str | bytes) -> None:
    with whole_file(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read ({error}): put it back, or use another --out") from error


def _read_lines(path: Path) -> list[Json]:
    records = []
    content = path.read_bytes()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ResultError(f"{path}, line {number} cannot be read: {error}") from error
        wrong = what_is_wrong(record, _RECORD)
        if wrong is None and record["stage"] != "start":
            wrong = what_is_wrong(record, _TABLED)
        if wrong is not None:
            raise ResultError(f"{path}, line {number} is no record of a training: {wrong}")
        records.append(record)
    return records


def _file_name(key: str) -> str:
    """A name that every file system takes, unlike for unlike keys: what users named may hold anything."""
    name = quote(key, safe=" ,=+")
    return name if len(name) <= 150 else f"{name[:100]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _fold_and_seed(path: Path) -> tuple[int, ...]:
    match = _UNIT.fullmatch(path.name)
    return tuple(map(int, match.groups())) if match else ()


def _lock(file: IO[bytes]) -> None:
    """Wait until no other process works on this fold and seed. The lock goes with the process; Windows has none."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)
