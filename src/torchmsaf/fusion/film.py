"""FiLM (intermediate fusion).

Perez, Strub, de Vries, Dumoulin and Courville, "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018,
arXiv 1709.07871.
"""

# B batch, M modalities, C_m channels of modality m

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import TrainingRule
from torchmsaf.ops.checks import check_boolean, check_channels, is_integer
from torchmsaf.ops.gating import pool_maps
from torchmsaf.ops.support import blank, make_supports


class FiLM(TrainingRule, nn.Module):
    """Scale and shift the channels of each modality by what the others say.

    ``x_m * gamma_m + beta_m``, with ``[gamma_m - 1; beta_m] = b_m + sum over j != m of W_mj GAP(x_j)``.

    That gamma is one plus a learned difference is the article's. There language conditions vision, and a recurrent network
    reads the language. Here means over positions stand in its place, and every modality conditions every other: both are
    ours. ``modulated=(0,)`` of (vision, language) is the article's direction.

    Args:
        channels: channel count of each modality, two or more.
        modulated: positions of the modalities that are scaled and shifted, None = all. The others condition them, and pass
            unchanged.
        identity_start: W and b start at zero, so that the maps come out as they came. Ours.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        modulated: Sequence[int] | None = None,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        check_boolean("identity_start", identity_start)
        if len(self.channels) < 2:
            raise FusionInputError(f"FiLM conditions one modality on others: give 2 or more modalities, got {channels}")
        self.modulated = _check_modulated(modulated, len(self.channels))
        total = sum(self.channels)
        # one layer a modality: the columns of its weight are the W_mj side by side, its bias is b_m
        self.conditions = nn.ModuleList(
            nn.Linear(total - self.channels[m], 2 * self.channels[m]) for m in self.modulated
        )
        if identity_start:
            for parameter in self.conditions.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """Maps ``(B, C_m, *positions)`` to maps of the same shapes.

        An absent modality adds nothing to the sum. Masked positions and absent modalities come out as zeros.
        """
        weight = next(self.parameters())
        descriptors, _, rescale = pool_maps(features, masks, present, channels=self.channels, parameter=weight)
        means = [d.to(weight.dtype) for d in descriptors]
        gammas = [torch.ones_like(d) for d in means]
        betas: dict[int, Tensor] = {}
        for m, layer in zip(self.modulated, self.conditions, strict=True):
            others = torch.cat([d for j, d in enumerate(means) if j != m], dim=1)
            difference, betas[m] = layer(others).chunk(2, dim=1)
            gammas[m] = 1 + difference
        maps = rescale(gammas)
        keeps = _where_real(features, masks, present)
        for m, beta in betas.items():
            shift = beta.to(maps[m].dtype)[(...,) + (None,) * (maps[m].dim() - 2)]
            keep = keeps[m]
            maps[m] = maps[m] + (shift if keep is None else blank(shift, keep))
        return maps


def _check_modulated(modulated: Sequence[int] | None, modalities: int) -> tuple[int, ...]:
    if modulated is None:
        return tuple(range(modalities))
    listed = isinstance(modulated, list | tuple | range)
    if not listed or not modulated or not all(is_integer(m) and 0 <= m < modalities for m in modulated):
        raise FusionInputError(
            f"modulated is the positions of one or more of the {modalities} modalities, such as (0,), or None = all, "
            f"got {modulated!r}"
        )
    if len(set(modulated)) < len(modulated):
        raise FusionInputError(f"modulated names each modality once, got {modulated!r}")
    return tuple(int(m) for m in modulated)


def _where_real(
    features: Sequence[Tensor], masks: Sequence[Tensor | None] | None, present: Tensor | None
) -> list[Tensor | None]:
    """``(B, 1, *positions)`` booleans a modality, positions of size one where samples are real as a whole; None = all."""
    if masks is None and present is None:
        return [None] * len(features)
    said = [None] * len(features) if masks is None else masks
    dims = [2] * len(features)
    supports, _ = make_supports(features, said, present, segments=1, segment_dims=dims, dtype=torch.float32)
    return [None if support is None else support.keep for support in supports]
