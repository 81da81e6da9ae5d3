"""The multiplicative layer (late fusion).

Liu, Li, Xu and Natarajan, "Learn to Combine Modalities in Multimodal Deep Learning", arXiv 1805.11730, 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion, LateFusion
from torchmsaf.ops.checks import check_share


class Multiplicative(LateFusion):
    """Each modality's loss is down-weighted where the others are already sure (classification only).

    For class k: ``q_i = [prod over j != i of (1 - p_j)]^(beta / (M - 1))`` and ``l = - sum over i of q_i log p_i``.
    The loss is l of the true class and the decision the class with the smallest l. No gradient flows through q, as in the
    authors' code (github.com/skywaLKer518/MultiplicativeMultimodal). beta = 0 is the sum of the cross-entropies.

    Args:
        modalities: M.
        regression: must be False.
        beta: strength in [0, 1]; 0.3 is the value of MSAF's Table 1.
    """

    def __init__(self, modalities: int, *, regression: bool = False, beta: float = 0.3) -> None:
        super().__init__(modalities, regression=regression)
        if regression:
            raise FusionInputError("the multiplicative layer is of probabilities and has no meaning in regression")
        self.beta = check_share("beta", beta, said="in [0, 1]")

    def class_losses(self, logits: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """L of every class, ``(B, K)``; the product and the sum are over the present modalities."""
        stacked, here = self.read(logits, present)
        logs = F.log_softmax(stacked, dim=2)
        unsure = torch.log1p(-logs.detach().exp()).clamp(min=-27.6) * here  # log(1 - p) >= log 1e-12
        others = (here.sum(0) - 1).clamp(min=1)
        q = torch.exp(self.beta / others * (unsure.sum(0) - unsure))
        return -(q * logs * here).sum(0)

    def forward(self, logits: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Scores ``(B, K)``, the negative of l: the largest is the decision."""
        return -self.class_losses(logits, present)

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """Mean of l of the true class."""
        return self.class_losses(parts, present).gather(1, target[:, None]).mean()
