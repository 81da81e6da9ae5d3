"""Protects the preparation of RAVDESS: resumed without a mix, the same from folders and archives, every bad file named."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchmsaf.data.prepare.clip_runs import Report
from torchmsaf.data.prepare.plan import plan_ravdess
from torchmsaf.data.prepare.ravdess import Settings, prepare_clip, prepare_ravdess
from torchmsaf.data.prepared import Prepared
from torchmsaf.errors import DataError

av = pytest.importorskip("av")
pytest.importorskip("safetensors")

SMALL = Settings(preset="small", frames=4, size=32)
FRAMES, RATE, WIDTH, HEIGHT = 26, 8, 96, 64  # 3.25 s
FIRST, SECOND, THIRD = "01-01-03-01-01-01-01", "01-01-01-01-02-02-01", "01-01-08-02-01-01-02"


def encode(codec: str = "libx264", seconds: float = 3.25, sound: bool = True, loud: float = 0.3) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream(codec, rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=44_100, layout="mono") if sound else None
        ramp = np.linspace(0, 200, WIDTH, dtype=np.uint8)
        for number in range(FRAMES):
            picture = np.broadcast_to(ramp[None, :, None] + np.uint8(2 * number), (HEIGHT, WIDTH, 3))
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            time = np.arange(round(seconds * 44_100)) / 44_100
            wave = (loud * np.sin(2 * np.pi * 220 * time) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.rate = 44_100
            container.mux([*audio.encode(frame), *audio.encode()])
    return stream.getvalue()


def openface(rows: int = FRAMES, columns: int = 68) -> bytes:
    """A csv as OpenFace writes it: 68 points in a box from (20, 10) to (60, 50), the chin the lowest."""
    names = ["frame", "success", *(f"{axis}_{point}" for axis in "xy" for point in range(columns))]
    x, y = np.linspace(20, 60, columns), np.roll(np.linspace(10, 50, columns), 9)
    points = ", ".join(f"{value:.1f}" for value in (*x, *y))
    return "\n".join([", ".join(names), *(f"{row + 1}, 1, {points}" for row in range(rows)), ""]).encode()


CSV = openface()


@pytest.fixture(scope="session")
def mp4() -> bytes:
    return encode()


@pytest.fixture
def raw(tmp_path: Path, mp4: bytes) -> Path:
    """Two clips of actor 1 and one of actor 2, as they are when the archives have been extracted."""
    for stem in (FIRST, SECOND, THIRD):
        put(tmp_path / "raw", stem, mp4)
    return tmp_path / "raw"


def put(raw: Path, stem: str, video: bytes | None, csv: bytes | None = CSV) -> None:
    folder = raw / f"Actor_{stem[-2:]}"
    (raw / "landmarks").mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if video is not None:
        (folder / f"{stem}.mp4").write_bytes(video)
    if csv is not None:
        (raw / "landmarks" / f"{stem}.csv").write_bytes(csv)


def prepare(raw: Path, **options: Any) -> Report:
    return prepare_ravdess(raw, raw.parent / "out", **{"settings": SMALL, "jobs": 1, **options})


def reasons(report: Report) -> dict[str, str]:
    return {refusal.where: refusal.reason for refusal in report.refused}


def shards(report: Report) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (report.path / "clips").iterdir()}


def test_a_clip_has_its_arrays_and_facts(raw: Path) -> None:
    told: list[tuple[int, int]] = []
    report = prepare(raw, told=lambda done, total: told.append((done, total)))
    assert (report.prepared, report.already, report.earlier, report.refused) == (3, 0, 0, ())
    assert told == [(1, 3), (2, 3), (3, 3)]
    prepared = Prepared.open(raw.parent / "out")
    assert prepared.set_name == "ravdess"
    assert prepared.parameters == SMALL.parameters()
    assert [entry.id for entry in prepared.entries] == [SECOND, FIRST, THIRD]
    assert prepared.entries[2].facts == {
        "actor": 2, "gender": "female", "emotion": "surprised", "label": 7, "intensity": "strong", "statement": 1,
        "repetition": 1, "source": f"Actor_02/{THIRD}.mp4", "frames": [11, 12, 13, 14], "total_frames": FRAMES,
        "frame_rate": 8.0, "codec": "h264", "filled_boxes": 0, "audio_seconds": 2.45,
        "audio_peak": pytest.approx(0.3, abs=0.02), "made_up": False,
    }  # fmt: skip
    video, audio = prepared.read(0, "video"), prepared.read(0, "audio")
    assert (video.shape, video.dtype) == ((3, 4, 32, 32), torch.uint8)
    assert (audio.shape, audio.dtype) == ((13, 212), torch.float32)
    # columns 20 to 60 of a ramp from 0 to 200 over 96 columns, and 2 brighter in each frame
    middle = video.float().mean(dim=(0, 2, 3))
    assert middle.tolist() == pytest.approx([40 / 95 * 200 + 2 * number for number in (11, 12, 13, 14)], abs=4)
    assert video[:, :, :, -1].float().mean() - video[:, :, :, 0].float().mean() > 60


def test_archives_and_folders_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    """The archives lie beside each other as they were downloaded, and nothing is extracted."""
    zipped = tmp_path / "zips" / "raw"
    zipped.mkdir(parents=True)
    for actor in ("01", "02"):
        with zipfile.ZipFile(zipped / f"Video_Speech_Actor_{actor}.zip", "w") as archive:
            for path in sorted((raw / f"Actor_{actor}").iterdir()):
                archive.write(path, f"Actor_{actor}/{path.name}")
        with zipfile.ZipFile(zipped / f"FacialTracking_Actor_{actor}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((raw / "landmarks").glob(f"*-{actor}.csv")):
                archive.write(path, path.name)
    before = sorted(zipped.rglob("*"))
    first, second = prepare(raw), prepare(zipped)
    assert sorted(zipped.rglob("*")) == before
    assert Prepared.open(first.path).fingerprint == Prepared.open(second.path).fingerprint
    assert Prepared.open(second.path).entries[0].facts["source"] == f"Video_Speech_Actor_01.zip!Actor_01/{SECOND}.mp4"
    assert prepare(zipped).already == 3


@pytest.mark.slow
def test_several_processes_give_the_bytes_of_one(raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    (raw / "Actor_01" / f"{FIRST}.mp4").write_bytes(b"broken")
    one = prepare(raw)
    two = prepare_ravdess(raw, tmp_path / "two", SMALL, jobs=2)
    assert (two.prepared, two.refused) == (2, one.refused)
    assert {name: data for name, (data, _) in shards(one).items()} == {
        name: data for name, (data, _) in shards(two).items()
    }
    assert (one.path / "index.json").read_text() == (two.path / "index.json").read_text()
    with pytest.raises(Stopped):
        prepare_ravdess(raw, tmp_path / "three", SMALL, jobs=2, told=stop)


class Stopped(BaseException):
    pass


def stop(done: int, total: int) -> None:
    raise Stopped


def test_a_stopped_preparation_goes_on_where_it_was(raw: Path) -> None:
    def stop_at_two(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raw, told=stop_at_two)
    with pytest.raises(DataError, match="was interrupted"):
        Prepared.open(raw.parent / "out")
    told: list[tuple[int, int]] = []
    report = prepare(raw, told=lambda done, total: told.append((done, total)))
    assert (report.prepared, report.already) == (1, 2)
    assert told == [(3, 3)]
    before = shards(report)
    assert prepare(raw).already == 3
    assert shards(report) == before
    assert len(Prepared.open(report.path)) == 3


def test_another_parameter_is_another_version_and_the_old_one_stays(raw: Path) -> None:
    first = prepare(raw)
    before = shards(first)
    second = prepare(raw, settings=replace(SMALL, sampling="uniform"))
    assert second.prepared == 3
    assert second.path.parent == first.path.parent
    assert second.path != first.path
    assert shards(first) == before
    assert Prepared.open(second.path).entries[0].facts["frames"] == [0, 6, 13, 19]
    with pytest.raises(DataError, match="holds 2 versions"):
        Prepared.open(first.path.parent)


@pytest.mark.parametrize("field", ["frames", "size", "sampling", "pad_mode", "landmark_slack"])
def test_everything_but_the_name_of_the_preset_is_a_parameter(field: str) -> None:
    other = {"frames": 5, "size": 33, "sampling": "uniform", "pad_mode": "constant", "landmark_slack": 1}
    assert replace(SMALL, **{field: other[field]}).parameters() != SMALL.parameters()  # type: ignore[arg-type]
    assert replace(SMALL, preset="mine").parameters() == SMALL.parameters()
    assert json.loads(json.dumps(SMALL.parameters())) == SMALL.parameters()


BAD: list[tuple[Callable[[Path, bytes], object], str, str]] = [
    (lambda raw, _: put(raw, FIRST, b""), f"Actor_01/{FIRST}.mp4", "^is empty; download it again"),
    (lambda raw, _: put(raw, FIRST, b"no"), f"Actor_01/{FIRST}.mp4", "^is not a video file"),
    (lambda raw, mp4: put(raw, FIRST, mp4[: len(mp4) // 2]), f"Actor_01/{FIRST}.mp4", "^is "),
    (lambda raw, _: put(raw, FIRST, encode(sound=False)), f"Actor_01/{FIRST}.mp4", "^has no audio track"),
    (lambda raw, _: put(raw, FIRST, encode(seconds=0.4)), f"Actor_01/{FIRST}.mp4", r"^is 0\.\d+ s long"),
    (lambda raw, _: put(raw, FIRST, encode("mpeg4")), f"Actor_01/{FIRST}.mp4", "^is encoded as mpeg4; h264 is needed"),
    (
        lambda raw, mp4: put(raw, FIRST, mp4, openface(25)),
        f"Actor_01/{FIRST}.mp4",
        "has 25 rows and the video has 26 fr",
    ),
    (
        lambda raw, mp4: put(raw, FIRST, mp4, openface(columns=60)),
        f"Actor_01/{FIRST}.mp4",
        f"^{FIRST}.csv lacks the col",
    ),
    (lambda raw, mp4: put(raw, FIRST, mp4, b"no"), f"Actor_01/{FIRST}.mp4", f"^{FIRST}.csv has no header"),
    (
        lambda raw, mp4: (raw / "landmarks" / f"{FIRST}.csv").unlink(),
        f"Actor_01/{FIRST}.mp4",
        f"no landmark file {FIRST}",
    ),
    (
        lambda raw, _: shutil.move(raw / f"Actor_01/{FIRST}.mp4", raw / "Actor_02"),
        f"Actor_02/{FIRST}.mp4",
        "lies in Actor",
    ),
    (
        lambda raw, _: shutil.copy(raw / f"Actor_01/{FIRST}.mp4", raw / "x.mp4"),
        "x.mp4",
        "^seven numbers of two digits are",
    ),
    (
        lambda raw, _: (raw / "01-01-09-01-01-01-01.csv").touch(),
        "01-01-09-01-01-01-01.csv",
        "^emotion is 09; 01 to 08 is",
    ),
    (
        lambda raw, _: (raw / f"{FIRST}.avi").touch(),
        f"{FIRST}.avi",
        "recording is needed as .mp4, as it was published; this",
    ),
    (
        lambda raw, _: (raw / f"{FIRST}.wav").touch(),
        f"{FIRST}.wav",
        "recording is needed as .mp4, as it was published; this",
    ),
    (
        lambda raw, _: (raw / f"{FIRST}.mp4").touch(),
        f"{FIRST}.mp4",
        f"has 0 bytes here and .* in Actor_01/{FIRST}.mp4; keep",
    ),
    (
        lambda raw, mp4: (raw / f"{FIRST}.mp4").write_bytes(mp4[:-1] + b"?"),
        f"{FIRST}.mp4",
        rf"^is not the same here and in Actor_01/{FIRST}\.mp4, both of \d+ bytes; keep the right one$",
    ),
    (
        lambda raw, mp4: [put(raw, FIRST, mp4), put(raw, "01-01-02-01-01-01-01", None)],
        "landmarks/01-01-02-01-01-01-01.csv",
        "^landmarks without a video 01-01-02-01-01-01-01.mp4",
    ),
    (lambda raw, _: (raw / "a.zip").write_bytes(b"PK"), "a.zip", "^the archive is broken or not completely downloaded"),
]


@pytest.mark.parametrize(("spoil", "where", "words"), BAD)
def test_a_bad_file_is_refused_with_its_reason_and_the_other_clips_are_prepared(
    raw: Path, mp4: bytes, spoil: Callable[[Path, bytes], object], where: str, words: str
) -> None:
    for stem in (SECOND, THIRD):
        (raw / f"Actor_{stem[-2:]}" / f"{stem}.mp4").unlink()
        (raw / "landmarks" / f"{stem}.csv").unlink()
    put(raw, THIRD, mp4)
    spoil(raw, mp4)
    report = prepare(raw)
    found = reasons(report)
    assert where in found, found
    assert re.search(words, found[where]), found[where]
    assert len(found) == 1
    prepared = Prepared.open(report.path)
    assert prepared.entries[-1].id == THIRD
    assert [one["reason"] for one in prepared.refused] == list(found.values())


def test_a_wrong_checksum_in_an_archive_is_a_refusal(raw: Path, mp4: bytes) -> None:
    with zipfile.ZipFile(raw / "Video_Speech_Actor_03.zip", "w") as archive:
        archive.writestr("Actor_03/01-01-01-01-01-01-03.mp4", mp4)
        archive.writestr("../01-01-01-01-01-02-03.mp4", mp4)
    data = bytearray((raw / "Video_Speech_Actor_03.zip").read_bytes())
    data[len(mp4) // 2] ^= 1
    (raw / "Video_Speech_Actor_03.zip").write_bytes(data)
    (raw / "landmarks" / "01-01-01-01-01-01-03.csv").write_bytes(CSV)
    (raw / "landmarks" / "01-01-01-01-01-02-03.csv").write_bytes(CSV)
    found = reasons(prepare(raw))
    assert sorted(found) == [
        "Video_Speech_Actor_03.zip!../01-01-01-01-01-02-03.mp4",
        "Video_Speech_Actor_03.zip!Actor_03/01-01-01-01-01-01-03.mp4",
    ]
    assert found["Video_Speech_Actor_03.zip!../01-01-01-01-01-02-03.mp4"].endswith("leads out of its folder")
    crc = found["Video_Speech_Actor_03.zip!Actor_03/01-01-01-01-01-01-03.mp4"]
    assert re.match(r"cannot be read: Bad CRC-32 .*; download the archive again", crc)


def test_a_clip_in_two_places_is_taken_once(raw: Path) -> None:
    shutil.copytree(raw / "Actor_01", raw / "again" / "Actor_01")
    report = prepare(raw)
    assert (report.prepared, report.refused, report.set_aside) == (3, (), {"copies": 2})
    shutil.copy(raw / "Actor_01" / f"{FIRST}.mp4", raw / "Actor_02")
    report = prepare(raw)
    assert list(reasons(report)) == [f"Actor_02/{FIRST}.mp4"]
    assert len(Prepared.open(report.path)) == 3


def test_a_copy_in_an_archive_is_compared_by_its_checksum(raw: Path, mp4: bytes) -> None:
    for content, refused in ((mp4, []), (mp4[:-1] + b"?", [f"Actor_01/{FIRST}.mp4"])):
        with zipfile.ZipFile(raw / "Video_Speech_Actor_01.zip", "w") as archive:
            archive.writestr(f"Actor_01/{FIRST}.mp4", content)
        plan = plan_ravdess(raw)
        assert [refusal.where for refusal in plan.refused] == refused
        assert plan.set_aside == ({} if refused else {"copies": 1})
    assert f"here and in Video_Speech_Actor_01.zip!Actor_01/{FIRST}.mp4, both of" in plan.refused[0].reason


def test_landmarks_of_actors_whose_videos_are_not_there_are_left_alone(raw: Path) -> None:
    for stem in ("01-01-01-01-01-01-03", "01-01-02-01-01-01-03", "01-01-01-01-01-01-04"):
        put(raw, stem, None)
    (raw / "Actor_04" / "01-01-02-01-01-01-04.mp4").touch()  # a video, though a bad one
    plan = plan_ravdess(raw)
    assert plan.set_aside == {"landmarks of actors without videos": 2}
    assert [refusal.where for refusal in plan.refused] == [
        "Actor_04/01-01-02-01-01-01-04.mp4",
        "landmarks/01-01-01-01-01-01-04.csv",
    ]


def test_a_failing_command_leaves_no_version_behind(raw: Path) -> None:
    with pytest.raises(DataError, match="jobs is 0; at least 1 is needed"):
        prepare(raw, jobs=0)
    for stem in (FIRST, SECOND, THIRD):
        put(raw, stem, b"")
    with pytest.raises(DataError, match="not one clip could be prepared"):
        prepare(raw)
    assert not (raw.parent / "out").exists()


def test_a_version_without_a_clip_does_not_stand_in_the_way(raw: Path, mp4: bytes) -> None:
    for stem in (FIRST, SECOND, THIRD):
        put(raw, stem, b"broken")
    with pytest.raises(DataError, match="not one clip could be prepared"):
        prepare(raw, settings=replace(SMALL, size=33))
    put(raw, THIRD, mp4)
    report = prepare(raw)
    assert len(list((raw.parent / "out").iterdir())) == 2
    assert Prepared.open(raw.parent / "out").path == report.path


def test_clips_with_little_sound_or_few_faces_are_told_of_in_every_run(raw: Path) -> None:
    put(raw, SECOND, encode(seconds=0.53))
    put(raw, THIRD, encode(loud=0))
    lines = CSV.decode().splitlines()
    lines[13] = lines[13].replace(", 1, ", ", 0, ", 1)
    lines[14] = lines[14].replace(", 1, ", ", 0, ", 1)
    put(raw, FIRST, None, "\n".join(lines).encode())
    report = prepare(raw)
    assert report.refused == ()
    short, filled, silent = report.doubtful
    assert re.fullmatch(rf"{SECOND}: only 0\.\d\d s of sound, zeros follow", short)
    assert filled == f"{FIRST}: 2 of 4 frames have the face box of another frame"
    assert silent == f"{THIRD}: its sound is silent"
    assert prepare(raw).doubtful == report.doubtful


def test_a_mended_clip_is_prepared_in_the_next_run_and_a_spoiled_one_leaves_the_index(raw: Path, mp4: bytes) -> None:
    put(raw, FIRST, b"broken")
    assert prepare(raw).prepared == 2
    put(raw, FIRST, mp4)
    report = prepare(raw)
    assert (report.prepared, report.already, report.refused) == (1, 2, ())
    put(raw, FIRST, b"broken again")
    report = prepare(raw)
    assert (report.prepared, report.already, report.earlier, len(report.refused)) == (0, 2, 0, 1)
    assert [entry.id for entry in Prepared.open(report.path).entries] == [SECOND, THIRD]


def test_archives_can_be_prepared_one_after_the_other(raw: Path, tmp_path: Path, mp4: bytes) -> None:
    prepare(raw)
    put(tmp_path / "next", "01-01-01-01-01-01-03", mp4)
    report = prepare(tmp_path / "next")
    assert (report.prepared, report.already, report.earlier) == (1, 0, 3)
    assert len(Prepared.open(report.path)) == 4


def test_strict_tries_everything_and_writes_no_index(raw: Path, mp4: bytes) -> None:
    for number in range(25):
        (raw / f"bad{number}.mp4").touch()
    with pytest.raises(DataError, match=r"raw: 25 files are refused, so the index is not written") as error:
        prepare(raw, strict=True)
    lines = str(error.value).splitlines()
    assert len(lines) == 22
    assert lines[3].startswith("  bad2.mp4: seven numbers")
    assert lines[-1] == "  and 5 more"
    (version,) = (raw.parent / "out").iterdir()
    assert sorted(path.name for path in version.iterdir()) == ["clips", "parameters.json"]
    for number in range(25):
        (raw / f"bad{number}.mp4").unlink()
    assert prepare(raw, strict=True).already == 3


def test_what_is_not_needed_is_counted_and_left_alone(raw: Path) -> None:
    names = ["02-01-03-01-01-01-01.mp4", "03-01-03-01-01-01-01.wav", "01-02-03-01-01-01-01.mp4", "README.txt", "x.avi"]
    for name in [*names, "03-02-03-01-01-01-01.wav", "01-02-03-01-01-01-01.csv"]:
        (raw / name).touch()
    report = prepare(raw)
    assert report.set_aside == {"video only": 1, "audio only": 1, "song": 2, "other": 2, "landmarks of song": 1}
    assert report.refused == ()


def test_folders_without_what_is_needed_say_what_is_there(tmp_path: Path, mp4: bytes) -> None:
    raw = tmp_path / "raw"
    with pytest.raises(DataError, match="raw does not exist; give the folder"):
        prepare(raw)
    raw.mkdir()
    with pytest.raises(
        DataError, match=r"raw holds none of the full-AV speech recordings, .*1188976; it holds no files"
    ):
        prepare(raw)
    (raw / "02-01-03-01-01-01-01.mp4").touch()
    (raw / "01-02-03-01-01-01-01.mp4").touch()
    with pytest.raises(DataError, match=r"holds none of the full-AV .*; found: 1 song, 1 video only$"):
        prepare(raw)
    with pytest.raises(DataError, match=r"mp4 is one file; a folder or a zip archive is needed"):
        prepare(raw / "02-01-03-01-01-01-01.mp4")
    put(raw, FIRST, mp4, None)
    with pytest.raises(
        DataError, match=r"raw holds 1 recording and no landmark file; put the facial landmarks, .*3255102.* it$"
    ):
        prepare(raw)
    put(raw, FIRST, b"broken")
    with pytest.raises(
        DataError, match=rf"not one clip could be prepared; refused are\n  Actor_01/{FIRST}\.mp4: is not a"
    ):
        prepare(raw)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("index.json"))


def test_a_folder_that_cannot_be_written_is_an_error_at_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw.parent / "out").touch()
    with pytest.raises(DataError, match=r"out.* cannot be written"):
        prepare(raw)
    (raw.parent / "out").unlink()

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    told: list[int] = []
    with pytest.raises(DataError, match=f"{SECOND}.safetensors cannot be written: .*No space left"):
        prepare(raw, told=lambda done, total: told.append(done))
    assert not told


def test_sound_that_is_short_is_padded_and_says_so() -> None:
    arrays, facts = prepare_clip(io.BytesIO(encode(seconds=2.0)), "mine", io.BytesIO(CSV), SMALL)
    assert arrays["audio"].shape == (13, 212)
    assert facts["audio_seconds"] == pytest.approx(1.5, abs=0.05)


def test_slack_takes_landmarks_of_almost_as_many_rows(mp4: bytes) -> None:
    slack = replace(SMALL, landmark_slack=1, sampling="uniform", frames=FRAMES)
    _, facts = prepare_clip(io.BytesIO(mp4), "mine", io.BytesIO(openface(25)), slack)
    assert facts["frames"][-1] == 25
    with pytest.raises(
        DataError, match=r"landmark file of mine has 24 rows .* 26 frames; a row a frame, give or take 1"
    ):
        prepare_clip(io.BytesIO(mp4), "mine", io.BytesIO(openface(24)), slack)


def test_a_clip_without_a_face_is_named_where_there_are_no_landmarks(mp4: bytes) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(DataError, match="mine: no face in 4 of 4 frames"):
        prepare_clip(io.BytesIO(mp4), "mine", None, SMALL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 0}, "frames is 0; a whole number from 1 is needed"),
        ({"frames": 2.5}, "frames is 2.5; a whole number from 1"),
        ({"size": 15}, "size is 15; a whole number from 16 is needed"),
        ({"landmark_slack": -1}, "landmark_slack is -1; a whole number from 0"),
        ({"sampling": "random"}, "sampling is 'random'; 'consecutive' or 'uniform' is needed"),
        ({"pad_mode": "edge"}, "pad_mode is 'edge'; 'reflect' or 'constant' is needed"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Settings(**options)


@pytest.mark.skipif("TORCHMSAF_SHARED_DATA" not in os.environ, reason="TORCHMSAF_SHARED_DATA names no folder")
def test_a_real_film_of_a_face_goes_through_without_landmarks() -> None:
    """The whole path of a user's own clip: frames, detector, crop, sound, MFCC."""
    pytest.importorskip("cv2")
    clip = Path(os.environ["TORCHMSAF_SHARED_DATA"]) / "clips" / "facenet_pytorch_face_video.mp4"
    arrays, facts = prepare_clip(clip, clip.name, None, replace(SMALL, frames=4, size=112, sampling="uniform"))
    assert (arrays["video"].shape, arrays["audio"].shape) == ((3, 4, 112, 112), (13, 212))
    assert arrays["video"].std() > 20
    assert np.isfinite(arrays["audio"]).all()
    assert (facts["filled_boxes"], facts["made_up"]) == (None, False)
    assert facts["audio_seconds"] == pytest.approx(2.45)
