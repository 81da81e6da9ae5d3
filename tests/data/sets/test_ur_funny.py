"""Protects UR-FUNNY: its pickles become utterances with two classes, and another layout is refused in words."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data.prepare.utterances.preparation import prepare_sentiment
from torchmsaf.data.prepare.utterances.utterance import Lost, Settings
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
        ("data_folds", {"train": [1], "dev": 30, "test": [4]}, "'dev' is a int; a list of ids is needed"),
        (
            "data_folds",
            {"train": [[1]], "dev": [30], "test": [4]},
            "has an id that is a list; a text or a whole number",
        ),
        ("humor_label_sdk", {10**5000: 1}, "has an id of 16610 bits; 128 are the most"),
        ("humor_label_sdk", {(1, 2): 1}, "has an id that is a tuple; a text or a whole number is needed"),
        ("word_embedding_list", 5, "holds a int; a list with a row of numbers a word is needed"),
        ("humor_label_sdk", [1, 0], "holds a list; a dictionary by the id of a piece is needed"),
    ],
)
def test_another_layout_is_said(raw: Path, tmp_path: Path, name: str, change: Any, words: str) -> None:
    write(raw, {name: change})
    with pytest.raises(DataError, match=re.escape(words)):
        prepare_sentiment("ur_funny", raw, tmp_path / "out", Settings())


SHARED = [0.5] * 2**14  # a pickle has it once, however often it is named
NESTED: list[Any] = []
for _ in range(60):
    NESTED = [NESTED, NESTED]


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        (
            "openface_features_sdk",
            [SHARED] * 2**13,
            "are 8192 rows, the first of 16384 numbers; a row a word is needed",
        ),
        ("openface_features_sdk", [[[0.5]] * 3] * 3, "row 0 has a list"),
        ("openface_features_sdk", NESTED, "no table of numbers: row 0 has a list"),
        ("openface_features_sdk", [[1.0, 2.0], [1.0]], "row 1 is 1 numbers, the first has 2 numbers"),
        ("openface_features_sdk", [[1.0], "a"], "row 1 is a str, the first has 1 numbers"),
        ("openface_features_sdk", [[1.0], ["2"]], "row 1 has a str"),
        ("openface_features_sdk", [[10**400]], "have a number that is too large"),
        ("openface_features_sdk", [], "are 0 rows, the first of 0 numbers"),
        ("openface_features_sdk", np.zeros((2**20, 0)), "the first of 0 numbers"),
        ("openface_features_sdk", np.zeros((1, 2, 3)), "are of shape (1, 2, 3); a row a word is needed"),
        ("openface_features_sdk", np.array([["a"]]), "row 0 has a str_"),
        ("openface_features_sdk", {"a": 1}, "are a dict; a row a word is needed"),
        ("language_sdk", NESTED, "a word of it is a list; text is needed"),
        ("language_sdk", "text", "its words are a str; a list of texts is needed"),
        ("language_sdk", ["a" * 2**12] * 2**12, "its words have 16777216 characters; 65536 are the most"),
        ("language_sdk", ["a"] * 2**17, "has 131072 words; 65536 are the most"),
    ],
)
def test_what_is_large_or_nested_is_refused_before_it_is_written_out(
    tmp_path: Path, name: str, entry: Any, words: str
) -> None:
    files = content()
    files[name][1]["punchline_features"] = entry
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings())
    (refused,) = report.refused
    assert (refused.name, report.prepared) == ("1.0", 3)
    assert words in refused.reason
    assert len(refused.reason) < 300


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda rows: np.array(rows), "array"),
        (lambda rows: np.array(rows, object), "array of objects"),
        (lambda rows: tuple(map(tuple, rows)), "tuples"),
        (lambda rows: [np.array(row, np.float32) for row in rows], "arrays in a list"),
        (lambda rows: [[np.float64(value) for value in row] for row in rows], "scalars"),
    ],
)
def test_rows_are_read_in_each_of_their_forms(tmp_path: Path, make: Any, kind: str) -> None:
    files = content()
    files["openface_features_sdk"][1]["punchline_features"] = make(features(1, 5))
    files["word_embedding_list"] = make(files["word_embedding_list"])
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings())
    assert report.refused == (), kind
    read = Prepared.open(report.path).read(0, "video").numpy()
    np.testing.assert_array_equal(read, np.array(features(1, 5), np.float32))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (NESTED, "its label is a list; 0 or 1 is needed"),
        (None, "its label is a NoneType; 0 or 1 is needed"),
        (2, "its label is 2; 0 or 1 is needed"),
        (float("nan"), "its label is nan; 0 or 1 is needed"),
        pytest.param(10**5000, "its label is a number of too many digits; 0 or 1 is needed", id="large"),
        (np.str_("1" * 999), "1; 0 or 1 is needed"),
        (np.complex128(1), "(1+0j); 0 or 1 is needed"),
    ],
)
def test_a_label_is_a_plain_number(tmp_path: Path, label: Any, words: str) -> None:
    files = content()
    files["humor_label_sdk"][1] = label
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings())
    (refused,) = report.refused
    assert refused.name == "1.0"
    assert words in refused.reason
    assert len(refused.reason) < 100


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("openface_features_sdk", [1.0], "its video entry is a list; a dictionary is needed"),
        ("covarep_features_sdk", "text", "its audio entry is a str; a dictionary is needed"),
        ("language_sdk", None, "its language entry is a NoneType; a dictionary is needed"),
    ],
)
def test_an_entry_that_is_no_dictionary_is_refused_alone(tmp_path: Path, name: str, entry: Any, words: str) -> None:
    files = content()
    files[name][1] = entry
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings())
    assert [(one.name, one.reason, report.prepared) for one in report.refused] == [("1.0", words, 3)]


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        (["a", "b", "c"], "a word index of it is a str; a whole number is needed"),
        ("abc", "its word indices are a str; a list of whole numbers is needed"),
        (NESTED, "a word index of it is a list; a whole number is needed"),
        ([0, -1, 2], "has word index -1 and word_embedding_list.pkl has 10 rows"),
        ([0, 10**5000], "has word index of too many digits and"),
        ([0] * 2**17, "has 131072 word indices; 65536 are the most"),
        ([], "its text features are 0 rows"),
        (None, "has no word indices"),
    ],
)
def test_indices_that_are_no_rows_are_refused_alone(tmp_path: Path, indices: Any, words: str) -> None:
    files = content()
    files["language_sdk"][1]["punchline_embedding_indexes"] = indices
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings())
    (refused,) = report.refused
    assert (refused.name, report.prepared) == ("1.0", 3)
    assert words in refused.reason


@pytest.mark.parametrize(
    ("sentence", "words"),
    [(NESTED, "its sentence is a list; text is needed"), ("a" * 2**17, "its sentence has 131072 characters")],
)
def test_a_sentence_is_text(tmp_path: Path, sentence: Any, words: str) -> None:
    files = content()
    files["language_sdk"][1]["punchline_sentence"] = sentence
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings())
    (refused,) = report.refused
    assert refused.name == "1.0"
    assert words in refused.reason


def test_a_piece_of_a_fold_without_a_label_is_said(tmp_path: Path) -> None:
    files = content()
    files["data_folds"]["dev"].append(5)
    report = prepare_sentiment("ur_funny", write(tmp_path / "raw", files), tmp_path / "out", Settings())
    (refused,) = report.refused
    assert refused == Lost("5", "5", "has no label", "validation")
    assert report.prepared == 4


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
