"""Loading a text encoder of transformers, and what makes a model one: it reads text, both ways, with weights of its own."""

# B sentences, T word-pieces, D width of the encoder

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.text.files import ModelFiles
from torchmsaf.errors import DataError, in_one_line, require

USUAL_LIMIT = 512  # word-pieces, of a model that does not say its own
_TRY = "give a model that is an encoder of text alone, as bert-base-uncased or roberta-base"
_NOT_READ = "pooler"  # a layer behind the last one, which many files of weights lack


@dataclass(frozen=True, eq=False)
class TextModel:
    """A model on its device, frozen and in eval mode, and its tokenizer.

    Attributes:
        name: what errors call it.
        tokenizer: of the tokenizers library.
        model: from transformers.
        fields: of the tokenizer's output, those that the model takes, ``input_ids`` among them.
        limit: word-pieces that the model takes at once, with the special ones.
        pad: number of the padding piece.
        pieces: how many the model knows.
    """

    name: str
    tokenizer: Any
    model: Any
    fields: tuple[str, ...]
    limit: int
    pad: int
    pieces: int

    @torch.no_grad()
    def last_layer(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """The vectors of the last layer.

        Args:
            inputs: for each of ``fields``, ``(B, T)`` int64.
            mask: ``(B, T)`` bool, False = padding, which no piece attends to.

        Returns:
            ``(B, T, D)`` float32, on the processor.

        Raises:
            DataError: a piece is unknown to the model, the memory is too small, the model cannot encode text, or it
                gives values that are not finite.
        """
        device = self.model.device
        last = int(inputs["input_ids"].max())
        if last >= self.pieces:
            raise DataError(
                f"text model {self.name!r} has {counted(self.pieces, 'word-piece')}, and its tokenizer says number "
                f"{last}: the tokenizer is another model's; save the model's own beside it"
            )
        try:
            output = self.model(
                **{field: values.to(device) for field, values in inputs.items()},
                attention_mask=mask.to(device, torch.int64),
                return_dict=True,
            )
            states: Tensor = output.last_hidden_state.float().cpu()
        except torch.OutOfMemoryError as error:
            raise DataError(
                f"text model {self.name!r} needs more memory than {device} has for {counted(len(mask), 'sentence')} of "
                f"{mask.shape[1]} word-pieces: give a smaller batch size"
            ) from error
        except Exception as error:  # a model that is no encoder of text may say anything
            raise _no_encoder(self.name, in_one_line(error)) from error
        if states.shape[:2] != mask.shape:
            raise _no_encoder(self.name, f"it gives {tuple(states.shape)} for {tuple(mask.shape)} word-pieces")
        if not bool(torch.isfinite(states).all()):
            raise DataError(f"text model {self.name!r} gives NaN or infinite values: copy or download it again")
        return states


def load_text_model(files: ModelFiles, device: torch.device) -> TextModel:
    """Load an encoder. No code of the model's folder is run, and nothing is downloaded.

    Args:
        files: of the model.
        device: where it calculates.

    Raises:
        DataError: the model or the tokenizer cannot be loaded without running code, weights are missing, the tokenizer
            is a slow one or empty, or the model is no encoder of text: it reads from left to right, has a decoder, or
            takes something else.
        MissingDependencyError: transformers is not installed.
    """
    transformers = require("transformers", "text")
    where = {"trust_remote_code": False, "local_files_only": True}
    name, folder = files.name, str(files.path)
    with _quiet(transformers):
        config = _loaded(name, "configuration", transformers.AutoConfig.from_pretrained, folder, **where)
        if getattr(config, "is_encoder_decoder", False):
            raise _no_encoder(name, f"{config.model_type} is an encoder with a decoder")
        tokenizer = _loaded(name, "tokenizer", transformers.AutoTokenizer.from_pretrained, folder, **where)
        model, report = _loaded(
            name,
            "weights",
            transformers.AutoModel.from_pretrained,
            folder,
            config=config,
            torch_dtype=torch.float32,
            use_safetensors=files.is_safe,
            weights_only=True,
            output_loading_info=True,
            **where,
        )
    missing = sorted(key for key in report["missing_keys"] if _NOT_READ not in key.split("."))
    if missing:
        raise DataError(
            f"text model {name!r} lacks {counted(len(missing), 'weight')} that its configuration asks for, the first "
            f"{missing[0]}: config.json and weights are of two models, or the file is cut; copy or download it again"
        )
    taken = set(inspect.signature(model.forward).parameters)
    if not {"input_ids", "attention_mask"} <= taken:
        raise _no_encoder(name, f"{config.model_type} takes {', '.join(sorted(taken)[:3])}")
    ordinary = _ordinary_pieces(name, tokenizer)
    encoder = TextModel(
        name=name,
        tokenizer=tokenizer,
        model=model.to(device).float().eval().requires_grad_(False),
        fields=tuple(field for field in ("input_ids", "token_type_ids") if field in taken & set(tokenizer("a"))),
        limit=_limit(model, tokenizer),
        pad=_first_number(tokenizer.pad_token_id, getattr(config, "pad_token_id", None), 0),
        pieces=int(model.get_input_embeddings().weight.shape[0]),
    )
    _check_both_ways(encoder, ordinary)
    return encoder


def choose_device(name: str | None) -> torch.device:
    """The device of that name; of None, CUDA or MPS where there is one, else the processor.

    Raises:
        DataError: the device cannot be used.
    """
    if name is None:
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise DataError(f"device {name!r} cannot be used ({in_one_line(error)}): cpu works everywhere") from error


def _loaded(name: str, what: str, load: Any, folder: str, **options: Any) -> Any:
    try:
        return load(folder, **options)
    except Exception as error:  # a damaged or unusual folder may raise anything
        if "trust_remote_code" in str(error):
            raise DataError(
                f"text model {name!r} needs code that lies beside it, which torchmsaf does not run: {_TRY}"
            ) from error
        raise DataError(
            f"the {what} of text model {name!r} cannot be loaded ({in_one_line(error)}): copy or download it again, "
            f"or {_TRY}"
        ) from error


def _ordinary_pieces(name: str, tokenizer: Any) -> list[int]:
    """Numbers of the pieces that are not special, where the tokenizer is one that can be used."""
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer of text model {name!r} is none of the tokenizers library, which says where each piece lies: "
            f"save it as tokenizer.json, or {_TRY}"
        )
    tokenizer.truncation_side = tokenizer.padding_side = "right"
    special = set(tokenizer.all_special_ids)
    ordinary = sorted(number for number in tokenizer.get_vocab().values() if number not in special)
    if len(ordinary) < 2:
        raise DataError(
            f"the tokenizer of text model {name!r} has no vocabulary but {counted(len(special), 'special piece')}, so "
            "every word would be unknown: its tokenizer.json or vocab.txt is missing or empty; save the model's own"
        )
    return ordinary


def _limit(model: nn.Module, tokenizer: Any) -> int:
    """Word-pieces at once: the least of what the tokenizer, the configuration and the position embeddings say."""
    said = [getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from behind the padding's own
            said.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    limits = [int(one) for one in said if one is not None and 0 < one < 1_000_000]  # "no limit" is a huge number
    return min(limits, default=USUAL_LIMIT)


def _check_both_ways(encoder: TextModel, ordinary: list[int]) -> None:
    """Refuse a model whose first vector does not know the last piece: a decoder, by whatever name."""
    one, other = ordinary[len(ordinary) // 2], ordinary[-1]
    pieces = torch.tensor([[one, one, one], [one, one, other]])
    inputs = {field: pieces if field == "input_ids" else torch.zeros_like(pieces) for field in encoder.fields}
    states = encoder.last_layer(inputs, torch.ones_like(pieces, dtype=torch.bool))
    if torch.equal(states[0, 0], states[1, 0]):
        raise _no_encoder(encoder.name, f"{encoder.model.config.model_type} reads from left to right: it is a decoder")


def _no_encoder(name: str, why: str) -> DataError:
    return DataError(f"text model {name!r} is no encoder of text ({why}): {_TRY}")


def _first_number(*numbers: int | None) -> int:
    return next(number for number in numbers if number is not None)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' reports and progress bars: what matters of them is checked and raised."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
