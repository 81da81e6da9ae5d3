"""Protects reading pickles: data comes through as it was, and nothing that a file asks for is ever run or filled up."""

from __future__ import annotations

import codecs
import io
import os
import pickle
import pickletools
import re
import struct
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmsaf.data.prepare.pickles.reader import read_pickle
from torchmsaf.errors import DataError

PROTOCOLS = range(6)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "x.pkl"
    path.write_bytes(content)
    return path


def loaded(folder: Path, content: bytes) -> Any:
    return read_pickle(written(folder, content))


def through(folder: Path, value: Any, protocol: int) -> Any:
    return loaded(folder, pickle.dumps(value, protocol))


def same(got: Any, wanted: Any) -> bool:
    """Equal in type and value, to the last bit; NaN is NaN."""
    if isinstance(wanted, np.ndarray) and wanted.dtype.hasobject:
        return type(got) is np.ndarray and got.shape == wanted.shape and same(got.tolist(), wanted.tolist())
    if isinstance(wanted, np.ndarray):
        equal = type(got) is np.ndarray and (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        return equal and got.tobytes() == wanted.tobytes()
    if type(got) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return same(list(got.keys()), list(wanted.keys())) and same(list(got.values()), list(wanted.values()))
    if isinstance(wanted, list | tuple):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    return bool(got == wanted) or (got != got and wanted != wanted)


ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big endian": np.arange(3, dtype=">i2"),
    "half": np.array([np.inf, np.nan, -0.0], np.float16),
    "complex": np.array([1 + 2j]),
    "booleans": np.array([[True], [False]]),
    "no axis": np.array(2.5),
    "nothing": np.zeros((0, 3)),
    "a slice": np.arange(20)[::3],
    "text": np.array(["ab", "é", "東京"]),
    "bytes": np.array([b"ab", b"\xff"]),
    "objects": np.array([["a", None], [1.5, (1, 2)]], object),
    "arrays in objects": np.array([np.ones(2), np.zeros((1, 3)), None], object)[:2],
    "objects by columns": np.asfortranarray(np.array([[1, "b", None], [b"d", 2.0, True]], object)),
}
PLAIN = {
    "numbers": [0, 1, 255, 256, 65535, -1, 2**31, -(2**40), 2**70, -(2**2100), 0.1, float("inf"), float("nan")],
    "others": [None, True, False, "", "aé東\n\\'", b"", b"\x00\xff", bytearray(b"ab"), bytearray(), 1.5 + 2j],
    "containers": {"a": [1, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 3: {}, (1, "x"): [[]], None: {b"k": {1.5: 2}}},
    "sets": [{1, 2}, set(), frozenset({"a"}), frozenset()],
    "in order": OrderedDict([("b", 1), ("a", OrderedDict())]),
    "long": {"text": "x" * 70000, "bytes": b"y" * 70000, "list": list(range(3000))},
    "scalars": [
        np.float64(1.5),
        np.float32("nan"),
        np.int64(-3),
        np.bool_(True),
        np.str_("aé"),
        np.bytes_(b"x"),
        np.str_(),
    ],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", [*ARRAYS, *PLAIN])
def test_data_comes_back_as_it_was(tmp_path: Path, name: str, protocol: int) -> None:
    value = {**ARRAYS, **PLAIN}[name]
    assert same(through(tmp_path, value, protocol), value)
    assert same(through(tmp_path, {"a": [value, value], "b": (value,)}, protocol), {"a": [value, value], "b": (value,)})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@settings(deadline=None, max_examples=60)
@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
def test_any_data_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int) -> None:
    assert same(through(tmp_path_factory.getbasetemp(), value, protocol), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_of_numpy_1_and_of_numpy_2_are_read(tmp_path: Path, protocol: int) -> None:
    value = [ARRAYS["float32"], np.float64(2)]
    content = pickle.dumps(value, protocol)
    old, new = b"numpy.core.", b"numpy._core."
    if protocol < 4:
        other = content.replace(new, old) if new in content else content.replace(old, new)
    else:  # names have their length before them, and frames too

        def other_name(found: re.Match[bytes]) -> bytes:
            shift, sign = (-1, b"") if found[1] else (1, b"_")
            return bytes([found[0][0] + shift]) + b"numpy." + sign + b"core."

        other = re.sub(rb"[\x10-\x20]numpy\.(_?)core\.", other_name, content)
        head = 2 + 9
        other = other[:2] + b"\x95" + struct.pack("<Q", len(other) - head) + other[head:]
    assert other != content
    assert same(loaded(tmp_path, other), value)


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    raw = np.array([1.5, -2.0], "<f8").tobytes()
    # what Python 2 wrote with cPickle and protocol 2: {'id': ['caf\xe9'], 'x': array([1.5, -2.])}
    content = (
        b"\x80\x02}q\x01(U\x02idq\x02]q\x03U\x04caf\xe9q\x04aU\x01xcnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\n"
        b"q\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02\x85cnumpy\ndtype\nq\x08U\x02f8K\x00K\x01\x87Rq\t(K\x03U\x01<NNNJ\xff\xff\xff"
        b"\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10" + raw + b"tbu."
    )
    assert pickle.loads(content, encoding="latin1")["id"] == ["café"]
    assert same(loaded(tmp_path, content), {"id": ["café"], "x": np.array([1.5, -2.0])})
    text = b"(dp0\nS'a\\'b\\xe9'\np1\nI01\nsS\"c\"\nL5L\nsI7\nF1.5\ns."
    assert loaded(tmp_path, text) == {"a'bé": True, "c": 5, 7: 1.5}
    assert loaded(tmp_path, b"c__builtin__\nset\n((lI1\naI2\natR.") == {1, 2}


def test_what_is_shared_stays_shared_and_arrays_are_not_copied(tmp_path: Path) -> None:
    one = np.ones(3)
    first, second = through(tmp_path, [one, one], 4)
    assert first is second
    assert not first.flags.writeable
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    found = through(tmp_path, cyclic, 2)
    assert found[0] is found


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


HOSTILE = {
    "posix.system": Calls(os.system, "touch ran"),
    "builtins.eval": Calls(eval, "open('ran', 'w')"),
    "builtins.exec": Calls(exec, "open('ran', 'w')"),
    "builtins.getattr": Calls(getattr, Calls(__import__, "os"), "system"),
    "builtins.__import__": Calls(__import__, "os"),
    "builtins.map": Calls(map, print, ["ran"]),
    "_io.open": Calls(io.open, "ran", "w"),
    "numpy.load": Calls(np.load, "ran"),
    "numpy.testing._private.utils.runstring": Calls(np.testing.runstring, "open('ran', 'w')", {}),
    "numpy.fromfile": Calls(np.fromfile, "ran"),
    "codecs.decode": Calls(codecs.decode, b"x", "zlib"),
    "collections.defaultdict": defaultdict(list),
    "fractions.Fraction": Fraction(1, 2),
    "builtins.range": range(3),
    "test_pickles.written": written,
}


def first_name(content: bytes) -> str:
    """The first name that a pickle asks for, as the standard library reads it."""
    texts: list[str] = []
    for step, argument, _ in pickletools.genops(content):
        if step.name == "GLOBAL":
            return str(argument).replace(" ", ".")
        if step.name == "STACK_GLOBAL":
            return ".".join(texts[-2:])
        texts += [argument] if isinstance(argument, str) else []
    return ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_not_known_are_refused_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps([1, {"a": HOSTILE[name]}], protocol)
    with pytest.raises(
        DataError, match=re.escape(f"x.pkl is refused: it asks for {first_name(content)}, which is more")
    ) as caught:
        loaded(tmp_path, content)
    assert "nothing of it was run" in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cos\nsystem\n(S'touch ran'\ntR.", "it asks for os.system,"),
        (b"(S'touch ran'\nios\nsystem\n.", "makes an instance of os.system,"),
        (b"(cos\nsystem\nS'touch ran'\no.", "it asks for os.system,"),
        (b"(c__builtin__\nset\n]o.", "makes an instance of __builtin__.set,"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "makes an instance of numpy.dtype,"),
        (b"\x80\x04cnumpy\nndarray\n)}\x92.", "makes an instance of numpy.ndarray,"),
        (b"cnumpy\nndarray\n(K\x05tR.", "it calls numpy.ndarray,"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93)R.", "it asks for posix.system,"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__call__\x93)R.", "it asks for numpy.dtype.__call__,"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04core\x93.", "it asks for numpy.core,"),
        (b"c__builtin__\ngetattr\n(c__builtin__\nset\nS'mro'\ntR.", "it asks for __builtin__.getattr,"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n.", "it asks for torch._utils._rebuild_tensor_v2,"),
        (b"ccopyreg\n_reconstructor\n.", "it asks for copyreg._reconstructor,"),
        (b"cevil\n\x1b[31m\n.", "it asks for evil.\\x1b[31m,"),
        (b"S'x'\n)R.", "it calls a value of type str,"),
        (b"]}b.", "sets the state of a list,"),
        (b"}}b.", "sets the state of a dict,"),
        (b"cnumpy\ndtype\n}S'__call__'\nI1\nsb.", "sets the state of numpy.dtype,"),
        (b"c_codecs\nencode\n}b.", "sets the state of _codecs.encode,"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(c__builtin__\nset\n(I0\ntS'b'\ntR.", "makes an array of __builtin__.set,"),
        (b"Pid\n.", "a persistent id"),
        (b"\x80\x02]Q.", "a persistent id"),
        (b"\x82\x01.", "a registered extension"),
        (b"\x83\x01\x00.", "a registered extension"),
        (b"\x84\x01\x00\x00\x00.", "a registered extension"),
        (b"\x80\x05\x97.", "a buffer outside of it"),
        (b"c_codecs\nencode\n(Vx\nVzlib\ntR.", "_codecs.encode with 'zlib',"),
        (b"c_codecs\nencode\n(Vx\nVbz2\ntR.", "_codecs.encode with 'bz2',"),
        (b"c_codecs\nencode\n(Vx\nVidna\ntR.", "_codecs.encode with 'idna',"),
        (b"c_codecs\nencode\n(Vx\nVutf-8\nVxmlcharrefreplace\ntR.", "_codecs.encode with 'utf-8',"),
    ],
)  # fmt: skip
def test_steps_that_are_more_than_data_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        loaded(tmp_path, content)
    assert "is refused" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_tensors_and_archives_of_torch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("torch._utils._rebuild_tensor_v2")):
        through(tmp_path, {"x": torch.ones(2)}, 2)
    path = tmp_path / "x.pt"
    torch.save({"x": 1}, path)
    with pytest.raises(DataError, match=r"is a zip archive \(torch.save writes such files\) and no pickle"):
        read_pickle(path)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(DataError, match="cannot be read"):
        read_pickle(tmp_path)
    with pytest.raises(DataError, match="has 5000 bytes; 4999 are the most"):
        read_pickle(written(tmp_path, b"N." + b"x" * 4998), most_bytes=4999)


def test_the_work_grows_with_the_file(tmp_path: Path) -> None:
    value = [[float(number), "word", (number,)] for number in range(20_000)]
    start = time.process_time()
    assert through(tmp_path, value, 4) == value
    assert time.process_time() - start < 10
