"""MulMix, the multiplicative layer over mixtures of modalities (early fusion).

Liu, Li, Xu and Natarajan, "Learn to Combine Modalities in Multimodal Deep Learning", arXiv 1805.11730, 2018.
"""

# B batch, M modalities, S = 2^M - 1 subsets of them, K classes

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion, EarlyFusion
from torchmsaf.fusion.multiplicative import check_boost, class_losses, loss_of_scores
from torchmsaf.ops.checks import check_integer, check_share

MOST_MODALITIES = 8


class MulMix(EarlyFusion):
    """Every subset of the modalities predicts, and the multiplicative layer combines the subsets (classification only).

    For a subset s: ``z_s = V_s ReLU(W_s [x_m for m in s] + b_s) + c_s`` and ``p_s = softmax(z_s)``. For class k:
    ``q_s = [prod over t != s of (1 - p_t)]^(beta / (S - 1))`` and ``l = - sum over s of q_s log p_s``. The loss is l of the
    true class and the decision the class with the smallest l. No gradient flows through q.

    Concatenation, one hidden layer and its 256 units are those of the authors' code for CIFAR
    (github.com/skywaLKer518/MultiplicativeMultimodal); their Higgs code merges in another way. beta is 0.2 in their MulMix
    configuration; our 0.3 is MSAF's value for the layer without mixtures, a guess here.

    A subset counts only where all its modalities are present, and S is then the number of those that count.

    Args:
        widths: width of each modality's feature vector, at most 8 modalities: 8 have 255 subsets.
        out_features: K, at least 2.
        hidden: width of each subset's hidden layer.
        beta: strength in [0, 1].
        boosted: leave out samples that are already won, as :class:`torchmsaf.fusion.multiplicative.Multiplicative` does.
        margin: how far ahead the true class must be for that.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_features: int,
        *,
        hidden: int = 256,
        beta: float = 0.3,
        boosted: bool = False,
        margin: float = 0.0,
    ) -> None:
        super().__init__(widths, out_features)
        if out_features == 1:
            raise FusionInputError("MulMix is of probabilities and has no meaning in regression (out_features=1)")
        count = len(self.widths)
        if count > MOST_MODALITIES:
            raise FusionInputError(
                f"MulMix has a network for every subset of the modalities: {count} have {2**count - 1} subsets; "
                f"at most {MOST_MODALITIES} modalities are taken, with {2**MOST_MODALITIES - 1}"
            )
        check_integer("hidden", hidden, advice="it is the width of each subset's hidden layer")
        self.beta = check_share("beta", beta, said="in [0, 1]")
        self.boosted, self.margin = check_boost(boosted, margin)
        sizes = range(1, count + 1)
        self.subsets = [s for size in sizes for s in itertools.combinations(range(count), size)]
        inputs = [sum(self.widths[m] for m in subset) for subset in self.subsets]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out_features)) for width in inputs
        )

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to scores ``(B, K)``, the negative of l; zeros where no modality is present."""
        parts = self.read(vectors, present)
        joined = [torch.cat([parts[m] for m in subset], dim=1) for subset in self.subsets]
        stacked = torch.stack([layer(x) for layer, x in zip(self.layers, joined, strict=True)])
        here = torch.ones_like(stacked[..., :1])
        if present is not None:
            here = torch.stack([present[:, subset].all(1, keepdim=True) for subset in self.subsets]).to(stacked.dtype)
        return -class_losses(stacked, here, self.beta)

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """Mean of l of the true class; the task's own loss is not used."""
        return loss_of_scores(prediction, target, self.boosted, self.margin)
