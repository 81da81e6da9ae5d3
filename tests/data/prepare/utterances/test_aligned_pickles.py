"""Protects reading published aligned pickles: steps stay together, padding goes, and what does not fit is named."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from torchmsaf.data.prepare.utterances.aligned_pickles import Aligned, is_aligned, read_aligned
from torchmsaf.errors import DataError

RNG = np.random.default_rng(0)
STEPS = 7
LENGTHS = {"train": [3, 7, 1], "valid": [2], "test": [4, 5]}
Content = dict[str, dict[str, Any]]


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def steps(lengths: list[int], width: int, side: str) -> NDArray[np.float32]:
    """Random values that are never zero, with zeros before or after them."""
    padded = np.zeros((len(lengths), STEPS, width), np.float32)
    for row, length in enumerate(lengths):
        real = slice(STEPS - length, STEPS) if side == "left" else slice(0, length)
        padded[row, real] = RNG.uniform(0.5, 1, (length, width))
    return padded


def mult(name_rows: str = "times") -> Content:
    """As MulT's files: padding on the left, labels (n, 1, 1)."""
    content: Content = {}
    for part, lengths in LENGTHS.items():
        names = [f"{part}-vid-{row}x" for row in range(len(lengths))]
        ids = {
            "times": np.array([[name, f"{row}.5", f"{row + 1}"] for row, name in enumerate(names)]),
            "bytes": np.array([[name.encode(), b"0.25", b"1.5"] for name in names]),
            "one": np.array([[f"{name}_{row}"] for row, name in enumerate(names)], object),
        }[name_rows]
        content[part] = {
            "vision": steps(lengths, 5, "left").astype(np.float64),
            "audio": steps(lengths, 3, "left"),
            "text": steps(lengths, 4, "left"),
            "labels": RNG.uniform(-3, 3, (len(lengths), 1, 1)).astype(np.float32),
            "id": ids,
        }
    return content


def mmsa() -> Content:
    """As MMSA's files: word-pieces between [CLS] and [SEP], padding on the right; BERT's text is nowhere zero."""
    content: Content = {}
    for part, lengths in LENGTHS.items():
        n = len(lengths)
        mask = (np.arange(STEPS) < np.array(lengths)[:, None]).astype(np.float32)
        vision, audio = steps(lengths, 5, "right"), steps(lengths, 3, "right")
        for row, length in enumerate(lengths):
            vision[row, [0, length - 1]] = audio[row, [0, length - 1]] = 0
        content[part] = {
            "raw_text": np.array([f"{part.upper()} sentence {row}" for row in range(n)]),
            "audio": audio,
            "vision": vision,
            "id": [f"{part}_{row // 2}$_${10 - row}" for row in range(n)],
            "text": RNG.uniform(0.5, 1, (n, STEPS, 4)).astype(np.float32),
            "text_bert": np.stack([mask * 101, mask, np.zeros_like(mask)], axis=1),
            "annotations": ["Neutral"] * n,
            "classification_labels": np.ones(n),
            "regression_labels": RNG.uniform(-3, 3, n),
        }
    return content


def misa(folder: Path, segments: bool = True) -> dict[str, list[Any]]:
    """As MISA's three files: lists, no padding."""
    written = {}
    for name, part in (("train", "train"), ("dev", "valid"), ("test", "test")):
        items: list[Any] = []
        for row, length in enumerate(LENGTHS[part]):
            vectors = RNG.normal(size=(length, 5)), RNG.normal(size=(length, 3))
            words = [f"Word{step}" for step in range(length)]
            item = (np.arange(length), *vectors, words), np.array([[row - 1.5]], np.float32), f"-{part}vid[{10 - row}]"
            items.append(item if segments else item[:2])
        write(folder / f"{name}.pkl", items)
        written[part] = items
    return written


def by_name(utterances: list[Aligned]) -> dict[str, Aligned]:
    return {f"{one.video}[{one.segment}]": one for one in utterances}


def test_mult_left_padding_is_cut_off_and_steps_stay_together(tmp_path: Path) -> None:
    content = mult()
    utterances, refused = read_aligned(write(tmp_path / "mosei_senti_data.pkl", content))
    assert not refused
    parts = {"train": "train", "valid": "validation", "test": "test"}
    wanted = [(part, row) for part, lengths in LENGTHS.items() for row in range(len(lengths))]
    assert len(utterances) == len(wanted)
    for one, (part, row) in zip(utterances, wanted, strict=True):
        first = STEPS - LENGTHS[part][row]
        assert (one.video, one.segment, one.part) == (f"{part}-vid-{row}x", f"{row}.5-{row + 1}", parts[part])
        assert one.target == content[part]["labels"][row, 0, 0]
        assert (one.words, one.sentence) == ((), "")
        assert list(one.arrays) == ["video", "audio", "text"]
        for name, key in (("video", "vision"), ("audio", "audio"), ("text", "text")):
            np.testing.assert_array_equal(one.arrays[name], content[part][key][row, first:])


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_names_as_bytes_or_in_one_are_read(tmp_path: Path, protocol: int) -> None:
    utterances, _ = read_aligned(write(tmp_path / "mosi_data.pkl", mult("bytes"), protocol))
    assert {(one.video, one.segment) for one in utterances[:2]} == {
        ("train-vid-0x", "0.25-1.5"),
        ("train-vid-1x", "0.25-1.5"),
    }
    utterances, _ = read_aligned(write(tmp_path / "mosi_data.pkl", mult("one"), protocol))
    assert [(one.video, one.segment) for one in utterances[:2]] == [("train-vid-0x", "0"), ("train-vid-1x", "1")]


def test_a_step_that_one_modality_lacks_is_kept_for_all(tmp_path: Path) -> None:
    content = mult()
    content["train"]["audio"][0] = 0  # nothing overlapped
    content["train"]["vision"][0, -2] = 0
    content["train"]["text"][1, 0] = 0  # the first step has sound and picture alone
    content["train"]["audio"][2, -1] = -np.inf
    found = by_name(read_aligned(write(tmp_path / "x.pkl", content))[0])
    assert {name: array.shape for name, array in found["train-vid-0x[0.5-1]"].arrays.items()} == {
        "video": (3, 5), "audio": (3, 3), "text": (3, 4)
    }  # fmt: skip
    assert len(found["train-vid-1x[1.5-2]"].arrays["text"]) == 7
    assert np.isneginf(found["train-vid-2x[2.5-3]"].arrays["audio"]).all()


def test_the_text_of_mmsa_ends_where_its_mask_does(tmp_path: Path) -> None:
    content = mmsa()
    utterances, refused = read_aligned(write(tmp_path / "aligned_50.pkl", content))
    assert not refused
    found = by_name(utterances)
    for part, lengths in LENGTHS.items():
        for row, length in enumerate(lengths):
            one = found[f"{part}_{row // 2}[{10 - row}]"]
            assert one.target == content[part]["regression_labels"][row]
            assert one.sentence == f"{part.upper()} sentence {row}"
            assert one.words == ()
            for name, key in (("video", "vision"), ("audio", "audio"), ("text", "text")):
                np.testing.assert_array_equal(one.arrays[name], content[part][key][row, :length])
    assert [(one.video, one.segment) for one in utterances[:3]] == [
        ("train_0", "9"),
        ("train_0", "10"),
        ("train_1", "8"),
    ]


def test_text_of_mmsa_without_a_mask_is_refused(tmp_path: Path) -> None:
    content = mmsa()
    content["train"]["text_bert"][0, 1, 0] = 2
    content["test"]["text_bert"] = content["test"]["text_bert"][:, :2]
    _, refused = read_aligned(write(tmp_path / "x.pkl", content))
    why = "its text_bert has no mask of 7 steps in its second row"
    assert refused == [("train_0[10]", why), ("test_0[10]", why), ("test_0[9]", why)]


def test_misa_is_not_cut_and_has_a_word_a_step(tmp_path: Path) -> None:
    written = misa(tmp_path)
    written["train"][2][0][1][:] = 0  # one word, normalized: zeros
    write(tmp_path / "train.pkl", written["train"])
    utterances, refused = read_aligned(tmp_path)
    assert not refused
    assert [one.part for one in utterances] == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert [one.segment for one in utterances[:3]] == ["8", "9", "10"]
    found = by_name(utterances)
    for part, items in written.items():
        for row, ((_, video, audio, words), label, _) in enumerate(items):
            one = found[f"-{part}vid[{10 - row}]"]
            np.testing.assert_array_equal(one.arrays["video"], video)
            np.testing.assert_array_equal(one.arrays["audio"], audio)
            assert list(one.arrays) == ["video", "audio"]
            assert one.words == tuple(word.lower() for word in words)
            assert one.sentence == " ".join(words)
            assert one.target == label[0, 0]


def test_without_names_each_utterance_is_a_video_of_its_own(tmp_path: Path) -> None:
    misa(tmp_path, segments=False)
    utterances, _ = read_aligned(tmp_path)
    assert [(one.video, one.segment) for one in utterances[:4]] == [
        ("train_0", "0"), ("train_1", "0"), ("train_2", "0"), ("validation_0", "0")
    ]  # fmt: skip
    content = mult()
    del content["valid"]["id"]
    assert read_aligned(write(tmp_path / "x" / "x.pkl", content))[0][3].video == "validation_0"


def test_utterances_that_name_their_video_alone_are_numbered(tmp_path: Path) -> None:
    content = mult()
    content["train"]["id"] = ["zhpQhgha_KU", "zhpQhgha_KU", "0h-zjBukYpk"]
    utterances, refused = read_aligned(write(tmp_path / "x.pkl", content))
    assert [(one.video, one.segment) for one in utterances[:3]] == [
        ("zhpQhgha_KU", "0"), ("zhpQhgha_KU", "1"), ("0h-zjBukYpk", "0")
    ]  # fmt: skip
    assert not refused


def test_utterances_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    written = misa(tmp_path)
    (numbers, video, audio, words), label, name = written["train"][0]
    bad = {
        "v[0]": ((numbers, video[:2], audio, words), label),
        "v[1]": ((numbers, video, audio, words[:2]), label),
        "v[2]": ((numbers, video, audio, [1, 2, 3]), label),
        "v[3]": ((numbers, video, audio, words), np.array([[np.nan]])),
        "v[4]": ((numbers, video, audio, words), np.ones((1, 3))),
        "v[5]": ((numbers, video, audio, words), "good"),
        "v[6]": ((numbers, [[1.0]] * 3, audio, words), label),
        "v[7]": ((numbers, video.astype(str), audio, words), label),
        "v[8]": ((numbers[:0], video[:0], audio[:0], []), label),
        "v[9]": ((numbers, video, audio, words), [10**400]),
        "v[10]": ((numbers, video, audio, words), 10**400),
        name: ((numbers, video, audio, words), label),
    }
    items = [written["train"][0], *((*parts, key) for key, parts in bad.items())]
    write(tmp_path / "train.pkl", items)
    utterances, refused = read_aligned(tmp_path)
    assert len(utterances) == 1 + 1 + 2
    reasons = dict(refused)
    assert list(reasons) == list(bad)
    assert reasons["v[0]"] == "its modalities differ in steps: video 2, audio 3; aligned ones are needed"
    assert reasons["v[1]"] == reasons["v[2]"] == "has not one word for each of its 3 steps"
    assert reasons["v[3]"] == "its label is nan"
    assert reasons["v[4]"] == reasons["v[5]"] == reasons["v[9]"] == reasons["v[10]"] == "its label is no number"
    assert reasons["v[6]"] == "its video is list; numbers of shape (steps, features) are needed"
    assert reasons["v[7]"].startswith("its video is <U")
    assert reasons["v[8]"] == "has no step"
    assert reasons[name] == "is there more than once; the first is taken"


def test_padding_alone_and_other_steps_are_refused(tmp_path: Path) -> None:
    content = mult()
    for key in ("vision", "audio", "text"):
        content["train"][key][1] = 0
    content["test"]["audio"] = np.ones((2, STEPS + 1, 3))
    _, refused = read_aligned(write(tmp_path / "x.pkl", content))
    assert refused[0] == ("train-vid-1x[1.5-2]", "has no step: all its modalities are zeros")
    assert refused[1][1] == "its modalities differ in steps: video 7, audio 8, text 7; aligned ones are needed"
    assert len(refused) == 3


def test_the_first_of_seven_labels_is_the_sentiment(tmp_path: Path) -> None:
    content = mult()
    content["train"]["labels"] = np.arange(21.0).reshape(3, 1, 7)
    assert [one.target for one in read_aligned(write(tmp_path / "x.pkl", content))[0][:3]] == [0.0, 7.0, 14.0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "holds no aligned utterances but a list; needed is a file with train, valid and test"),
        ({}, "holds no aligned utterances but a dict"),
        ({"train": 1}, "holds no aligned utterances but a dict"),
        ({"all": {}}, "has the part 'all'; train, valid,"),
        ({"train": {"audio": [], "x": 1}}, "part train has no vision and no labels; its keys are audio, x;"),
        ({"train": {"vision": 1, "audio": [], "labels": []}}, "vision not a list, audio 0, labels 0"),
        ({"train": {"vision": [1], "audio": [], "labels": []}}, "the numbers of utterances differ: vision 1, audio 0"),
        ({"train": {"vision": [1], "audio": [1], "labels": [1], "id": []}}, "id 0; get the file again"),
    ],
)
def test_files_of_another_layout_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = write(tmp_path / "x.pkl", content)
    with pytest.raises(DataError, match=re.escape(words)):
        read_aligned(path)


def test_other_items_than_misas_are_refused(tmp_path: Path) -> None:
    misa(tmp_path)
    write(tmp_path / "dev.pkl", [(1, 2, 3)])
    with pytest.raises(
        DataError, match=r"dev.pkl: item 0 is no \(\(numbers, visual, acoustic, words\), label, segment\)"
    ):
        read_aligned(tmp_path)


@pytest.mark.parametrize("protocol", range(6))
def test_files_are_recognised_by_their_start(tmp_path: Path, protocol: int) -> None:
    for number, content in enumerate((mult(), mmsa(), {part: {"id": [1]} for part in LENGTHS})):
        assert is_aligned(write(tmp_path / f"{number}" / "x.pkl", content, protocol))
        assert is_aligned(tmp_path / f"{number}")
    folds = {"train": list(range(3000)), "dev": [1], "test": [2]}
    assert not is_aligned(write(tmp_path / "folds" / "data_folds.pkl", folds, protocol))
    assert not is_aligned(write(tmp_path / "folds" / "word_list.pkl", ["the", "a"], protocol))
    assert not is_aligned(tmp_path / "folds")
    assert not is_aligned(tmp_path / "nowhere")


def test_three_files_of_parts_make_a_set_and_fewer_do_not(tmp_path: Path) -> None:
    misa(tmp_path / "MOSEI")
    assert is_aligned(tmp_path)
    assert len(read_aligned(tmp_path)[0]) == 6
    assert len(read_aligned(tmp_path / "MOSEI" / "dev.pkl")[0]) == 1
    (tmp_path / "MOSEI" / "dev.pkl").unlink()
    assert not is_aligned(tmp_path)
    with pytest.raises(DataError, match="has no aligned pickles; needed is a file with train"):
        read_aligned(tmp_path)


def test_files_that_are_not_aligned_are_passed_over_and_two_sets_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "Processed" / "aligned_50.pkl", mmsa())
    unaligned = mmsa()
    for columns in unaligned.values():
        columns["audio"] = np.ones((len(columns["audio"]), 20, 3))
    write(tmp_path / "Processed" / "unaligned_50.pkl", unaligned)
    write(tmp_path / ".hidden" / "x.pkl", mult())
    assert read_aligned(tmp_path)[1] == []
    assert len(read_aligned(tmp_path / "Processed" / "unaligned_50.pkl")[1]) == 6
    write(tmp_path / "mosei_senti_data.pkl", mult())
    with pytest.raises(DataError, match=r"several sets of aligned pickles: .*; give the one that is meant"):
        read_aligned(tmp_path)


def test_what_is_more_than_data_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"(dVtrain\n(dVvision\ncos\nsystem\n(Vtouch ran\ntRss.")
    assert is_aligned(path)
    with pytest.raises(DataError, match=r"x\.pkl is refused: it asks for os\.system"):
        read_aligned(path)
