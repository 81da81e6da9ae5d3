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

from collections.abc import Mapping
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
    first: Any = next(iter(language.values()), {})
    words = isinstance(first, Mapping) and any(key in first for key in ("punchline_features", "punchline_sentence"))
    text = choose_text(settings, raw, features=EMBEDDINGS in places and bool(language), words=words)
    files["language"] = language
    files["embeddings"] = read_pickle(places[EMBEDDINGS]) if text == "given" else None
    items: list[Item] = []
    lost: list[Lost] = []
    parts = _parts(places[FOLDS], files[FOLDS]) if folds is None else None
    for key in sorted(files[LABELS], key=lambda one: natural_key(str(one))):
        part = parts.get(key) if parts is not None else folds.part(str(key)) if folds is not None else None
        if part is not None:
            make, say = partial(_make, files, key, settings, text), partial(_say, files, key, settings)
            items.append(Item(f"{key}.0", str(key), part, make, say))
        else:
            lost.append(Lost(str(key), str(key), "is in no fold" if folds is None else in_no_fold(folds)))
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


def _parts(path: Path, folds: Mapping[str, Any]) -> dict[Any, str]:
    parts: dict[Any, str] = {}
    for name, part in _PARTS.items():
        if name not in folds:
            raise DataError(f"{path} has no {name!r}; it has {', '.join(map(str, folds))}")
        for key in folds[name]:
            if parts.setdefault(key, part) != part:
                raise DataError(
                    f"{path}: {key} is both in {parts[key]} and in {part}; each piece belongs into one part"
                )
    return parts


def _say(files: Files, key: Any, settings: Settings) -> Said:
    said = files["language"].get(key, {})
    words = _words(said)
    if not words:
        raise DataError("has no words")
    return tuple(words[: settings.steps]), str(said.get("punchline_sentence", "")) or " ".join(words)


def _make(files: Files, key: Any, settings: Settings, text: str) -> Utterance:
    label = files[LABELS][key]
    if label not in (0, 1):
        raise DataError(f"its label is {label!r}; 0 or 1 is needed")
    arrays = {name: _punchline(files[path], key, name) for name, path in FEATURES.items()}
    said = files["language"].get(key, {})
    if text == "given":
        arrays["text"] = _embedded(files["embeddings"], said.get("punchline_embedding_indexes"))
    words = _words(said)
    lengths = {name: len(array) for name, array in arrays.items()}
    if words or text in ("words", "model"):
        lengths["words"] = len(words)
    if len(set(lengths.values())) > 1:
        raise DataError("has other numbers of words: " + ", ".join(f"{n} in {name}" for name, n in lengths.items()))
    if not lengths["video"]:
        raise DataError("has no words")
    cleaned = {name: clean(array[: settings.steps]) for name, array in arrays.items()}
    return Utterance(
        target=int(label),
        arrays={name: one.features for name, one in cleaned.items()},
        words=tuple(words[: settings.steps]),
        sentence=str(said.get("punchline_sentence", "")) or " ".join(words),
        cut=max(0, lengths["video"] - settings.steps),
        infinite={name: one.infinite for name, one in cleaned.items()},
        nan={name: one.nan for name, one in cleaned.items()},
        empty={name: int((~arrays[name][: settings.steps].any(axis=1)).sum()) for name in FEATURES},
    )


def _words(said: Mapping[str, Any]) -> list[str]:
    """The words; the sentence of version 2 is these words and a full stop, with blanks between."""
    words = said.get("punchline_features")
    if words is None:
        words = str(said.get("punchline_sentence", "")).removesuffix(" .").split()
    return [str(word).lower() for word in words]


def _punchline(features: Mapping[Any, Any], key: Any, name: str) -> np.ndarray:
    found = features.get(key, {}).get("punchline_features")
    if found is None:
        raise DataError(f"has no {name} features")
    try:
        array = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"its {name} features are no table of numbers: {error}") from error
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"its {name} features have shape {array.shape}; a row a word is needed")
    return array


def _embedded(embeddings: Any, indices: Any) -> np.ndarray:
    if indices is None:
        raise DataError("has no word indices")
    rows = np.asarray(indices, dtype=np.int64).ravel()
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(embeddings)):
        raise DataError(f"has word index {rows.max()} and {EMBEDDINGS} has {len(embeddings)} rows")
    return np.asarray([np.asarray(embeddings[row], dtype=np.float64) for row in rows])
