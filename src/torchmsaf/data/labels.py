"""What arrays say about samples: the target, the names, the groups and the shipped split."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.data.part_keys import PART_NAMES
from torchmsaf.errors import DataError


def column(values: NDArray[Any], key: str) -> NDArray[Any]:
    """The array as ``(n,)``; ``(n, 1)`` loses its last axis.

    Raises:
        DataError: another shape, or no rows.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"{key!r} has shape {values.shape}; one value a sample, shape (n,), is needed")
    if len(values) == 0:
        raise DataError(f"{key!r} is empty: it has 0 rows")
    return values


def texts(values: NDArray[Any], key: str) -> tuple[str, ...]:
    """One name a sample, from integers, strings, bytes (UTF-8), booleans, or floats that are whole numbers.

    Raises:
        DataError: another type, or a float that is no whole number.
    """
    values = column(values, key)
    if values.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(values) | (values != np.round(values)))
        if len(wrong):
            raise DataError(
                f"{key!r} must name things: it has {len(wrong)} values that are no whole numbers, "
                f"the first in rows {wrong[:5].tolist()}"
            )
        return tuple(str(int(value)) for value in values)
    if values.dtype.kind == "S":
        try:
            return tuple(value.decode() for value in values.tolist())
        except UnicodeDecodeError as error:
            raise DataError(f"{key!r} holds bytes that are not UTF-8: {error}") from error
    if values.dtype.kind not in "iubU":
        raise DataError(f"{key!r} is {values.dtype}; integers or strings are needed")
    return tuple(str(value) for value in values.tolist())


def read_target(values: NDArray[Any], key: str, regression: bool | None) -> tuple[Tensor, tuple[str, ...] | None]:
    """The target of a task.

    Args:
        values: ``(n,)`` or ``(n, 1)``.
        key: its key, for messages.
        regression: True = values, False = classes, None = values for floats and classes for everything else.

    Returns:
        ``(n,)`` float32 and None for regression; ``(n,)`` int64 and the class names in natural order for classes.

    Raises:
        DataError: NaN or infinite values, one class only, fractions as classes, or a type that is neither.
    """
    values = column(values, key)
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(
                f"the target {key!r} has {len(bad)} NaN or infinite values, the first in rows {bad[:5].tolist()}; "
                "remove these samples"
            )
    if regression is None:
        regression = values.dtype.kind == "f"
    if regression:
        return _read_values(values, key), None
    names = texts(values, key)
    classes = natural_sorted(names)
    if len(classes) < 2:
        raise DataError(f"the target {key!r} has one class only, {classes[0]!r}; two or more are needed")
    index = {name: number for number, name in enumerate(classes)}
    return torch.tensor([index[name] for name in names], dtype=torch.int64), classes


def read_parts(values: NDArray[Any], key: str) -> tuple[str, ...]:
    """The part of each sample: train, validation (also valid, val, dev) or test, in any case.

    Raises:
        DataError: another value.
    """
    names = texts(values, key)
    wrong = [name for name in natural_sorted(names) if name.strip().lower() not in PART_NAMES]
    if wrong:
        raise DataError(
            f"the split {key!r} has the values {wrong[:10]}; each sample needs one of {', '.join(PART_NAMES)}"
        )
    return tuple(PART_NAMES[name.strip().lower()] for name in names)


def read_groups(values: NDArray[Any], key: str, pattern: str | None) -> tuple[str, ...]:
    """The group of each sample.

    Args:
        values: ``(n,)`` integers or strings.
        key: its key, for messages.
        pattern: a regular expression searched in each value; the group is its first parenthesis, or the whole match.
            None = the value is the group.

    Raises:
        DataError: the pattern is no regular expression, or is not found in a value.
    """
    names = texts(values, key)
    if pattern is None:
        return names
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"group_pattern {pattern!r} is no regular expression: {error}") from error
    found: list[str] = []
    for row, name in enumerate(names):
        match = compiled.search(name)
        group = None if match is None else match[min(compiled.groups, 1)]
        if not group:
            raise DataError(f"group_pattern {pattern!r} finds no group in {name!r} ({key!r}, row {row})")
        found.append(group)
    return tuple(found)


def _read_values(values: NDArray[Any], key: str) -> Tensor:
    if values.dtype.kind not in "fiub":
        raise DataError(f"the target {key!r} is {values.dtype}; numbers are needed for regression")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(single))
    if len(bad):
        raise DataError(f"the target {key!r} is too large for float32 in rows {bad[:5].tolist()}; rescale it")
    return torch.from_numpy(single)
