"""Sorting names as a person would: 2 before 10, actor2 before actor10."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
DIGITS = re.compile(r"([0-9]+)")

Chunk = tuple[int, Decimal, str]


def natural_key(name: str) -> tuple[Chunk, ...]:
    """The sorting key of one name.

    A name that is a number sorts by its value and before every other name. Any other name sorts by its runs of text
    and digits, the digits by value. The name itself comes last, so that two different names never tie.
    """
    zero = Decimal(0)
    if NUMBER.fullmatch(name):
        return (0, Decimal(name), ""), (0, zero, name)
    chunks = [(1, Decimal(run), "") if DIGITS.fullmatch(run) else (2, zero, run) for run in DIGITS.split(name) if run]
    return (1, zero, ""), *chunks, (0, zero, name)


def natural_sorted(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names in natural order.

    Example:
        >>> natural_sorted(["actor10", "10", "actor2", "9", "actor2"])
        ('9', '10', 'actor2', 'actor10')
    """
    return tuple(sorted(set(names), key=natural_key))
