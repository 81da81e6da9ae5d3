"""Protects the preparation of sentiment: what each step holds, who is refused and why, folds, and going on after a stop."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from torchmsaf.data.prepare.utterances import preparation
from torchmsaf.data.prepare.utterances.preparation import prepare_sentiment
from torchmsaf.data.prepare.utterances.report import Report
from torchmsaf.data.prepare.utterances.utterance import Settings
from torchmsaf.data.prepared import Entry, Prepared
from torchmsaf.errors import DataError

h5py = pytest.importorskip("h5py")
pytest.importorskip("safetensors")

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
FOLDS = {"train": ["-first", "thin"], "validation": ["second"], "test": ["third"]}
# video -> (word, start, end); pauses are words of the file, too
SPEECH = {
    "-first": [
        ("Oh", 0.0, 1.0),
        ("sp", 1.0, 2.0),
        ("GOOD", 2.0, 3.0),
        ("film", 3.0, 4.0),
        ("sp", 4.0, 6.0),
        ("bad", 6.0, 7.0),
    ],
    "second": [("it", 0.0, 1.0), ("is", 1.0, 2.0), ("fine", 2.0, 3.0)],
    "third": [("no", 0.0, 2.0), ("idea", 2.0, 4.0)],
    "thin": [("gone", 0.0, 1.0)],
    "stray": [("who", 0.0, 1.0)],
}
# video -> (start, end, sentiment), in the order of the file, which is not that of time
LABELS = {
    "-first": [(2.0, 4.0, 1.5), (0.0, 2.0, -0.5), (4.0, 5.5, 0.0), (6.0, 7.0, -3.0)],
    "second": [(0.0, 3.0, 2.0)],
    "third": [(0.0, 4.0, -1.0)],
    "thin": [(0.0, 1.0, 0.2)],
    "stray": [(0.0, 1.0, 1.0)],
}
WORDS_ONLY = Settings(text="words")


def write_csd(path: Path, root: str, data: dict[str, tuple[Any, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_group(f"{root}/metadata")
        for video, (features, intervals) in data.items():
            group = file.create_group(f"{root}/data/{video}")
            group["features"], group["intervals"] = features, np.asarray(intervals, dtype=np.float64)


def frames(rate: float, seconds: float, width: int, first: float) -> tuple[np.ndarray, np.ndarray]:
    """Frame i begins at i / rate and has the value first + i in feature 0, its opposite in the others."""
    count = round(rate * seconds)
    number = first + np.arange(count, dtype=np.float32)
    edges = np.arange(count + 1) / rate
    return np.stack([number, *[-number] * (width - 1)], 1), np.stack([edges[:-1], edges[1:]], 1)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five videos of CMU-MOSEI as its files have them: 2 frames of video a second and 4 of audio."""
    folder = tmp_path / "raw"
    words = {
        video: (np.array([[word.encode()] for word, _, _ in said]), [[s, e] for _, s, e in said])
        for video, said in SPEECH.items()
    }
    labels = {
        video: (np.array([[y, *[0.0] * 6] for _, _, y in rows]), [[s, e] for s, e, _ in rows])
        for video, rows in LABELS.items()
    }
    video = {name: frames(2, 7, 3, 100) for name in SPEECH if name != "thin"}
    audio = {name: frames(4, 7, 2, 0) for name in SPEECH}
    audio["-first"][0][9, 1] = -np.inf  # in the third second: of the word "GOOD"
    audio["-first"][0][10, 1] = np.nan
    write_csd(folder / "CMU_MOSEI_TimestampedWords.csd", "words", words)
    write_csd(folder / "CMU_MOSEI_Labels.csd", "All Labels", labels)
    write_csd(folder / "CMU_MOSEI_VisualFacet42.csd", "FACET 4.2", video)
    write_csd(folder / "deep" / "CMU_MOSEI_COVAREP.csd", "COVAREP", audio)
    (folder / "folds.json").write_text(json.dumps(FOLDS))
    return folder


def prepare(raw: Path, settings: Settings = WORDS_ONLY, name: str = "mosei", **options: Any) -> Report:
    return prepare_sentiment(name, raw, raw.parent / "out", settings, **options)


def entries(report: Report) -> dict[str, Entry]:
    return {entry.id: entry for entry in Prepared.open(report.path).entries}


def array(report: Report, id: str, name: str) -> list[list[float]]:
    prepared = Prepared.open(report.path)
    return prepared.read([entry.id for entry in prepared.entries].index(id), name).tolist()


def reasons(report: Report) -> dict[str, str]:
    return {one.where: one.reason for one in report.refused}


class Encoder:
    """A vector a word: its number of letters and how many sentences were encoded; stands for a model of transformers."""

    calls: ClassVar[list[list[Any]]] = []

    def __init__(self, model: str, *, device: str | None = None, batch_size: int = 32) -> None:
        self.model, self.batch_size = model, batch_size

    def describe(self) -> dict[str, Any]:
        return {"model": self.model, "digest": "0" * 16, "layer": "last", "width": 2}

    def words(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        Encoder.calls.append([list(words) for words in sentences])
        return [np.array([[len(word), 7] for word in words], np.float32) for words in sentences]

    def published(self, sentences: Sequence[str], steps: int = 50) -> list[np.ndarray]:
        Encoder.calls.append(list(sentences))
        return [np.full((steps, 2), len(sentence), np.float32) for sentence in sentences]


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> type[Encoder]:
    monkeypatch.setattr(preparation, "TextEncoder", Encoder)
    Encoder.calls = []
    return Encoder


def test_a_step_is_a_word_with_the_mean_of_its_frames(raw: Path) -> None:
    told: list[tuple[int, int]] = []
    report = prepare(raw, told=lambda done, total: told.append((done, total)))
    assert (report.prepared, report.already, report.cut) == (5, 0, 0)
    assert told[-1] == (6, 6)
    found = entries(report)
    assert list(found) == ["-first.0", "-first.1", "-first.3", "second.0", "third.0"]
    facts = found["-first.1"].facts
    assert facts == {
        "group": "-first", "part": "train", "target": 1.5, "words": ["good", "film"], "sentence": "good film", "start": 2.0,
        "end": 4.0, "cut": 0, "infinite": {"audio": {"1": 1}}, "nan": {"audio": {"1": 1}},
        "empty": {"video": 0, "audio": 0}, "made_up": False,
    }  # fmt: skip
    # of "GOOD", 2 s to 3 s: video frames 4 and 5, audio frames 8 to 11, of which two have no number in feature 1
    assert array(report, "-first.1", "video") == [[104.5, -104.5, -104.5], [106.5, -106.5, -106.5]]
    assert array(report, "-first.1", "audio") == [[9.5, -(8 + 0 + 0 + 11) / 4], [13.5, -13.5]]
    assert found["second.0"].facts["part"] == "validation"
    assert report.values["audio"].infinite == 1
    assert reasons(report) == {
        "-first.2": "has no words in its time, pauses left out",
        "stray": "is in no fold of the file of folds",
        "thin": "has no video sequence",
    }
    assert Prepared.open(report.path).refused[0]["name"] == "-first.2"


def test_the_report_says_how_many_there_are_and_why_not_more(raw: Path) -> None:
    lines = "\n".join(prepare(raw).lines())
    assert lines.startswith("5 utterances prepared, 0 there already: ")
    for said in (
        "  video: FACET 4.2 (CMU_MOSEI_VisualFacet42.csd)",
        f"  folds: {raw / 'folds.json'}",
        "  train: 3 utterances of 1 video\n",
        "  train: 1 utterance refused: has no video sequence",
        "audio: 1 infinite value and 1 that are no number, in 1 utterance, are 0 now",
        "3 refused (all in index.json):",
    ):
        assert said in lines


def test_standard_folds_are_compared_with_the_paper(raw: Path) -> None:
    """Only videos that the standard folds have are used; what is missing is counted."""
    (raw / "folds.json").unlink()
    said = (
        "not one utterance could be prepared; refused are\n  -first: is in no fold of the standard ones; --folds FILE"
    )
    with pytest.raises(DataError, match=said):
        prepare(raw)
    write_csd(raw / "CMU_MOSEI_Labels.csd", "All Labels", {"hh04W3xXa5s": (np.ones((2, 7)), [[0, 1], [1, 2]])})
    words = np.array([[b"one"], [b"two"]])
    write_csd(raw / "CMU_MOSEI_TimestampedWords.csd", "words", {"hh04W3xXa5s": (words, [[0, 1], [1, 2]])})
    for path, root in (("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2"), ("deep/CMU_MOSEI_COVAREP.csd", "COVAREP")):
        write_csd(raw / path, root, {"hh04W3xXa5s": frames(2, 2, 2, 0)})
    report = prepare(raw)
    assert Prepared.open(report.path).parameters["folds"] == "standard"
    lines = list(report.lines())
    assert "  train: 2 utterances of 1 video; 16322 of 2249 are expected" in lines
    assert "  test: the files have 4659 labelled utterances fewer than are expected" in lines


def test_long_utterances_are_cut_at_their_end(raw: Path) -> None:
    report = prepare(raw, Settings(text="words", steps=2))
    facts = entries(report)["second.0"].facts
    assert (facts["words"], facts["cut"], facts["sentence"]) == (["it", "is"], 1, "it is fine")
    assert len(array(report, "second.0", "audio")) == 2
    assert report.cut == 1


def test_the_published_alignment_has_the_last_frames_behind_zeros(raw: Path, encoder: type[Encoder]) -> None:
    report = prepare(raw, Settings(alignment="published", steps=5, text_model="some/bert"))
    found = entries(report)
    # 4 s to 5.5 s: a pause, which the released code takes for a word; 3 frames of video, and 6 of audio
    assert {"-first.2", "-first.1"} <= set(found)
    assert found["-first.2"].facts["sentence"] == "sp"
    assert found["-first.2"].facts["words"] == []
    assert array(report, "-first.2", "video") == [[0, 0, 0], [0, 0, 0], *([x, -x, -x] for x in (108, 109, 110))]
    assert [row[0] for row in array(report, "-first.2", "audio")] == [17, 18, 19, 20, 21]
    assert array(report, "-first.0", "text") == [[len("Oh sp")] * 2] * 5
    assert Prepared.open(report.path).parameters["text"]["model"] == "some/bert"


def test_text_features_are_encoded_once_whatever_the_other_settings(raw: Path, encoder: type[Encoder]) -> None:
    report = prepare(raw, Settings(text_model="bert", batch_size=2))
    assert array(report, "-first.1", "text") == [[4, 7], [4, 7]]
    assert sum(map(len, encoder.calls)) == 5
    assert max(map(len, encoder.calls)) == 2
    encoder.calls = []
    prepare(raw, Settings(text_model="bert", steps=40))
    assert encoder.calls == []
    prepare(raw, Settings(text_model="other"))
    assert sum(map(len, encoder.calls)) == 5
    with pytest.raises(DataError, match="holds 3 versions"):  # and the vectors are none
        Prepared.open(raw.parent / "out")


def test_a_stopped_preparation_goes_on_and_other_files_are_prepared_anew(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raw, told=stop)
    report = prepare(raw)
    assert (report.prepared, report.already) == (3, 2)
    again = prepare(raw)
    assert (again.prepared, again.already) == (0, 5)
    assert again.values == report.values
    shutil.copy(raw / "deep" / "CMU_MOSEI_COVAREP.csd", raw / "new.csd")  # another time of change, the same content
    (raw / "new.csd").replace(raw / "deep" / "CMU_MOSEI_COVAREP.csd")
    before = Prepared.open(report.path).fingerprint
    renewed = prepare(raw)
    assert (renewed.prepared, renewed.already) == (5, 0)
    assert Prepared.open(report.path).fingerprint == before


def test_strict_makes_a_refusal_an_error(raw: Path) -> None:
    with pytest.raises(DataError, match=r"3 of the utterances and videos are refused, so the index is not written"):
        prepare(raw, strict=True)


def test_given_text_features_are_those_of_the_words(raw: Path) -> None:
    vectors = {
        video: (np.arange(len(said) * 2.0).reshape(-1, 2), [[s, e] for _, s, e in said])
        for video, said in SPEECH.items()
    }
    write_csd(raw / "CMU_MOSEI_TimestampedWordVectors.csd", "glove_vectors", vectors)
    write_csd(raw / "CMU_MOSEI_VisualOpenFace2.csd", "OpenFace_2", {name: frames(2, 7, 9, 0) for name in SPEECH})
    report = prepare(raw, Settings())
    assert Prepared.open(report.path).parameters["text"] == "given"
    assert array(report, "-first.1", "text") == [[4, 5], [6, 7]]
    assert "  set aside: OpenFace_2 (CMU_MOSEI_VisualOpenFace2.csd)" in report.lines()
    assert "text" not in entries(prepare(raw, Settings(text="none")))["-first.1"].shapes


def test_transcripts_give_the_sentences(raw: Path) -> None:
    lines = ["-first___0___0.1___2.0___Oh, well.", "-first___1___2.0___4.1___Good film!"]
    (raw / "-first.txt").write_text("\n".join(lines))
    report = prepare(raw)
    found = entries(report)
    assert found["-first.0"].facts["sentence"] == "Oh, well."
    assert found["-first.1"].facts["sentence"] == "Good film!"
    assert found["-first.1"].facts["words"] == ["good", "film"]
    assert found["-first.3"].facts["sentence"] == "bad"
    assert any("transcripts: of 1 video, for the sentences" in line for line in report.lines())


def test_a_broken_video_is_refused_and_the_others_go_on(raw: Path) -> None:
    with h5py.File(raw / "deep" / "CMU_MOSEI_COVAREP.csd", "r+") as file:
        del file["COVAREP/data/second/intervals"]
    with h5py.File(raw / "CMU_MOSEI_Labels.csd", "r+") as file:
        file["All Labels/data/third/intervals"][0] = [4.0, 0.0]
        file["All Labels/data/-first/features"][3, 0] = np.nan
    report = prepare(raw)
    said = reasons(report)
    assert "video 'second': has no 'intervals'" in said["second.0"]
    assert str(raw) not in said["second.0"]
    assert said["third.0"] == "its label goes from 4 s to 0 s; its end has to come after its start"
    assert said["-first.3"] == "its sentiment is no number"
    assert list(entries(report)) == ["-first.0", "-first.1"]


def test_labels_without_times_are_a_video_without_utterances(raw: Path) -> None:
    with h5py.File(raw / "CMU_MOSEI_Labels.csd", "r+") as file:
        del file["All Labels/data/third/intervals"]
    report = prepare(raw)
    assert "has no 'intervals'" in reasons(report)["third"]
    assert "  test: 1 video refused whose labels cannot be read" in report.lines()


def test_files_of_another_set_in_the_folder_are_set_aside(raw: Path) -> None:
    write_csd(raw / "CMU_MOSI_COVAREP.csd", "COVAREP", {"other": frames(4, 7, 2, 0)})
    report = prepare(raw)
    assert report.prepared == 5
    assert report.set_aside["computational sequences"] == 1


def write_vectors(path: Path, numbers: dict[str, list[str]], targets: dict[str, float]) -> None:
    arrays: dict[str, Any] = {}
    for part, names in numbers.items():
        base = np.array([[float(sum(map(ord, name)))] for name in names])
        arrays |= {f"text_{part}": base + 0.5, f"audio_{part}": np.tile(base, 2), f"video_{part}": np.tile(-base, 3)}
        arrays |= {f"y_{part}": [targets[name] for name in names], f"id_{part}": names, f"sentence_{part}": names}
    np.savez(path, **arrays)


TARGETS = {"-first_1": 1.52, "-first_2": -0.5, "-first_3": 0.0, "-first_4": 1.0, "second_1": 2.0, "third_1": -1.0}


def test_vectors_alone_are_sequences_of_one_step_in_the_parts_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    write_vectors(
        path, {"train": ["-first_1", "-first_10", "-first_2"], "test": ["third_1"]}, TARGETS | {"-first_10": 3}
    )
    report = prepare_sentiment("mosi", path, tmp_path / "out", Settings())
    prepared = Prepared.open(report.path)
    assert (prepared.parameters["text"], prepared.parameters["alignment"], prepared.parameters["folds"]) == (
        "given", "utterance", "given",
    )  # fmt: skip
    assert [(e.id, e.facts["part"], e.facts["target"]) for e in prepared.entries] == [
        ("-first.0", "train", 1.52), ("-first.1", "train", -0.5), ("-first.2", "train", 3.0), ("third.0", "test", -1.0),
    ]  # fmt: skip
    assert prepared.entries[0].shapes == {
        "audio": (1, 2),
        "text": (1, 1),
        "video": (1, 3),
    }
    assert torch.equal(prepared.read(0, "video"), torch.full((1, 3), -float(sum(map(ord, "-first_1")))))
    assert report.expected == {}
    write_vectors(path, {"train": ["-first_1"], "test": ["-first_2"]}, TARGETS)
    with pytest.raises(DataError, match=r"1 video is in two parts, the first -first in train and test"):
        prepare_sentiment("mosi", path, tmp_path / "out", Settings())


def test_vectors_beside_words_are_repeated_at_every_word(raw: Path) -> None:
    (raw / "CMU_MOSEI_VisualFacet42.csd").unlink()
    (raw / "deep" / "CMU_MOSEI_COVAREP.csd").unlink()
    write_vectors(raw / "vectors.npz", {"train": list(TARGETS)[:4], "test": list(TARGETS)[4:]}, TARGETS)
    report = prepare(raw)
    value = float(sum(map(ord, "-first_1")))  # the first row of the labels, which is the second in time
    assert array(report, "-first.1", "audio") == [[value, value]] * 2
    assert array(report, "-first.1", "video") == [[-value] * 3] * 2
    said = reasons(report)
    assert said["-first.3"] == "its sentiment is -3 in the labels and 1 beside its vectors"
    assert said["thin.0"] == "has no vectors"
    parameters = Prepared.open(report.path).parameters
    assert parameters["features"]["audio"] == "2 values an utterance, repeated at every word"
    assert any(
        "vectors.npz has one vector an utterance, which is repeated at every word" in line for line in report.lines()
    )
    with pytest.raises(DataError, match="they were fitted on the training part that the file shipped with"):
        prepare(raw, Settings(text="given"))
    with pytest.raises(DataError, match="has vectors of whole utterances; --alignment published needs the frames"):
        prepare(raw, Settings(alignment="published", text="none"))


def test_aligned_pickles_keep_their_parts_and_steps(tmp_path: Path) -> None:
    import pickle

    folder = tmp_path / "misa"
    folder.mkdir()
    for part, video in (("train", "a"), ("dev", "b"), ("test", "c")):
        words = ["one", "two", "three"]
        visual, acoustic = np.arange(12.0).reshape(3, 4), np.full((3, 2), np.inf)
        item = ((np.arange(3), visual, acoustic, words), np.array([[0.5]]), f"{video}[2]")
        (folder / f"{part}.pkl").write_bytes(pickle.dumps([item]))
    report = prepare_sentiment("mosei", folder, tmp_path / "out", Settings(text="words", steps=2))
    facts = {entry.id: entry.facts for entry in Prepared.open(report.path).entries}
    assert {id: one["part"] for id, one in facts.items()} == {"a.0": "train", "b.0": "validation", "c.0": "test"}
    assert (facts["a.0"]["words"], facts["a.0"]["cut"], facts["a.0"]["infinite"]) == (
        ["one", "two"],
        1,
        {"audio": {"0": 2, "1": 2}},
    )
    assert array(report, "a.0", "video") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(DataError, match="came aligned by word; --alignment published needs frames"):
        prepare_sentiment("mosei", folder, tmp_path / "out", Settings(alignment="published", text="none"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps is 0; a whole number from 1 is needed"),
        ({"alignment": "frame"}, "alignment is 'frame'; 'word' or 'published' is needed"),
        ({"text": "bert"}, "text is 'bert'; 'words' or 'given' or 'none' is needed"),
        ({"text": "words", "text_model": "x"}, "--text words and --text-model x exclude each other"),
        ({"text": "words", "alignment": "published"}, "--text words does not go with --alignment published"),
    ],
)
def test_wrong_settings_are_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        Settings(**settings)


def test_what_is_missing_is_said(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"what is the text to be\? choose --text-model NAME .* --text words"):
        prepare(raw, Settings())
    with pytest.raises(DataError, match=r"has no text features for --text given: choose"):
        prepare(raw, Settings(text="given"))
    (raw / "deep" / "CMU_MOSEI_COVAREP.csd").unlink()
    with pytest.raises(DataError, match=r"holds no audio features of CMU-MOSEI; .* named by covarep or opensmile"):
        prepare(raw)
    (raw / "CMU_MOSEI_TimestampedWords.csd").unlink()
    with pytest.raises(DataError, match=r"holds no words of CMU-MOSEI; put the .csd file of words there"):
        prepare(raw)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds nothing that is known of CMU-MOSEI: .csd files of labels"):
        prepare(tmp_path / "empty")
    with pytest.raises(DataError, match="gone does not exist; give the folder with the files of CMU-MOSEI"):
        prepare(tmp_path / "gone")


def test_two_forms_or_two_files_of_one_name_are_not_chosen_from(raw: Path) -> None:
    shutil.copy(raw / "CMU_MOSEI_VisualFacet42.csd", raw / "copy_CMU_MOSEI_VisualFacet42.csd")
    with pytest.raises(DataError, match="are both video of CMU-MOSEI by their names: leave one of them there"):
        prepare(raw)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")
def test_cmu_mosi_itself_is_whole_but_for_two_utterances(tmp_path: Path) -> None:
    folder = tmp_path / "mosi"
    folder.mkdir()
    names = ("CMU_MOSI_Opinion_Labels.csd", "CMU_MOSI_ModifiedTimestampedWords.csd", "mosi_utterance_trimodal.npz")
    for name in names:
        (folder / name).symlink_to(Path(str(SHARED)).resolve() / "cmu_mosi" / name)
    shipped = prepare_sentiment("mosi", folder, tmp_path / "out", WORDS_ONLY)
    # the parts of the vectors, whose video and text were fitted on their training part
    assert shipped.utterances == {"train": 1446, "test": 751}
    assert "resplit" not in Prepared.open(shipped.path).parameters
    report = prepare_sentiment("mosi", folder, tmp_path / "standard", WORDS_ONLY, folds=Path("standard"))
    assert report.utterances == {"train": 1282, "validation": 229, "test": 686}
    assert Prepared.open(report.path).parameters["resplit"] is True
    assert any(line.startswith("  VECTORS RE-SPLIT: ") for line in report.lines())
    assert sorted(one.name for one in report.refused) == ["2WGyTLYerpo.43", "VCslbP0mgZI.0"]
    facts = entries(report)["03bSnISJMiM.0"].facts
    # as its transcript has it; the words of the file stand one row behind their times
    assert facts["words"] == ["anyhow", "it", "was", "really", "good"]


def test_a_sentiment_out_of_its_range_is_refused(raw: Path) -> None:
    with h5py.File(raw / "CMU_MOSEI_Labels.csd", "r+") as file:
        file["All Labels/data/-first/features"][1, 0] = 30
    assert reasons(prepare(raw))["-first.0"] == "its sentiment is 30; -3 to 3 is needed"


def test_a_part_without_an_utterance_is_said(raw: Path) -> None:
    folds = {"train": ["NOBODY"], "validation": ["second"], "test": ["-first", "third"]}
    (raw / "folds.json").write_text(json.dumps(folds))
    lines = list(prepare(raw).lines())
    assert "  train: not one utterance, and a comparison needs some: do the folds name these videos?" in lines


def test_published_text_is_the_words_whatever_the_transcripts_say(raw: Path, encoder: type[Encoder]) -> None:
    """Pauses are among them; other transcripts give the same version."""
    (raw / "-first.txt").write_text("-first___0___0.1___2.0___Oh, well.")
    report = prepare(raw, Settings(alignment="published", text_model="some"))
    assert entries(report)["-first.0"].facts["sentence"] == "Oh sp"
    assert not any("transcripts" in line for line in report.lines())


def test_an_earlier_index_does_not_outlive_files_that_changed(raw: Path) -> None:
    """A run that comes to nothing leaves no index of what the files had before."""
    report = prepare(raw)
    with h5py.File(raw / "CMU_MOSEI_Labels.csd", "r+") as file:
        for video in LABELS:
            file[f"All Labels/data/{video}/features"][:, 0] = 9
    with pytest.raises(DataError, match="not one utterance could be prepared"):
        prepare(raw)
    with pytest.raises(DataError, match="run the preparation again"):
        Prepared.open(report.path)


def test_a_bad_transcript_costs_its_sentences_alone(raw: Path) -> None:
    (raw / "-first.txt").write_text("-first___0___0.1___2.0___Oh, well.\n-first___1___\n")
    report = prepare(raw)
    assert entries(report)["-first.0"].facts["sentence"] == "oh"
    assert any("-first.txt" in line for line in report.lines())


def test_pickles_are_known_by_their_content_and_told_apart_by_their_changes(tmp_path: Path) -> None:
    """Whatever the case of their suffix; utterances of a video in order of time, not of text."""
    import pickle

    folder = tmp_path / "mult"
    folder.mkdir()

    def write(value: float) -> None:
        parts = {}
        for part, video in (("train", "a"), ("valid", "b"), ("test", "c")):
            ids = np.array([[video, start, end] for start, end in (("12.3", "14.0"), ("12.25", "12.3"))])
            x = np.full((2, 4, 3), value)
            labels = np.array([2.0, 1.0]).reshape(2, 1, 1)
            parts[part] = {"vision": x, "audio": x, "text": x, "labels": labels, "id": ids}
        (folder / "MOSEI.PKL").write_bytes(pickle.dumps(parts))

    write(1.0)
    first = prepare_sentiment("mosei", folder, tmp_path / "out", Settings(text="given"))
    found = entries(first)
    assert (found["a.0"].facts["target"], found["a.1"].facts["target"]) == (1.0, 2.0)
    write(7.0)
    second = prepare_sentiment("mosei", folder, tmp_path / "out", Settings(text="given"))
    assert (second.prepared, second.already) == (6, 0)
    assert array(second, "a.0", "audio")[0] == [7, 7, 7]
