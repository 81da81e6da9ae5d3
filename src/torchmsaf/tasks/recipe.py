"""How every network and method of a comparison is trained."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from torchmsaf.errors import DataError
from torchmsaf.ops.checks import is_integer


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
        decay_epochs: after so many epochs all learning rates are divided by 10, in rising order: ``(5, 20)`` is the epoch
            indices 5 and 20 of the published action recognition, counted from 0. None, or empty = they stay.
        alternate: each network learns from the loss of its own prediction, one after the other in each batch, with a
            forward pass and an Adam each; the fusion's parameters are in all of them. So the published code trains MSAF and
            MMTM for action recognition. Of intermediate methods that predict from the networks' own predictions; all
            others learn as without. None, or False = all learn from the loss of the fused prediction.

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
    # null in results without them, as in the results of versions that had none
    decay_epochs: tuple[int, ...] | None = None
    alternate: bool | None = None

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
        object.__setattr__(self, "decay_epochs", tuple(self.decay_epochs or ()) or None)
        object.__setattr__(self, "alternate", self.alternate or None)
        decays = [0, *(self.decay_epochs or ())]
        if not all(is_integer(epoch) for epoch in decays) or any(a >= b for a, b in itertools.pairwise(decays)):
            raise DataError(
                f"decay_epochs is {decays[1:]}; whole numbers from 1 on are needed, each greater than the last"
            )
        if self.alternate not in (None, True):
            raise DataError(f"alternate is {self.alternate!r}; True or False is needed")

    def decay(self, epoch: int) -> int:
        """What the learning rates are divided by in an epoch, counted from 0."""
        return int(10 ** sum(epoch >= start for start in self.decay_epochs or ()))
