"""How every network and method of a comparison is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchmsaf.errors import DataError


@dataclass(frozen=True)
class Recipe:
    """The budget of a training, and its optimizer.

    Attributes:
        epochs: at most so many.
        patience: stop after so many epochs without a better one on validation.
        batch_size: samples a batch, 2 or more: batch norm cannot train on one.
        learning_rate: of Adam.
        weight_decay: of Adam.
        fusion_learning_rate: of what the fusion adds to the networks; None = the same as theirs.
        precision: ``"bf16"`` trains in bfloat16 where torch's autocast says so; None = float32. Weights, validation and test
            are in float32.
        memory_format: ``"channels_last"`` keeps images and clips so in memory; None = channels first.

    Raises:
        DataError: a number out of its range.
    """

    epochs: int = 20
    patience: int = 5
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    fusion_learning_rate: float | None = None
    precision: str | None = None
    memory_format: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("patience", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}; {least} or more is needed")
        for name in ("learning_rate", "fusion_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not (rate > 0 and math.isfinite(rate)):
                raise DataError(f"{name} is {rate}; a number greater than 0 is needed")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise DataError(f"weight_decay is {self.weight_decay}; a number of 0 or more is needed")
        for name, choice in (("precision", "bf16"), ("memory_format", "channels_last")):
            if getattr(self, name) not in (None, choice):
                raise DataError(f"{name} is {getattr(self, name)!r}; {choice!r} or nothing is needed")
