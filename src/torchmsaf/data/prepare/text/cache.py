"""Vectors of words on disk, one utterance a file, so that an encoder runs once over each: a long work that may be killed.

The folder is one of prepared clips (:mod:`torchmsaf.data.prepared`), its set is ``text`` and its clips are utterances, each
with an array ``text``. The encoder's description is among the parameters, so another model has another folder. A
clip's stamp is of its words, so other words are encoded anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.shards import SUFFIX, read_array
from torchmsaf.errors import DataError

Features = NDArray[np.float32]
OnDone = Callable[[int, int], object]

SET_NAME = "text"
ARRAY = "text"
RECIPE = 1  # to be raised when the same words and the same encoder give other vectors


class Encoder(Protocol):
    """What encodes; :class:`torchmsaf.data.prepare.text.encoder.TextEncoder` is one.

    Attributes:
        batch_size: sentences at once.
    """

    batch_size: int

    def describe(self) -> dict[str, Any]:
        """All that decides the vectors, as plain JSON values."""
        ...

    def words(self, sentences: Sequence[Sequence[str]]) -> list[Features]:
        """``(L, D)`` a sentence of ``L`` words."""
        ...

    def published(self, sentences: Sequence[str], steps: int = 50) -> list[Features]:
        """``(steps, D)`` a sentence."""
        ...


class TextFeatures(Mapping[str, Features]):
    """Utterances' vectors by id. One is read from disk when it is asked for, and is not kept.

    Args:
        path: the version's folder.
        names: of the files by the utterances' ids, in the order of iteration.

    Attributes:
        path: as given.
    """

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self.path = path
        self._names = dict(names)

    def __getitem__(self, id: str) -> Features:
        file = self.path / "clips" / f"{self._names[id]}{SUFFIX}"
        values: Features = read_array(file, ARRAY).numpy().copy()
        return values

    def __contains__(self, id: object) -> bool:
        return id in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def cached_words(
    encoder: Encoder, utterances: Mapping[str, Sequence[str]], folder: str | Path, *, on_done: OnDone | None = None
) -> TextFeatures:
    """A vector a word for each utterance, encoded where it was not before.

    What is encoded is on disk after every batch, so a killed run goes on with the rest. No more than a batch is in
    memory. Several processes may do so in one folder; what both come to is then encoded twice.

    Args:
        encoder: is not asked to encode when everything is there.
        utterances: id -> its words, one or more.
        folder: where version folders are made, one for each encoder.
        on_done: is called with the number of utterances that are there and of all: once at the start and after each batch.

    Returns:
        id -> ``(L, D)`` float32, in the order of ``utterances``.

    Raises:
        DataError: an utterance has no words, or the folder cannot be written; and what the encoder raises.
        MissingDependencyError: safetensors, or what the encoder needs, is not installed.
    """
    for id, words in utterances.items():
        if isinstance(words, str) or not words:
            raise DataError(f"utterance {id} has {words!r:.60} for words; a sequence of one or more is needed")
    plain = {id: list(words) for id, words in utterances.items()}
    # of one length together: the less there is to pad; long ones first: too little memory is noticed at once
    order = sorted(plain, key=lambda id: len(plain[id]), reverse=True)
    return _cached(encoder, {"kind": "words"}, encoder.words, plain, order, folder, on_done)


def cached_published(
    encoder: Encoder,
    utterances: Mapping[str, str],
    folder: str | Path,
    *,
    steps: int = 50,
    on_done: OnDone | None = None,
) -> TextFeatures:
    """The same for the vectors of MSAF's released code: a vector a position, of [CLS], word-pieces, [SEP] and padding.

    Args:
        encoder: is not asked to encode when everything is there.
        utterances: id -> its sentence.
        folder: where version folders are made, one for each encoder and number of steps.
        steps: positions.
        on_done: as :func:`cached_words`.

    Returns:
        id -> ``(steps, D)`` float32, in the order of ``utterances``.

    Raises:
        DataError: the folder cannot be written; and what the encoder raises.
        MissingDependencyError: safetensors, or what the encoder needs, is not installed.
    """

    def encode(sentences: Sequence[str]) -> list[Features]:
        return encoder.published(sentences, steps)

    return _cached(
        encoder, {"kind": "published", "steps": steps}, encode, dict(utterances), list(utterances), folder, on_done
    )


def _cached(
    encoder: Encoder,
    kind: Mapping[str, Any],
    encode: Callable[[list[Any]], list[Features]],
    utterances: Mapping[str, Any],
    order: Sequence[str],
    folder: str | Path,
    on_done: OnDone | None,
) -> TextFeatures:
    writer = PreparedWriter(folder, SET_NAME, {"recipe": RECIPE, **kind, **encoder.describe()})
    there = writer.stamps()
    # a file is named by what was said, so nobody can take it for another text's
    names = {id: _name(said) for id, said in utterances.items()}
    said_by = {names[id]: utterances[id] for id in order}  # what is said twice is encoded once
    ahead = [name for name in said_by if name not in there]
    done = sum(name in there for name in names.values())
    if on_done is not None:
        on_done(done, len(order))
    times = Counter(names.values())
    for start in range(0, len(ahead), encoder.batch_size):
        batch = ahead[start : start + encoder.batch_size]
        found = encode([said_by[name] for name in batch])
        for name, values in zip(batch, found, strict=True):
            writer.write(name, {ARRAY: values}, {"of": said_by[name]})
        done += sum(times[name] for name in batch)
        if on_done is not None:
            on_done(done, len(order))
    if ahead or not (writer.path / "index.json").exists():
        writer.finish()
    return TextFeatures(writer.path, names)


def _name(said: str | list[str]) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:40]
