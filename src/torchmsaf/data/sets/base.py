"""What a data set of sentiment or humour in videos says of itself: one constant of this class a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Counts = Mapping[str, int]


@dataclass(frozen=True)
class DataSet:
    """A data set of utterances with words, sound and pictures, and a target each.

    Attributes:
        name: as commands have it, ``mosei``.
        title: as tables have it, ``CMU-MOSEI``.
        url: where it is described, or was published.
        citation: of the paper.
        classes: names of the classes by number; None = the target is a value.
        utterances: part -> how many there are by the paper; empty when that is not known. Other counts are explained.
        sequences: ``words``, ``labels``, ``video``, ``audio``, ``text`` -> what names of computational sequences (their
            root or file, small letters and digits alone) contain, what is preferred first.
        limits: the smallest and the largest target; None = there are classes.
        reader: reads the files of a set that comes in its own, with the set, the folder, the settings and perhaps folds.
            None = computational sequences, aligned pickles or vectors, which are told apart by content.
    """

    name: str
    title: str
    url: str
    citation: str
    classes: tuple[str, ...] | None
    utterances: Counts
    sequences: Mapping[str, tuple[str, ...]]
    limits: tuple[float, float] | None = None
    reader: Callable[..., Any] | None = None
