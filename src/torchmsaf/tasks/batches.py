"""Batches from samples in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = tuple[list[Tensor], Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Part(Dataset[Batch]):
    """Rows of a data set, indexed by whole batches.

    Attributes:
        features: ``(n, *shape)`` of each modality.
        target: ``(n,)``.
        present: ``(n, M)`` booleans.
    """

    features: tuple[Tensor, ...]
    target: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        index = torch.as_tensor(rows)
        return [x[index] for x in self.features], self.target[index], self.present[index]

    def only(self, modality: int) -> Part:
        """The samples that have one modality, with it alone."""
        rows = self.present[:, modality].nonzero()[:, 0]
        return Part((self.features[modality][rows],), self.target[rows], self.present[rows, modality, None])

    def alone(self, modality: int) -> Part:
        """All samples, with one modality alone."""
        return Part((self.features[modality],), self.target, self.present[:, modality, None])

    def without(self, modality: int) -> Part:
        """The same samples as if one modality were absent from all."""
        present = self.present.clone()
        present[:, modality] = False
        return Part(self.features, self.target, present)


class Shuffled(Sampler[list[int]]):
    """Batches of row numbers, shuffled anew each epoch from one seed: every method sees the same batches.

    A last batch of one sample is left out, since batch norm cannot train on it.

    Args:
        size: number of rows.
        batch_size: rows a batch.
        seed: of the order.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size, self.batch_size = size, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.size // self.batch_size + (self.size % self.batch_size >= 2)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.size, generator=self.generator).tolist()
        for k in range(len(self)):
            yield order[k * self.batch_size : (k + 1) * self.batch_size]


def training_batches(part: Part, batch_size: int, seed: int) -> DataLoader[Batch]:
    """A loader of shuffled batches."""
    return DataLoader(part, sampler=Shuffled(len(part), batch_size, seed), batch_size=None)
