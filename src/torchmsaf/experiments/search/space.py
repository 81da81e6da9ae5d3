"""What is searched, and how: the architectures that there are, and the published settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.mfas import ACTIVATIONS, Layer
from torchmsaf.ops.checks import check_boolean, check_integer, check_number, check_share

Architecture = tuple[Layer, ...]


@dataclass(frozen=True)
class FusionSpace:
    """All layers that an architecture can have.

    Attributes:
        places: how many places can be read of each modality.
        activations: how many of :data:`torchmsaf.fusion.mfas.ACTIVATIONS` are tried, the first ones. Default: ReLU and
            sigmoid, as in the article.
    """

    places: tuple[int, ...]
    activations: int = 2

    def __post_init__(self) -> None:
        for m, count in enumerate(self.places):
            check_integer(f"places of modality {m}", count, advice="it is how many places can be read")
        if len(self.places) < 2:
            raise FusionInputError(f"the search needs 2 or more modalities, got {len(self.places)}")
        said = "ReLU, sigmoid, leaky ReLU: how many of them are tried"
        check_integer("activations", self.activations, advice=said, most=len(ACTIVATIONS))

    def layers(self) -> list[Layer]:
        """Every layer: a place of each modality, and an activation."""
        return list(itertools.product(*map(range, self.places), range(self.activations)))

    def size(self, levels: int) -> int:
        """How many architectures of so many layers there are."""
        return int((math.prod(self.places) * self.activations) ** levels)

    def unfold(self, kept: Sequence[Architecture], level: int) -> list[Architecture]:
        """Every architecture that differs from a kept one in one layer.

        Args:
            kept: at least ``level`` layers each; none = the empty one.
            level: the layer, counted from 0. It is put in, or behind the last.

        Returns:
            Each once.
        """
        found = {(*one[:level], layer, *one[level + 1 :]): None for one in kept or [()] for layer in self.layers()}
        return list(found)


@dataclass(frozen=True)
class SearchSettings:
    """How the search goes; the defaults are those of github.com/juanmanpr/mfas on NTU RGB+D, but for guesses.

    Attributes:
        levels: layers of the largest architecture.
        iterations: how often the search goes through the levels.
        sampled: architectures that are kept, and trained, a step.
        first_temperature: of the first step.
        last_temperature: what the temperature falls to.
        decay: how fast, in steps.
        epochs: of the training of one architecture.
        batch_size: a guess.
        learning_rate: at the start of each period of the schedule.
        least_rate: at its end.
        period: epochs of the first period.
        growth: each further period is so many times as long.
        inner: width of the layers.
        dropout: behind each layer.
        batch_norm: behind each activation.
        share: an architecture's layers start from those of the last one that had the same.
        surrogate_epochs: passes over all that was tried, after each step.
        surrogate_rate: their learning rate.
        seed: of all that is drawn.
    """

    levels: int = 4
    iterations: int = 3
    sampled: int = 15
    first_temperature: float = 10.0
    last_temperature: float = 0.2
    decay: float = 4.0
    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-3
    least_rate: float = 1e-6
    period: int = 1
    growth: int = 2
    inner: int = 16
    dropout: float = 0.5
    batch_norm: bool = False
    share: bool = False
    surrogate_epochs: int = 50
    surrogate_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("levels", "iterations", "sampled", "epochs", "batch_size", "period", "growth", "inner"):
            check_integer(name, getattr(self, name), advice="see SearchSettings")
        check_integer("surrogate_epochs", self.surrogate_epochs, advice="see SearchSettings")
        for name in ("first_temperature", "last_temperature", "decay", "learning_rate", "surrogate_rate"):
            if not check_number(name, getattr(self, name)) > 0:
                raise FusionInputError(f"{name} is a number above 0, got {getattr(self, name)!r}")
        if not 0 <= check_number("least_rate", self.least_rate) <= self.learning_rate:
            raise FusionInputError(f"least_rate is a number from 0 to learning_rate, got {self.least_rate!r}")
        check_share("dropout", self.dropout, said="a number in [0, 1)", below_one=True)
        for one in fields(self):
            if isinstance(one.default, bool):
                check_boolean(one.name, getattr(self, one.name))
        if self.batch_norm and self.batch_size < 2:
            raise FusionInputError("batch_size: batch norm needs batches of at least 2")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise FusionInputError(f"seed is an integer of at least 0, got {self.seed!r}")

    def temperature(self, iteration: int, level: int) -> float:
        """The temperature in which a step samples, iterations and levels counted from 0.

        It is set after each step, to ``last + (first - last) exp(-(t + 1)^2 / decay^2)`` with t = iterations * iteration +
        level of that step, as in the published code: with more levels than iterations t repeats itself.
        """
        if iteration == level == 0:
            return self.first_temperature
        before, over = (iteration, level - 1) if level else (iteration - 1, self.levels - 1)
        t = self.iterations * before + over
        fall = math.exp(-(((t + 1) / self.decay) ** 2))
        return self.last_temperature + (self.first_temperature - self.last_temperature) * fall

    def rate(self, epoch: float) -> float:
        """Learning rate after so many epochs, whole or not: half a cosine a period, then up again."""
        length = float(self.period)
        while epoch >= length:
            epoch, length = epoch - length, length * self.growth
        share = (1 + math.cos(math.pi * epoch / length)) / 2
        return self.least_rate + (self.learning_rate - self.least_rate) * share


def draw(accuracies: Sequence[float], count: int, temperature: float, random: np.random.Generator) -> list[int]:
    """Draw without replacement, each time with probability proportional to accuracy ** (1 / temperature).

    Args:
        accuracies: in [0, 1].
        count: how many; all, if there are no more.
        temperature: above 0. The colder, the likelier the best.
        random: where numbers come from.

    Returns:
        Positions, as they were drawn.
    """
    weights = np.log(np.maximum(np.asarray(accuracies, dtype=np.float64), 1e-12)) / temperature
    # the largest of log weights plus Gumbel noise are draws without replacement, and nothing underflows
    order = np.argsort(-(weights + random.gumbel(size=len(weights))), kind="stable")
    return [int(k) for k in order[:count]]
