"""Pickles as data: read_pickle, which imports nothing and calls nothing that a file names.

A pickle is a small program. Python's own reader imports what the program names and calls it, and so runs whatever a
stranger put into the file. This reader is another one: it knows the steps that put data together, and the few names
that NumPy, Python 2 and Python's own containers need, each with its own code (``names.py``). Any other name or
step ends it (``steps.py``).

What is read stays in proportion to the file: arrays are views of its bytes, and what copies is counted. The keys of
dicts are plain values, so no key is deep enough to exhaust the stack when it is hashed.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from torchmsaf.data.prepare.pickles.stack import PickleStack
from torchmsaf.data.prepare.pickles.steps import STEPS
from torchmsaf.errors import DataError, in_one_line

MOST_BYTES = 2**35  # a larger file is not opened
_ZIP = b"PK\x03\x04"
_STOP = ord(".")
# what reading damaged bytes raises
_DAMAGED = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error, AttributeError)


def read_pickle(path: str | Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """Read a pickle that holds data, and run nothing of it.

    Args:
        path: a file that Python 2 or 3 wrote, protocol 0 to 5, with one object in it.
        most_bytes: the file may not be larger.

    Returns:
        The object: None, booleans, numbers, texts, bytes, lists, tuples, dicts, sets, ``OrderedDict``, and NumPy's
        arrays and scalars of plain numbers, of text and of these objects. Most arrays cannot be written to: copy them
        first. Texts of Python 2 are decoded as Latin-1.

    Raises:
        DataError: the file is missing, too large, cut off, damaged or no pickle; or it names anything else, which the
            message says as ``module.name``.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > most_bytes:
                raise DataError(f"{path} has {size} bytes; {most_bytes} are the most that are read; split the file")
            if size == 0:
                raise DataError(f"{path} is empty; get the file again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _run(PickleStack(path, data))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; give the pickle's own path") from error


def _run(reader: PickleStack) -> Any:
    data, path = reader.data, reader.path
    if data[: len(_ZIP)] == _ZIP:
        raise DataError(f"{path} is a zip archive (torch.save writes such files) and no pickle; give the pickle")
    try:
        while (code := data[reader.position]) != _STOP:
            reader.position += 1
            STEPS[code](reader)
        (value,) = reader.stack
        if reader.unfinished or reader.marks:
            raise ValueError("it ends before all is put together")
    except DataError:
        raise
    except _DAMAGED as error:
        said = in_one_line(error) if type(error) is ValueError else f"nothing fits ({type(error).__name__})"
        raise DataError(
            f"{path} is cut off, damaged or no pickle of data: at byte {reader.position} of {len(data)}: {said}; get the "
            "file again"
        ) from error
    if rest := len(data) - reader.position - 1:
        raise DataError(f"{path} is refused: {rest} bytes follow its object; a file with one object is needed")
    return value
