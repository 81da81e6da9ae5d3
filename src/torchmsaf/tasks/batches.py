"""Batches of samples, in memory or on disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from torchmsaf.data.stored import Features, StoredFeatures
from torchmsaf.ops.steps import entry_mask
from torchmsaf.tasks.augment import Augmentation, Noise

T = TypeVar("T")

# of one modality, to predict at once: 64 MiB of float32
_MOST_VALUES = 2**24


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        inputs: ``(B, *shape)`` of each modality.
        target: ``(B,)``.
        present: ``(B, M)`` booleans.
        lengths: ``(B,)`` real steps of each modality, None for one without padding.
    """

    inputs: list[Tensor]
    target: Tensor
    present: Tensor
    lengths: list[Tensor | None]


@dataclass(frozen=True, eq=False)
class Part(Dataset[Batch]):
    """Rows of a data set, indexed by whole batches.

    Attributes:
        features: ``(n, *shape)`` of each modality.
        target: ``(n,)``.
        present: ``(n, M)`` booleans.
        augment: of each modality, what changes its training samples; none when empty.
        generator: what augmentations draw from.
        noise: on one modality, or none.
        lengths: ``(n,)`` real steps of each modality, None for one without padding; empty = no modality has any.
        training: features on disk are seen as training does, which may be at random.
    """

    features: tuple[Features, ...]
    target: Tensor
    present: Tensor
    augment: tuple[Augmentation | None, ...] = ()
    generator: torch.Generator = field(default_factory=torch.Generator)
    noise: Noise | None = None
    lengths: tuple[Tensor | None, ...] = ()
    training: bool = False

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        index = torch.as_tensor(rows)
        inputs = [
            x.drawn(index, self.generator) if self.training and isinstance(x, StoredFeatures) else x[index]
            for x in self.features
        ]
        for m, change in enumerate(self.augment):
            if change is not None:
                inputs[m] = change(inputs[m], self.generator)
        if self.noise is not None:
            inputs[self.noise.modality] = self.noise(inputs[self.noise.modality], index)
        lengths = [None if own is None else own[index] for own in self.lengths or [None] * len(inputs)]
        if self.noise is not None or self.augment:
            for m, own in enumerate(lengths):
                if own is not None:  # padding stays zeros
                    inputs[m] = inputs[m].masked_fill(~entry_mask(own, inputs[m]), 0)
        return Batch(inputs, self.target[index], self.present[index], lengths)

    @property
    def on_disk(self) -> bool:
        """Whether reading a batch takes time."""
        return any(isinstance(x, StoredFeatures) and x.slow for x in self.features)

    @property
    def at_once(self) -> int:
        """How many samples to predict at once, at most 1024."""
        largest = max(x.shape[1:].numel() for x in self.features)
        return min(1024, max(1, _MOST_VALUES // largest))

    def only(self, modality: int) -> Part:
        """The samples that have one modality, with it alone."""
        rows = self.present[:, modality].nonzero()[:, 0]
        return Part(
            (_take(self.features[modality], rows),),
            self.target[rows],
            self.present[rows, modality, None],
            self.augment[modality : modality + 1],
            self.generator,
            lengths=_rows_of(self.lengths[modality : modality + 1], rows),
        )

    def alone(self, modality: int) -> Part:
        """All samples, with one modality alone."""
        lengths = self.lengths[modality : modality + 1]
        return Part((self.features[modality],), self.target, self.present[:, modality, None], lengths=lengths)

    def without(self, modality: int) -> Part:
        """The same samples as if one modality were absent from all."""
        present = self.present.clone()
        present[:, modality] = False
        return Part(self.features, self.target, present, lengths=self.lengths)

    def noisy(self, modality: int, scale: Tensor, seed: int) -> Part:
        """The same samples with noise of standard deviation ``scale`` ``(C,)`` on one modality."""
        return replace(self, noise=Noise(modality, scale, seed))


def part_of(
    features: Sequence[Features],
    target: Tensor,
    present: Tensor,
    rows: Tensor,
    lengths: Sequence[Tensor | None] = (),
) -> Part:
    """Some rows of a data set."""
    taken = tuple(_take(x, rows) for x in features)
    return Part(taken, target[rows], present[rows], lengths=_rows_of(lengths, rows))


def _rows_of(lengths: Sequence[Tensor | None], rows: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(None if own is None else own[rows] for own in lengths)


def _take(x: Features, rows: Tensor) -> Features:
    return x.take(rows) if isinstance(x, StoredFeatures) else x[rows]


class Shuffled(Sampler[list[int]]):
    """Batches of row numbers, shuffled anew each epoch from one seed: every method sees the same batches.

    A last batch that is too small is left out: batch norm cannot train on one sample.

    Args:
        size: number of rows.
        batch_size: rows a batch.
        seed: of the order.
        least: rows that a last batch needs.
    """

    def __init__(self, size: int, batch_size: int, seed: int, least: int = 2) -> None:
        self.size, self.batch_size, self.least = size, batch_size, least
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.size // self.batch_size + (self.size % self.batch_size >= self.least)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.size, generator=self.generator).tolist()
        for k in range(len(self)):
            yield order[k * self.batch_size : (k + 1) * self.batch_size]


class ReadAhead(Generic[T]):
    """Goes through something slow in a thread of its own, a few items ahead of who uses them.

    Reading and augmenting leave Python's lock most of the time, so that one core trains while another reads. What is
    raised there is raised here.

    Args:
        source: what is gone through anew each time.
        ahead: how many items are kept ready.
    """

    def __init__(self, source: Iterable[T], ahead: int = 2) -> None:
        self.source, self.ahead = source, ahead

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[T]:
        ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(self.ahead)
        stopped = threading.Event()
        reader = threading.Thread(target=self._read, args=(ready, stopped), name="read ahead", daemon=True)
        reader.start()
        try:
            while True:
                going_on, item = ready.get()
                if going_on:
                    yield item  # type: ignore[misc]
                elif isinstance(item, BaseException):
                    raise item
                else:
                    return
        finally:
            stopped.set()
            while reader.is_alive():  # it may wait for room
                _empty(ready)
                reader.join(0.01)

    def _read(self, ready: queue.Queue[tuple[bool, T | BaseException | None]], stopped: threading.Event) -> None:
        try:
            for item in self.source:
                ready.put((True, item))
                if stopped.is_set():
                    return
            ready.put((False, None))
        except BaseException as error:  # goes to who uses the items
            ready.put((False, error))


def _empty(ready: queue.Queue[T]) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return


class Batches:
    """Batches of a part, by their row numbers. Draws nothing from torch's own generator, which a thread may not share.

    Args:
        part: the samples.
        rows: of each batch; gone through anew each time.
    """

    def __init__(self, part: Part, rows: Sampler[list[int]] | Sequence[list[int]]) -> None:
        self.part, self.rows = part, rows

    def __len__(self) -> int:
        return len(self.rows)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.rows:
            yield self.part[rows]


def training_batches(part: Part, batch_size: int, seed: int, *, least: int = 2) -> Iterable[Batch]:
    """Shuffled batches, the last of ``least`` samples or more; augmentations from the same seed; files are read ahead."""
    # not the order's own numbers again
    part = replace(part, generator=torch.Generator().manual_seed(seed + 1), training=True)
    order = Shuffled(len(part), batch_size, seed, least)
    if part.on_disk:
        return ReadAhead(Batches(part, order))
    return DataLoader(part, sampler=order, batch_size=None)


def in_order(part: Part) -> Iterable[Batch]:
    """All samples in their order, as many at once as :attr:`Part.at_once` says."""
    batches = Batches(part, [rows.tolist() for rows in torch.arange(len(part)).split(part.at_once)])
    return ReadAhead(batches) if part.on_disk else batches
