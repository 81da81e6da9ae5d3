"""What every fusion does that gates channels by their means: check what came, pool it, and scale it."""

# B batch, C_m channels of modality m, M modalities, q segments

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_features, check_masks, check_present, check_segments
from torchmsaf.ops.recalibrate import Rescale, recalibrate
from torchmsaf.ops.support import Support, make_supports


def pool_maps(
    features: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    present: Tensor | None,
    *,
    channels: tuple[int, ...],
    parameter: Tensor,
    segments: int = 1,
    segment_dim: int = 2,
) -> tuple[list[Tensor], Tensor | None, Rescale]:
    """Check the maps, masks and flags of one call, and pool the maps.

    Args:
        features: maps ``(B, C_m, *positions)``.
        masks: ``(B, *positions)`` booleans or None a modality.
        present: ``(B, M)`` booleans, or None.
        channels: the expected channel count of each modality.
        parameter: any parameter of the fusion: its device and type are those that the maps must fit.
        segments: q.
        segment_dim: the axis that is segmented.

    Returns:
        Descriptors ``(B, C_m)``, or ``(q, B, C_m)`` for several segments, in float32 (float64 for a float64 fusion); which
        modality is alive, ``(B, M)`` or ``(q, B, M)``, None = all; and the function that scales the maps.

    Raises:
        FusionInputError: something does not fit; the message names the modality by position.
    """
    maps = check_features(features, channels, parameter)
    dims = check_segments(maps, segments, segment_dim)
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    supports: list[Support | None] = [None] * len(maps)
    alive = None
    if masks is not None or present is not None:
        real, here = check_masks(masks, maps), check_present(present, maps)
        supports, alive = make_supports(maps, real, here, segments=segments, segment_dims=dims, dtype=dtype)
    descriptors, rescale = recalibrate(maps, supports, segments=segments, segment_dims=dims, dtype=dtype)
    return descriptors, alive, rescale


def open_gates(layers: nn.Module, gate_scale: float) -> None:
    """Let gates ``gate_scale * sigmoid(layer)`` start at one: the layers start at zero.

    Raises:
        FusionInputError: another scale than 2.
    """
    if gate_scale != 2:
        raise FusionInputError("identity_start needs gate_scale=2: the gate starts at gate_scale * sigmoid(0)")
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
