"""Protects the made-up sentiment corpus: true names and format, parts by video, sentiment that needs all modalities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data.synth.csd import csd_writer, write_csd
from torchmsaf.data.synth.mosei import MadeUp, synth_mosei
from torchmsaf.data.synth.mosei_video import MadeUpVideo, Oddity, Shooting
from torchmsaf.data.synth.opinions import BAD, GOOD, NEUTRAL, NOT, PAUSE, VERY, draw_opinion
from torchmsaf.errors import DataError

h5py = pytest.importorskip("h5py")
SMALL: dict[str, Any] = {"videos": 12, "seconds": 3.0, "audio_rate": 20.0, "video_rate": 10.0}
ROOTS = {
    "CMU_MOSEI_TimestampedWords.csd": "words",
    "CMU_MOSEI_VisualFacet42.csd": "FACET 4.2",
    "CMU_MOSEI_COVAREP.csd": "COVAREP",
    "CMU_MOSEI_Labels.csd": "All Labels",
}
WORDS, FACES, VOICES, LABELS = ROOTS
Sequence = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MadeUp]:
    out = tmp_path_factory.mktemp("mosei")
    return out, synth_mosei(out, **SMALL)


@pytest.fixture(scope="module")
def rows(corpus: tuple[Path, MadeUp]) -> dict[str, Sequence]:
    return {name: read(corpus[0] / name) for name in ROOTS}


def read(path: Path) -> Sequence:
    with h5py.File(path) as file:
        (root,) = file
        assert set(file[root]) == {"data", "metadata"}
        return {video: (one["features"][:], one["intervals"][:]) for video, one in file[root]["data"].items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_and_roots_are_called_as_in_cmu_mosei(corpus: tuple[Path, MadeUp]) -> None:
    out, made = corpus
    assert set(contents(out)) == {*ROOTS, "folds.json", "README.txt"}
    for name, root in ROOTS.items():
        with h5py.File(out / name) as file:
            assert list(file) == [root]
            told = {key: json.loads(value[0]) for key, value in file[root]["metadata"].items()}
        assert told["root name"] == root
        assert {"md5", "uuid", "dataset name", "alignment compatible", "dataset bib citation"} <= set(told)
        junk = told["computational sequence description"] == told["creator"] == "asdfasdf"
        assert junk == (name == WORDS)
        assert junk or told["computational sequence description"].startswith("made up by torchmsaf: 12 videos")
    note = (out / "README.txt").read_text()
    assert note.startswith("made up by torchmsaf, no recording of anybody: 12 videos")
    assert all(video in note for video in made.odd.values())


def test_each_video_is_in_one_part_and_some_ids_begin_with_a_hyphen_or_an_underscore(
    corpus: tuple[Path, MadeUp], rows: dict[str, Sequence]
) -> None:
    parts = json.loads((corpus[0] / "folds.json").read_text())
    assert parts == corpus[1].parts
    assert {part: len(ids) for part, ids in parts.items()} == {"train": 9, "validation": 1, "test": 2}
    every = [video for ids in parts.values() for video in ids]
    assert len(set(every)) == len(every) == 12
    assert set(every) == set(rows[WORDS]) == set(rows[LABELS]) == set(rows[VOICES])
    assert {len(video) for video in every} == {11}
    assert {"-", "_"} <= {video[0] for video in every}


def test_shapes_and_types_are_those_of_computational_sequences(
    corpus: tuple[Path, MadeUp], rows: dict[str, Sequence]
) -> None:
    for name, kind, width in ((WORDS, "S32", 1), (FACES, "f4", 35), (VOICES, "f4", 74), (LABELS, "f4", 7)):
        for features, intervals in rows[name].values():
            assert features.dtype == np.dtype(kind)
            assert features.shape == (len(intervals), width)
            assert intervals.shape[1:] == (2,)
            assert intervals.dtype == (np.float32 if name == LABELS else np.float64)
            if name != LABELS:
                assert (intervals[:, 0] < intervals[:, 1]).all()
                assert (intervals[1:, 0] >= intervals[:-1, 1] - 1e-9).all()
    counts = [len(features) for features, _ in rows[LABELS].values()]
    assert sum(counts) == corpus[1].utterances
    assert 2 <= min(counts) <= max(counts) <= 20


def test_words_fill_the_time_at_the_pace_of_speech(rows: dict[str, Sequence]) -> None:
    spoken, seconds = 0, 0.0
    for words, intervals in rows[WORDS].values():
        assert intervals[0, 0] == 0
        assert np.array_equal(intervals[1:, 0], intervals[:-1, 1])
        assert set(words[:, 0]) <= {word.encode() for word in (PAUSE, *GOOD, *BAD, *VERY, *NOT, *NEUTRAL)}
        spoken += int((words != PAUSE.encode()).sum())
        seconds += intervals[-1, 1]
    assert 1.8 < spoken / seconds < 3


def test_sentiment_lies_on_thirds_with_many_zeros() -> None:
    random = np.random.default_rng(4)
    sentiment = np.array([draw_opinion(random, 6.0).sentiment for _ in range(3000)])
    assert np.allclose(3 * sentiment, np.rint(3 * sentiment), atol=1e-12)
    assert np.abs(sentiment).max() == 3
    assert 0.12 < (sentiment == 0).mean() < 0.3
    assert (sentiment == 0).sum() > 1.5 * max((np.rint(3 * sentiment) == third).sum() for third in (-2, -1, 1, 2))


def test_each_modality_says_a_part_and_irony_needs_words_and_voice_together() -> None:
    """Correlations with sentiment of what is said, of tone and of face, alone and together."""
    random = np.random.default_rng(5)
    opinions = [draw_opinion(random, 6.0) for _ in range(4000)]
    sentiment = np.array([opinion.sentiment for opinion in opinions])

    def said(opinion: Any, heard: bool) -> float:
        total, strength, count = 0.0, 1.0, 0
        for number, word in enumerate(opinion.words):
            strength *= 1.6 if word in VERY else -0.8 if word in NOT else 1.0
            if word in GOOD or word in BAD:
                total += strength * (1 if word in GOOD else -1) * (-1 if heard and number in opinion.ironic else 1)
                strength, count = 1.0, count + 1
        return total / max(count, 1) ** 0.5

    plain, turned = (np.array([said(opinion, heard) for opinion in opinions]) for heard in (False, True))
    tone, face = (np.array([getattr(opinion, name) for opinion in opinions]) for name in ("tone", "face"))

    def related(value: np.ndarray) -> float:
        return float(np.corrcoef(value, sentiment)[0, 1])

    alone = [related(one) for one in (plain, tone, face)]
    assert all(0.35 < one < 0.75 for one in alone), alone
    apart, together = related(plain + 0.6 * tone + 0.6 * face), related(turned + 0.6 * tone + 0.6 * face)
    assert max(alone) + 0.1 < apart < together - 0.1
    assert together > 0.95


def test_the_features_carry_tone_face_and_irony_in_time() -> None:
    video = next(
        one
        for one in (MadeUpVideo(number, Shooting(6.0, 100.0, 30.0, 1), Oddity()) for number in range(40))
        if any(abs(opinion.face) > 1 for opinion in one.opinions) and any(opinion.ironic for opinion in one.opinions)
    )
    voices, times = video.audio()
    told = voices[:, 30:34]
    standard = (told - told.mean(axis=0)) / told.std(axis=0)
    said, rest = [], []
    for start, opinion in zip(video.starts, video.opinions, strict=True):
        for word in opinion.ironic:
            first = start + (opinion.ends[word - 1] if word else 0.0)
            inside = (times[:, 0] >= first) & (times[:, 1] <= start + opinion.ends[word])
            said.append(standard[inside].mean())
        rest.append(standard[(times[:, 0] >= start) & (times[:, 1] <= start + opinion.seconds)].mean())
    assert min(said) > max(rest)
    start, opinion = max(zip(video.starts, video.opinions, strict=True), key=lambda one: abs(one[1].face))
    found = video.video()
    assert found is not None
    faces, times = found
    part = (times.mean(axis=1) - start) / opinion.seconds
    inside = (part >= opinion.moment[0]) & (part < opinion.moment[1])
    outside = (part >= 0) & (part < 1) & ~inside
    change = (faces[inside].mean(axis=0) - faces[outside].mean(axis=0)) / faces.std(axis=0).clip(1e-9)
    assert np.sign(change[4:10].mean()) == np.sign(opinion.face)
    assert np.abs(change[4:10]).min() > np.abs(change[10:34]).mean()


def test_voices_have_infinite_and_undefined_entries_and_features_that_never_change(rows: dict[str, Sequence]) -> None:
    voices = np.concatenate([features for features, _ in rows[VOICES].values()])
    assert np.isneginf(voices[:, 4]).any()
    assert np.isposinf(voices[:, 7]).any()
    assert np.isnan(voices[:, 8]).any()
    assert np.isfinite(np.delete(voices, (4, 7, 8), axis=1)).all()
    assert set(voices[:, 1]) == {0, 1}
    assert [sorted(set(voices[:, column])) for column in (60, 61, 62)] == [[0], [0], [1]]
    faces = np.concatenate([features for features, _ in rows[FACES].values()])
    assert np.isfinite(faces).all()
    assert not faces[:, 34].any()
    for _, intervals in rows[FACES].values():
        assert (intervals[1:, 0] > intervals[:-1, 1] + 0.15).any()


def test_one_training_video_has_each_oddity(corpus: tuple[Path, MadeUp], rows: dict[str, Sequence]) -> None:
    odd = corpus[1].odd
    assert set(odd.values()) <= set(corpus[1].parts["train"])
    assert len(set(odd.values())) == 5
    for video, (_, intervals) in rows[LABELS].items():
        backwards = intervals[:, 0] >= intervals[:, 1]
        assert backwards.any() == (video == odd["the last utterance ends before it starts"])
        assert not backwards[:-1].any()
        words, times = rows[WORDS][video]
        silent = [
            (words[(times.mean(axis=1) >= start) & (times.mean(axis=1) < end), 0] == PAUSE.encode()).all()
            for start, end in intervals[~backwards]
        ]
        assert (len(silent) > 1 and silent[1]) == (video == odd["an utterance of pauses only"])
    assert set(rows[LABELS]) - set(rows[FACES]) == {odd["no faces at all"]}
    late = odd["faces only after two fifths of it"]
    assert rows[FACES][late][1][0, 0] >= 0.4 * rows[WORDS][late][1][-1, 1]
    faceless = odd["the last utterance without a face"]
    start, end = rows[LABELS][faceless][1][-1]
    times = rows[FACES][faceless][1]
    assert not ((times[:, 1] > start) & (times[:, 0] < end)).any()


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(
    corpus: tuple[Path, MadeUp], tmp_path: Path
) -> None:
    assert synth_mosei(tmp_path, **SMALL) == corpus[1]
    assert contents(tmp_path) == contents(corpus[0])
    synth_mosei(tmp_path, **SMALL, seed=3)
    assert contents(tmp_path).keys() == contents(corpus[0]).keys()
    assert not any(contents(tmp_path)[name] == content for name, content in contents(corpus[0]).items())


def test_a_video_does_not_depend_on_the_others_nor_on_what_is_asked_of_it_first() -> None:
    shooting = Shooting(3.0, 20.0, 10.0, 0)
    one, other = MadeUpVideo(7, shooting, Oddity()), MadeUpVideo(7, shooting, Oddity())
    other.video()
    for ask in (MadeUpVideo.audio, MadeUpVideo.words, MadeUpVideo.labels):
        for left, right in zip(ask(one), ask(other), strict=True):
            assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def test_progress_is_told_by_the_video(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    synth_mosei(tmp_path, **SMALL, told=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 12) for number in range(1, 13)]


def test_after_an_interruption_nothing_is_there(tmp_path: Path) -> None:
    def told(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth_mosei(tmp_path / "out", **SMALL, told=told)
    assert not contents(tmp_path / "out")


@pytest.mark.parametrize(
    "name", [*ROOTS, "folds.json", "README.txt", "CMU_MOSI_Opinion_Labels.csd", "standard_folds.json", "other"]
)
def test_nothing_is_written_into_a_folder_of_another_origin(tmp_path: Path, name: str) -> None:
    """Under other names too: made-up files beside real ones would be read as real."""
    (tmp_path / name).write_bytes(b"real")
    with pytest.raises(DataError, match=rf"{name} is there and was not made up here; choose another folder, empty or"):
        synth_mosei(tmp_path, **SMALL)
    assert contents(tmp_path) == {name: b"real"}


def test_a_real_sequence_beside_a_corpus_made_up_earlier_is_seen(tmp_path: Path) -> None:
    synth_mosei(tmp_path, **SMALL)
    (tmp_path / "CMU_MOSI_COVAREP.csd").write_bytes(b"real")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"CMU_MOSI_COVAREP\.csd is there and was not made up here"):
        synth_mosei(tmp_path, **SMALL, seed=3)
    assert contents(tmp_path) == before


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f"{VOICES}.0123.part").write_bytes(b"half")
    assert synth_mosei(tmp_path, **SMALL).videos == 12


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"videos": 9}, r"9 videos: 10 or more are needed, for training, validation and test"),
        ({"seconds": 0.5}, r"seconds is 0\.5; 1 to 30 are needed"),
        ({"seconds": float("nan")}, r"seconds is nan; 1 to 30 are needed"),
        ({"audio_rate": 0.0}, r"audio_rate is 0; 1 to 1000 rows a second are needed"),
        ({"video_rate": float("inf")}, r"video_rate is inf; 1 to 1000 rows a second are needed"),
        ({"seed": -1}, r"seed is -1; 0 or more is needed"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=rf"^{words}$"):
        synth_mosei(tmp_path / "out", **{**SMALL, **wrong})
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/.* cannot be written: .+; choose another folder$"):
        synth_mosei(tmp_path / "file" / "in", **SMALL)


def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """What is written beyond a size fails in the system itself."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"\.csd cannot be written: File too large; choose another folder"):
            synth_mosei(tmp_path, **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not contents(tmp_path)


def test_a_sequence_is_written_as_it_is_given(tmp_path: Path) -> None:
    features, intervals = np.arange(6.0).reshape(3, 2), np.array([[0, 1], [2, 1], [np.nan, 3]])
    path = tmp_path / "new" / "x.csd"
    videos = {"-b": (features, intervals), "a": (features[:0], intervals[:0])}
    write_csd(path, "Root of it", videos, {"creator": "me", "odd": None}, compressed=True)
    with h5py.File(path) as file:
        data, told = file["Root of it/data"], file["Root of it/metadata"]
        assert sorted(data) == ["-b", "a"]
        assert np.array_equal(data["-b/features"][:], features)
        assert np.array_equal(data["-b/intervals"][:], intervals, equal_nan=True)
        assert data["a/features"].shape == (0, 2)
        assert data["-b/features"].compression == "gzip"
        assert {key: value[0] for key, value in told.items()} == {
            "root name": b'"Root of it"',
            "creator": b'"me"',
            "odd": b"null",
        }


def test_a_sequence_has_each_video_once(tmp_path: Path) -> None:
    with csd_writer(tmp_path / "x.csd", "R") as writer:
        writer.add("a", np.zeros((1, 1)), np.zeros((1, 2)))
        with pytest.raises(DataError, match=r"x\.csd: video a is there already; a sequence has each video once$"):
            writer.add("a", np.ones((1, 1)), np.zeros((1, 2)))
    assert read(tmp_path / "x.csd")["a"][0].tolist() == [[0.0]]


def test_the_command_makes_a_corpus_and_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from torchmsaf.cli.synth_mosei import add_synth_mosei

    parser = argparse.ArgumentParser()
    add_synth_mosei(parser.add_subparsers())
    given = f"mosei --out {tmp_path} --videos 10 --seconds 2 --audio-rate 10 --video-rate 5 --seed 2".split()
    options = parser.parse_args(given)
    run: Callable[[argparse.Namespace], None] = options.run
    run(options)
    assert "made-up utterances of 10 videos: " in capsys.readouterr().out
    assert set(contents(tmp_path)) == {*ROOTS, "folds.json", "README.txt"}
