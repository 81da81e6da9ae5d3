"""LMF, low-rank multimodal fusion (early fusion).

Liu, Shen, Lakshminarasimhan, Liang, Zadeh and Morency, "Efficient Low-rank Multimodal Fusion with Modality-Specific
Factors", ACL 2018, arXiv 1806.00064.
"""

# B batch, D_m width of modality m, R rank, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.ops.checks import check_integer


class LMF(EarlyFusion):
    """A linear layer on the outer product of all modalities, each with a 1 appended, of low rank, so never written out.

    ``y = sum over r of w_r prod over m of ([1; x_m] W_m^(r)) + b``, the product taken entry by entry of K.

    It equals TFN's tensor times a weight of (D_1 + 1) x ... x (D_M + 1) x K with rank R. The weights w, the bias, Xavier's
    normal initialization of the factors and of w, and a bias of zero are of the authors' code
    (github.com/Justin1904/Low-rank-Multimodal-Fusion); its initialization takes the fan of a factor ``(R, D_m + 1, K)`` as
    torch does, from its first two axes. The authors search the rank in {1, 4, 8, 16}; 4 as the default is a guess among
    these, and what the MMSA library takes for CMU-MOSEI. The authors' sub-networks are left out, as networks come before,
    and so is a learning rate of their own for the factors. The output is not squashed, as in their regression.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        rank: R.
    """

    def __init__(self, widths: Sequence[int], out_features: int, *, rank: int = 4) -> None:
        super().__init__(widths, out_features)
        check_integer("rank", rank, advice="the authors search 1, 4, 8 and 16")
        self.factors = nn.ParameterList(torch.empty(rank, width + 1, out_features) for width in self.widths)
        self.weights = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(1, out_features))
        for parameter in (*self.factors, self.weights):
            nn.init.xavier_normal_(parameter)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; of an absent modality only the 1 is left."""
        product = None
        for x, factor in zip(self.read(vectors, present), self.factors, strict=True):
            term = torch.cat([x.new_ones(x.shape[0], 1), x], dim=1) @ factor  # [1; x_m] W_m^(r): (R, B, K)
            product = term if product is None else product * term
        assert product is not None
        return torch.einsum("r,rbk->bk", self.weights[0], product) + self.bias
