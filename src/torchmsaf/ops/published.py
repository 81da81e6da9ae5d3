"""Weights of the authors' published module (github.com/anita-hu/MSAF, commit 125e0f1), as torchmsaf names them."""

# C block channels, C' joint channels, N blocks of all modalities, q segments

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.blocks import block_counts

_KEY = re.compile(r"^(?P<prefix>.*?)blocks\.(?P<segment>\d+)\.(?P<rest>(joint_features\.[01]|dense_group\.\d+)\..+)$")
_NORM = ("weight", "bias", "running_mean", "running_var")


def read_published(
    state_dict: Mapping[str, Tensor], channels: Sequence[int], prefix: str | None
) -> tuple[dict[str, Tensor], int, int, int]:
    """Stack the published per-segment and per-block tensors.

    Args:
        state_dict: of a module or a whole network.
        channels: channel count of each modality.
        prefix: what stands before ``blocks.``; None = found, when there is one.

    Returns:
        The state dict of :class:`torchmsaf.MSAF`, C, C' and q.

    Raises:
        FusionInputError: keys are missing or unknown, or shapes do not fit.
    """
    found: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, value in state_dict.items():
        if match := _KEY.match(key):
            segment = found.setdefault(match["prefix"], {}).setdefault(int(match["segment"]), {})
            segment[match["rest"]] = value
    if prefix is None:
        if len(found) != 1:
            names = ", ".join(repr(name) for name in found) or "none"
            raise FusionInputError(
                f"prefixes of published MSAF modules in this state dict: {names}; expected one, or prefix= one of them"
            )
        prefix = next(iter(found))
    if prefix not in found:
        raise FusionInputError(f"no published MSAF module at prefix {prefix!r}; there are: {sorted(found) or 'none'}")
    segments = found[prefix]
    if sorted(segments) != list(range(len(segments))):
        raise FusionInputError(f"segments {sorted(segments)} of {prefix!r} are not 0, 1, … without gaps")
    parts = [_read_segment(segments[s], s, channels) for s in range(len(segments))]
    shapes = {tuple(part["join.weight"].shape) for part in parts}
    if len(shapes) != 1:
        raise FusionInputError(f"segments of {prefix!r} have joint layers of different shapes: {sorted(shapes)}")
    joint, block_channels = shapes.pop()
    state = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    for name in _NORM:
        state[f"norm.{name}"] = state[f"norm.{name}"].flatten()
    state["norm.num_batches_tracked"] = state["norm.num_batches_tracked"].amax()
    return state, block_channels, joint, len(parts)


def _read_segment(tensors: Mapping[str, Tensor], segment: int, channels: Sequence[int]) -> dict[str, Tensor]:
    weight = _take(tensors, segment, "joint_features.0.weight", None)
    if weight.dim() != 2:
        raise FusionInputError(f"segment {segment}: joint_features.0.weight is (C', C), got {tuple(weight.shape)}")
    joint, block_channels = weight.shape
    number = sum(block_counts(channels, block_channels))
    expected = {f"joint_features.0.{name}" for name in ("weight", "bias")}
    expected |= {f"joint_features.1.{name}" for name in (*_NORM, "num_batches_tracked")}
    expected |= {f"dense_group.{b}.{name}" for b in range(number) for name in ("weight", "bias")}
    if unknown := sorted(set(tensors) - expected):
        raise FusionInputError(
            f"segment {segment}: {len(unknown)} keys that channels {tuple(channels)} with C = {block_channels} "
            f"({number} blocks) do not have, such as {unknown[0]!r}; are these the channels it was trained with?"
        )
    state = {"join.weight": weight, "join.bias": _take(tensors, segment, "joint_features.0.bias", (joint,))}
    for name in _NORM:
        state[f"norm.{name}"] = _take(tensors, segment, f"joint_features.1.{name}", (joint,))
    # files written before torch 0.4.1 have no counter
    state["norm.num_batches_tracked"] = tensors.get("joint_features.1.num_batches_tracked", torch.tensor(0))
    shape = (block_channels, joint)
    weights = [_take(tensors, segment, f"dense_group.{b}.weight", shape) for b in range(number)]
    biases = [_take(tensors, segment, f"dense_group.{b}.bias", shape[:1]) for b in range(number)]
    state["highlight.weight"], state["highlight.bias"] = torch.stack(weights), torch.stack(biases)
    return state


def _take(tensors: Mapping[str, Tensor], segment: int, key: str, shape: tuple[int, ...] | None) -> Tensor:
    if key not in tensors:
        raise FusionInputError(
            f"segment {segment}: key blocks.{segment}.{key} is missing; do the channels fit this file?"
        )
    if shape is not None and tuple(tensors[key].shape) != shape:
        raise FusionInputError(
            f"segment {segment}: blocks.{segment}.{key} has shape {tuple(tensors[key].shape)}, expected {shape}"
        )
    return tensors[key]
