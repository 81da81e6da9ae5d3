"""The gated multimodal unit (early fusion).

Arevalo, Solorio, Montes-y-Gómez and González, "Gated Multimodal Units for Information Fusion", arXiv 1702.01992, 2017.
"""

# B batch, M modalities, D_m width of modality m, H width of the joint representation, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.ops.checks import check_integer


class GMU(EarlyFusion):
    """A gate, which sees all modalities, weighs what each of them says, coordinate by coordinate.

    Each modality has ``h_m = tanh(W_m x_m)``. With two, ``z = sigmoid(W_z [x_1; x_2])`` and
    ``h = z * h_1 + (1 - z) * h_2``. With one or more than two, ``z_m = sigmoid(Z_m [x_1; ...; x_M])`` for each and
    ``h = sum of z_m * h_m``. A linear layer makes the prediction from h.

    The equations are the article's, and have no biases. In the authors' code (github.com/johnarevalo/gmu-mmimdb) the gate
    acts on the projected features ``W_m x_m``, batch normalization comes first, and the weights start within 0.005; here
    the gate acts on the inputs and the weights start as torch's. Their classifier is a maxout network for several labels
    at once; that one linear layer takes its place is our choice.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        hidden: width of h; 512 is that of the authors' code.
    """

    def __init__(self, widths: Sequence[int], out_features: int, *, hidden: int = 512) -> None:
        super().__init__(widths, out_features)
        self.hidden = check_integer("hidden", hidden, advice="it is the width of the joint representation")
        gates = 1 if len(self.widths) == 2 else len(self.widths)
        self.projections = nn.ModuleList(nn.Linear(width, hidden, bias=False) for width in self.widths)
        self.gate = nn.Linear(sum(self.widths), gates * hidden, bias=False)
        self.head = nn.Linear(hidden, out_features)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``.

        An absent modality enters the gates as zeros. Where one of two is absent, the other's weight is one.
        """
        parts = self.read(vectors, present)
        # without a bias tanh(W 0) is 0: an absent modality's term is zero
        own = torch.stack([torch.tanh(layer(x)) for layer, x in zip(self.projections, parts, strict=True)], dim=1)
        z = torch.sigmoid(self.gate(torch.cat(parts, dim=1))).unflatten(1, (-1, self.hidden))  # (B, 1 or M, H)
        if len(parts) == 2:
            z = torch.cat([z, 1 - z], dim=1)
            if present is not None:  # z and 1 - z, renormalized over the present
                z = torch.where(present.all(1)[:, None, None], z, present[:, :, None].to(z.dtype))
        prediction: Tensor = self.head((z * own).sum(1))  # h = sum of z_m * h_m
        return prediction
