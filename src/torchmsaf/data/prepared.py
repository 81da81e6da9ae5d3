"""Prepared clips on disk: every clip's arrays as training reads them, made once.

::

    ROOT/VERSION/parameters.json           format number, name of the set, parameters; written first
    ROOT/VERSION/clips/ID.safetensors      a clip: its arrays by name; its facts, stamp and checksum as metadata
    ROOT/VERSION/index.json                written last: format, set, version, parameters, made_by, clips, refused

VERSION has the sampling, the number and size of the frames, and eight hexadecimal digits of the sha256 over the format
number, the name of the set and all parameters. Other parameters make another folder, never a mix. A clip in ``index.json``
has ``id``, ``facts``, ``bytes`` (of its file), ``sha256`` (of its arrays: names, types, shapes and bytes, whatever the
facts) and ``arrays`` (name -> ``dtype`` and ``shape``). Clips are in natural order of their ids.

Every file appears whole or not at all, and a clip's file says all there is to say of the clip. A preparation that was
killed goes on, and several may write into one folder at a time: :mod:`torchmsaf.data.prepared_writer`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchmsaf.data.counted import counted
from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.data.shards import DTYPES, ID, SUFFIX, is_intact, read_array
from torchmsaf.errors import DataError

Json = dict[str, Any]

FORMAT = 1
AGAIN = "run the preparation again, it goes on where it was"
# what is read of index.json and of each of its clips
_INDEX = {"set": str, "version": str, "parameters": dict, "made_by": dict, "clips": list, "refused": list}
_CLIP = {"id": str, "facts": dict, "sha256": str, "bytes": int, "arrays": dict}


@dataclass(frozen=True)
class Entry:
    """A clip in the index.

    Attributes:
        id: its unique name.
        facts: what the preparation says of it.
        sha256: of its arrays.
        bytes: the size of its file.
        shapes: array name -> shape.
        dtypes: array name -> ``torch.uint8``, ``torch.float32``, …
    """

    id: str
    facts: Json
    sha256: str
    bytes: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Prepared clips, read when they are asked for. Processes and threads may share one.

    A pickle of it is small: it holds the folder's path, and the process that gets it opens the folder again.

    Attributes:
        path: the version's folder.
        set_name: what was prepared, e.g. ``"ravdess"``.
        version: the folder's name when it was made.
        parameters: of the preparation.
        made_by: package -> version, or None where it was not installed.
        entries: the clips in natural order of their ids.
        refused: what could not be prepared, with the reason.
    """

    path: Path
    set_name: str
    version: str
    parameters: Json
    made_by: Json
    entries: tuple[Entry, ...]
    refused: tuple[Json, ...]

    @classmethod
    def open(cls, root: str | Path) -> Prepared:
        """Open what was prepared. Sizes of files are checked, their content is not; see :meth:`verify`.

        Args:
            root: the folder that was prepared into, when it holds one version, those without clip and index not
                counted; or a version's folder.

        Raises:
            DataError: nothing is there, the preparation did not finish, there are several versions, the index cannot
                be used, or a clip's file is missing or of another size.
        """
        path = _find_version(Path(root))
        file = path / "index.json"
        prepared = _from_index(path, _read_index(file), file)
        wrong = [clip for clip in prepared.entries if _size(prepared._clip(clip.id)) != clip.bytes]
        if wrong:
            first, found = wrong[0], _size(prepared._clip(wrong[0].id))
            raise DataError(
                f"{prepared._clip(first.id)} {'is missing' if found is None else f'has {found} bytes'}, and its index "
                f"says {first.bytes} bytes ({len(wrong)} of {counted(len(prepared), 'clip')} so): delete what is wrong and "
                "run the preparation again"
            )
        return prepared

    def __len__(self) -> int:
        return len(self.entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 over the version, and the ids and checksums of the clips: of content, wherever it lies."""
        clips = [[clip.id, clip.sha256] for clip in self.entries]
        return hashlib.sha256(json.dumps([self.version, clips]).encode()).hexdigest()

    def read(self, row: int, name: str) -> Tensor:
        """One array of one clip.

        Args:
            row: of ``entries``.
            name: of the array, as ``"video"``.

        Returns:
            The tensor as it was written, e.g. ``(3, T, S, S)`` uint8 in [0, 255]. It lies in the file, mapped: nothing
            is copied, and what is written into the tensor does not reach the file.

        Raises:
            DataError: the clip has no such array, or its file is missing, damaged or another than the index says.
        """
        clip = self.entries[row]
        if name not in clip.shapes:
            raise DataError(f"{self._clip(clip.id)} has no array {name!r}; it has {', '.join(clip.shapes)}")
        tensor = read_array(self._clip(clip.id), name)
        if tuple(tensor.shape) != clip.shapes[name] or tensor.dtype != clip.dtypes[name]:
            raise DataError(
                f"{self._clip(clip.id)}: {name!r} is {tensor.dtype} {tuple(tensor.shape)}, and the index says "
                f"{clip.dtypes[name]} {clip.shapes[name]}: {AGAIN}"
            )
        return tensor

    def read_many(self, rows: Sequence[int], name: str, *, out: Tensor | None = None) -> Tensor:
        """One array of several clips, in memory of its own.

        Args:
            rows: of ``entries``, one or more, in any order.
            name: of the array.
            out: ``(n, ...)`` of any type, which the values are written into and take on the type of; None = a new
                tensor of their own type. Memory that is used again saves the system the giving of it, which takes
                longer than reading.

        Returns:
            ``(n, ...)``, the clips in the order of ``rows``; ``out`` when it was given.

        Raises:
            DataError: as :meth:`read`, or the arrays differ in shape or type among themselves, or in shape from ``out``.
        """
        first = self.read(rows[0], name)
        shape = (len(rows), *first.shape)
        batch = torch.empty(shape, dtype=first.dtype) if out is None else out
        if batch.shape != shape:
            raise DataError(f"{self.path}: out has shape {tuple(batch.shape)}; {shape} is needed for {name!r}")
        for place, row in zip(batch, rows, strict=True):
            tensor = self.read(row, name)
            if tensor.shape != first.shape or tensor.dtype != first.dtype:
                raise DataError(
                    f"{self.path}: {name!r} of {self.entries[row].id} is {tensor.dtype} {tuple(tensor.shape)}, and of "
                    f"{self.entries[rows[0]].id} {first.dtype} {tuple(first.shape)}; clips of a batch must agree"
                )
            place.copy_(tensor)
        return batch

    def verify(self) -> tuple[str, ...]:
        """Read everything; return the ids of the clips that cannot be read or whose checksum differs."""
        return tuple(clip.id for clip in self.entries if not is_intact(self._clip(clip.id), clip.sha256))

    def _clip(self, name: str) -> Path:
        return self.path / "clips" / f"{name}{SUFFIX}"


def _reopen(path: Path, fingerprint: str) -> Prepared:
    prepared = Prepared.open(path)
    if prepared.fingerprint != fingerprint:
        raise DataError(f"{path} was prepared anew while it was in use: start again")
    return prepared


def _find_version(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"{root} is not there or is no folder; the folder that was prepared into is needed")
    if (root / "parameters.json").exists() or (root / "index.json").exists():
        return root
    # a preparation that failed before its first clip leaves a folder that is of no use to anybody
    versions = natural_sorted(path.parent.name for path in root.glob("*/parameters.json") if _holds_any(path.parent))
    if not versions:
        raise DataError(f"{root} holds nothing prepared; the folder that was prepared into is needed")
    if len(versions) > 1:
        said = [name if (root / name / "index.json").exists() else f"{name} (interrupted)" for name in versions]
        raise DataError(f"{root} holds {len(versions)} versions, {', '.join(said)}: give the folder of one of them")
    return root / versions[0]


def _holds_any(version: Path) -> bool:
    return (version / "index.json").exists() or any((version / "clips").glob(f"*{SUFFIX}"))


def _read_index(file: Path) -> Json:
    if not file.exists():
        raise DataError(f"{file.parent} has no index.json, so its preparation was interrupted: {AGAIN}")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}): {AGAIN}") from error
    if not isinstance(index, dict) or "format" not in index:
        raise DataError(f"{file} is no index of prepared clips: it says no format: {AGAIN}")
    if index["format"] != FORMAT:
        raise DataError(
            f"{file} is of format {index['format']!r}, and this torchmsaf reads {FORMAT}: prepare into another folder, "
            "or use the torchmsaf that made it"
        )
    return index


def _from_index(path: Path, index: Json, file: Path) -> Prepared:
    _check(index, _INDEX, file, "")
    for number, clip in enumerate(index["clips"]):
        _check(clip, _CLIP, file, f"clips[{number}].")
        if not ID.fullmatch(clip["id"]):
            raise DataError(f"{file}: clips[{number}].id is {clip['id']!r}, which is no clip's: {AGAIN}")
    try:
        entries = tuple(_entry(clip) for clip in index["clips"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: the arrays of a clip are damaged ({error!r}): {AGAIN}") from error
    return Prepared(
        path=path,
        set_name=index["set"],
        version=index["version"],
        parameters=index["parameters"],
        made_by=index["made_by"],
        entries=entries,
        refused=tuple(index["refused"]),
    )


def _entry(clip: Json) -> Entry:
    arrays = clip["arrays"]
    shapes = {name: tuple(int(size) for size in array["shape"]) for name, array in arrays.items()}
    dtypes = {name: DTYPES[array["dtype"]] for name, array in arrays.items()}
    return Entry(clip["id"], clip["facts"], clip["sha256"], clip["bytes"], shapes, dtypes)


def _check(value: Any, needed: Mapping[str, type], file: Path, where: str) -> None:
    for field, kind in needed.items():
        if not isinstance(value, dict) or field not in value:
            raise DataError(f"{file} lacks {where}{field}: {AGAIN}")
        if not isinstance(value[field], kind):
            raise DataError(f"{file}: {where}{field} is {value[field]!r:.60}; a {kind.__name__} is needed: {AGAIN}")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
