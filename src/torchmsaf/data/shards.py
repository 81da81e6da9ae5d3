"""One clip on disk: its arrays by name and its facts in one safetensors file, which appears whole or not at all.

What belongs to the clip is in the file's own metadata, as JSON under ``torchmsaf.clip``: ``facts`` (what the preparation
says of the clip), ``stamp`` (of the sources that it was made of) and ``sha256`` (of the arrays).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchmsaf.data.whole_files import whole_file
from torchmsaf.errors import DataError, require

Json = dict[str, Any]

SUFFIX = ".safetensors"
ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # a clip's name, which is its file's
_ABOUT = "torchmsaf.clip"
_NAMES = {"U8": "uint8", "I16": "int16", "I32": "int32", "I64": "int64", "F32": "float32"}  # safetensors', NumPy's
# what clips are made of, NumPy's name -> torch's type
DTYPES = {name: getattr(torch, name) for name in _NAMES.values()}


@dataclass(frozen=True)
class Shard:
    """What a clip's file says of itself.

    Attributes:
        facts: what the preparation says of the clip.
        stamp: of the sources that it was made of.
        sha256: of the arrays: names, types, shapes and bytes.
        bytes: the size of the file.
        shapes: array name -> shape.
        dtypes: array name -> ``"uint8"``, ``"float32"``, …
    """

    facts: Json
    stamp: str
    sha256: str
    bytes: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]


def write_shard(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    stamp: str,
    *,
    before_change: Callable[[], object] = lambda: None,
) -> None:
    """Write a clip's file: beside it first, then in its place. Any number of processes may do so at once.

    The same arrays, facts and stamp give the same bytes.

    Args:
        path: of the file.
        arrays: by name, each with one axis or more: uint8, int16, int32, int64 or finite float32.
        facts: plain JSON values.
        stamp: of the sources.
        before_change: is called before a file that says otherwise gives way to this one.

    Raises:
        DataError: an array is of another kind, or the file cannot be written.
        MissingDependencyError: safetensors is not installed.
    """
    safetensors = require("safetensors.numpy", "video")
    whole = {name: _checked(path, name, arrays[name]) for name in sorted(arrays)}
    if not whole:
        raise DataError(f"{path} has no arrays; at least one is needed")
    about = {"facts": dict(facts), "stamp": stamp, "sha256": content_sha256(whole)}
    metadata = {_ABOUT: json.dumps(about, sort_keys=True, allow_nan=False)}
    try:
        with whole_file(path) as part:
            # not save_file, whose files others on a shared disk cannot read
            part.write_bytes(safetensors.save(whole, metadata=metadata))
            if path.exists() and not _says(path, metadata[_ABOUT]):
                before_change()
    except (OSError, require("safetensors", "video").SafetensorError) as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def read_shard(path: Path) -> Shard:
    """Read what a clip's file says of itself, and no array.

    Raises:
        DataError: the file is missing, cut off, damaged, or no clip.
    """
    try:
        with _open(path) as file:
            about = json.loads((file.metadata() or {})[_ABOUT])
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: _NAMES[part.get_dtype()] for name, part in slices.items()}
        stamp, sha256 = about["stamp"], about["sha256"]
        return Shard(dict(about["facts"]), str(stamp), str(sha256), path.stat().st_size, shapes, dtypes)
    except _broken(KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def read_array(path: Path, name: str) -> Tensor:
    """Read one array of a clip's file. The tensor lies in the file, mapped: pages are read when they are touched.

    What is written into the tensor stays in memory and does not reach the file. Its bytes are not checked against the
    checksum; :func:`is_intact` does that.

    Raises:
        DataError: the file is missing, cut off or damaged, or has no such array.
    """
    try:
        with _open(path) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except _broken() as error:
        raise _damaged(path, error) from error


def is_intact(path: Path, sha256: str) -> bool:
    """Whether a clip's file can be read and its arrays have this checksum."""
    try:
        arrays = {name: read_array(path, name).numpy() for name in sorted(read_shard(path).shapes)}
    except DataError:
        return False
    return content_sha256(arrays) == sha256


def content_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The sha256 over names, types, shapes and bytes of arrays, contiguous and in the order given."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b"\n")
        digest.update(array.data)
    return digest.hexdigest()


def _checked(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    label = f"{path}: array {name!r}"
    if array.dtype.name not in DTYPES or array.size == 0 or array.ndim == 0:
        raise DataError(
            f"{label} is {array.dtype} of shape {array.shape}; {', '.join(DTYPES)} with an axis or more "
            "and no size 0 is needed"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{label} has NaN or infinite values; finite ones are needed")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _says(path: Path, about: str) -> bool:
    try:
        with _open(path) as file:
            return bool((file.metadata() or {}).get(_ABOUT) == about)
    except _broken():
        return False


def _open(path: Path) -> Any:
    # str: the oldest supported safetensors takes no other path
    return require("safetensors", "video").safe_open(str(path), framework="pt")


def _broken(*more: type[Exception]) -> tuple[type[Exception], ...]:
    return OSError, require("safetensors", "video").SafetensorError, *more


def _damaged(path: Path, error: Exception) -> DataError:
    if not path.is_file():
        return DataError(f"{path} is missing: run the preparation again, it makes what is not there")
    return DataError(f"{path} is cut off or damaged ({error}): delete it and run the preparation again")
