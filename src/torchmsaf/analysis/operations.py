"""The ATen operations that a call runs: what each reads, writes and computes, and what it allocates."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
Operation: TypeAlias = "OpOverload[..., Any]"


class Operations(TorchDispatchMode):
    """Hands every operation that runs to ``record``; composite ones (seen in inference mode) in their parts."""

    def __init__(self, record: Callable[[Operation, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record

    def __torch_dispatch__(
        self, func: Operation, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in _FORMULAS and func.overloadpacket not in flop_registry:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        self.record(func, args, kwargs, out)
        return out


class Ledger:
    """Adds up the four numbers of :class:`Cost`."""

    def __init__(self) -> None:
        self.flops = self.elementwise = self.kernels = self.bytes_touched = 0

    def record(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Add one operation."""
        reads, writes = _traffic(operation, args, kwargs, out)
        packet = operation.overloadpacket
        if not writes and packet not in _ANSWERS:
            return
        self.kernels += 1
        self.bytes_touched += _distinct_bytes(reads) + _distinct_bytes(writes)
        if packet in _FORMULAS:
            self.flops += _FORMULAS[packet](*args)
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        elif reads and packet.__name__ not in _MOVES:
            self.elementwise += max(tensor.numel() for tensor in reads + writes)


class Allocations:
    """Follows the storages that operations make until they are freed."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._finalizers: dict[int, weakref.finalize[..., Any]] = {}

    def record(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Follow what one operation made."""
        old = {storage_of(tensor) for tensor in tensors_in([args, kwargs])}
        for tensor in tensors_in(out):
            key = storage_of(tensor)
            if key in old or key in self._finalizers:
                continue
            storage = tensor.untyped_storage()
            self.live += storage.nbytes()
            self._finalizers[key] = weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        self.live -= size
        del self._finalizers[key]

    def forget(self) -> None:
        """Stop following what is still alive."""
        for finalizer in self._finalizers.values():
            finalizer.detach()


def _traffic(
    operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that an operation read and wrote; it wrote none if it is a view, metadata or an allocation."""
    name = operation.overloadpacket.__name__
    if name.startswith(("empty", "new_empty")) or torch.Tag.inplace_view in operation.tags:
        return [], []
    reads: list[Tensor] = []
    writes: list[Tensor] = []
    for position, argument in enumerate(operation._schema.arguments):
        tensors = tensors_in(args[position] if position < len(args) else kwargs.get(argument.name))
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written:
            writes += tensors
        if not (argument.is_out or (written and name in _OVERWRITES) or name.endswith("_like") or name[:4] == "new_"):
            reads += tensors
    seen = {storage_of(tensor) for tensor in reads + writes}
    writes += [tensor for tensor in tensors_in(out) if storage_of(tensor) not in seen]
    return reads, writes


def _distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors occupy in storage, the same view counted once, expanded dimensions once."""
    views = {(storage_of(t), t.storage_offset(), t.shape, t.stride()): t for t in tensors if t.numel() > 0}
    return sum(
        t.element_size() * math.prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride != 0)
        for t in views.values()
    )


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors of nested containers."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    """What tells the storage of a tensor from others."""
    return int(tensor.untyped_storage()._cdata)


def _onednn_rnn(sequence: Tensor, *weights: Any) -> int:
    """One layer and direction: every step of every sample meets both weight matrices; (T, B, in) or (B, T, in)."""
    steps: int = sequence.shape[0] * sequence.shape[1]
    return 2 * steps * int(weights[0].numel() + weights[1].numel())


def _packed_rnn(sequence: Tensor, weights: Sequence[Tensor], *rest: Any) -> int:
    """All layers at once (cuDNN, MIOpen); a packed sequence is (steps of all samples, in)."""
    steps = math.prod(sequence.shape[:-1])
    return 2 * steps * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _attention(query: Tensor, key: Tensor, *rest: Any) -> int:
    """A whole attention in one kernel: four projections, scores and weighted sum; (B, T, E) and (B, S, E)."""
    batch, steps, width = query.shape
    keys = key.shape[1]
    return 4 * batch * width * ((steps + keys) * width + steps * keys)


def _scores(query: Tensor, key: Tensor, *rest: Any) -> int:
    """Scores and weighted sum of an attention: (B, heads, T, E) and (B, heads, S, E)."""
    return 4 * query.numel() * key.shape[2]


def _encoder_layer(tokens: Tensor, *rest: Any) -> int:
    """PyTorch's fast path of a transformer layer: the attention and the two feed-forward layers."""
    feed_forward: int = rest[13].numel() + rest[15].numel()
    return _attention(tokens, tokens) + 2 * tokens.shape[0] * tokens.shape[1] * feed_forward


# What torch.utils.flop_counter leaves out. A backward is two products, to the input and to the weights, for each of
# the forward.
_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mkldnn_rnn_layer: _onednn_rnn,
    aten.mkldnn_rnn_layer_backward: lambda *args: 2 * _onednn_rnn(*args),
    aten._cudnn_rnn: _packed_rnn,
    aten._cudnn_rnn_backward: lambda *args: 2 * _packed_rnn(*args),
    aten.miopen_rnn: _packed_rnn,
    aten.miopen_rnn_backward: lambda *args: 2 * _packed_rnn(*args),
    aten._native_multi_head_attention: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu: _scores,
    # scores again, and four products for the gradients
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, *args: 5 * _scores(*args) // 2,
    aten._transformer_encoder_layer_fwd: _encoder_layer,
    aten.mv: lambda matrix, vector: 2 * matrix.numel(),
    aten.addmv: lambda bias, matrix, vector: 2 * matrix.numel(),
    aten.dot: lambda left, right: 2 * left.numel(),
    aten.vdot: lambda left, right: 2 * left.numel(),
    aten.addbmm: lambda bias, left, right: 2 * left.numel() * right.shape[-1],
    aten._addmm_activation: lambda bias, left, right: 2 * left.numel() * right.shape[-1],
}
# kernels without a tensor to show for it: they answer with a number
_ANSWERS = {aten._local_scalar_dense, aten.equal}
# in-place operations that do not read what they write
_OVERWRITES = {
    *("fill_", "zero_", "copy_", "bernoulli_", "uniform_", "normal_", "random_", "exponential_", "geometric_"),
    *("log_normal_", "cauchy_"),
}
# no arithmetic
_MOVES = {
    *("fill", "fill_", "zero_", "copy", "copy_", "_to_copy", "clone", "cat", "stack", "repeat", "flip", "roll"),
    *("constant_pad_nd", "index", "index_select", "gather", "embedding", "slice_backward", "select_backward"),
    *("slice_scatter", "select_scatter", "index_put", "index_put_", "scatter", "scatter_", "_local_scalar_dense"),
}
