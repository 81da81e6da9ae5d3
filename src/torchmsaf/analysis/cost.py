"""What a call costs: parameters, FLOPs, kernels launched, bytes moved, bytes kept.

Everything here is counted and nothing is timed, so two runs give the same integers on any machine. The counters see
the ATen operations that PyTorch dispatches, in the forward and in a backward that is called inside the function that
is measured. They do not see inside one operation: a temporary of a kernel, or the body of a custom operator written in
another language, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchmsaf.analysis.operations import Allocations, Ledger, Operations, storage_of, tensors_in
from torchmsaf.ops.modes import evaluating

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
    with evaluating(module), torch.no_grad():
        return measure(module, *args, **kwargs).flops


def measure(function: Callable[..., object], *args: Any, **kwargs: Any) -> Cost:
    """Call a function once and return what it cost.

    Args:
        function: a module, or any function; a backward counts when the function itself calls it.
        *args: what it is called with.
        **kwargs: the same by name.
    """
    ledger = Ledger()
    with Operations(ledger.record):
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
    allocations = Allocations()
    try:
        with Operations(allocations.record):
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
    known = tensors_in([args, kwargs, result])
    for item in [function, *exclude]:
        if isinstance(item, nn.Module):
            known += [*item.parameters(), *item.buffers()]
        elif isinstance(item, Tensor):
            known.append(item)
    free = {storage_of(tensor) for tensor in known}
    return sum({storage_of(t): t.untyped_storage().nbytes() for t in kept if storage_of(t) not in free}.values())


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
        with evaluating(module), torch.no_grad():
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
