"""Protects the protocols of NTU RGB+D: who trains, validates and tests, and that nobody is in two parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.data.folds import Protocol
from torchmsaf.data.ntu import MFAS_DEV, PUBLISHED_DEV, TRAIN_SUBJECTS_60, TRAIN_SUBJECTS_120, NtuName
from torchmsaf.data.ntu_protocols import PROTOCOLS, ntu_groups, ntu_protocol
from torchmsaf.data.samples import Samples, make_samples
from torchmsaf.errors import DataError, ProtocolError

MORE_DEV = (45, 46, 47, 49)
FIRST, SECOND = range(1, 41), range(1, 107)


def clips(
    subjects: Iterable[int],
    *,
    actions: Sequence[int] = (7, 8),
    cameras: Sequence[int] = (1, 2, 3),
    setups: Sequence[int] = (1,),
) -> list[NtuName]:
    return [NtuName(s, c, p, 1, a) for s, c, p, a in product(setups, cameras, subjects, actions)]


def samples_of(names: Sequence[NtuName], protocol: str) -> Samples:
    ids = [name.stem for name in names]
    actions = sorted({name.action for name in names})
    return make_samples(
        "NTU RGB+D",
        {"skeleton": torch.zeros(len(ids), 1)},
        torch.tensor([actions.index(name.action) for name in names]),
        ids=ids,
        classes=[f"A{action:03}" for action in actions],
        groups=ntu_groups(ids, protocol),
    )


def parts_of(names: Sequence[NtuName], protocol: str) -> tuple[Protocol, list[list[NtuName]]]:
    made = ntu_protocol(samples_of(names, protocol), protocol)
    (fold,) = made.folds
    return made, [[names[row] for row in rows] for rows in (fold.train, fold.validation, fold.test)]


def values(names: Iterable[NtuName], field: str) -> set[int]:
    return {getattr(name, field) for name in names}


# who is where


def test_cross_subject_of_60_actions_is_by_the_list_and_four_of_it_validate() -> None:
    made, (train, validation, test) = parts_of(clips(FIRST), "cross-subject")
    assert len(TRAIN_SUBJECTS_60) == 20
    assert values(validation, "person") == set(MFAS_DEV) == {2, 5, 9, 14}
    assert values(train, "person") == set(TRAIN_SUBJECTS_60) - set(MFAS_DEV)
    assert values(test, "person") == set(FIRST) - set(TRAIN_SUBJECTS_60)
    assert len(train) + len(validation) + len(test) == 40 * 3 * 2
    assert (made.name, made.chosen_on_test) == ("ntu-cross-subject", False)
    assert made.chosen_by == "loss"
    assert made.description == "20 subjects of the test list; validation: subjects 2, 5, 9, 14 of the training part"
    assert made.citation is not None
    assert "CVPR 2016" in made.citation


def test_cross_subject_of_120_actions_is_by_the_longer_list_and_eight_validate() -> None:
    made, (train, validation, test) = parts_of(clips(SECOND, actions=(7, 100)), "cross-subject")
    assert len(TRAIN_SUBJECTS_120) == 53
    assert values(validation, "person") == {*MFAS_DEV, *MORE_DEV}
    assert values(train, "person") == set(TRAIN_SUBJECTS_120) - {*MFAS_DEV, *MORE_DEV}
    assert values(test, "person") == set(SECOND) - set(TRAIN_SUBJECTS_120)
    assert made.name == "ntu-120-cross-subject"
    assert made.citation is not None
    assert "TPAMI 2020" in made.citation


def test_one_action_of_the_second_data_set_makes_it_that() -> None:
    # subject 45 trains in the second data set, and in the first there is nobody of that number
    names = [*clips((1, 2, 3, 45)), *clips((1,), actions=(61,))]
    assert parts_of(names, "cross-subject")[0].name == "ntu-120-cross-subject"
    assert parts_of(clips((1, 2, 3)), "cross-subject")[0].name == "ntu-cross-subject"


def test_cross_view_tests_the_first_camera_and_four_subjects_of_the_others_validate() -> None:
    made, (train, validation, test) = parts_of(clips(FIRST), "cross-view")
    assert values(test, "camera") == {1}
    assert values(train, "camera") == values(validation, "camera") == {2, 3}
    assert values(test, "person") == set(FIRST)
    assert values(validation, "person") == set(MFAS_DEV)
    assert values(train, "person") == set(FIRST) - set(MFAS_DEV)
    assert made.name == "ntu-cross-view"
    assert made.description.startswith("Camera 1 tests, 2 and 3 train; validation: subjects 2, 5, 9, 14")


def test_cross_setup_tests_the_odd_setups_and_subjects_of_the_even_ones_validate() -> None:
    names = clips((1, 2, 3, 9, 46, 60), actions=(7, 100), setups=range(1, 33))
    made, (train, validation, test) = parts_of(names, "cross-setup")
    assert values(test, "setup") == set(range(1, 33, 2))
    assert values(train, "setup") == values(validation, "setup") == set(range(2, 33, 2))
    assert values(validation, "person") == {2, 9, 46}
    assert values(train, "person") == {1, 3, 60}
    assert made.name == "ntu-120-cross-setup"


def test_the_published_protocol_validates_on_test_subjects_and_says_so() -> None:
    made, (train, validation, test) = parts_of(clips(FIRST), "published")
    assert values(train, "person") == set(TRAIN_SUBJECTS_60)
    assert values(test, "person") == set(FIRST) - set(TRAIN_SUBJECTS_60)
    assert values(validation, "person") == set(PUBLISHED_DEV) == {3, 6, 7, 10}
    assert set(validation) < set(test)
    assert not set(validation) & set(train)
    assert made.chosen_on_test
    assert made.chosen_by == "loss"
    assert made.description.startswith("PUBLISHED PROTOCOL: the best epoch is chosen on four of the test subjects, so")
    assert "subjects 3, 6, 7, 10 of them validate" in made.description


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (
            (3, 6, 7),
            "four of the test subjects, of whom three are here, so scores are optimistic; 4 subjects of the test list, "
            "subjects 3, 6, 7 of them validate",
        ),
        (
            (10,),
            "four of the test subjects, of whom one is here, so scores are optimistic; 2 subjects of the test list, "
            "subject 10 of them validates",
        ),
    ],
)
def test_the_published_protocol_says_how_many_of_its_four_subjects_are_there(here: tuple[int, ...], words: str) -> None:
    made, (_, validation, _) = parts_of(clips((1, *here, 11)), "published")
    assert values(validation, "person") == set(here)
    assert made.description == f"PUBLISHED PROTOCOL: the best epoch is chosen on {words}"


def test_groups_are_subjects_or_subjects_as_a_camera_or_setup_sees_them() -> None:
    ids = ["S003C002P011R001A059", "S012C001P007R002A001"]
    assert ntu_groups(ids, "cross-subject") == ntu_groups(ids, "published") == ("P011", "P007")
    assert ntu_groups(ids, "cross-view") == ("C002P011", "C001P007")
    assert ntu_groups(ids, "cross-setup") == ("S003P011", "S012P007")


# any clips


def some_clips(second: bool) -> st.SearchStrategy[list[NtuName]]:
    """Clips of any subjects, with a few that fill every part."""
    people = SECOND if second else FIRST
    actions = (7, 100) if second else (7, 8)
    base = clips((1, 2, 3), actions=actions, setups=(1, 2))
    one = st.builds(
        NtuName,
        st.integers(1, 32 if second else 17),
        st.integers(1, 3),
        st.sampled_from(people),
        st.integers(1, 2),
        st.sampled_from(actions),
    )
    return st.lists(one, max_size=60).map(lambda some: sorted({*base, *some}, key=lambda name: name.stem))


@given(names=some_clips(second=False), protocol=st.sampled_from(["cross-subject", "cross-view", "published"]))
def test_of_any_clips_of_60_actions_nobody_is_in_two_parts(names: list[NtuName], protocol: str) -> None:
    check_parts(names, protocol)


@given(names=some_clips(second=True), protocol=st.sampled_from(["cross-subject", "cross-setup"]))
def test_of_any_clips_of_120_actions_nobody_is_in_two_parts(names: list[NtuName], protocol: str) -> None:
    check_parts(names, protocol)


def check_parts(names: list[NtuName], protocol: str) -> None:
    made, (train, validation, test) = parts_of(names, protocol)
    what = {"cross-view": "camera", "cross-setup": "setup"}.get(protocol, "person")
    assert train
    assert validation
    assert test
    assert not values(train, what) & values(test, what)
    assert not values(train, "person") & values(validation, "person")
    if protocol == "published":
        assert values(validation, "person") <= set(PUBLISHED_DEV)
        assert set(validation) <= set(test)
    else:
        assert not values(validation, what) & values(test, what)
        assert not made.chosen_on_test
        assert len(train) + len(validation) + len(test) == len(names)
    # all are used
    assert {*train, *validation, *test} == set(names)
    groups = dict(zip(names, ntu_groups([name.stem for name in names], protocol), strict=True))
    for first, second in ((train, test), (train, validation)):
        assert not {groups[name] for name in first} & {groups[name] for name in second}


# what there is no protocol of


@pytest.mark.parametrize(
    ("names", "protocol", "said"),
    [
        (clips((1, 2, 3)), "cross-body", "there is no protocol 'cross-body' of NTU RGB\\+D: choose cross-subject"),
        (clips((1, 2, 3), setups=(1, 2)), "cross-setup", "cross-setup is for NTU RGB\\+D 120, and there are"),
        (clips((1, 2, 3), actions=(7, 61)), "cross-view", "cross-view is for the 60 actions of NTU RGB\\+D"),
        (clips((1, 2, 3), actions=(7, 61)), "published", "published is for the 60 actions of NTU RGB\\+D"),
        (clips((2, 3)), "cross-subject", "the training part is empty; it is of subjects 1, 4, 8, .*subjects 2, 3"),
        (clips((1, 3)), "cross-subject", "the validation part is empty"),
        (clips((1, 2)), "cross-subject", "the test part is empty"),
        (clips((1, 11)), "published", "published: the validation part is empty"),
        (clips((1, 2), cameras=(2, 3)), "cross-view", "cross-view: the test part is empty"),
        (clips((1, 2), actions=(61, 62), setups=(2,)), "cross-setup", "cross-setup: the test part is empty"),
        ([*clips((1, 2, 3)), *clips((3,), actions=(9,))], "cross-subject", "no training sample of class 'A009'"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_said(names: list[NtuName], protocol: str, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        ntu_protocol(samples_of(names, protocol), protocol)


def test_clips_of_other_names_are_refused() -> None:
    with pytest.raises(DataError, match="setup, camera, person, replication and action"):
        ntu_groups(["01-02-03"], "cross-subject")


def test_groups_of_another_protocol_do_not_hide_a_leak() -> None:
    """One subject trains on camera 2 and tests on camera 1, which subjects as groups do not allow."""
    made = samples_of(clips((1, 2, 3)), "cross-subject")
    with pytest.raises(ProtocolError, match="group"):
        ntu_protocol(made, "cross-view")


def test_all_protocols_are_named() -> None:
    assert PROTOCOLS == ("cross-subject", "cross-view", "cross-setup", "published")
