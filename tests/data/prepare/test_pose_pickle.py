"""Protects the reading of shared pickles of skeletons: values as they are, nothing run, wrong clips refused by their id."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data.prepare.actions.pose_pickle import PoseFile, read_poses
from torchmsaf.errors import DataError

ID = "S001C001P001R001A001"


def clip(
    name: Any = ID, *, persons: int = 2, frames: int = 5, joints: int = 25, axes: int = 3, **more: Any
) -> dict[str, Any]:
    keypoint = np.random.default_rng(frames).normal(size=(persons, frames, joints, axes)).astype(np.float16)
    return {"frame_dir": name, "label": 0, "keypoint": keypoint, "total_frames": frames, **more}


def read(tmp_path: Path, content: Any, protocol: int = 4) -> PoseFile:
    path = tmp_path / "ntu.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return read_poses(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_layout_that_is_shared(tmp_path: Path, protocol: int) -> None:
    clips = [clip(), clip("S001C001P002R001A060", persons=1, frames=9, label=np.int64(59), img_shape=(1080, 1920))]
    file = read(tmp_path, {"split": {"xsub_train": [ID], "xsub_val": ["elsewhere"]}, "annotations": clips}, protocol)
    assert file.split == {"xsub_train": (ID,), "xsub_val": ("elsewhere",)}
    assert not file.refused
    found = [(pose.id, pose.label, pose.frames) for pose in file.annotations]
    assert found == [(ID, 0, 5), ("S001C001P002R001A060", 59, 9)]
    values, tracked = file.annotations[0].to_array(mode="published")
    assert values.shape == (3, 5, 25, 2)
    assert (values.dtype, tracked.dtype) == (np.dtype(np.float32), np.dtype(np.uint8))
    np.testing.assert_array_equal(values, clips[0]["keypoint"].transpose(3, 1, 2, 0).astype(np.float32))
    assert tracked.tolist() == [[1, 1]] * 5
    assert file.annotations[0].to_array(1)[0].shape == (3, 5, 25, 1)


def test_joints_in_the_image_keep_their_scores(tmp_path: Path) -> None:
    score = np.random.default_rng(1).random((2, 5, 17)).astype(np.float32)
    file = read(tmp_path, [clip(joints=17, axes=2, keypoint_score=score, label=None)])
    (pose,) = file.annotations
    values, _ = pose.to_array(mode="published")
    assert values.shape == (3, 5, 17, 2)
    np.testing.assert_array_equal(values[2], score.transpose(1, 2, 0))
    assert pose.label is None
    assert file.split == {}


def test_persons_and_frames_of_zeros_are_absent(tmp_path: Path) -> None:
    one = clip(persons=3)
    one["keypoint"][1] = 0
    one["keypoint"][2, 2] = 0
    one["keypoint"][2, 4] = 0
    (pose,) = read(tmp_path, [one]).annotations
    values, tracked = pose.to_array()
    assert values.shape[3] == pose.persons == 2
    (last,) = (place for place in range(2) if not tracked[:, place].all())
    assert tracked[:, last].tolist() == [1, 1, 0, 1, 0]
    known = one["keypoint"][2].astype(np.float32)
    np.testing.assert_allclose(values[:, 2, :, last], (known[1] + known[3]).T / 2, atol=1e-6)
    np.testing.assert_array_equal(values[:, 4, :, last], known[3].T)
    with pytest.raises(DataError, match="most is 0"):
        pose.to_array(0)
    with pytest.raises(DataError, match="mode is 'all'; 'motion' or 'published'"):
        pose.to_array(mode="all")  # type: ignore[arg-type]


def test_the_published_way_is_the_first_two_persons_with_zeros_where_they_are_not(tmp_path: Path) -> None:
    one = clip(persons=3, joints=17, axes=2, keypoint_score=np.full((3, 5, 17), 0.5, np.float32))
    one["keypoint"][0] = 0
    one["keypoint"][1, 1:3] = 0
    (pose,) = read(tmp_path, [one]).annotations
    values, tracked = pose.to_array(mode="published")
    assert values.shape == (3, 5, 17, 2)
    assert tracked.tolist() == [[0, 1], [0, 0], [0, 0], [0, 1], [0, 1]]
    assert not values[..., 0].any()
    assert not values[:, 1:3].any()
    there = [0, 3, 4]
    np.testing.assert_array_equal(values[:2, ..., 1][:, there], one["keypoint"][1, there].transpose(2, 0, 1))
    assert (values[2, there, :, 1] == 0.5).all()


def test_the_published_way_has_two_places_for_one_person_and_needs_one_of_the_first_two(tmp_path: Path) -> None:
    alone, third = clip("a", persons=1), clip("b", persons=3)
    third["keypoint"][:2] = 0
    one, other = read(tmp_path, [alone, third]).annotations
    values, tracked = one.to_array(mode="published")
    assert (values.shape, tracked.shape) == ((3, 5, 25, 2), (5, 2))
    assert tracked.any(axis=0).tolist() == [True, False]
    assert not values[..., 1].any()
    with pytest.raises(DataError, match="b: the first 2 persons are zero in all frames"):
        other.to_array(mode="published")


def in_the_image(shape: Any = (100, 200), name: str = ID, **more: Any) -> dict[str, Any]:
    """Two persons in the corners and the middle of an image; the second is in the first two frames alone."""
    keypoint = np.tile(np.array([[0, 100], [200, 0], [100, 50], [150, 75]], np.float16), (2, 4, 1, 1))
    keypoint[1, 2:] = 0
    keypoint[0, 1, 3] = 0  # a joint that nobody saw
    return {"frame_dir": name, "keypoint": keypoint, **({} if shape is None else {"img_shape": shape}), **more}


@pytest.mark.parametrize("shape", [(100, 200), [100, 200], np.array([100, 200])])
def test_joints_in_the_image_are_brought_to_its_size(tmp_path: Path, shape: Any) -> None:
    score = np.full((2, 4, 4), 0.25, np.float32)
    (pose,) = read(tmp_path, [in_the_image(shape, keypoint_score=score)]).annotations
    whole = [[-1, 1], [1, -1], [0, 0], [0.5, 0.5]]
    values, tracked = pose.to_array()
    assert values[:2, 0, :, 0].T.tolist() == whole
    assert values[:2, 1, :, 0].T.tolist() == [*whole[:3], [0, 0]]
    assert (values[2] == 0.25).all()
    # who is absent is not in the corner of the image: the gap is filled, or stays zero
    assert tracked.tolist() == [[1, 1], [1, 1], [1, 0], [1, 0]]
    assert values[:2, 3, :, 1].T.tolist() == whole
    published, _ = pose.to_array(mode="published")
    assert published[:2, 1, :, 1].T.tolist() == whole
    assert not published[:, 2:, :, 1].any()
    assert pose.layout == {"joints": 4, "coordinates": 2, "score": True, "scaled": True}


def test_joints_in_the_image_are_all_scaled_or_all_in_pixels(tmp_path: Path) -> None:
    file = read(tmp_path, [in_the_image(None, "a"), in_the_image(None, "b")])
    assert [pose.layout.get("scaled") for pose in file.annotations] == [None, None]
    assert file.annotations[0].to_array()[0][:2, 0, :, 0].T.tolist() == [[0, 100], [200, 0], [100, 50], [150, 75]]
    file = read(tmp_path, [in_the_image(None, "a"), in_the_image(name="b")])
    assert [pose.id for pose in file.annotations] == ["b"]
    assert [(one.name, one.reason) for one in file.refused] == [
        ("a", "has no img_shape, and other annotations have one; it is not clear how large its image is")
    ]


def test_joints_in_metres_have_no_image(tmp_path: Path) -> None:
    three = [clip("a", img_shape=(100, 200)), clip("b")]
    file = read(tmp_path, three)
    assert [pose.layout for pose in file.annotations] == [{"joints": 25, "coordinates": 3, "score": False}] * 2
    np.testing.assert_array_equal(
        file.annotations[0].to_array(mode="published")[0], three[0]["keypoint"].transpose(3, 1, 2, 0)
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((100,), "img_shape is 100; height and width are needed, whole numbers from 2 to 65536"),
        ((0, 200), "img_shape is 0, 200; height"),
        ((100, 10**39), f"img_shape is 100, {10**39}; height"),
        ((100.5, 200), "img_shape is 100.5, 200; height"),
        ((100, 200, 3), "img_shape is 100, 200, 3; height"),
        ("100 x 200", "img_shape is '100 x 200'; height"),
        (np.array(7), "img_shape is a ndarray; height"),
        ((), "img_shape is a tuple; height"),
    ],
)
def test_a_wrong_size_of_the_image_is_refused(tmp_path: Path, shape: Any, words: str) -> None:
    (refusal,) = read(tmp_path, [in_the_image(shape)]).refused
    assert refusal.reason.startswith(words)


def test_who_moves_most_is_first_whatever_the_score_does(tmp_path: Path) -> None:
    speeds = (1.0, 0.0, 3.0, 1.0)  # the first and the last are equal
    keypoint = np.empty((4, 5, 17, 2), np.float32)
    keypoint[:] = np.array(speeds)[:, None, None, None] * np.arange(5)[:, None, None]
    keypoint += np.arange(1, 5)[:, None, None, None]
    keypoint[2, 1] = 0  # where a person is not tracked does not count
    score = np.zeros((4, 5, 17), np.float32)
    score[1] = 100 * np.arange(5)[:, None]
    (pose,) = read(tmp_path, [clip(keypoint=keypoint, keypoint_score=score)]).annotations
    values, tracked = pose.to_array()
    assert values[0, 0, 0].tolist() == [3, 1, 4, 2]
    assert values[2, 4, 0].tolist() == [0, 0, 0, 400]
    assert tracked[1].tolist() == [0, 1, 1, 1]
    assert pose.to_array(2)[0][0, 0, 0].tolist() == [3, 1]
    assert pose.to_array(2, mode="published")[0][0, 0, 0].tolist() == [1, 2]
    assert pose.layout == {"joints": 17, "coordinates": 2, "score": True}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (clip(keypoint=None), "has no keypoint"),
        (clip(keypoint=[[1.0]]), "keypoint is no array of numbers: ragged"),
        (clip(keypoint=np.array([np.zeros(2), np.zeros(3)], dtype=object)), "ragged"),
        (
            clip(keypoint=np.ones((5, 25, 3), np.float32)),
            r"keypoint is \(5, 25, 3\); \(persons, frames, joints, coordinates\) with 2 or 3 coordinates is needed",
        ),
        (clip(keypoint=np.full((1, 5, 25, 3), np.nan, np.float32)), "keypoint has numbers that are not finite"),
        (clip(keypoint=np.full((1, 5, 25, 3), 1e300)), "not finite"),
        (clip(keypoint=np.zeros((1, 5, 25, 3), np.float32)), "has no person"),
        (clip(keypoint=np.ones((0, 5, 25, 3), np.float32)), "has no person"),
        (
            clip(axes=4),
            r"keypoint is \(2, 5, 25, 4\); \(persons, frames, joints, coordinates\) with 2 or 3 coordinates is needed",
        ),
        (
            clip(total_frames=6),
            r"total_frames is 6 and keypoint has 5 frames: keypoint is \(2, 5, 25, 3\); \(persons, frames, joints, coord",
        ),
        (clip(keypoint_score=np.ones((2, 4, 25), np.float32)), r"keypoint_score has shape \(2, 4, 25\); \(2, 5, 25\)"),
        (
            clip(keypoint_score=np.full((2, 5, 25), np.inf, np.float32)),
            "keypoint_score has numbers that are not finite",
        ),
        (clip(label=-1), "the label is -1"),
        (clip(label="drink"), "the label is 'drink'"),
        (clip(label=True), "the label is True"),
        (clip(label=[0]), "the label is a list"),
        (clip(total_frames=np.ones(2)), "total_frames is a ndarray"),
    ],
)
def test_a_wrong_clip_is_refused_by_its_id(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    file = read(tmp_path, {"split": {}, "annotations": [wrong, clip("S001C001P001R001A002")]})
    assert [pose.id for pose in file.annotations] == ["S001C001P001R001A002"]
    (refusal,) = file.refused
    assert (refusal.name, refusal.where) == (ID, f"ntu.pkl: {ID}")
    with pytest.raises(DataError, match=words):
        raise DataError(refusal.reason)


def test_clips_without_an_id_and_clips_that_come_twice(tmp_path: Path) -> None:
    file = read(tmp_path, [clip(), clip("b"), clip(), clip(7), "nothing"])
    assert [pose.id for pose in file.annotations] == ["b"]
    assert [(one.name, one.reason) for one in file.refused] == [
        (ID, "is in the file 2 times; it is not clear which one is meant"),
        (ID, "is in the file 2 times; it is not clear which one is meant"),
        ("annotation 4", "has no frame_dir, the clip's id"),
        ("annotation 5", "has no frame_dir, the clip's id"),
    ]


@pytest.mark.parametrize("content", [{"split": {}}, {"annotations": {}}, 3, None])
def test_another_layout(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match=r"ntu\.pkl has no list of annotations"):
        read(tmp_path, content)


@pytest.mark.parametrize("split", [[ID], {"train": ID}, {"train": [3]}, {3: [ID]}])
def test_a_split_of_another_layout(tmp_path: Path, split: Any) -> None:
    with pytest.raises(DataError, match="split is no dict of lists of ids"):
        read(tmp_path, {"split": split, "annotations": []})


def test_nothing_of_the_file_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(DataError, match="mkdir"):
        read(tmp_path, {"split": {}, "annotations": [clip(keypoint=Evil())]})
    assert not (tmp_path / "made").exists()
