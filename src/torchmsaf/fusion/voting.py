"""Majority voting (late fusion), the majority vote rule.

Kittler, Hatef, Duin and Matas, "On Combining Classifiers", IEEE Transactions on Pattern Analysis and Machine Intelligence
20(3), 226-239, 1998.
"""

# B batch, M modalities, K classes

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.averaging import log_mean
from torchmsaf.fusion.base import Criterion, LateFusion
from torchmsaf.fusion.own_losses import own_losses


class Voting(LateFusion):
    """Each present modality votes for its likeliest class, and the class with the most votes wins (classification only).

    The answer is the log of ``p = (votes + mean of p_m) / (n + 1)``, where n modalities are present: a distribution whose
    largest class is the one with the most votes, and among equals the one with the largest mean probability. That ties are
    broken so is a guess, and two modalities that disagree are always a tie. The distribution is ours, so that a vote has
    a loss. All votes count the same: the article weighs none, and voters with learned weights (Morvant, Habrard and
    Ayache, 2014) are another method.

    Each network learns by itself, from its own loss; no vote has a gradient. Where no modality is present the answer is
    even.

    Args:
        modalities: M.
        regression: must be False.
    """

    def __init__(self, modalities: int, *, regression: bool = False) -> None:
        super().__init__(modalities, regression=regression)
        if regression:
            raise FusionInputError("voting is for classes and has no meaning in regression; use averaging")

    def forward(self, logits: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Logits ``(B, K)`` a modality to log-probabilities ``(B, K)``."""
        stacked, here = self.read(logits, present)
        number, classes = here.sum(0), stacked.shape[2]
        votes = (F.one_hot(stacked.argmax(2), classes) * here).sum(0)
        mean = torch.where(number > 0, log_mean(stacked, here), -math.log(classes))
        # in the log domain, where a mean of 0 and no votes stay finite
        logs = votes.log().clamp(min=torch.finfo(stacked.dtype).min)
        return torch.logaddexp(logs, mean) - (number + 1).log()

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """Sum of the networks' own losses, each on the samples that have its modality."""
        return own_losses(parts, target, present, criterion)
