"""Files of weights that others have released: tensors and plain containers, read with torch's restricted reader."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchmsaf.backbones import released_maps as maps
from torchmsaf.errors import DataError
from torchmsaf.ops.published import read_published

_SHOWN = 5
_STARTS = {b"<": "a web page", b"version https://git-lfs": "a Git LFS pointer, not the file itself"}


class ReleasedFile:
    """The tensors of one file, which of them were used, and what was wrong."""

    def __init__(self, path: Path, state: dict[str, Tensor], outside: Mapping[str, Any]) -> None:
        self.path, self.state, self.outside = path, state, outside
        self.used: set[str] = set()
        self.left: dict[str, str] = {}
        self.wrong: list[str] = []
        self.counters = 0

    def take(self, shapes: maps.Shapes, key_of: Callable[[str], str] = str) -> dict[str, Tensor]:
        """The tensors of one network; what is missing or does not fit is noted, see :meth:`check`."""
        taken: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            key = key_of(name)
            tensor = self.state.get(key)
            if tensor is None and name.endswith(maps.COUNTER):
                taken[name] = torch.zeros((), dtype=torch.int64)
                self.counters += 1
            elif tensor is None:
                self.wrong.append(f"{key} is missing, {shape} is needed")
            elif tuple(tensor.shape) != shape:
                self.wrong.append(f"{key} is {tuple(tensor.shape)}, {shape} is needed")
            elif problem := _unusable(name, tensor):
                self.wrong.append(f"{key} {problem}")
            else:
                self.used.add(key)
                taken[name] = own_copy(tensor)
        return taken

    def check(self, what: str) -> None:
        """Raise what is wrong, the first few of it; a tensor that is neither used nor left out on purpose is wrong too."""
        extra = [key for key in self.state if key not in self.used and key not in self.left]
        if not self.wrong:
            self.wrong = [f"{key} has no place in it" for key in extra]
        if not self.wrong:
            return
        more = f"; and {len(self.wrong) - _SHOWN} more" if len(self.wrong) > _SHOWN else ""
        arch = self.outside.get("arch")
        said = f" (the file says arch {arch!r})" if isinstance(arch, str) else ""
        raise DataError(
            f"{self.path} does not fit {what}{said}: {'; '.join(self.wrong[:_SHOWN])}{more}. Is it another network's file?"
        )


def open_released(path: Path) -> ReleasedFile:
    """Read the file and find the tensors in it."""
    content = _load(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {_said(content)}, not a dict of tensors: is it a file of weights?")
    outside: dict[str, Any] = {}
    state: Any = content
    for inside in ("state_dict", "model_state_dict"):
        if isinstance(content.get(inside), dict):
            state = content[inside]
            outside = {str(key): value for key, value in content.items() if key != inside}
    if not state:
        raise DataError(f"{path} holds no tensors: the dict is empty")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(
                f"{path} is no file of weights that is known: under {key!r} is {_said(value)}, not a tensor; its keys are "
                f"{some_keys(list(state))}"
            )
        if value.is_nested or value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise DataError(
                f"{path}: the tensor under {key!r} is sparse, nested, quantized or empty; a dense one is needed"
            )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return ReleasedFile(path, dict(state), outside)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; a file of weights is needed")
    try:
        with path.open("rb") as stream:
            start = stream.read(64).lstrip()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for sign, what in _STARTS.items():
        if start.startswith(sign):
            raise DataError(f"{path} is {what}: download the file again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever the bytes lead it to
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise DataError(
                f"{path} is refused: it holds {match[1]}, and only tensors and plain containers are read; "
                "nothing of it was run. Ask for its state dict alone, or save that yourself if you trust the file"
            ) from error
        first = (str(error).strip().splitlines() or [""])[0].partition(". ")[0]
        first = first if " " in first else type(error).__name__
        raise DataError(
            f"{path} is truncated or no file that torch saved ({first}): compare its size with the one it was downloaded "
            "with, and download it again"
        ) from error


def _unusable(name: str, tensor: Tensor) -> str:
    """What is wrong with the values of a tensor of the right shape, or nothing."""
    if name.endswith(maps.COUNTER):
        return "" if tensor.dtype in (torch.int32, torch.int64) else f"is of {tensor.dtype}, an integer is needed"
    if not tensor.is_floating_point():
        return f"is of {tensor.dtype}, real numbers are needed"
    return "" if bool(torch.isfinite(tensor).all()) else "has values that are not finite"


def own_copy(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, weights in float32."""
    kind = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().to(kind, copy=True, memory_format=torch.contiguous_format)


def read_point(state: Mapping[str, Tensor], point: maps.Point) -> dict[str, Tensor]:
    """A published MSAF module under our names."""
    return {name: own_copy(tensor) for name, tensor in read_published(state, point.channels, point.prefix)[0].items()}


def _said(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def some_keys(keys: Sequence[object]) -> str:
    """The first few keys, for messages."""
    rest = ", …" if len(keys) > _SHOWN else ""
    return ", ".join(repr(key)[:60] for key in keys[:_SHOWN]) + rest
