"""Protects the names of NTU RGB+D files and the data set's constants: read strictly, and written back as they were."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.data import ntu
from torchmsaf.data.ntu import ACTIONS, BONES, JOINTS, NtuName
from torchmsaf.errors import DataError

FIELDS = st.tuples(*(st.integers(1, most) for most in (32, 3, 106, 2, 120)))


def test_the_example_of_the_data_sets_own_page() -> None:
    name = NtuName.parse("S001C002P003R002A013")
    assert name == NtuName(setup=1, camera=2, person=3, replication=2, action=13)
    assert (name.label, name.action_name) == (12, "tear up paper")


@given(FIELDS)
def test_every_valid_name_comes_back(fields: tuple[int, ...]) -> None:
    name = NtuName(*fields)
    assert NtuName.parse(name.stem) == name
    assert NtuName.parse(Path("nturgb+d_skeletons") / f"{name.stem}.skeleton") == name
    assert NtuName.parse(PureWindowsPath(f"C:\\rgb\\{name.stem}_rgb.avi")) == name
    assert len(name.stem) == 20


@pytest.mark.parametrize(
    "name", ["s001c002p003r002a013.skeleton", "S001c002P003r002A013_RGB.AVI", "s001C002p003R002a013_Rgb"]
)
def test_small_letters_are_read_and_the_id_has_capitals(name: str) -> None:
    assert NtuName.parse(name).stem == "S001C002P003R002A013"


@pytest.mark.parametrize(
    "wrong",
    [
        "", "S001C002P003R002.skeleton", "S01C002P003R002A013", "ſ001C002P003R002A013", "S001C002P003R002A0133",
        "S001C002P003R002A013_depth.avi", "S001C002P003R002A013 (1).skeleton", "xS001C002P003R002A013",
        "S001C002P003R002A01٣", "S001C002P003R002A013\n", "C002S001P003R002A013",
    ],
)  # fmt: skip
def test_names_of_another_form(wrong: str) -> None:
    with pytest.raises(DataError, match="five letters with three digits each are needed"):
        NtuName.parse(wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("S000C001P001R001A001", "setup is 000; 001 to 032 is needed"),
        ("S033C001P001R001A001", "setup is 033"),
        ("S001C004P001R001A001_rgb.avi", "A001_rgb.avi: camera is 004; 001 to 003"),
        ("S001C001P107R001A001", "person is 107; 001 to 106"),
        ("S001C001P001R003A001", "replication is 003; 001 to 002"),
        ("S001C001P001R001A121", "action is 121; 001 to 120"),
    ],
)
def test_numbers_out_of_their_range(wrong: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        NtuName.parse(wrong)


def test_the_actions_are_those_of_the_list() -> None:
    assert len(ACTIONS) == len(set(ACTIONS)) == 120
    some = {
        1: "drink water",
        8: "sitting down",
        50: "punching/slapping other person",
        60: "walking apart from each other",
    }
    more = {61: "put on headphone", 100: "butt kicks (kick backward)", 106: "hit other person with something"}
    for number, action in (some | more).items():
        assert ACTIONS[number - 1] == action
    assert ACTIONS[-1] == "finger-guessing game (playing rock-paper-scissors)"
    assert len(ntu.MUTUAL) == 11 + 15
    for number in ntu.MUTUAL[:9]:
        assert any(word in ACTIONS[number - 1] for word in ("other", "hugging", "handshaking"))


def test_the_subjects_of_the_protocols() -> None:
    assert (len(ntu.TRAIN_SUBJECTS_60), len(ntu.TRAIN_SUBJECTS_120)) == (20, 53)  # half of 40, half of 106
    assert list(ntu.TRAIN_SUBJECTS_120) == sorted(set(ntu.TRAIN_SUBJECTS_120))
    assert max(ntu.TRAIN_SUBJECTS_60) <= ntu.FIRST_SUBJECTS < ntu.TRAIN_SUBJECTS_120[20]
    assert not set(ntu.PUBLISHED_DEV) & set(ntu.TRAIN_SUBJECTS_60)  # what is wrong with them
    assert set(ntu.MFAS_DEV) <= set(ntu.TRAIN_SUBJECTS_60)
    assert ntu.TRAIN_CAMERAS == (2, 3)
    assert [setup for setup in range(1, 7) if ntu.train_setup(setup)] == [2, 4, 6]


def test_the_bones_are_a_tree_that_reaches_every_joint() -> None:
    assert len(JOINTS) == len(set(JOINTS)) == 25
    parents = dict(BONES)
    assert len(BONES) == len(parents) == 24
    for joint in range(25):
        steps = 0
        while joint:
            joint, steps = parents[joint], steps + 1
            assert steps < 25
    sides = [(a, b) for a, b in BONES if JOINTS[a].split()[0] == "left" and JOINTS[b].split()[0] == "right"]
    assert not sides
