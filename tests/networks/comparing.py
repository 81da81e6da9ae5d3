"""How the tests of grafts run networks and compare them: with hooks and sums of their own, nothing of the library's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from tests.networks.architectures import PARTNER, Architecture
from torchmsaf import MSAF
from torchmsaf.grafting import FusionPoint, GraftedModel, graft

NETWORKS = ("it", "partner")
Gradients = dict[str, Tensor | None]


# ---- grafts


def identity(maps: Sequence[Tensor]) -> Sequence[Tensor]:
    """The fusion that does nothing."""
    return maps


def both(kind: Architecture) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """An architecture and the partner, and an input of each that needs gradients, where it can."""
    networks = {"it": kind(), "partner": PARTNER()}
    inputs = {"it": kind.input(), "partner": PARTNER.input()}
    for x in [*(parts(inputs["it"]) if kind.differentiable else []), inputs["partner"]]:
        x.requires_grad_(x.is_floating_point())
    return networks, inputs


def join(networks: Mapping[str, nn.Module], inputs: Mapping[str, Any], fusion: Any, kind: Architecture) -> GraftedModel:
    """The graft of both at all layers of the table. Every layout is found, none is said.

    Args:
        networks: from :func:`both`.
        inputs: from there.
        fusion: "msaf", a callable, or a list of one a point.
        kind: the architecture.
    """
    fusions = fusion if isinstance(fusion, list) else [fusion] * len(kind.layouts)
    options = {"reduction": 1} if fusion == "msaf" else {}
    points = [
        FusionPoint({"it": layer, "partner": other}, one, **options)
        for layer, other, one in zip(kind.layouts, PARTNER.layouts, fusions, strict=True)
    ]
    model = graft(networks, points, head=None, example=inputs)
    for one in model.fusions:
        if isinstance(one, MSAF):
            nn.init.constant_(one.join.bias, 0.5)  # with few channels, all of them may start on the flat side of ReLU
    return model


def times_one(kind: Architecture, networks: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> list[nn.Module]:
    """MSAF that multiplies with one, for each point: all of its operations run, and change nothing."""
    widths: list[list[int]] = [[] for _ in kind.layouts]
    for name, layouts in (("it", kind.layouts), ("partner", PARTNER.layouts)):
        _, seen = run_with(copy.deepcopy(networks[name]).eval(), inputs[name], {}, list(layouts))
        for of_point, (layer, layout) in zip(widths, layouts.items(), strict=True):
            of_point.append(channels_second(seen[layer], layout).shape[1])
    return [MSAF(counts, reduction=1, min_attention=1.0) for counts in widths]


# ---- runs


def call(network: nn.Module, value: Any) -> Any:
    """A network alone on the input that a grafted model takes."""
    if isinstance(value, dict):
        return network(**value)
    return network(*value) if isinstance(value, tuple) else network(value)


def parts(value: Any) -> list[Tensor]:
    """All tensors of an input or output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [x for part in value for x in parts(part)] if isinstance(value, tuple | list) else []


def fresh(value: Any) -> Any:
    """A copy of an input, or of several, with gradients of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: fresh(part) for name, part in value.items()}
    return tuple(fresh(part) for part in value)


def backward(*outputs: Any) -> None:
    """One backward pass; what is summed of each output does not depend on the others."""
    outs, weights = [], []
    for output in outputs:
        draw = torch.Generator().manual_seed(11)
        outs += (these := [y for y in parts(output) if y.requires_grad])
        assert these
        weights += [torch.randn(y.shape, generator=draw) for y in these]
    torch.autograd.backward(outs, weights)


def gradients(network: nn.Module, value: Any) -> Gradients:
    """Of a network's parameters and its input."""
    of_input = {f"input {number}": x.grad for number, x in enumerate(parts(value))}
    return of_input | {name: p.grad for name, p in network.named_parameters()}


# ---- comparisons, to the last bit where no tolerance is given


def assert_same(got: Tensor | None, expected: Tensor | None, said: str, **tolerance: float) -> None:
    if got is None or expected is None:
        assert got is expected, said
    elif tolerance:
        torch.testing.assert_close(got, expected, msg=lambda text: f"{said}: {text}", **tolerance)
    else:
        assert got.dtype == expected.dtype, said
        assert got.shape == expected.shape, said
        assert torch.equal(got, expected), f"{said}: {(got - expected).abs().max()} apart"


def assert_same_outputs(got: Any, expected: Any, **tolerance: float) -> None:
    assert type(got) is type(expected)
    assert len(parts(got)) == len(parts(expected)) > 0
    for number, (one, other) in enumerate(zip(parts(got), parts(expected), strict=True)):
        assert_same(one, other, f"output {number}", **tolerance)


def assert_same_gradients(got: Gradients, expected: Gradients, **tolerance: float) -> None:
    assert got.keys() == expected.keys()
    assert any(one is not None and one.abs().max() > 0 for one in expected.values())
    for name in got:
        assert_same(got[name], expected[name], f"gradient of {name}", **tolerance)


def assert_same_buffers(network: nn.Module, other: nn.Module) -> None:
    expected = dict(other.named_buffers())
    for name, buffer in network.named_buffers():
        assert_same(buffer, expected[name], f"buffer {name}")


# ---- what a graft computes, from runs of each network alone


@contextmanager
def _hooked(network: nn.Module, layers: Sequence[str], hook: Callable[[str, Any], Any]) -> Iterator[None]:
    handles = [
        network.get_submodule(layer).register_forward_hook(lambda m, args, output, layer=layer: hook(layer, output))
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_with(
    network: nn.Module, value: Any, given: Mapping[str, Any], layers: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """Run a network where some layers give what is said.

    Returns:
        Its output, and what the other ``layers`` gave.
    """
    seen: dict[str, Any] = {}

    def hook(layer: str, output: Any) -> Any:
        if layer in given:
            return _with_first(output, _own(given[layer]))
        seen[layer] = _own(_first(output))
        return None

    with _hooked(network, layers, hook):
        return call(network, value), seen


def _own(value: Any) -> Any:
    """A copy, as a network may change in place what its layer gave."""
    return value.clone() if isinstance(value, Tensor) else value


def _first(output: Any) -> Any:
    while not isinstance(output, Tensor | PackedSequence):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output


def _with_first(output: Any, value: Any) -> Any:
    if isinstance(output, Tensor | PackedSequence):
        return value
    if isinstance(output, Mapping):
        changed = copy.copy(output)
        key = next(iter(output))
        changed[key] = _with_first(output[key], value)
        return changed
    return (_with_first(output[0], value), *output[1:])


def _order(layout: str) -> list[int]:
    return [layout.index("B"), layout.index("C"), *(i for i, axis in enumerate(layout) if axis not in "BC")]


def channels_second(value: Any, layout: str) -> Tensor:
    """A layer's output as a map ``(B, C, *positions)``."""
    if isinstance(value, PackedSequence):
        value, _ = pad_packed_sequence(value, batch_first=True)
    return value.permute(_order(layout))


def _back(fused: Tensor, layout: str, like: Any) -> Any:
    order = _order(layout)
    value = fused.permute([order.index(axis) for axis in range(len(order))])
    if not isinstance(like, PackedSequence):
        return value
    _, lengths = pad_packed_sequence(like, batch_first=True)
    return pack_padded_sequence(value, lengths, batch_first=True, enforce_sorted=False)


def _mask(value: Any) -> Tensor | None:
    if not isinstance(value, PackedSequence):
        return None
    padded, lengths = pad_packed_sequence(value, batch_first=True)
    return torch.arange(padded.shape[1]) < lengths[:, None]


def reference(
    kind: Architecture, networks: Mapping[str, nn.Module], inputs: Mapping[str, Any], fusions: Sequence[nn.Module]
) -> dict[str, Any]:
    """The outputs of a graft, in evaluation mode: each network runs from its start again for each point."""
    taps = {"it": list(kind.layouts.items()), "partner": list(PARTNER.layouts.items())}
    given: dict[str, dict[str, Any]] = {name: {} for name in NETWORKS}
    for number, fusion in enumerate(fusions):
        found = []
        for name in NETWORKS:
            layers = [layer for layer, _ in taps[name]]
            found.append(run_with(networks[name], inputs[name], given[name], layers)[1][layers[number]])
        layouts = [taps[name][number][1] for name in NETWORKS]
        maps = [channels_second(x, layout) for x, layout in zip(found, layouts, strict=True)]
        masks = [_mask(x) for x in found]
        fused = fusion(maps) if all(mask is None for mask in masks) else fusion(maps, masks=masks)
        for name, x, layout, like in zip(NETWORKS, fused, layouts, found, strict=True):
            given[name][taps[name][number][0]] = _back(x, layout, like)
    return {name: run_with(networks[name], inputs[name], given[name], list(given[name]))[0] for name in NETWORKS}
