"""Files that ship their split as one array a part: x_train, x_test, y_train, y_test."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.array_files import ArrayFile, closest
from torchmsaf.data.samples import PARTS
from torchmsaf.errors import DataError

PART_NAMES = {
    "train": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "validation": "validation",
    "test": "test",
}


def is_template(split: str | None) -> bool:
    """Whether ``split`` is a template of keys, such as ``"{key}_{part}"``, and not a key."""
    return split is not None and "{key}" in split and "{part}" in split


def suggest_template(keys: tuple[str, ...], target: str) -> str | None:
    """The template by which the target is stored as one array a part, if it looks so."""
    templates = ("{key}_{part}", "{part}_{key}")
    found = [text for text in templates if {text.format(key=target, part=part) for part in PART_NAMES} & set(keys)]
    return found[0] if found else None


def join_parts(file: ArrayFile, template: str, target: str) -> tuple[ArrayFile, tuple[str, ...]]:
    """See a file with one array a part as a file with one array a key.

    Args:
        file: the file as it is.
        template: how a key and a part make the name of an array, e.g. ``"{key}_{part}"`` or ``"{part}/{key}"``.
        target: the key whose arrays say how many rows each part has.

    Returns:
        The file whose keys are the ``{key}`` of the template, each the rows of its parts one after the other (train,
        validation, test); and the part of each row.

    Raises:
        DataError: a key lacks a part that the target has, or the rows of a part differ in number.
    """
    names = _part_arrays(file, template)
    keys = tuple(names)
    if target not in keys:
        raise DataError(
            f"{file.path}: the split {template!r} finds no target {target!r}{closest(target, keys)}; it finds "
            f"{', '.join(keys) or 'no key at all'} among the arrays {', '.join(file.keys)}"
        )
    counts = {part: _rows(file, names[target][part]) for part in PARTS if part in names[target]}

    def read(key: str) -> NDArray[Any]:
        missing = [part for part in counts if part not in names[key]]
        if missing:
            raise DataError(
                f"{file.path}: {key!r} has no array for {', '.join(missing)}, and the target {target!r} has; "
                f"its arrays are {', '.join(names[key].values())}"
            )
        arrays = {names[key][part]: file.read(names[key][part], "array") for part in counts}
        for (array_name, array), (part, rows) in zip(arrays.items(), counts.items(), strict=True):
            if array.ndim == 0 or len(array) != rows:
                raise DataError(
                    f"{file.path}: {array_name!r} has shape {array.shape}, "
                    f"and {names[target][part]!r} has {rows} rows; the rows of a part must agree"
                )
        try:
            return np.concatenate(list(arrays.values()))
        except (ValueError, TypeError) as error:
            shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
            raise DataError(f"{file.path}: the parts of {key!r} do not join: {shapes}") from error

    parts = tuple(part for part, rows in counts.items() for _ in range(rows))
    return ArrayFile(file.path, keys, read), parts


def _part_arrays(file: ArrayFile, template: str) -> dict[str, dict[str, str]]:
    """Key -> part -> the name of its array."""
    text = re.escape(template).replace(re.escape("{key}"), "(?P<key>.+)", 1)
    pattern = re.compile(text.replace(re.escape("{part}"), f"(?P<part>(?i:{'|'.join(PART_NAMES)}))", 1))
    names: dict[str, dict[str, str]] = {}
    for name in file.keys:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        key, part = match["key"], PART_NAMES[match["part"].lower()]
        if part in names.setdefault(key, {}):
            raise DataError(f"{file.path}: {names[key][part]!r} and {name!r} are both the {part} part of {key!r}")
        names[key][part] = name
    return names


def _rows(file: ArrayFile, name: str) -> int:
    array = file.read(name, "array")
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{file.path}: {name!r} is empty: its shape is {array.shape}")
    return len(array)
