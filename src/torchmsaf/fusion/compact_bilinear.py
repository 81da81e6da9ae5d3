"""Compact bilinear pooling (early fusion).

Gao, Beijbom, Zhang and Darrell, "Compact Bilinear Pooling", CVPR 2016, arXiv 1511.06062.
"""

# B batch, D_m width of modality m, d bins of the sketch, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.fusion.outer_sketch import OuterSketch
from torchmsaf.ops.checks import check_integer


class CompactBilinear(EarlyFusion):
    """A random sketch of the outer product of all modalities, then a linear layer.

    ``psi_m(x)_j = sum over i with h_m,i = j of s_m,i x_i`` with random bins h_m and signs s_m, drawn once and kept;
    ``z = irfft(rfft(psi_1(x_1)) * ... * rfft(psi_M(x_M)))``; ``y = sign(z) sqrt(|z|)``; the prediction is
    ``W y / ||y|| + b``. This is the tensor sketch; the authors' random Maclaurin projection is not here.

    The authors multiply a vector of an image with itself and add up the places of the image. Here the vectors are of
    different modalities and already pooled, so there is nothing to add up: that change is ours. With one modality the
    sketch is of the vector itself. 8192 bins are what the article reports as enough for VGG features (its abstract says "a
    few thousand"); that it suits other networks is a guess. The bins and signs are not trained. The square root is smoothed
    at zero, see :func:`torchmsaf.ops.sketch.normalize_sketch`.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        sketch_size: d.
    """

    def __init__(self, widths: Sequence[int], out_features: int, *, sketch_size: int = 8192) -> None:
        super().__init__(widths, out_features)
        check_integer("sketch_size", sketch_size, advice="the article has 8192")
        self.sketch = OuterSketch(self.widths, sketch_size)
        self.head = nn.Linear(sketch_size, out_features)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; an absent modality is left out of the product."""
        prediction: Tensor = self.head(self.sketch(self.read(vectors, present), present))
        return prediction
