"""Protects UR-FUNNY: its pickles become utterances with two classes, and another layout is refused in words."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data.prepare.utterances.preparation import prepare_sentiment
from torchmsaf.data.prepare.utterances.utterance import Settings
from torchmsaf.data.prepared import Prepared
from torchmsaf.errors import DataError

pytest.importorskip("safetensors")

WORDS = {1: ["So", "he", "SAID"], 2: ["Thank", "you"], 30: ["oh", "no", "not", "again"], 4: ["well"]}
LABELS = {1: 1, 2: 0, 30: 1, 4: 0}


def features(key: int, width: int) -> list[list[float]]:
    rows = np.arange(len(WORDS[key]) * width, dtype=np.float64).reshape(-1, width) / 8 + key
    return rows.tolist()


def content() -> dict[str, Any]:
    """Version 2, small: lists of lists as the authors' files have them."""
    order = sorted({word for words in WORDS.values() for word in words})
    return {
        "humor_label_sdk": dict(LABELS),
        "data_folds": {"train": [1, 2], "dev": [30], "test": [4]},
        "openface_features_sdk": {
            key: {"punchline_features": features(key, 5), "context_features": []} for key in WORDS
        },
        "covarep_features_sdk": {
            key: {"punchline_features": features(key, 3), "context_features": []} for key in WORDS
        },
        "language_sdk": {
            key: {
                "punchline_features": words,
                "punchline_sentence": " ".join(words) + " .",
                "punchline_embedding_indexes": [order.index(word) for word in words],
                "context_sentences": [],
            }
            for key, words in WORDS.items()
        },
        "word_embedding_list": [[float(row), -float(row)] for row in range(len(order))],
    }


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value, protocol=2))
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "raw", content())


def test_punchlines_become_utterances_of_two_classes(raw: Path, tmp_path: Path) -> None:
    report = prepare_sentiment("ur_funny", raw, tmp_path / "out", Settings(steps=3))
    assert (report.prepared, report.refused, report.cut) == (4, (), 1)
    assert report.utterances == {"train": 2, "validation": 1, "test": 1}
    prepared = Prepared.open(tmp_path / "out")
    assert prepared.parameters["classes"] == ["not humorous", "humorous"]
    assert (prepared.parameters["text"], prepared.parameters["folds"]) == ("given", "given")
    assert [entry.id for entry in prepared.entries] == ["1.0", "2.0", "4.0", "30.0"]
    facts = prepared.entries[3].facts
    assert (facts["target"], facts["part"], facts["group"], facts["cut"]) == (1, "validation", "30", 1)
    assert facts["words"] == ["oh", "no", "not"]
    assert facts["sentence"] == "oh no not again ."
    np.testing.assert_array_equal(prepared.read(3, "video").numpy(), np.array(features(30, 5)[:3], np.float32))
    np.testing.assert_array_equal(prepared.read(0, "audio").numpy(), np.array(features(1, 3), np.float32))
    order = content()["language_sdk"][1]["punchline_embedding_indexes"]
    assert prepared.read(0, "text").tolist() == [[float(row), -float(row)] for row in order]


def test_words_come_from_the_sentence_where_there_is_no_list(tmp_path: Path) -> None:
    files = content()
    for said in files["language_sdk"].values():
        del said["punchline_features"]
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings(text="words"))
    facts = Prepared.open(report.path).entries[0].facts
    assert facts["words"] == ["so", "he", "said"]
    assert "text" not in Prepared.open(report.path).entries[0].shapes


def test_what_does_not_fit_is_refused_by_its_id(tmp_path: Path) -> None:
    files = content()
    files["covarep_features_sdk"][1]["punchline_features"].pop()
    del files["openface_features_sdk"][2]
    files["data_folds"]["dev"] = []
    files["humor_label_sdk"][30] = 1
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings(text="words"))
    reasons = {one.name: one.reason for one in report.refused}
    assert reasons == {
        "1.0": "has other numbers of words: 3 in video, 2 in audio, 3 in words",
        "2.0": "has no video features",
        "30": "is in no fold",
    }


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("data_folds", {"train": [1, 4], "dev": [30], "test": [4]}, "4 is both in train and in test"),
        ("data_folds", {"train": [1]}, "has no 'dev'"),
        ("humor_label_sdk", [1, 0], "holds a list; a dictionary by the id of a piece is needed"),
    ],
)
def test_another_layout_is_said(raw: Path, tmp_path: Path, name: str, change: Any, words: str) -> None:
    write(raw, {name: change})
    with pytest.raises(DataError, match=re.escape(words)):
        prepare_sentiment("ur_funny", raw, tmp_path / "out", Settings())


def test_missing_files_and_choices_are_said(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="comes aligned by word; --alignment published needs frames"):
        prepare_sentiment("ur_funny", raw, tmp_path / "out", Settings(alignment="published", text="none"))
    (raw / "word_embedding_list.pkl").unlink()
    with pytest.raises(DataError, match="choose --text-model NAME"):
        prepare_sentiment("ur_funny", raw, tmp_path / "out", Settings())
    (raw / "covarep_features_sdk.pkl").unlink()
    with pytest.raises(DataError, match=r"lacks covarep_features_sdk.pkl of UR-FUNNY; download it"):
        prepare_sentiment("ur_funny", raw, tmp_path / "out", Settings())


def test_a_pickle_that_would_run_something_is_not_run(raw: Path, tmp_path: Path) -> None:
    (raw / "humor_label_sdk.pkl").write_bytes(pickle.dumps(Path))
    with pytest.raises(DataError, match="pathlib"):
        prepare_sentiment("ur_funny", raw, tmp_path / "out", Settings())
