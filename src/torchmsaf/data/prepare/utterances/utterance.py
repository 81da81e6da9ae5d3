"""What the preparation of sentiment works with: settings, utterances and where they come from."""

# L steps, D features

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.raw import Refusal
from torchmsaf.data.standard_folds import PARTS, Folds
from torchmsaf.errors import DataError

Alignment = Literal["word", "published"]
Text = Literal["words", "given", "none"]

NO_TEXT = "--text none leaves the text out"
CHOICES = (
    "choose --text-model NAME (a frozen encoder of Hugging Face, by name or folder, such as bert-base-uncased), "
    f"--text words (the network learns its word vectors), --text given (features that came with the files); {NO_TEXT}"
)


@dataclass(frozen=True)
class Settings:
    """How utterances are prepared.

    Attributes:
        alignment: ``word``: a step a word, with the mean of the frames that overlap it. ``published``: as in the code that
            was published with MSAF: the last raw frames, and text that begins elsewhere.
        steps: the most steps of an utterance, from 1.
        text: ``words``, ``given`` or ``none``; None = ``given`` where the files have text features.
        text_model: name or folder of a frozen encoder that makes the text features.
        device: of the encoder; None = a GPU where there is one.
        batch_size: sentences that the encoder takes at a time, from 1.

    Raises:
        DataError: a value is out of its range, or two exclude each other.
    """

    alignment: Alignment = "word"
    steps: int = 50
    text: Text | None = None
    text_model: str | None = None
    device: str | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DataError(f"{name} is {value!r}; a whole number from 1 is needed")
        for name, known in (("alignment", get_args(Alignment)), ("text", (None, *get_args(Text)))):
            value = getattr(self, name)
            if value not in known:
                raise DataError(f"{name} is {value!r}; {' or '.join(repr(one) for one in known if one)} is needed")
        if self.text is not None and self.text_model is not None:
            raise DataError(
                f"--text {self.text} and --text-model {self.text_model} exclude each other: give one of them"
            )
        if self.alignment == "published" and self.text in ("words", "given"):
            raise DataError(
                f"--text {self.text} does not go with --alignment published, whose steps are no words: the published code "
                f"has an encoder's output; give --text-model NAME, as bert-base-uncased; {NO_TEXT}"
            )


@dataclass(frozen=True, eq=False)
class Utterance:
    """An utterance, aligned.

    Attributes:
        target: the sentiment, or the number of the class.
        arrays: modality -> ``(L, D)`` finite float32.
        words: L words in small letters; empty = not known, or the steps are no words.
        sentence: what was said, or ``""``.
        start: in seconds of the video; None = not known.
        end: likewise.
        cut: words after the last step.
        infinite: modality -> feature -> values that were infinite and are 0.
        nan: likewise, values that were no number.
        empty: modality -> steps that nothing overlaps, whose features are 0.
    """

    target: float | int
    arrays: dict[str, NDArray[Any]]
    words: tuple[str, ...] = ()
    sentence: str = ""
    start: float | None = None
    end: float | None = None
    cut: int = 0
    infinite: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    nan: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    empty: Mapping[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """All but the arrays, as plain JSON values."""
        counts = {
            name: {
                part: {str(key): int(n) for key, n in found.items()}
                for part, found in getattr(self, name).items()
                if found
            }
            for name in ("infinite", "nan")
        }
        return {
            "target": self.target, "words": list(self.words), "sentence": self.sentence, "start": self.start,
            "end": self.end, "cut": self.cut, **counts, "empty": {name: int(n) for name, n in self.empty.items()},
        }  # fmt: skip


Said = tuple[tuple[str, ...], str]  # words and sentence


@dataclass(frozen=True, eq=False)
class Item:
    """An utterance that is not read yet.

    Attributes:
        id: unique; the video's id, a dot, and the number of the utterance in its video from 0.
        video: its id.
        part: ``train``, ``validation`` or ``test``.
        make: reads it; DataErrors of it say why it cannot be used.
        say: reads no more than its words and sentence, as they will be in it; likewise.
    """

    id: str
    video: str
    part: str
    make: Callable[[], Utterance]
    say: Callable[[], Said]


@dataclass(frozen=True)
class Lost(Refusal):
    """Utterances that cannot be used.

    Attributes:
        part: that they would have been in; None = not known, or none.
        utterances: how many; 0 = not known.
    """

    part: str | None = None
    utterances: int = 1


@dataclass(frozen=True, eq=False)
class Source:
    """Where the utterances of a set come from.

    Attributes:
        kind: ``sequences``, ``aligned``, ``vectors`` or another word for it.
        alignment: of what comes: ``word``, ``published``, or ``utterance`` where a whole utterance is one step.
        folds: ``standard``, ``file`` with a checksum, or ``given`` by the files.
        text: ``words``, ``given``, ``none`` or ``model``.
        features: modality -> what its features are; it is among what decides a version.
        items: utterances to read, those of a video together.
        lost: what cannot be used.
        stamp: changes when the files do.
        set_aside: kind of file -> how many are left alone.
        notes: sentences on how the files were understood.
        made_up: whether torchmsaf made them up.
        close: lets go of the files.
        resplit: vectors that may have been fitted on other parts than those that they are in here.
    """

    kind: str
    alignment: str
    folds: str
    text: str
    features: Mapping[str, str]
    items: tuple[Item, ...]
    lost: tuple[Lost, ...]
    stamp: str
    set_aside: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    made_up: bool = False
    close: Callable[[], None] = lambda: None
    resplit: bool = False


def choose_text(settings: Settings, where: Path, *, features: bool, words: bool) -> str:
    """``words``, ``given``, ``none`` or ``model``: what the settings ask for, held against what the files have.

    Args:
        settings: what is asked for.
        where: the files, for messages.
        features: whether they have text features.
        words: whether they have the words of each step.

    Raises:
        DataError: nothing is asked for and the files decide nothing, or they do not have what is asked for.
    """
    chosen = "model" if settings.text_model is not None else settings.text
    if chosen is None:
        if not features or settings.alignment == "published":
            raise DataError(f"{where}: what is the text to be? {CHOICES}")
        return "given"
    if chosen == "given" and not features:
        raise DataError(f"{where} has no text features for --text given: {CHOICES}")
    if chosen in ("words", "model") and not words:
        asked = "--text words" if chosen == "words" else "--text-model"
        raise DataError(f"{where} does not say the words of its steps, which {asked} needs: {CHOICES}")
    return chosen


def stamp_of(paths: Iterable[Path]) -> str:
    """A short checksum over names, sizes and times of change of files: it changes when they do.

    The files are not read: they have gigabytes. Whoever copies them without their times has utterances prepared anew,
    with the same result.

    Raises:
        DataError: a file is gone.
    """
    said = []
    for path in sorted(paths):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        said.append([path.name, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def given_folds(videos_by_part: Iterable[tuple[str, str]], where: Path) -> None:
    """Check that no video is in two parts.

    Args:
        videos_by_part: video and part of each utterance.
        where: the files, for messages.

    Raises:
        DataError: one is.
    """
    found: dict[str, str] = {}
    twice: dict[str, set[str]] = {}
    for video, part in videos_by_part:
        if found.setdefault(video, part) != part:
            twice.setdefault(video, {found[video]}).add(part)
    if twice:
        first = sorted(twice)[0]
        parts = " and ".join(part for part in PARTS if part in twice[first])
        raise DataError(
            f"{where}: {counted(len(twice), 'video')} {'is' if len(twice) == 1 else 'are'} in two parts, the first {first} "
            f"in {parts}, so what is trained on would be tested; give folds by video with --folds FILE"
        )


def in_no_fold(folds: Folds) -> str:
    """Why a video is refused that no fold has."""
    if folds.name == "standard":
        return "is in no fold of the standard ones; --folds FILE gives others"
    return "is in no fold of the file of folds"
