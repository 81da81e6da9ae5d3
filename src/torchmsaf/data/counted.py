"""Numbers of things in sentences."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """``1 frame``, ``3 frames``, ``0 frames``.

    Args:
        number: how many.
        thing: one of them; several are spelled with an s.
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
