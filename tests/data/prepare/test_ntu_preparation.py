"""Protects the preparation of NTU RGB+D: which files make a clip, and what becomes of them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("safetensors")

import av

from torchmsaf.data.ntu import MADE_UP, MADE_UP_BODIES
from torchmsaf.data.prepare.actions.plan import plan_ntu, told_aside
from torchmsaf.data.prepare.actions.preparation import NtuSettings, prepare_ntu
from torchmsaf.data.prepared import Prepared
from torchmsaf.errors import DataError

SHARED = Path(os.environ.get("TORCHMSAF_SHARED_DATA", "nowhere"))
SMALL = NtuSettings(4, 16)
ONE, TWO, THREE = "S001C001P001R001A001", "S001C002P003R001A050", "S002C003P010R002A060"


def film(frames: int = 6, note: str = "") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as out:
        if note:
            out.metadata["comment"] = note
        stream = out.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 32, 32, "yuv420p", 1
        for number in range(frames):
            picture = np.empty((32, 32, 3), np.uint8)
            picture[:] = (220, 30, 40 + 5 * number)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def skeleton(frames: int = 6, moves: tuple[float, ...] = (1.0,), first: int = 72057594037927930) -> bytes:
    """A text as the data set's: body k moves by ``moves[k]`` metres a frame along x."""
    lines = [str(frames)]
    for frame in range(frames):
        lines.append(str(len(moves)))
        for body, speed in enumerate(moves):
            lines += [f"{first + body} 0 1 1 1 1 0 0.1 -0.2 2", "25"]
            lines += [
                f"{speed * frame + body:.7g} {joint / 10:.7g} {2 + body} 100 100 200 200 1 0 0 0 2"
                for joint in range(25)
            ]
    return "\n".join([*lines, ""]).encode()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for stem, moves in ((ONE, (1.0,)), (TWO, (0.0, 0.5, 2.0)), (THREE, (1.0, 1.5))):
        (folder / f"{stem}_rgb.avi").write_bytes(film(note=f"{MADE_UP}, by a test" if stem == ONE else ""))
        (folder / f"{stem}.skeleton").write_bytes(skeleton(moves=moves))
    return folder


def prepare(raw: Path, out: Path, settings: NtuSettings = SMALL, **more):
    return prepare_ntu(raw, out, settings, jobs=1, **more)


def test_a_clip_has_its_frames_its_joints_and_its_facts(raw: Path, tmp_path: Path) -> None:
    report = prepare(raw, tmp_path / "out")
    assert (report.prepared, report.already, report.refused, report.doubtful) == (3, 0, (), ())
    made = Prepared.open(tmp_path / "out")
    assert made.set_name == "ntu"
    assert made.path.name.startswith("inside-4x16-")
    assert {name: made.parameters[name] for name in ("sampling", "frames", "size", "bodies", "modalities")} == {
        "sampling": "inside",
        "frames": 4,
        "size": 16,
        "bodies": "2",
        "modalities": ["rgb", "skeleton"],
    }
    rows = {entry.id: row for row, entry in enumerate(made.entries)}
    entry = made.entries[rows[TWO]]
    told = {"label": 49, "action": 50, "subject": 3, "camera": 2, "setup": 1, "replication": 1}
    assert told.items() <= entry.facts.items()
    assert (entry.facts["persons"], entry.facts["frames"], entry.facts["steps"]) == (3, 6, 6)
    assert entry.shapes == {"rgb": (3, 4, 16, 16), "skeleton": (3, 6, 25, 2), "tracked": (6, 2)}
    red, green, _ = made.read(rows[TWO], "rgb").float().mean((1, 2, 3)).tolist()
    assert red > 180 > 90 > green
    joints = made.read(rows[TWO], "skeleton")
    assert joints[0, :, 0].T.tolist() == [
        [2 + 2.0 * frame for frame in range(6)],
        [1 + 0.5 * frame for frame in range(6)],
    ]
    assert made.read(rows[ONE], "skeleton").shape == (3, 6, 25, 1)
    assert [made.entries[rows[stem]].facts["made_up"] for stem in (ONE, TWO)] == [True, False]
    assert made.verify() == ()


def test_all_bodies_may_be_kept_and_the_published_two(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "all", NtuSettings(4, 16, bodies="all"))
    made = Prepared.open(tmp_path / "all")
    assert [made.read(row, "skeleton").shape[-1] for row in range(3)] == [1, 3, 2]
    prepare(raw, tmp_path / "published", NtuSettings.published(size=16))
    made = Prepared.open(tmp_path / "published")
    assert [tuple(made.read(row, "skeleton").shape) for row in range(3)] == [(3, 6, 25, 2)] * 3
    assert not made.read(0, "skeleton")[..., 1].any()
    assert made.read(1, "skeleton")[0, :, 0, 0].tolist() == [0.0] * 6  # the file's first, which stands still
    frames = made.read(0, "rgb")
    assert frames.shape == (3, 24, 16, 16)
    assert not frames[:, -1].any()
    assert frames[2, 0].float().mean() > 180 > 90 > frames[0, 0].float().mean()  # BGR
    assert made.parameters["channel_order"] == "bgr"


def test_what_is_done_is_not_done_again(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, out)
    before = Prepared.open(out).fingerprint
    told: list[tuple[int, int]] = []
    report = prepare(raw, out, told=lambda done, total: told.append((done, total)))
    assert (report.prepared, report.already, told) == (0, 3, [])
    assert Prepared.open(out).fingerprint == before
    (raw / f"{TWO}.skeleton").write_bytes(skeleton(7, (1.0,)))
    (raw / f"{ONE}_rgb.avi").unlink()
    (raw / f"{ONE}.skeleton").unlink()
    report = prepare(raw, out)
    assert (report.prepared, report.already, report.earlier) == (1, 1, 1)


def test_a_clip_is_prepared_the_same_in_another_process(raw: Path, tmp_path: Path, monkeypatch) -> None:
    prepare(raw, tmp_path / "one")

    def apart(work, tasks, jobs, done=lambda _: None) -> None:
        for task in tasks:
            done(pickle.loads(pickle.dumps(work))(pickle.loads(pickle.dumps(task))))

    monkeypatch.setattr("torchmsaf.data.prepare.actions.preparation.run_tasks", apart)
    prepare_ntu(raw, tmp_path / "two", SMALL, jobs=2)
    assert Prepared.open(tmp_path / "one").fingerprint == Prepared.open(tmp_path / "two").fingerprint


@pytest.mark.parametrize("place", ["among the raw files", "given", "packed"])
def test_clips_with_missing_skeletons_are_left_alone(raw: Path, tmp_path: Path, place: str) -> None:
    prepare(raw, tmp_path / "out")
    text = f"The samples below have no skeletons.\n\n{TWO}\nS003C001P001R001A001\n"
    lists = []
    if place == "packed":
        with zipfile.ZipFile(raw / "lists.zip", "w") as archive:
            archive.writestr("NTU_RGBD_samples_with_missing_skeletons.txt", text)
    else:
        file = (raw if place == "among the raw files" else tmp_path) / "NTU_RGBD_samples_with_missing_skeletons.txt"
        file.write_text(text)
        lists = [file] if place == "given" else []
    report = prepare(raw, tmp_path / "out", missing=lists)
    assert report.set_aside == {"with missing skeletons by the lists": 1}
    assert (report.already, report.refused) == (2, ())
    assert [entry.id for entry in Prepared.open(tmp_path / "out").entries] == [ONE, THREE]


def test_half_pairs_and_bad_files_are_refused_by_name(raw: Path, tmp_path: Path) -> None:
    (raw / "S001C001P001R001A002_rgb.avi").write_bytes(film())
    (raw / "S001C001P001R001A003.skeleton").write_bytes(skeleton())
    (raw / "S001C001P001R001A121.skeleton").write_bytes(skeleton())
    (raw / f"{TWO}_rgb.avi").write_bytes(b"RIFF, but no video at all")
    (raw / f"{THREE}.skeleton").write_bytes(skeleton()[:-300])
    report = prepare(raw, tmp_path / "out")
    assert report.prepared == 1
    said = {refusal.name: refusal.reason for refusal in report.refused}
    assert said["S001C001P001R001A002_rgb.avi"] == "no S001C001P001R001A002.skeleton is there"
    assert said["S001C001P001R001A003.skeleton"] == "no S001C001P001R001A003_rgb.avi is there"
    assert said["S001C001P001R001A121.skeleton"].startswith("action is 121")
    assert "not a video file" in said[f"{TWO}_rgb.avi"]
    assert f"{THREE}.skeleton" in said
    assert len(said) == len(report.refused) == 5
    with pytest.raises(DataError, match="5 files are refused"):
        prepare(raw, tmp_path / "out", strict=True)


def test_setups_without_videos_and_other_files_are_left_alone(raw: Path, tmp_path: Path) -> None:
    (raw / "S009C001P001R001A001.skeleton").write_bytes(skeleton())
    (raw / "S001C001P001R001A001_ir.avi").write_bytes(b"?")
    (raw / "notes.txt").write_text("?")
    with zipfile.ZipFile(raw / "copy.zip", "w") as archive:
        archive.write(raw / f"{ONE}.skeleton", f"nturgb+d_skeletons/{ONE}.skeleton")
    report = prepare(raw, tmp_path / "out")
    assert report.set_aside == {"skeletons of setups without videos": 1, "other": 2, "copies": 1}
    assert (report.prepared, report.refused) == (3, ())


def test_archives_are_read_as_they_are(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "folder")
    archives = [tmp_path / "skeletons.zip", tmp_path / "rgb.zip"]
    for path, suffix in zip(archives, (".skeleton", ".avi"), strict=True):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(raw.glob(f"*{suffix}")):
                archive.write(file, f"nturgb+d/{file.name}")
    prepare_ntu(archives, tmp_path / "zip", SMALL, jobs=1)
    assert Prepared.open(tmp_path / "folder").fingerprint == Prepared.open(tmp_path / "zip").fingerprint


def test_skeletons_alone_need_no_video(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    report = prepare(raw, tmp_path / "out", NtuSettings(modalities=("skeleton",)))
    assert report.set_aside == {"videos": 3}
    made = Prepared.open(tmp_path / "out")
    assert set(made.entries[0].shapes) == {"skeleton", "tracked"}
    assert made.entries[0].facts["frames"] is None


def test_videos_alone_need_no_skeletons(raw: Path, tmp_path: Path) -> None:
    report = prepare(raw, tmp_path / "out", NtuSettings(4, 16, modalities=("rgb",)))
    assert report.set_aside == {"skeletons": 3}
    assert set(Prepared.open(tmp_path / "out").entries[0].shapes) == {"rgb"}


@pytest.mark.parametrize("modalities", [("skeleton",), ("rgb", "skeleton")])
def test_poses_take_the_place_of_skeleton_files(raw: Path, tmp_path: Path, modalities: tuple[str, ...]) -> None:
    keypoint = np.ones((2, 6, 25, 3), np.float32)
    keypoint[1] = 0
    names = [(ONE, 0), (TWO, 49), ("walking", 1), (THREE, 3)]
    annotations = [
        {"frame_dir": name, "label": label, "total_frames": 6, "keypoint": keypoint} for name, label in names
    ]
    path = tmp_path / "poses.pkl"
    path.write_bytes(pickle.dumps({"split": {"xsub_train": [ONE]}, "annotations": annotations}))
    report = prepare(raw, tmp_path / "out", NtuSettings(4, 16, modalities=modalities), poses=path)
    assert report.prepared == 2
    said = {refusal.name: refusal.reason for refusal in report.refused}
    assert "five letters with three digits" in said["walking"]
    assert said[THREE] == "its label is 3, and that of its name 59"
    made = Prepared.open(tmp_path / "out")
    assert made.parameters["skeletons"] == "poses"
    assert made.entries[0].shapes["skeleton"] == (3, 6, 25, 1)
    assert made.entries[0].facts["persons"] == 1


@pytest.mark.parametrize("modalities", [("skeleton",), ("rgb", "skeleton")])
def test_made_up_skeletons_are_known_by_their_bodies(raw: Path, tmp_path: Path, modalities: tuple[str, ...]) -> None:
    (raw / f"{TWO}.skeleton").write_bytes(skeleton(first=MADE_UP_BODIES[5]))
    prepare(raw, tmp_path / "out", NtuSettings(4, 16, modalities=modalities))
    made = {entry.id: entry.facts["made_up"] for entry in Prepared.open(tmp_path / "out").entries}
    assert made == {ONE: "rgb" in modalities, TWO: True, THREE: False}


def test_a_joint_far_away_is_doubtful(raw: Path, tmp_path: Path) -> None:
    (raw / f"{ONE}.skeleton").write_bytes(skeleton(moves=(5.0,)))
    (raw / f"{TWO}.skeleton").write_bytes(skeleton(moves=(4.0,)))  # 20 m are not over 20 m
    report = prepare(raw, tmp_path / "out", NtuSettings(modalities=("skeleton",)))
    assert [line[: line.index(" m ")] for line in report.doubtful] == [f"{ONE}: a joint is at 25"]


def test_small_letters_in_names_are_read(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "out")
    (raw / f"{TWO}.skeleton").rename(raw / f"{TWO.lower()}.Skeleton")
    (raw / f"{TWO}_rgb.avi").rename(raw / f"{TWO}_RGB.AVI")
    (raw / f"{THREE}_rgb.avi").unlink()
    (raw / f"{THREE.lower()}_rgb.avi").write_bytes(b"RIFF, but no video at all")
    report = prepare(raw, tmp_path / "out")
    assert [one.name for one in report.refused] == [f"{THREE.lower()}_rgb.avi"]
    assert [entry.id for entry in Prepared.open(tmp_path / "out").entries] == [ONE, TWO]


def test_an_empty_copy_does_not_stand_before_a_good_one(raw: Path, tmp_path: Path) -> None:
    for folder in ("A", "Z"):
        (raw / folder).mkdir()
        (raw / folder / f"{ONE}.skeleton").write_bytes(b"")
    report = prepare(raw, tmp_path / "out", NtuSettings(modalities=("skeleton",)))
    assert (report.prepared, report.refused, report.set_aside["copies"]) == (3, (), 2)


def test_what_is_left_alone_is_told_in_words() -> None:
    assert told_aside({"copies": 1, "videos of setups without skeletons": 2, "other": 0}) == (
        "1 copy, 2 videos of setups without skeletons"
    )
    assert told_aside({"poses without a video": 1, "skeletons": 1}) == "1 pose without a video, 1 skeleton"


def test_a_skeleton_of_another_length_is_doubtful(raw: Path, tmp_path: Path) -> None:
    (raw / f"{ONE}.skeleton").write_bytes(skeleton(30, (0.1,)))
    report = prepare(raw, tmp_path / "out")
    assert report.doubtful == (f"{ONE}: its video has 6 frames and its skeleton 30",)


WRONG = {
    "frames": ({"frames": 0}, "frames is 0; a whole number from 1 to 1024"),
    "many frames": ({"frames": 1025}, "frames is 1025; a whole number from 1 to 1024"),
    "large size": ({"size": 4096}, "size is 4096; a whole number from 16 to 1024"),
    "size": ({"size": 8}, "size is 8; a whole number from 16"),
    "sampling": ({"sampling": "some"}, "sampling is 'some'; 'inside' or 'published'"),
    "bodies": ({"bodies": "3"}, "bodies is '3'"),
    "modalities": ({"modalities": ("depth",)}, "one or both of rgb, skeleton"),
    "no modality": ({"modalities": ()}, "one or both of rgb, skeleton"),
    "order": ({"channel_order": "gbr"}, "channel_order is 'gbr'"),
}


@pytest.mark.parametrize(("changed", "said"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_said(changed: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        NtuSettings(**changed)


def test_nothing_to_prepare_is_said(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        prepare(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds none of the videos.*found: nothing"):
        prepare(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="poses are given, and skeleton is not"):
        prepare(raw, tmp_path / "out", NtuSettings(modalities=("rgb",)), poses=tmp_path / "poses.pkl")
    assert not (tmp_path / "out").exists()


def test_a_plan_opens_no_file(raw: Path) -> None:
    plan = plan_ntu([raw, raw])
    assert [clip.name.stem for clip in plan.clips] == [ONE, TWO, THREE]
    assert plan.set_aside == {}
    stamps = {clip.stamp for clip in plan.clips}
    assert len(stamps) == 3


@pytest.mark.skipif(not (SHARED / "ntu_samples").is_dir(), reason="needs files of NTU RGB+D")
def test_genuine_skeletons_are_prepared(tmp_path: Path) -> None:
    report = prepare(SHARED / "ntu_samples", tmp_path / "out", NtuSettings(modalities=("skeleton",), bodies="all"))
    assert (report.prepared, report.refused) == (3, ())
    made = Prepared.open(tmp_path / "out")
    assert [entry.id for entry in made.entries] == [
        "S001C001P001R001A011",
        "S001C003P008R002A058",
        "S002C001P003R001A003",
    ]
