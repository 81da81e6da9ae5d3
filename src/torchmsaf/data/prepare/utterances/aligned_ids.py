"""Names of utterances as published pickles write them: read_id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchmsaf.data.natural_order import natural_key

_YOUTUBE = 11  # characters of a video's name there; some end as a segment would, in _4
_MARKED = (
    re.compile(r"(?P<video>.+)\$_\$(?P<segment>.+)"),  # MMSA
    re.compile(r"(?P<video>.+)\[(?P<segment>[^\[\]]*)\]"),  # MISA, and the CMU Multimodal SDK
)
_NUMBERED = re.compile(r"(?P<video>.+)_(?P<segment>[0-9]+)")  # CMU-MOSI


@dataclass(frozen=True)
class AlignedId:
    """Which utterance it is.

    Attributes:
        video: the name of the video.
        segment: the name of the utterance in its video, or "".
        order: what the utterances of a video are sorted by: their start, or their segment in natural order.
    """

    video: str
    segment: str
    order: tuple[float, Any]

    def __str__(self) -> str:
        return f"{self.video}[{self.segment}]" if self.segment else self.video


def read_id(value: Any, instead: str) -> AlignedId:
    """The name of an utterance.

    Args:
        value: ``"VIDEO$_$3"``, ``"VIDEO[3]"``, ``"VIDEO_3"``, or a row of video, start and end in seconds, or of one name;
            text or bytes. A name of 11 characters such as ``"abcdefghi_3"`` is a video's alone, as those of YouTube are: a
            guess.
        instead: the name of a video of its own, for where there is none.
    """
    fields = [_text(field) for field in _fields(value)]
    if not fields or not fields[0]:
        return AlignedId(instead, "", (0.0, natural_key("")))
    if len(fields) == 3:
        start = _number(fields[1])
        if start is not None:
            segment = f"{fields[1]}-{fields[2]}"
            return AlignedId(fields[0], segment, (start, natural_key(segment)))
    name = fields[0]
    forms = _MARKED if len(name) == _YOUTUBE else (*_MARKED, _NUMBERED)
    match = next(filter(None, (form.fullmatch(name) for form in forms)), None)
    video, segment = (match["video"], match["segment"]) if match else (name, "")
    return AlignedId(video, segment, (0.0, natural_key(segment)))


def _fields(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim == 1 and len(value) <= 3 else [value.item()] if value.ndim == 0 else []
    return list(value[:3]) if isinstance(value, list | tuple) else [value]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    if isinstance(value, int | float | np.number):
        value = str(value)
    return str(value).strip() if isinstance(value, str) else ""


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
