"""MMTM (intermediate fusion).

Vaezi Joze, Shaban, Iuzzolino and Koishida, "MMTM: Multimodal Transfer Module for CNN Fusion", CVPR 2020,
arXiv 1911.08670.
"""

# B batch, C_m channels of modality m, Z width of the joint representation

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import TrainingRule
from torchmsaf.ops.checks import check_boolean, check_channels, check_number
from torchmsaf.ops.gating import open_gates, pool_maps


class MMTM(TrainingRule, nn.Module):
    """Squeeze all modalities into one vector, excite the channels of each by it.

    ``z = ReLU(W [GAP(A_1); ...; GAP(A_M)] + b)``, then ``A_m * gate_scale * sigmoid(W_m z + b_m)``.

    The width of z is floor(2 * sum of C_m / ratio) as in the authors' code (github.com/haamoon/mmtm); MSAF's published FLOPs
    confirm it. The article's text is remembered as having half of it and a gate of 2 sigmoid: that is a recollection.

    Args:
        channels: channel count of each modality, one or more.
        ratio: reduction; the authors use 4.
        gate_scale: factor on the sigmoid, 1 as in the code or 2.
        identity_start: the excitation layers start at zero, so that with ``gate_scale=2`` the gates start at one.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        ratio: float = 4,
        gate_scale: float = 1.0,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        check_boolean("identity_start", identity_start)
        check_number("ratio", ratio)
        self.gate_scale = check_number("gate_scale", gate_scale)
        total = sum(self.channels)
        width = int(2 * total / ratio) if ratio > 0 else 0
        if width < 1:
            raise FusionInputError(
                f"ratio={ratio} leaves no channel of 2 * {total}; choose a ratio in (0, {2 * total}]"
            )
        self.squeeze = nn.Linear(total, width)
        self.activation = nn.ReLU()
        self.excite = nn.ModuleList(nn.Linear(width, count) for count in self.channels)
        if identity_start:
            open_gates(self.excite, gate_scale)

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """Maps ``(B, C_m, *positions)`` to maps of the same shapes.

        Masked positions and absent modalities add nothing to the squeeze and come out as zeros.
        """
        weight = self.squeeze.weight
        descriptors, _, rescale = pool_maps(features, masks, present, channels=self.channels, parameter=weight)
        joint = self.activation(self.squeeze(torch.cat(descriptors, dim=1).to(weight.dtype)))
        return rescale([self.gate_scale * torch.sigmoid(layer(joint)) for layer in self.excite])
