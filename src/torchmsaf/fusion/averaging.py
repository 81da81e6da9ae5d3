"""Averaging of predictions (late fusion)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchmsaf.fusion.base import LateFusion


class Averaging(LateFusion):
    """p = mean of p_m over the present modalities; in regression the mean of the values.

    The paper compares with it in Table 1 and does not say whether probabilities or logits are averaged; probabilities are
    our choice. Where no modality is present the answer is even.
    """

    def forward(self, logits: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Logits ``(B, K)`` a modality to log-probabilities ``(B, K)``; values to values in regression."""
        stacked, here = self.read(logits, present)
        number = here.sum(0)
        if self.regression:
            return (stacked * here).sum(0) / number.clamp(min=1)
        # log of the mean of softmax(z_m), without leaving the log domain: absent modalities count as log 0
        logs = torch.log_softmax(stacked, dim=2).masked_fill(here == 0, torch.finfo(stacked.dtype).min)
        mean = torch.logsumexp(logs, dim=0) - number.clamp(min=1).log()
        return torch.where(number > 0, mean, logs.new_zeros(()))
