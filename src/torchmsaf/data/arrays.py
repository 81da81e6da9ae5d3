"""The user's arrays as samples: load_arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from torchmsaf.data.array_files import ArrayFile, open_arrays
from torchmsaf.data.labels import read_groups, read_parts, read_target, texts
from torchmsaf.data.part_keys import is_template, join_parts, suggest_template
from torchmsaf.data.samples import Samples, make_samples
from torchmsaf.errors import DataError

# n samples, C channels; positions: T steps, H rows, W columns
LAYOUT = "(n, C) vectors, (n, C, T) sequences, (n, C, H, W) images or (n, C, T, H, W) volumes"


def load_arrays(
    path: str | Path,
    *,
    target: str,
    modalities: Sequence[str] | None = None,
    group: str | None = None,
    ids: str | None = None,
    split: str | None = None,
    regression: bool | None = None,
    missing: Literal["error", "nan"] = "error",
    group_pattern: str | None = None,
) -> Samples:
    """Load samples from arrays on disk. Nothing is ever unpickled.

    Args:
        path: a ``.npz`` file, a ``.safetensors`` file, or a folder of ``.npy`` files (key = file name without suffix).
        target: key of the target, ``(n,)`` or ``(n, 1)``. Integers, strings and booleans are classes, named in natural
            order; floats are values to regress.
        modalities: keys in the order that fusion will see. None = every integer or float array with two or more axes
            that has no other role: in the file's order for ``.npz``, in alphabetical order for ``.safetensors`` and
            folders. Arrays with one axis are columns of labels and are passed over.
            Each is ``(n, C)`` vectors, ``(n, C, T)`` sequences, ``(n, C, H, W)`` images or ``(n, C, T, H, W)`` volumes,
            any range; all become float32, unscaled.
        group: key of the group of each sample (actor, speaker, video), ``(n,)`` integers or strings. Samples of one
            group never train and test in the same fold.
        ids: key of n unique names; None = the row numbers.
        split: key of the shipped split: train, validation (or valid, val, dev) or test of each sample. Or, for a file
            with one array a part, how their names are made, e.g. ``"{key}_{part}"`` for ``text_train``, ``text_test``,
            ``y_train``, ``y_test``: every other key is then given as ``text``, ``y``.
        regression: overrides what the target's type says; floats can be classes when they are whole numbers.
        missing: ``"error"`` refuses NaN and infinite features. ``"nan"`` takes a sample with any such value in a
            modality as one that lacks this modality: ``present`` is False and its features are zeros.
        group_pattern: regular expression searched in each value of ``group``; the group is its first parenthesis.
            ``group="id", group_pattern=r"(.+)_[0-9]+"`` takes the video out of ``video_segment`` names.

    Returns:
        The samples, with the file's name without suffix as their name.

    Raises:
        DataError: the file or an array cannot be used; the message names the key and says what to do.
    """
    if missing not in ("error", "nan"):
        raise DataError(f"missing is {missing!r}; 'error' or 'nan' is needed")
    if group_pattern is not None and group is None:
        raise DataError("group_pattern needs group, the key that it is searched in")
    file, parts = open_arrays(path), None
    roles = {"target": target, "group": group, "ids": ids, "split": split}
    if split is not None and is_template(split):
        file, parts = join_parts(file, split, target)
        roles["split"] = None
    elif target not in file.keys and (template := suggest_template(file.keys, target)):
        raise DataError(f"{file.path} has {target!r} as one array a part; pass split={template!r}")
    columns = {role: file.read(key, role) for role, key in roles.items() if key is not None}
    features = _read_features(file, roles, modalities, _rows(columns["target"]))
    _check_lengths(file, {str(roles[role]): array for role, array in columns.items()}, features)
    names = texts(columns["ids"], str(ids)) if ids is not None else tuple(map(str, range(len(columns["target"]))))
    values, classes = read_target(columns["target"], target, regression)
    prepared = {key: _prepare(key, array, missing) for key, array in features.items()}
    present = np.stack([here for _, here in prepared.values()], axis=1)
    _check_any(present, names)
    return make_samples(
        Path(path).stem,
        {key: torch.from_numpy(array) for key, (array, _) in prepared.items()},
        values,
        present=torch.from_numpy(present),
        ids=names,
        classes=classes,
        groups=None if group is None else read_groups(columns["group"], group, group_pattern),
        parts=read_parts(columns["split"], str(split)) if "split" in columns else parts,
    )


def _read_features(
    file: ArrayFile, roles: dict[str, str | None], modalities: Sequence[str] | None, rows: int
) -> dict[str, NDArray[Any]]:
    if modalities is None:
        candidates = {key: file.read(key, "modality") for key in file.keys if key not in roles.values()}
        features = {key: array for key, array in candidates.items() if array.dtype.kind in "fiu" and array.ndim >= 2}
        if not features and rows:
            found = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in candidates.items()) or "nothing"
            raise DataError(
                f"{file.path}: no array is a modality of {rows} samples, {LAYOUT}; beside the target: {found}"
            )
        return features
    if isinstance(modalities, str):
        raise DataError(f"modalities is the string {modalities!r}; a list of keys is needed: [{modalities!r}]")
    if not modalities or len(set(modalities)) != len(modalities):
        raise DataError(f"modalities are {list(modalities)}; one or more different keys are needed")
    for role, key in roles.items():
        if key in modalities:
            raise DataError(f"{key!r} is the {role} and cannot be a modality too")
    return {key: file.read(key, "modality") for key in modalities}


def _rows(array: NDArray[Any]) -> int:
    return 0 if array.ndim == 0 else len(array)


def _check_lengths(file: ArrayFile, columns: dict[str, NDArray[Any]], features: dict[str, NDArray[Any]]) -> None:
    lengths = {key: _rows(array) for key, array in {**columns, **features}.items()}
    empty = [key for key, rows in lengths.items() if rows == 0]
    if empty:
        raise DataError(f"{file.path}: {', '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty: 0 rows")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} {rows}" for key, rows in lengths.items())
        rows = {lengths[key] for key in features}
        advice = "To leave one out, name the modalities"
        if len(rows) == 1:
            wrong = [key for key in columns if lengths[key] not in rows]
            advice = f"{', '.join(wrong)} must have {rows.pop()} too"
        raise DataError(f"{file.path}: the arrays differ in length; one row a sample is needed: {found}. {advice}")


def _prepare(key: str, array: NDArray[Any], missing: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One modality as float32, and whether each sample has it."""
    if array.dtype.kind not in "fiub":
        raise DataError(f"modality {key!r} is {array.dtype}; integers or floats are needed")
    if not 2 <= array.ndim <= 5 or array.size == 0:
        advice = "; add the channel axis: array[:, None]" if array.ndim == 1 else ""
        raise DataError(f"modality {key!r} has shape {array.shape}; needed is {LAYOUT}, and no size 0{advice}")
    bad = ~np.isfinite(array)
    if missing == "error" and bad.any():
        first = [int(index) for index in np.unravel_index(int(bad.argmax()), array.shape)]
        raise DataError(
            f"modality {key!r} has {int(bad.sum())} NaN or infinite values, the first in row {first[0]} at index "
            f'{first}; clean them, or pass missing="nan" (--missing nan) to take rows with such values as missing'
        )
    with np.errstate(over="ignore", invalid="ignore"):
        single = array.astype(np.float32, order="C")
    overflow = ~np.isfinite(single) & ~bad
    if overflow.any():
        first = [int(index) for index in np.unravel_index(int(overflow.argmax()), array.shape)]
        raise DataError(f"modality {key!r} has values too large for float32, the first at index {first}; rescale it")
    present = ~bad.reshape(len(array), -1).any(axis=1)
    single[~present] = 0
    return single, present


def _check_any(present: NDArray[np.bool_], names: tuple[str, ...]) -> None:
    rows = np.flatnonzero(~present.any(axis=1))
    if len(rows):
        shown = ", ".join(f"{names[row]!r} (row {row})" for row in rows[:5])
        raise DataError(f"{len(rows)} samples have no modality at all: {shown}; remove them")
