"""What a network has switched on in its thread: gradients, autocast, hooks of saved tensors.

Networks that take turns in one thread share these switches. Each gets its own back when it goes on, and the fusion
works under those of the grafted model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Packing = tuple[Callable[..., Any], Callable[..., Any]]


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

    @classmethod
    def now(cls) -> ThreadState:
        """The state of this thread."""
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple([(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _DEVICES]),
            torch.is_autocast_cache_enabled(),
            saved_tensor_hooks(),
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
