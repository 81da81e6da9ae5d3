"""Protects protocols: parts never overlap, a group is never in two of them, and every draw can be repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from torchmsaf.data import Fold, Protocol, Samples, check_fold, fold_ids, make_protocol, make_samples
from torchmsaf.errors import ProtocolError


def build(n: int = 60, classes: int | None = 3, **changes: Any) -> Samples:
    target = torch.arange(n) % classes if classes else torch.arange(n).float()
    names = None if classes is None else [f"c{index}" for index in range(classes)]
    fields: dict[str, Any] = {"ids": [f"s{row}" for row in range(n)], "classes": names, "target": target}
    return make_samples("toy", {"a": torch.ones(n, 2)}, **{**fields, **changes})


def actors(n: int, count: int) -> list[str]:
    return [str(row % count + 1) for row in range(n)]


def rows(protocol: Protocol) -> list[list[list[int]]]:
    return [[fold.train.tolist(), fold.validation.tolist(), fold.test.tolist()] for fold in protocol.folds]


def in_part(samples: Samples, chosen: Any) -> set[int]:
    assert samples.groups is not None
    return {int(samples.groups[row]) for row in chosen}


def test_six_folds_of_24_actors_are_those_of_the_paper() -> None:
    samples = build(240, 2, groups=actors(240, 24), target=torch.arange(240) // 24 % 2)
    protocol = make_protocol(samples, folds=6)
    assert protocol.name == "grouped-6-fold"
    assert "24 groups" in protocol.description
    for index, fold in enumerate(protocol.folds):
        assert fold.index == index
        assert in_part(samples, fold.test) == {4 * index + 1, 4 * index + 2, 4 * index + 3, 4 * index + 4}
        assert len(in_part(samples, fold.validation)) == 4
        assert len(in_part(samples, fold.train)) == 16


def test_as_many_folds_as_groups_leave_one_group_out() -> None:
    samples = build(groups=actors(60, 5))
    protocol = make_protocol(samples, folds=5)
    assert [in_part(samples, fold.test) for fold in protocol.folds] == [{1}, {2}, {3}, {4}, {5}]


def test_the_seed_changes_validation_and_nothing_else_of_grouped_folds() -> None:
    samples = build(240, 2, groups=actors(240, 24), target=torch.arange(240) // 24 % 2)
    first, second = make_protocol(samples, folds=6), make_protocol(samples, folds=6, seed=1)
    assert [fold.test.tolist() for fold in first.folds] == [fold.test.tolist() for fold in second.folds]
    assert [fold.validation.tolist() for fold in first.folds] != [fold.validation.tolist() for fold in second.folds]


@given(
    groups=st.integers(3, 12),
    each=st.integers(2, 5),
    folds=st.integers(2, 12),
    validation=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_grouped_folds_never_share_a_group(groups: int, each: int, folds: int, validation: float, seed: int) -> None:
    assume(folds <= groups)
    assume(groups - -(-groups // folds) >= 2)
    n = groups * each
    samples = build(n, None, groups=[f"actor{row % groups}" for row in range(n)])
    protocol = make_protocol(samples, folds=folds, validation=validation, seed=seed)
    names = np.array(samples.groups)
    for fold in protocol.folds:
        parts = [set(names[part]) for part in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == groups
        assert sorted([*fold.train, *fold.validation, *fold.test]) == list(range(n))
        left = groups - len(parts[2])
        assert len(parts[1]) == min(max(round(validation * left), 1), left - 1)
    sizes = [len(set(names[fold.test])) for fold in protocol.folds]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(row for fold in protocol.folds for row in fold.test) == list(range(n))
    assert rows(protocol) == rows(make_protocol(samples, folds=folds, validation=validation, seed=seed))


@given(
    n=st.integers(30, 60),
    classes=st.sampled_from([None, 2, 3]),
    folds=st.integers(2, 6),
    validation=st.floats(0.1, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_folds_without_groups_cover_every_sample_once(
    n: int, classes: int | None, folds: int, validation: float, seed: int
) -> None:
    samples = build(n, classes)
    protocol = make_protocol(samples, folds=folds, validation=validation, seed=seed)
    for fold in protocol.folds:
        assert sorted([*fold.train, *fold.validation, *fold.test]) == list(range(n))
        assert len(fold.validation) == round(validation * (n - len(fold.test)))
        assert all(part.dtype == np.int64 for part in (fold.train, fold.validation, fold.test))
    assert sorted(row for fold in protocol.folds for row in fold.test) == list(range(n))
    assert rows(protocol) == rows(make_protocol(samples, folds=folds, validation=validation, seed=seed))


def test_folds_of_classes_are_stratified_in_every_part() -> None:
    samples = build(100, 4, target=torch.tensor([0] * 40 + [1] * 30 + [2] * 20 + [3] * 10))
    protocol = make_protocol(samples, folds=5, validation=0.25)
    assert protocol.name == "stratified-5-fold"
    for fold in protocol.folds:
        assert samples.target[fold.test].bincount().tolist() == [8, 6, 4, 2]
        assert samples.target[fold.validation].bincount().tolist() == [8, 6, 4, 2]
        assert samples.target[fold.train].bincount().tolist() == [24, 18, 12, 6]


def test_folds_of_values_are_shuffled() -> None:
    protocol = make_protocol(build(classes=None), folds=3)
    assert protocol.name == "shuffled-3-fold"
    assert protocol.folds[0].test.tolist() != list(range(20))
    assert rows(protocol) != rows(make_protocol(build(classes=None), folds=3, seed=1))


def test_a_shipped_split_is_kept() -> None:
    parts = ["test"] * 20 + ["train"] * 30 + ["validation"] * 10
    protocol = make_protocol(build(parts=parts), folds=9)
    assert protocol.name == "shipped-split"
    assert rows(protocol) == [[list(range(20, 50)), list(range(50, 60)), list(range(20))]]
    assert "Validation: as shipped" in protocol.description


def test_a_shipped_split_without_validation_gives_whole_training_groups() -> None:
    groups = [f"t{row}" for row in range(10) for _ in range(4)] + [f"e{row}" for row in range(5) for _ in range(4)]
    samples = build(parts=["train"] * 40 + ["test"] * 20, groups=groups)
    (fold,) = make_protocol(samples, validation=0.3).folds
    assert fold.test.tolist() == list(range(40, 60))
    assert len({groups[row] for row in fold.validation}) == 3
    assert len(fold.validation) == 12
    assert len(fold.train) == 28


def test_a_shipped_split_without_validation_and_groups_is_cut_by_class() -> None:
    samples = build(parts=["train"] * 45 + ["test"] * 15)
    (fold,) = make_protocol(samples, validation=0.2).folds
    assert samples.target[fold.validation].bincount().tolist() == [3, 3, 3]
    assert fold.test.tolist() == list(range(45, 60))


def test_a_group_in_two_shipped_parts_is_refused_by_name() -> None:
    groups = [str(row // 3) for row in range(60)]
    parts = ["train"] * 40 + ["test"] * 20
    with pytest.raises(ProtocolError, match="1 group is in both train and test: '13'"):
        make_protocol(build(parts=parts, groups=groups))


@pytest.mark.parametrize("lacking", ["train", "test"])
def test_a_shipped_split_without_train_or_test_is_refused(lacking: str) -> None:
    parts = ["validation"] * 30 + ["test" if lacking == "train" else "train"] * 30
    with pytest.raises(ProtocolError, match=f"the shipped split has no {lacking} part; it has"):
        make_protocol(build(parts=parts))


def test_fewer_groups_than_folds_are_refused() -> None:
    with pytest.raises(ProtocolError, match="toy: 6 folds need 6 groups or more, and there are 5"):
        make_protocol(build(groups=actors(60, 5)), folds=6)


def test_one_group_left_to_train_and_validate_is_refused() -> None:
    with pytest.raises(ProtocolError, match="fold 0: 1 group left after the test part; two or more are needed"):
        make_protocol(build(groups=actors(60, 2)), folds=2)


def test_a_class_smaller_than_the_folds_is_refused() -> None:
    with pytest.raises(ProtocolError, match="class 'c1' has 4 samples, fewer than the 5 folds"):
        make_protocol(build(classes=2, target=torch.tensor([0] * 56 + [1] * 4)), folds=5)


def test_fewer_samples_than_folds_are_refused() -> None:
    with pytest.raises(ProtocolError, match="70 folds need 70 samples or more, and there are 60"):
        make_protocol(build(), folds=70)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"validation": 0.0}, {"validation": 1.0}, {"seed": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(
        ProtocolError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}.*folds must be 2 or more"
    ):
        make_protocol(build(), **wrong)


def test_a_class_that_only_one_group_has_is_refused_when_it_tests() -> None:
    target = torch.tensor([2 if row % 5 == 0 else row // 5 % 2 for row in range(60)])
    said = "fold 0: no training sample of class 'c2'; "
    with pytest.raises(ProtocolError, match=f"{said}use other folds, less validation or another seed"):
        make_protocol(build(groups=actors(60, 5), target=target), folds=5)
    # of a fold that nobody draws there are no others
    samples, rows = build(target=target), np.arange(60)
    rest = rows[rows % 5 != 0]
    given = Fold(0, rest[rest % 2 == 0], rest[rest % 2 == 1], rows[rows % 5 == 0])
    with pytest.raises(
        ProtocolError, match=f"{said}take in samples of it of more subjects or groups, who train, or leave"
    ):
        check_fold(given, samples)


def fold(train: list[int], validation: list[int], test: list[int]) -> Fold:
    return Fold(7, *(np.array(part, dtype=np.int64) for part in (train, validation, test)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (fold([0, 1, 2], [3], []), "fold 7: the test part is empty"),
        (fold([], [3], [4]), "fold 7: the train part is empty"),
        (fold([0, 1, 2], [2, 3], [4]), "fold 7: 1 sample is in both train and validation: 's2'"),
        (fold([0, 1, 2], [3], [1, 2]), "fold 7: 2 samples are in both train and test: 's1', 's2'"),
        (fold([0, 1, 2], [3, 4], [4]), "1 sample is in both validation and test: 's4'"),
        (fold([0, 2, 1], [3], [4]), "the train part must be sorted row numbers from 0 to 59, each once"),
        (fold([0, 1, 2], [3, 3], [4]), "the validation part must be sorted"),
        (fold([0, 1, 2], [3], [60]), "the test part must be sorted row numbers from 0 to 59"),
        (fold([-1, 1, 2], [3], [4]), "the train part must be sorted"),
        (fold([0, 1, 3], [4], [5]), "fold 7: no training sample of class 'c2'"),
    ],
)
def test_check_fold_names_what_is_wrong(wrong: Fold, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        check_fold(wrong, build())


def test_check_fold_names_a_shared_group() -> None:
    with pytest.raises(ProtocolError, match="fold 7: 2 groups are in both train and validation: '1', '2'"):
        check_fold(fold([0, 1, 2], [10, 11], [5]), build(groups=actors(60, 10)))


def test_check_fold_accepts_a_fold_that_leaves_samples_out() -> None:
    check_fold(fold([0, 1, 2], [3], [4]), build())


def test_fold_ids_are_names_by_part() -> None:
    assert fold_ids(fold([0, 1, 2], [3], [4, 9]), build()) == {
        "train": ["s0", "s1", "s2"],
        "validation": ["s3"],
        "test": ["s4", "s9"],
    }
