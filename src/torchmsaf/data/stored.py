"""Features of a modality that stay on disk until a batch asks for them."""

# n samples, C channels

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class StoredFeatures(ABC):
    """``(n, C, *positions)`` values that are read when they are indexed. They are ready for a network: nobody scales them.

    A subclass can be pickled without its data: every process opens the files itself.

    Attributes:
        shape: ``(n, C, *positions)``.
    """

    shape: torch.Size

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read rows ``(b,)``: ``(b, C, *positions)`` float32, the caller's own."""

    @abstractmethod
    def take(self, rows: Tensor) -> StoredFeatures:
        """The same features of some rows ``(b,)``, not read yet."""


Features = Tensor | StoredFeatures
