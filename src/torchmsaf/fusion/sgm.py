"""Skeleton-guided fusion (intermediate): a stand-in for SGM-Net.

Li, Xie, Pan, Cao, Zhao and Shi, "SGM-Net: Skeleton-guided multimodal network for action recognition", Pattern Recognition
104:107356, 2020.
"""

# B batch, M modalities, C_m channels of modality m, N positions of one map, D inner width

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import TrainingRule
from torchmsaf.ops.checks import (
    check_channels,
    check_features,
    check_integer,
    check_masks,
    check_present,
    is_integer,
)
from torchmsaf.ops.recalibrate import recalibrate
from torchmsaf.ops.support import Support, blank, make_supports


class SGM(TrainingRule, nn.Module):
    """Weight the positions of one modality by how they go with what the others say.

    With R_x the guided map at position x, and s the mean over positions of a guide:

    - dot product: ``e(x) = (P R_x + p) . (Q s + q) / sqrt(D)``
    - concatenation: ``e(x) = w . [P R_x + p; Q s + q]``

    ``a = sigmoid(e)``, or its softmax over positions, and ``R'_x = R_x + a(x) R_x``. The e of several guides are averaged.

    A guess, and no more. The article was not at hand beyond its abstract, which has a guided block by which the features of
    the skeleton enhance those of the video, and a comparison of two schemes of correlation. The equations here are a simple
    form of both; the article's own are not known. Its two networks are fused late by their scores, as here those of all
    intermediate methods.

    Args:
        channels: channel count of each modality, two or more.
        scheme: ``"dot"`` or ``"concat"``.
        normalize: ``"sigmoid"``, or ``"softmax"`` over positions. Not the softmax of the concatenation: there a guide adds
            the same to all positions, and the softmax takes that out again.
        width: D.
        guided: positions of the modalities that are guided: the first, as video comes before skeletons. All others guide,
            each person of a skeleton by itself, and pass unchanged.

    Raises:
        FusionInputError: an argument out of range; fewer than two modalities.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        scheme: Literal["dot", "concat"] = "dot",
        normalize: Literal["sigmoid", "softmax"] = "sigmoid",
        width: int = 64,
        guided: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        if len(self.channels) < 2:
            raise FusionInputError(f"one modality guides another: give 2 or more modalities, got {channels}")
        for name, said, known in (
            ("scheme", scheme, ("dot", "concat")),
            ("normalize", normalize, ("sigmoid", "softmax")),
        ):
            if said not in known:
                raise FusionInputError(f"{name} is {known[0]!r} or {known[1]!r}, got {said!r}")
        if (scheme, normalize) == ("concat", "softmax"):
            raise FusionInputError(
                "normalize='softmax' takes out what a guide adds to all positions with scheme='concat': "
                "use normalize='sigmoid', or scheme='dot'"
            )
        self.scheme, self.normalize = scheme, normalize
        self.width = check_integer("width", width, advice="of what guided and guide are mapped to")
        self.guided = _check_guided(guided, len(self.channels))
        self.guides = tuple(m for m in range(len(self.channels)) if m not in self.guided)
        self.positions = nn.ModuleList(nn.Linear(self.channels[m], self.width) for m in self.guided)  # P, p
        self.means = nn.ModuleList(nn.Linear(self.channels[m], self.width) for m in self.guides)  # Q, q
        # w of each guided modality: of the position, then of the guide
        self.weights = nn.ParameterList()
        if scheme == "concat":
            bound = 1 / math.sqrt(2 * self.width)
            self.weights.extend(torch.empty(2, self.width).uniform_(-bound, bound) for _ in self.guided)

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """Maps ``(B, C_m, *positions)`` to maps of the same shapes.

        A guide that is absent changes nothing. Masked positions and absent modalities come out as zeros.
        """
        weight = next(self.parameters())
        maps = check_features(features, self.channels, weight)
        supports: list[Support | None] = [None] * len(maps)
        alive = None
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        dims = [2] * len(maps)
        if masks is not None or present is not None:
            real, here = check_masks(masks, maps), check_present(present, maps)
            supports, alive = make_supports(maps, real, here, segments=1, segment_dims=dims, dtype=dtype)
        clean = [x if s is None else blank(x, s.keep) for x, s in zip(maps, supports, strict=True)]
        means, _ = recalibrate(
            [maps[m] for m in self.guides],
            [supports[m] for m in self.guides],
            segments=1,
            segment_dims=[2] * len(self.guides),
            dtype=dtype,
        )
        says = torch.stack([q(s.to(weight.dtype)) for q, s in zip(self.means, means, strict=True)])  # (guides, B, D)
        share = _share(says, None if alive is None else alive[:, list(self.guides)])
        # the e of all guides is linear in what they say: their average is that of the average
        mean = (says * share.unsqueeze(2)).sum(0)
        guided = share.sum(0) > 0  # (B,)
        for n, m in enumerate(self.guided):
            a = self._attention(n, clean[m], mean, supports[m])
            a = torch.where(guided.view(-1, 1, 1), a, 0).view(-1, 1, *clean[m].shape[2:])
            clean[m] = clean[m] + a.to(clean[m].dtype) * clean[m]
        return clean

    def _attention(self, n: int, x: Tensor, mean: Tensor, support: Support | None) -> Tensor:
        """The attention of the n-th guided map ``(B, C, *positions)``, from the guides' mean ``(B, D)``: ``(B, 1, N)``."""
        layer = self.positions[n]
        assert isinstance(layer, nn.Linear)
        if self.scheme == "dot":
            query, constant = mean / math.sqrt(self.width), mean.new_zeros(len(mean))
        else:
            own, of_guide = self.weights[n]
            query, constant = own.expand_as(mean), mean @ of_guide
        # (P R_x + p) . query = R_x . (query P) + query . p: no map of D channels is made
        rows = x.unsqueeze(2).flatten(2).to(mean.dtype)  # (B, C, N)
        scores = torch.bmm((query @ layer.weight).unsqueeze(1), rows)
        scores = scores + (query @ layer.bias + constant).view(-1, 1, 1)
        if self.normalize == "sigmoid":
            return torch.sigmoid(scores)
        if support is not None:
            keep = support.keep.expand(-1, -1, *x.shape[2:]).unsqueeze(2).flatten(2)
            scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=2)


def _share(says: Tensor, alive: Tensor | None) -> Tensor:
    """What each guide has of the average, ``(guides, B)``: the same of all that are there, nothing of the others."""
    if alive is None:
        return says.new_full(says.shape[:2], 1 / len(says))
    here = alive.T.to(says.dtype)
    return here / here.sum(0).clamp(min=1)


def _check_guided(guided: Sequence[int], modalities: int) -> tuple[int, ...]:
    listed = isinstance(guided, list | tuple | range) and len(guided) > 0
    if not listed or not all(is_integer(m) and 0 <= m < modalities for m in guided):
        raise FusionInputError(
            f"guided is the positions of one or more of the {modalities} modalities, such as (0,), got {guided!r}"
        )
    if len(set(guided)) < len(guided) or len(guided) == modalities:
        raise FusionInputError(f"guided names each modality once, and leaves one that guides, got {guided!r}")
    return tuple(int(m) for m in guided)
