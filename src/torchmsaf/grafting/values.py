"""The tensor that is fused out of what a layer gives, and back into it.

Layers give tensors, packed sequences, tuples, mappings (``ModelOutput`` is one) and plain objects. ``find`` and ``put``
are inverses: ``put(x, path, find(x, path))`` is ``x``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from torchmsaf.errors import GraftError

Path = tuple[int | str, ...]
# of a mapping, before whatever tensor comes first
_PREFERRED = ("last_hidden_state", "logits")


def default_path(output: Any, owner: str) -> Path:
    """Where the tensor that is fused stands in a layer's output: the first one, named ones first.

    Raises:
        GraftError: there is none.
    """
    if isinstance(output, Tensor | PackedSequence):
        return ()
    if isinstance(output, Mapping):
        for key in (*_PREFERRED, *output):
            if key in output and _has_tensor(output[key]):
                return (key, *default_path(output[key], owner))
    elif isinstance(output, tuple | list):
        for index, part in enumerate(output):
            if _has_tensor(part):
                return (index, *default_path(part, owner))
    raise GraftError(f"{owner}: no tensor in its output ({said(output)}); say which part with Tap(..., element=...)")


def as_path(element: int | str | Path) -> Path:
    """An element as a path: an index or a key is a path of one step."""
    return element if isinstance(element, tuple) else (element,)


def element_path(element: int | str | Path | None, output: Any, owner: str) -> Path:
    """The path that an element says, or the default one.

    Raises:
        GraftError: None was said, and the output has no tensor.
    """
    if element is None:
        return default_path(output, owner)
    return as_path(element)


def logits_path(output: Any, owner: str) -> Path:
    """Where a network's prediction stands in its output: the tensor, ``logits``, or the first of a tuple.

    Raises:
        GraftError: a mapping without ``logits``.
    """
    if isinstance(output, Tensor):
        return ()
    several = isinstance(output, tuple | list) and len(output) > 0 and not isinstance(output, PackedSequence)
    if isinstance(output, Mapping):
        if isinstance(output.get("logits"), Tensor):
            return ("logits",)
    elif isinstance(getattr(output, "logits", None), Tensor):
        return ("logits",)
    elif several and isinstance(output[0], Tensor):
        return (0,)
    raise GraftError(
        f"{owner}: which part of its output ({said(output)}) is for the head? Say it with outputs={{name: key}}, "
        "or use head=None"
    )


def find(output: Any, path: Path, owner: str) -> Any:
    """The part at a path of indices and keys.

    Raises:
        GraftError: nothing is there.
    """
    for step in path:
        try:
            if isinstance(output, Tensor):
                raise TypeError("a tensor has no parts")
            step = _key(output, step)
            output = (
                getattr(output, step) if isinstance(step, str) and not isinstance(output, Mapping) else output[step]
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise GraftError(f"{owner}: its output ({said(output)}) has no element {step!r}") from error
    return output


def normal_path(output: Any, path: Path, owner: str) -> Path:
    """A path as :func:`tensors` writes it: keys of a mapping by name, places in a tuple by number, from the front.

    Raises:
        GraftError: nothing is there.
    """
    steps = []
    for step in path:
        inner = find(output, (step,), owner)
        steps.append(_key(output, step))
        output = inner
    return tuple(steps)


def put(output: Any, path: Path, part: Any) -> Any:
    """A shallow copy of an output with another part at the path; nothing is changed in place."""
    if not path:
        return part
    step, rest = _key(output, path[0]), path[1:]
    if isinstance(step, str) and not isinstance(output, Mapping):
        changed = copy.copy(output)
        # also of a frozen dataclass, whose copy is nobody else's yet
        object.__setattr__(changed, step, put(getattr(output, step), rest, part))
        return changed
    inner = put(output[step], rest, part)
    if isinstance(output, tuple):
        parts = [inner if index == step else other for index, other in enumerate(output)]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    changed = copy.copy(output)
    changed[step] = inner
    return changed


def with_own(output: Any, path: Path) -> Any:
    """An output with a copy of the tensor at the path, for who looks at it when others may have changed it in place."""
    part = find(output, path, "")
    if isinstance(part, PackedSequence):
        return put(output, path, part._replace(data=part.data.clone()))
    return put(output, path, part.clone()) if isinstance(part, Tensor) else output


def said(output: Any) -> str:
    """An output in a few words, for a message."""
    if isinstance(output, Tensor):
        return f"tensor {tuple(output.shape)}"
    if isinstance(output, PackedSequence):
        return f"packed sequence of {tuple(output.data.shape)}"
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {', '.join(said(part) for part in output)}"
    return type(output).__name__


def _key(output: Any, step: int | str) -> Any:
    """A step as the output itself counts: the key of an index in a mapping, the index of a field in a tuple."""
    if isinstance(output, Mapping):
        return list(output)[step] if isinstance(step, int) and step not in output else step
    if isinstance(output, tuple | list):
        index = output._fields.index(step) if isinstance(step, str) and hasattr(output, "_fields") else step
        return range(len(output))[index] if isinstance(index, int) else index
    return step


def _has_tensor(part: Any) -> bool:
    if isinstance(part, Tensor | PackedSequence):
        return True
    if isinstance(part, Mapping):
        return any(map(_has_tensor, part.values()))
    return isinstance(part, tuple | list) and any(map(_has_tensor, part))


def tensors(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor | PackedSequence]]:
    """All tensors of an output, with where they stand."""
    if isinstance(output, Tensor | PackedSequence):
        yield path, output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from tensors(part, (*path, key))
    elif isinstance(output, tuple | list):
        for index, part in enumerate(output):
            yield from tensors(part, (*path, index))
