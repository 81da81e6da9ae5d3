"""Protects clips of actions as samples: which frames and steps they are, where, what training draws, and who is absent."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("safetensors")

from tests.data.ntu_clips import write_clips
from torchmsaf.data.actions import CENTRE, Frames, Skeletons, action_modalities, action_samples, fact, ready_skeleton
from torchmsaf.data.clips import IMAGENET_MEAN, IMAGENET_STD
from torchmsaf.data.ntu import ACTIONS
from torchmsaf.data.ntu_protocols import ntu_groups
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.errors import DataError

STORED, SIDE = 12, 20


def write(root: Path, clips: Mapping[str, Mapping[str, Any]], name: str = "ntu", **facts: Any) -> Prepared:
    writer = PreparedWriter(root, name, {"frames": STORED, "size": SIDE, "sampling": "inside"})
    for id, arrays in clips.items():
        writer.write(id, dict(arrays), {"action": int(id[-3:]), **facts})
    return writer.finish()


def clip_id(person: int = 1, action: int = 1) -> str:
    return f"S001C001P{person:03}R001A{action:03}"


def numbered() -> Any:
    """Frames whose channels are the number of the frame, of the row and of the column."""
    axes = np.meshgrid(np.arange(STORED), np.arange(SIDE), np.arange(SIDE), indexing="ij")
    return np.stack(axes).astype(np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write(tmp_path_factory.mktemp("film"), {clip_id(person): {"rgb": numbered()} for person in (1, 2, 3)})


def places(x: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """Frames, rows and columns that one sample ``(3, F, S, S)`` shows; it is one film, or this fails."""
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    whole = (x * std + mean) * 255
    found = whole.round()
    torch.testing.assert_close(whole, found, atol=1e-3, rtol=0)
    frames, rows, columns = found[0, :, 0, 0], found[1, 0, :, 0], found[2, 0, 0, :]
    size = x.shape[-1]
    assert torch.equal(found[0], frames[:, None, None].expand(-1, size, size))
    assert torch.equal(found[1], rows[None, :, None].expand(len(frames), -1, size))
    assert torch.equal(found[2], columns[None, None, :].expand(len(frames), size, -1))
    return frames.long(), [int(one) for one in rows], [int(one) for one in columns]


def steady(first: int, size: int) -> list[int]:
    return list(range(first, first + size))


def one_row() -> Tensor:
    return torch.tensor([0])


# frames


@pytest.mark.parametrize("size", [20, 19, 14, 1])
@pytest.mark.parametrize("frames", [1, 2, 5, 12, 20])
def test_a_clip_as_it_is_is_the_middle_of_evenly_spread_frames(film: Prepared, frames: int, size: int) -> None:
    features = Frames(film, frames=frames, size=size)
    assert features.shape == (3, 3, frames, size, size)
    x = features[torch.tensor([2, 0])]
    assert x.dtype == torch.float32
    assert x.shape == (2, 3, frames, size, size)
    found, rows, columns = places(x[0])
    assert found.tolist() == np.linspace(0, STORED - 1, frames).round().astype(int).tolist()
    assert rows == columns
    before, behind = rows[0], SIDE - 1 - rows[-1]
    assert rows == steady(before, size)
    assert abs(before - behind) <= 1


def test_a_draw_stays_in_the_clip_and_is_one_film(film: Prepared) -> None:
    features = Frames(film, frames=6, size=14)
    generator = torch.Generator().manual_seed(0)
    drawn = [places(features.drawn(one_row(), generator)[0]) for _ in range(200)]
    lengths, starts, tops, lefts, flips = set(), set(), set(), set(), 0
    for frames, rows, columns in drawn:
        assert bool((frames.diff() >= 0).all())
        assert rows == steady(rows[0], 14)
        flips += columns[0] > columns[-1]
        assert sorted(columns) == steady(min(columns), 14)
        assert columns in (sorted(columns), sorted(columns, reverse=True))
        lengths.add(int(frames[-1] - frames[0]) + 1)
        starts.add(int(frames[0]))
        tops.add(rows[0])
        lefts.add(min(columns))
    # half of the clip or more of it, anywhere; every place of a crop; half of them mirrored
    assert lengths == set(range(STORED // 2, STORED + 1))
    assert min(starts) == 0
    assert max(starts) > STORED // 3
    assert tops == lefts == set(range(SIDE - 14 + 1))
    assert 70 <= flips <= 130


def test_a_draw_comes_from_the_generator_alone(film: Prepared) -> None:
    features = Frames(film, frames=4, size=10)
    rows = torch.arange(3)
    state = torch.random.get_rng_state()
    one, other = (features.drawn(rows, torch.Generator().manual_seed(5)) for _ in range(2))
    third = features.drawn(rows, torch.Generator().manual_seed(6))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    # clips of one batch are drawn each on its own
    assert not torch.equal(one[0], one[1])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_published_draw_is_the_middle_of_the_time_and_of_the_frames(film: Prepared) -> None:
    features = Frames(film, frames=STORED, size=14, draw="published")
    middle = places(features[one_row()][0])[1:]
    generator = torch.Generator().manual_seed(1)
    lengths = set()
    for _ in range(60):
        frames, *crop = places(features.drawn(one_row(), generator)[0])
        assert tuple(crop) == tuple(middle)
        assert abs(int(frames[0]) - (STORED - 1 - int(frames[-1]))) <= 1
        lengths.add(int(frames[-1] - frames[0]) + 1)
    assert lengths == set(range(STORED // 2, STORED + 1, 2))  # as many frames are left out before as behind


def test_without_a_draw_training_sees_what_testing_does(film: Prepared) -> None:
    generator = torch.Generator().manual_seed(0)
    features = Frames(film, frames=4, size=8, draw="none")
    assert torch.equal(features.drawn(torch.arange(3), generator), features[torch.arange(3)])
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(1, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("draw", ["random", "published"])
def test_a_clip_of_one_frame_is_that_frame(tmp_path: Path, draw: Any) -> None:
    features = Frames(write(tmp_path, {clip_id(): {"rgb": numbered()[:, :1]}}), frames=3, size=5, draw=draw)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        assert places(features.drawn(one_row(), generator)[0])[0].tolist() == [0, 0, 0]


def test_frames_that_are_too_small_or_of_other_sizes_are_refused(film: Prepared, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"clip S001C001P001R001A001 are 20 x 20; 21 or more is needed"):
        Frames(film, frames=4, size=21)
    two = {clip_id(1): {"rgb": numbered()}, clip_id(2): {"rgb": numbered()[:, :5]}}
    with pytest.raises(DataError, match=r"'rgb' of clip S001C001P002R001A001 is \(3, 5, 20, 20\), and of the first"):
        Frames(write(tmp_path / "a", two), frames=4, size=8)
    lacking = {clip_id(1): {"rgb": numbered()}, clip_id(2): {"skeleton": np.ones((3, 4, 25, 1), np.float32)}}
    with pytest.raises(DataError, match="clip S001C001P002R001A001 has no 'rgb'; it has skeleton"):
        Frames(write(tmp_path / "b", lacking), frames=4, size=8)


# skeletons


def body(persons: int, *, total: int = 50, joints: int = 25, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(3, total, joints, persons)).astype(np.float32)


def by_hand(x: Tensor, steps: int) -> Tensor:
    """``(C, T, V, S)`` to so many steps, each series by itself."""
    out = torch.empty(x.shape[0], steps, *x.shape[2:])
    for c in range(x.shape[0]):
        for joint in range(x.shape[2]):
            for person in range(x.shape[3]):
                series = x[c, :, joint, person][None, None]
                out[c, :, joint, person] = F.interpolate(series, size=steps, mode="linear", align_corners=False)[0, 0]
    return out


@pytest.mark.parametrize("total", [1, 7, 32, 50])
@pytest.mark.parametrize("persons", [1, 2, 3])
def test_skeletons_are_centred_on_the_first_persons_spine_and_resampled(
    tmp_path: Path, persons: int, total: int
) -> None:
    raw = body(persons, total=total)
    features = Skeletons(write(tmp_path, {clip_id(): {"skeleton": raw}}), steps=32, persons=2)
    assert features.shape == (1, 3, 32, 25, 2)
    x = features[one_row()][0]
    real = torch.from_numpy(raw)[..., :2]
    # every frame has an origin of its own, and all persons the same
    centred = real - real[:, :, CENTRE, :1][:, :, None]
    torch.testing.assert_close(x[..., : real.shape[-1]], by_hand(centred, 32), atol=1e-6, rtol=1e-5)
    assert x[:, :, CENTRE, 0].abs().max() < 1e-6
    assert features.present.tolist() == [min(persons, 2)]
    if persons == 1:
        assert not x[..., 1].any()
    else:
        assert x[:, :, CENTRE, 1].abs().max() > 0.1


def test_three_persons_and_absent_ones_behind(tmp_path: Path) -> None:
    made = write(tmp_path, {clip_id(person): {"skeleton": body(person)} for person in (1, 2, 3)})
    features = Skeletons(made, steps=8, persons=3)
    x = features[torch.arange(3)]
    assert features.shape == x.shape == (3, 3, 8, 25, 3)
    assert features.present.tolist() == [1, 2, 3]
    there = x.flatten(1, 3).abs().amax(1) > 0
    assert there.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    # who is there does not depend on how many may be
    torch.testing.assert_close(Skeletons(made, steps=8, persons=1)[torch.arange(3)], x[..., :1])
    # presence goes with the rows
    assert features.take(torch.tensor([2, 0])).present.tolist() == [3, 1]


def test_in_the_published_way_an_absent_person_is_minus_the_origin_and_counts(tmp_path: Path) -> None:
    raw = body(1)
    features = Skeletons(write(tmp_path, {clip_id(): {"skeleton": raw}}), steps=16, persons=2, draw="published")
    x = features[one_row()][0]
    origin = torch.from_numpy(raw)[:, :, CENTRE, 0]
    minus = by_hand(-origin[:, :, None, None].expand(-1, -1, 25, 1), 16)
    torch.testing.assert_close(x[..., 1:], minus, atol=1e-6, rtol=1e-5)
    assert features.present.tolist() == [2]


def test_other_skeletons_are_centred_on_the_mean_of_their_joints(tmp_path: Path) -> None:
    raw = body(2, joints=13)
    features = Skeletons(write(tmp_path, {clip_id(): {"skeleton": raw}}), steps=50, persons=2)
    assert features.shape == (1, 3, 50, 13, 2)
    x, whole = features[one_row()][0], torch.from_numpy(raw)
    torch.testing.assert_close(x, whole - whole[..., :1].mean(2, keepdim=True), atol=1e-6, rtol=1e-5)
    assert x[..., 0].mean(2).abs().max() < 1e-6


@pytest.mark.parametrize("draw", ["random", "published", "none"])
@pytest.mark.parametrize("joints", [17, 25])
def test_a_score_behind_the_coordinates_is_not_centred(tmp_path: Path, joints: int, draw: Any) -> None:
    raw = body(1, joints=joints)
    writer = PreparedWriter(tmp_path, "ntu", {"skeletons": "poses", "coordinates": 2})
    writer.write(clip_id(), {"skeleton": raw}, {"action": 1})
    whole = torch.from_numpy(raw)
    origin = whole[:2, :, CENTRE, 0] if joints == 25 else whole[:2, ..., 0].mean(2)
    x = Skeletons(writer.finish(), steps=50, persons=2, draw=draw)[one_row()][0]
    assert torch.equal(x[2, ..., 0], whole[2, ..., 0])
    torch.testing.assert_close(x[:2, ..., 0], whole[:2, ..., 0] - origin[:, :, None])
    absent = -origin[:, :, None].expand(-1, -1, joints) if draw == "published" else torch.zeros(2, 50, joints)
    torch.testing.assert_close(x[:2, ..., 1], absent)
    assert not x[2, ..., 1].any()
    assert torch.equal(torch.from_numpy(raw), whole)
    same = ready_skeleton(whole, steps=50, persons=2, draw=draw, coordinates=3)
    assert torch.equal(same, ready_skeleton(whole, steps=50, persons=2, draw=draw))


def walking(total: int) -> Any:
    """The first joint is at the number of the frame, all others at the origin."""
    x = np.zeros((3, total, 25, 1), np.float32)
    x[:, :, 0, 0] = np.arange(total)
    return x


def part_drawn(x: Tensor, steps: int) -> tuple[float, float]:
    """First frame and number of frames that a sample of :func:`walking` shows."""
    series = x[0, :, 0, 0]
    length = float(series[steps // 2] - series[steps // 2 - 1]) * steps
    middle = float(series[steps // 2] + series[steps // 2 - 1]) / 2
    return middle - (length - 1) / 2, length


@pytest.mark.parametrize(("total", "least"), [(200, 100), (100, 64), (64, 64), (40, 40), (2, 2)])
@pytest.mark.parametrize("draw", ["random", "published"])
def test_a_part_of_the_time_is_64_frames_or_more_where_there_are_so_many(
    tmp_path: Path, total: int, least: int, draw: Any
) -> None:
    features = Skeletons(write(tmp_path, {clip_id(): {"skeleton": walking(total)}}), steps=32, persons=1, draw=draw)
    assert part_drawn(features[one_row()][0], 32) == pytest.approx((0, total), abs=1e-2)
    generator = torch.Generator().manual_seed(0)
    found = [part_drawn(features.drawn(one_row(), generator)[0], 32) for _ in range(150)]
    firsts, lengths = zip(*found, strict=True)
    for first, length in found:
        assert (first, length) == pytest.approx((round(first), round(length)), abs=1e-2)
        assert first > -0.01
        assert first + length < total + 0.01
    assert round(min(lengths)) == pytest.approx(least, abs=0.03 * total)
    assert min(lengths) > least - 0.01
    if total > 64:
        assert max(lengths) > 0.95 * total
        assert min(firsts) < 0.1 * total
        assert max(firsts) > 0.25 * total


def test_skeletons_are_drawn_by_the_generator_alone_and_not_at_all_where_nothing_is(tmp_path: Path) -> None:
    made = write(tmp_path, {clip_id(person): {"skeleton": body(1, total=90, seed=person)} for person in (1, 2)})
    rows = torch.arange(2)
    one, other, third = (
        Skeletons(made, steps=8).drawn(rows, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    still = Skeletons(made, steps=8, draw="none")
    assert torch.equal(still.drawn(rows, torch.Generator()), still[rows])


def test_wrong_skeletons_are_refused_by_name(tmp_path: Path) -> None:
    two = {clip_id(1): {"skeleton": body(1)}, clip_id(2): {"skeleton": body(1, joints=17)}}
    with pytest.raises(
        DataError, match="clip S001C001P002R001A001 has 17 joints of 3 coordinates, and the first clip 25"
    ):
        Skeletons(write(tmp_path / "a", two))
    flat = {clip_id(1): {"skeleton": body(1)[..., 0]}}
    with pytest.raises(DataError, match=r"is \(3, 50, 25\); \(C, T, V, persons\) is needed"):
        Skeletons(write(tmp_path / "b", flat))


# samples


def samples_of(prepared: Prepared, **settings: Any) -> Any:
    groups = ntu_groups([entry.id for entry in prepared.entries], "cross-subject")
    return action_samples(prepared, **{"groups": groups, "frames": 4, "size": 32, "steps": 16, **settings})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_clips(tmp_path_factory.mktemp("clips"), subjects=(1, 2), actions=(1, 24, 50), size=40, steps=70)


def test_samples_have_their_actions_names_groups_and_persons(clips: Prepared) -> None:
    samples = samples_of(clips)
    assert samples.modalities == action_modalities(clips) == ("rgb", "skeleton")
    assert samples.ids == tuple(entry.id for entry in clips.entries)
    assert samples.classes == tuple(f"A{number:03} {ACTIONS[number - 1]}" for number in (1, 24, 50))
    assert samples.target.tolist() == [0, 1, 2] * 2
    assert samples.groups == ("P001",) * 3 + ("P002",) * 3
    assert bool(samples.present.all())
    assert samples.present.shape == (6, 2)
    # of three persons two are taken
    assert samples.lengths["skeleton"].tolist() == [1, 2, 2] * 2
    assert samples_of(clips, persons=3).lengths["skeleton"].tolist() == [1, 3, 2] * 2
    assert samples_of(clips, draw="published").lengths["skeleton"].tolist() == [2] * 6
    assert samples.features["rgb"].shape == (6, 3, 4, 32, 32)
    assert samples.features["skeleton"].shape == (6, 3, 16, 25, 2)


@pytest.mark.parametrize("modality", ["rgb", "skeleton"])
def test_one_modality_alone_makes_samples_too(tmp_path: Path, modality: str) -> None:
    made = write_clips(tmp_path, subjects=(1,), size=40, modalities=(modality,))
    samples = samples_of(made)
    assert samples.modalities == action_modalities(made) == (modality,)
    assert set(samples.lengths) == ({"skeleton"} if modality == "skeleton" else set())


@pytest.mark.parametrize("name", ["rgb", "skeleton"])
def test_features_are_pickled_without_their_data(clips: Prepared, name: str) -> None:
    features = samples_of(clips).features[name].take(torch.tensor([4, 1, 3]))
    content = pickle.dumps(features)
    assert len(content) < 4096
    again = pickle.loads(content)
    assert again.shape == features.shape
    rows = torch.tensor([2, 0])
    assert torch.equal(again[rows], features[rows])
    one, other = (x.drawn(rows, torch.Generator().manual_seed(0)) for x in (again, features))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["rgb", "skeleton"])
def test_rows_that_are_taken_are_those_rows(clips: Prepared, name: str) -> None:
    whole = samples_of(clips).features[name]
    some = whole.take(torch.tensor([5, 0, 2])).take(torch.tensor([0, 2]))
    assert len(some) == 2
    assert torch.equal(some[torch.arange(2)], whole[torch.tensor([5, 2])])
    assert len(whole) == 6


CHANGES: dict[str, dict[str, Any]] = {
    "frames": {"frames": 5},
    "size": {"size": 31},
    "steps": {"steps": 17},
    "persons": {"persons": 1},
    "draw": {"draw": "none"},
    "published draw": {"draw": "published"},
    "groups": {"groups": ("P001",) * 6},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_fingerprint_changes_with_every_setting(clips: Prepared, change: dict[str, Any]) -> None:
    assert samples_of(clips).fingerprint == samples_of(clips).fingerprint
    assert samples_of(clips, **change).fingerprint != samples_of(clips).fingerprint


def test_the_fingerprint_is_of_the_content_wherever_it_lies(clips: Prepared, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"subjects": (1, 2), "actions": (1, 24, 50), "size": 40, "steps": 70}
    assert samples_of(write_clips(tmp_path / "a", **shape)).fingerprint == samples_of(clips).fingerprint
    other = write_clips(tmp_path / "b", **{**shape, "steps": 71})
    assert samples_of(other).fingerprint != samples_of(clips).fingerprint


def test_what_cannot_be_samples_is_said(clips: Prepared, film: Prepared, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="draw is 'wild'; random, published, none are there"):
        samples_of(clips, draw="wild")
    with pytest.raises(DataError, match="is prepared from 'ravdess'; 'ntu' is needed"):
        samples_of(write(tmp_path / "a", {clip_id(): {"rgb": numbered()}}, name="ravdess"), size=8)
    with pytest.raises(DataError, match="has no clips"):
        samples_of(write(tmp_path / "b", {}))
    unnamed = write(tmp_path / "c", {clip_id(): {"rgb": numbered()}}, action=None)
    with pytest.raises(DataError, match="clip S001C001P001R001A001: its action is None; a whole number is needed"):
        samples_of(unnamed, size=8)
    lacking = {clip_id(1): {"rgb": numbered(), "skeleton": body(1)}, clip_id(2): {"rgb": numbered()}}
    with pytest.raises(DataError, match="clip S001C001P002R001A001 has no 'skeleton'; it has rgb"):
        samples_of(write(tmp_path / "d", lacking), size=8)
    assert fact(film.entries[0], "action") == 1
