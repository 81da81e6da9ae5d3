"""Protects skeletons of other data sets: any joints, coordinates and persons, and sensors and depth beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.data.skeleton_arrays import load_skeletons
from torchmsaf.errors import DataError

N = 6


def skeletons(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(N, *shape)).astype(np.float32)


def write(path: Path, skeleton: Any, **more: Any) -> Path:
    np.savez(path, **{"label": np.arange(len(skeleton)) % 3, "skeleton": skeleton, **more})
    return path


@given(
    channels=st.integers(1, 4),
    total=st.integers(1, 12),
    joints=st.integers(1, 30),
    persons=st.integers(0, 3),
    steps=st.integers(1, 9),
)
def test_any_coordinates_joints_and_persons(
    tmp_path_factory: pytest.TempPathFactory, channels: int, total: int, joints: int, persons: int, steps: int
) -> None:
    raw = skeletons(channels, total, joints, *([persons] if persons else []))
    path = write(tmp_path_factory.getbasetemp() / "any.npz", raw)
    samples = load_skeletons(path, steps=steps)
    x = samples.features["skeleton"]
    assert isinstance(x, torch.Tensor)
    assert x.dtype == torch.float32
    assert x.shape == (N, channels, steps, joints, max(persons, 1))
    assert samples.lengths["skeleton"].tolist() == [max(persons, 1)] * N
    whole = torch.from_numpy(raw).view(N, channels, total, joints, max(persons, 1))
    joint = joints // 2
    for person in range(max(persons, 1)):
        series = F.interpolate(whole[:, :, :, joint, person], size=steps, mode="linear", align_corners=False)
        torch.testing.assert_close(x[:, :, :, joint, person], series)
    assert samples.classes == ("0", "1", "2")
    assert samples.modalities == ("skeleton",)


def test_absent_persons_are_counted_and_behind_those_who_are_there(tmp_path: Path) -> None:
    raw = skeletons(3, 8, 5, 3)
    raw[1, ..., 0] = 0  # the others move up, in their order
    raw[2, ..., [0, 1]] = 0
    raw[3, ..., 2] = 0
    samples = load_skeletons(write(tmp_path / "s.npz", raw), steps=8)
    x = samples.features["skeleton"]
    assert isinstance(x, torch.Tensor)
    assert samples.lengths["skeleton"].tolist() == [3, 2, 1, 2, 3, 3]
    here = torch.from_numpy(raw)
    assert torch.equal(x[0], here[0])
    assert torch.equal(x[1, ..., :2], here[1, ..., 1:])
    assert torch.equal(x[2, ..., 0], here[2, ..., 2])
    assert torch.equal(x[3], here[3])
    assert not x[1, ..., 2].any()
    assert not x[2, ..., 1:].any()


def test_a_person_who_is_there_for_one_value_counts(tmp_path: Path) -> None:
    raw = skeletons(3, 4, 5, 2)
    raw[0, ..., 1] = 0
    raw[0, 2, 3, 4, 1] = 0.5
    assert load_skeletons(write(tmp_path / "s.npz", raw), steps=4).lengths["skeleton"].tolist() == [2] * N


@pytest.mark.parametrize("steps", [3, 8, 20])
def test_the_number_of_steps_changes_who_is_there_in_nothing(tmp_path: Path, steps: int) -> None:
    raw = skeletons(2, 8, 4, 2)
    raw[::2, ..., 0] = 0
    samples = load_skeletons(write(tmp_path / "s.npz", raw), steps=steps)
    assert samples.lengths["skeleton"].tolist() == [1, 2] * 3
    assert samples.features["skeleton"].shape == (N, 2, steps, 4, 2)


def test_inertial_sensors_and_depth_are_modalities_beside(tmp_path: Path) -> None:
    depth, inertial = skeletons(1, 4, 6, 7, seed=1), skeletons(6, 30, seed=2)
    path = write(
        tmp_path / "utd.npz",
        skeletons(3, 10, 20),
        inertial=inertial,
        depth=depth,
        subject=np.repeat([1, 2, 3], 2),
        times=np.arange(N),
    )
    samples = load_skeletons(path, group="subject", steps=16)
    assert set(samples.modalities) == {"skeleton", "inertial", "depth"}
    # they come as they are
    for name, value in (("inertial", inertial), ("depth", depth)):
        x = samples.features[name]
        assert isinstance(x, torch.Tensor)
        assert torch.equal(x, torch.from_numpy(value))
    assert samples.groups == ("1", "1", "2", "2", "3", "3")
    assert set(samples.lengths) == {"skeleton"}
    assert samples.name == "utd"


def test_a_shipped_split_and_another_target_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.npz",
        skeletons(3, 4, 5),
        action=np.array(["wave", "sit"] * 3),
        part=np.array(["train"] * 3 + ["val"] + ["test"] * 2),
        label=np.arange(N),
    )
    samples = load_skeletons(path, target="action", split="part")
    assert samples.classes == ("sit", "wave")
    assert samples.target.tolist() == [1, 0] * 3
    assert samples.parts == ("train",) * 3 + ("validation",) + ("test",) * 2


def test_classes_that_are_floats_are_classes(tmp_path: Path) -> None:
    samples = load_skeletons(write(tmp_path / "s.npz", skeletons(3, 4, 5), label=np.array([1.0, 0.0] * 3)))
    assert samples.classes is not None
    assert len(samples.classes) == 2


def test_a_folder_of_arrays_and_safetensors_are_read_alike(tmp_path: Path) -> None:
    raw, label = skeletons(3, 9, 5, 2), np.arange(N) % 2
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "skeleton.npy", raw)
    np.save(folder / "label.npy", label)
    paths = [write(tmp_path / "s.npz", raw, label=label), folder]
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"skeleton": raw, "label": label}, tmp_path / "s.safetensors")
    found = [load_skeletons(path) for path in (*paths, tmp_path / "s.safetensors")]
    for one in found[1:]:
        assert torch.equal(one.features["skeleton"], found[0].features["skeleton"])  # type: ignore[arg-type]
        assert torch.equal(one.target, found[0].target)


def test_the_fingerprint_is_of_what_is_trained_on(tmp_path: Path) -> None:
    raw = skeletons(3, 9, 5, 2)
    path = write(tmp_path / "s.npz", raw)
    first = load_skeletons(path)
    assert load_skeletons(path).fingerprint == first.fingerprint
    assert load_skeletons(path, steps=31).fingerprint != first.fingerprint
    raw[0, 0, 0, 0, 0] += 1
    assert load_skeletons(write(tmp_path / "t.npz", raw)).fingerprint != first.fingerprint


def spoilt(row: int, value: float) -> Any:
    x = skeletons(3, 8, 5)
    x[row] = value
    return x


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no skeleton": ({"skeleton": None, "imu": skeletons(6, 8)}, r"'skeleton' of shape .* is needed; there is imu"),
    "flat": ({"skeleton": skeletons(75, 8)}, r"there is skeleton \(6, 75, 8\)"),
    "six axes": (
        {"skeleton": skeletons(3, 8, 5, 2, 1)},
        r"\(n, C, T, V, persons\) is needed; there is skeleton \(6, 3, 8, 5, 2, 1\)$",
    ),
    "zeros": ({"skeleton": spoilt(4, 0)}, r"of 1 samples is all zeros, the first \['4'\]; remove them"),
    "NaN": ({"skeleton": spoilt(2, np.nan)}, "NaN or infinite values, the first in row 2"),
    "no target": ({"label": None}, "label"),
    "rows": ({"label": np.arange(4)}, "the arrays differ in length"),
}


@pytest.mark.parametrize(("arrays", "said"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_said(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    whole = {"label": np.arange(N) % 3, "skeleton": skeletons(3, 8, 5), **arrays}
    path = tmp_path / "s.npz"
    np.savez(path, **{key: value for key, value in whole.items() if value is not None})
    with pytest.raises(DataError, match=said):
        load_skeletons(path)


def test_skeletons_that_nobody_asks_for_are_not_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "s.npz", skeletons(3, 8, 5, 2, 1), imu=spoilt(2, np.nan))
    with pytest.raises(DataError, match="modality 'imu' has 120 NaN or infinite values"):
        load_skeletons(path, modalities=["imu"])


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.npz"):
        load_skeletons(tmp_path / "gone.npz")
