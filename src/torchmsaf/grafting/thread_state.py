"""What a network has switched on in its thread: gradients, autocast, hooks of saved tensors, modes.

Networks that take turns in one thread share these switches. Each gets its own back when it goes on, and the fusion
works under those of the grafted model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.overrides import _pop_mode as pop_function_mode
from torch.overrides import _push_mode as push_function_mode
from torch.utils._python_dispatch import _pop_mode as pop_dispatch_mode
from torch.utils._python_dispatch import _push_mode as push_dispatch_mode

Packing = tuple[Callable[..., Any], Callable[..., Any]]
# of functions and of operations, innermost first
Modes = tuple[list[Any], list[Any]]


def _devices() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    return ("cpu",) if accelerator is None or accelerator.type == "cpu" else ("cpu", accelerator.type)


class ThreadState(NamedTuple):
    """The switches at one moment; equal states are the same."""

    gradients: bool
    inference: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    cache: bool
    packing: Packing | None
    function_modes: int
    dispatch_modes: int

    @classmethod
    def now(cls) -> ThreadState:
        """The state of this thread."""
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple([(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _DEVICES]),
            torch.is_autocast_cache_enabled(),
            saved_tensor_hooks(),
            torch._C._len_torch_function_stack(),
            torch._C._len_torch_dispatch_stack(),
        )

    def switch_on(self) -> None:
        """Set gradients and autocast as they were at that moment."""
        torch.set_grad_enabled(self.gradients)
        for device, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self.cache)


_DEVICES = _devices()


def saved_tensor_hooks() -> Packing | None:
    """The innermost hooks of saved tensors."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def take_hooks_down_to(outer: Packing | None) -> list[Packing]:
    """Take the hooks of saved tensors inside of ``outer`` off, innermost first."""
    taken = []
    while (hooks := saved_tensor_hooks()) is not None and hooks != outer:
        taken.append(hooks)
        torch._C._autograd._pop_saved_tensors_default_hooks()
    return taken


def put_hooks(taken: list[Packing]) -> None:
    """Put hooks back that :func:`take_hooks_down_to` took."""
    for pack, unpack in reversed(taken):
        torch._C._autograd._push_saved_tensors_default_hooks(pack, unpack)


def take_modes_down_to(outer: ThreadState) -> Modes:
    """Take modes of functions and of operations inside of ``outer`` off, innermost first."""
    dispatch = [pop_dispatch_mode() for _ in range(torch._C._len_torch_dispatch_stack() - outer.dispatch_modes)]
    function = [pop_function_mode() for _ in range(torch._C._len_torch_function_stack() - outer.function_modes)]
    return function, dispatch


def put_modes(taken: Modes) -> None:
    """Put modes back that :func:`take_modes_down_to` took."""
    for mode in reversed(taken[0]):
        push_function_mode(mode)
    for mode in reversed(taken[1]):
        push_dispatch_mode(mode)
