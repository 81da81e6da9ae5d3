"""Features of a modality that stay on disk until a batch asks for them."""

# n samples, C channels

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class StoredFeatures(ABC):
    """``(n, C, *positions)`` values that are read when they are indexed.

    They are ready for a network, or say how they are scaled. A subclass can be pickled without its data: every process opens
    the files itself.

    Attributes:
        shape: ``(n, C, *positions)``.
        slow: whether reading takes time, so that it pays to read ahead.
    """

    shape: torch.Size
    slow: bool = True

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read rows ``(b,)``: ``(b, C, *positions)`` float32, the caller's own."""

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As training sees rows ``(b,)``: the same shape, maybe another part of what is stored, drawn from the generator."""
        return self[rows]

    @abstractmethod
    def take(self, rows: Tensor) -> StoredFeatures:
        """The same features of some rows ``(b,)``, not read yet."""

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation ``(C,)`` in float64 of what is real in rows ``(b,)``; None = ready as they are.

        The deviation is that of the population, and 1 for a constant channel.
        """
        return None

    def scaled(self, mean: Tensor, std: Tensor) -> StoredFeatures:
        """The same features, ``(x - mean) / std`` by channel, and zeros where there is padding."""
        raise NotImplementedError


Features = Tensor | StoredFeatures
