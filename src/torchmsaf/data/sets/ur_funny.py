"""UR-FUNNY: whether the last sentence of a piece of a talk makes people laugh.

Hasan, Rahman, Zadeh, Zhong, Tanveer, Morency and Hoque, "UR-FUNNY: A Multimodal Language Dataset for Understanding Humor",
EMNLP 2019; files and their layout: https://github.com/ROC-HCI/UR-FUNNY. Its files are pickles of dictionaries by the id of a
piece, aligned by word already:

- ``humor_label_sdk.pkl``: 1 or 0;
- ``data_folds.pkl``: ``train``, ``dev`` and ``test`` -> ids;
- ``covarep_features_sdk.pkl`` and ``openface_features_sdk.pkl``: ``punchline_features``, the words' mean features; 81
  values of sound, and of pictures 371 in version 2 and 75 in version 1;
- ``language_sdk.pkl`` (version 2) or ``word_embedding_indexes_sdk.pkl`` (version 1): ``punchline_embedding_indexes`` into
  ``word_embedding_list.pkl``; in version 2 ``punchline_features``, the words, and ``punchline_sentence``, which is these
  words and a full stop, too.

The context of a punchline is left alone. Which talk a piece is from is not in the files: each is a group of its own, and
that the folds are apart in speakers is the authors' word. Version 1 has 16,514 pieces by the authors' notebook; of version
2 no count was found.
"""

# L words, D features

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.pickles.reader import read_pickle
from torchmsaf.data.prepare.utterances.alignment import clean
from torchmsaf.data.prepare.utterances.utterance import (
    Item,
    Lost,
    Said,
    Settings,
    Source,
    Utterance,
    choose_text,
    in_no_fold,
    stamp_of,
)
from torchmsaf.data.sets.base import DataSet
from torchmsaf.data.standard_folds import Folds
from torchmsaf.errors import DataError

LABELS, FOLDS = "humor_label_sdk.pkl", "data_folds.pkl"
FEATURES = {"video": "openface_features_sdk.pkl", "audio": "covarep_features_sdk.pkl"}
LANGUAGE = ("language_sdk.pkl", "word_embedding_indexes_sdk.pkl")
EMBEDDINGS = "word_embedding_list.pkl"
_PARTS = {"train": "train", "dev": "validation", "test": "test"}
# a pickle can name one list many times, so a small file can hold what is large once it is written out
_MOST_VALUES = 2**26  # of the features of a piece
_MOST_TEXT = 2**16  # words, and characters, of a piece
_MOST_BITS = 128  # of a whole number; Python refuses to print very large ones

Files = dict[str, Any]


def read_ur_funny(data_set: DataSet, raw: Path, settings: Settings, folds: Folds | None) -> Source:
    """The punchlines of UR-FUNNY. The files are in memory while they are prepared.

    Args:
        data_set: this one.
        raw: a folder that the pickles are in, or in a folder of.
        settings: the rules.
        folds: of pieces by their ids, in place of the set's own.

    Raises:
        DataError: a file is missing, cannot be read or has another layout; or the settings ask for what is not there.
    """
    if settings.alignment == "published":
        raise DataError(f"{data_set.title} comes aligned by word; --alignment published needs frames with their times")
    places = _find(raw)
    files: Files = {name: _read(path) for name, path in places.items() if name != EMBEDDINGS}
    language: dict[Any, Any] = next((files[name] for name in LANGUAGE if name in files), {})
    first: Any = next((said for said in language.values() if isinstance(said, Mapping)), {})
    words = any(key in first for key in ("punchline_features", "punchline_sentence"))
    text = choose_text(settings, raw, features=EMBEDDINGS in places and bool(language), words=words)
    files["language"] = language
    files["embeddings"] = _read_embeddings(places[EMBEDDINGS]) if text == "given" else None
    items: list[Item] = []
    lost: list[Lost] = []
    parts = _parts(places[FOLDS], files[FOLDS]) if folds is None else None
    for key in files[LABELS]:
        _check_id(places[LABELS], key)
    for key in sorted(files[LABELS], key=lambda one: natural_key(str(one))):
        part = parts.get(key) if parts is not None else folds.part(str(key)) if folds is not None else None
        if part is not None:
            make, say = partial(_make, files, key, settings, text), partial(_say, files, key, settings)
            items.append(Item(f"{key}.0", str(key), part, make, say))
        else:
            lost.append(Lost(str(key), str(key), "is in no fold" if folds is None else in_no_fold(folds)))
    unlabelled = {} if parts is None else {key: part for key, part in parts.items() if key not in files[LABELS]}
    lost += [Lost(str(key), str(key), "has no label", part) for key, part in unlabelled.items()]
    features = FEATURES | ({"text": EMBEDDINGS} if text == "given" else {})
    return Source(
        kind="punchlines",
        alignment="word",
        folds="given" if folds is None else folds.name,
        text=text,
        features=features,
        items=tuple(items),
        lost=tuple(lost),
        stamp=stamp_of(places.values()),
        notes=(
            "the punchlines alone; their context is left alone",
            *(f"{name}: {path}" for name, path in features.items()),
        ),
    )


UR_FUNNY = DataSet(
    name="ur_funny",
    title="UR-FUNNY",
    url="https://github.com/ROC-HCI/UR-FUNNY",
    citation="Hasan, Rahman, Zadeh, Zhong, Tanveer, Morency and Hoque, EMNLP 2019",
    classes=("not humorous", "humorous"),
    utterances={},
    sequences={},
    reader=read_ur_funny,
)


def _find(raw: Path) -> dict[str, Path]:
    if not raw.is_dir():
        raise DataError(f"{raw} is no folder; the folder with {LABELS} and the other files of UR-FUNNY is needed")
    places: dict[str, Path] = {}
    for path in sorted(raw.rglob("*.pkl")):
        if path.name in (LABELS, FOLDS, *FEATURES.values(), *LANGUAGE, EMBEDDINGS):
            if path.name in places:
                raise DataError(f"{raw} holds both {places[path.name]} and {path}: give the folder of one version")
            places[path.name] = path
    if missing := [name for name in (LABELS, FOLDS, *FEATURES.values()) if name not in places]:
        raise DataError(f"{raw} lacks {', '.join(missing)} of UR-FUNNY; download it ({UR_FUNNY.url})")
    return places


def _read(path: Path) -> dict[Any, Any]:
    read = read_pickle(path)
    if not isinstance(read, dict) or not read:
        raise DataError(f"{path} holds a {type(read).__name__}; a dictionary by the id of a piece is needed")
    return read


def _read_embeddings(path: Path) -> Sequence[Any] | np.ndarray:
    read = read_pickle(path)
    if not _is_rows(read):
        raise DataError(f"{path} holds a {type(read).__name__}; a list with a row of numbers a word is needed")
    rows: Sequence[Any] | np.ndarray = read
    return rows


def _check_id(path: Path, key: Any) -> None:
    if not isinstance(key, str) and not _is_whole(key):
        raise DataError(f"{path} has an id that is a {type(key).__name__}; a text or a whole number is needed")
    if not isinstance(key, str) and int(key).bit_length() > _MOST_BITS:
        raise DataError(f"{path} has an id of {int(key).bit_length()} bits; {_MOST_BITS} are the most")


def _parts(path: Path, folds: Mapping[str, Any]) -> dict[Any, str]:
    parts: dict[Any, str] = {}
    for name, part in _PARTS.items():
        if name not in folds:
            raise DataError(f"{path} has no {name!r}; it has {', '.join(map(str, folds))}")
        keys = folds[name]
        if not isinstance(keys, list | tuple | set | frozenset) and not (
            isinstance(keys, np.ndarray) and keys.ndim == 1
        ):
            raise DataError(f"{path}: {name!r} is a {type(keys).__name__}; a list of ids is needed")
        for key in keys:
            _check_id(path, key)
            if parts.setdefault(key, part) != part:
                raise DataError(
                    f"{path}: {key} is both in {parts[key]} and in {part}; each piece belongs into one part"
                )
    return parts


def _say(files: Files, key: Any, settings: Settings) -> Said:
    said = _entry(files["language"], key, "language")
    words = _words(said)
    if not words:
        raise DataError("has no words")
    return tuple(words[: settings.steps]), _sentence(said) or " ".join(words)


def _make(files: Files, key: Any, settings: Settings, text: str) -> Utterance:
    target = _target(files[LABELS][key])
    arrays = {name: _punchline(files[path], key, name) for name, path in FEATURES.items()}
    said = _entry(files["language"], key, "language")
    if text == "given":
        arrays["text"] = _embedded(files["embeddings"], said.get("punchline_embedding_indexes"))
    words = _words(said)
    lengths = {name: len(array) for name, array in arrays.items()}
    if words or text in ("words", "model"):
        lengths["words"] = len(words)
    if len(set(lengths.values())) > 1:
        raise DataError("has other numbers of words: " + ", ".join(f"{n} in {name}" for name, n in lengths.items()))
    cleaned = {name: clean(array[: settings.steps]) for name, array in arrays.items()}
    return Utterance(
        target=target,
        arrays={name: one.features for name, one in cleaned.items()},
        words=tuple(words[: settings.steps]),
        sentence=_sentence(said) or " ".join(words),
        cut=max(0, lengths["video"] - settings.steps),
        infinite={name: one.infinite for name, one in cleaned.items()},
        nan={name: one.nan for name, one in cleaned.items()},
        empty={name: int((~arrays[name][: settings.steps].any(axis=1)).sum()) for name in FEATURES},
    )


def _entry(entries: Mapping[Any, Any], key: Any, name: str) -> Mapping[str, Any]:
    """What a file has of a piece; nothing where it has none."""
    entry = entries.get(key, {})
    if not isinstance(entry, Mapping):
        raise DataError(f"its {name} entry is a {type(entry).__name__}; a dictionary is needed")
    return entry


def _target(label: Any) -> int:
    # what is nested is not printed: it can be very large
    if not isinstance(label, int | float | np.generic):
        raise DataError(f"its label is a {type(label).__name__}; 0 or 1 is needed")
    if not _is_number(label) or label not in (0, 1):
        shown = "a number of too many digits" if _is_large(label) else f"{label!r:.60}"
        raise DataError(f"its label is {shown}; 0 or 1 is needed")
    return int(label)


def _sentence(said: Mapping[str, Any]) -> str:
    sentence = said.get("punchline_sentence")
    if sentence is None:
        return ""
    if not isinstance(sentence, str):
        raise DataError(f"its sentence is a {type(sentence).__name__}; text is needed")
    if len(sentence) > _MOST_TEXT:
        raise DataError(f"its sentence has {len(sentence)} characters; {_MOST_TEXT} are the most")
    return str(sentence)


def _words(said: Mapping[str, Any]) -> list[str]:
    """The words; the sentence of version 2 is these words and a full stop, with blanks between."""
    words = said.get("punchline_features")
    if words is None:
        return [word.lower() for word in _sentence(said).removesuffix(" .").split()]
    if not _is_list(words):
        raise DataError(f"its words are a {type(words).__name__}; a list of texts is needed")
    if len(words) > _MOST_TEXT:
        raise DataError(f"has {len(words)} words; {_MOST_TEXT} are the most")
    if other := next((type(word).__name__ for word in words if not isinstance(word, str)), None):
        raise DataError(f"a word of it is a {other}; text is needed")
    if (characters := sum(map(len, words))) > _MOST_TEXT:
        raise DataError(f"its words have {characters} characters; {_MOST_TEXT} are the most")
    return [str(word).lower() for word in words]


def _punchline(features: Mapping[Any, Any], key: Any, name: str) -> np.ndarray:
    found = _entry(features, key, name).get("punchline_features")
    if found is None:
        raise DataError(f"has no {name} features")
    return _table(found, name)


def _embedded(embeddings: Sequence[Any] | np.ndarray, indices: Any) -> np.ndarray:
    if indices is None:
        raise DataError("has no word indices")
    if isinstance(indices, np.ndarray):
        indices = indices.reshape(-1)
    if not _is_list(indices):
        raise DataError(f"its word indices are a {type(indices).__name__}; a list of whole numbers is needed")
    if len(indices) > _MOST_TEXT:
        raise DataError(f"has {len(indices)} word indices; {_MOST_TEXT} are the most")
    if other := next((type(one).__name__ for one in indices if not _is_whole(one)), None):
        raise DataError(f"a word index of it is a {other}; a whole number is needed")
    for index in indices:
        if not 0 <= index < len(embeddings):
            shown = "of too many digits" if _is_large(index) else str(index)
            raise DataError(f"has word index {shown} and {EMBEDDINGS} has {len(embeddings)} rows")
    return _table([embeddings[index] for index in indices], "text")


def _table(rows: Any, name: str) -> np.ndarray:
    """Rows as ``(L, D)`` float64, after their sizes and what is in them are known."""
    if not _is_rows(rows):
        found = f"of shape {rows.shape}" if isinstance(rows, np.ndarray) else f"a {type(rows).__name__}"
        raise DataError(f"its {name} features are {found}; a row a word is needed")
    first = rows[0] if len(rows) else ()
    width = len(first) if _is_list(first) else 0
    if not 0 < len(rows) * width <= _MOST_VALUES:
        raise DataError(
            f"its {name} features are {len(rows)} rows, the first of {width} numbers; a row a word is needed, and "
            f"{_MOST_VALUES} numbers at the most"
        )
    if not (isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "fiub"):
        checked: set[int] = set()  # rows that are there many times are looked at once
        for number, row in enumerate(rows):
            if not _is_list(row) or len(row) != width:
                found = f"{len(row)} numbers" if _is_list(row) else f"a {type(row).__name__}"
                raise DataError(
                    f"its {name} features are no table: row {number} is {found}, the first has {width} numbers"
                )
            if id(row) not in checked and (other := _no_number(row)) is not None:
                raise DataError(f"its {name} features are no table of numbers: row {number} has a {other}")
            if isinstance(rows, list | tuple):  # an array makes its rows anew, and so their ids
                checked.add(id(row))
    try:
        return np.asarray(rows if isinstance(rows, np.ndarray) and rows.ndim == 2 else list(rows), dtype=np.float64)
    except OverflowError as error:
        raise DataError(f"its {name} features have a number that is too large: {error}") from error


def _is_rows(value: Any) -> bool:
    """Whether it can hold rows: a list, or an array that has them."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim in (1, 2))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _no_number(row: Any) -> str | None:
    """The type of the first value of a row that is no number; None = all are."""
    if isinstance(row, np.ndarray) and row.dtype.kind in "fiub":
        return None
    return next((type(value).__name__ for value in row if not _is_number(value)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating | np.bool_)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_large(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > _MOST_BITS
