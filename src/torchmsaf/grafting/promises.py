"""A fused map that is not there yet: for a network with parallel branches that are fused at one point.

Such a network goes on from its first branch before the fusion is done. It carries a promise in the place of the map; by the
time it uses it, the fusion has been done at the layer where it waited last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from torchmsaf.errors import GraftError

_ASKED_OF_SHAPE = {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.is_floating_point,
    torch.Tensor.__len__,
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_nested")),
}


class Promise(Tensor):
    """A tensor that becomes another one before it is used.

    Args:
        like: a tensor of its shape.
        reproach: what is said if it is used too early.
    """

    like: Tensor
    reproach: str
    kept: Tensor | None

    @staticmethod
    def __new__(cls, like: Tensor, reproach: str) -> Promise:
        """A tensor without memory of its own."""
        made: Promise = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )
        made.like, made.reproach, made.kept = like, reproach, None
        return made

    def __init__(self, like: Tensor, reproach: str) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do with the tensor what is asked of the promise."""

        def tensor(promise: Promise) -> Tensor:
            if promise.kept is not None:
                return promise.kept
            if func in _ASKED_OF_SHAPE:
                return promise.like
            raise GraftError(promise.reproach)

        return func(*tree_map_only(Promise, tensor, args), **tree_map_only(Promise, tensor, kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Never reached: every function of a promise is one of its tensor."""
        raise NotImplementedError(f"{func} of a fused map that is not there yet")
