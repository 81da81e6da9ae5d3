"""Protects the names of RAVDESS files: read strictly, and written back as they were."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.data.ravdess import ACTORS, EMOTIONS, RavdessName
from torchmsaf.errors import DataError

# modality, channel, emotion, intensity, statement, repetition, actor
FIELDS = st.tuples(*(st.integers(1, most) for most in (3, 2, 8, 2, 2, 2, 24))).filter(lambda f: f[2] > 1 or f[3] == 1)


def test_the_example_of_the_data_sets_own_page() -> None:
    """Video only, speech, fearful, normal, "Dogs", first repetition, actor 12, a woman."""
    name = RavdessName.parse("02-01-06-01-02-01-12.mp4")
    assert name == RavdessName(2, 1, 6, 1, 2, 1, 12)
    assert EMOTIONS[name.label] == "fearful"
    assert name.gender == "female"
    assert RavdessName.parse("02-01-06-01-02-01-11").gender == "male"


def test_emotions_are_in_the_order_of_their_numbers() -> None:
    assert EMOTIONS == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    assert ACTORS == 24


@given(FIELDS)
def test_every_valid_name_comes_back(fields: tuple[int, ...]) -> None:
    name = RavdessName(*fields)
    assert RavdessName.parse(name.stem) == name
    assert RavdessName.parse(Path("Actor_01") / f"{name.stem}.mp4") == name
    assert name.stem == "-".join(f"{field:02}" for field in fields)
    assert 0 <= name.label == fields[2] - 1


def test_windows_paths() -> None:
    assert RavdessName.parse(PureWindowsPath(r"C:\RAVDESS\01-01-03-02-01-02-17.mp4")).actor == 17


@pytest.mark.parametrize(
    "wrong",
    [
        "01-01-03-02-01-02.mp4", "01-01-03-02-01-02-17-01.mp4", "1-01-03-02-01-02-17.mp4", "01-01-03-02-01-02-017.mp4",
        "01_01_03_02_01_02_17.mp4", "01-01-03-02-01-02-17 (1).mp4", "x01-01-03-02-01-02-17.mp4", "01-01-03-02-01-02-1a",
        "01-01-03-02-01-02-17\n", "٠1-01-03-02-01-02-17.mp4", "", "01-01-03-02-01-02-+7.mp4", "01-01-03-02-01-02-17.tar.gz",
    ],
)  # fmt: skip
def test_names_of_another_form(wrong: str) -> None:
    with pytest.raises(DataError, match=r"seven numbers of two digits are needed, modality-channel-emotion"):
        RavdessName.parse(wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("00-01-03-02-01-02-17", "modality is 00; 01 to 03 is needed"),
        ("04-01-03-02-01-02-17", "modality is 04; 01 to 03"),
        ("01-03-03-02-01-02-17", "channel is 03; 01 to 02"),
        ("01-01-09-02-01-02-17", "emotion is 09; 01 to 08"),
        ("01-01-03-03-01-02-17", "intensity is 03; 01 to 02"),
        ("01-01-03-02-03-02-17", "statement is 03; 01 to 02"),
        ("01-01-03-02-01-03-17", "repetition is 03; 01 to 02"),
        ("01-01-03-02-01-02-25", "actor is 25; 01 to 24"),
        ("01-01-03-02-01-02-00", "actor is 00; 01 to 24"),
        ("01-01-01-02-01-02-17", "neutral has no strong intensity; intensity 01 is needed"),
    ],
)
def test_numbers_out_of_their_range_are_named(wrong: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"^{wrong}\.mp4: {words}"):
        RavdessName.parse(f"Actor_17/{wrong}.mp4")
