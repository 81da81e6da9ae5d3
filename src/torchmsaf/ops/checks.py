"""Checks of what a fusion between layers is given; each error names the modality by position."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError


def check_channels(channels: Sequence[int], name: str = "channels") -> tuple[int, ...]:
    """Channel counts, or widths, as a tuple of positive integers, one or more."""
    if isinstance(channels, int | str) or not hasattr(channels, "__iter__"):
        raise FusionInputError(f"{name} is one count a modality, such as (1024, 32), got {channels!r}")
    counts = tuple(channels)
    if not counts:
        raise FusionInputError(f"{name} is empty: give one count a modality, such as (1024, 32)")
    for m, count in enumerate(counts):
        if not is_integer(count) or count < 1:
            raise FusionInputError(f"{name} of modality {m}: expected a positive integer, got {count!r}")
    return tuple(int(count) for count in counts)


def is_integer(value: object) -> bool:
    """Whether it is a whole number of any kind but booleans: int, NumPy's, and a compiler's symbolic one."""
    return isinstance(value, numbers.Integral | torch.SymInt) and not isinstance(value, bool)


def check_integer(name: str, value: int, *, advice: str, most: int | None = None) -> int:
    """A positive integer argument."""
    if not is_integer(value) or value < 1:
        raise FusionInputError(f"{name}: expected an integer of at least 1, got {value!r}; {advice}")
    if most is not None and value > most:
        raise FusionInputError(f"{name}: expected an integer of at most {most}, got {value!r}; {advice}")
    return int(value)


def check_boolean(name: str, value: bool) -> bool:
    """True or False: a text such as "false" would count as True."""
    if not isinstance(value, bool | np.bool_):
        raise FusionInputError(f"{name} is True or False, got {value!r}")
    return bool(value)


def check_number(name: str, value: float) -> float:
    """A finite number argument, given back as it came."""
    if not _is_number(value) or not abs(value) <= torch.finfo(torch.float32).max:
        raise FusionInputError(f"{name} is a finite number, got {value!r}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)


def check_widths(name: str, widths: Sequence[int], *, example: str) -> list[int]:
    """A list, which may be empty, of positive integers."""
    if not isinstance(widths, list | tuple) or not all(is_integer(width) and width >= 1 for width in widths):
        raise FusionInputError(f"{name} is a list of positive widths, such as {example}, got {widths!r}")
    return [int(width) for width in widths]


def check_share(name: str, value: float, *, said: str, below_one: bool = False) -> float:
    """A number in [0, 1], or in [0, 1)."""
    if not _is_number(value) or not 0 <= value <= 1 or (below_one and value == 1):
        raise FusionInputError(f"{name} is {said}, got {value!r}" + ("; use 0 for no dropout" if below_one else ""))
    return float(value)


def check_features(features: Sequence[Tensor], channels: tuple[int, ...], parameter: Tensor) -> list[Tensor]:
    """Maps ``(B, C_m, *positions)`` of one batch, on the parameters' device, in a type they can work with.

    Args:
        features: what the caller gave.
        channels: the expected count of each modality.
        parameter: any parameter of the fusion.
    """
    if not isinstance(features, list | tuple):
        raise FusionInputError(f"features is a list of one tensor a modality, got {type(features).__name__}")
    if len(features) != len(channels):
        raise FusionInputError(f"expected {len(channels)} modalities (channels {channels}), got {len(features)}")
    for m, (x, count) in enumerate(zip(features, channels, strict=True)):
        _check_tensor(m, x)
        shape = tuple(x.shape)
        if x.dim() < 2:
            raise FusionInputError(f"modality {m}: expected (B, {count}, *positions), got {shape}")
        if shape[1] != count:
            raise FusionInputError(
                f"modality {m}: expected {count} channels at dim 1, (B, {count}, *positions), got {shape}; "
                "channels come second, so (B, T, C) needs .transpose(1, 2)"
            )
        if shape[0] != features[0].shape[0]:
            raise FusionInputError(
                f"modality {m}: expected a batch of {features[0].shape[0]} as modality 0, got {shape[0]} ({shape})"
            )
        if 0 in shape[2:]:
            raise FusionInputError(f"modality {m}: {shape} has no positions; mark it absent in present instead")
        _check_type(m, x, parameter)
    return list(features)


def _check_tensor(m: int, x: object) -> None:
    if not isinstance(x, Tensor):
        raise FusionInputError(
            f"modality {m}: expected a tensor, got {type(x).__name__}; an absent modality is zeros of its shape with "
            "present[:, m] = False"
        )


def _check_type(m: int, x: Tensor, parameter: Tensor) -> None:
    if x.device != parameter.device:
        raise FusionInputError(
            f"modality {m}: expected device {parameter.device}, where the fusion's parameters are, got {x.device}; "
            "move one of them with .to(device)"
        )
    if not x.is_floating_point():
        raise FusionInputError(f"modality {m}: expected floating-point features, got {x.dtype}; convert with .float()")
    half = x.dtype in (torch.float16, torch.bfloat16)
    if x.dtype != parameter.dtype and not (half and parameter.dtype == torch.float32):
        raise FusionInputError(
            f"modality {m}: expected {parameter.dtype}, the type of the fusion's parameters, got {x.dtype}; "
            f"convert the features, or the fusion with .to({x.dtype})"
        )


def check_vectors(values: Sequence[Tensor], sizes: Sequence[int], what: str, parameter: Tensor | None) -> list[Tensor]:
    """Feature vectors or predictions ``(B, size)`` of one batch, in one place and of one type.

    Args:
        values: what the caller gave.
        sizes: the expected size of each modality.
        what: they are.
        parameter: any parameter of the fusion; None = it has none.
    """
    if not isinstance(values, list | tuple):
        raise FusionInputError(f"expected a list of one tensor of {what} a modality, got {type(values).__name__}")
    if len(values) != len(sizes):
        raise FusionInputError(f"expected {what} of {len(sizes)} modalities, got {len(values)}")
    for m, (x, size) in enumerate(zip(values, sizes, strict=True)):
        _check_tensor(m, x)
        first = values[0]
        batch = first.shape[0] if first.dim() else 0
        if x.dim() != 2 or x.shape[1] != size or x.shape[0] != batch:
            raise FusionInputError(
                f"modality {m}: expected {what} (B, {size}), with a batch of {batch} as modality 0, got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise FusionInputError(
                f"modality {m}: expected floating-point {what}, got {x.dtype}; convert with .float()"
            )
        like = first if parameter is None else parameter
        if x.device != like.device:
            raise FusionInputError(
                f"modality {m}: expected device {like.device}, got {x.device}; move one of them with .to(device)"
            )
        if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
            raise FusionInputError(
                f"modality {m}: expected {like.dtype}, got {x.dtype}; convert with .to({like.dtype})"
            )
    return list(values)


def check_segments(features: Sequence[Tensor], segments: int, segment_dim: int) -> list[int]:
    """The axis that is segmented, of each map, counted from the front; at least ``segments`` steps long."""
    if segments == 1:
        return [2] * len(features)
    dims = []
    for m, x in enumerate(features):
        dim = segment_dim + x.dim() if segment_dim < 0 else segment_dim
        if not 2 <= dim < x.dim():
            raise FusionInputError(
                f"modality {m}: {tuple(x.shape)} has no axis {segment_dim} of positions to cut into {segments} segments; "
                "give it a time axis, or use segments=1"
            )
        if x.shape[dim] < segments:
            raise FusionInputError(
                f"modality {m}: {x.shape[dim]} steps at axis {dim} of {tuple(x.shape)} are fewer than segments={segments}; "
                "pad the sequence (with a mask), or use fewer segments"
            )
        dims.append(dim)
    return dims


def check_masks(masks: Sequence[Tensor | None] | None, features: Sequence[Tensor]) -> list[Tensor | None]:
    """One boolean tensor ``(B, *positions)`` or None a modality."""
    if masks is None:
        return [None] * len(features)
    if not isinstance(masks, list | tuple) or len(masks) != len(features):
        got = f"{len(masks)} entries" if isinstance(masks, list | tuple) else type(masks).__name__
        raise FusionInputError(f"masks is a list of {len(features)}, one boolean tensor or None a modality, got {got}")
    for m, (mask, x) in enumerate(zip(masks, features, strict=True)):
        if mask is None:
            continue
        expected = (x.shape[0], *x.shape[2:])
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise FusionInputError(f"mask of modality {m}: expected booleans, True = real, got {kind}; use mask.bool()")
        if tuple(mask.shape) != expected:
            raise FusionInputError(
                f"mask of modality {m}: expected (B, *positions) = {expected} for features {tuple(x.shape)}, "
                f"got {tuple(mask.shape)}"
            )
        if mask.device != x.device:
            raise FusionInputError(f"mask of modality {m}: expected device {x.device}, got {mask.device}")
    return list(masks)


def check_present(present: Tensor | None, features: Sequence[Tensor]) -> Tensor | None:
    """``(B, M)`` booleans, or None."""
    if present is None:
        return None
    expected = (features[0].shape[0], len(features))
    if not isinstance(present, Tensor) or present.dtype != torch.bool:
        kind = present.dtype if isinstance(present, Tensor) else type(present).__name__
        raise FusionInputError(f"present: expected booleans (B, M) = {expected}, got {kind}; use present.bool()")
    if tuple(present.shape) != expected:
        raise FusionInputError(
            f"present: expected (B, M) = {expected}, one flag a sample and modality, got {tuple(present.shape)}"
        )
    if present.device != features[0].device:
        raise FusionInputError(f"present: expected device {features[0].device}, got {present.device}")
    return present
