"""Averaging of predictions (late fusion), the sum rule.

Kittler, Hatef, Duin and Matas, "On Combining Classifiers", IEEE Transactions on Pattern Analysis and Machine Intelligence
20(3), 226-239, 1998.
"""

# B batch, M modalities, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import LateFusion

_KINDS = ("probabilities", "logits")


class Averaging(LateFusion):
    """p = mean of p_m over the present modalities; in regression the mean of the values.

    That is the article's sum rule where all classes are as likely beforehand. MSAF's Table 1 compares with averaging and
    does not say whether probabilities or logits are averaged; probabilities are our choice. Where no modality is present
    the answer is even.

    Args:
        modalities: M.
        regression: the predictions are values; then both kinds are their mean.
        of: what is averaged, "probabilities" or "logits"; the mean of logits is the normalized geometric mean of
            probabilities.
    """

    def __init__(self, modalities: int, *, regression: bool = False, of: str = "probabilities") -> None:
        super().__init__(modalities, regression=regression)
        if of not in _KINDS:
            raise FusionInputError(f"of is what is averaged, {' or '.join(map(repr, _KINDS))}, got {of!r}")
        self.of = of

    def forward(self, logits: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Logits ``(B, K)`` a modality to log-probabilities ``(B, K)``, or to mean logits; values to values."""
        stacked, here = self.read(logits, present)
        if self.regression or self.of == "logits":
            return (stacked * here).sum(0) / here.sum(0).clamp(min=1)
        return log_mean(stacked, here)


def log_mean(stacked: Tensor, here: Tensor) -> Tensor:
    """Log of the mean of softmax(z_m) over the present modalities, ``(B, K)``; zeros where there is none.

    Args:
        stacked: logits ``(M, B, K)``.
        here: presence ``(M, B, 1)``.
    """
    number = here.sum(0)
    # without leaving the log domain: absent modalities count as log 0
    logs = torch.log_softmax(stacked, dim=2).masked_fill(here == 0, torch.finfo(stacked.dtype).min)
    mean = torch.logsumexp(logs, dim=0) - number.clamp(min=1).log()
    return torch.where(number > 0, mean, logs.new_zeros(()))
