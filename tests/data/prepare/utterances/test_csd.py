"""Protects reading computational sequences: names, kinds and rows as in genuine files, errors that name file and video."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from torchmsaf.data.prepare.utterances.csd import ComputationalSequence, Rows, find_sequences
from torchmsaf.errors import DataError

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
needs_shared = pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")

Videos = dict[str, tuple[Any, Any]]


def write(path: Path, root: str, videos: Videos, metadata: dict[str, Any] | None = None, **storage: Any) -> Path:
    """A file as the SDK deploys it; None leaves an array out."""
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        data = file.create_group(root).create_group("data")
        for video, arrays in videos.items():
            group = data.create_group(video)
            for name, values in zip(("features", "intervals"), arrays, strict=True):
                if values is not None:
                    group.create_dataset(name, data=np.asarray(values), **storage)
        if metadata is not None:
            about = file[root].create_group("metadata")
            for name, value in metadata.items():
                about.create_dataset(name, (1,), dtype=text)[0] = value
    return path


def read(path: Path, video: str = "a") -> Rows:
    with ComputationalSequence.open(path) as sequence:
        return sequence.read(video)


def times(rows: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.stack([np.arange(rows), np.arange(rows) + 1.0], axis=1)


def test_features_are_read_as_they_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    values = np.array([[1.5, -np.inf], [np.nan, 2], [3, 4]], np.float32)
    intervals = np.array([[2, 3], [-0.5, 0.25], [1, 1]], np.float32)  # not in time, below 0, a moment
    path = write(tmp_path / "CMU_MOSEI_COVAREP.csd", "COVAREP", {"b": (values, intervals), "a": (values[:1], times(1))})
    with ComputationalSequence.open(path) as sequence:
        assert (sequence.root, sequence.kind, sequence.dimensions) == ("COVAREP", "features", 2)
        assert sequence.videos == ("a", "b")
        assert sequence.metadata == {}
        rows = sequence.read("b")
    assert len(rows) == 3
    assert rows.features.dtype == np.float32
    np.testing.assert_array_equal(rows.features, values)
    assert rows.intervals.dtype == np.float64
    np.testing.assert_array_equal(rows.intervals, intervals)


@pytest.mark.parametrize(
    ("stored", "got"),
    [("<f4", "<f4"), (">f4", "<f4"), (">f8", "<f8"), ("<f2", "<f4"), ("<i4", "<f8"), ("|b1", "<f8")],
)
def test_numbers_of_any_type_become_float32_or_float64_of_this_machine(tmp_path: Path, stored: str, got: str) -> None:
    values = np.array([[0, 1], [1, 1]]).astype(stored)
    rows = read(write(tmp_path / "x.csd", "x", {"a": (values, times(2))}, compression="gzip"))
    assert rows.features.dtype == np.dtype(got)
    assert rows.features.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("dtype", ["S12", h5py.string_dtype(), h5py.string_dtype("utf-8", 12)])
@pytest.mark.parametrize("column", [True, False])
def test_words_are_text_whatever_the_strings_are_stored_as(tmp_path: Path, dtype: Any, column: bool) -> None:
    words = np.array([b"hello", b"sp", b"caf\xc3\xa9"], dtype)
    path = write(tmp_path / "w.csd", "words", {"a": (words[:, None] if column else words, times(3))})
    with ComputationalSequence.open(path) as sequence:
        assert (sequence.kind, sequence.dimensions) == ("words", 1)
        assert sequence.read("a").features.tolist() == ["hello", "sp", "café"]


def test_a_word_that_is_not_utf_8_is_read_as_latin_1(tmp_path: Path) -> None:
    words = np.array([[b"caf\xe9"]], "S4")
    assert read(write(tmp_path / "w.csd", "words", {"a": (words, times(1))})).features.tolist() == ["café"]


@pytest.mark.parametrize(
    ("name", "root", "values", "kind"),
    [
        ("CMU_MOSEI_Labels.csd", "All Labels", [[0.5] * 7], "labels"),
        ("CMU_MOSI_Opinion_Labels.csd", "opinions", [[0.5]], "labels"),
        ("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2", [[0.5] * 35], "features"),
        ("CMU_MOSEI_TimestampedWords.csd", "words", np.array([[b"word"]]), "words"),
        ("CMU_MOSEI_TimestampedWords_labelled.csd", "words", np.array([[b"word"]]), "words"),
        ("CMU_MOSEI_TimestampedPhones.csd", "phones", np.array([[b"AH0"]]), "phones"),
    ],
)
def test_the_kind_comes_from_the_data_and_the_names(
    tmp_path: Path, name: str, root: str, values: Any, kind: str
) -> None:
    sequence = ComputationalSequence.open(write(tmp_path / name, root, {"a": (values, times(1))}))
    assert (sequence.kind, sequence.root) == (kind, root)


def test_quotes_and_blanks_around_the_root_go_and_junk_metadata_is_kept_as_text(tmp_path: Path) -> None:
    metadata = {"root name": json.dumps("All Labels"), "creator": "asdf[", "md5": "null", "uuid": '{"a": 1}'}
    path = write(tmp_path / "x.csd", " 'All Labels' ", {"a": ([[1.0]], times(1))}, metadata)
    with h5py.File(path, "a") as file:
        group = file[" 'All Labels' "]["metadata"]
        group.create_dataset("number", data=1.5)
        group.create_dataset("nothing", data=np.empty((0,)))
        group.create_group("deeper")
    sequence = ComputationalSequence.open(path)
    assert sequence.root == "All Labels"
    expected = {"root name": "All Labels", "creator": "asdf[", "md5": "null", "uuid": '{"a": 1}'}
    with sequence:
        assert sequence.metadata == expected | {"number": "1.5", "nothing": ""}
        assert sequence.read("a").features.tolist() == [[1.0]]


def test_pieces_of_a_video_are_joined_by_number(tmp_path: Path) -> None:
    pieces = {f"a[{n}]": ([[n, n]] * (n % 3 + 1), times(n % 3 + 1) + n) for n in (10, 2, 0)}
    with ComputationalSequence.open(write(tmp_path / "x.csd", "x", {**pieces, "b": ([[1, 1]], times(1))})) as sequence:
        assert sequence.videos == ("a", "b")
        rows = sequence.read("a")
    assert rows.features[:, 0].tolist() == [0, 2, 2, 2, 10, 10]
    assert rows.intervals[:, 0].tolist() == [0, 2, 3, 4, 10, 11]


def test_a_single_row_without_its_axis_is_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csd", "x", {"a": ([1.0, 2.0, 3.0], [0.5, 1.5])})
    sequence = ComputationalSequence.open(path)
    assert sequence.dimensions == 3
    rows = sequence.read("a")
    assert (rows.features.tolist(), rows.intervals.tolist()) == ([[1, 2, 3]], [[0.5, 1.5]])
    sequence.close()
    column = write(tmp_path / "y.csd", "y", {"a": ([1.0, 2.0], times(2))})
    assert read(column).features.tolist() == [[1], [2]]


def test_a_sequence_can_be_closed_used_again_and_pickled(tmp_path: Path) -> None:
    sequence = ComputationalSequence.open(write(tmp_path / "x.csd", "x", {"a": ([[1.0]], times(1))}))
    assert sequence.read("a").features.tolist() == [[1]]
    again = pickle.loads(pickle.dumps(sequence))
    sequence.close()
    sequence.close()
    for one in (sequence, again):
        assert one.read("a").features.tolist() == [[1]]
        one.close()


def test_all_sequences_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("s10.csd", "s2.CSD", "deep/s1.csd", "._s2.csd", ".hidden/s3.csd"):
        write(tmp_path / name, "x", {"a": ([[1.0]], times(1))})
    (tmp_path / "notes.txt").write_text("no csd")
    found = find_sequences(tmp_path)
    assert [one.path.relative_to(tmp_path).as_posix() for one in found] == ["deep/s1.csd", "s2.CSD", "s10.csd"]
    assert [one.path.name for one in find_sequences(tmp_path / "s10.csd")] == ["s10.csd"]
    assert find_sequences(tmp_path / "deep" / "..")[0].kind == "features"


def test_a_folder_without_sequences_gives_none_and_no_folder_an_error(tmp_path: Path) -> None:
    assert find_sequences(tmp_path) == []
    for missing in ("gone", "gone.csd"):
        with pytest.raises(DataError, match=f"{missing} does not exist"):
            find_sequences(tmp_path / missing)


def test_a_sequence_in_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/x.csd", b"anything")
    with pytest.raises(DataError, match=r"all\.zip!in/x\.csd lies in an archive; .*unpack it"):
        find_sequences(tmp_path)


def test_what_is_no_computational_sequence_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.csd"

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=rf"x\.csd.*{message}"):
            ComputationalSequence.open(path)

    path.mkdir()
    refused("is a folder; a .csd file is needed")
    path.rmdir()
    path.write_bytes(b"<html>404 Not Found</html>")
    refused("is no HDF5 file, or is cut off.*download the file again")
    path.write_bytes(b"")
    refused("is no HDF5 file, or is cut off")
    with h5py.File(path, "w"):
        pass
    refused("it has no group with 'data', but nothing; one root group with 'data' is needed")
    with h5py.File(path, "w") as file:
        file.create_dataset("weights", data=np.ones(3))
        file.create_group("empty")
    refused("it has no group with 'data', but the groups 'empty', 'weights'")
    with h5py.File(path, "w") as file:
        for root in "pq":
            file.create_group(f"{root}/data")
    refused("it has 2 groups with 'data'")
    write(path, "x", {})
    refused("is empty: its 'data' has no video")
    write(path, "x", {"a": (None, times(2)), "b": (None, times(1))})
    refused("no 'features' in 2 videos of 2")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csd", "x", {f"v{n}": (np.ones((50, 9)), times(50)) for n in range(20)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x\.csd is no HDF5 file, or is cut off: .*download the file again"):
        ComputationalSequence.open(path)


@pytest.mark.parametrize("array", ["features", "intervals"])
def test_a_video_whose_bytes_are_damaged_is_refused_and_the_others_are_read(tmp_path: Path, array: str) -> None:
    sound = (np.ones((400, 5)), times(400))
    path = write(tmp_path / "x.csd", "x", {"a": sound, "b": sound}, compression="gzip")
    with h5py.File(path) as file:
        place = file[f"x/data/b/{array}"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[place.byte_offset : place.byte_offset + place.size] = b"\xff" * place.size
    path.write_bytes(bytes(data))
    with ComputationalSequence.open(path) as sequence:
        with pytest.raises(DataError, match=r"x\.csd, video 'b': cannot be read: .*download the file again, or leave"):
            sequence.read("b")
        assert len(sequence.read("a")) == 400


BAD: list[tuple[Any, Any, str]] = [
    (None, times(2), "has no 'features'; download the file again, or leave the video out"),
    ([[1.0, 2.0]], None, "has no 'intervals'"),
    ([[1.0, 2.0]] * 3, times(2), "3 rows of features and 2 intervals; each row needs its interval"),
    (np.empty((0, 2)), np.empty((0, 2)), "has no rows"),
    ([[1.0, 2.0, 3.0]], times(1), r"float64 of the shape \(1, 3\); the file has 2 numbers a row"),
    (np.ones((2, 2, 2)), times(2), r"of the shape \(2, 2, 2\); the file has 2 numbers a row"),
    (np.array([[b"a", b"b"]]), times(1), r"the features are \|S1 .*the file has 2 numbers a row"),
    ([[1j, 1j]], times(1), "the features are complex128"),
    ([[1.0, 2.0]], np.ones((1, 3)), r"the intervals are float64 of the shape \(1, 3\); \(rows, 2\) numbers are needed"),
    ([[1.0, 2.0]], np.array([[b"0", b"1"]]), r"the intervals are \|S1"),
    ([[1.0, 2.0]] * 2, [[0, 1], [1, np.nan]], "1 interval of 2 not finite, the first in row 1; seconds are needed"),
    ([[1.0, 2.0]] * 2, [[0, np.inf], [1, np.nan]], "2 intervals of 2 not finite, the first in row 0"),
    (
        [[1.0, 2.0]] * 2,
        [[0, 1], [3, 2.5]],
        "1 interval of 2 end before they start, the first in row 1, from 3 s to 2.5 s",
    ),
]


@pytest.mark.parametrize(("features", "intervals", "message"), BAD)
def test_a_bad_video_is_refused_by_name_and_the_others_are_read(
    tmp_path: Path, features: Any, intervals: Any, message: str
) -> None:
    sound = ([[1.0, 2.0]], times(1))
    path = write(tmp_path / "x.csd", "x", {"sound": sound, "other": sound, "bad": (features, intervals)})
    with ComputationalSequence.open(path) as sequence:
        with pytest.raises(DataError, match=rf"x\.csd, video 'bad': .*{message}"):
            sequence.read("bad")
        assert sequence.read("sound").features.tolist() == [[1, 2]]


def test_the_width_is_that_of_most_videos(tmp_path: Path) -> None:
    videos: Videos = {"a": (np.ones((2, 43)), times(2))} | {f"b{n}": (np.ones((2, 74)), times(2)) for n in range(60)}
    with ComputationalSequence.open(write(tmp_path / "x.csd", "COVAREP", videos)) as sequence:
        assert sequence.dimensions == 74
        with pytest.raises(DataError, match=r"'a': .*\(2, 43\); the file has 74 numbers a row"):
            sequence.read("a")


def test_words_of_several_columns_or_numbers_for_words_are_refused(tmp_path: Path) -> None:
    videos: Videos = {
        "a": (np.array([[b"yes"]]), times(1)),
        "b": (np.array([[b"yes", b"no"]]), times(1)),
        "c": (np.array([[1.0]]), times(1)),
        "d": (np.array([[b"yes"]]), times(1)),
    }
    with ComputationalSequence.open(write(tmp_path / "w.csd", "words", videos)) as sequence:
        for video in "bc":
            with pytest.raises(DataError, match=rf"w\.csd, video '{video}': .*one word a row is needed"):
                sequence.read(video)


def test_a_video_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csd", "x", {"a": ([[1.0]], times(1))})
    with pytest.raises(DataError, match=r"x\.csd has no video 'z'; it has 1 video$"):
        read(path, "z")


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    other = write(tmp_path / "other.csd", "secret", {"a": ([[7.0]], times(1))})
    raw = tmp_path / "raw.bin"
    np.ones(2).tofile(raw)
    path = write(tmp_path / "x.csd", "x", {"sound": ([[1.0]], times(1)), "m": (None, times(1)), "n": (None, times(1))})
    with h5py.File(path, "a") as file:
        data = file["x"]["data"]
        data["outer"] = h5py.ExternalLink("other.csd", "/secret/data/a")
        data["soft"] = h5py.SoftLink("/x/data/sound")
        data["m"].create_dataset("features", (1, 1), "f8", external=[(str(raw), 0, 8)])
        layout = h5py.VirtualLayout((1, 1), "f8")
        layout[:] = h5py.VirtualSource(str(other), "/secret/data/a/features", (1, 1))
        data["n"].create_virtual_dataset("features", layout)
        file["y"] = h5py.ExternalLink("other.csd", "/secret")
    with ComputationalSequence.open(path) as sequence:
        assert sequence.root == "x"
        for video in ("outer", "soft", "m", "n"):
            with pytest.raises(DataError, match=rf"'{video}': .*(is no group|is no array in the file itself)"):
                sequence.read(video)
        assert sequence.read("sound").features.tolist() == [[1]]


def test_an_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csd", "x", {"a": ([[1.0]], times(1)), "b": (None, times(1))})
    with h5py.File(path, "a") as file:
        file["x/data/b"].create_dataset("features", (2**40, 1), "f8", chunks=(1024, 1))
    with pytest.raises(DataError, match=rf"video 'b': 'features' .*{re.escape(str((2**40, 1)))}, more than"):
        read(path, "b")


@needs_shared
def test_the_genuine_cmu_mosi_files_are_read() -> None:
    assert SHARED is not None
    sequences = {one.path.name: one for one in find_sequences(Path(SHARED) / "cmu_mosi")}
    words = sequences["CMU_MOSI_ModifiedTimestampedWords.csd"]
    labels = sequences["CMU_MOSI_Opinion_Labels.csd"]
    assert (words.kind, labels.kind) == ("words", "labels")
    assert (words.root, words.dimensions) == ("CMU_MOSI_ModifiedTimestampedWords", 1)
    assert words.metadata["creator"] == "asdfasdfasdf"
    assert (labels.root, labels.dimensions) == ("Opinion Segment Labels", 1)
    assert words.videos == labels.videos
    assert len(words.videos) == 93
    with words, labels:
        assert sum(len(words.read(video)) for video in words.videos) == 51056
        opinions = [labels.read(video) for video in labels.videos]
    assert sum(map(len, opinions)) == 2199
    assert all(np.abs(one.features).max() <= 3 for one in opinions)
