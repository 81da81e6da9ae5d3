"""The losses of networks that learn each by itself."""

# B batch, M modalities, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion, check_flags


def own_losses(parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion) -> Tensor:
    """Sum over modalities of the task's loss of each network's own prediction, on the samples that have the modality.

    A modality that no sample of the batch has adds 0, with a gradient of zeros, so that a batch without anything is a loss
    like any other.

    Args:
        parts: each network's own prediction, ``(B, K)`` a modality.
        target: ``(B,)``.
        present: ``(B, M)`` booleans, or None = all.
        criterion: the task's loss, a mean over the samples it is given.
    """
    if not parts:
        raise FusionInputError("the networks' own predictions are needed, one a modality, got none")
    if present is not None:
        check_flags(present, len(parts[0]), len(parts))
    losses = []
    for m, part in enumerate(parts):
        own, truth = (part, target) if present is None else (part[present[:, m]], target[present[:, m]])
        losses.append(criterion(own, truth) if len(own) else own.sum())
    return torch.stack(losses).sum()
