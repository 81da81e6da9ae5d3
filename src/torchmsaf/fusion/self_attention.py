"""Self-attention over the modalities (early fusion).

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv 1706.03762, as in the fusion step of Hazarika, Zimmermann
and Poria, "MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis", ACM Multimedia 2020,
arXiv 2005.03545.
"""

# B batch, M modalities, D_m width of modality m, T tokens a modality, H width of a token, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.ops.checks import check_integer, check_share


class SelfAttention(EarlyFusion):
    """Tokens of all modalities attend to each other in one layer of a transformer.

    ``s_m = W_m x_m + b_m + e_m``, T tokens with the modality's learned embedding e_m. For the sequence s of all tokens,
    ``u = LN(s + attention(s, s, s))`` and ``v = LN(u + W_2 ReLU(W_1 u))``, biases left out here. A linear layer makes the
    prediction from all of v side by side.

    The layer, its width of 128, 2 heads, 2048 in the feed-forward layer and dropout are those of MISA's code
    (github.com/declare-lab/MISA). What differs: MISA has six tokens, a private and a shared one a modality, without
    embeddings, and two linear layers at the end. The embeddings, which start at a standard deviation of 0.02, the
    one token a modality and the one linear layer are our choice.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        hidden: H, a multiple of ``heads``.
        heads: of the attention.
        tokens: T.
        dropout: probability, in the attention and in both halves of the layer.
        feed_forward: width of the feed-forward layer.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_features: int,
        *,
        hidden: int = 128,
        heads: int = 2,
        tokens: int = 1,
        dropout: float = 0.1,
        feed_forward: int = 2048,
    ) -> None:
        super().__init__(widths, out_features)
        check_attention(hidden, heads, tokens, dropout)
        check_integer("feed_forward", feed_forward, advice="it is the width of the feed-forward layer")
        self.tokens = tokens
        self.projections = nn.ModuleList(nn.Linear(width, tokens * hidden) for width in self.widths)
        self.embeddings = nn.Parameter(torch.empty(len(self.widths), hidden).normal_(std=0.02))
        # tokens come first: torch's shortcut for evaluation, which needs the batch first, is left alone
        self.layer = nn.TransformerEncoderLayer(hidden, heads, feed_forward, dropout, batch_first=False)
        self.head = nn.Linear(len(self.widths) * tokens * hidden, out_features)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; an absent modality's tokens are not attended to and leave as zeros."""
        parts = self.read(vectors, present)
        pairs = zip(self.projections, parts, self.embeddings, strict=True)
        sequence = torch.cat([layer(x).unflatten(1, (self.tokens, -1)) + e for layer, x, e in pairs], dim=1)
        if present is None:
            outcome: Tensor = self.layer(sequence.transpose(0, 1)).transpose(0, 1)
        else:
            here = present.repeat_interleave(self.tokens, dim=1)  # (B, M T)
            sequence = torch.where(here[:, :, None], sequence, 0)
            # softmax over nothing is NaN in some kernels: a sample without any attends to zeros, and is blanked too
            ignored = ~here & here.any(1, keepdim=True)
            outcome = self.layer(sequence.transpose(0, 1), src_key_padding_mask=ignored).transpose(0, 1)
            outcome = torch.where(here[:, :, None], outcome, 0)
        prediction: Tensor = self.head(outcome.flatten(1))
        return prediction


def check_attention(hidden: int, heads: int, tokens: int, dropout: float) -> None:
    """The options of a method with attention."""
    check_integer("hidden", hidden, advice="it is the width of a token")
    check_integer("heads", heads, advice="1 is plain attention")
    check_integer("tokens", tokens, advice="it is the number of tokens a modality")
    check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
    if hidden % heads:
        raise FusionInputError(f"hidden={hidden} cannot be shared among heads={heads}; choose heads that divide hidden")
