"""Standardization: zero mean and unit variance a channel, learned from the training rows alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchmsaf.data.samples import Samples
from torchmsaf.data.stored import Features, StoredFeatures
from torchmsaf.errors import DataError
from torchmsaf.ops.steps import entry_mask, step_mask

# n samples, C channels


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Mean and standard deviation of every channel, and of a regression target.

    Words are left as they are, and so are features on disk that are ready. Padding and absent modalities do not count.

    Attributes:
        mean: modality -> ``(C,)`` float64.
        std: modality -> ``(C,)`` float64, population; 1 where a channel is constant.
        target_mean: mean of the target; 0 for classes.
        target_std: standard deviation of the target; 1 for classes and for a constant target.
    """

    mean: dict[str, Tensor]
    std: dict[str, Tensor]
    target_mean: float = 0.0
    target_std: float = 1.0

    @classmethod
    def fit(cls, samples: Samples, rows: NDArray[np.int64]) -> Standardizer:
        """Measure the given rows, over all positions and over the samples that have the modality; no other row counts.

        Args:
            samples: the data set.
            rows: row numbers, usually ``fold.train``.

        Raises:
            DataError: no rows, rows out of range, or a modality that none of them has.
        """
        index = np.asarray(rows, dtype=np.int64)
        if index.ndim != 1 or index.size == 0 or index.min() < 0 or index.max() >= len(samples):
            raise DataError(f"{samples.name}: rows must be one or more row numbers from 0 to {len(samples) - 1}")
        chosen = torch.from_numpy(index)
        mean, std = {}, {}
        for column, (name, value) in enumerate(samples.features.items()):
            here = chosen[samples.present[chosen, column]]
            if len(here) == 0:
                raise DataError(f"{samples.name}: none of the {len(chosen)} rows to fit has modality {name!r}")
            if name in samples.tokens:
                continue
            if isinstance(value, StoredFeatures):
                if (found := value.moments(here)) is not None:
                    mean[name], std[name] = found
            elif name in samples.lengths:
                real = step_mask(samples.lengths[name][here], value.shape[-1])
                mean[name], std[name] = moments(value[here].movedim(-1, 1)[real].transpose(0, 1).flatten(1))
            else:
                mean[name], std[name] = moments(value[here].transpose(0, 1).flatten(1))
        if not samples.regression:
            return cls(mean, std)
        target_mean, target_std = moments(samples.target[chosen].unsqueeze(0))
        return cls(mean, std, float(target_mean), float(target_std))

    def transform(self, samples: Samples) -> dict[str, Features]:
        """The features of every sample, standardized; the target is left to the caller.

        Returns:
            Modality -> ``(n, C, *positions)``, in declared order; zeros where a sample lacks the modality.

        Raises:
            DataError: other modalities or other channels than those fitted.
        """
        fitted = {name: len(value) for name, value in self.mean.items()}
        channels = {
            name: x.shape[1]
            for name, x in samples.features.items()
            if name in fitted or not (isinstance(x, StoredFeatures) or name in samples.tokens)
        }
        if list(channels.items()) != list(fitted.items()):
            raise DataError(f"{samples.name}: modalities and channels are {channels}; fitted were {fitted}")
        return {
            name: self._standardized(name, x, samples) if name in fitted else x for name, x in samples.features.items()
        }

    def as_plain(self) -> dict[str, dict[str, list[float]]]:
        """What inputs were standardized with, as plain data; a target's mean and deviation are under ``""``."""
        plain = {name: {"mean": self.mean[name].tolist(), "std": self.std[name].tolist()} for name in self.mean}
        if (self.target_mean, self.target_std) != (0.0, 1.0):
            plain[""] = {"mean": [self.target_mean], "std": [self.target_std]}
        return plain

    def _standardized(self, name: str, value: Features, samples: Samples) -> Features:
        if isinstance(value, StoredFeatures):
            return value.scaled(self.mean[name], self.std[name])
        shape = (1, -1) + (1,) * (value.dim() - 2)
        result = ((value.double() - self.mean[name].view(shape)) / self.std[name].view(shape)).float()
        result[~samples.present[:, samples.modalities.index(name)]] = 0
        if name in samples.lengths:
            result.masked_fill_(~entry_mask(samples.lengths[name], value), 0)
        return result


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each row of ``(C, count)``, in float64; 1 for a row that is constant."""
    double = values.double()
    std = double.std(dim=1, correction=0)
    # a constant row has a rounding error for a deviation: equality tells, a small number would not
    constant = values.amin(dim=1) == values.amax(dim=1)
    return double.mean(dim=1), torch.where(constant, torch.ones_like(std), std)
