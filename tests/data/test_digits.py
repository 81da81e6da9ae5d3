"""Protects the digits: two halves of the bundled images, in [0, 1], with their labels."""

from __future__ import annotations

import torch
from sklearn import datasets

from torchmsaf.data import load_digits


def test_the_halves_join_to_the_images() -> None:
    samples = load_digits()
    bunch = datasets.load_digits()
    images = torch.cat([samples.features["left"], samples.features["right"]], dim=3)
    assert images.shape == (1797, 1, 8, 8)
    assert torch.equal(images.squeeze(1) * 16, torch.from_numpy(bunch.images).float())
    assert samples.target.tolist() == bunch.target.tolist()


def test_names_range_and_classes() -> None:
    samples = load_digits()
    assert samples.name == "digits"
    assert samples.modalities == ("left", "right")
    assert samples.features["left"].shape == samples.features["right"].shape == (1797, 1, 8, 4)
    assert all(value.min() == 0 and value.max() == 1 for value in samples.features.values())
    assert samples.classes == tuple("0123456789")
    assert samples.groups is None
    assert samples.parts is None
    assert samples.present.all()


def test_loading_twice_gives_the_same_fingerprint() -> None:
    assert load_digits().fingerprint == load_digits().fingerprint
