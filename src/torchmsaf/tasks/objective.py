"""What is asked of a model: the loss, the metrics and the score that chooses epochs."""

# B batch, K classes (1 in regression)

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.errors import DataError, require


@dataclass(frozen=True)
class Objective:
    """A task's loss and metrics.

    Attributes:
        kind: classification; regression; or sentiment, a regression in [-3, 3] with its customary classes.
        outputs: K.
        mean: of the training targets; models train on ``(target - mean) / std``.
        std: of the training targets.
        answer: in regression, what a sample without any modality is predicted as, in the units that models train on.
        prior: share of each class in the training part; None = even. It answers where a sample has no modality at all.
        top_k: further accuracies: for 2, ``top2`` is the share of samples whose true class has one of the two largest
            logits. Each is greater than 1 and less than K.
        chosen_by: what chooses the epoch on validation; the accuracy only in classification.

    Raises:
        DataError: outputs, top_k or chosen_by do not fit the kind.
    """

    kind: Literal["classification", "regression", "sentiment"]
    outputs: int
    mean: float = 0.0
    std: float = 1.0
    answer: float = 0.0
    prior: tuple[float, ...] | None = None
    top_k: tuple[int, ...] = ()
    chosen_by: Literal["loss", "accuracy"] = "loss"

    def __post_init__(self) -> None:
        if self.regression and self.outputs != 1:
            raise DataError(f"{self.kind} has one output, got {self.outputs}")
        if self.regression and self.top_k:
            raise DataError(f"top_k is {self.top_k}; {self.kind} has no classes to rank")
        if wrong := [k for k in self.top_k if not 1 < k < self.outputs]:
            raise DataError(f"top_k has {wrong[0]}; more than 1 and fewer than the {self.outputs} classes is needed")
        if self.chosen_by not in ("loss", "accuracy"):
            raise DataError(f"chosen_by is {self.chosen_by!r}; loss or accuracy is needed")
        if self.regression and self.chosen_by == "accuracy":
            raise DataError(f"chosen_by is 'accuracy', which {self.kind} has not; loss is needed")

    @property
    def regression(self) -> bool:
        """Whether predictions are values."""
        return self.kind != "classification"

    @property
    def score(self) -> str:
        """The metric that a table is about."""
        return "mae" if self.regression else "accuracy"

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is better."""
        return not self.regression

    def scaled(self, target: Tensor) -> Tensor:
        """The target in the units that models train on; classes are as they are."""
        return (target - self.mean) / self.std if self.regression else target

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of ``(B, K)`` logits, or squared error of the standardized target."""
        if self.regression:
            return F.mse_loss(prediction[:, 0], self.scaled(target))
        return F.cross_entropy(prediction, target)

    def without_input(self, prediction: Tensor, present: Tensor) -> Tensor:
        """Predictions ``(n, K)`` with the training part's own answer where ``present`` ``(n, M)`` is False for all.

        The answer is the log of the class shares, or ``answer`` in regression: the same for every network and method, and
        whatever the classes are called.
        """
        nothing = ~present.any(1)
        if self.regression:
            return torch.where(nothing[:, None], self.answer, prediction)
        share = prediction.new_ones(self.outputs) if self.prior is None else prediction.new_tensor(self.prior)
        return torch.where(nothing[:, None], share.clamp(min=1e-6).log(), prediction)

    def better(self, new: Mapping[str, float], old: Mapping[str, float]) -> bool:
        """Whether an epoch is to be kept in place of an earlier one, by what they measure on validation.

        Of equals the first is kept. An epoch whose loss is no finite number is never better.
        """
        if self.chosen_by == "loss":
            return new["loss"] < old["loss"]
        return math.isfinite(new["loss"]) and new["accuracy"] > old["accuracy"]

    def measure(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """All metrics of a whole part of the data, from its predictions ``(n, K)`` and targets ``(n,)``."""
        values = {"loss": float(self.loss(prediction, target))}
        if not self.regression:
            functional = require("torchmetrics.functional.classification", "compare")
            labels, k = prediction.argmax(1), self.outputs
            values["accuracy"] = float(functional.multiclass_accuracy(labels, target, num_classes=k, average="micro"))
            # places from the first, of equal logits the smaller class before the others: torch.topk leaves ties open
            places = prediction.argsort(dim=1, descending=True, stable=True).argsort(dim=1) if self.top_k else labels
            for n in self.top_k:
                hits = functional.multiclass_accuracy(-places.double(), target, num_classes=k, top_k=n, average="micro")
                values[f"top{n}"] = float(hits)
            values["macro_f1"] = float(functional.multiclass_f1_score(labels, target, num_classes=k, average="macro"))
            return values
        functional = require("torchmetrics.functional", "compare")
        value = prediction[:, 0] * self.std + self.mean
        values["mae"] = float(functional.mean_absolute_error(value, target))
        constant = min(float(x.std(correction=0)) for x in (value, target)) < 1e-9  # no correlation with a constant
        values["pearson"] = float("nan") if constant else float(functional.pearson_corrcoef(value, target))
        if self.kind == "sentiment":
            values.update(sentiment_classes(value, target))
        return values


def sentiment_classes(value: Tensor, target: Tensor) -> dict[str, float]:
    """The customary classes of a sentiment in [-3, 3], as MSAF's authors compute them.

    acc2 is of the signs, without samples whose true sentiment is 0 and without predictions of exactly 0. f1 is of the signs
    too, weighted by class, without samples whose true sentiment is 0; a prediction of exactly 0 is of neither class. acc7
    is of both rounded to whole numbers (half to even) and kept in [-3, 3]. acc2_has0 and f1_has0 are of all samples in two
    classes, below 0 and not below 0, f1_has0 weighted by class: the other customary count.
    """
    functional = require("torchmetrics.functional.classification", "compare")
    seven = value.round().clamp(-3, 3) == target.round().clamp(-3, 3)
    values = {"acc2": float("nan"), "f1": float("nan"), "acc7": float(seven.double().mean())}
    told = target != 0
    answer, truth = value[told].sign(), target[told].sign()
    if bool((answer != 0).any()):
        values["acc2"] = float((answer == truth)[answer != 0].double().mean())
    if len(truth):
        scores = functional.multiclass_f1_score((answer + 1).long(), (truth + 1).long(), num_classes=3, average="none")
        share = float((truth > 0).double().mean())
        values["f1"] = float(scores[2]) * share + float(scores[0]) * (1 - share)
    answer, truth = (value >= 0).long(), (target >= 0).long()
    values["acc2_has0"] = float((answer == truth).double().mean())
    values["f1_has0"] = float(functional.multiclass_f1_score(answer, truth, num_classes=2, average="weighted"))
    return values
