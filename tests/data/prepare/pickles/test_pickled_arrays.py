"""Protects arrays in pickles: each is what its bytes are, and one that is not what it says is refused."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchmsaf.data.prepare.pickles.reader import read_pickle
from torchmsaf.errors import DataError

STATE = "(I3\nS'<'\nNNNI-1\nI-1\nI0\nt"  # of a plain type, as text


def loaded(folder: Path, content: bytes) -> Any:
    path = folder / "x.pkl"
    path.write_bytes(content)
    return read_pickle(path)


def text_array(code: str, state: str, shape: str, data: str) -> bytes:
    """A pickle of an array, in the words of protocol 0."""
    return (
        "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        f"(I1\n{shape}cnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR{state}bI00\n{data}tb."
    ).encode("latin-1")


def text_scalar(code: str) -> bytes:
    start = f"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR"
    return f"{start}{STATE}bS'x'\ntR.".encode()


def equal(array: Any) -> bool:
    return type(array) is np.ndarray and array.dtype == np.dtype("<i2") and array.tolist() == [1, 2]


def test_the_words_of_these_tests_make_an_array(tmp_path: Path) -> None:
    content = text_array("i2", STATE, "(I2\nt", "S'\\x01\\x00\\x02\\x00'\n")
    assert equal(loaded(tmp_path, content))
    assert equal(pickle.loads(content, encoding="latin1"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (text_array("f8", STATE, "(I1000000000000\nt", "S'abcdefgh'\n"), "has 8 bytes"),
        (text_array("f8", STATE, "(I4611686018427387904\nI4\nt", "S''\n"), "has 0 bytes"),
        (text_array("S0", STATE, "(I1000000000000\nt", "S''\n"), "has 0 bytes"),
        (text_array("V8", STATE, "(I1\nt", "S'abcdefgh'\n"), "the array type 'V8' is not read"),
        (text_array("M8", STATE, "(I1\nt", "S'abcdefgh'\n"), "the array type 'M8' is not read"),
        (text_array("i4,i4", STATE, "(I1\nt", "S'abcdefgh'\n"), "the array type 'i4,i4' is not read"),
        (text_array("O8", STATE, "(I1\nt", "S'abcdefgh'\n"), "has not as many of them"),
        (text_array("O8", STATE, "(I100000000000\nt", "(lI1\na"), "has not as many of them"),
        (text_array("i2", STATE, "(I-1\nt", "S''\n"), "no tuple of whole numbers"),
        (text_array("i2", STATE, "(F1.0\nt", "S'ab'\n"), "no tuple of whole numbers"),
        (text_array("i2", STATE, "I1\n", "S'ab'\n"), "no tuple of whole numbers"),
        (text_array("i2", STATE, "(I1\nt", "I5\n"), "the content of an array is no bytes"),
        (text_array("i2", "(I4\nS'<'\nNNNI-1\nI-1\nI0\n(dt", "(I1\nt", "S'ab'\n"), "has fields, metadata or an unknown"),
        (text_array("i2", "(I3\nS'<'\nN(S'a'\nt(dI-1\nI-1\nI0\nt", "(I1\nt", "S'ab'\n"), "has fields, metadata"),
        (text_array("i2", "(dt", "(I1\nt", "S'ab'\n"), "get the file again"),
        (text_array("U1", STATE, "(I1\nt", "S'\\xff\\xff\\xff\\xff'\n"), "numbers that are no characters"),
        (text_array("U1", STATE, "(I1\nt", "S'\\x00\\xd8\\x00\\x00'\n"), "numbers that are no characters"),
        (text_scalar("O8"), "a plain type"),
        (text_scalar("f8"), "has 1 bytes"),
        (b"cnumpy.core.numeric\n_frombuffer\n(S'ab'\nS'i2'\n(I1\ntS'C'\ntR.", "type or the order of an array is missing"),
        (b"cnumpy\ndtype\n(S'i2'\nI0\nI1\ntR.", "it ends before all is put together"),
        (b"]cnumpy\ndtype\n(S'i2'\nI0\nI1\ntRa.", "it ends before all is put together"),
        (b"cnumpy\ndtype\n(S'i2'\nI0\nI1\ntRp1\ng1\n.", "an array holds itself"),
        (b"cnumpy\ndtype\n(S'i2'\nI0\nI1\ntR2.", "taken before it is used"),
        (b"]cnumpy\nndarray\na.", "it ends before all is put together"),
        (b"cnumpy\nndarray\n2.", "taken before it is used"),
        (b"(cnumpy\nndarray\np1\ng1\nt.", "it ends before all is put together"),
        (b"cnumpy\nndarray\n.", "it ends before all is put together"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_what_they_say_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        loaded(tmp_path, content)


def test_an_array_of_objects_that_holds_itself_is_refused(tmp_path: Path) -> None:
    array = np.empty(1, object)
    array[0] = [array]
    with pytest.raises(DataError, match="an array holds itself"):
        loaded(tmp_path, pickle.dumps(array, 2))


@pytest.mark.parametrize(
    "fields",
    [[("a", "i4"), ("b", "f8")], np.dtype("i4", metadata={"x": 1}), "M8[D]"],
    ids=["fields", "metadata", "dates"],
)
def test_types_with_more_than_a_number_are_refused(tmp_path: Path, fields: Any) -> None:
    with pytest.raises(DataError, match="the array type '"):
        loaded(tmp_path, pickle.dumps(np.zeros(2, fields), 4))
