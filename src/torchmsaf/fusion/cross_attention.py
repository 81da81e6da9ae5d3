"""Cross-attention between the modalities (early fusion).

After the crossmodal attention of Tsai, Bai, Liang, Kolter, Morency and Salakhutdinov, "Multimodal Transformer for Unaligned
Multimodal Language Sequences", ACL 2019, arXiv 1906.00295.
"""

# B batch, M modalities, D_m width of modality m, T tokens a modality, H width of a token, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.fusion.self_attention import check_attention


class CrossAttention(EarlyFusion):
    """The tokens of each modality attend to those of all others.

    ``s_m = W_m x_m + b_m``, T tokens. With ``o_m`` the tokens of all other modalities,
    ``u_m = s_m + attention(LN(s_m), LN(o_m), LN(o_m))`` and ``v_m = u_m + W_2 ReLU(W_1 LN'(u_m))``, biases left out here.
    ``LN''([mean of v_1; ...; mean of v_M])``, means over tokens, goes through a linear layer to the prediction.

    The article has sequences, a stack of such layers for every ordered pair of modalities, and transformers over their
    outputs. One layer for each modality, on tokens made from a feature vector, is ours: a plain baseline. From the authors'
    code (github.com/yaohungt/Multimodal-Transformer) are the layer norms before the attention, one for queries and keys, the
    feed-forward layer of 4 H and the dropout. The width, the heads and the tokens are our choice.

    Args:
        widths: width of each modality's feature vector, two or more.
        out_features: K.
        hidden: H, a multiple of ``heads``.
        heads: of the attention.
        tokens: T.
        dropout: probability, in the attention and in both halves of a layer.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_features: int,
        *,
        hidden: int = 128,
        heads: int = 2,
        tokens: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(widths, out_features)
        if len(self.widths) < 2:
            raise FusionInputError(f"attention to the others needs 2 or more modalities, got widths {self.widths}")
        check_attention(hidden, heads, tokens, dropout)
        self.tokens = tokens
        self.projections = nn.ModuleList(nn.Linear(width, tokens * hidden) for width in self.widths)
        self.blocks = nn.ModuleList(_Block(hidden, heads, dropout) for _ in self.widths)
        self.norm = nn.LayerNorm(len(self.widths) * hidden)
        self.head = nn.Linear(len(self.widths) * hidden, out_features)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``.

        An absent modality is not attended to, and its mean is zeros. Where all others are absent attention adds nothing.
        """
        parts = self.read(vectors, present)
        tokens = [layer(x).unflatten(1, (self.tokens, -1)) for layer, x in zip(self.projections, parts, strict=True)]
        means = []
        for m, block in enumerate(self.blocks):
            others = [n for n in range(len(parts)) if n != m]
            here = None if present is None else present[:, others].repeat_interleave(self.tokens, dim=1)
            mean = block(tokens[m], torch.cat([tokens[n] for n in others], dim=1), here).mean(1)
            means.append(mean if present is None else torch.where(present[:, m, None], mean, 0))
        prediction: Tensor = self.head(self.norm(torch.cat(means, dim=1)))
        return prediction


class _Block(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.attention = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.feed = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, 4 * hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * hidden, hidden),
            nn.Dropout(dropout),
        )

    def forward(self, own: Tensor, others: Tensor, here: Tensor | None) -> Tensor:
        """Own tokens ``(B, T, H)``, the others' ``(B, N, H)`` and which of these are present, ``(B, N)`` or None = all."""
        keys = self.norm(others)
        if here is None:
            seen, _ = self.attention(self.norm(own), keys, keys, need_weights=False)
        else:
            # softmax over nothing is NaN in some kernels: a sample without others sees all, and that is blanked
            some = here.any(1, keepdim=True)
            seen, _ = self.attention(self.norm(own), keys, keys, key_padding_mask=~here & some, need_weights=False)
            seen = torch.where(some[:, :, None], seen, 0)
        own = own + self.dropout(seen)  # u_m
        updated: Tensor = own + self.feed(own)  # v_m
        return updated
