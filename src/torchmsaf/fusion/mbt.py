"""Multimodal bottleneck transformer (intermediate fusion).

Nagrani, Yang, Arnab, Jansen, Schmid and Sun, "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021,
arXiv 2107.00135.
"""

# B batch, M modalities, C_m channels and T_m tokens of modality m, N bottleneck tokens, D their width

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.fusion.base import TrainingRule
from torchmsaf.ops.checks import (
    check_boolean,
    check_channels,
    check_features,
    check_integer,
    check_masks,
    check_present,
    check_share,
)
from torchmsaf.ops.support import Support, blank, make_supports


class MBT(TrainingRule, nn.Module):
    """Transformers of the modalities, which meet in a few bottleneck tokens alone.

    In each layer ``[x_m; z_m] = Transformer_m([x_m; z])``, then ``z`` = the mean of z_m over the present modalities.

    A map is read as a sequence: each of its positions is a token, a vector is one token. No positional embedding is added,
    so that the order of positions is not seen here; the networks around see it.

    From the article and its code (google-research/scenic): 4 bottleneck tokens, drawn from N(0, 0.02²), and the mean; layers
    as in ViT, with the norm first, a feed-forward width of four times their own, and GELU. Its modalities are as wide as
    each other, so that it needs no maps between widths. Ours: PyTorch's initial weights; no dropout; two layers a point, the
    fewest by which one modality reaches another; a transformer of width C_m a modality, with gcd(C_m, heads) heads; linear
    maps to and from the width of the bottleneck in each layer where it is not C_m; the identity start; and masks.

    Args:
        channels: channel count of each modality, one or more.
        tokens: N.
        layers: layers of each modality. With one, nothing is exchanged.
        heads: wanted attention heads; a modality has the greatest common divisor of it and C_m.
        width: D; None = the largest C_m.
        dropout: in the transformer layers, a probability in [0, 1).
        identity_start: the last projections of attention and feed-forward layers start at zero, so that the maps come out
            as they came.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        tokens: int = 4,
        layers: int = 2,
        heads: int = 8,
        width: int | None = None,
        dropout: float = 0.0,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        check_boolean("identity_start", identity_start)
        check_integer("tokens", tokens, advice="the article has 4 bottleneck tokens")
        check_integer("layers", layers, advice="2 are the fewest that exchange anything", most=1000)
        check_integer("heads", heads, advice="a modality has the greatest common divisor of it and its channels")
        if width is not None:
            check_integer("width", width, advice="None is the largest channel count")
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        self.width = max(self.channels) if width is None else int(width)
        self.bottleneck = nn.Parameter(torch.empty(tokens, self.width))
        nn.init.normal_(self.bottleneck, std=0.02)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                _Layer(count, self.width, math.gcd(count, heads), dropout, last=n == layers - 1, zero=identity_start)
                for count in self.channels
            )
            for n in range(layers)
        )

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """Maps ``(B, C_m, *positions)`` to maps of the same shapes.

        Masked positions and absent modalities are not attended to, and come out as zeros.
        """
        maps = check_features(features, self.channels, self.bottleneck)
        supports: list[Support | None] = [None] * len(maps)
        alive = None
        if masks is not None or present is not None:
            real, here = check_masks(masks, maps), check_present(present, maps)
            dims = [2] * len(maps)
            supports, alive = make_supports(maps, real, here, segments=1, segment_dims=dims, dtype=torch.float32)
        blanked = [x if s is None else blank(x, s.keep) for x, s in zip(maps, supports, strict=True)]
        tokens = [_as_tokens(x).to(self.bottleneck.dtype) for x in blanked]
        hidden = [None if s is None else _hidden(x, s.keep) for x, s in zip(maps, supports, strict=True)]
        z = self.bottleneck.expand(maps[0].shape[0], -1, -1)
        for n, row in enumerate(self.layers):
            # [x_m; z_m] = Transformer_m([x_m; z]), then z = mean of z_m
            results = [layer(x, z, h) for layer, x, h in zip(row.children(), tokens, hidden, strict=True)]
            tokens = [x for x, _ in results]
            if n + 1 < len(self.layers):
                z = _average([own for _, own in results], alive)
        fused = [y.transpose(1, 2).reshape(x.shape).to(x.dtype) for y, x in zip(tokens, maps, strict=True)]
        return [y if s is None else blank(y, s.keep) for y, s in zip(fused, supports, strict=True)]


class _Layer(nn.Module):
    """One layer of one modality. Nobody reads the bottlenecks of the last one, so it has no map out."""

    def __init__(self, channels: int, width: int, heads: int, dropout: float, *, last: bool, zero: bool) -> None:
        super().__init__()
        same = channels == width
        self.inward = nn.Identity() if same else nn.Linear(width, channels)
        self.outward = nn.Identity() if same or last else nn.Linear(channels, width)
        self.transformer = nn.TransformerEncoderLayer(
            channels, heads, 4 * channels, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        if zero:
            for layer in (self.transformer.self_attn.out_proj, self.transformer.linear2):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, z: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, T, C)``, bottlenecks ``(B, N, D)``, and which tokens are hidden, ``(B, T)``, to both again."""
        if hidden is not None:  # bottlenecks never are, so that no row of the attention is empty
            hidden = torch.cat([hidden, torch.zeros_like(z[..., 0], dtype=torch.bool)], dim=1)
        both = self.transformer(torch.cat([x, self.inward(z)], dim=1), src_key_padding_mask=hidden)
        return both[:, : x.shape[1]], self.outward(both[:, x.shape[1] :])


def _as_tokens(x: Tensor) -> Tensor:
    """``(B, C, *positions)`` to ``(B, T, C)``."""
    return x.unsqueeze(2).flatten(2).transpose(1, 2)


def _hidden(x: Tensor, keep: Tensor) -> Tensor:
    """Which tokens of a map are not real, ``(B, T)``."""
    return _as_tokens(~keep.expand_as(x[:, :1])).squeeze(2)


def _average(bottlenecks: Sequence[Tensor], alive: Tensor | None) -> Tensor:
    """Mean over the present modalities, ``(B, N, D)``; zeros where there is none."""
    stacked = torch.stack(list(bottlenecks))
    if alive is None:
        return stacked.mean(0)
    here = alive.T[:, :, None, None]
    return blank(stacked, here).sum(0) / here.sum(0).clamp(min=1)
