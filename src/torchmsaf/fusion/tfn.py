"""TFN, the tensor fusion network (early fusion).

Zadeh, Chen, Poria, Cambria and Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017, arXiv
1707.07250.
"""

# B batch, M modalities, D_m width of modality m, P_m width of its projection, K classes (1 in regression)

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.fusion.fully_connected import fully_connected
from torchmsaf.ops.checks import check_integer, check_share, check_widths

LARGEST_TENSOR = 4_000_000


class TFN(EarlyFusion):
    """The outer product of all modalities, each with a 1 appended, then fully connected layers.

    ``h_m = ReLU(W_m x_m + b_m)``; ``Z = [1; h_1] (x) ... (x) [1; h_M]``, all products of entries of all subsets of
    modalities; the prediction is fully connected layers with ReLU of Z, after dropout.

    Projections of 32, dropout of 0.2 on Z and two hidden layers of 160 are of the authors' code
    (github.com/A2Zadeh/TensorFusionNetwork), for audio and video; its third modality, text, has 64, which is
    ``project=(64, 32, 32)`` with the text first. The article is remembered as having hidden layers of 128, which is a
    recollection. Z has the product of all P_m + 1 as its size, so from four modalities on the default of ``project``
    shrinks: it is the largest power of two for which (P + 1)^M <= 100,000, 16 for four and 8 for five, and at least 1. That
    rule is ours. From 22 modalities on there is no tensor small enough, which is an error.

    In the article each modality has a sub-network. Here networks come before, so one linear layer with ReLU stands for it;
    the authors' text goes in without ReLU. They squash the output to the range of their labels; here it is left as it is.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        project: P, or one P_m a modality, such as (64, 32, 32); None = by the number of modalities.
        hidden: widths of the hidden layers.
        dropout: probability of dropping an entry of Z.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_features: int,
        *,
        project: int | list[int] | tuple[int, ...] | None = None,
        hidden: Sequence[int] = (160, 160),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(widths, out_features)
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        check_widths("hidden", hidden, example="[160, 160]")
        projected = _check_project(project, len(self.widths))
        self.projections = nn.ModuleList(nn.Linear(a, b) for a, b in zip(self.widths, projected, strict=True))
        size = math.prod(width + 1 for width in projected)
        self.layers = fully_connected(size, hidden, out_features, dropout=dropout)

    def tensor(self, vectors: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """Z, flattened, ``(B, (P_1 + 1) ... (P_M + 1))``; of an absent modality only the 1 is left."""
        states = []
        for m, (layer, vector) in enumerate(zip(self.projections, self.read(vectors, present), strict=True)):
            h = torch.relu(layer(vector))
            states.append(h if present is None else h * present[:, m, None])
        return outer_product(states)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; without a modality the products without it remain."""
        prediction: Tensor = self.layers(self.tensor(vectors, present))
        return prediction


def outer_product(states: Sequence[Tensor]) -> Tensor:
    """``[1; h_1] (x) ... (x) [1; h_M]`` of vectors ``(B, P_m)``, flattened: ``(B, (P_1 + 1) ... (P_M + 1))``."""
    product = None
    for h in states:
        h = torch.cat([h.new_ones(h.shape[0], 1), h], dim=1)  # [1; h_m]
        product = h if product is None else (product.unsqueeze(2) * h.unsqueeze(1)).flatten(1)
    assert product is not None
    return product


def _check_project(project: int | list[int] | tuple[int, ...] | None, modalities: int) -> tuple[int, ...]:
    """One width a modality."""
    if project is None:
        widths = [_default_width(modalities)] * modalities
    elif isinstance(project, list | tuple):
        if len(project) != modalities:
            raise FusionInputError(
                f"project is one width for all, or one a modality: expected {modalities} widths, got {project!r}"
            )
        widths = [check_integer(f"project of modality {m}", width, advice="32") for m, width in enumerate(project)]
    else:
        widths = [check_integer("project", project, advice="None chooses by the number of modalities")] * modalities
    size = math.prod(width + 1 for width in widths)
    if size > LARGEST_TENSOR:
        raise FusionInputError(
            f"project={tuple(widths)} makes a tensor of {size:,} entries a sample, more than {LARGEST_TENSOR:,}; choose "
            "smaller widths (None chooses by the number of modalities), or LMF, which does without the tensor"
        )
    return tuple(widths)


def _default_width(modalities: int) -> int:
    width = 32
    while modalities > 3 and width > 1 and (width + 1) ** modalities > 100_000:
        width //= 2
    return width
