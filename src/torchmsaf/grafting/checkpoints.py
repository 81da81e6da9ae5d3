"""Gradient checkpointing of a network with tapped layers inside of what is recomputed.

A checkpointed part runs again in the backward pass, alone. There a tapped layer gives what the fusion made of it in the
forward pass, kept with the checkpoint itself: other networks do not run again.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from torchmsaf.errors import GraftError
from torchmsaf.grafting.players import Stop
from torchmsaf.grafting.thread_state import saved_tensor_hooks
from torchmsaf.grafting.values import element_path, find, put

_KEPT = "_torchmsaf_fused"


def keep(key: str, number: int, stops: Sequence[Stop], output: Any) -> None:
    """Remember what one call of a tapped layer gave after the fusion, if a checkpoint is being recorded.

    Args:
        key: of the graft.
        number: of the layer's hook.
        stops: that this call came to; none where it is not fused.
        output: of the call.
    """
    if saved_tensor_hooks() is None or (frame := _frame()) is None:
        return
    parts = []
    for path in {element_path(stop.tap.element, output, "") for stop in stops}:
        part = find(output, path, "")
        if isinstance(part, Tensor):
            part = part.detach().requires_grad_(part.requires_grad)
        parts.append((path, part))
    vars(frame).setdefault(_KEPT, {}).setdefault((key, number), []).append(parts)


def recomputed(key: str, number: int, output: Any) -> Any:
    """What a tapped layer gives outside of a forward pass of its model: in a recomputation, what it gave before."""
    task = torch._C._current_graph_task_id()
    if task == -1 or saved_tensor_hooks() is None or (frame := _frame()) is None:
        return output
    kept = vars(frame).get(_KEPT, {}).get((key, number))
    if not kept:
        return output
    calls = vars(frame).setdefault(f"{_KEPT}_calls", Counter())
    call = calls[key, number, task]
    calls[key, number, task] += 1
    for path, part in kept[call]:
        output = put(output, path, part)
    return output


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


def _frame() -> Any:
    """The checkpoint that is recorded or recomputed in this thread, or None."""
    hooks = saved_tensor_hooks()
    pack = None if hooks is None else inspect.unwrap(hooks[0])
    for cell in getattr(pack, "__closure__", None) or ():
        content = cell.cell_contents
        content = content() if isinstance(content, weakref.ref) else content
        if type(content).__name__ == "_CheckpointFrame":
            return content
    return None
