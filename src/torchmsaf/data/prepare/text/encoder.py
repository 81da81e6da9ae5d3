"""Words and sentences to vectors, with a pretrained text encoder that is used as it is and never trained."""

# B windows of a batch, T word-pieces, L words, D width of the encoder

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchmsaf.data.prepare.text.files import ModelFiles, find_model
from torchmsaf.data.prepare.text.model import USUAL_LIMIT, TextModel, choose_device, load_text_model
from torchmsaf.errors import DataError

Json = dict[str, Any]
Features = NDArray[np.float32]

_ENOUGH_WORDS = 10  # words that are all unknown are no accident


@dataclass(frozen=True, eq=False)
class _Window:
    """A piece of a sentence that the model takes at once.

    Attributes:
        sentence: number of the sentence.
        fields: the tokenizer's numbers, ``T`` each, among them ``input_ids``.
        words: number of the word in its sentence that each of the ``T`` pieces belongs to, -1 of special pieces.
    """

    sentence: int
    fields: dict[str, list[int]]
    words: list[int]


class TextEncoder:
    """A pretrained encoder from transformers: BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa, … It is frozen, in eval mode.

    The model is found and loaded when it is first needed. Calculations are in float32. Code that lies beside a model is
    never run; weights are read from ``.safetensors`` files, and pickled ones only as torch reads them with
    ``weights_only``.

    Args:
        model: path of a folder that ``save_pretrained`` wrote, or a name on Hugging Face as ``bert-base-uncased``.
        device: ``cpu``, ``cuda``, ``mps``, …; None = CUDA or MPS where there is one, else the processor.
        batch_size: sentences at once, from 1; fewer of those of more than 512 word-pieces.

    Attributes:
        batch_size: as given.

    Raises:
        DataError: ``batch_size`` is no whole number from 1.
    """

    def __init__(self, model: str, *, device: str | None = None, batch_size: int = 32) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise DataError(f"batch_size is {batch_size!r}; a whole number from 1 is needed")
        self.model = model
        self.batch_size = batch_size
        self._device = device
        self._known, self._unknown = False, 0  # whether a word was known, and how many were not before

    @property
    def width(self) -> int:
        """D, size of the vectors."""
        return self._files.width or int(self._loaded.model.config.hidden_size)

    def describe(self) -> Json:
        """What decides the vectors. transformers is not needed for it, but for models with unusual configurations.

        Returns:
            ``model`` (its name; of a folder the last part of its path), ``digest`` (over configuration, weights and
            tokenizer, equal for equal files), ``layer`` (``"last"``) and ``width``.

        Raises:
            DataError: as :func:`torchmsaf.data.prepare.text.files.find_model`.
            MissingDependencyError: transformers is needed and not installed.
        """
        return {"model": self._files.name, "digest": self._digest, "layer": "last", "width": self.width}

    def words(self, sentences: Sequence[Sequence[str]]) -> list[Features]:
        """A vector a word: the mean over its word-pieces in the model's last layer.

        A sentence goes to the model as its words joined by blanks. One with more word-pieces than the model takes is
        cut between words into windows of about equal length, which do not overlap and do not see each other; of a
        single word that is longer than that, the first pieces count. A word that has no pieces, as an empty one, has
        zeros. Sentences of a batch change one another's vectors within the rounding of float32.

        Args:
            sentences: each a sequence of words, in any case; the tokenizer makes them lower-case if the model needs it.

        Returns:
            ``(L, D)`` a sentence, L its number of words, 0 included; in the order given.

        Raises:
            DataError: the model cannot be found, is no encoder of text, does not know the words, or runs out of
                memory; or a sentence is no sequence of words.
            MissingDependencyError: transformers is not installed.
        """
        for number, words in enumerate(sentences):
            if isinstance(words, str) or not all(isinstance(word, str) for word in words):
                raise DataError(f"sentence {number} is {words!r:.60}; a sequence of words is needed")
        found: list[Features] = [np.zeros((len(words), self.width), dtype=np.float32) for words in sentences]
        # long ones first: what does not fit into memory says so at once, and the lengths of a batch are alike
        windows = sorted(self._windows(sentences), key=lambda window: len(window.words), reverse=True)
        for batch in _batches(windows, self.batch_size):
            self._notice_unknown(batch)
            states = self._run([window.fields for window in batch])
            for window, state in zip(batch, states, strict=True):
                _add_means(found[window.sentence], state, window.words)
        return found

    def published(self, sentences: Sequence[str], steps: int = 50) -> list[Features]:
        """A vector a position, as MSAF's released code has it for CMU-MOSEI: [CLS], the first 48 pieces, [SEP], padding.

        Padding comes last and is masked as keys, and the last layer is taken at all positions, those of padding
        included, as that code does (``bert_utils.py``). The tokenizer's lower-casing applies.

        Args:
            sentences: texts.
            steps: positions, from 3 to what the model takes.

        Returns:
            ``(steps, D)`` a sentence, in the order given.

        Raises:
            DataError: as :meth:`words`, or ``steps`` is out of range.
            MissingDependencyError: transformers is not installed.
        """
        limit = self._loaded.limit
        if not isinstance(steps, int) or isinstance(steps, bool) or not 3 <= steps <= limit:
            raise DataError(
                f"steps is {steps!r}; a whole number from 3 to {limit} is needed, which {self._loaded.name} takes"
            )
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise DataError(f"sentence {number} is {sentence!r:.60}; a text is needed")
        found: list[Features] = []
        for start in range(0, len(sentences), self.batch_size):
            texts = [_encodable(sentence) for sentence in sentences[start : start + self.batch_size]]
            encoded = self._tokenize(texts, truncation=True, max_length=steps)
            rows = [{name: encoded[name][row] for name in self._loaded.fields} for row in range(len(texts))]
            special = encoded["special_tokens_mask"]
            self._notice_unknown([_Window(row, rows[row], [-one for one in special[row]]) for row in range(len(texts))])
            found += list(self._run(rows, length=steps).numpy())
        return found

    @functools.cached_property
    def _files(self) -> ModelFiles:
        return find_model(self.model)

    @functools.cached_property
    def _digest(self) -> str:
        return self._files.digest()

    @functools.cached_property
    def _loaded(self) -> TextModel:
        return load_text_model(self._files, choose_device(self._device))

    def _tokenize(self, texts: list[str], **options: Any) -> Any:
        return self._loaded.tokenizer(
            texts, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False, **options
        )

    def _windows(self, sentences: Sequence[Sequence[str]]) -> Iterator[_Window]:
        kept = [[number for number, word in enumerate(words) if word.strip()] for words in sentences]
        rows = [row for row, numbers in enumerate(kept) if numbers]
        if not rows:
            return
        texts = [[_encodable(sentences[row][number]) for number in kept[row]] for row in rows]
        encoded = self._tokenize([" ".join(words) for words in texts])
        for place, row in enumerate(rows):
            # a piece belongs to the word of its last character: byte-level pieces have the blank before their word
            ends = list(np.cumsum([len(word) + 1 for word in texts[place]]) - 1)
            offsets, special = encoded["offset_mapping"][place], encoded["special_tokens_mask"][place]
            last = len(ends) - 1
            words = [
                -1 if mark else kept[row][min(bisect_right(ends, end - 1), last)]
                for (_, end), mark in zip(offsets, special, strict=True)
            ]
            fields = {name: encoded[name][place] for name in self._loaded.fields}
            for part in _cuts(words, self._loaded.limit):
                yield _Window(
                    row, {name: [values[i] for i in part] for name, values in fields.items()}, [words[i] for i in part]
                )

    def _run(self, rows: Sequence[dict[str, list[int]]], length: int | None = None) -> Tensor:
        """The last layer ``(B, T, D)`` of windows padded at the end to the longest, or to ``length``."""
        loaded = self._loaded
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        longest = int(lengths.max()) if length is None else length
        inputs = {name: torch.zeros(len(rows), longest, dtype=torch.int64) for name in loaded.fields}
        inputs["input_ids"].fill_(loaded.pad)
        for name, values in inputs.items():
            for place, row in zip(values, rows, strict=True):
                place[: len(row[name])] = torch.tensor(row[name])
        return loaded.last_layer(inputs, torch.arange(longest) < lengths[:, None])

    def _notice_unknown(self, batch: Sequence[_Window]) -> None:
        """Refuse a tokenizer that knows no word: some build one from the wrong files without a complaint."""
        unknown = self._loaded.tokenizer.unk_token_id
        if self._known or unknown is None:
            return
        pieces = [
            piece
            for window in batch
            for piece, word in zip(window.fields["input_ids"], window.words, strict=True)
            if word >= 0
        ]
        self._known = any(piece != unknown for piece in pieces)
        self._unknown += len(pieces)
        if not self._known and self._unknown >= _ENOUGH_WORDS:
            raise DataError(
                f"the tokenizer of text model {self._loaded.name!r} knows none of the first {self._unknown} words: each is "
                f"its unknown piece {self._loaded.tokenizer.unk_token!r}. Its vocabulary is missing or another language's: "
                "save the model's own tokenizer beside it, or give another model"
            )


def _encodable(text: str) -> str:
    """The text with ? for halves of surrogate pairs, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _cuts(words: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Places of the pieces of each window, special ones at both ends, cut between words."""
    places = [place for place, word in enumerate(words) if word >= 0]
    if not places or len(words) <= limit:
        if places:
            yield list(range(len(words)))
        return
    head, tail = list(range(places[0])), list(range(places[-1] + 1, len(words)))
    room = limit - len(head) - len(tail)
    wanted = ceil(len(places) / ceil(len(places) / room))  # so that the last window is no short rest
    starts = [i for i, place in enumerate(places) if i == 0 or words[place] != words[places[i - 1]]]
    begin = 0
    for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
        if stop - begin > room and start > begin:
            yield head + places[begin:start] + tail
            begin = start
        if stop - begin >= wanted or stop == len(places):
            yield head + places[begin : min(stop, begin + room)] + tail
            begin = stop


def _batches(windows: Sequence[_Window], size: int) -> Iterator[Sequence[_Window]]:
    """Windows by batches, the longest of each first."""
    start = 0
    while start < len(windows):
        count = max(1, min(size, size * USUAL_LIMIT // len(windows[start].words)))
        yield windows[start : start + count]
        start += count


def _add_means(vectors: Features, state: Tensor, words: Sequence[int]) -> None:
    """Write the mean of each word's pieces, ``state`` (T, D), into its row of ``vectors`` (L, D)."""
    of = torch.tensor(words)
    real = of >= 0
    present, place = torch.unique(of[real], return_inverse=True)
    sums = torch.zeros(len(present), state.shape[1]).index_add_(0, place, state[: len(words)][real])
    vectors[present.numpy()] = (sums / torch.bincount(place)[:, None]).numpy()
