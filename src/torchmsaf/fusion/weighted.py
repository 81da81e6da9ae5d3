"""Weighted sum of predictions (late fusion).

One of the ways of late fusion that Sec. 2 of Su, Hu, Li and Cao, "MSAF: Multimodal Split Attention Fusion", arXiv
2012.07175, 2020, names.
"""

# B batch, n validation samples, M modalities, K classes (1 in regression)

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion, LateFusion
from torchmsaf.fusion.own_losses import own_losses
from torchmsaf.ops.checks import check_number

MOST_POINTS = 20_000
_ROUND_STEPS = (0.01, 0.02, 0.025, 0.04, 0.05, 0.1, 0.125, 0.2, 0.25, 0.5)


class WeightedSum(LateFusion):
    """p = sum of w_m p_m with w >= 0 and sum of w = 1, one weight a modality; in regression the sum of w_m times the value.

    The weights start even and are chosen on validation samples, once the networks are trained, each from its own loss: of
    the even weights and all those that are multiples of ``step``, the ones with the least loss of the fused prediction,
    and among equals the ones nearest to even. The article says nothing of how weights are chosen: that they are, from a
    grid, and its step are guesses.

    Weights are renormalized over the present modalities. Where all of these have weight 0 they count the same. Where no
    modality is present the answer is even (0 in regression).

    Args:
        modalities: M.
        regression: the predictions are values.
        step: of the grid; 1 / step is a whole number, and the grid has at most 20,000 points.

    Attributes:
        weights: ``(M,)``, in the state dict.
    """

    fits_on_validation = True
    weights: Tensor

    def __init__(self, modalities: int, *, regression: bool = False, step: float = 0.05) -> None:
        super().__init__(modalities, regression=regression)
        self.steps = _whole_steps(step)
        if _points(self.steps, modalities) > MOST_POINTS:
            fits = next((s for s in _ROUND_STEPS if _points(round(1 / s), modalities) <= MOST_POINTS), 1)
            raise FusionInputError(
                f"step={step!r} with {modalities} modalities is a grid of {_points(self.steps, modalities):,} points, and "
                f"at most {MOST_POINTS:,} are tried; use step={fits} or larger"
            )
        self.register_buffer("weights", torch.full((modalities,), 1 / modalities))

    def forward(self, logits: Sequence[Tensor], *, present: Tensor | None = None) -> Tensor:
        """Logits ``(B, K)`` a modality to log-probabilities ``(B, K)``; values to values in regression."""
        stacked, here = self.read(logits, present)
        share = _shares(here, self.weights)
        if self.regression:
            return _mixed(share, stacked)
        # in the log domain, where nothing underflows: a share of 0 counts as log 0
        limits = torch.finfo(stacked.dtype)
        logs = torch.log_softmax(stacked, dim=2) + share.clamp(min=limits.tiny).log()
        mixed = torch.logsumexp(logs.masked_fill(share == 0, limits.min), dim=0)
        return torch.where(here.sum(0) > 0, mixed, 0)

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """Sum of the networks' own losses, each on the samples that have its modality."""
        return own_losses(parts, target, present, criterion)

    @torch.no_grad()
    def fit(self, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion) -> None:
        """Choose the weights, from predictions ``(n, K)`` of validation samples.

        They stay as they are where no sample has a modality, or no weights have a finite loss.
        """
        stacked, here = self.read(parts, present)
        rows = here.sum(0)[:, 0] > 0
        if not bool(rows.any()):
            return
        # in float64: what rounding makes of weights that are equally good must not choose between them
        values, here, truth = stacked[:, rows].double(), here[:, rows].double(), target[rows]
        values = values if self.regression else values.softmax(2)
        truth = truth.double() if truth.is_floating_point() else truth
        grid = sorted(_compositions(self.steps, self.modalities), key=lambda point: sum(c * c for c in point))
        even = values.new_full((self.modalities,), 1 / self.modalities)
        points = [even, *values.new_tensor(grid) / self.steps]
        losses = []
        for weights in points:
            mixed = _mixed(_shares(here, weights), values)
            losses.append(float(criterion(mixed if self.regression else mixed.clamp(min=1e-300).log(), truth)))
        least = min((loss for loss in losses if math.isfinite(loss)), default=None)
        if least is not None:
            first = next(i for i, loss in enumerate(losses) if loss <= least + 1e-9 * max(1.0, abs(least)))
            self.weights.copy_(points[first])


def _shares(here: Tensor, weights: Tensor) -> Tensor:
    """Weights ``(M,)`` renormalized over presence ``(M, B, 1)``, of its shape; zeros where nothing is present."""
    share = weights.to(here)[:, None, None] * here
    share = torch.where(share.sum(0) > 0, share, here)
    total = share.sum(0)
    return share / torch.where(total > 0, total, 1)


def _mixed(share: Tensor, values: Tensor) -> Tensor:
    """The sum of ``(M, B, K)`` by shares ``(M, B, 1)``; what has no share changes nothing, whatever it is."""
    return torch.where(share > 0, share * values, 0).sum(0)


def _whole_steps(step: float) -> int:
    """1 / step."""
    if not 1e-4 <= check_number("step", step) <= 1 or abs(1 / step - round(1 / step)) > 1e-6:
        raise FusionInputError(f"step must divide 1, such as 0.05, 0.1 or 0.25, got {step!r}")
    return round(1 / step)


def _points(steps: int, modalities: int) -> int:
    """How many points :func:`_compositions` has."""
    return math.comb(steps + modalities - 1, modalities - 1)


def _compositions(steps: int, modalities: int) -> Iterator[tuple[int, ...]]:
    """All ways to share that many steps among the modalities."""
    for bars in itertools.combinations(range(steps + modalities - 1), modalities - 1):
        edges = (-1, *bars, steps + modalities - 1)
        yield tuple(b - a - 1 for a, b in itertools.pairwise(edges))
