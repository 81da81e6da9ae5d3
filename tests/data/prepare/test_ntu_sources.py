"""Protects the preparation of NTU RGB+D out of a pickle of poses: which persons, which version, and which poses not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("safetensors")

from torchmsaf.data.prepare.actions.preparation import NtuSettings, prepare_ntu
from torchmsaf.data.prepare.clip_runs import Report
from torchmsaf.data.prepared import Prepared
from torchmsaf.errors import DataError

ONE, TWO = "S001C001P001R001A001", "S001C002P003R001A050"


def pickled(path: Path, keypoints: dict[str, NDArray[Any]], **more: Any) -> Path:
    annotations = [{"frame_dir": name, "keypoint": keypoint, **more} for name, keypoint in keypoints.items()]
    path.write_bytes(pickle.dumps(annotations))
    return path


def prepare(out: Path, poses: Path, bodies: str = "2") -> Report:
    settings = NtuSettings(modalities=("skeleton",), bodies=bodies)
    return prepare_ntu(poses.parent, out, settings, poses=poses, jobs=1)


def test_the_persons_of_a_pose_that_move_most_are_taken(tmp_path: Path) -> None:
    keypoint = np.ones((3, 6, 25, 3), np.float32) * np.array([1, 2, 3], np.float32)[:, None, None, None]
    keypoint[1] += np.arange(6, dtype=np.float32)[:, None, None]
    keypoint[2] += 2 * np.arange(6, dtype=np.float32)[:, None, None]
    path = pickled(tmp_path / "poses.pkl", {ONE: keypoint})
    for bodies, first in (("2", [3, 2]), ("all", [3, 2, 1]), ("published", [1, 2])):
        prepare(tmp_path / bodies, path, bodies=bodies)
        made = Prepared.open(tmp_path / bodies)
        assert made.read(0, "skeleton")[0, 0, 0].tolist() == first
        assert made.entries[0].facts["persons"] == 3


def test_poses_of_another_layout_are_another_version(tmp_path: Path) -> None:
    for joints, axes, more in (
        (25, 3, {}),
        (17, 3, {}),
        (17, 2, {}),
        (17, 2, {"keypoint_score": np.ones((1, 6, 17), np.float32)}),
        (17, 2, {"keypoint_score": np.ones((1, 6, 17), np.float32), "img_shape": (1080, 1920)}),
    ):
        path = pickled(tmp_path / "poses.pkl", {ONE: np.ones((1, 6, joints, axes), np.float32)}, **more)
        report = prepare(tmp_path / "out", path)
        assert (report.prepared, report.already, report.earlier) == (1, 0, 0)
        told = {"joints": joints, "coordinates": axes, "score": bool(more)}
        parameters = Prepared.open(report.path).parameters
        assert told.items() <= parameters.items()
        assert parameters.get("scaled") == (True if "img_shape" in more else None)
    assert "joints" not in NtuSettings().parameters()
    path = pickled(tmp_path / "poses.pkl", {ONE: np.ones((1, 6, 25, 3)), TWO: np.ones((1, 6, 17, 2))})
    said = f"{ONE} has 25 joints of 3 coordinates without a score, and {TWO} 17 joints of 2 coordinates without a score"
    with pytest.raises(DataError, match=said):
        prepare(tmp_path / "none", path)
    assert not (tmp_path / "none").exists()


def test_two_poses_of_a_clip_are_refused(tmp_path: Path) -> None:
    one = np.ones((1, 6, 25, 3), np.float32)
    path = pickled(tmp_path / "poses.pkl", {ONE: one, ONE.lower(): one, TWO.lower(): one})
    report = prepare(tmp_path / "out", path)
    assert [entry.id for entry in Prepared.open(tmp_path / "out").entries] == [TWO]
    assert {one.name for one in report.refused} == {ONE, ONE.lower()}
    assert {one.reason for one in report.refused} == {"2 poses are of this clip; it is not clear which one is meant"}


def test_what_earlier_versions_read_otherwise_is_another_version() -> None:
    """Poses as the published code reads had their gaps filled, and its short videos frames that came twice."""
    poses = NtuSettings(modalities=("skeleton",), bodies="published")
    assert poses.parameters("poses")["gaps"] == "zeros"
    assert NtuSettings.published().parameters()["short_clips"] == "black"
    for settings, skeletons in ((NtuSettings(), "kinect"), (NtuSettings(), "poses"), (poses, "kinect")):
        assert not {"gaps", "short_clips"} & settings.parameters(skeletons).keys()


def test_published_poses_keep_their_places_and_their_gaps(tmp_path: Path) -> None:
    keypoint = np.ones((2, 6, 25, 3), np.float32)
    keypoint[0] = 0
    keypoint[1, 2:4] = 0
    path = pickled(tmp_path / "poses.pkl", {ONE: keypoint, TWO: keypoint[1:]})
    prepare(tmp_path / "out", path, bodies="published")
    made = Prepared.open(tmp_path / "out")
    for row, place in ((0, 1), (1, 0)):
        assert made.read(row, "skeleton")[0, :, 0, place].tolist() == [1, 1, 0, 0, 1, 1]
        assert not made.read(row, "skeleton")[..., 1 - place].any()
        assert made.read(row, "tracked")[:, place].tolist() == [1, 1, 0, 0, 1, 1]


def test_a_pickle_without_annotations_is_said(tmp_path: Path) -> None:
    path = pickled(tmp_path / "poses.pkl", {})
    with pytest.raises(DataError, match=r"poses\.pkl has an empty list of annotations; a file with the poses of clips"):
        prepare(tmp_path / "out", path)
    assert not (tmp_path / "out").exists()
