"""What a call costs: parameters, FLOPs, kernels launched, bytes moved, bytes kept.

Everything here is counted and nothing is timed, so two runs give the same integers on any machine. The counters see
the ATen operations that PyTorch dispatches, in the forward and in a backward that is called inside the function that
is measured. They do not see inside one operation: a temporary of a kernel, or the body of a custom operator written in
another language, is not counted.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = [
    "Cost",
    "count_flops",
    "count_parameters",
    "measure",
    "peak_memory",
    "published_flops",
    "published_mmtm_flops",
    "published_msaf_flops",
    "saved_bytes",
]

aten = torch.ops.aten
Operation: TypeAlias = "OpOverload[..., Any]"


@dataclass(frozen=True)
class Cost:
    """What one call did, see :func:`measure`.

    Attributes:
        flops: 2 x the multiply-accumulates of matrix products, convolutions and recurrent layers; biases not counted.
        elementwise: elements of all other arithmetic: one per output element of a pointwise operation, one per input
            element of a reduction; in general the size of the largest tensor that the operation reads or writes.
            Operations that only move, fill or draw count zero, and so does what is counted in ``flops``.
        kernels: operations that launch a kernel; views, metadata and bare allocations do not.
        bytes_touched: bytes of every tensor that those operations read or write, each tensor once per operation and
            direction. An in-place operation reads and writes; one that overwrites only writes. Of an expanded tensor
            only the elements that exist in storage count.
    """

    flops: int
    elementwise: int
    kernels: int
    bytes_touched: int


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module, trainable or frozen; one that is shared counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(module: nn.Module, *args: Any, **kwargs: Any) -> int:
    """Return the FLOPs of one evaluation-mode forward: 2 x multiply-accumulates, see :class:`Cost`.

    Args:
        module: the module; its training flags are as before afterwards.
        *args: what the module is called with; the count is for this batch size, not per sample.
        **kwargs: the same by name.
    """
    with _evaluating(module), torch.no_grad():
        return measure(module, *args, **kwargs).flops


def measure(function: Callable[..., object], *args: Any, **kwargs: Any) -> Cost:
    """Call a function once and return what it cost.

    Args:
        function: a module, or any function; a backward counts when the function itself calls it.
        *args: what it is called with.
        **kwargs: the same by name.
    """
    ledger = _Ledger()
    with _Operations(ledger.record):
        function(*args, **kwargs)
    return Cost(ledger.flops, ledger.elementwise, ledger.kernels, ledger.bytes_touched)


def peak_memory(function: Callable[..., object], *args: Any, **kwargs: Any) -> int:
    """Return the most bytes of tensors that a call had allocated at one time, beyond those that existed before.

    Each storage counts its bytes from the operation that made it until it is freed. The result counts, since it exists
    at the end of the call; the arguments do not. Workspaces inside a kernel and storages resized later are not seen.

    Args:
        function: a module, or any function; a backward counts when the function itself calls it.
        *args: what it is called with.
        **kwargs: the same by name.
    """
    allocations = _Allocations()
    try:
        with _Operations(allocations.record):
            result = function(*args, **kwargs)
        del result
    finally:
        allocations.forget()
    return allocations.peak


def saved_bytes(
    function: Callable[..., object], *args: Any, exclude: Iterable[Tensor | nn.Module] = (), **kwargs: Any
) -> int:
    """Return the bytes that autograd keeps for the backward beyond arguments, results and parameters.

    Each storage counts once, as a whole. What a custom ``autograd.Function`` keeps as a plain attribute of its context
    is not seen; what it passes to ``save_for_backward`` is.

    Args:
        function: a module (its parameters and buffers are left out by themselves), or any function.
        *args: what it is called with; tensors in it, however nested, are left out.
        exclude: more tensors, or modules with their parameters and buffers, to leave out.
        **kwargs: arguments by name, left out like the others.
    """
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach())
        return kept[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(*args, **kwargs)
    known = _tensors([args, kwargs, result])
    for item in [function, *exclude]:
        if isinstance(item, nn.Module):
            known += [*item.parameters(), *item.buffers()]
        elif isinstance(item, Tensor):
            known.append(item)
    free = {_storage(tensor) for tensor in known}
    return sum({_storage(t): t.untyped_storage().nbytes() for t in kept if _storage(t) not in free}.values())


def published_flops(module: nn.Module, *args: Any, **kwargs: Any) -> int:
    """Return the FLOPs of a module by the convention that gives the numbers of the MSAF paper, Sec. 5.5 and Fig. 5.

    2 x (batch x in x out of every ``nn.Linear`` + 2 x the elements through a batch norm + the elements through an
    ``nn.ReLU``); nothing else counts, neither biases nor softmax, pooling and re-weighting. The paper's four numbers
    follow exactly (ptflops 0.6.3). For an honest count see :func:`count_flops` and :func:`measure`.

    Args:
        module: the module; it is called once in evaluation mode and is as before afterwards.
        *args: what it is called with.
        **kwargs: the same by name.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += 2 * inputs[0].numel() * layer.out_features
        elif isinstance(layer, nn.ReLU):
            total += 2 * output.numel()
        else:
            total += 4 * inputs[0].numel()

    layers = (nn.Linear, nn.ReLU, nn.modules.batchnorm._BatchNorm)
    handles = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, layers)]
    try:
        with _evaluating(module), torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return total


def published_msaf_flops(
    channels: Sequence[int], block_channels: int, reduction: int, batch: int, segments: int = 1
) -> int:
    """Return :func:`published_flops` of MSAF in closed form: 2B(1 + n)CC' + 4BC' + 2BC' per segment.

    Args:
        channels: channels of each modality, C_m.
        block_channels: channels of a block, C; the number of blocks is n = sum of C_m / C, each rounded up.
        reduction: r, where C' = C / r rounded down.
        batch: samples, B.
        segments: q, each with its own layers.
    """
    blocks = sum(math.ceil(width / block_channels) for width in channels)
    joint = block_channels // reduction
    return segments * batch * (2 * (1 + blocks) * block_channels * joint + 4 * joint + 2 * joint)


def published_mmtm_flops(channels: Sequence[int], ratio: float, batch: int) -> int:
    """Return :func:`published_flops` of MMTM (Vaezi Joze et al. 2020) in closed form: 4Bdo + 2Bo.

    Args:
        channels: channels of each modality; d is their sum.
        ratio: the joint width is o = 2d / ratio, rounded down.
        batch: samples, B.
    """
    total = sum(channels)
    joint = int(2 * total / ratio)
    return 4 * batch * total * joint + 2 * batch * joint


class _Operations(TorchDispatchMode):
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


class _Ledger:
    """Adds up the four numbers of :class:`Cost`."""

    def __init__(self) -> None:
        self.flops = self.elementwise = self.kernels = self.bytes_touched = 0

    def record(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
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


class _Allocations:
    """Follows the storages that operations make until they are freed."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._finalizers: dict[int, weakref.finalize[..., Any]] = {}

    def record(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        old = {_storage(tensor) for tensor in _tensors([args, kwargs])}
        for tensor in _tensors(out):
            key = _storage(tensor)
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
        tensors = _tensors(args[position] if position < len(args) else kwargs.get(argument.name))
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written:
            writes += tensors
        if not (argument.is_out or (written and name in _OVERWRITES) or name.endswith("_like") or name[:4] == "new_"):
            reads += tensors
    seen = {_storage(tensor) for tensor in reads + writes}
    writes += [tensor for tensor in _tensors(out) if _storage(tensor) not in seen]
    return reads, writes


def _distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors occupy in storage, the same view counted once, expanded dimensions once."""
    views = {(_storage(t), t.storage_offset(), t.shape, t.stride()): t for t in tensors if t.numel() > 0}
    return sum(
        t.element_size() * math.prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride != 0)
        for t in views.values()
    )


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode; each submodule has its own flag back afterwards."""
    flags = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, training in flags.items():
            layer.training = training


def _onednn_rnn(sequence: Tensor, *weights: Any) -> int:
    """One layer and direction: every step of every sample meets both weight matrices; (T, B, in) or (B, T, in)."""
    steps: int = sequence.shape[0] * sequence.shape[1]
    return 2 * steps * int(weights[0].numel() + weights[1].numel())


def _packed_rnn(sequence: Tensor, weights: Sequence[Tensor], *rest: Any) -> int:
    """All layers at once (cuDNN, MIOpen); a packed sequence is (steps of all samples, in)."""
    steps = math.prod(sequence.shape[:-1])
    return 2 * steps * sum(weight.numel() for weight in weights if weight.dim() == 2)


# What torch.utils.flop_counter leaves out. A backward is two products, to the input and to the weights, for each of
# the forward.
_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mkldnn_rnn_layer: _onednn_rnn,
    aten.mkldnn_rnn_layer_backward: lambda *args: 2 * _onednn_rnn(*args),
    aten._cudnn_rnn: _packed_rnn,
    aten._cudnn_rnn_backward: lambda *args: 2 * _packed_rnn(*args),
    aten.miopen_rnn: _packed_rnn,
    aten.miopen_rnn_backward: lambda *args: 2 * _packed_rnn(*args),
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
