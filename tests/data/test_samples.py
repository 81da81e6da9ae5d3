"""Protects Samples: fields that do not fit are refused by name, and the fingerprint follows the content alone."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from torchmsaf.data import Samples, make_samples
from torchmsaf.errors import DataError


def build(**changes: Any) -> Samples:
    generator = torch.Generator().manual_seed(0)
    fields: dict[str, Any] = {
        "name": "toy",
        "features": {"zebra": torch.randn(4, 3, generator=generator), "ant": torch.randn(4, 2, 5, generator=generator)},
        "target": torch.tensor([0, 1, 2, 1]),
        "classes": ("a", "b", "c"),
    }
    return make_samples(**{**fields, **changes})


def test_the_properties_keep_the_declared_order() -> None:
    samples = build()
    assert len(samples) == 4
    assert samples.modalities == ("zebra", "ant")
    assert not samples.regression
    assert samples.n_outputs == 3
    assert samples.ids == ("0", "1", "2", "3")
    assert samples.present.all()
    assert samples.present.shape == (4, 2)


def test_no_classes_is_regression_with_one_output() -> None:
    samples = build(target=torch.tensor([0.5, 1, 2, 3]), classes=None)
    assert samples.regression
    assert samples.n_outputs == 1


def test_samples_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        build().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": {}, "present": torch.ones(4, 0, dtype=torch.bool)}, "no modalities"),
        ({"features": {"": torch.zeros(4, 2)}}, "empty name"),
        ({"features": {"a": torch.zeros(4)}}, r"modality 'a' has shape \(4,\).*\(n, C, \*positions\) with n = 4"),
        ({"features": {"a": torch.zeros(3, 2)}}, r"modality 'a' has shape \(3, 2\)"),
        ({"features": {"a": torch.zeros(4, 2, 0)}}, "no size 0"),
        ({"features": {"a": torch.zeros(4, 2, dtype=torch.float64)}}, "'a' is torch.float64; torch.float32 is needed"),
        ({"features": {"a": torch.zeros(4, 2, dtype=torch.bfloat16)}}, "'a' is torch.bfloat16"),
        ({"features": {"a": torch.full((4, 2), torch.nan)}}, "'a' has NaN or infinite values"),
        ({"target": torch.tensor([0, 1, 2, 3])}, "class indices go from 0 to 3; 0 to 2 is needed for 3 classes"),
        ({"target": torch.tensor([0, 1, -1, 1])}, "class indices go from -1 to 1"),
        (
            {"target": torch.tensor([0.0, 1, 2, 1])},
            "target is torch.float32.*torch.int64 of shape .4,. is needed for cla",
        ),
        ({"target": torch.tensor([[0], [1], [2], [1]])}, r"target is torch.int64 of shape \(4, 1\)"),
        ({"classes": None}, "torch.float32 of shape .4,. is needed for regression"),
        ({"classes": None, "target": torch.tensor([0, 1, torch.inf, 2])}, "target has NaN or infinite values"),
        ({"classes": ("a",), "target": torch.zeros(4, dtype=torch.int64)}, "two or more different names"),
        ({"classes": ("a", "b", "a")}, "two or more different names"),
        (
            {"present": torch.ones(4, 3, dtype=torch.bool)},
            r"present is torch.bool of shape \(4, 3\).*one column a modal",
        ),
        ({"present": torch.ones(4, 2)}, "present is torch.float32"),
        ({"present": torch.tensor([[True, True]] * 3 + [[True, False]])}, "'ant' is not zero in samples that lack it"),
        ({"ids": ("a", "b", "a", "c")}, r"1 ids are given to more than one sample, among them \['a'\]"),
        ({"groups": ("a", "b")}, "2 groups for 4 samples"),
        ({"parts": ("train",)}, "1 parts for 4 samples"),
        ({"parts": ("train", "test", "dev", "test")}, r"parts \['dev'\] are none of train, validation, test"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        build(**changes)


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples; at least one is needed"):
        build(features={"a": torch.zeros(0, 2)}, target=torch.zeros(0, dtype=torch.int64))


def test_a_sample_without_any_modality_is_refused_by_its_id() -> None:
    present = torch.tensor([[True], [False], [True], [True]])
    features = {"a": torch.ones(4, 2) * present}
    with pytest.raises(DataError, match=r"1 samples have no modality at all, the first ids \['q'\]"):
        build(features=features, present=present, ids="pqrs")


def test_every_part_of_the_content_changes_the_fingerprint() -> None:
    features = build().features
    other = {**features, "ant": features["ant"].clone()}
    other["ant"][3, 1, 4] += 1
    present = torch.ones(4, 2, dtype=torch.bool)
    present[0, 0] = False
    zeroed = {**features, "zebra": features["zebra"].clone()}
    zeroed["zebra"][0] = 0
    variants = [
        {},
        {"features": other},
        {"features": dict(reversed(features.items()))},
        {"features": {"zebra": features["zebra"], "bee": features["ant"]}},
        {"features": {"zebra": features["zebra"], "ant": features["ant"].reshape(4, 5, 2)}},
        {"features": zeroed},
        {"features": zeroed, "present": present},
        {"target": torch.tensor([0, 1, 2, 2])},
        {"ids": "abcd"},
        {"groups": "abcd"},
        {"groups": ("ab", "c", "d", "")},
        {"parts": ["train", "train", "test", "test"]},
        {"classes": ("a", "b", "d")},
    ]
    assert len({build(**variant).fingerprint for variant in variants}) == len(variants)


def test_the_name_and_the_memory_layout_do_not_change_the_fingerprint() -> None:
    samples = build()
    strided = {name: value.transpose(0, 1).contiguous().transpose(0, 1) for name, value in samples.features.items()}
    assert build(name="other", features=strided).fingerprint == samples.fingerprint
    assert replace(samples, name="third").fingerprint == samples.fingerprint


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    samples = make_samples(
        "x", {"a": torch.arange(6.0).view(3, 2)}, torch.tensor([0, 1, 0]), classes="xy", groups="ppq"
    )
    assert samples.fingerprint == "b19dd24e3ed16208e5a9c6b83e4623d12aacc4738ec64c9922ed4c84632931bf"


# sequences that are padded, and words


def sequences(**changes: Any) -> Samples:
    """Four samples of a vector, of a sequence of up to five steps, and of three words; the last lacks the sequence."""
    generator = torch.Generator().manual_seed(1)
    sound = torch.randn(4, 2, 5, generator=generator)
    lengths = torch.tensor([5, 1, 3, 0])
    sound.masked_fill_(torch.arange(5) >= lengths[:, None, None], 0)
    said = torch.tensor([[2, 3, 1], [4, 0, 0], [2, 2, 0], [1, 0, 0]]).float()[:, None]
    present = torch.ones(4, 3, dtype=torch.bool)
    present[3, 1] = False
    fields: dict[str, Any] = {
        "name": "toy",
        "features": {"pose": torch.ones(4, 3), "sound": sound, "said": said},
        "target": torch.tensor([-3.0, 0.5, 1.0, 2.0]),
        "present": present,
        "lengths": {"sound": lengths, "said": torch.tensor([3, 1, 2, 1])},
        "tokens": {"said": 5},
    }
    return make_samples(**{**fields, **changes})


def test_sequences_and_words_are_kept_and_others_have_none() -> None:
    samples = sequences()
    assert list(samples.lengths) == ["sound", "said"]
    assert samples.lengths["sound"].tolist() == [5, 1, 3, 0]
    assert samples.tokens == {"said": 5}
    assert (build().lengths, build().tokens) == ({}, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lengths": {"sond": torch.ones(4, dtype=torch.int64)}}, "lengths of 'sond'; the modalities are pose, sound, said"),
        ({"tokens": {"words": 5}}, "tokens of 'words'; the modalities are pose, sound, said"),
        (
            {"lengths": {"pose": torch.ones(4, dtype=torch.int64)}},
            r"lengths of 'pose' are torch.int64 \(4,\) for features \(4, 3\); torch.int64 \(4,\) for sequences \(4, C, T\)",
        ),
        (
            {"lengths": {"sound": torch.tensor([5, 1, 3])}},
            r"lengths of 'sound' are torch.int64 \(3,\) for features \(4, 2, 5\)",
        ),
        ({"lengths": {"sound": torch.tensor([5.0, 1, 3, 0])}}, r"lengths of 'sound' are torch.float32 \(4,\)"),
        ({"lengths": {"sound": torch.tensor([5, 1, 3, 0]).int()}}, "lengths of 'sound' are torch.int32"),
        (
            {"lengths": {"sound": torch.tensor([6, 1, 3, 0])}},
            "lengths of 'sound' go from 0 to 6; 1 to 5 is needed, and 0 where a sample lacks the modality",
        ),
        ({"lengths": {"sound": torch.tensor([5, -1, 3, 0])}}, "lengths of 'sound' go from -1 to 5"),
        ({"lengths": {"sound": torch.tensor([5, 0, 3, 0])}}, "0 where a sample lacks the modality"),
        ({"lengths": {"sound": torch.tensor([5, 1, 3, 2])}}, "0 where a sample lacks the modality"),
        (
            {"lengths": {"sound": torch.tensor([4, 1, 3, 0])}},
            "modality 'sound' is not zero behind the end of its sequences",
        ),
        ({"tokens": {"pose": 5}}, r"words of 'pose' have shape \(4, 3\); \(n, 1, T\) is needed"),
        ({"tokens": {"sound": 5}}, r"words of 'sound' have shape \(4, 2, 5\); \(n, 1, T\) is needed"),
        ({"tokens": {"said": 4}}, "words of 'said' are not whole numbers from 0 to 3"),
    ],
)  # fmt: skip
def test_lengths_and_words_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"toy: .*{words}"):
        sequences(**changes)


@pytest.mark.parametrize("wrong", [-1.0, 1.5, 5.0])
def test_words_are_whole_numbers_of_the_vocabulary(wrong: float) -> None:
    features = {name: value.clone() for name, value in sequences().features.items()}
    features["said"][0, 0, 1] = wrong
    with pytest.raises(DataError, match="words of 'said' are not whole numbers from 0 to 4"):
        sequences(features=features)


def test_lengths_and_words_change_the_fingerprint() -> None:
    """Zeros at a sequence's end may be real: the same values with other lengths are other samples."""
    features = {name: value.clone() for name, value in sequences().features.items()}
    features["sound"][0, :, 4] = 0
    lengths = sequences().lengths
    variants: list[dict[str, Any]] = [
        {},
        {"lengths": {**lengths, "sound": torch.tensor([4, 1, 3, 0])}},
        {"lengths": {"sound": lengths["sound"]}},
        {"lengths": {}},
        {"tokens": {"said": 6}},
        {"tokens": {}},
        {"tokens": {}, "lengths": {}},
    ]
    assert len({sequences(features=features, **one).fingerprint for one in variants}) == len(variants)
    assert build(lengths={}, tokens={}).fingerprint == build().fingerprint
