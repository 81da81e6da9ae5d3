"""Protects the RAVDESS protocols: who tests, who validates, and that the leak of the published code has one name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from torchmsaf.data import Fold, Samples, check_fold, make_samples
from torchmsaf.data.protocols import PROTOCOLS, ravdess_protocol
from torchmsaf.errors import ProtocolError

ALL = range(1, 25)


def build(actors: Sequence[object] = ALL, form: str = "{}", each: int = 2) -> Samples:
    """Each actor has ``each`` samples of each of two classes, in an order that is not that of the actors."""
    groups = [form.format(actor) for actor in actors] * (2 * each)
    target = torch.arange(len(groups)) // len(actors) % 2
    order = np.random.default_rng(0).permutation(len(groups))
    return make_samples(
        "toy",
        {"a": torch.ones(len(groups), 2)},
        target[order],
        classes=("calm", "angry"),
        groups=[groups[row] for row in order],
    )


def in_part(samples: Samples, rows: np.ndarray) -> set[int]:
    assert samples.groups is not None
    return {int(samples.groups[row]) for row in rows}


def test_leak_free_folds_test_each_actor_once_and_validate_on_the_four_after_them() -> None:
    samples = build()
    protocol = ravdess_protocol(samples)
    assert (protocol.name, protocol.chosen_on_test) == ("ravdess-leak-free", False)
    assert protocol.description == "6 folds of 4 consecutive actors; validation: the 4 actors after them"
    tested = [in_part(samples, fold.test) for fold in protocol.folds]
    assert tested == [set(range(4 * k + 1, 4 * k + 5)) for k in range(6)]
    assert [in_part(samples, fold.validation) for fold in protocol.folds] == [*tested[1:], {1, 2, 3, 4}]
    for index, fold in enumerate(protocol.folds):
        parts = (fold.train, fold.validation, fold.test)
        assert fold.index == index
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(samples)))
        assert [len(in_part(samples, rows)) for rows in parts] == [16, 4, 4]
        assert sum(actor % 2 for actor in in_part(samples, fold.validation)) == 2  # two men, two women


def test_the_published_folds_choose_on_their_test_actors_and_say_so() -> None:
    samples = build()
    protocol = ravdess_protocol(samples, "published")
    assert (protocol.name, protocol.chosen_on_test) == ("ravdess-published", True)
    assert protocol.description.startswith(
        "PUBLISHED PROTOCOL: the best epoch of each fold is chosen on its test actors, so scores are optimistic"
    )
    clean = ravdess_protocol(samples)
    for fold, same in zip(protocol.folds, clean.folds, strict=True):
        assert np.array_equal(fold.validation, fold.test)
        assert np.array_equal(fold.test, same.test)
        assert np.array_equal(fold.train, np.setdiff1d(np.arange(len(samples)), fold.test))
        with pytest.raises(ProtocolError, match="samples are in both validation and test"):
            check_fold(fold, samples)


@pytest.mark.parametrize("form", ["{:02}", "Actor_{:02}", "Video_Speech_Actor_{:02}"])
def test_actors_may_be_written_as_their_folders_are(form: str) -> None:
    plain, other = ravdess_protocol(build()), ravdess_protocol(build(form=form))
    for fold, same in zip(plain.folds, other.folds, strict=True):
        assert np.array_equal(fold.test, same.test)
        assert np.array_equal(fold.validation, same.validation)


@pytest.mark.parametrize("group", ["25", "0", "Actor_", "factor 3", "03-01-07", "mara", "٣", "-3"])
def test_a_group_that_is_no_actor_is_refused_by_name(group: str) -> None:
    with pytest.raises(ProtocolError, match=f"toy: group '{group}' is no actor of RAVDESS: 1 to 24, 01 or Actor_01"):
        ravdess_protocol(build([*ALL, group]))


def test_samples_without_groups_and_protocols_without_a_name_are_refused() -> None:
    samples = make_samples("toy", {"a": torch.ones(4, 2)}, torch.arange(4) % 2, classes=("calm", "angry"))
    with pytest.raises(ProtocolError, match="toy: a RAVDESS protocol needs the actor of each sample as its group"):
        ravdess_protocol(samples)
    with pytest.raises(ProtocolError, match="no RAVDESS protocol 'leaky': choose leak-free or published"):
        ravdess_protocol(build(), "leaky")  # type: ignore[arg-type]
    assert PROTOCOLS == ("leak-free", "published")


def test_single_missing_actors_are_named_in_the_description() -> None:
    samples = build([actor for actor in ALL if actor not in (1, 2, 3, 17)])
    protocol = ravdess_protocol(samples)
    assert protocol.description.endswith("after them; actors 1, 2, 3, 17 are missing from the samples")
    assert in_part(samples, protocol.folds[0].test) == in_part(samples, protocol.folds[5].validation) == {4}
    only = ravdess_protocol(build([actor for actor in ALL if actor != 9]), "published")
    assert only.description.endswith("; actor 9 is missing from the samples")


@pytest.mark.parametrize(
    ("lacking", "name", "words"),
    [
        (range(1, 5), "leak-free", "fold 0: the test part is empty, as actors 1, 2, 3, 4 are missing"),
        (range(9, 13), "leak-free", "fold 1: the validation part is empty, as actors 9, 10, 11, 12 are missing"),
        (range(9, 13), "published", "fold 2: the test part is empty, as actors 9, 10, 11, 12 are missing"),
        (range(5, 25), "published", "fold 1: the test part is empty, as actors 5, 6, 7, 8 are missing"),
    ],
)
def test_a_part_without_actors_is_refused(lacking: range, name: str, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        ravdess_protocol(build([actor for actor in ALL if actor not in lacking]), name)  # type: ignore[arg-type]


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        (Fold(3, rows(0, 1, 2), rows(4), rows(5)), "validation part must be of the test part; 1 samples are not"),
        (Fold(3, rows(0, 1, 2), rows(4, 5), rows(5)), "fold 3: its protocol is chosen_on_test.*; 1 samples are not"),
        (Fold(3, rows(0, 1, 2), rows(2, 4), rows(2, 4)), "fold 3: 1 sample is in both train and test: '2'"),
        (Fold(3, rows(0, 1, 2), rows(), rows()), "fold 3: the validation part is empty"),
        (Fold(3, rows(0, 1, 2), rows(5, 4), rows(5, 4)), "fold 3: the validation part must be sorted"),
        (Fold(3, rows(0, 1), rows(3, 5), rows(3, 5)), "fold 3: no training sample of class 'c'"),
        (Fold(3, rows(0, 1, 2), rows(3, 6), rows(3, 6)), "fold 3: 1 group is in both train and test: 'g0'"),
    ],
)
def test_chosen_on_test_allows_validation_to_be_the_test_part_and_nothing_else(fold: Fold, words: str) -> None:
    groups = [f"g{row % 6}" for row in range(7)]
    samples = make_samples("toy", {"a": torch.ones(7, 2)}, torch.arange(7) % 3, classes=("a", "b", "c"), groups=groups)
    with pytest.raises(ProtocolError, match=words):
        check_fold(fold, samples, chosen_on_test=True)
    check_fold(Fold(3, rows(0, 1, 2), rows(3, 4), rows(3, 4)), samples, chosen_on_test=True)
