"""The files of a pretrained text encoder: where they lie, what they say, and a digest of what decides its outputs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmsaf.errors import DataError, in_one_line, require

Json = dict[str, Any]

_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_TOKENIZER = (*_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_SAFE = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
# what config.json says of who saved it, and of no output
_NO_MATTER = ("_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype")
_WIDTHS = ("hidden_size", "d_model", "dim", "emb_dim", "n_embd")  # names of one thing in several models' configurations
_WHAT_IS_NEEDED = "a folder with config.json, model.safetensors and the tokenizer's files is needed"


@dataclass(frozen=True)
class ModelFiles:
    """A pretrained model on disk.

    Attributes:
        name: as it was asked for; of a folder, the last part of its path.
        path: the folder.
        config: what ``config.json`` says.
        weights: the files that the weights are read from, ``.safetensors`` where there are any.
        tokenizer: the files that the tokenizer is read from.
    """

    name: str
    path: Path
    config: Json
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]

    @property
    def width(self) -> int | None:
        """Size of the model's vectors, None where ``config.json`` has none of the usual names for it."""
        sizes = [self.config[name] for name in _WIDTHS if isinstance(self.config.get(name), int)]
        return sizes[0] if sizes else None

    @property
    def is_safe(self) -> bool:
        """Whether the weights are ``.safetensors`` files, not pickles."""
        return all(path.suffix == ".safetensors" for path in self.weights)

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the sha256 over configuration, weights and tokenizer.

        It is of names and bytes: the same files give the same digest, wherever they lie. Of ``config.json`` it takes the
        values, without those that say who saved it.

        Raises:
            DataError: a file cannot be read.
        """
        config = {name: value for name, value in self.config.items() if name not in _NO_MATTER}
        whole = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for path in (*self.weights, *self.tokenizer):
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error}): copy or download the model again") from error
            whole.update(f"\n{path.name} {content}".encode())
        return whole.hexdigest()[:16]


def find_model(model: str) -> ModelFiles:
    """Find a pretrained model: a folder, or a name on Hugging Face, which is downloaded unless it is there already.

    Nothing of the model is run, and only its configuration, weights and tokenizer are downloaded; pickled weights only
    where there are no others.

    Args:
        model: path of a folder, or a name such as ``bert-base-uncased``.

    Raises:
        DataError: there is no such folder and the name cannot be had, or files are missing or cannot be read.
        MissingDependencyError: a name was given and transformers is not installed.
    """
    folder = Path(model).expanduser()
    if model.strip() and folder.is_dir():
        return _read(folder.resolve().name, folder)
    if not model.strip() or folder.exists() or model.startswith(("/", "./", "../", "~")):
        raise DataError(f"text model {model!r} is no folder; {_WHAT_IS_NEEDED}, or a name as bert-base-uncased")
    return _read(model, _download(model))


def _download(model: str) -> Path:
    hub = require("huggingface_hub", "text")
    try:
        folder = Path(hub.snapshot_download(model, allow_patterns=[_CONFIG, *_SAFE, *_TOKENIZER]))
        if not any((folder / name).exists() for name in _WEIGHTS):
            folder = Path(hub.snapshot_download(model, allow_patterns=[*_PICKLED]))
    except Exception as error:  # network, rights, names, disk: the hub's own errors have no common base
        offline = hub.constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set and it was not downloaded before" if offline else in_one_line(error)
        raise DataError(
            f"text model {model!r} is no folder here and cannot be had from Hugging Face ({why}): give the path of a "
            f"folder that holds it, or run once with a connection{' and without HF_HUB_OFFLINE' if offline else ''}; "
            "what was downloaded is found again without one"
        ) from error
    return folder


def _read(name: str, folder: Path) -> ModelFiles:
    label = f"text model {name!r} ({folder})"
    if (folder / "adapter_config.json").exists():
        raise DataError(f"{label} is an adapter of another model: merge the two and save the whole model")
    config = _json(folder / _CONFIG, label)
    kinds = [kind for kind in _WEIGHTS if (folder / kind).is_file()]
    if not kinds:
        raise DataError(f"{label} has no weights: {_WHAT_IS_NEEDED}")
    if not any((folder / vocabulary).is_file() for vocabulary in _VOCABULARIES):
        raise DataError(f"{label} has no tokenizer ({', '.join(_VOCABULARIES[:3])}, …): save the model's own beside it")
    tokenizer = tuple(folder / file for file in sorted(_TOKENIZER) if (folder / file).is_file())
    return ModelFiles(name, folder, config, _weights(folder / kinds[0], label), tokenizer)


def _weights(first: Path, label: str) -> tuple[Path, ...]:
    if first.suffix != ".json":
        return (first,)
    parts = _json(first, label).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise DataError(f"{label}: {first.name} does not say which files hold the weights: copy the model again")
    files = sorted(set(parts.values()))
    wrong = [file for file in files if Path(file).name != file or not (first.parent / file).is_file()]
    if wrong or not files:
        raise DataError(f"{label} lacks {wrong[0] if wrong else 'weights'}, which {first.name} lists: copy it again")
    return tuple(first.parent / file for file in files)


def _json(path: Path, label: str) -> Json:
    if not path.is_file():
        raise DataError(f"{label} has no {path.name}: {_WHAT_IS_NEEDED}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{label}: {path.name} cannot be read ({error}): copy or download the model again") from error
    if not isinstance(value, dict):
        raise DataError(f"{label}: {path.name} is no JSON object: copy or download the model again")
    return value
