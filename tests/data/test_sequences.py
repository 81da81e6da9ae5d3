"""Protects utterances of different lengths as samples: padding made batch by batch, scaling of what is real, words."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchmsaf.data import Standardizer, make_protocol
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.sequences import Sequences, sequence_samples
from torchmsaf.errors import DataError

LENGTHS = (3, 5, 1, 4, 2, 5)
PARTS = ("train", "train", "train", "validation", "test", "test")
SAID = "very good film|a good and good one|film|very bad bad thing|new words|a bad film and more"


def rows(number: int, length: int, width: int) -> np.ndarray:
    return np.random.default_rng(10 * number + width).normal(3, 2, (length, width)).astype(np.float32)


def prepare(
    out: Path, parameters: Mapping[str, Any] = {}, facts: Mapping[str, Any] = {}, *, text: bool = False
) -> Prepared:
    own = {"alignment": "word", "steps": 6, "text": "given" if text else "words", "classes": None, **parameters}
    writer = PreparedWriter(out, "mosi", own)
    for k, (length, part, words) in enumerate(zip(LENGTHS, PARTS, SAID.split("|"), strict=True)):
        arrays = {"video": rows(k, length, 2), "audio": rows(k, length, 3)}
        if text:
            arrays["text"] = rows(k, length, 4)
        own_facts = {"group": f"v{k}", "part": part, "target": k / 2 - 1, "words": words.split(), **facts}
        writer.write(f"v{k}.0", arrays, own_facts)
    return writer.finish()


def test_an_utterance_is_its_rows_and_zeros_behind_them(tmp_path: Path) -> None:
    audio = Sequences(prepare(tmp_path), "audio", 6)
    assert audio.shape == (6, 3, 6)
    batch = audio[torch.tensor([4, 1])]
    assert batch.shape == (2, 3, 6)
    for x, k in zip(batch, (4, 1), strict=True):
        assert torch.equal(x[:, : LENGTHS[k]], torch.from_numpy(rows(k, LENGTHS[k], 3)).T)
        assert not x[:, LENGTHS[k] :].any()
    assert torch.equal(audio.take(torch.tensor([5, 4]))[torch.tensor([1])], batch[:1])
    again = pickle.loads(pickle.dumps(audio))
    assert torch.equal(again[torch.tensor([4, 1])], batch)
    assert not audio.slow


def test_scaling_is_of_the_real_steps_of_the_training_rows_alone(tmp_path: Path) -> None:
    samples, _ = sequence_samples(prepare(tmp_path, text=True))
    train = np.array([0, 1, 2])
    standardizer = Standardizer.fit(samples, train)
    real = np.concatenate([rows(k, LENGTHS[k], 4) for k in train]).astype(np.float64)
    np.testing.assert_allclose(standardizer.mean["text"], real.mean(0), rtol=1e-6)
    np.testing.assert_allclose(standardizer.std["text"], real.std(0), rtol=1e-6)
    scaled = standardizer.transform(samples)["text"][torch.arange(6)]
    for k, length in enumerate(LENGTHS):
        own = (rows(k, length, 4) - real.mean(0)) / real.std(0)
        np.testing.assert_allclose(scaled[k, :, :length].T, own, rtol=1e-4, atol=1e-5)
        assert not scaled[k, :, length:].any()


def test_a_constant_channel_is_not_divided_by_its_rounding_error(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, "mosi", {"alignment": "word", "steps": 4, "text": "none"})
    for k in range(3):
        x = rows(k, 4, 2)
        x[:, 1] = 0.1
        facts = {"group": f"v{k}", "part": ("train", "validation", "test")[k], "target": 0.0, "words": []}
        writer.write(f"v{k}.0", {"video": x, "audio": x}, facts)
    samples, vocabulary = sequence_samples(writer.finish())
    assert samples.modalities == ("video", "audio")
    assert vocabulary is None
    assert float(Standardizer.fit(samples, np.array([0])).std["video"][1]) == 1.0


def test_samples_have_parts_groups_and_targets(tmp_path: Path) -> None:
    samples, vocabulary = sequence_samples(prepare(tmp_path, text=True), "CMU-MOSI")
    assert vocabulary is None
    assert samples.name == "CMU-MOSI"
    assert samples.modalities == ("video", "audio", "text")
    assert samples.parts == PARTS
    assert samples.groups == tuple(f"v{k}" for k in range(6))
    assert samples.target.tolist() == [k / 2 - 1 for k in range(6)]
    assert all(own.tolist() == list(LENGTHS) for own in samples.lengths.values())
    assert samples.tokens == {}
    (fold,) = make_protocol(samples).folds
    assert [part.tolist() for part in (fold.train, fold.validation, fold.test)] == [[0, 1, 2], [3], [4, 5]]


def test_words_are_numbers_of_a_vocabulary_of_the_training_part(tmp_path: Path) -> None:
    """Those that training has twice; nothing that only validation or test says has a number of its own."""
    samples, vocabulary = sequence_samples(prepare(tmp_path))
    assert vocabulary == ("film", "good")
    assert samples.tokens == {"text": 4}
    assert samples.features["text"][:, 0].tolist()[0] == [1, 3, 2, 0, 0, 0]  # very good film
    assert samples.features["text"][:, 0].tolist()[5] == [1, 1, 2, 1, 1, 0]
    standardizer = Standardizer.fit(samples, np.arange(3))
    assert set(standardizer.mean) == {"video", "audio"}
    assert torch.equal(standardizer.transform(samples)["text"], samples.features["text"])


def test_the_published_alignment_is_left_as_it_is(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, "mosei", {"alignment": "published", "steps": 5, "text": "none"})
    for k in range(3):
        facts = {"group": f"v{k}", "part": ("train", "validation", "test")[k], "target": 0.0, "words": []}
        writer.write(f"v{k}.0", {"video": rows(k, 5, 2), "audio": rows(k, 5, 3)}, facts)
    samples, _ = sequence_samples(writer.finish())
    assert samples.lengths == {}
    standardizer = Standardizer.fit(samples, np.array([0]))
    assert standardizer.mean == {}
    x = standardizer.transform(samples)["audio"][torch.tensor([1])]
    assert torch.equal(x[0].T, torch.from_numpy(rows(1, 5, 3)))


def test_sequences_of_one_step_are_not_padded_to_more(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, "mosi", {"alignment": "utterance", "steps": 50, "text": "given"})
    for k in range(3):
        facts = {"group": f"v{k}", "part": ("train", "train", "test")[k], "target": 0.0, "words": []}
        writer.write(f"v{k}.0", {name: rows(k, 1, 2) for name in ("video", "audio", "text")}, facts)
    samples, _ = sequence_samples(writer.finish())
    assert {name: tuple(x.shape) for name, x in samples.features.items()} == dict.fromkeys(
        samples.modalities, (3, 2, 1)
    )


def test_what_is_in_it_decides_the_fingerprint(tmp_path: Path) -> None:
    first = sequence_samples(prepare(tmp_path / "a"))[0].fingerprint
    assert sequence_samples(prepare(tmp_path / "b"))[0].fingerprint == first
    assert sequence_samples(prepare(tmp_path / "c", facts={"target": 2.0}))[0].fingerprint != first


@pytest.mark.parametrize(
    ("parameters", "facts", "said"),
    [
        ({"steps": 4}, {}, r"'video' of v1.0 is \(5, 2\); \(1 to 4 steps, channels\) is needed"),
        ({}, {"part": "dev"}, r"parts \['dev'\] are none of train, validation, test"),
        ({}, {"target": None}, "utterance v0.0: its target is None; a number is needed"),
        ({}, {"group": 3}, "utterance v0.0: its group is 3; a name is needed"),
        ({}, {"words": []}, "6 utterances have no words, the first v0.0: prepare it again"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, parameters: dict[str, Any], facts: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        sequence_samples(prepare(tmp_path, parameters, facts))


def test_clips_are_no_utterances(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, "ravdess", {"frames": 8})
    writer.write("a", {"audio": rows(0, 2, 2)}, {})
    with pytest.raises(DataError, match="is prepared from 'ravdess', which has no utterances"):
        sequence_samples(writer.finish())
