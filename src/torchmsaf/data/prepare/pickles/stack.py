"""What a pickle's steps work on: bytes, a stack, marks and a memo; and how a file is refused."""

from __future__ import annotations

import mmap
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchmsaf.errors import DataError

_SPARE = 4096  # bytes that any file may copy
_KEYS = (str, bytes, int, float, complex, type(None), np.generic)
_UNSIGNED = {size: struct.Struct(code) for size, code in ((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q"))}


class Name(NamedTuple):
    """A name that the file gives; it stands for nothing else."""

    module: str
    name: str

    def __str__(self) -> str:
        return ascii(f"{self.module}.{self.name}")[1:-1][:120]


@dataclass(eq=False, slots=True)
class Unfinished:
    """An array or a type whose state comes later in the file."""

    finish: Callable[[Any], Any]
    value: Any = None
    done: bool = False


class PickleStack:
    """One pass over a pickle's bytes.

    Attributes:
        path: the file, for messages.
        data: its bytes.
        position: of the next byte.
        stack: what is being put together.
        marks: the stacks below the current one.
        memo: what the file has numbered to use it again.
        unfinished: how many arrays and types wait for their state, and names for their use: 0 in the end.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position = path, data, 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.unfinished = 0
        self.left = 2 * len(data) + _SPARE  # bytes and items that may still be copied

    def refuse(self, what: str) -> DataError:
        """The error for a file that asks for more than data; ``what`` goes on after "is refused:"."""
        return DataError(
            f"{self.path} is refused: {what}, which is more than data; nothing of it was run. Get the file from its "
            "source, or save its arrays as .npz"
        )

    def take(self, size: int) -> bytes:
        """The next bytes."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise ValueError(f"{size} bytes are announced and {len(self.data) - start} are there")
        return self.data[start : self.position]

    def number(self, size: int) -> int:
        """The next bytes, 1, 2, 4 or 8, as a number from 0."""
        value: int = _UNSIGNED[size].unpack(self.take(size))[0]
        return value

    def line(self) -> bytes:
        """What is there up to the end of the line, without it."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("a line has no end")
        line, self.position = self.data[self.position : end], end + 1
        return line

    def spend(self, amount: int) -> None:
        """What copies what the file names again and again would fill the memory."""
        self.left -= amount
        if self.left < 0:
            raise ValueError("it copies far more than it holds")

    def pop_mark(self) -> list[Any]:
        """What lies above the last mark; the stack below it comes back."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def put(self, index: int) -> None:
        """Number what lies on top of the stack."""
        if index < 0:
            raise ValueError("a number of the memo is negative")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """Put what has this number on the stack."""
        value = self.memo[index]
        if type(value) is Unfinished:
            if not value.done:
                raise ValueError("an array holds itself")
            value = value.value
        self.unfinished += type(value) is Name
        self.stack.append(value)

    def later(self, finish: Callable[[Any], Any]) -> Unfinished:
        """What is there when its state is."""
        self.unfinished += 1
        return Unfinished(finish)

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turns, into the dict on top of the stack."""
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise ValueError("items are put where no dict is")
        target.update(zip(map(plain_key, items[::2]), items[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        """Put items at the end of the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise ValueError("items are put where no list is")
        self.stack[-1].extend(items)

    def extend_set(self, items: list[Any]) -> None:
        """Put items into the set on top of the stack."""
        if type(self.stack[-1]) is not set:
            raise ValueError("items are put where no set is")
        self.stack[-1].update(map(plain_key, items))


def plain_key(value: Any) -> Any:
    """The value, if it is a plain one or a tuple of those, and so can be a key."""
    parts = value if type(value) is tuple else (value,)
    if not all(isinstance(part, _KEYS) for part in parts):
        raise ValueError("a key is no plain value")
    return value
