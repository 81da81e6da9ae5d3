"""One run of each network alone, on an example: which layers run, how often, in which order, and what they give."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from torchmsaf.errors import GraftError
from torchmsaf.grafting.layouts import knows_batch, layout_of
from torchmsaf.grafting.values import Path, default_path, find, normal_path, said, tensors
from torchmsaf.ops.modes import evaluating

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """One call of a layer.

    Attributes:
        order: when it ended, counted over all layers of the network.
        kind: its class.
        shapes: of all tensors that it gave, by where they stand; a packed sequence as ``(B, T, C)``.
        layouts: of these, where known.
        sure: those whose layout the layer's own class says, and not another layer that gave the same shape.
        default: which of them is fused where nothing is said; None = it gave no tensor.
        output: what it gave, in words.
        elements: where the elements that were asked for stand.
    """

    order: int
    kind: str
    shapes: Mapping[Path, Shape]
    layouts: Mapping[Path, str]
    sure: frozenset[Path]
    default: Path | None
    output: str
    elements: Mapping[Path, Path]


@dataclass(frozen=True)
class Sight:
    """What was seen of one network.

    Attributes:
        calls: of each layer, by the layer.
        output: what the network gave.
    """

    calls: Mapping[nn.Module, list[Seen]]
    output: Any


def call_network(network: nn.Module, value: Any) -> Any:
    """Call a network: a tuple is its positional arguments, a mapping its keyword arguments, else it is the argument."""
    if isinstance(value, Mapping):
        return network(**value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return network(*value)
    return network(value)


def observe(
    name: str, network: nn.Module, value: Any, asked: Mapping[nn.Module, Iterable[Path]] | None = None
) -> Sight:
    """Run a network once, in evaluation mode and without gradients, and note what each layer gives.

    Nothing is left behind: not in the network's buffers, nor in the state of the random numbers.

    Args:
        name: of the network.
        network: to run.
        value: its input.
        asked: elements of layers' outputs that somebody wants to find.

    Raises:
        GraftError: an output without an element that was asked for.
    """
    calls: dict[nn.Module, list[Seen]] = {}
    known: list[tuple[Shape, str]] = []
    unknown: list[tuple[Shape, dict[Path, str], Path]] = []
    count = 0

    def note(layer: nn.Module, args: Any, output: Any) -> None:
        nonlocal count
        shapes: dict[Path, Shape] = {}
        layouts: dict[Path, str] = {}
        sure = set()
        found = list(tensors(output))
        default = default_path(output, name) if found else None
        for path, tensor in found:
            shape = _shape(tensor)
            shapes[path] = shape
            layout = _own_layout(layer, path, default, tensor, shape, known)
            if layout is not None:
                known.append((shape, layout))
                if knows_batch(layer) or isinstance(tensor, PackedSequence):
                    sure.add(path)
            else:  # the last layer before that gave this shape
                layout = next((one for there, one in reversed(known) if there == shape), None)
            if layout is None:
                unknown.append((shape, layouts, path))
            else:
                layouts[path] = layout
        elements = {path: normal_path(output, path, f"network {name!r}") for path in (asked or {}).get(layer, ())}
        for path in elements.values():
            part = find(output, path, f"network {name!r}")
            if path not in shapes and isinstance(part, Tensor | PackedSequence):  # in an object of some class
                shapes[path] = _shape(part)
        seen = Seen(count, type(layer).__name__, shapes, layouts, frozenset(sure), default, said(output), elements)
        calls.setdefault(layer, []).append(seen)
        count += 1

    handles = [layer.register_forward_hook(note) for layer in network.modules()]
    try:
        with evaluating(network), _buffers_kept(network), torch.no_grad(), torch.random.fork_rng(_devices(network)):
            output = call_network(network, value)
    except Exception as error:
        error.add_note(f"(in network {name!r}, on its example)")
        raise
    finally:
        for handle in handles:
            handle.remove()
    for shape, layouts, path in unknown:
        if (layout := _like(shape, known)) is not None:
            layouts[path] = layout
    return Sight(calls, output)


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Put buffers back as they were, also those that a network changes in evaluation mode."""
    kept = [(layer, dict(layer._buffers)) for layer in network.modules()]
    copies = {b: b.clone() for _, buffers in kept for b in buffers.values() if b is not None and not is_lazy(b)}
    try:
        yield
    finally:
        for layer, buffers in kept:
            layer._buffers.update({name: b for name, b in buffers.items() if b is None or not is_lazy(b)})
        for buffer, copy in copies.items():
            if not buffer.is_meta and not torch.equal(buffer, copy):
                buffer.copy_(copy)


def _devices(network: nn.Module) -> list[int]:
    """The CUDA devices whose random numbers a run may draw."""
    return sorted({p.device.index for p in network.parameters() if p.device.type == "cuda"})


def _own_layout(
    layer: nn.Module,
    path: Path,
    default: Path | None,
    value: Tensor | PackedSequence,
    shape: Shape,
    known: Sequence[tuple[Shape, str]],
) -> str | None:
    """What a layer's class says of one of its tensors: of the first one, and of a recurrent layer's states."""
    if isinstance(value, PackedSequence):
        return "BTC"
    if path != default:
        return "TBC" if isinstance(layer, nn.RNNBase) and len(shape) == 3 else None
    layout = layout_of(layer, len(shape), shape)
    if layout != "BTC" or isinstance(layer, nn.RNNBase | nn.MultiheadAttention):
        return layout
    # of a linear layer, the last axis is known, and the others from what came before
    return next((one for there, one in reversed(known) if there[:-1] == shape[:-1] and one.endswith("C")), layout)


def _like(shape: Shape, known: Sequence[tuple[Shape, str]]) -> str | None:
    """The layout of the first layer with that shape; or, as tokens may be added, of the first with that batch and width."""
    same = [layout for there, layout in known if there == shape]
    near = [
        layout
        for there, layout in known
        if len(there) == len(shape) and all(there[axis] == shape[axis] for axis in map(layout.index, "BC"))
    ]
    return next(iter([*same, *near]), None)


def find_layer(name: str, network: nn.Module, layer: str) -> nn.Module:
    """The layer of that name.

    Raises:
        GraftError: there is none; the message suggests the nearest names.
    """
    layers: dict[str, nn.Module] = dict(network.named_modules(remove_duplicate=False))
    if layer in layers:
        return layers[layer]
    names = [other for other in layers if other]
    close = difflib.get_close_matches(layer, names, n=3, cutoff=0.5)
    ends = [other for other in names if other.split(".")[-1] == layer.split(".")[-1] and other not in close]
    near = [*close, *ends][:3]
    hint = f"did you mean {', '.join(map(repr, near))}? Its" if near else "its"
    top = ", ".join(other for other in names if "." not in other)
    raise GraftError(
        f"network {name!r} ({type(network).__name__}) has no layer {layer!r}; {hint} "
        f"outermost layers: {top or 'none'}; describe(networks, example) lists all that run"
    )


def _shape(tensor: Tensor | PackedSequence) -> Shape:
    if isinstance(tensor, PackedSequence):
        return (int(tensor.batch_sizes[0]), len(tensor.batch_sizes), tensor.data.shape[1])
    return tuple(tensor.shape)
