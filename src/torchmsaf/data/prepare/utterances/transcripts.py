"""Sentences of utterances as CMU-MOSEI and CMU-MOSI ship them in text files.

CMU-MOSEI: ``Transcript/Segmented/Combined/VIDEO.txt``, a line an utterance with the fields video, segment, start, end and
text, three underscores between them. CMU-MOSI: ``Transcript/Segmented/VIDEO.annotprocessed``, a line an utterance as in
``1_DELIM_TEXT``. So the readers of thuiar/MMSA (``data/TextPre.py``) take them.
"""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torchmsaf.data.counted import counted
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


@dataclass(frozen=True)
class _Broken:
    """A line that cannot be used: of which videos, and why."""

    videos: tuple[str, ...]
    reason: str


def read_transcripts(raw: Path) -> tuple[dict[str, list[Sentence]], list[str]]:
    """Read the sentences of all videos.

    A line that cannot be used stops no other video: the sentences of its own are left out, all of them, as nobody knows
    what else is wrong there. Where it does not say its video, it is of all videos of its file.

    Args:
        raw: a folder or a zip archive as it was downloaded; files of other kinds are passed over.

    Returns:
        Video -> its sentences, in order of their start, or of their segment where there is none; an empty dict where no
        such file is. A video whose file is there twice, with the same sentences, counts once. And what could not be
        used, a sentence each with the file: files and archives that cannot be read; of each file and video the first
        line of another form; and utterances with two texts.

    Raises:
        DataError: ``raw`` does not exist.
    """
    raw = Path(raw)
    if raw.is_file() and not zipfile.is_zipfile(raw):
        broken = raw.suffix.lower() == ".zip"
        return {}, [f"{raw} is no zip archive, or is broken; download it again"] if broken else []
    files, refused = find_files(raw)
    problems = [str(refusal) for refusal in refused]
    found: dict[str, dict[str, tuple[Sentence, str]]] = {}
    bad: set[str] = set()
    for file in files:
        suffix = PurePosixPath(file.name).suffix.lower()
        if suffix not in (".txt", ".annotprocessed") or file.size > _MOST_BYTES:
            continue
        told: set[str] = set()  # videos of which this file's first bad line is said
        try:
            read = _sentences(file, suffix)
        except DataError as error:
            problems.append(str(error))
            continue
        for number, one in read:
            place = f"{file.where}: line {number}"
            if isinstance(one, _Broken):
                videos, reason = one.videos, one.reason
            else:
                video, sentence = one
                known, where = found.setdefault(video, {}).setdefault(sentence.segment, (sentence, place))
                if known == sentence:
                    continue
                videos = (video,)
                reason = f"says another thing of segment {sentence.segment} than {where}; leave one of them out"
            bad.update(videos)
            if not told.issuperset(videos):
                problems.append(f"{place} {reason}; no sentence of {_named(videos)} is used")
            told.update(videos)
    sentences = {
        video: sorted((sentence for sentence, _ in of_video.values()), key=_order)
        for video, of_video in found.items()
        if video not in bad
    }
    return sentences, problems


def _sentences(file: RawFile, suffix: str) -> list[tuple[int, tuple[str, Sentence] | _Broken]]:
    """Each line's number with its video and sentence, or why it cannot be used."""
    try:
        with file.open() as stream:
            lines = [_decoded(line) for line in stream.read().splitlines()]
    except OSError as error:
        raise DataError(f"{file.where}: cannot be read: {error.strerror or error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    pattern = _MOSI if suffix == ".annotprocessed" else _MOSEI
    matches = [(number, line, pattern.fullmatch(line)) for number, line in numbered]
    if pattern is _MOSEI and not any(match for _, _, match in matches):
        return []  # another text: a licence, a full transcript
    stem = PurePosixPath(file.name).stem
    videos = tuple(dict.fromkeys(_video(match, stem) for _, _, match in matches if match is not None)) or (stem,)
    form = "SEGMENT_DELIM_TEXT" if pattern is _MOSI else "VIDEO___SEGMENT___START___END___TEXT"
    read: list[tuple[int, tuple[str, Sentence] | _Broken]] = []
    for number, line, match in matches:
        if match is None:
            named = line.partition("___")[0].strip()
            of = (named,) if pattern is _MOSEI and named in (*videos, stem) else videos
            read.append((number, _Broken(of, f"is not of the form {form}; get the file again or leave it out")))
            continue
        fields, video = match.groupdict(), _video(match, stem)
        start, end = (float(fields[edge]) if edge in fields else None for edge in ("start", "end"))
        if all(math.isfinite(edge) for edge in (start, end) if edge is not None):
            segment = fields["segment"].strip()
            read.append((number, (video, Sentence(fields["text"].strip(), start, end, segment))))
        else:
            read.append((number, _Broken((video,), "has a time that is no number of seconds; get the file again")))
    return read


def _video(match: re.Match[str], stem: str) -> str:
    return str(match.groupdict().get("video") or stem).strip()


def _named(videos: tuple[str, ...]) -> str:
    return videos[0] if len(videos) == 1 else f"{videos[0]} and {counted(len(videos) - 1, 'other video')}"


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _order(sentence: Sentence) -> tuple[float, object]:
    return (0.0 if sentence.start is None else sentence.start), natural_key(sentence.segment)
