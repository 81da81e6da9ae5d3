"""Protects standardization: it learns from the training rows and the present samples, and from nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torchmsaf.data import Samples, Standardizer, make_samples
from torchmsaf.errors import DataError

TRAIN = np.arange(20)


def build(seed: int = 0, **changes: Any) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    fields: dict[str, Any] = {
        "name": "toy",
        "features": {
            "vector": torch.randn(30, 3, generator=generator) * 5 + 100,
            "image": torch.randn(30, 2, 4, 5, generator=generator) - 3,
        },
        "target": torch.randn(30, generator=generator) * 2 + 7,
    }
    return make_samples(**{**fields, **changes})


def test_training_rows_have_zero_mean_and_unit_variance_a_channel() -> None:
    samples = build()
    result = Standardizer.fit(samples, TRAIN).transform(samples)
    assert list(result) == ["vector", "image"]
    for name, value in result.items():
        assert value.dtype == torch.float32
        assert value.shape == samples.features[name].shape
        channels = value[TRAIN].transpose(0, 1).flatten(1).double()
        np.testing.assert_allclose(channels.mean(1), 0, atol=1e-6)
        np.testing.assert_allclose(channels.std(1, correction=0), 1, rtol=1e-6)


def test_fit_does_not_look_at_other_rows() -> None:
    samples = build()
    garbage = {name: value.clone() for name, value in samples.features.items()}
    target = samples.target.clone()
    for value in (*garbage.values(), target):
        value[20:] = 1e30
    first = Standardizer.fit(samples, TRAIN)
    second = Standardizer.fit(build(features=garbage, target=target), TRAIN)
    assert all(torch.equal(first.mean[name], second.mean[name]) for name in first.mean)
    assert all(torch.equal(first.std[name], second.std[name]) for name in first.std)
    assert (first.target_mean, first.target_std) == (second.target_mean, second.target_std)


def test_a_constant_channel_becomes_zero_and_is_not_blown_up() -> None:
    features = {"vector": torch.full((30, 1), 0.1)}
    features["vector"][25] = 2.1
    standardizer = Standardizer.fit(build(features=features), TRAIN)
    assert standardizer.std["vector"].tolist() == [1.0]
    result = standardizer.transform(build(features=features))["vector"]
    assert result[:20].abs().max() < 1e-8
    np.testing.assert_allclose(result[25], [2.0], rtol=1e-6)


def test_a_large_offset_keeps_its_small_spread() -> None:
    values = torch.tensor([[4096.0], [4096.5]]).repeat(15, 1)
    result = Standardizer.fit(build(features={"vector": values}), TRAIN).transform(build(features={"vector": values}))
    np.testing.assert_allclose(result["vector"][:2], [[-1.0], [1.0]], rtol=1e-6)


def test_absent_samples_do_not_count_and_stay_zero() -> None:
    samples = build()
    present = torch.ones(30, 2, dtype=torch.bool)
    present[3:9, 0] = False
    present[22, 1] = False
    features = {name: value.clone() for name, value in samples.features.items()}
    features["vector"][3:9] = 0
    features["image"][22] = 0
    holed = build(features=features, present=present)
    standardizer = Standardizer.fit(holed, TRAIN)
    expected = Standardizer.fit(samples, np.array([0, 1, 2, *range(9, 20)]))
    assert torch.equal(standardizer.mean["vector"], expected.mean["vector"])
    assert torch.equal(standardizer.std["vector"], expected.std["vector"])
    result = standardizer.transform(holed)
    assert not result["vector"][3:9].any()
    assert not result["image"][22].any()
    assert result["vector"][2].all()


def test_the_target_is_measured_for_regression_only() -> None:
    samples = build()
    standardizer = Standardizer.fit(samples, TRAIN)
    assert standardizer.target_mean == pytest.approx(samples.target[:20].mean().item())
    assert standardizer.target_std == pytest.approx(samples.target[:20].std(correction=0).item())
    classes = Standardizer.fit(build(target=torch.arange(30) % 2, classes="ab"), TRAIN)
    assert (classes.target_mean, classes.target_std) == (0.0, 1.0)
    constant = Standardizer.fit(build(target=torch.full((30,), 0.3)), TRAIN)
    assert constant.target_std == 1.0


def test_transform_leaves_the_samples_as_they_are() -> None:
    samples = build()
    Standardizer.fit(samples, TRAIN).transform(samples)
    assert torch.equal(samples.features["image"], build().features["image"])


@pytest.mark.parametrize("rows", [[], [-1], [30], [[0, 1]]])
def test_rows_that_do_not_exist_are_refused(rows: list[Any]) -> None:
    with pytest.raises(DataError, match="toy: rows must be one or more row numbers from 0 to 29"):
        Standardizer.fit(build(), np.array(rows, dtype=np.int64))


def test_a_modality_that_no_training_row_has_is_refused() -> None:
    present = torch.ones(30, 2, dtype=torch.bool)
    present[:20, 1] = False
    features = build().features
    features["image"][:20] = 0
    with pytest.raises(DataError, match="none of the 20 rows to fit has modality 'image'"):
        Standardizer.fit(build(features=features, present=present), TRAIN)


def test_other_modalities_than_fitted_are_refused() -> None:
    standardizer = Standardizer.fit(build(), TRAIN)
    other = dict(reversed(build().features.items()))
    with pytest.raises(DataError, match=r"modalities and channels are .*; fitted were"):
        standardizer.transform(build(features=other))


# sequences that are padded, and words

LENGTHS = torch.tensor([1 + k % 6 for k in range(30)])


def sequences(**changes: Any) -> Samples:
    """Sequences of one to six steps, another one of six steps each, and words."""
    generator = torch.Generator().manual_seed(2)
    real = torch.arange(6) < LENGTHS[:, None]
    present = torch.ones(30, 3, dtype=torch.bool)
    lengths = LENGTHS.clone()
    present[4:7, 0], lengths[4:7] = False, 0
    sound = torch.where((real & present[:, :1])[:, None], torch.randn(30, 2, 6, generator=generator) * 3 + 50, 0)
    said = torch.where(real, torch.randint(1, 9, (30, 6), generator=generator), 0).float()[:, None]
    fields: dict[str, Any] = {
        "name": "toy",
        "features": {"sound": sound, "pose": torch.randn(30, 4, 6, generator=generator) - 8, "said": said},
        "target": torch.randn(30, generator=generator),
        "present": present,
        "lengths": {"sound": lengths, "said": LENGTHS},
        "tokens": {"said": 9},
    }
    return make_samples(**{**fields, **changes})


def test_padding_does_not_count_and_stays_zero() -> None:
    samples = sequences()
    standardizer = Standardizer.fit(samples, TRAIN)
    lengths = samples.lengths["sound"].tolist()
    steps = torch.cat([samples.features["sound"][k, :, : lengths[k]].T for k in TRAIN]).double().numpy()
    assert len(steps) == sum(lengths[k] for k in TRAIN)
    np.testing.assert_allclose(standardizer.mean["sound"], steps.mean(0), rtol=1e-12)
    np.testing.assert_allclose(standardizer.std["sound"], steps.std(0), rtol=1e-9)
    result = standardizer.transform(samples)["sound"]
    for k, length in enumerate(lengths):
        own = (samples.features["sound"][k, :, :length].double().numpy().T - steps.mean(0)) / steps.std(0)
        np.testing.assert_allclose(result[k, :, :length].T, own, rtol=1e-4, atol=1e-5)
        assert not result[k, :, length:].any()
    # without lengths the same zeros are values, and make another mean
    whole = Standardizer.fit(sequences(lengths={}), TRAIN)
    assert float(whole.mean["sound"][0]) < 0.9 * float(standardizer.mean["sound"][0])
    assert torch.equal(whole.mean["pose"], standardizer.mean["pose"])


def test_a_channel_that_is_constant_but_for_padding_is_not_blown_up() -> None:
    features = dict(sequences().features)
    real = torch.arange(6) < sequences().lengths["sound"][:, None]
    features["sound"] = torch.where(real[:, None], 0.1, 0).expand(30, 2, 6).clone()
    samples = sequences(features=features)
    standardizer = Standardizer.fit(samples, TRAIN)
    assert standardizer.std["sound"].tolist() == [1.0, 1.0]
    assert standardizer.transform(samples)["sound"].abs().max() < 1e-7


def test_words_are_left_as_they_are() -> None:
    samples = sequences()
    standardizer = Standardizer.fit(samples, TRAIN)
    assert list(standardizer.mean) == list(standardizer.std) == ["sound", "pose"]
    result = standardizer.transform(samples)
    assert list(result) == ["sound", "pose", "said"]
    assert torch.equal(result["said"], samples.features["said"])
    assert set(standardizer.as_plain()) == {"sound", "pose", ""}


def test_words_and_values_are_not_taken_for_each_other() -> None:
    standardizer = Standardizer.fit(sequences(), TRAIN)
    with pytest.raises(
        DataError, match=r"modalities and channels are .*'said': 1.*; fitted were \{'sound': 2, 'pose': 4\}"
    ):
        standardizer.transform(sequences(tokens={}))
    present = sequences().present.clone()
    present[:20, 2] = False
    features = dict(sequences().features)
    features["said"] = features["said"] * present[:, 2, None, None]
    lengths = {**sequences().lengths, "said": LENGTHS * present[:, 2]}
    with pytest.raises(DataError, match="none of the 20 rows to fit has modality 'said'"):
        Standardizer.fit(sequences(features=features, present=present, lengths=lengths), TRAIN)
