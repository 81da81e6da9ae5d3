"""MCBP, multimodal compact bilinear pooling (early fusion).

Fukui, Park, Yang, Rohrbach, Darrell and Rohrbach, "Multimodal Compact Bilinear Pooling for Visual Question Answering and
Visual Grounding", EMNLP 2016, arXiv 1606.01847.
"""

# B batch, D_m width of modality m, d bins of the sketch, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.fusion.fully_connected import fully_connected
from torchmsaf.fusion.outer_sketch import OuterSketch
from torchmsaf.ops.checks import check_integer, check_share, check_widths


class MCBP(EarlyFusion):
    """A random sketch of the outer product of all modalities, dropout, then fully connected layers.

    ``psi_m(x)_j = sum over i with h_m,i = j of s_m,i x_i`` with random bins h_m and signs s_m, drawn once and kept;
    ``z = irfft(rfft(psi_1(x_1)) * ... * rfft(psi_M(x_M)))``; ``y = sign(z) sqrt(|z|)``; the prediction is
    ``W dropout(y / ||y||) + b``, without ``hidden`` layers.

    16,000 bins, dropout of 0.1 after the norm and one linear layer are of the authors' code (github.com/akirafukui/vqa-mcb,
    train/v4), which fuses two modalities; more than two are ours. Their attention over places of an image is not here. The
    square root is smoothed at zero, see :func:`torchmsaf.ops.sketch.normalize_sketch`.

    MSAF's Table 1 compares with it and prints 51.03 M parameters but not its layers. No natural configuration has that
    many: the default adds 128,008 to MSAF's two networks, and one hidden layer on the sketch needs a width that is not
    round. So torchmsaf does not claim to be what was measured there. ``project`` and ``hidden`` are ours, to build other
    guesses.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        sketch_size: d.
        project: width to which each modality is projected first, by a linear layer; None = no projection.
        hidden: widths of hidden layers with ReLU between the sketch and the prediction.
        dropout: probability of dropping a bin of the normalized sketch.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_features: int,
        *,
        sketch_size: int = 16000,
        project: int | None = None,
        hidden: Sequence[int] = (),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(widths, out_features)
        check_integer("sketch_size", sketch_size, advice="the authors have 16000")
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        if project is not None:
            check_integer("project", project, advice="None is no projection")
        check_widths("hidden", hidden, example="[3000]")
        self.projections = nn.ModuleList(nn.Linear(width, project) for width in self.widths) if project else None
        self.sketch = OuterSketch([project] * len(self.widths) if project else self.widths, sketch_size)
        self.layers = fully_connected(sketch_size, hidden, out_features, dropout=dropout)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; an absent modality is left out of the product."""
        parts = self.read(vectors, present)
        if self.projections is not None:
            parts = [layer(part) for layer, part in zip(self.projections, parts, strict=True)]
        prediction: Tensor = self.layers(self.sketch(parts, present))
        return prediction
