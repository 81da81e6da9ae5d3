"""The data set's own lists of the clips whose skeletons are missing or incomplete."""

from __future__ import annotations

from pathlib import Path

from torchmsaf.data.ntu import NtuName
from torchmsaf.errors import DataError

# what the names of the official lists have in common: NTU_RGBD_samples_with_missing_skeletons.txt
PATTERN = "*missing_skeletons*.txt"
_MOST_BYTES = 2**24


def read_missing(path: str | Path) -> frozenset[str]:
    """Read a list: lines of text, then one name a line.

    Names may have a suffix; lines that begin with no name are text and may stand before the first name alone.

    Returns:
        The clips' ids, as ``NtuName.stem`` gives them.

    Raises:
        DataError: the file cannot be read, holds no name, or has a line among the names that is none.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise DataError(f"{path} has more than {_MOST_BYTES} bytes; it is no list of missing skeletons")
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; give the list's own path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text; give a list of names, one a line") from error
    names: set[str] = set()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        try:
            names.add(NtuName.parse(text).stem)
        except DataError as error:
            if names or _looks_like_a_name(text):
                raise DataError(f"{path}: line {number}: {error}") from error
    if not names:
        raise DataError(f"{path} holds no name of a clip; give a list of names, one a line, as in S001C002P003R002A013")
    return frozenset(names)


def _looks_like_a_name(text: str) -> bool:
    return text[:1] in "Ss" and text[1:4].isdigit()
