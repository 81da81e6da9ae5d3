"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"  # the end of a file's name while it is written


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file: beside its place, which it takes when the block ends without an error.

    Any number of processes and threads may write the same file at once; the last one to end gives its content. After an
    error nothing is left beside, and what was at ``path`` before stays. A killed process leaves a file in ``PART``.

    Args:
        path: of the file; its folder is made with its parents.

    Yields:
        The path to write to, in the same folder, unlike any other.

    Raises:
        OSError: the folder cannot be made, or the file cannot take its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        yield part
        with part.open("rb") as file:  # on the disk before it has its name
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
