"""Gradient checkpointing of a network with tapped layers inside of what is recomputed.

A checkpointed part runs again in the backward pass, alone. There a tapped layer gives what the fusion made of it in the
forward pass, kept with the checkpoint itself: other networks do not run again.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import CheckpointFunction

from torchmsaf.errors import GraftError
from torchmsaf.grafting.players import Stop
from torchmsaf.grafting.thread_state import Packing, put_hooks, saved_tensor_hooks, take_hooks_down_to
from torchmsaf.grafting.values import Path, element_path, find, put

# of each device, by the device
RandomState = list[tuple[torch.device, Tensor]]
_KEPT = "_torchmsaf_fused"


def keep(key: str, number: int, stops: Sequence[Stop], output: Any, outside: Packing | None) -> None:
    """Remember what one call of a tapped layer gave after the fusion, in all checkpoints that the network records.

    Args:
        key: of the graft.
        number: of the layer's hook.
        stops: that this call came to; none where it is not fused.
        output: of the call.
        outside: the hooks of saved tensors around the model: a checkpoint out there runs the whole model again.
    """
    if saved_tensor_hooks() in (None, outside) or not (frames := _frames(outside)):
        return
    parts = [
        (path, _own(find(output, path, ""))) for path in {element_path(stop.tap.element, output, "") for stop in stops}
    ]
    for frame, _ in frames:
        vars(frame).setdefault(_KEPT, {}).setdefault((key, number), []).append((parts, _random_state(parts)))


def recomputed(key: str, number: int, output: Any) -> Any:
    """What a tapped layer gives outside of a forward pass of its model: in a recomputation, what it gave before."""
    task = torch._C._current_graph_task_id()
    if task == -1 or saved_tensor_hooks() is None:
        return output
    frames = _frames(None)
    depth = next((place for place, (_, again) in enumerate(frames) if again), None)
    if depth is None:
        return output
    frame = frames[depth][0]
    kept = vars(frame).get(_KEPT, {}).get((key, number))
    if not kept:
        return output
    calls = vars(frame).setdefault(f"{_KEPT}_calls", Counter())
    call = calls[key, number, task]
    calls[key, number, task] += 1
    for inner, _ in frames[:depth]:  # recorded anew
        vars(inner).setdefault(_KEPT, {}).setdefault((key, number), []).append(kept[call])
    parts, state = kept[call]
    for path, part in parts:
        output = put(output, path, _again(part))
    if _preserves_random_state(frame):
        _set_random_state(state)
    return output


def _preserves_random_state(frame: Any) -> bool:
    """Whether the checkpoint was asked to, which torch keeps in a variable of the function that recomputes."""
    function = frame.recompute_fn
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return "preserve_rng_state" in cells and bool(cells["preserve_rng_state"].cell_contents)


def _own(part: Any) -> Any:
    """A copy that what the network does next in place does not change."""
    if isinstance(part, PackedSequence):
        return PackedSequence(_own(part.data), *part[1:])
    return part.detach().clone().requires_grad_(part.requires_grad) if isinstance(part, Tensor) else part


def _again(part: Any) -> Any:
    """What may be changed in place."""
    if isinstance(part, PackedSequence):
        return PackedSequence(_again(part.data), *part[1:])
    return part.clone() if isinstance(part, Tensor) else part


def _random_state(parts: Iterable[tuple[Path, Any]]) -> RandomState:
    """Other networks drew random numbers before this one went on; alone, it has to go on from the same ones."""
    states = [(torch.device("cpu"), torch.get_rng_state())]
    for _, part in parts:
        device = (part.data if isinstance(part, PackedSequence) else part).device
        if device.type not in ("cpu", "meta"):
            states.append((device, torch.get_device_module(device).get_rng_state(device)))
    return states


def _set_random_state(states: RandomState) -> None:
    # torch puts back what was there before, when the recomputation has ended
    for device, state in states:
        if device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)


def refuse_reentrant(owner: str) -> None:
    """A layer that runs inside of a reentrant checkpoint cannot be fused: its output has no graph there.

    Raises:
        GraftError: it does.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise GraftError(
                f"{owner}: it runs inside of a reentrant checkpoint, which hides its gradient from the fusion; "
                "checkpoint with use_reentrant=False"
            )
        frame = frame.f_back


def _frames(outside: Packing | None) -> list[tuple[Any, bool]]:
    """The checkpoints that are recorded (False) or recomputed (True) in this thread, innermost first."""
    taken = take_hooks_down_to(outside)
    put_hooks(taken)
    found = []
    for hooks in taken:
        pack = inspect.unwrap(hooks[0])
        for cell in getattr(pack, "__closure__", None) or ():
            content = cell.cell_contents
            content = content() if isinstance(content, weakref.ref) else content
            if type(content).__name__ == "_CheckpointFrame":
                found.append((content, "_recomputation_hook" in pack.__qualname__))
    return found
