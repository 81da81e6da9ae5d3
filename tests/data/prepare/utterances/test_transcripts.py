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


def test_mosei_has_sentences_with_times_in_their_order(tmp_path: Path) -> None:
    put(tmp_path / "Transcript" / "Segmented" / "Combined" / "-3g5yACwYnA.txt", MOSEI)
    put(tmp_path / "Transcript" / "Full" / "-3g5yACwYnA.txt", "Key is part of the people.\n")
    put(tmp_path / "README.txt", "The data set.\n")
    put(tmp_path / "Labels" / "x.csv", "a___1___2___3___b")
    assert read_transcripts(tmp_path) == {
        "-3g5yACwYnA": [
            Sentence("It's a _very_ good___film (umm)", 13.655, 20.8338, "3"),
            Sentence("Key is part of the people that we use to solve those issues.", 82.7645, 100.555, "10"),
        ]
    }


def test_mosi_has_sentences_by_number(tmp_path: Path) -> None:
    put(tmp_path / "Raw" / "03bSnISJMiM.annotprocessed", MOSI)
    assert read_transcripts(tmp_path) == {
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
    assert len(read_transcripts(path)["-3g5yACwYnA"]) == 2
    assert read_transcripts(tmp_path) == read_transcripts(path)


def test_other_files_and_bytes_do_not_matter(tmp_path: Path) -> None:
    assert read_transcripts(put(tmp_path / "x.pkl", b"")) == {}
    assert read_transcripts(tmp_path) == {}
    put(tmp_path / "v.txt", b"\xef\xbb\xbfv___0___0___1.5e1___caf\xc3\xa9\r\nv___1___15___16___caf\xe9\r\n")
    assert [(one.text, one.end) for one in read_transcripts(tmp_path)["v"]] == [("café", 15.0), ("café", 16.0)]
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_transcripts(tmp_path / "nowhere")


def test_the_same_file_twice_counts_once_and_another_text_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a" / "v.txt", MOSEI)
    put(tmp_path / "b" / "v.txt", MOSEI)
    assert len(read_transcripts(tmp_path)["-3g5yACwYnA"]) == 2
    put(tmp_path / "c" / "v.txt", MOSEI.replace("Key", "Kay"))
    with pytest.raises(DataError, match=r"c/v.txt and a/v.txt say different things of segment 10 of -3g5yACwYnA"):
        read_transcripts(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "v.txt",
            MOSEI + "v___0___1___text\n",
            r"v.txt: line 4 is not of the form VIDEO___SEGMENT___START___END___TEXT",
        ),
        ("v.txt", MOSEI + "v___0___one___2___text\n", "v.txt: line 4 is not of the form"),
        ("v.txt", "v___0___1e999___2___text\n", "v.txt: line 1 has a time that is no number of seconds"),
        ("v.annotprocessed", "1 DELIM text\n", "v.annotprocessed: line 1 is not of the form SEGMENT_DELIM_TEXT"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    put(tmp_path / name, text)
    with pytest.raises(DataError, match=words):
        read_transcripts(tmp_path)
