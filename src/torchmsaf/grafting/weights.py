"""What a graft adds to its networks, as a file: kilobytes beside their megabytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from torchmsaf.errors import GraftError, require

_POINTS = "torchmsaf.points"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], points: Sequence[Sequence[str]]) -> None:
    """Write tensors to a safetensors file, which appears whole or not at all.

    Args:
        path: of the file.
        tensors: by name.
        points: the layers of each fusion point, as ``network.layer``, kept with them.

    Raises:
        GraftError: it cannot be written.
        MissingDependencyError: safetensors is not installed.
    """
    safetensors = require("safetensors.torch", "compare")
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    part = path.with_name(path.name + ".part")
    try:
        safetensors.save_file(copies, part, metadata={_POINTS: json.dumps(points)})
        part.replace(path)
    except Exception as error:  # of the system, or safetensors' own
        part.unlink(missing_ok=True)
        raise GraftError(f"{path}: cannot be written ({error})") from error


def load_tensors(path: Path, points: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """Read tensors that :func:`save_tensors` wrote.

    Raises:
        GraftError: no such file, not a safetensors file, or one of other fusion points.
        MissingDependencyError: safetensors is not installed.
    """
    safetensors = require("safetensors", "compare")
    if not path.is_file():
        raise GraftError(f"{path}: there is no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(_POINTS)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:
        raise GraftError(f"{path}: not a safetensors file ({error})") from error
    if said is not None and json.loads(said) != [list(point) for point in points]:
        raise GraftError(f"{path}: its fusions stand at {said}, and this model's at {json.dumps(points)}")
    return tensors


def check_state(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """That a state has the names and shapes of the model's own.

    Raises:
        GraftError: it has not; the message lists what is missing, unknown, or of another shape.
    """
    wrong = [f"{name!r} is missing" for name in own if name not in given]
    wrong += [f"{name!r} is not of this model" for name in given if name not in own]
    wrong += [
        f"{name!r} is {tuple(given[name].shape)} and should be {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if wrong:
        raise GraftError(f"{source}: {'; '.join(wrong[:5])}" + (f"; and {len(wrong) - 5} more" if wrong[5:] else ""))
