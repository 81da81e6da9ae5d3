"""Protects the made-up corpus: true names and formats, labels that need both modalities, and the same files again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
import pytest

from torchmsaf.data.ravdess import RavdessName
from torchmsaf.data.synth import plan_clips, synth_ravdess
from torchmsaf.data.synth.drawing import draw_frames, fill
from torchmsaf.data.synth.faces import face_points
from torchmsaf.data.synth.recording import Clip, Recording
from torchmsaf.errors import DataError

av = pytest.importorskip("av")
SMALL: dict[str, Any] = {"width": 160, "height": 90, "seconds": 1.0, "jobs": 1}
RATE = Fraction(30_000, 1001)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ravdess")
    assert synth_ravdess(out, actors=[3, 24], clips=2, **SMALL) == 4
    return out


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archives")
    assert synth_ravdess(out, actors=[3], clips=2, zipped=True, **SMALL) == 2
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decode(file: Path | BinaryIO) -> tuple[int, np.ndarray]:
    with av.open(file if isinstance(file, BytesIO) else str(file)) as container:
        frames = sum(1 for _ in container.decode(video=0))
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    return frames, sound


def table(text: str) -> tuple[list[str], np.ndarray]:
    header, *rows = text.splitlines()
    return header.split(", "), np.array([[float(value) for value in row.split(", ")] for row in rows])


def test_the_plan_has_the_real_counts_and_unique_valid_names() -> None:
    names = plan_clips(7, 60)
    assert len({name.stem for name in names}) == 60
    assert all(RavdessName.parse(name.stem) == name and name.actor == 7 for name in names)
    assert Counter(name.emotion for name in names) == {1: 4, **dict.fromkeys(range(2, 9), 8)}


def test_the_emotions_take_turns() -> None:
    for clips in (8, 16, 24, 32):
        assert set(Counter(name.label for name in plan_clips(1, clips)).values()) == {clips // 8}
    assert plan_clips(5, 60)[:11] == plan_clips(5, 11)


def test_files_lie_and_are_called_as_in_ravdess(corpus: Path) -> None:
    assert set(contents(corpus)) == {
        *(f"Actor_{actor:02}/01-01-{emotion}-01-01-01-{actor:02}.mp4" for actor in (3, 24) for emotion in ("01", "02")),
        *(f"FacialTracking/01-01-{emotion}-01-01-01-{actor:02}.csv" for actor in (3, 24) for emotion in ("01", "02")),
    }


def test_the_streams_are_those_of_ravdess(corpus: Path) -> None:
    video = corpus / "Actor_03" / "01-01-02-01-01-01-03.mp4"
    with av.open(str(video)) as container:
        film, audio = container.streams.video[0], container.streams.audio[0]
        assert (film.codec_context.name, film.pix_fmt, film.width, film.height) == ("h264", "yuv420p", 160, 90)
        assert film.average_rate == RATE
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 48_000, 2)
        assert container.metadata["comment"].startswith("made up by torchmsaf, no recording of anybody")
    frames, sound = decode(video)
    assert frames == 30
    assert abs(sound.shape[1] - 48_000) <= 2048
    assert np.abs(sound[:, : 48_000 // 10]).max() < 0.01  # nobody speaks at first
    assert np.abs(sound).max() > 0.1


def test_the_landmarks_have_openface_columns_and_lie_in_the_frame(corpus: Path) -> None:
    for path in sorted((corpus / "FacialTracking").iterdir()):
        header, rows = table(path.read_text())
        assert header[:5] == ["frame", "face_id", "timestamp", "confidence", "success"]
        assert header[297:433] == [f"{axis}_{point}" for axis in "xy" for point in range(68)]
        assert rows.shape == (30, len(header)) == (30, 712)
        assert rows[:, 0].tolist() == list(range(1, 31))
        assert rows[29, 2] == pytest.approx(29 * 1001 / 30_000, abs=6e-4)
        assert (rows[:, 4] == 1).all()
        x, y = rows[:, 297:365], rows[:, 365:433]
        assert x.min() > 0
        assert x.max() < 160
        assert y.min() > 0
        assert y.max() < 90
        assert (np.ptp(x, axis=1) > 25).all()


def test_what_is_drawn_is_where_the_points_are() -> None:
    clip = Clip(RavdessName.parse("01-01-08-01-01-01-02"), Recording(320, 180, RATE, 1.0, 0))
    points = face_points(clip.look, clip.motion)
    widest = int(np.argmax(clip.motion.opening))
    for number, planes in enumerate(draw_frames(clip.look, clip.motion, 320, 180)):
        if number == widest:
            x, y = points[number, 60:68].mean(axis=0).round().astype(int)
            nose_x, nose_y = points[number, 30].round().astype(int)
            assert planes[y, x] < 45  # in the open mouth
            assert planes[nose_y, nose_x] > 80  # skin


def test_a_shape_covers_its_area_to_the_part_of_a_pixel() -> None:
    planes = tuple(np.zeros(shape, dtype=np.uint8) for shape in ((12, 16), (6, 8), (6, 8)))
    line = np.array([2.0, 9.0])
    fill(planes, line, np.full(2, 2.75), np.full(2, 6.25), np.full(3, 255.0))  # type: ignore[arg-type]
    white = planes[0].max()
    assert white in (234, 235)
    assert planes[0].sum() / white == pytest.approx(8 * 3.5, abs=0.5)
    assert planes[0][:, :2].max() == planes[0][:, 10:].max() == 0


@pytest.mark.parametrize("side", [60.0, -60.0])
def test_what_lies_outside_the_frame_is_not_drawn(side: float) -> None:
    planes = tuple(np.zeros(shape, dtype=np.uint8) for shape in ((12, 16), (6, 8), (6, 8)))
    fill(planes, np.array([2.0, 9.0]) + side, np.zeros(2) + side, np.full(2, 5.0) + side, np.full(3, 255.0))  # type: ignore[arg-type]
    assert not any(plane.any() for plane in planes)


def test_neither_the_face_nor_the_voice_alone_tells_the_emotion(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("torchmsaf.data.synth.faces.move", lambda random, group, *rest: seen.append((group, -1)))
    monkeypatch.setattr("torchmsaf.data.synth.voices.speak", lambda random, voice, group, *rest: group)
    groups = []
    for name in plan_clips(1, 8):
        heard: Any = Clip(name, Recording(160, 90, RATE, 1.0, 0)).sound()
        groups.append((seen[-1][0], heard))
    assert len(set(groups)) == 8
    for one in zip(*groups, strict=True):
        assert set(Counter(one).values()) == {2}


def test_the_same_seed_gives_the_same_files_and_fewer_clips_the_same_ones(corpus: Path, tmp_path: Path) -> None:
    assert synth_ravdess(tmp_path, actors=[24], clips=1, **SMALL) == 1
    whole = contents(corpus)
    again = contents(tmp_path)
    assert len(again) == 2
    assert all(whole[name] == content for name, content in again.items())


def test_another_seed_gives_other_clips() -> None:
    name = RavdessName.parse("01-01-03-01-01-01-01")
    one, other = (Clip(name, Recording(160, 90, RATE, 1.0, seed)) for seed in (0, 1))
    assert one.landmarks() != other.landmarks()
    assert not np.array_equal(one.sound(), other.sound())
    assert np.array_equal(one.sound(), one.sound())


def test_what_is_there_stays_and_what_is_missing_or_of_another_recording_is_written(corpus: Path) -> None:
    calls: list[tuple[int, int]] = []
    before = contents(corpus)
    times = {path: path.stat().st_mtime_ns for path in corpus.rglob("*.mp4")}
    again: Callable[..., int] = lambda **more: synth_ravdess(corpus, actors=[3, 24], clips=2, **{**SMALL, **more})  # noqa: E731
    assert again(told=lambda done, total: calls.append((done, total))) == 0
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert times == {path: path.stat().st_mtime_ns for path in corpus.rglob("*.mp4")}
    broken, gone = sorted(corpus.rglob("*.mp4"))[:2]
    broken.write_bytes(broken.read_bytes()[:100])
    gone.unlink()
    sorted(corpus.rglob("*.csv"))[3].unlink()
    assert again() == 3
    assert contents(corpus) == before
    assert synth_ravdess(corpus, actors=[3], clips=1, **{**SMALL, "seed": 5}) == 1
    assert again() == 1
    assert contents(corpus) == before


def test_archives_hold_the_same_files(corpus: Path, archives: Path) -> None:
    assert set(contents(archives)) == {"Video_Speech_Actor_03.zip", "FacialTracking_Actors_01-24.zip"}
    films, texts = (
        ZipFile(archives / "Video_Speech_Actor_03.zip"),
        ZipFile(archives / "FacialTracking_Actors_01-24.zip"),
    )
    with films, texts:
        assert films.namelist() == [f"Actor_03/{name.stem}.mp4" for name in plan_clips(3, 2)]
        assert films.testzip() is None
        assert all(films.read(inside) == (corpus / inside).read_bytes() for inside in films.namelist())
        for name in plan_clips(3, 2):
            inside = f"{name.stem}.csv"
            assert texts.read(inside) == (corpus / "FacialTracking" / inside).read_bytes()


def test_archives_are_kept_and_the_landmarks_of_more_actors_join(archives: Path) -> None:
    before = contents(archives)["Video_Speech_Actor_03.zip"]
    assert synth_ravdess(archives, actors=[3, 4], clips=2, zipped=True, **SMALL) == 2
    assert synth_ravdess(archives, actors=[4], clips=1, zipped=True, **SMALL) == 0
    assert contents(archives)["Video_Speech_Actor_03.zip"] == before
    with ZipFile(archives / "FacialTracking_Actors_01-24.zip") as texts:
        assert texts.namelist() == [f"{name.stem}.csv" for actor in (3, 4) for name in plan_clips(actor, 2)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"actors": [1, 25]}, r"actor 25: RAVDESS has the actors 1 to 24"),
        ({"actors": [0]}, r"actor 0: RAVDESS has the actors 1 to 24"),
        ({"clips": 0}, r"0 clips an actor: RAVDESS has 60; ask for 1 to 60"),
        ({"clips": 61}, r"61 clips an actor: RAVDESS has 60; ask for 1 to 60"),
        ({"width": 161}, r"width is 161; an even number of pixels, 64 or more, is needed"),
        ({"height": 62}, r"height is 62; an even number of pixels, 64 or more, is needed"),
        ({"width": 18, "height": 10}, r"height is 10; an even number of pixels, 64 or more, is needed"),
        ({"seconds": 0.9}, r"seconds is 0\.9; 1 or more is needed"),
        ({"seconds": float("nan")}, r"seconds is nan; 1 or more is needed"),
        ({"frame_rate": Fraction(0)}, r"frame_rate is 0; more than 0 frames a second are needed"),
        ({"seed": -1}, r"seed is -1; 0 or more is needed"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=rf"^{words}$"):
        synth_ravdess(tmp_path / "out", **{**SMALL, **wrong})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, zipped: bool) -> None:
    (tmp_path / "file").touch()
    for out, why in (("file", "File exists|Not a directory"), ("file/in", "Not a directory")):
        with pytest.raises(DataError, match=rf"{out}/.* cannot be written: ({why}); choose another folder"):
            synth_ravdess(tmp_path / out, actors=[3], clips=1, zipped=zipped, **SMALL)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(tmp_path: Path, zipped: bool) -> None:
    """What is written beyond a size fails in the system itself."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match=r"03\.(csv|zip) cannot be written: File too large; choose another folder"):
            synth_ravdess(tmp_path, actors=[3], clips=1, zipped=zipped, **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not contents(tmp_path)
