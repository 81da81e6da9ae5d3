"""Arrays on disk: .npz, .safetensors and folders of .npy, by key, and never a pickle."""

from __future__ import annotations

import difflib
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.errors import DataError, require

PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")
READABLE = "a .npz file, a .safetensors file or a folder of .npy files"
# what zipfile and numpy raise on broken bytes: MemoryError when a header asks for an absurd size
BROKEN = (
    ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError,
    MemoryError, OverflowError, TypeError, SyntaxError, KeyError, IndexError, tokenize.TokenError,
)  # fmt: skip


@dataclass(frozen=True)
class ArrayFile:
    """Arrays by key. Nothing is read before it is asked for.

    Attributes:
        path: the file or folder, for messages.
        keys: the keys in the order of the file.
        reader: reads the array of one of the keys.
    """

    path: Path
    keys: tuple[str, ...]
    reader: Callable[[str], NDArray[Any]]

    def read(self, key: str, role: str) -> NDArray[Any]:
        """The array under a key.

        Args:
            key: one of ``keys``.
            role: what the array is needed as (``"target"``, ``"modality"``), for the message.

        Raises:
            DataError: there is no such key, or its array cannot be read.
        """
        if key not in self.keys:
            raise DataError(
                f"{self.path} has no {role} {key!r}{closest(key, self.keys)}; its keys are {', '.join(self.keys)}"
            )
        return self.reader(key)


def open_arrays(path: str | Path) -> ArrayFile:
    """Open a file or folder of arrays.

    Args:
        path: a ``.npz`` file (keys in the file's order), a ``.safetensors`` file or a folder of ``.npy`` files (keys
            in alphabetical order; a safetensors file does not keep the order it was written in).

    Raises:
        DataError: nothing is there, it is broken, it holds no arrays, or its format is a pickle.
    """
    path = Path(path)
    if path.is_dir():
        file = _open_folder(path)
    elif not path.is_file():
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path} does not exist{closest(path.name, names)}; {READABLE} is needed")
    elif path.suffix.lower() == ".npz":
        file = _open_npz(path)
    elif path.suffix.lower() == ".safetensors":
        file = _open_safetensors(path)
    elif path.suffix.lower() in PICKLE_SUFFIXES:
        raise DataError(f"{path} is refused: {path.suffix} files are pickles, which can run code; save {READABLE}")
    else:
        raise DataError(f"{path} cannot be read: the suffix is {path.suffix!r}; {READABLE} is needed")
    if not file.keys:
        raise DataError(f"{path} holds no arrays; {READABLE} is needed")
    return file


def closest(name: str, names: Sequence[str]) -> str:
    """The end of a message that suggests the most similar names, or nothing."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(other) for other in near)}?)" if near else ""


def _open_folder(path: Path) -> ArrayFile:
    def read(key: str) -> NDArray[Any]:
        file = path / f"{key}.npy"
        try:
            with file.open("rb") as stream:
                return _read_npy(stream, str(file))
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}") from error

    return ArrayFile(path, tuple(sorted(file.stem for file in path.glob("*.npy"))), read)


def _open_npz(path: Path) -> ArrayFile:
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
    except BROKEN as error:
        raise DataError(f"{path} is truncated or no npz file: {error}") from error

    def read(key: str) -> NDArray[Any]:
        label = f"{path}, key {key!r}"
        if not members[key].endswith(".npy"):
            raise DataError(f"{label}: the member {members[key]!r} is refused: it is no .npy array")
        try:
            with path.open("rb") as raw, zipfile.ZipFile(raw) as archive, archive.open(members[key]) as stream:
                return _read_npy(stream, label)
        except DataError:
            raise
        except BROKEN as error:
            raise DataError(f"{label} is truncated or corrupt: {error}") from error

    return ArrayFile(path, tuple(members), read)


def _read_npy(stream: IO[bytes], label: str) -> NDArray[Any]:
    head = stream.read(2)
    stream.seek(0)
    if head[:1] == b"\x80" and b"\x00" < head[1:] < b"\x10":
        raise DataError(f"{label} is refused: its bytes are a pickle, which can run code; save a plain numeric array")
    try:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        rest = len(stream.read(1))  # at the end zipfile checks its checksum
    except BROKEN as error:
        if "bject arrays" in str(error):
            raise DataError(
                f"{label} is refused: an object array is a pickle, which can run code; "
                "save it as numbers or fixed-width strings, or name the modalities so that it is not read"
            ) from error
        raise DataError(f"{label} is truncated or corrupt: {error}") from error
    if rest:
        raise DataError(f"{label} is corrupt: more bytes follow the array than its header says")
    return array


def _open_safetensors(path: Path) -> ArrayFile:
    safetensors = require("safetensors", "compare")
    broken = (safetensors.SafetensorError, *BROKEN)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            keys = tuple(sorted(file.keys()))
    except broken as error:
        raise DataError(f"{path} is truncated or no safetensors file: {error}") from error

    def read(key: str) -> NDArray[Any]:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(key)
        except broken as error:
            raise DataError(f"{path}, key {key!r} is truncated or corrupt: {error}") from error
        if tensor.is_floating_point() and tensor.itemsize < 4:
            tensor = tensor.float()  # NumPy has no bfloat16
        array: NDArray[Any] = np.array(tensor.numpy())  # a copy: the tensor may lie in the mapped file
        return array

    return ArrayFile(path, keys, read)
