"""What the packets of an H.264 stream tell without decoding: which pictures no other needs, and when each is shown.

Syntax and names are those of ITU-T H.264, sections 7.3.2.1 (sequence parameter set), 7.3.3 (slice header) and 8.2.1 (order).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_START = b"\0\0\1"
_SLICE, _INSTANT, _PARAMETERS = 1, 5, 7  # of NAL units
_CHROMA_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_HEAD = 64  # bytes of a slice that surely hold what is read of its header
_MOST_PARAMETERS = 512  # bytes


@dataclass(frozen=True)
class Pictures:
    """The pictures of a stream, one a packet.

    Attributes:
        shown: of each packet, when its picture is shown, from 0.
        needed: of each packet, whether other pictures are predicted from its own.
    """

    shown: tuple[int, ...]
    needed: tuple[bool, ...]


@dataclass(frozen=True)
class _Sequence:
    number_bits: int
    order_type: int
    order_bits: int


class _Unknown(Exception):  # noqa: N818 - it never leaves this file
    pass


def read_pictures(extra: bytes | None, packets: Sequence[bytes]) -> Pictures | None:
    """Read the headers of a stream with start codes, as in AVI.

    Args:
        extra: what the container says of the decoder.
        packets: one picture each, in the order of decoding.

    Returns:
        None where the stream has something that is not read here: lengths in place of start codes, fields, scaling
        lists, an order of type 1, several pictures in a packet.
    """
    try:
        return _read(extra or b"", packets)
    except (_Unknown, IndexError):
        return None


def _read(extra: bytes, packets: Sequence[bytes]) -> Pictures:
    sequence = None
    for kind, start in _units(extra):
        if kind & 31 == _PARAMETERS:
            sequence = _sequence(extra[start : start + _MOST_PARAMETERS])
    orders: list[tuple[int, int]] = []
    needed: list[bool] = []
    period = high = low = 0
    for packet in packets:
        for kind, start in _units(packet):
            if kind & 31 == _PARAMETERS:
                sequence = _sequence(packet[start : start + _MOST_PARAMETERS])
            if kind & 31 in (_SLICE, _INSTANT):
                break
        else:
            raise _Unknown
        if sequence is None:
            raise _Unknown
        instant = kind & 31 == _INSTANT
        if instant:
            period, high, low = period + 1, 0, 0
        needed.append(kind & 0x60 != 0)
        if sequence.order_type == 2:
            orders.append((period, len(orders)))
            continue
        lower = _order(packet[start : start + _HEAD], sequence, instant)
        half = 1 << (sequence.order_bits - 1)
        upper = high + (2 * half if lower - low <= -half else -2 * half if lower - low > half else 0)
        orders.append((period, upper + lower))
        if needed[-1]:
            high, low = upper, lower
    ranks = {order: rank for rank, order in enumerate(sorted(orders))}
    if len(ranks) != len(orders):
        raise _Unknown
    return Pictures(tuple(ranks[order] for order in orders), tuple(needed))


def _units(data: bytes) -> Iterable[tuple[int, int]]:
    """The first byte of each NAL unit, and where the unit goes on."""
    at = data.find(_START)
    while 0 <= at < len(data) - 4:
        yield data[at + 3], at + 4
        at = data.find(_START, at + 4)


class _Bits:
    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self._bits, self._at = "".join(f"{byte:08b}" for byte in plain), 0

    def fixed(self, count: int) -> int:
        self._at += count
        if self._at > len(self._bits):
            raise _Unknown
        return int(self._bits[self._at - count : self._at], 2) if count else 0

    def golomb(self) -> int:
        one = self._bits.find("1", self._at)
        if one < 0:
            raise _Unknown
        zeros, self._at = one - self._at, one
        return self.fixed(zeros + 1) - 1


def _sequence(data: bytes) -> _Sequence:
    bits = _Bits(data)
    profile = bits.fixed(8)
    bits.fixed(16)
    bits.golomb()
    if profile in _CHROMA_PROFILES:
        separate = bits.golomb() == 3 and bits.fixed(1)
        bits.golomb()
        bits.golomb()
        bits.fixed(1)
        if separate or bits.fixed(1):
            raise _Unknown
    number_bits, order_type, order_bits = bits.golomb() + 4, bits.golomb(), 0
    if order_type == 0:
        order_bits = bits.golomb() + 4
    elif order_type != 2:
        raise _Unknown
    bits.golomb()
    bits.fixed(1)
    bits.golomb()
    bits.golomb()
    if not bits.fixed(1):
        raise _Unknown
    return _Sequence(number_bits, order_type, order_bits)


def _order(data: bytes, sequence: _Sequence, instant: bool) -> int:
    bits = _Bits(data)
    if bits.golomb():
        raise _Unknown
    bits.golomb()
    bits.golomb()
    bits.fixed(sequence.number_bits)
    if instant:
        bits.golomb()
    return bits.fixed(sequence.order_bits)
