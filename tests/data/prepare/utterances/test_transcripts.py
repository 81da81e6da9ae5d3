"""Protects reading transcripts: every utterance has its sentence and its time, and broken lines are named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from torchmsaf.data.prepare.utterances.transcripts import Sentence, read_transcripts
from torchmsaf.errors import DataError

MOSEI = (
    "-3g5yACwYnA___10___82.7645___100.555___Key is part of the people that we use to solve those issues.\n"
    "-3g5yACwYnA___3___13.6550___20.8338___ It's a _very_ good___film (umm)  \n\n"
)
MOSI = "1_DELIM_A LOT OF SAD PARTS\n10_DELIM_I_DELIM_THINK\n2_DELIM_(umm)\n"


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def used(raw: Path) -> dict[str, list[Sentence]]:
    sentences, problems = read_transcripts(raw)
    assert problems == []
    return sentences


def test_mosei_has_sentences_with_times_in_their_order(tmp_path: Path) -> None:
    put(tmp_path / "Transcript" / "Segmented" / "Combined" / "-3g5yACwYnA.txt", MOSEI)
    put(tmp_path / "Transcript" / "Full" / "-3g5yACwYnA.txt", "Key is part of the people.\n")
    put(tmp_path / "README.txt", "The data set.\n")
    put(tmp_path / "Labels" / "x.csv", "a___1___2___3___b")
    assert used(tmp_path) == {
        "-3g5yACwYnA": [
            Sentence("It's a _very_ good___film (umm)", 13.655, 20.8338, "3"),
            Sentence("Key is part of the people that we use to solve those issues.", 82.7645, 100.555, "10"),
        ]
    }


def test_mosi_has_sentences_by_number(tmp_path: Path) -> None:
    put(tmp_path / "Raw" / "03bSnISJMiM.annotprocessed", MOSI)
    assert used(tmp_path) == {
        "03bSnISJMiM": [
            Sentence("A LOT OF SAD PARTS", None, None, "1"),
            Sentence("(umm)", None, None, "2"),
            Sentence("I_DELIM_THINK", None, None, "10"),
        ]
    }


def test_archives_are_read_without_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "CMU_MOSEI.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Raw/Transcript/Segmented/Combined/-3g5yACwYnA.txt", MOSEI)
    assert len(used(path)["-3g5yACwYnA"]) == 2
    assert used(tmp_path) == used(path)


def test_other_files_and_bytes_do_not_matter(tmp_path: Path) -> None:
    assert used(put(tmp_path / "x.pkl", b"")) == {}
    assert used(tmp_path) == {}
    put(tmp_path / "v.txt", b"\xef\xbb\xbfv___0___0___1.5e1___caf\xc3\xa9\r\nv___1___15___16___caf\xe9\r\n")
    assert [(one.text, one.end) for one in used(tmp_path)["v"]] == [("café", 15.0), ("café", 16.0)]
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_transcripts(tmp_path / "nowhere")


def test_the_same_file_twice_counts_once_and_another_text_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a" / "v.txt", MOSEI)
    put(tmp_path / "b" / "v.txt", MOSEI)
    assert len(used(tmp_path)["-3g5yACwYnA"]) == 2
    put(tmp_path / "c" / "v.txt", MOSEI.replace("Key", "Kay"))
    put(tmp_path / "d" / "w.txt", "w___0___1___2___text\n")
    sentences, problems = read_transcripts(tmp_path)
    assert list(sentences) == ["w"]
    assert problems == [
        "c/v.txt: line 1 says another thing of segment 10 than a/v.txt: line 1; leave one of them out; no sentence of "
        "-3g5yACwYnA is used"
    ]


OTHER = "w___0___1___2___text\n"
FORM = "is not of the form VIDEO___SEGMENT___START___END___TEXT; get the file again or leave it out"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("v.txt", "v___0___1___2___a\nv___0___1___text\n", f"v.txt: line 2 {FORM}; no sentence of v is used"),
        ("v.txt", "v___0___1___2___a\n\nv___0___one___2___b\nc\n", f"v.txt: line 3 {FORM}; no sentence of v is used"),
        (
            "v.txt",
            "v___0___1___2___a\nu___0___1___2___a\nb\n",
            f"v.txt: line 3 {FORM}; no sentence of v and 1 other video",
        ),
        ("v.txt", "v___0___1e999___2___text\n", "v.txt: line 1 has a time that is no number of seconds; get the file"),
        (
            "v.annotprocessed",
            "1_DELIM_a\n2 DELIM b\n",
            "v.annotprocessed: line 2 is not of the form SEGMENT_DELIM_TEXT",
        ),
        (
            "v.annotprocessed",
            "1_DELIM_a\n1_DELIM_b\n",
            "line 2 says another thing of segment 1 than v.annotprocessed: l",
        ),
    ],
)
def test_a_broken_line_leaves_out_its_video_and_no_other(tmp_path: Path, name: str, text: str, words: str) -> None:
    put(tmp_path / name, text)
    put(tmp_path / "w.txt", OTHER)
    sentences, (problem,) = read_transcripts(tmp_path)
    assert words in problem
    assert list(sentences) == ["w"]


def test_a_broken_line_leaves_its_file_s_other_videos_where_it_says_its_own(tmp_path: Path) -> None:
    put(tmp_path / "all.txt", OTHER + "v___0___1___2___text\nv___1___text\n")
    sentences, problems = read_transcripts(tmp_path)
    assert list(sentences) == ["w"]
    assert problems == [f"all.txt: line 3 {FORM}; no sentence of v is used"]


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    put(tmp_path / "w.txt", OTHER)
    put(tmp_path / "broken.zip", b"PK\x03\x04 and no more")
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w") as archive:
        archive.writestr("v.txt", OTHER)
    bytes_ = (tmp_path / "damaged.zip").read_bytes()
    put(tmp_path / "damaged.zip", bytes_.replace(b"text\n", b"tex!\n"))
    sentences, problems = read_transcripts(tmp_path)
    assert list(sentences) == ["w"]
    broken, damaged = problems
    assert broken.startswith("broken.zip: the archive is broken or not completely downloaded")
    assert damaged.startswith("damaged.zip!v.txt: cannot be read: Bad CRC-32")
    sentences, problems = read_transcripts(tmp_path / "broken.zip")
    assert (sentences, len(problems)) == ({}, 1)
    assert problems[0].endswith("broken.zip is no zip archive, or is broken; download it again")
