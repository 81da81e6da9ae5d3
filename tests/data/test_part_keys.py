"""Protects files with one array a part: parts join in order, and rows of a part that do not agree are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data import Samples, load_arrays
from torchmsaf.errors import DataError


def content() -> dict[str, Any]:
    return {
        "x_test": np.full((2, 3), 2.0),
        "x_train": np.full((4, 3), 0.0),
        "x_dev": np.full((1, 3), 1.0),
        "y_train": np.array([0, 1, 0, 1]),
        "y_dev": np.array([0]),
        "y_test": np.array([1, 0]),
        "seed": np.array(3),
    }


def load(tmp_path: Path, split: str | None = "{key}_{part}", drop: str = "", **arrays: Any) -> Samples:
    kept = {key: value for key, value in {**content(), **arrays}.items() if key != drop}
    np.savez(tmp_path / "set.npz", **kept)
    return load_arrays(tmp_path / "set.npz", target="y", split=split)


def test_parts_join_as_train_validation_test(tmp_path: Path) -> None:
    samples = load(tmp_path)
    assert samples.modalities == ("x",)
    assert samples.features["x"][:, 0].tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert samples.target.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert samples.parts == ("train",) * 4 + ("validation",) + ("test",) * 2


@pytest.mark.parametrize("template", ["{part}_{key}", "{part}.{key}", "{key}-{part}"])
def test_any_template_names_the_parts(tmp_path: Path, template: str) -> None:
    renamed = {}
    for name, value in content().items():
        key, _, part = name.partition("_")
        renamed[template.format(key=key, part=part.upper())] = value
    np.savez(tmp_path / "set.npz", **renamed)
    assert len(load_arrays(tmp_path / "set.npz", target="y", split=template)) == 7


def test_a_folder_with_one_array_a_part_is_read(tmp_path: Path) -> None:
    for name, value in content().items():
        np.save(tmp_path / f"{name}.npy", value)
    assert len(load_arrays(tmp_path, target="y", split="{key}_{part}")) == 7


def test_without_the_split_the_template_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 'y' as one array a part; pass split='\{key\}_\{part\}'"):
        load(tmp_path, split=None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"split": "{key}/{part}"},
            "the split '{key}/{part}' finds no target 'y'; it finds no key at all among the arr",
        ),
        ({"drop": "x_dev"}, "'x' has no array for validation, and the target 'y' has; its arrays are x_test, x_train"),
        (
            {"x_train": np.ones((3, 3)), "x_test": np.ones((3, 3))},
            r"'x_train' has shape \(3, 3\), and 'y_train' has 4 r",
        ),
        (
            {"x_train": np.ones((4, 5))},
            r"the parts of 'x' do not join: x_train float64 \(4, 5\), x_dev float64 \(1, 3\)",
        ),
        ({"y_dev": np.zeros(0, dtype=int)}, r"'y_dev' is empty: its shape is \(0,\)"),
        ({"x_val": np.ones((1, 3))}, "'x_dev' and 'x_val' are both the validation part of 'x'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(tmp_path, **changes)


def test_a_target_that_is_not_there_is_suggested(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **content())
    with pytest.raises(DataError, match=r"finds no target 'yy' \(did you mean 'y'\?\); it finds x, y among the arrays"):
        load_arrays(tmp_path / "set.npz", target="yy", split="{key}_{part}")
