"""Multiplication of predictions (late fusion), the product rule.

Kittler, Hatef, Duin and Matas, "On Combining Classifiers", IEEE Transactions on Pattern Analysis and Machine Intelligence
20(3), 226-239, 1998.
"""

# B batch, M modalities, K classes

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import LateFusion


class Multiplication(LateFusion):
    """p ∝ product of p_m over the present modalities, which is the softmax of the summed logits (classification only).

    That is the article's product rule where all classes are as likely beforehand. Where no modality is present the answer
    is even.

    Args:
        modalities: M.
        regression: must be False.
    """

    def __init__(self, modalities: int, *, regression: bool = False) -> None:
        super().__init__(modalities, regression=regression)
        if regression:
            raise FusionInputError("multiplication is of probabilities and has no meaning in regression; use averaging")

    def forward(self, logits: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Logits ``(B, K)`` a modality to their sum, ``(B, K)``."""
        stacked, here = self.read(logits, present)
        return (stacked * here).sum(0)
