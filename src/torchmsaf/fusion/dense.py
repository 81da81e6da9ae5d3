"""Dense multimodal fusion (early fusion).

Hu, Nie and Li, "Dense Multimodal Fusion for Hierarchically Joint Representation", arXiv 1810.03414, 2018; in short, with
Wang, at ICASSP 2019.
"""

# B batch, M modalities, D_m width of modality m, H width of all layers, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.ops.checks import check_integer


class DenseFusion(EarlyFusion):
    """The modalities' networks side by side, with a shared layer at every depth, each of which feeds the next.

    With ``h_m^0 = x_m`` and for l = 1, ..., depth:
    ``h_m^l = ReLU(V_m^l h_m^(l-1))`` and ``h_s^l = ReLU(sum over m of W_m^l h_m^l + W_s^l h_s^(l-1) + b^l)``, the first
    without h_s. A linear layer makes the prediction from the last h_s.

    We could check the article's abstract: shared layers are stacked between the modalities' networks, and are connected.
    The equations are a recollection, also that the modalities' layers have no bias. The width and the depth are guesses.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        hidden: H.
        depth: number of shared layers.
    """

    def __init__(self, widths: Sequence[int], out_features: int, *, hidden: int = 128, depth: int = 3) -> None:
        super().__init__(widths, out_features)
        check_integer("hidden", hidden, advice="it is the width of all layers")
        check_integer("depth", depth, advice="it is the number of shared layers", most=1000)
        inputs = [self.widths] + [(hidden,) * len(self.widths)] * (depth - 1)
        self.own = nn.ModuleList(nn.ModuleList(nn.Linear(width, hidden, bias=False) for width in row) for row in inputs)
        # W_1^l, ..., W_M^l and W_s^l side by side
        counts = [len(self.widths)] + [len(self.widths) + 1] * (depth - 1)
        self.shared = nn.ModuleList(nn.Linear(count * hidden, hidden) for count in counts)
        self.head = nn.Linear(hidden, out_features)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; an absent modality adds nothing at any depth."""
        states = self.read(vectors, present)
        joint: list[Tensor] = []
        for own, shared in zip(self.own, self.shared, strict=True):
            assert isinstance(own, nn.ModuleList)
            # without a bias ReLU(V 0) is 0: what is absent stays zero
            states = [torch.relu(layer(h)) for layer, h in zip(own, states, strict=True)]  # h_m^l
            joint = [torch.relu(shared(torch.cat([*states, *joint], dim=1)))]  # h_s^l
        prediction: Tensor = self.head(joint[0])
        return prediction
