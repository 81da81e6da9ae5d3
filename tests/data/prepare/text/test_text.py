"""Protects the vectors of text on disk: encoded once, whatever is killed, and never another model's or other words'.

What needs transformers is in ``tests/networks/test_text_features.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data.prepare.text.cache import cached_published, cached_words
from torchmsaf.data.prepare.text.encoder import TextEncoder
from torchmsaf.data.prepared import Prepared
from torchmsaf.errors import DataError, MissingDependencyError

UTTERANCES = {
    "b.0": ["so", "bad"],
    "a.10": ["the", "movie", "was", "good", "and", "long"],
    "-a.9": ["no"],
    "a.2": ["i", "did", "not", "like", "it"],
    "c.0": ["yes", "yes", "yes"],
}


class Killed(BaseException):
    pass


class Fake:
    """A word's vector is its characters; it counts what it was asked and dies when it is told to."""

    def __init__(self, *, batch_size: int = 2, model: str = "fake", lives: int = 1000) -> None:
        self.batch_size, self.model, self.lives = batch_size, model, lives
        self.asked: list[list[Any]] = []

    def describe(self) -> dict[str, Any]:
        return {"model": self.model, "width": 3}

    def words(self, sentences):
        self._ask(sentences)
        return [np.stack([vector(word) for word in words]) for words in sentences]

    def published(self, sentences, steps=50):
        self._ask(sentences)
        return [np.tile(vector(sentence), (steps, 1)) for sentence in sentences]

    def _ask(self, sentences):
        if len(self.asked) == self.lives:
            raise Killed
        self.asked.append(list(sentences))


def vector(text: str) -> np.ndarray:
    return np.array([len(text), ord(text[0]), ord(text[-1])], dtype=np.float32)


def assert_right(features, utterances=UTTERANCES):
    assert list(features) == list(utterances)
    for id, words in utterances.items():
        np.testing.assert_array_equal(features[id], np.stack([vector(word) for word in words]))


def count(encoder: Fake) -> int:
    return sum(len(asked) for asked in encoder.asked)


def test_vectors_are_found_by_id_in_the_order_of_the_utterances(tmp_path):
    features = cached_words(Fake(), UTTERANCES, tmp_path)
    assert_right(features)
    assert len(features) == 5
    assert "b.0" in features
    assert "d.0" not in features
    with pytest.raises(KeyError, match=r"d\.0"):
        features["d.0"]


def test_a_batch_is_no_more_than_the_encoder_says_and_of_like_lengths(tmp_path):
    encoder = Fake(batch_size=2)
    cached_words(encoder, UTTERANCES, tmp_path)
    assert [[len(words) for words in asked] for asked in encoder.asked] == [[6, 5], [3, 2], [1]]


def test_a_second_time_nothing_is_encoded_and_nothing_is_written(tmp_path):
    cached_words(Fake(), UTTERANCES, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    encoder = Fake(lives=0)
    assert_right(cached_words(encoder, UTTERANCES, tmp_path))
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


@pytest.mark.parametrize("lives", [0, 1, 2])
def test_a_killed_run_goes_on_with_the_rest(tmp_path, lives):
    first, second = Fake(lives=lives), Fake()
    with pytest.raises(Killed):
        cached_words(first, UTTERANCES, tmp_path)
    assert_right(cached_words(second, UTTERANCES, tmp_path))
    assert count(first) + count(second) == 5


def test_other_words_are_encoded_anew_and_further_ones_are_added(tmp_path):
    cached_words(Fake(), UTTERANCES, tmp_path)
    changed = {**UTTERANCES, "c.0": ["yes", "no", "yes"], "d.0": ["more"]}
    encoder = Fake()
    assert_right(cached_words(encoder, changed, tmp_path), changed)
    assert encoder.asked == [[["yes", "no", "yes"], ["more"]]]
    split = {**changed, "d.0": ["mo", "re"]}
    assert_right(cached_words(encoder, split, tmp_path), split)


def test_fewer_utterances_are_those_asked_for_alone(tmp_path):
    cached_words(Fake(), UTTERANCES, tmp_path)
    few = {"a.2": UTTERANCES["a.2"]}
    assert_right(cached_words(Fake(lives=0), few, tmp_path), few)


def test_another_model_has_another_folder_and_so_have_positions(tmp_path):
    one = cached_words(Fake(), UTTERANCES, tmp_path)
    other = Fake(model="other")
    two = cached_words(other, UTTERANCES, tmp_path)
    assert count(other) == 5
    sentences = {id: " ".join(words) for id, words in UTTERANCES.items()}
    three = cached_published(Fake(), sentences, tmp_path, steps=7)
    four = cached_published(Fake(), sentences, tmp_path, steps=8)
    assert len({features.path for features in (one, two, three, four)}) == 4
    assert three["c.0"].shape == (7, 3)
    for id, sentence in sentences.items():
        np.testing.assert_array_equal(four[id], np.tile(vector(sentence), (8, 1)))


def test_a_damaged_file_is_encoded_anew(tmp_path):
    features = cached_words(Fake(), UTTERANCES, tmp_path)
    entries = Prepared.open(features.path).entries
    (damaged,) = (entry.id for entry in entries if entry.facts["of"] == UTTERANCES["c.0"])
    (features.path / "clips" / f"{damaged}.safetensors").write_bytes(b"\x05")
    encoder = Fake()
    assert_right(cached_words(encoder, UTTERANCES, tmp_path))
    assert encoder.asked == [[UTTERANCES["c.0"]]]


def test_progress_counts_what_was_there_before(tmp_path):
    with pytest.raises(Killed):
        cached_words(Fake(lives=1), UTTERANCES, tmp_path)
    seen: list[tuple[int, int]] = []
    cached_words(Fake(), UTTERANCES, tmp_path, on_done=lambda *numbers: seen.append(numbers))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_the_folder_is_one_of_prepared_clips_and_says_what_was_encoded(tmp_path):
    features = cached_words(Fake(), UTTERANCES, tmp_path)
    prepared = Prepared.open(features.path)
    assert prepared.set_name == "text"
    assert prepared.parameters == {"recipe": 1, "kind": "words", "model": "fake", "width": 3}
    assert sorted(entry.facts["of"] for entry in prepared.entries) == sorted(UTTERANCES.values())
    assert prepared.verify() == ()


def test_what_is_read_can_be_written_into_without_a_change_on_disk(tmp_path):
    features = cached_words(Fake(), UTTERANCES, tmp_path)
    features["b.0"][:] = 0
    assert_right(features)


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ({"a.0": []}, r"utterance a\.0 has \[\] for words; a sequence of one or more is needed"),
        ({"a.0": "so bad"}, r"utterance a\.0 has 'so bad' for words"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_encoded(tmp_path, utterances, message):
    encoder = Fake(lives=0)
    with pytest.raises(DataError, match=message):
        cached_words(encoder, {**UTTERANCES, **utterances}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_described_without_transformers_which_encoding_asks_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 24}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nso\n")
    encoder = TextEncoder(str(folder))
    description = encoder.describe()
    assert description == {"model": "model", "digest": description["digest"], "layer": "last", "width": 24}
    with pytest.raises(MissingDependencyError, match=r"'transformers' is needed .* pip install 'torchmsaf\[text\]'"):
        encoder.words([["so"]])


def test_a_name_needs_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'torchmsaf\[text\]'"):
        TextEncoder("bert-base-uncased").describe()


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_batch_has_a_sentence_or_more(size):
    with pytest.raises(DataError, match=rf"batch_size is {size}; a whole number from 1 is needed"):
        TextEncoder("anything", batch_size=size)


def test_weights_in_files_that_lie_elsewhere_are_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "vocab.txt").write_text("so\n")
    index = tmp_path / "model.safetensors.index.json"
    for weights, message in (
        ({"weight_map": {"a": "../other.safetensors"}}, r"lacks \.\./other\.safetensors, which"),
        ({"weight_map": {}}, r"lacks weights, which"),
        ({}, r"does not say which files hold the weights"),
    ):
        index.write_text(json.dumps(weights))
        with pytest.raises(DataError, match=message):
            TextEncoder(str(tmp_path)).describe()


def test_what_others_encode_under_the_same_ids_changes_nothing(tmp_path):
    """Files are named by what was said: neither another run nor another cut of the words is in the way of this one."""
    first = cached_words(Fake(), UTTERANCES, tmp_path)
    others = {id: words[::-1] for id, words in UTTERANCES.items()}
    cached_words(Fake(), others, tmp_path)
    assert_right(first)
    encoder = Fake()
    assert_right(cached_words(encoder, UTTERANCES, tmp_path))
    assert encoder.asked == []


def test_what_is_said_twice_is_encoded_once(tmp_path):
    encoder, seen = Fake(), []
    features = cached_words(encoder, {"a.0": ["yes"], "b.0": ["yes"]}, tmp_path, on_done=lambda *n: seen.append(n))
    assert encoder.asked == [[["yes"]]]
    assert seen == [(0, 2), (2, 2)]
    np.testing.assert_array_equal(features["a.0"], features["b.0"])
