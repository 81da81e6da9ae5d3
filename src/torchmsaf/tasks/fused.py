"""What a network of several modalities says of a batch."""

# B batch, K outputs

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fused:
    """What a fused network says of a batch.

    Attributes:
        prediction: ``(B, K)``.
        parts: each network's own prediction, ``(B, K)``; empty where the networks make none.
        own_loss: what a model with losses of its own adds to the task's, in training alone; None = nothing.
    """

    prediction: Tensor
    parts: tuple[Tensor, ...] = ()
    own_loss: Tensor | None = None
