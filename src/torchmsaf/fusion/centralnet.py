"""CentralNet (intermediate fusion).

Vielzeuf, Lechervy, Pateux and Jurie, "CentralNet: a Multilayer Approach for Multimodal Fusion", ECCV Workshops 2018,
arXiv 1808.07275.
"""

# B batch, C_m channels of modality m, D width of the central branch, K outputs

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import BranchFusion, Criterion
from torchmsaf.fusion.own_losses import own_losses
from torchmsaf.ops.checks import check_channels, check_integer
from torchmsaf.ops.gating import pool_maps


class CentralNet(BranchFusion):
    """One point of a central network that grows beside the others and leaves their maps as they are.

    ``h' = f(alpha_C h + sum over m of alpha_m P_m GAP(A_m))``, where h is the branch of the point before (none at the
    first), every alpha is a trainable scalar and f a linear layer with ReLU. The prediction is a linear layer of the last
    branch. The loss is that of the prediction plus those of all networks' own predictions, with weight one each.

    The equation, the scalars and the sum of losses are the article's as we recall it, and as its re-implementation in
    github.com/juanmanpr/mfas has them. Guesses: the article wants hidden layers of one shape, and P_m, a linear map without
    bias of the pooled map, brings them there whatever their rank; the width; and the start of the alphas, which
    is even, where that re-implementation draws them from (0, 1).

    Args:
        channels: channel count of each modality, one or more.
        width: D, the same at all points; a guess.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 64) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        self.branch_width = check_integer("width", width, advice="it is the width of the central branch")
        count = len(self.channels)
        self.projections = nn.ModuleList(nn.Linear(number, width, bias=False) for number in self.channels)
        self.alpha = nn.Parameter(torch.full((count,), 1 / (count + 1)))
        self.alpha_central = nn.Parameter(torch.tensor(1 / (count + 1)))
        self.layer = nn.Linear(width, width)

    def grow(
        self,
        features: Sequence[Tensor],
        branch: Tensor | None,
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Maps ``(B, C_m, *positions)``, unchanged, and the branch ``(B, D)``.

        Masked positions and absent modalities add nothing to the branch and come out as zeros.

        Raises:
            FusionInputError: maps or a branch of another shape.
        """
        weight = self.layer.weight
        descriptors, _, rescale = pool_maps(features, masks, present, channels=self.channels, parameter=weight)
        shape = (descriptors[0].shape[0], self.branch_width)  # not len(), which fixes the batch of an exported program
        if branch is None:
            branch = weight.new_zeros(shape)
        elif branch.shape != shape:
            raise FusionInputError(
                f"branch: expected (B, width) = {shape}, got {tuple(branch.shape)}; "
                "all points of a CentralNet have the same width"
            )
        total = self.alpha_central * branch
        for alpha, project, pooled in zip(self.alpha, self.projections, descriptors, strict=True):
            total = total + alpha * project(pooled.to(weight.dtype))
        return rescale([torch.ones_like(pooled) for pooled in descriptors]), torch.relu(self.layer(total))

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """The task's loss of the central prediction, plus that of each network's own on the samples that have it."""
        return criterion(prediction, target) + own_losses(parts, target, present, criterion)
