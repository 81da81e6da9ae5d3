"""Squeeze-and-excitation (intermediate, each modality by itself).

Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507.
"""

# B batch, C_m channels of modality m

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.fusion.base import TrainingRule
from torchmsaf.ops.checks import check_boolean, check_channels, check_integer, check_number
from torchmsaf.ops.gating import open_gates, pool_maps


class SqueezeExcitation(TrainingRule, nn.Module):
    """Gate the channels of each modality by its own means. Nothing goes from one modality to another.

    ``s_m = gate_scale * sigmoid(W_2 ReLU(W_1 GAP(x_m) + b_1) + b_2)``, then ``x_m * s_m``.

    It is the control for methods that exchange: what they gain beyond it is not gained by gating alone. The reduction of 16
    is the article's. Both layers have biases, as ``nn.Linear`` has them; the article's equation and its count of
    parameters have none. Its blocks have more than 16 channels: an inner width of at least 1 for smaller ones is ours. So
    are ``gate_scale`` and the identity start, which are as in our MMTM.

    Args:
        channels: channel count of each modality, one or more.
        reduction: the inner width is ``max(1, C_m // reduction)``.
        gate_scale: factor on the sigmoid, 1 as in the article or 2.
        identity_start: the second layers start at zero, so that with ``gate_scale=2`` the gates start at one.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        reduction: int = 16,
        gate_scale: float = 1.0,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        check_boolean("identity_start", identity_start)
        check_integer("reduction", reduction, advice="the inner width is the channels divided by it")
        self.gate_scale = check_number("gate_scale", gate_scale)
        widths = [max(1, count // reduction) for count in self.channels]
        self.squeeze = nn.ModuleList(nn.Linear(c, width) for c, width in zip(self.channels, widths, strict=True))
        self.excite = nn.ModuleList(nn.Linear(width, c) for c, width in zip(self.channels, widths, strict=True))
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

        Masked positions are left out of the means. They and absent modalities come out as zeros.
        """
        weight = next(self.parameters())
        descriptors, _, rescale = pool_maps(features, masks, present, channels=self.channels, parameter=weight)
        layers = zip(descriptors, self.squeeze, self.excite, strict=True)
        return rescale(
            [self.gate_scale * torch.sigmoid(w2(torch.relu(w1(d.to(weight.dtype))))) for d, w1, w2 in layers]
        )
