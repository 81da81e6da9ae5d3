"""Models that learn without labels, by the correlation of two views, and predict by a linear layer that is solved for."""

# B batch, M modalities, E entries of the embedding, D width of a view, K outputs (1 in regression)

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion
from torchmsaf.ops.checks import check_integer
from torchmsaf.ops.correlation import canonical_correlation, check_options, least_samples
from torchmsaf.ops.modes import evaluating
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.base import Inputs, Kind, System
from torchmsaf.tasks.systems.linear_predictor import LinearPredictor


@dataclass(frozen=True)
class Pair:
    """Two views of a batch that are to correlate.

    Attributes:
        first: ``(B, D)``.
        second: ``(B, D)``.
        rows: ``(B,)`` booleans: which samples have both.
    """

    first: Tensor
    second: Tensor
    rows: Tensor


class LabelFree(System):
    """A model whose loss is the negative canonical correlation of its views; labels come in with the last layer alone.

    :meth:`refit` solves for the last layer, which training does before each time it measures validation, that before the
    first epoch too; validation chooses the epoch by these predictions. Before it, predictions are zeros. The views end in
    batch norm without weights, which is ours: a correlation is that of the views before it, but for the regularization, and
    a view that a sample has not is zeros, which is the mean. The linear CCA that public code fits to the views after
    training is left out: the linear layer that follows sees the same information, on other axes, which its penalty tells
    apart.

    A batch that is too small for the width is an error, as its views would correlate whatever the data are. Where a batch
    is large enough and too few of its samples have both views, that correlation is left out of its loss.

    Args:
        shapes: modality -> ``(C,)`` or ``(C, T)``, in declared order.
        outputs: K.
        kind: of the task.
        tokens: modality -> vocabulary size, of modalities that are word numbers.
        width: D of each view.
        regularization: r of the covariances.
        count: so many of the largest correlations; None = all.
        batch_size: its own.

    Raises:
        FusionInputError: batch_size is too small for width, or an option is out of range.
    """

    closed_form = True
    predictor: LinearPredictor

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind,
        tokens: Mapping[str, int] | None,
        width: int,
        regularization: float,
        count: int | None,
        batch_size: int,
    ) -> None:
        super().__init__(shapes, outputs, kind=kind, tokens=tokens)
        self.width = check_integer("width", width, advice="of each view")
        self.regularization, self.count = regularization, count
        check_options(regularization, count)
        if count is not None and count > width:
            raise FusionInputError(f"count: views of width {width} have {width} correlations, got {count}")
        self.least_batch = least_samples(width, width)
        self.batch_size = check_integer("batch_size", batch_size, advice="512")
        if batch_size < self.least_batch:
            raise FusionInputError(_too_small(batch_size, width))

    def view(
        self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]
    ) -> tuple[Tensor, list[Pair]]:
        """The embedding ``(B, E)``, and the pairs of views, from what :meth:`run` takes."""
        raise NotImplementedError

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """Predict; in training the own loss is the sum of the negative correlations."""
        embedding, pairs = self.view(steps, masks, present)
        own = torch.stack([self._loss(pair) for pair in pairs]).sum() if self.training else None
        return Fused(self.predictor(embedding), own_loss=own)

    def training_loss(self, fused: Fused, target: Tensor, present: Tensor | None, criterion: Criterion) -> Tensor:
        """The own loss alone, which no target goes into; in evaluation mode, where there is none, the task's."""
        return criterion(fused.prediction, target) if fused.own_loss is None else fused.own_loss

    @torch.no_grad()
    def embed(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """The embedding, ``(B, E)``, in evaluation mode and without a gradient; the mode is put back."""
        with evaluating(self):
            return self.view(*self.read(inputs, present, lengths))[0]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Inputs]) -> None:
        """Measure batch norm's statistics anew, on pieces of all training samples; modes are put back.

        The moving averages of training lag behind where an epoch has few batches, as with batches of hundreds: what is
        embedded in evaluation mode would then be something else than what was trained.
        """
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        momenta, training = [norm.momentum for norm in norms], self.training
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the pieces
        self.train()
        try:
            for some in batches:
                self.view(*self.read(*some))
        finally:
            self.train(training)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def refit(self, embeddings: Tensor, target: Tensor) -> None:
        """Solve for the last layer on all training samples (:meth:`LinearPredictor.fit`)."""
        self.predictor.fit(embeddings, target, self.kind)

    def _loss(self, pair: Pair) -> Tensor:
        batch = len(pair.rows)
        if batch < self.least_batch:
            raise FusionInputError(_too_small(batch, self.width))
        rows = pair.rows
        if int(rows.sum()) < self.least_batch:
            return (pair.first.sum() + pair.second.sum()) * 0
        first, second = (pair.first, pair.second) if bool(rows.all()) else (pair.first[rows], pair.second[rows])
        return -canonical_correlation(first, second, regularization=self.regularization, count=self.count)


def _too_small(batch: int, width: int) -> str:
    return (
        f"a batch of {batch} samples is too small for the correlation of two views of width {width}, which needs "
        f"{least_samples(width, width)} or more: raise batch_size or lower width"
    )


def over_rows(net: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
    """Run a network with batch norm on the rows of ``(B, ...)`` that count; the others come out as zeros, ``(B, D)``.

    In training the others are left out, so that batch norm never sees them. Where fewer than two rows count there are no
    statistics of a batch, and the running ones are used.
    """
    if net.training and bool(rows.all()) and len(x) > 1:
        y: Tensor = net(x)
        return y
    if net.training and int(rows.sum()) > 1:
        some: Tensor = net(x[rows])
        return some.new_zeros(len(x), *some.shape[1:]).index_put((rows.nonzero()[:, 0],), some)
    with evaluating(net):
        return torch.where(rows[:, None], net(x), 0)
