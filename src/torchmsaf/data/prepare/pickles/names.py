"""The names that a pickle of data may give, each with code of this project that stands for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torchmsaf.data.prepare.pickles.arrays import read_array, read_dtype, read_scalar
from torchmsaf.data.prepare.pickles.stack import Name, PickleStack, Unfinished, plain_key

_ENCODINGS = ("latin1", "latin-1", "utf-8", "utf8", "ascii")


def _encode(reader: PickleStack, text: Any, encoding: Any = "utf-8", *rest: Any) -> bytes:
    if not isinstance(text, str) or encoding not in _ENCODINGS or rest:
        shown = repr(encoding)[:40] if isinstance(encoding, str) else type(encoding).__name__
        raise reader.refuse(f"it asks for _codecs.encode with {shown}")
    reader.spend(len(text))
    return text.encode(encoding)


def _bytes(reader: PickleStack) -> bytes:
    return b""


def _bytearray(reader: PickleStack, content: Any = b"", encoding: Any = None) -> bytearray:
    raw = _encode(reader, content, encoding) if isinstance(content, str) else content
    if not isinstance(raw, bytes):
        raise ValueError("a bytearray without bytes")
    reader.spend(len(raw))
    return bytearray(raw)


def _items(reader: PickleStack, items: Any) -> list[Any] | tuple[Any, ...]:
    if type(items) not in (list, tuple):
        raise ValueError("a container without a list of items")
    reader.spend(len(items))
    counted: list[Any] | tuple[Any, ...] = items
    return counted


def _set(reader: PickleStack, items: Any = ()) -> set[Any]:
    return set(map(plain_key, _items(reader, items)))


def _frozenset(reader: PickleStack, items: Any = ()) -> frozenset[Any]:
    return frozenset(map(plain_key, _items(reader, items)))


def _ordered(reader: PickleStack, pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(
        (plain_key(key), value) for key, value in (_items(reader, pair) for pair in _items(reader, pairs))
    )


def _complex(reader: PickleStack, real: Any, imaginary: Any = 0.0) -> complex:
    if type(real) not in (int, float) or type(imaginary) not in (int, float):
        raise ValueError("a complex number without numbers")
    return complex(real, imaginary)


def _dtype(reader: PickleStack, code: Any, *flags: Any) -> Unfinished:
    return reader.later(lambda state: read_dtype(code, state))


def _reconstruct(reader: PickleStack, kind: Any, *empty: Any) -> Unfinished:
    if kind != Name("numpy", "ndarray"):
        raise reader.refuse(f"it makes an array of {kind if isinstance(kind, Name) else type(kind).__name__}")
    reader.unfinished -= 1

    def finish(state: Any) -> Any:
        if type(state) is not tuple or len(state) not in (4, 5):
            raise ValueError("the state of an array is of an unknown kind")
        shape, dtype, by_columns, data = state[-4:]  # before them a version, which old files lack
        reader.spend(len(data) if isinstance(data, str | list) else 0)
        return read_array(shape, dtype, data, "F" if by_columns else "C")

    return reader.later(finish)


def _from_buffer(reader: PickleStack, data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return read_array(shape, dtype, data, order)


def _scalar(reader: PickleStack, dtype: Any, data: Any) -> Any:
    return read_scalar(dtype, data)


def _no_call(reader: PickleStack, *arguments: Any) -> Any:
    raise reader.refuse("it calls numpy.ndarray")


_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": _set, "frozenset": _frozenset, "bytearray": _bytearray, "bytes": _bytes, "complex": _complex,
}  # fmt: skip
# every name that a file may give, with the code that stands for it
CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    ("numpy", "ndarray"): _no_call,
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(module, name): call for module in ("builtins", "__builtin__") for name, call in _BUILTINS.items()},
}
