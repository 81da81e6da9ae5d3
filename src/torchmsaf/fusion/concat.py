"""Concatenation and fully connected layers (early fusion).

After Ortega, Senoussaoui, Granger, Pedersoli, Cardinal and Koerich, "Multimodal Fusion with Deep Neural Networks for
Audio-Video Emotion Recognition", arXiv 1907.03196, 2019.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.ops.checks import check_integer, check_share, check_widths


class ConcatFC(EarlyFusion):
    """Concatenate the feature vectors, then fully connected layers with ReLU.

    MSAF's Table 1 compares with it ("based on" Ortega et al., 2019) and prints its parameters but not its layers. One
    hidden layer of 256 fits them, and so do others, which the arguments can build; that it is this one is a guess.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        project: width to which each modality is projected first, by a linear layer and ReLU; None = no projection.
        hidden: widths of the hidden layers.
        dropout: probability of dropping a hidden unit.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_features: int,
        *,
        project: int | None = None,
        hidden: Sequence[int] = (256,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, out_features)
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        if project is not None:
            check_integer("project", project, advice="None is no projection")
        check_widths("hidden", hidden, example="[256]")
        self.projections = nn.ModuleList(nn.Linear(width, project) for width in self.widths) if project else None
        sizes = [len(self.widths) * project if project else sum(self.widths), *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], out_features))

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; an absent modality enters as zeros (after its projection, if any)."""
        parts = self.read(vectors, present)
        if self.projections is not None:
            parts = [torch.relu(layer(part)) for layer, part in zip(self.projections, parts, strict=True)]
            if present is not None:
                parts = [part * present[:, m, None] for m, part in enumerate(parts)]
        prediction: Tensor = self.layers(torch.cat(parts, dim=1))
        return prediction
