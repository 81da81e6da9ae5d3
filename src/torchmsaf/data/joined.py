"""All rows of one array of prepared clips end to end, in one file that processes share."""

# C channels

from __future__ import annotations

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
            with whole_file(path) as part:
                target = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=whole)
                _fill(target, prepared, name)
                target.flush()
                del target
            found = _mapped(path, whole)
            _forget_others(path, name)
        except OSError:
            found = None
    if found is None:
        found = np.empty(whole, np.float32)
        _fill(found, prepared, name)
    return torch.from_numpy(found)


def _mapped(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    with suppress(OSError, ValueError):
        values: NDArray[np.float32] = np.load(path, mmap_mode="c")
        if values.shape == shape and values.dtype == np.float32:
            return values
    return None


def _fill(target: NDArray[np.float32], prepared: Prepared, name: str) -> None:
    start = 0
    for row in range(len(prepared)):
        values = prepared.read(row, name).numpy()
        target[start : start + len(values)] = values
        start += len(values)


def _forget_others(path: Path, name: str) -> None:
    """Delete what was joined of clips that were prepared anew since."""
    for other in path.parent.glob(f"{name}-*.npy"):
        if other != path:
            with suppress(OSError):
                other.unlink()
