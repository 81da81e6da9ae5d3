"""Prepared utterances as samples: sequences of different lengths, padded at their end when a batch asks for them."""

# n utterances, C channels, T steps

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchmsaf.data.folds import make_protocol
from torchmsaf.data.joined import joined
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.samples import PARTS, Samples
from torchmsaf.data.stored import StoredFeatures
from torchmsaf.errors import DataError
from torchmsaf.ops.steps import step_mask

MODALITIES = ("video", "audio", "text")  # the order in which the MSAF paper joins them
_FIRST_WORD = 2  # 0 is padding, 1 a word that training does not have
_AT_ONCE = 2**16  # steps


class Sequences(StoredFeatures):
    """One modality of prepared utterances: ``(n, C, T)``, zeros behind each one's end.

    All utterances lie end to end in a file that processes share (:mod:`torchmsaf.data.joined`); padding is made batch by
    batch.

    Args:
        prepared: where they are read.
        name: of the modality.
        steps: T.
        scale: whether they are to be scaled by channel; else they are ready as they are.

    Raises:
        DataError: an utterance lacks the modality, or has another number of channels or more than T steps.
    """

    slow = False

    def __init__(self, prepared: Prepared, name: str, steps: int, *, scale: bool = True) -> None:
        self.prepared, self.name, self.steps, self.scale = prepared, name, steps, scale
        shapes = [_shape(prepared, row, name, steps) for row in range(len(prepared))]
        if len({channels for _, channels in shapes}) != 1:
            raise DataError(
                f"{prepared.path}: {name!r} has {sorted({c for _, c in shapes})} channels; one number is needed"
            )
        self.lengths = torch.tensor([length for length, _ in shapes])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.shape = torch.Size((len(shapes), shapes[0][1], steps))
        self.mean: Tensor | None = None
        self.factor: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Utterances ``(b, C, T)``: a view of ``(b, T, C)``, the layout of recurrent networks."""
        flat, lengths = self.open(), self.lengths[rows]
        places = self.starts[rows, None] + torch.arange(self.steps)
        x = flat[places.clamp(max=len(flat) - 1)]  # behind the end: what is zeroed below
        if self.mean is not None and self.factor is not None:
            x.sub_(self.mean).mul_(self.factor)
        x.masked_fill_(~step_mask(lengths, self.steps).unsqueeze(2), 0)
        return x.transpose(1, 2)

    def take(self, rows: Tensor) -> Sequences:
        """Some of the utterances, not read yet."""
        some = copy.copy(self)
        some.lengths, some.starts = self.lengths[rows], self.starts[rows]
        some.shape = torch.Size((len(some.lengths), *self.shape[1:]))
        return some

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Over the real steps of rows ``(b,)``."""
        if not self.scale:
            return None
        flat = self.open()
        spans = zip(self.starts[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        places = torch.cat([torch.arange(start, start + length) for start, length in spans])
        total = torch.zeros(self.shape[1], dtype=torch.float64)
        low, high = torch.full((self.shape[1],), torch.inf), torch.full((self.shape[1],), -torch.inf)
        for piece in places.split(_AT_ONCE):
            x = flat[piece]
            total, low, high = total + x.double().sum(0), x.amin(0).minimum(low), x.amax(0).maximum(high)
        mean = total / len(places)
        squares = torch.stack([(flat[piece].double() - mean).square().sum(0) for piece in places.split(_AT_ONCE)]).sum(
            0
        )
        return mean, torch.where(low == high, 1.0, (squares / len(places)).sqrt())

    def scaled(self, mean: Tensor, std: Tensor) -> Sequences:
        """The same utterances, scaled."""
        some = copy.copy(self)
        some.mean, some.factor = mean.float(), (1 / std).float()
        return some

    def open(self) -> Tensor:
        """All steps of all prepared utterances, ``(total, C)``, not scaled; the file of them is made if need be."""
        key = (str(self.prepared.path), self.prepared.fingerprint, self.name)
        if key not in _READ:
            _READ[key] = joined(self.prepared, self.name)
        return _READ[key]


# of this process: folder, fingerprint and modality -> values, mapped from a file
_READ: dict[tuple[str, str, str], Tensor] = {}


def _shape(prepared: Prepared, row: int, name: str, steps: int) -> tuple[int, int]:
    entry = prepared.entries[row]
    shape = entry.shapes.get(name)
    if shape is None:
        raise DataError(f"{prepared.path}: {entry.id} has no {name!r}; it has {', '.join(entry.shapes) or 'nothing'}")
    if len(shape) != 2 or not 1 <= shape[0] <= steps:
        raise DataError(f"{prepared.path}: {name!r} of {entry.id} is {shape}; (1 to {steps} steps, channels) is needed")
    return shape[0], shape[1]


def modalities_of(prepared: Prepared) -> tuple[str, ...]:
    """The modalities that :func:`sequence_samples` gives."""
    shapes = prepared.entries[0].shapes if len(prepared) else {}
    return tuple(
        name for name in MODALITIES if name != "text" or name in shapes or prepared.parameters.get("text") == "words"
    )


def sequence_samples(prepared: Prepared, name: str | None = None) -> tuple[Samples, tuple[str, ...] | None]:
    """Prepared utterances as samples with video, audio and text, their videos as groups, and their parts.

    Features are scaled later, by channel. With the alignment ``published`` they are left as they are, and have no
    lengths: padding is a part of them, as in the authors' code.

    Where words are to be learned, they are numbers of a vocabulary: all words that the samples which train (as
    :func:`make_protocol` splits) have twice or more.

    Args:
        prepared: as ``torchmsaf prepare mosei`` makes it.
        name: what tables call the data set; None = the set's own name.

    Returns:
        The samples, and the vocabulary from number 2 on; None where no words are learned.

    Raises:
        DataError: it is prepared from other data than utterances, or something in it does not fit.
    """
    if "alignment" not in prepared.parameters:
        raise DataError(f"{prepared.path} is prepared from {prepared.set_name!r}, which has no utterances")
    if not len(prepared):
        raise DataError(f"{prepared.path} has no utterances")
    facts = [entry.facts for entry in prepared.entries]
    ids = tuple(entry.id for entry in prepared.entries)
    shapes = [size for entry in prepared.entries for size in entry.shapes.values()]
    longest = max(shape[0] for shape in shapes) if shapes else 1
    steps = 1 if longest == 1 else int(prepared.parameters.get("steps") or longest)
    padded = prepared.parameters["alignment"] != "published"
    features: dict[str, Any] = {}
    for modality in MODALITIES:
        if modality != "text" or "text" in prepared.entries[0].shapes:
            features[modality] = Sequences(prepared, modality, steps, scale=padded)
    for value in features.values():
        value.open()  # before several processes do
    lengths = {modality: value.lengths for modality, value in features.items()} if padded else {}
    parts = tuple(_text(one, "part", own) for one, own in zip(facts, ids, strict=True))
    if wrong := sorted(set(parts) - set(PARTS)):
        raise DataError(f"{prepared.path}: parts {wrong} are none of {', '.join(PARTS)}: prepare it again")
    classes = prepared.parameters.get("classes")
    targets = [_number(one, own) for one, own in zip(facts, ids, strict=True)]
    groups = tuple(_text(one, "group", own) for one, own in zip(facts, ids, strict=True))
    said = [prepared.fingerprint, targets, parts, groups]
    samples = Samples(
        name=name or prepared.set_name,
        features=features,
        target=torch.tensor(targets, dtype=torch.float32 if classes is None else torch.int64),
        present=torch.ones(len(ids), len(features), dtype=torch.bool),
        ids=ids,
        classes=None if classes is None else tuple(classes),
        groups=groups,
        parts=parts,
        fingerprint=hashlib.sha256(json.dumps(said).encode()).hexdigest(),
        lengths=lengths,
    )
    return _with_words(samples, prepared, steps) if prepared.parameters.get("text") == "words" else (samples, None)


def _with_words(samples: Samples, prepared: Prepared, steps: int) -> tuple[Samples, tuple[str, ...]]:
    """The same samples with their words as numbers, of a vocabulary that those who train have."""
    words = [[str(word) for word in entry.facts.get("words") or ()][:steps] for entry in prepared.entries]
    if empty := [own for own, some in zip(samples.ids, words, strict=True) if not some]:
        raise DataError(
            f"{prepared.path}: {len(empty)} utterances have no words, the first {empty[0]}: prepare it again, with "
            "--text-model or --text none"
        )
    (fold,) = make_protocol(samples).folds
    counts = Counter(word for row in fold.train.tolist() for word in words[row])
    vocabulary = tuple(sorted(word for word, count in counts.items() if count > 1))
    numbers, lengths = _numbers(words, vocabulary, steps)
    said = [samples.fingerprint, vocabulary, words]
    changed = replace(
        samples,
        features={**samples.features, "text": numbers},
        present=torch.ones(len(words), len(samples.features) + 1, dtype=torch.bool),
        lengths={**samples.lengths, "text": lengths},
        tokens={"text": len(vocabulary) + _FIRST_WORD},
        fingerprint=hashlib.sha256(json.dumps(said).encode()).hexdigest(),
    )
    return changed, vocabulary


def _numbers(words: Sequence[Sequence[str]], vocabulary: Sequence[str], steps: int) -> tuple[Tensor, Tensor]:
    """Word numbers ``(n, 1, T)`` and lengths ``(n,)``."""
    number = {word: index for index, word in enumerate(vocabulary, start=_FIRST_WORD)}
    values = torch.zeros(len(words), 1, steps)
    for row, some in enumerate(words):
        values[row, 0, : len(some)] = torch.tensor([number.get(word, 1) for word in some], dtype=torch.float32)
    return values, torch.tensor([len(some) for some in words])


def _text(facts: dict[str, Any], key: str, utterance: str) -> str:
    value = facts.get(key)
    if not isinstance(value, str):
        raise DataError(f"utterance {utterance}: its {key} is {value!r}; a name is needed: prepare it again")
    return value


def _number(facts: dict[str, Any], utterance: str) -> float:
    value = facts.get("target")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"utterance {utterance}: its target is {value!r}; a number is needed: prepare it again")
    return value
