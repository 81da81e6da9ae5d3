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
