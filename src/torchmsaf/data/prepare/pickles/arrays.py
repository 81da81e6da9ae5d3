"""NumPy arrays, types and scalars out of what pickles say of them, without NumPy's own unpickling.

What a pickle gives for an array is a shape, a type, an order and bytes. Here they are checked first: the bytes must be
there for every element, so no array is larger than the file that it came from; and the type is one of a short list of
plain ones, so nothing of a type's own (fields, metadata) is looked at. The layout of the states is that of
``numpy.ndarray.__reduce__`` and ``numpy.dtype.__reduce__``, tried with NumPy 2.4 and protocols 0 to 5.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

# b1 booleans, i and u integers, f floats, c complex, S bytes, U text, O objects
_CODE = re.compile(r"(?:b1|[iu][1248]|f[248]|c8|c16|O[48]?|[SU][0-9]{1,6})")
_MOST_AXES = 32
_LAST_CHARACTER, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)


def read_dtype(code: Any, state: Any) -> np.dtype[Any]:
    """A plain type.

    Args:
        code: ``"f4"``, ``"U12"``, …: the first argument that the pickle gives.
        state: the tuple that it gives for the rest: version, byte order, subarray, names, fields, …

    Raises:
        ValueError: it is no plain type: it has fields, a subarray, metadata, or is none of the list.
    """
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        shown = repr(code)[:40] if isinstance(code, str) else type(code).__name__
        raise ValueError(f"the array type {shown} is not read; plain numbers, text and objects are")
    plain = isinstance(state, tuple) and len(state) == 8 and state[1] in ("<", ">", "|", "=")
    if not plain or any(part is not None for part in state[2:5]):
        raise ValueError(f"the array type {code!r} has fields, metadata or an unknown state; plain types are read")
    if code.startswith("O"):
        return np.dtype(object)
    return np.dtype(code if state[1] == "|" else state[1] + code)


def read_array(shape: Any, dtype: Any, data: Any, order: str) -> NDArray[Any]:
    """An array over bytes, which are not copied; it cannot be written to where they cannot.

    Args:
        shape: a tuple of whole numbers.
        dtype: as :func:`read_dtype` gives it.
        data: the bytes of all elements; a text is taken as the bytes of Python 2; for objects the list of them.
        order: ``"C"`` or ``"F"``.

    Raises:
        ValueError: the parts do not fit each other.
    """
    count = _count(shape)
    if not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise ValueError("the type or the order of an array is missing")
    if dtype.hasobject:
        return _object_array(shape, count, data)
    raw = _raw(data)
    if len(raw) != count * dtype.itemsize or (dtype.itemsize == 0 and count):
        raise ValueError(f"an array of shape {shape} and type {dtype} has {len(raw)} bytes")
    if not count:
        return np.empty(shape, dtype)
    _check_text(raw, dtype)
    array: NDArray[Any] = np.frombuffer(raw, dtype).reshape(shape, order="C" if order == "C" else "F")
    return array


def read_scalar(dtype: Any, data: Any) -> Any:
    """A scalar of NumPy.

    Raises:
        ValueError: it is an object, or its bytes do not fit its type.
    """
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise ValueError("a scalar without a plain type")
    raw = _raw(data)
    if dtype.itemsize == 0 and not raw:
        return np.str_() if dtype.kind == "U" else np.bytes_()
    return read_array((1,), dtype, raw, "C")[0]


def _count(shape: Any) -> int:
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("the shape of an array is no tuple of whole numbers")
    return math.prod(shape)


def _raw(data: Any) -> bytes | bytearray:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(raw, bytes | bytearray):
        raise ValueError("the content of an array is no bytes")
    return raw


def _object_array(shape: tuple[int, ...], count: int, items: Any) -> NDArray[Any]:
    if not isinstance(items, list) or len(items) != count:
        raise ValueError(f"an array of objects of shape {shape} has not as many of them")
    flat = np.empty(count, object)
    for index, item in enumerate(items):  # not by a slice: it would take the items apart
        flat[index] = item
    return flat.reshape(shape)  # the list goes by rows, whatever order the pickle says


def _check_text(raw: bytes | bytearray, dtype: np.dtype[Any]) -> None:
    """NumPy keeps text as numbers of characters, and takes any number for one."""
    if dtype.kind == "U":
        characters = np.frombuffer(raw, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        first, last = _SURROGATES
        if ((characters > _LAST_CHARACTER) | ((characters >= first) & (characters <= last))).any():
            raise ValueError("an array of text has numbers that are no characters")
