"""Protects the standard folds: every video in its part, no id in the files, and folds that a person gives."""

from __future__ import annotations

import hashlib
import json
import os
import re
from importlib import resources
from pathlib import Path

import pytest

from torchmsaf.data.standard_folds import PARTS, STANDARD_VIDEOS, digest, read_folds, standard_folds, standard_part
from torchmsaf.errors import DataError

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")


def digests() -> dict[str, dict[str, list[str]]]:
    text = resources.files("torchmsaf.data").joinpath("standard_folds.json").read_text(encoding="utf-8")
    return json.loads(text)


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("name", STANDARD_VIDEOS)
def test_there_are_as_many_videos_as_the_sdk_has_and_no_two_look_alike(name: str) -> None:
    parts = digests()[name]
    assert {part: len(parts[part]) for part in PARTS} == STANDARD_VIDEOS[name]
    every = [one for part in PARTS for one in parts[part]]
    assert len(set(every)) == len(every)
    assert all(re.fullmatch("[0-9a-f]{10}", one) for one in every)
    assert all(parts[part] == sorted(parts[part]) for part in PARTS)


def test_a_part_is_found_by_the_sha256_of_the_id() -> None:
    assert digest("03bSnISJMiM") == hashlib.sha256(b"03bSnISJMiM").hexdigest()[:10]
    assert standard_part("mosi", "03bSnISJMiM") == "train"
    assert standard_part("mosi", "tmZoasNr4rU") == "test"
    assert standard_part("mosi", "nobody") is None
    assert standard_part("mosei", "03bSnISJMiM") is None
    with pytest.raises(DataError, match="'pom' has no standard folds, as mosei and mosi have; give --folds FILE"):
        standard_folds("pom")


@pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")
def test_every_video_of_the_sdk_is_in_its_part() -> None:
    said = json.loads((Path(str(SHARED)) / "cmu_mosi" / "standard_folds.json").read_text())
    for name in STANDARD_VIDEOS:
        for part, theirs in (("train", "train"), ("validation", "valid"), ("test", "test")):
            videos = said[f"cmu_{name}"][f"standard_{theirs}_fold"]
            assert {standard_part(name, video) for video in videos} == {part}
            assert len(videos) == STANDARD_VIDEOS[name][part]


@pytest.mark.parametrize(
    "said",
    [
        {"train": ["a", "b"], "validation": ["c"], "test": ["d"]},
        {"train": ["b", "a"], "valid": ["c"], "test": ["d"]},
        {"standard_train_fold": ["a", "b"], "standard_valid_fold": ["c"], "standard_test_fold": ["d"]},
        {"cmu_mosei": {"train": ["a", "b"], "dev": ["c"], "test": ["d"]}, "cmu_mosi": {}},
    ],
)
def test_folds_are_read_in_each_of_the_known_forms(tmp_path: Path, said: object) -> None:
    folds = read_folds(write(tmp_path / "folds.json", said), "mosei")
    assert [folds.part(video) for video in "abcde"] == ["train", "train", "validation", "test", None]
    assert folds.videos == {"train": 2, "validation": 1, "test": 1}
    canonical = json.dumps({"test": ["d"], "train": ["a", "b"], "validation": ["c"]})
    assert folds.name == "file " + hashlib.sha256(canonical.encode()).hexdigest()[:8]


def test_folds_need_no_validation(tmp_path: Path) -> None:
    folds = read_folds(write(tmp_path / "f.json", {"train": ["a"], "test": [7]}), "mosi")
    assert (folds.part("7"), folds.videos) == ("test", {"train": 1, "test": 1})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"train": ["a", "b"], "test": ["b"]},
            "video b is both in train and in test; each video belongs into one part",
        ),
        ({"train": ["a", "a"], "test": ["b"]}, "video a is in train twice"),
        ({"train": ["a"]}, "has no test list; one of test, standard_test_fold is needed; it has train"),
        ({"train": ["a"], "test": ["b"], "valid": ["c"], "dev": ["d"]}, "has both valid and dev"),
        ({"train": ["a"], "test": []}, "test is no list of video ids"),
        ({"train": "abc", "test": ["b"]}, "train is no list of video ids"),
        (["a"], "holds a list; lists of video ids under train, validation and test are needed"),
    ],
)
def test_wrong_folds_are_said_in_words(tmp_path: Path, said: object, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        read_folds(write(tmp_path / "folds.json", said), "mosi")


def test_a_file_that_is_no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("train: a")
    for name in ("x.json", "gone.json"):
        with pytest.raises(DataError, match=f"{name} cannot be read as JSON"):
            read_folds(tmp_path / name, "mosi")
