"""Protects batches: rows on disk and in memory are the same to training, and reading ahead changes nothing but the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from torchmsaf.backbones import ConvNet, VectorNet
from torchmsaf.data.stored import StoredFeatures
from torchmsaf.tasks import batches, training
from torchmsaf.tasks.augment import CropAndFlip
from torchmsaf.tasks.batches import Part, ReadAhead, in_order, part_of, training_batches
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe

N = 11


class Shelf(StoredFeatures):
    """Values in memory that count as stored, and who read them."""

    def __init__(self, values: Tensor, readers: set[str] | None = None) -> None:
        self.values, self.shape = values, values.shape
        self.readers = set() if readers is None else readers

    def __getitem__(self, rows: Tensor) -> Tensor:
        self.readers.add(threading.current_thread().name)
        return self.values[rows]

    def take(self, rows: Tensor) -> Shelf:
        return Shelf(self.values[rows], self.readers)


class Add:
    """An augmentation that adds what it draws, one number a sample."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.add_(torch.rand(len(x), *(1 for _ in x.shape[1:]), generator=generator))


def values() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 2, 5, generator=generator), torch.randn(N, 4, generator=generator)


def part(*, stored: bool = True) -> Part:
    a, b = values()
    target, present = torch.arange(N) % 3, torch.ones(N, 2, dtype=torch.bool)
    return Part((Shelf(a) if stored else a, Shelf(b) if stored else b), target, present)


def tensors(some: list[batches.Batch]) -> list[Tensor]:
    return [tensor for batch in some for tensor in (*batch.inputs, batch.target, batch.present)]


def same(one: list[batches.Batch], other: list[batches.Batch]) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in pairs)


# parts


def test_a_batch_has_its_rows_in_their_order() -> None:
    inputs, target, present, lengths = part()[[4, 0, 9]]
    assert lengths == [None, None]
    a, b = values()
    assert torch.equal(inputs[0], a[[4, 0, 9]])
    assert torch.equal(inputs[1], b[[4, 0, 9]])
    assert target.tolist() == [1, 0, 0]
    assert present.shape == (3, 2)


@pytest.mark.parametrize("stored", [False, True])
def test_parts_of_parts(stored: bool) -> None:
    a, b = values()
    whole = part(stored=stored)
    whole.present[[1, 3], 0] = False
    some = part_of(whole.features, whole.target, whole.present, torch.tensor([3, 8, 1, 6]))
    assert torch.equal(some[[0, 1, 2, 3]][0][1], b[[3, 8, 1, 6]])
    only = some.only(0)
    assert torch.equal(only[[0, 1]][0][0], a[[8, 6]])
    assert only.target.tolist() == [8 % 3, 6 % 3]
    assert only.present.tolist() == [[True], [True]]
    alone = some.alone(0)
    assert torch.equal(alone[[0, 1, 2, 3]][0][0], a[[3, 8, 1, 6]])
    assert alone.present.tolist() == [[False], [True], [False], [True]]
    without = some.without(1)
    assert without.present.tolist() == [[False, False], [True, False], [False, False], [True, False]]
    assert some.present[:, 1].all()
    assert some.on_disk is only.on_disk is alone.on_disk is without.on_disk is stored


def test_noise_is_on_one_modality_and_the_same_in_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = values()
    noisy = part().noisy(0, torch.tensor([0.0, 2.0]), seed=3)
    whole = list(in_order(noisy))
    assert len(whole) == 1
    added = whole[0][0][0] - a
    assert not added[:, 0].any()
    assert added[:, 1].std() == pytest.approx(2, rel=0.25)
    assert torch.equal(whole[0][0][1], b)
    monkeypatch.setattr(batches, "_MOST_VALUES", 4 * 10)
    split = list(in_order(noisy))
    assert [len(batch.target) for batch in split] == [4, 4, 3]
    assert torch.equal(torch.cat([inputs[0] for inputs, *_ in split]), whole[0][0][0])
    # who has one modality alone hears the same noise
    lone = list(in_order(part().alone(0).noisy(0, torch.tensor([0.0, 2.0]), seed=3)))
    assert torch.equal(torch.cat([inputs[0] for inputs, *_ in lone]), whole[0][0][0])


def test_augmentation_is_of_its_modality_and_only_where_it_is_trained() -> None:
    a, b = values()
    trained = replace(part(), augment=(Add(), None))
    inputs, *_ = trained[list(range(N))]
    assert (inputs[0] - a).flatten(1).std(1).max() < 1e-6  # one number a sample
    assert not torch.equal(inputs[0], a)
    assert torch.equal(inputs[1], b)
    assert trained.only(0).augment == trained.augment[:1]
    assert trained.only(1).augment == (None,)
    assert trained.alone(0).augment == trained.without(0).augment == ()
    assert torch.equal(trained.features[0][torch.arange(N)], a)  # what is kept is as it was


@pytest.mark.parametrize("stored", [False, True])
def test_augmentation_follows_the_seed_and_goes_on_from_epoch_to_epoch(stored: bool) -> None:
    trained = replace(part(stored=stored), augment=(Add(), None))
    first, second, other = (training_batches(trained, 4, seed) for seed in (5, 5, 6))
    epochs = [list(loader) for loader in (first, first, second, second, other)]
    assert same(epochs[0], epochs[2])
    assert same(epochs[1], epochs[3])
    sums = {round(float(sum(inputs[0].double().sum() for inputs, *_ in epoch)), 4) for epoch in epochs}
    assert len(sums) == 3


def test_batches_from_disk_are_those_from_memory_read_in_another_thread() -> None:
    shelved, kept = (replace(part(stored=stored), augment=(Add(), None)) for stored in (True, False))
    loaders = training_batches(shelved, 3, 1), training_batches(kept, 3, 1)
    assert len(loaders[0]) == len(loaders[1]) == 4  # type: ignore[arg-type]
    assert same(list(loaders[0]), list(loaders[1]))
    readers = shelved.features[0].readers  # type: ignore[union-attr]
    assert readers
    assert threading.current_thread().name not in readers
    assert same(list(in_order(part())), list(in_order(part(stored=False))))


def test_reading_from_disk_leaves_torchs_own_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    list(training_batches(replace(part(), augment=(Add(), None)), 4, 0))
    list(in_order(part().noisy(0, torch.ones(2), seed=1)))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_from_disk_is_repeatable_and_comes_to_what_training_from_memory_does() -> None:
    clips = torch.randn(12, 3, 2, 6, 6)
    target = torch.arange(12) % 2

    def weights(stored: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        features = clips.clone()
        one = Part(
            (Shelf(features) if stored else features,), target, torch.ones(12, 1, dtype=torch.bool), (CropAndFlip(),)
        )
        network = FusedNetwork({"video": ConvNet((3, 2, 6, 6), 2, width=4, dropout=0)}, None, outputs=2)
        recipe = Recipe(epochs=2, batch_size=4, learning_rate=1e-2)
        training.train(network, one, replace(one, augment=()), Objective("classification", 2), recipe, order_seed=3)
        return network.state_dict()

    first, second, memory = weights(True), weights(True), weights(False)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(first[key], memory[key]) for key in first)


# lengths

LENGTHS = torch.tensor([5, 1, 4, 2, 3, 5, 0, 2, 1, 3, 4])


@pytest.mark.parametrize("stored", [False, True])
def test_lengths_travel_with_their_rows(stored: bool) -> None:
    whole = replace(part(stored=stored), lengths=(LENGTHS, None))
    first, second = whole[[4, 0, 9]].lengths
    assert first is not None
    assert (first.tolist(), second) == ([3, 5, 3], None)
    rows = torch.tensor([3, 8, 1, 6])
    some = part_of(whole.features, whole.target, whole.present, rows, whole.lengths)
    assert torch.equal(some.lengths[0], LENGTHS[rows])
    assert some.lengths[1] is None
    assert part_of(whole.features, whole.target, whole.present, rows).lengths == ()
    a, _ = values()
    loaders = {"training": training_batches(whole, 3, 5), "in order": in_order(whole)}
    for loader in loaders.values():
        seen = 0
        for inputs, _, _, (own, other) in loader:
            assert other is None
            seen += len(own)
            for x, length in zip(inputs[0], own.tolist(), strict=True):
                row = int((a == x).flatten(1).all(1).nonzero())
                assert length == int(LENGTHS[row])
        assert seen == N


@pytest.mark.parametrize("stored", [False, True])
def test_parts_of_parts_keep_the_lengths_of_what_is_left(stored: bool) -> None:
    whole = replace(part(stored=stored), lengths=(LENGTHS, None))
    whole.present[[1, 6], 0] = False
    kept = [row for row in range(N) if row not in (1, 6)]
    only, alone, without, noisy = whole.only(0), whole.alone(0), whole.without(0), whole.noisy(0, torch.ones(2), 1)
    assert [len(one.lengths) for one in (only, alone, without, noisy)] == [1, 1, 2, 2]
    assert torch.equal(only.lengths[0], LENGTHS[kept])
    for one in (alone, without, noisy):
        assert torch.equal(one.lengths[0], LENGTHS)
    assert torch.equal(only[[0, 1]].lengths[0], LENGTHS[[0, 2]])
    assert torch.equal(noisy[[2, 7]].lengths[0], LENGTHS[[2, 7]])
    # of the other modality, which has no padding, and of parts that have none at all
    assert [one.lengths for one in (whole.only(1), whole.alone(1))] == [(None,), (None,)]
    assert whole.only(1)[[3]].lengths == [None]
    for one in (part().only(0), part().alone(1), part().without(0)):
        assert one.lengths == ()
        assert one[[0]].lengths == [None] * len(one.features)


@pytest.mark.parametrize(
    ("least", "sizes"), [(1, [4, 4, 3]), (3, [4, 4, 3]), (4, [4, 4]), (9, [4, 4])], ids=lambda one: str(one)
)
@pytest.mark.parametrize("stored", [False, True])
def test_a_last_batch_has_as_many_samples_as_a_loss_needs_or_is_left_out(
    least: int, sizes: list[int], stored: bool
) -> None:
    loader = training_batches(part(stored=stored), 4, 0, least=least)
    # the order is that of all others, in every epoch
    usual = training_batches(part(stored=stored), 4, 0)
    for _ in range(2):
        some, all_of_them = list(loader), list(usual)
        assert [len(batch.target) for batch in some] == sizes
        assert same(some, all_of_them[: len(sizes)])
    assert len(loader) == len(sizes)  # type: ignore[arg-type]


def test_one_batch_that_is_smaller_than_the_size_is_there_where_it_is_enough() -> None:
    assert [len(batch.target) for batch in training_batches(part(), 512, 0, least=N)] == [N]
    assert list(training_batches(part(), 512, 0, least=N + 1)) == []


# reading ahead


def started(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads that read ahead and did not before: others of this process come and go as they like."""
    return {one for one in set(threading.enumerate()) - before if one.name == "read ahead"}


def waited_for(condition: object, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.005)
    return False


def test_the_order_is_kept_and_every_time_is_anew() -> None:
    ahead = ReadAhead(range(50), ahead=3)
    assert [list(ahead), list(ahead)] == [list(range(50))] * 2
    assert len(ahead) == 50
    assert list(ReadAhead([None, False, 0])) == [None, False, 0]
    assert list(ReadAhead([])) == []


def test_only_a_few_items_are_read_ahead() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for item in range(100):
            read.append(item)
            yield item

    class Again:
        def __iter__(self) -> Iterator[int]:
            return source()

    going = iter(ReadAhead(Again(), ahead=2))
    assert next(going) == 0
    assert waited_for(lambda: len(read) == 4)  # two are kept, and one waits for room
    time.sleep(0.05)
    assert len(read) == 4
    going.close()  # type: ignore[attr-defined]


def test_what_is_raised_while_reading_arrives_after_what_was_read_before() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            yield 1
            yield 2
            raise OSError("the disk is gone")

    before, got = set(threading.enumerate()), []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(iter(ReadAhead(Broken())))
    assert got == [1, 2]
    assert waited_for(lambda: not started(before))


@pytest.mark.parametrize("taken", [1, 3])
def test_who_stops_early_leaves_no_thread_behind(taken: int) -> None:
    before = set(threading.enumerate())
    for item in ReadAhead(range(1000), ahead=2):
        if item == taken:
            break
    assert waited_for(lambda: not started(before))
    going = iter(ReadAhead(range(1000)))
    next(going)
    assert len(started(before)) == 1
    del going
    assert waited_for(lambda: not started(before))


def test_a_training_that_fails_leaves_no_thread_behind() -> None:
    class Failing(VectorNet):
        def feature(self, maps: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("out of memory")
            return maps

    before = set(threading.enumerate())
    network = FusedNetwork({"b": Failing((4,), 3)}, None, outputs=3)
    with pytest.raises(RuntimeError, match="out of memory"):
        training.train(
            network, part().only(1), part().only(1), Objective("classification", 3), Recipe(batch_size=2), order_seed=0
        )
    assert waited_for(lambda: not started(before))
