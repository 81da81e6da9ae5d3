"""All rows of one array of prepared clips end to end, in one file that processes share."""

# C channels

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchmsaf.data.prepared import Prepared
from torchmsaf.data.whole_files import whole_file

FOLDER = "joined"  # in the version's folder; may be deleted, it is made again


def joined(prepared: Prepared, name: str) -> Tensor:
    """One array ``(steps, C)`` of all clips, ``(total steps, C)`` float32, in the order of the clips.

    It is written once, beside the clips, and mapped: what several processes read of it is in memory once. A folder that
    cannot be written is no obstacle; every process then has the values in its own memory. What is written into the tensor
    does not reach the file.

    Args:
        prepared: the clips; the array has the same number of channels in all.
        name: of the array.

    Raises:
        DataError: a clip cannot be read.
    """
    path = prepared.path / FOLDER / f"{name}-{prepared.fingerprint[:16]}.npy"
    shapes = [entry.shapes[name] for entry in prepared.entries]
    whole = (sum(shape[0] for shape in shapes), shapes[0][1])
    found = _mapped(path, whole)
    if found is None:
        try:
            with (
                whole_file(path) as part,
                part.open("wb") as file,
            ):  # written and not mapped: a full disk is an error then
                header = {"descr": "<f4", "fortran_order": False, "shape": whole}
                np.lib.format.write_array_header_1_0(file, header)
                for values in _each(prepared, name):
                    file.write(values.data)
            found = _mapped(path, whole)
            _forget_others(path, name)
        except OSError:
            found = None
    if found is None:
        found, start = np.empty(whole, np.float32), 0
        for values in _each(prepared, name):
            found[start : start + len(values)] = values
            start += len(values)
    return torch.from_numpy(found)


def _mapped(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    with suppress(OSError, ValueError):
        values: NDArray[np.float32] = np.load(path, mmap_mode="c")
        if values.shape == shape and values.dtype == np.float32:
            return values
    return None


def _each(prepared: Prepared, name: str) -> Iterator[NDArray[np.float32]]:
    for row in range(len(prepared)):
        yield np.ascontiguousarray(prepared.read(row, name).numpy(), dtype=np.float32)


def _forget_others(path: Path, name: str) -> None:
    """Delete what was joined of clips that were prepared anew since."""
    for other in path.parent.glob(f"{name}-*.npy"):
        if other != path:
            with suppress(OSError):
                other.unlink()
