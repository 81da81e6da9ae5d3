"""The multiplicative layer (late fusion), and the loss that MulMix shares with it.

Liu, Li, Xu and Natarajan, "Learn to Combine Modalities in Multimodal Deep Learning", arXiv 1805.11730, 2018.
"""

# B batch, M modalities, n predictions that are combined, K classes

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion, LateFusion
from torchmsaf.ops.checks import check_boolean, check_number, check_share


class Multiplicative(LateFusion):
    """Each modality's loss is down-weighted where the others are already sure (classification only).

    For class k: ``q_i = [prod over j != i of (1 - p_j)]^(beta / (M - 1))`` and ``l = - sum over i of q_i log p_i``.
    The loss is l of the true class and the decision the class with the smallest l. No gradient flows through q, as in the
    authors' code (github.com/skywaLKer518/MultiplicativeMultimodal). beta = 0 is the sum of the cross-entropies.

    Boosted, a sample adds nothing to the loss where its true class y already wins: ``l^y + margin < l^k`` for all k != y.
    It still counts in the mean over the batch, as in that code. MSAF does not say that its Table 1 is boosted; the default
    is off. A margin of 0 is that of the authors' CIFAR configuration; their other data set has 1.

    Args:
        modalities: M.
        regression: must be False.
        beta: strength in [0, 1]; 0.3 is the value of MSAF's Table 1.
        boosted: leave out samples that are already won.
        margin: how far ahead the true class must be for that.
    """

    def __init__(
        self,
        modalities: int,
        *,
        regression: bool = False,
        beta: float = 0.3,
        boosted: bool = False,
        margin: float = 0.0,
    ) -> None:
        super().__init__(modalities, regression=regression)
        if regression:
            raise FusionInputError("the multiplicative layer is of probabilities and has no meaning in regression")
        self.beta = check_share("beta", beta, said="in [0, 1]")
        self.boosted, self.margin = check_boost(boosted, margin)

    def forward(self, logits: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Scores ``(B, K)``, the negative of l: the largest is the decision. Zeros where no modality is present."""
        return -class_losses(*self.read(logits, present), self.beta)

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """Mean of l of the true class; the task's own loss is not used."""
        return loss_of_scores(prediction, target, self.boosted, self.margin)


def class_losses(stacked: Tensor, here: Tensor, beta: float) -> Tensor:
    """The loss l of every class, ``(B, K)``; the product and the sum are over what is present.

    Args:
        stacked: logits ``(n, B, K)``.
        here: presence ``(n, B, 1)``, zeros and ones.
        beta: strength.
    """
    logs = F.log_softmax(stacked, dim=2)
    unsure = torch.log1p(-logs.detach().exp()).clamp(min=-27.6) * here  # log(1 - p) >= log 1e-12
    others = (here.sum(0) - 1).clamp(min=1)
    q = torch.exp(beta / others * (unsure.sum(0) - unsure))
    return -(q * logs * here).sum(0)


def loss_of_scores(scores: Tensor, target: Tensor, boosted: bool, margin: float) -> Tensor:
    """Mean over all samples of l of the true class, from scores = -l ``(B, K)``; boosted, won samples count as 0."""
    true = target[:, None]
    loss = -scores.gather(1, true)
    if boosted:
        best_other = (-scores.detach()).scatter(1, true, math.inf).amin(1, keepdim=True)
        loss = torch.where(loss.detach() + margin < best_other, 0, loss)
    return loss.mean()


def check_boost(boosted: bool, margin: float) -> tuple[bool, float]:
    """Whether the loss is boosted, and a margin of at least 0 that is used."""
    check_boolean("boosted", boosted)
    if not check_number("margin", margin) >= 0:
        raise FusionInputError(f"margin is a number of at least 0, got {margin!r}")
    if margin and not boosted:
        raise FusionInputError(f"margin={margin!r} is of the boosted loss: give boosted=True too")
    return boosted, float(margin)
