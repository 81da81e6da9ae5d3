"""Sentences of utterances as CMU-MOSEI and CMU-MOSI ship them in text files.

CMU-MOSEI: ``Transcript/Segmented/Combined/VIDEO.txt``, a line an utterance with the fields video, segment, start, end and
text, three underscores between them. CMU-MOSI: ``Transcript/Segmented/VIDEO.annotprocessed``, a line an utterance as in
``1_DELIM_TEXT``. So the readers of thuiar/MMSA (``data/TextPre.py``) take them.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.raw import RawFile, find_files
from torchmsaf.errors import DataError

_MOST_BYTES = 2**24  # no transcript of one video is as large
_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"
_MOSEI = re.compile(rf"(?P<video>.+?)___(?P<segment>[^_]+)___(?P<start>{_NUMBER})___(?P<end>{_NUMBER})___(?P<text>.*)")
_MOSI = re.compile(r"(?P<segment>[^_]+)_DELIM_(?P<text>.*)")


@dataclass(frozen=True)
class Sentence:
    """What is said in an utterance.

    Attributes:
        text: as in the file, without blanks around it.
        start: seconds in the video, or None where the file has none.
        end: seconds in the video, or None.
        segment: the utterance's name in its video, such as ``"3"``.
    """

    text: str
    start: float | None
    end: float | None
    segment: str


def read_transcripts(raw: Path) -> dict[str, list[Sentence]]:
    """Read the sentences of all videos.

    Args:
        raw: a folder or a zip archive as it was downloaded; files of other kinds are passed over.

    Returns:
        Video -> its sentences, in order of their start, or of their segment where there is none; an empty dict where no
        such file is. A video whose file is there twice, with the same sentences, counts once.

    Raises:
        DataError: ``raw`` does not exist; a line of a transcript is of another form; or one utterance has two texts.
    """
    raw = Path(raw)
    if raw.is_file() and not zipfile.is_zipfile(raw):
        return {}
    found: dict[str, dict[str, tuple[Sentence, str]]] = {}
    for file in find_files(raw)[0]:
        suffix = PurePosixPath(file.name).suffix.lower()
        if suffix not in (".txt", ".annotprocessed") or file.size > _MOST_BYTES:
            continue
        for video, sentence in _sentences(file, suffix):
            known, where = found.setdefault(video, {}).setdefault(sentence.segment, (sentence, file.where))
            if known != sentence:
                raise DataError(
                    f"{file.where} and {where} say different things of segment {sentence.segment} of {video}; leave one "
                    "of the files out"
                )
    return {
        video: sorted((sentence for sentence, _ in sentences.values()), key=_order)
        for video, sentences in found.items()
    }


def _sentences(file: RawFile, suffix: str) -> Iterator[tuple[str, Sentence]]:
    with file.open() as stream:
        lines = [_decoded(line) for line in stream.read().splitlines()]
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    pattern = _MOSI if suffix == ".annotprocessed" else _MOSEI
    if pattern is _MOSEI and not any(_MOSEI.fullmatch(line) for _, line in numbered):
        return  # another text: a licence, a full transcript
    for number, line in numbered:
        match = pattern.fullmatch(line)
        if match is None:
            form = "SEGMENT_DELIM_TEXT" if pattern is _MOSI else "VIDEO___SEGMENT___START___END___TEXT"
            raise DataError(
                f"{file.where}: line {number} is not of the form {form}; get the file again or leave it out"
            )
        fields = match.groupdict()
        start, end = (float(fields[edge]) if edge in fields else None for edge in ("start", "end"))
        if not all(math.isfinite(edge) for edge in (start, end) if edge is not None):
            raise DataError(f"{file.where}: line {number} has a time that is no number of seconds; get the file again")
        video = fields.get("video") or PurePosixPath(file.name).stem
        yield video.strip(), Sentence(fields["text"].strip(), start, end, fields["segment"].strip())


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _order(sentence: Sentence) -> tuple[float, object]:
    return (0.0 if sentence.start is None else sentence.start), natural_key(sentence.segment)
