"""The steps of a pickle, by their code; those of protocols 0 to 5, as the standard library's ``pickletools`` has them.

The steps that make objects of any class, set attributes of any object, or look things up outside of the file end the
reading.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from torchmsaf.data.prepare.pickles.names import CALLS
from torchmsaf.data.prepare.pickles.stack import Name, PickleStack, Unfinished, plain_key

_PROTOCOLS = range(6)
_INT, _FLOAT = struct.Struct("<i"), struct.Struct(">d")

Step = Callable[[PickleStack], None]


def _name(reader: PickleStack, module: Any, name: Any) -> Name:
    found = Name(str(module), str(name))
    if found not in CALLS:
        raise reader.refuse(f"it asks for {found}")
    reader.unfinished += 1
    return found


def _call(reader: PickleStack) -> None:
    arguments = reader.stack.pop()
    callee = reader.stack[-1]
    if type(callee) is not Name or type(arguments) is not tuple:
        raise reader.refuse(f"it calls a value of type {type(callee).__name__}")
    reader.unfinished -= 1
    reader.stack[-1] = CALLS[callee](reader, *arguments)


def _build(reader: PickleStack) -> None:
    state = reader.stack.pop()
    unfinished = reader.stack[-1]
    if type(unfinished) is not Unfinished:
        shown = unfinished if type(unfinished) is Name else f"a {type(unfinished).__name__}"
        raise reader.refuse(f"it sets the state of {shown}")
    unfinished.value = reader.stack[-1] = unfinished.finish(state)
    unfinished.done = True
    reader.unfinished -= 1


def _refused(what: str) -> Step:
    def step(reader: PickleStack) -> None:
        raise reader.refuse(what)

    return step


def _instance_by_name(reader: PickleStack) -> None:
    module, name = reader.line(), reader.line()
    raise reader.refuse(f"it makes an instance of {Name(module.decode('latin-1'), name.decode('latin-1'))}")


def _instance(place: int) -> Step:
    def step(reader: PickleStack) -> None:
        kind = reader.stack[place]
        raise reader.refuse(f"it makes an instance of {kind if type(kind) is Name else type(kind).__name__}")

    return step


def _push(make: Callable[[PickleStack], Any]) -> Step:
    return lambda reader: reader.stack.append(make(reader))


def _text(size: int, encoding: str) -> Step:
    return _push(lambda reader: reader.take(reader.number(size)).decode(encoding))


def _raw(size: int) -> Step:
    return _push(lambda reader: reader.take(reader.number(size)))


def _whole(size: int) -> Step:
    return _push(lambda reader: int.from_bytes(reader.take(reader.number(size)), "little", signed=True))


def _old_text(reader: PickleStack) -> str:
    line = reader.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a text has no quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _int_or_bool(reader: PickleStack) -> int | bool:
    line = reader.line()
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line, 10)


def _tuple(size: int) -> Step:
    def step(reader: PickleStack) -> None:
        if len(reader.stack) < size:
            raise ValueError("a tuple lacks items")
        reader.stack[-size:] = [tuple(reader.stack[-size:])]

    return step


def _dict(reader: PickleStack) -> None:
    items = reader.pop_mark()
    reader.stack.append({})
    reader.set_items(items)


def _name_on_stack(reader: PickleStack) -> Name:
    name, module = reader.stack.pop(), reader.stack.pop()
    return _name(reader, module, name)


def _close(reader: PickleStack, make: Callable[[list[Any]], Any] | None) -> None:
    """What lies above the mark becomes one value, or goes."""
    items = reader.pop_mark()
    if make is not None:
        reader.stack.append(make(items))


def _mark(reader: PickleStack) -> None:
    reader.marks.append(reader.stack)
    reader.stack = []


def _pop(reader: PickleStack) -> None:
    if reader.stack:
        reader.stack.pop()
    else:
        reader.pop_mark()


def _duplicate(reader: PickleStack) -> None:
    if type(reader.stack[-1]) in (Unfinished, Name):
        raise ValueError("an array or a name is taken before it is used")
    reader.stack.append(reader.stack[-1])


def _unknown(reader: PickleStack) -> None:
    code = reader.data[reader.position - 1]
    raise ValueError(f"no step has the code {code:#04x}")


def _check_protocol(reader: PickleStack) -> None:
    protocol = reader.number(1)
    if protocol not in _PROTOCOLS:
        raise ValueError(f"the protocol is {protocol}; {_PROTOCOLS[0]} to {_PROTOCOLS[-1]} are known")


def _check_frame(reader: PickleStack) -> None:
    size = reader.number(8)
    if size > (there := len(reader.data) - reader.position):
        raise ValueError(f"{size} bytes are announced and {there} are there")


_PLAIN: dict[bytes, Step] = {
    b"N": _push(lambda reader: None),
    b"\x88": _push(lambda reader: True),
    b"\x89": _push(lambda reader: False),
    b"I": _push(_int_or_bool),
    b"J": _push(lambda reader: _INT.unpack(reader.take(4))[0]),
    b"K": _push(lambda reader: reader.number(1)),
    b"M": _push(lambda reader: reader.number(2)),
    b"L": _push(lambda reader: int(reader.line().rstrip(b"L"), 10)),
    b"\x8a": _whole(1),
    b"\x8b": _whole(4),
    b"F": _push(lambda reader: float(reader.line())),
    b"G": _push(lambda reader: _FLOAT.unpack(reader.take(8))[0]),
    # texts of Python 2 have one byte a character
    b"S": _push(_old_text),
    b"T": _text(4, "latin-1"),
    b"U": _text(1, "latin-1"),
    b"V": _push(lambda reader: reader.line().decode("raw-unicode-escape")),
    b"\x8c": _text(1, "utf-8"),
    b"X": _text(4, "utf-8"),
    b"\x8d": _text(8, "utf-8"),
    b"C": _raw(1),
    b"B": _raw(4),
    b"\x8e": _raw(8),
    b"\x96": _push(lambda reader: bytearray(reader.take(reader.number(8)))),
}
_CONTAINERS: dict[bytes, Step] = {
    b"(": _mark,
    b")": _push(lambda reader: ()),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"t": lambda reader: _close(reader, tuple),
    b"]": _push(lambda reader: []),
    b"l": lambda reader: _close(reader, list),
    b"a": lambda reader: reader.extend([reader.stack.pop()]),
    b"e": lambda reader: reader.extend(reader.pop_mark()),
    b"}": _push(lambda reader: {}),
    b"d": _dict,
    b"s": lambda reader: reader.set_items([reader.stack.pop(-2), reader.stack.pop()]),
    b"u": lambda reader: reader.set_items(reader.pop_mark()),
    b"\x8f": _push(lambda reader: set()),
    b"\x90": lambda reader: reader.extend_set(reader.pop_mark()),
    b"\x91": lambda reader: _close(reader, lambda items: frozenset(map(plain_key, items))),
}
_MEMO: dict[bytes, Step] = {
    b"p": lambda reader: reader.put(int(reader.line(), 10)),
    b"q": lambda reader: reader.put(reader.number(1)),
    b"r": lambda reader: reader.put(reader.number(4)),
    b"\x94": lambda reader: reader.put(len(reader.memo)),
    b"g": lambda reader: reader.get(int(reader.line(), 10)),
    b"h": lambda reader: reader.get(reader.number(1)),
    b"j": lambda reader: reader.get(reader.number(4)),
    b"0": _pop,
    b"1": lambda reader: _close(reader, None),
    b"2": _duplicate,
    b"\x80": _check_protocol,
    b"\x95": _check_frame,
}
_OBJECTS: dict[bytes, Step] = {
    b"c": _push(lambda reader: _name(reader, reader.line().decode("latin-1"), reader.line().decode("latin-1"))),
    b"\x93": _push(_name_on_stack),
    b"R": _call,
    b"b": _build,
    b"i": _instance_by_name,
    b"o": _instance(0),
    b"\x81": _instance(-2),
    b"\x92": _instance(-3),
    b"P": _refused("it asks for an object outside of it (a persistent id)"),
    b"Q": _refused("it asks for an object outside of it (a persistent id)"),
    b"\x82": _refused("it asks for a registered extension"),
    b"\x83": _refused("it asks for a registered extension"),
    b"\x84": _refused("it asks for a registered extension"),
    b"\x97": _refused("it asks for a buffer outside of it"),
    b"\x98": _refused("it asks for a buffer outside of it"),
}
_ALL = {**_PLAIN, **_CONTAINERS, **_MEMO, **_OBJECTS}
STEPS: list[Step] = [_ALL.get(bytes([code]), _unknown) for code in range(256)]
