"""Skeletons of any data set, and what was recorded beside them, from one file of arrays."""

# n samples, C coordinates, T steps, V joints, S persons

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.data.array_files import open_arrays
from torchmsaf.data.arrays import load_arrays
from torchmsaf.data.samples import Samples, fingerprint
from torchmsaf.errors import DataError

NAME = "skeleton"
_NEEDED = f"{NAME!r} of shape (n, C, T, V) or (n, C, T, V, persons) is needed"


def load_skeletons(
    path: str | Path,
    *,
    target: str = "label",
    group: str | None = None,
    split: str | None = None,
    modalities: Sequence[str] | None = None,
    missing: Literal["error", "nan"] = "error",
    steps: int = 32,
) -> Samples:
    """Samples with skeletons from a ``.npz`` or ``.safetensors`` file, or a folder of ``.npy`` files.

    Args:
        path: the file. ``skeleton`` is ``(n, C, T, V)`` or ``(n, C, T, V, S)``, of any number of coordinates, joints and
            persons; a person whose values are all zero is absent. All other arrays of two or more axes are modalities too:
            inertial sensors as ``(n, C, T)``, depth as ``(n, 1, T, H, W)``.
        target: key of the classes.
        group: key of the subjects; samples of one never train and test in the same fold.
        split: key of the shipped split, as in :func:`~torchmsaf.data.arrays.load_arrays`.
        modalities: as there; None = all that there are.
        missing: as there; a sample with NaN in a modality then lacks it.
        steps: of a skeleton; its time is interpolated linearly to so many.

    Raises:
        DataError: as :func:`~torchmsaf.data.arrays.load_arrays`; there is no ``skeleton``, or it is of another shape; a
            sample whose skeleton is all zeros.
    """
    try:
        samples = load_arrays(
            path, target=target, group=group, split=split, modalities=modalities, missing=missing, regression=False
        )
    except DataError as error:
        if modalities is None or NAME in modalities:
            _check_axes(path, error)
        raise
    value = samples.features.get(NAME)
    if not isinstance(value, Tensor) or value.dim() not in (4, 5):
        found = ", ".join(f"{key} {tuple(x.shape)}" for key, x in samples.features.items())
        raise DataError(f"{path}: {_NEEDED}; there is {found}")
    value, lengths = _persons_first(value if value.dim() == 5 else value.unsqueeze(-1))
    here = samples.present[:, samples.modalities.index(NAME)]
    if empty := [samples.ids[row] for row in ((lengths == 0) & here).nonzero()[:, 0].tolist()]:
        raise DataError(f"{path}: {NAME!r} of {len(empty)} samples is all zeros, the first {empty[:5]}; remove them")
    features = {**samples.features, NAME: _resized(value, steps)}
    names = {"ids": samples.ids, "classes": samples.classes, "groups": samples.groups, "parts": samples.parts}
    tensors = {key: x for key, x in features.items() if isinstance(x, Tensor)}
    return replace(
        samples,
        features=features,
        lengths={NAME: lengths},
        fingerprint=fingerprint(tensors, samples.target, samples.present, {**names, "persons": lengths.tolist()}),
    )


def _check_axes(path: str | Path, error: DataError) -> None:
    """What was wrong in other words, where it is the skeletons' number of axes."""
    file = open_arrays(path)
    shape = file.read(NAME, "modality").shape if NAME in file.keys else None
    if shape is not None and len(shape) not in (4, 5):
        raise DataError(f"{path}: {_NEEDED}; there is {NAME} {shape}") from error


def _persons_first(x: Tensor) -> tuple[Tensor, Tensor]:
    """Skeletons ``(n, C, T, V, S)`` with absent persons behind the others, and how many are there, ``(n,)``."""
    here = x.flatten(1, 3).ne(0).any(1)  # (n, S)
    order = here.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    return x.gather(4, order[:, None, None, None].expand_as(x)), here.sum(1)


def _resized(x: Tensor, steps: int) -> Tensor:
    n, channels, total, joints, persons = x.shape
    if total == steps:
        return x
    flat = x.permute(0, 1, 3, 4, 2).reshape(n, -1, total)
    flat = F.interpolate(flat, size=steps, mode="linear", align_corners=False)
    return flat.view(n, channels, joints, persons, steps).permute(0, 1, 4, 2, 3).contiguous()
