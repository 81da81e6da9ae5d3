"""Making prepared clips: a folder that any number of processes may write into, and that goes on after a kill.

The format is that of :mod:`torchmsaf.data.prepared`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.data.prepared import AGAIN, FORMAT, Prepared
from torchmsaf.data.shards import ID, SUFFIX, Shard, read_shard, write_shard
from torchmsaf.data.whole_files import PART, whole_file
from torchmsaf.errors import DataError

Json = dict[str, Any]

_MADE_BY = ("torchmsaf", "torch", "av", "numpy", "safetensors", "opencv-python-headless")
_STALE = 3600.0  # seconds after which a half-written file is no one's


class PreparedWriter:
    """Writes prepared clips. It may be pickled, and every process may write.

    Args:
        root: where version folders are made; it is made with its parents.
        set_name: what is prepared, e.g. ``"ravdess"``.
        parameters: all that decides the arrays; plain JSON values.

    Attributes:
        path: the version's folder, in ``root``.
        set_name: as given.
        parameters: as JSON gives them back.

    Raises:
        DataError: ``root`` is a version's folder itself, or cannot be written.
    """

    def __init__(self, root: str | Path, set_name: str, parameters: Mapping[str, Any]) -> None:
        self.set_name = set_name
        self.parameters: Json = json.loads(json.dumps(dict(parameters), allow_nan=False))
        self.path = Path(root) / version_name(set_name, self.parameters)
        if (Path(root) / "parameters.json").exists():
            raise DataError(f"{root} is itself a version of prepared clips: give the folder that it lies in")
        about = {"format": FORMAT, "set": set_name, "parameters": self.parameters}
        try:
            (self.path / "clips").mkdir(parents=True, exist_ok=True)
            _write_json(self.path / "parameters.json", about)
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error}; choose another folder") from error

    def stamps(self) -> dict[str, str]:
        """The stamp of the sources of every clip that is there; a clip whose file is damaged counts as not there."""
        return {name: shard.stamp for name, shard in self._shards().items()}

    def write(self, id: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any], stamp: str = "") -> None:
        """Write a clip, whole or not at all, or over an earlier one.

        Args:
            id: of letters, digits, ``_``, ``-`` and ``.``.
            arrays: by name: uint8, int16, int32, int64 or finite float32, of any shape.
            facts: what is to be known of the clip; plain JSON values.
            stamp: says which sources it was made of; :meth:`stamps` gives it back.

        Raises:
            DataError: the id or an array is of another kind, or the file cannot be written.
            MissingDependencyError: safetensors is not installed.
        """
        if not ID.fullmatch(id):
            raise DataError(f"{id!r} cannot be the id of a clip; letters, digits, '_', '-' and '.' are needed")
        path = self.path / "clips" / f"{id}{SUFFIX}"
        index = self.path / "index.json"  # of the earlier file it would be wrong
        write_shard(path, arrays, facts, stamp, before_change=lambda: index.unlink(missing_ok=True))

    def forget_index(self) -> None:
        """Take the index away until :meth:`finish` writes another.

        Raises:
            DataError: the folder cannot be written.
        """
        try:
            (self.path / "index.json").unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error}; choose another folder") from error

    def finish(self, refused: Iterable[Mapping[str, Any]] = (), *, ids: Iterable[str] | None = None) -> Prepared:
        """Write the index. Nothing but the heads of the files is read.

        Args:
            refused: what could not be prepared; plain JSON values, such as the name, the place and the reason.
            ids: the clips that belong to the set; None = all that are there.

        Returns:
            What was prepared, opened.

        Raises:
            DataError: one of ``ids`` is not there or damaged, or the index cannot be written.
        """
        shards = self._shards()
        wanted = natural_sorted(shards if ids is None else ids)
        missing = [name for name in wanted if name not in shards]
        if missing:
            raise DataError(
                f"{self.path} lacks {len(missing)} of {counted(len(wanted), 'clip')}, the first {missing[0]}: {AGAIN}"
            )
        index = {
            "format": FORMAT,
            "set": self.set_name,
            "version": self.path.name,
            "parameters": self.parameters,
            "made_by": {package: _version(package) for package in _MADE_BY},
            "clips": [_to_json(name, shards[name]) for name in wanted],
            "refused": [dict(one) for one in refused],
        }
        try:
            _write_json(self.path / "index.json", index)
        except OSError as error:
            raise DataError(f"{self.path / 'index.json'} cannot be written: {error}") from error
        self._sweep()
        return Prepared.open(self.path)

    def _shards(self) -> dict[str, Shard]:
        found = {}
        for path in (self.path / "clips").glob(f"*{SUFFIX}"):
            with suppress(DataError):
                found[path.name.removesuffix(SUFFIX)] = read_shard(path)
        return found

    def _sweep(self) -> None:
        """Remove what killed processes left half-written, and nothing that a living one may be writing."""
        for path in [*self.path.glob(f"*{PART}"), *(self.path / "clips").glob(f"*{PART}")]:
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()


def version_name(set_name: str, parameters: Mapping[str, Any]) -> str:
    """The name of a version's folder: what a person asks first, and a checksum over everything."""
    said = json.dumps([FORMAT, set_name, parameters], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(said.encode()).hexdigest()[:8]
    if {"sampling", "frames", "size"} <= set(parameters):
        return f"{parameters['sampling']}-{parameters['frames']}x{parameters['size']}-{digest}"
    slug = re.sub(r"[^a-z0-9]+", "-", set_name.lower()).strip("-")
    return f"{slug}-{digest}" if slug else digest


def _to_json(name: str, shard: Shard) -> Json:
    arrays = {key: {"dtype": shard.dtypes[key], "shape": list(shard.shapes[key])} for key in sorted(shard.shapes)}
    return {"id": name, "facts": shard.facts, "bytes": shard.bytes, "sha256": shard.sha256, "arrays": arrays}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write_json(path: Path, value: Json) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
