"""A linear last layer that is solved for, not trained."""

# n samples, E entries of an embedding, K outputs (1 in regression)

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError, require
from torchmsaf.tasks.systems.base import Kind

PENALTIES = tuple(10.0 ** (0.5 * k) for k in range(-4, 13))  # 1e-2 to 1e6, two a decade
UNSEEN = -20.0  # the logit of a class that no training sample has; the largest of the others is never below 0
Solution = tuple[NDArray[np.float64], NDArray[np.float64]]  # weights (K, E) and biases (K,)


class LinearPredictor(nn.Module):
    """Ridge regression, or logistic regression, on standardized embeddings; predicts zeros before it is fitted.

    The weights are buffers: a state dict carries them, and no optimizer moves them.

    The penalty of ridge regression is the one of :data:`PENALTIES` with the smallest squared error when each sample in turn
    is left out: what scikit-learn's ``RidgeCV`` gives, from one decomposition of ``(E, E)``, in a fraction of its time where
    samples are many. Logistic regression is scikit-learn's, with its penalty of 1. The grid and that penalty are ours; it is
    not known what the articles' authors took.

    Args:
        width: E.
        outputs: K.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("weight", torch.zeros(outputs, width))
        self.register_buffer("bias", torch.zeros(outputs))

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(B, E)`` to ``(B, K)``."""
        return torch.nn.functional.linear((embeddings - self.mean) / self.scale, self.weight, self.bias)

    @torch.no_grad()
    def fit(self, embeddings: Tensor, target: Tensor, kind: Kind) -> None:
        """Solve for the weights. The same samples in the same order give the same weights.

        An entry that is the same for all samples, but for rounding, gets the weight 0, and so does everything where one
        sample is all there is, or one class. In regression the first output is fitted, and the others are 0.

        Args:
            embeddings: ``(n, E)``, n at least 1.
            target: ``(n,)`` values in the scale of the predictions, or class indices.
            kind: of the task.

        Raises:
            FusionInputError: shapes that do not fit; values that are not finite; a class that is not there.
        """
        x, y = self._check(embeddings, target, kind)
        mean = x.mean(0)
        scale = x.std(0)
        # what is left of a constant column is the rounding of float32, which batch norm may have centred
        constant = scale <= np.maximum(1e-5 * np.abs(x).max(0), 1e-4 * np.median(scale))
        scale[constant] = 1
        z = np.where(constant, 0, (x - mean) / scale)
        outputs = self.weight.shape[0]
        weight, bias = _logistic(z, y, outputs) if kind == "classification" else _ridge(z, y, outputs)
        weight = np.where(constant, 0, weight)
        found = {"mean": mean, "scale": scale, "weight": weight, "bias": bias}
        for name, value in found.items():
            own: Tensor = getattr(self, name)
            own.copy_(torch.from_numpy(np.asarray(value)))

    def _check(self, embeddings: Tensor, target: Tensor, kind: Kind) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        outputs, width = self.weight.shape
        if embeddings.dim() != 2 or embeddings.shape[1] != width or len(embeddings) < 1:
            raise FusionInputError(
                f"expected embeddings (n, {width}) of 1 sample or more, got {tuple(embeddings.shape)}"
            )
        if tuple(target.shape) != (len(embeddings),):
            raise FusionInputError(f"expected a target ({len(embeddings)},), one a sample, got {tuple(target.shape)}")
        x = embeddings.detach().cpu().double().numpy()
        y = target.detach().cpu().double().numpy()
        for what, values in (("embeddings", x), ("target", y[:, None])):
            if len(wrong := np.nonzero(~np.isfinite(values).all(1))[0]):
                raise FusionInputError(
                    f"{what}: {len(wrong)} of {len(x)} samples are not finite, the first is number {wrong[0]}; "
                    + ("a lower learning_rate may help" if what == "embeddings" else "leave them out")
                )
        if kind == "classification":
            labels = y.astype(np.int64)
            if (labels != y).any() or labels.min() < 0 or labels.max() >= outputs:
                raise FusionInputError(
                    f"target: expected class indices from 0 to {outputs - 1}, got {y.min():g} to {y.max():g}"
                )
        return x, y


def _ridge(z: NDArray[np.float64], y: NDArray[np.float64], outputs: int) -> Solution:
    """Weights and biases of regression on centred columns; the penalty is chosen by leaving one sample out.

    With ``Z^T Z = V diag(l) V^T`` and ``P = Z V``, sample i is in its own fitted value by ``h_i = 1 / n + sum over k of
    P_ik^2 / (l_k + penalty)``, and its error without it is its error with it over ``1 - h_i``.
    """
    weight, bias = np.zeros((outputs, z.shape[1])), np.zeros(outputs)
    bias[0] = y.mean()
    if len(z) > 1 and z.any():
        values, vectors = np.linalg.eigh(z.T @ z)
        inverse = 1 / (np.maximum(values, 0)[:, None] + np.array(PENALTIES))  # (E, penalties)
        turned = z @ vectors
        with_it = (y - y.mean())[:, None] - turned @ ((turned.T @ (y - y.mean()))[:, None] * inverse)
        without_it = with_it / (1 - 1 / len(z) - turned**2 @ inverse)
        best = int(np.square(without_it).mean(0).argmin())
        weight[0] = vectors @ (turned.T @ (y - y.mean()) * inverse[:, best])
    return weight, bias


def _logistic(z: NDArray[np.float64], y: NDArray[np.float64], outputs: int) -> Solution:
    """Weights and biases of classification, also of classes that no sample has."""
    seen = np.unique(y.astype(np.int64))
    weight, bias = np.zeros((outputs, z.shape[1])), np.full(outputs, UNSEEN)
    bias[seen] = 0
    if len(seen) > 1:
        build = require("sklearn.linear_model", "compare").LogisticRegression
        stopped = require("sklearn.exceptions", "compare").ConvergenceWarning
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stopped)  # where it stops is as good: the penalty bounds the weights
            model = build(C=1.0, max_iter=1000).fit(z, y.astype(np.int64))
        if len(seen) == 2:  # one row, of the second class against the first
            weight[seen[1]], bias[seen[1]] = model.coef_[0], model.intercept_[0]
        else:
            weight[seen], bias[seen] = model.coef_, model.intercept_
    return weight, bias
