"""Protects the steps of pickles: damaged files end in an error, and none of them fills the memory or the stack."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmsaf.data.prepare.pickles.reader import read_pickle
from torchmsaf.data.prepare.pickles.steps import STEPS
from torchmsaf.errors import DataError

PROTOCOLS = range(6)
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
VALUES = [{"a": [1, (), (1,), (1, 2)], (1, "x"): 2.5}, ARRAY, np.array([["a", None], [1.5, (1, 2)]], object), {1}]


def loaded(folder: Path, content: bytes) -> Any:
    path = folder / "x.pkl"
    path.write_bytes(content)
    return read_pickle(path)


def test_copies_of_what_is_named_again_and_again_are_counted(tmp_path: Path) -> None:
    bomb = b"(X\x10\x27\x00\x00" + b"x" * 10_000 + b"p1\n0" + b"c_codecs\nencode\np2\n0"
    many = bomb + b"g2\n(g1\nVlatin1\ntR" * 2000 + b"l."
    with pytest.raises(DataError, match="it copies far more than it holds"):
        loaded(tmp_path, many)
    items = b"((" + b"K\x01" * 10_000 + b"lp1\n0c__builtin__\nset\np2\n0" + b"g2\n(g1\ntR" * 4000 + b"l."
    with pytest.raises(DataError, match="it copies far more than it holds"):
        loaded(tmp_path, items)
    assert len(bomb) < 11_000


def test_depth_does_not_end_the_program(tmp_path: Path) -> None:
    deep = b"]" * 300_000 + b"a" * 299_999 + b"."
    value, depth = loaded(tmp_path, deep), 1
    while value:
        (value,), depth = value, depth + 1
    assert depth == 300_000
    key = b"})" + b"\x85" * 300_000 + b"K\x01s."
    with pytest.raises(DataError, match="a key is no plain value"):
        loaded(tmp_path, key)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"]", "nothing fits (IndexError)"),
        (b".", "at byte 0 of 1"),
        (b"a.", "nothing fits (IndexError)"),
        (b"\xff\xfe", "no step has the code 0xff"),
        (b"\x80\x07N.", "the protocol is 7; 0 to 5 are known"),
        (b"NN.", "too many values"),
        (b"(.", "not enough values"),
        (b"(N.", "it ends before all is put together"),
        (b"h\x05.", "nothing fits (KeyError)"),
        (b"X\xff\xff\xff\xffab.", "4294967295 bytes are announced and 3 are there"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab.", "bytes are announced"),
        (b"\x95\xff\x00\x00\x00\x00\x00\x00\x00N.", "255 bytes are announced and 2 are there"),
        (b"Np-1\n.", "a number of the memo is negative"),
        (b"I5", "a line has no end"),
        (b"Sx\n.", "a text has no quotes"),
        (b"Inan\n.", "invalid literal"),
        (b"L" + b"9" * 9999 + b"\n.", "get the file again"),
        (b"\x8c\x01\xff.", "at byte 3"),
        (b"}]K\x01s.", "a key is no plain value"),
        (b"}K\x01u.", "get the file again"),
        (b"](K\x01u.", "items are put where no dict is"),
        (b"}(K\x01e.", "items are put where no list is"),
        (b"](K\x01\x90.", "items are put where no set is"),
        (b"\x85.", "a tuple lacks items"),
        (b"NN.junk", "too many values"),
        (b"N.N.", "2 bytes follow its object"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        loaded(tmp_path, content)
    assert str(tmp_path / "x.pkl") in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"a": [ARRAY, np.array(["ab", "é"])], "b": (1.5, "x")}, protocol)
    for end in range(1, len(content)):
        with pytest.raises(DataError):
            loaded(tmp_path, content[:end])


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_changed_bytes_give_data_or_an_error_of_data(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    protocol = data.draw(st.sampled_from(PROTOCOLS))
    content = bytearray(pickle.dumps(VALUES, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):  # and no other error
        loaded(tmp_path_factory.getbasetemp(), bytes(content))


def test_every_step_of_the_standard_library_is_known_and_no_other() -> None:
    known = {step.code for step in pickletools.opcodes}
    unknown = STEPS[0]
    assert {chr(code) for code in range(256) if STEPS[code] is not unknown} == known - {"."}
