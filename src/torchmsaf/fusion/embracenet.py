"""EmbraceNet (early fusion).

Choi and Lee, "EmbraceNet: A robust deep learning architecture for multimodal classification", Information Fusion 51,
2019, arXiv 1904.09078.
"""

# B batch, M modalities, D_m width of modality m, C width of the embracement, K classes (1 in regression)

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import EarlyFusion
from torchmsaf.ops.checks import check_boolean, check_integer, check_share


class EmbraceNet(EarlyFusion):
    """Every coordinate of the joint vector is taken from one modality, drawn at random.

    Docking: ``d_m = ReLU(W_m x_m + b_m)``. Embracement: for each sample and coordinate j an index ``m_j`` is drawn, with
    probabilities ``p_m = prior_m present_m / sum over n of prior_n present_n``, and ``e_j = d_{m_j, j}``. A linear layer
    makes the prediction from e.

    The authors' code (github.com/idearibosome/embracenet) draws in evaluation too. Here evaluation takes the expectation,
    ``e = sum of p_m d_m``, so that it is deterministic; that is our choice, and ``sample_in_evaluation`` undoes it. All
    draws are from torch's global generator on the device of the vectors.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
        hidden: C; 256 is the default of the authors' code, whose example has 512.
        prior: one positive number a modality, of any sum; None = all the same, as in the authors' code.
        modality_dropout: probability that, in a training batch, each sample keeps one of its present modalities, drawn
            evenly. The authors' example has it as an option, with probability 0.5.
        sample_in_evaluation: draw in evaluation as in training.
    """

    log_prior: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        out_features: int,
        *,
        hidden: int = 256,
        prior: Sequence[float] | None = None,
        modality_dropout: float = 0.0,
        sample_in_evaluation: bool = False,
    ) -> None:
        super().__init__(widths, out_features)
        self.hidden = check_integer("hidden", hidden, advice="it is the width of the embracement")
        self.modality_dropout = check_share("modality_dropout", modality_dropout, said="a probability in [0, 1]")
        logs = torch.tensor([math.log(p) for p in _check_prior(prior, len(self.widths))])
        self.register_buffer("log_prior", logs, persistent=False)
        self.sample_in_evaluation = check_boolean("sample_in_evaluation", sample_in_evaluation)
        self.docking = nn.ModuleList(nn.Linear(width, hidden) for width in self.widths)
        self.head = nn.Linear(hidden, out_features)

    def forward(self, vectors: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, D_m)`` to ``(B, K)``; an absent modality is never drawn, and with none e is zeros."""
        parts = self.read(vectors, present)
        docked = torch.stack([torch.relu(layer(x)) for layer, x in zip(self.docking, parts, strict=True)], dim=1)
        if present is None:
            available = torch.ones(docked.shape[:2], dtype=torch.bool, device=docked.device)
        else:
            docked = torch.where(present[:, :, None], docked, 0)
            available = present
        if self.training and self.modality_dropout > 0:
            kept = torch.rand((), device=docked.device) < self.modality_dropout
            available = torch.where(kept, keep_one(available), available)
        prediction: Tensor = self.head(self._embrace(docked, available))
        return prediction

    def _embrace(self, docked: Tensor, available: Tensor) -> Tensor:
        """Docked vectors ``(B, M, C)`` and what may be drawn, ``(B, M)``, to e, ``(B, C)``."""
        nothing = ~available.any(1, keepdim=True)
        logs = self.log_prior.to(docked.device).expand(available.shape).masked_fill(~(available | nothing), -math.inf)
        p = torch.softmax(logs, dim=1)  # prior_m present_m / sum of prior_n present_n
        if not self.training and not self.sample_in_evaluation:
            return (p.to(docked.dtype)[:, :, None] * docked).sum(1)  # e = sum of p_m d_m
        # one must be drawn even where nothing is present; there all docked vectors are zeros
        drawn = torch.multinomial(p, self.hidden, replacement=True)
        return docked.gather(1, drawn[:, None, :]).squeeze(1)  # e_j = d_{m_j, j}


def keep_one(available: Tensor) -> Tensor:
    """One of the available modalities of each sample, drawn evenly: booleans ``(B, M)`` to booleans ``(B, M)``."""
    score = torch.where(available, torch.rand(available.shape, device=available.device), -1)
    first = torch.zeros_like(available).scatter(1, score.argmax(1, keepdim=True), True)
    return first & available


def _check_prior(prior: Sequence[float] | None, modalities: int) -> tuple[float, ...]:
    if prior is None:
        return (1.0,) * modalities
    good = isinstance(prior, list | tuple) and len(prior) == modalities
    if not good or not all(isinstance(p, int | float) and not isinstance(p, bool) and 0 < p < math.inf for p in prior):
        raise FusionInputError(f"prior is one positive number a modality, {modalities} in all, or None, got {prior!r}")
    return tuple(prior)
