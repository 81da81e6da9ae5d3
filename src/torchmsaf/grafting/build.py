"""Make one model of networks and fusion points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError, GraftError
from torchmsaf.fusion.base import BranchFusion, TappedFusion
from torchmsaf.fusion.registry import METHODS, create_fusion, find_method
from torchmsaf.grafting.describe import from_sight
from torchmsaf.grafting.dry_run import Sight, find_layer, observe
from torchmsaf.grafting.exchange import PlainFusion, needs_branch
from torchmsaf.grafting.heads import HEADS, Branch
from torchmsaf.grafting.model import GraftedModel, Networks
from torchmsaf.grafting.plan import make_plan
from torchmsaf.grafting.players import Stop
from torchmsaf.grafting.points import Element, FusionPoint
from torchmsaf.grafting.values import Path, as_path, find, logits_path, said
from torchmsaf.ops.modes import evaluating


def graft(
    networks: Mapping[str, nn.Module],
    points: Sequence[FusionPoint],
    head: str | nn.Module | None = "sum",
    example: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Element] | None = None,
) -> GraftedModel:
    """Put fusions between named layers of networks that nobody edited.

    The networks are not copied: the model trains their own parameters, and hooks on the tapped layers are all that is
    added to them. Graft before ``torch.compile``, which does not see hooks that come later.

    Args:
        networks: any modules, by name, in order.
        points: where they are fused, and how. Networks meet the points in the order in which they come to them.
        head: what is made of the networks' outputs: ``"sum"`` (of logits: the product of the networks' probabilities, as
            in the paper), ``"mean"``, ``"concat"`` along axis 1, a module that is called with the list of outputs (and
            ``present`` and ``branch``, if it has such parameters), or None for the dict of outputs. ``"branch"`` is for
            fusions with a branch of their own, such as CentralNet: a linear layer of it, as wide as the first network's
            output on the example.
        example: an input of each network, as in a forward pass, of any batch size. Each network runs on it once, alone,
            in evaluation mode and without gradients. Needed for fusions given by name; without it, layouts are
            guessed from the layers' classes, and an order that cannot be met is found in the first forward pass.
        outputs: which part of a network's output goes to the head, by the network's name: an index, a key, or a path of
            them. Default: the tensor, ``logits``, or the first of a tuple.

    Returns:
        The model; see :class:`~torchmsaf.grafting.model.GraftedModel`.

    Raises:
        GraftError: something cannot be fused; the message names network and layer, and says what to do.
        FusionInputError: no such method, or options that it does not take.

    Source: Sec. 3 of arXiv 2012.07175 puts MSAF between layers of existing networks.
    """
    networks = _check_networks(networks)
    points = _check_points(points)
    sights = None if example is None else _observe(networks, points, example)
    plan = make_plan(networks, points, sights)
    paths = _output_paths(networks, {} if outputs is None else outputs)
    shapes = {} if sights is None or head is None else _output_shapes(sights, paths)
    _check_head(head, points, shapes)
    # last, as fusions draw random numbers
    fusions = [_fusion(point, stops, networks) for point, stops in zip(points, plan, strict=True)]
    chosen = _head(head, networks, fusions, shapes)
    seen = [one for name, sight in (sights or {}).items() for one in from_sight(name, networks[name], sight)]
    model = GraftedModel(networks, plan, fusions, chosen, paths, shapes, seen)
    if example is not None and any(stop.promised for stops in plan for stop in stops):
        _try(model, example)
    return model


def _try(model: GraftedModel, example: Mapping[str, Any]) -> None:
    """Run the whole once: whether a network uses a layer's fused map too early is seen there alone."""
    try:
        with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(example)
    except BaseException:
        model.ungraft()
        raise


def _check_networks(networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    if not isinstance(networks, Mapping) or not networks:
        raise GraftError('networks is {name: module}, such as {"video": r3d_18(), "audio": audio_net}')
    for name, network in networks.items():
        if not isinstance(name, str) or not name or "." in name:
            raise GraftError(f"a network's name is a word without dots, got {name!r}")
        if not isinstance(network, nn.Module):
            raise GraftError(f"network {name!r}: expected a torch.nn.Module, got {type(network).__name__}")
        if hasattr(Networks({}), name):
            raise GraftError(f"a network cannot be called {name!r}, as every module has an attribute of that name")
        for layer_name, layer in network.named_modules():
            if layer._compiled_call_impl is not None or hasattr(layer, "_orig_mod"):
                raise GraftError(
                    f"network {name!r}: {layer_name or 'it'} is compiled, and what is compiled may not see the fusions; "
                    "graft first, and compile the grafted model"
                )
    return dict(networks)


def _check_points(points: Sequence[FusionPoint]) -> list[FusionPoint]:
    if isinstance(points, FusionPoint):
        return [points]
    if not isinstance(points, Sequence) or not points or not all(isinstance(one, FusionPoint) for one in points):
        raise GraftError('points is a list of FusionPoint({"video": "layer3", "audio": "conv2"}, "msaf"), one or more')
    return list(points)


def _observe(
    networks: Mapping[str, nn.Module], points: Sequence[FusionPoint], example: Mapping[str, Any]
) -> dict[str, Sight]:
    if not isinstance(example, Mapping):
        raise GraftError(f"example is an input of each network by name, got {type(example).__name__}")
    if odd := set(example) ^ set(networks):
        raise GraftError(
            f"example: one input for each of {', '.join(networks)}; not so for {sorted(odd, key=str)[0]!r}"
        )
    sights = {}
    for name, network in networks.items():
        if example[name] is None:
            raise GraftError(f"example: network {name!r} has None; every network runs on the example once")
        asked: dict[nn.Module, set[Path]] = {}
        for tap in (tap for point in points for tap in point.taps.get(name, ())):
            if tap.element is not None:
                asked.setdefault(find_layer(name, network, tap.layer), set()).add(as_path(tap.element))
        sights[name] = observe(name, network, example[name], asked)
    return sights


def _fusion(point: FusionPoint, stops: Sequence[Stop], networks: Mapping[str, nn.Module]) -> nn.Module:
    where = f"point {stops[0].point}"
    _check_maps(point.fusion, where)
    if isinstance(point.fusion, nn.Module):
        _check_built(point.fusion, stops)
        return point.fusion
    if not isinstance(point.fusion, str):
        return PlainFusion(point.fusion)
    method = find_method(point.fusion)
    if method.stage != "intermediate":
        kind = {"early": "an early", "late": "a late"}[method.stage]
        raise GraftError(f"{where}: {point.fusion!r} is {kind} method; between layers stand intermediate ones")
    if "channels" in point.options:
        raise GraftError(
            f"{where}: the channels of {point.fusion!r} are read from the example; to set them give the module"
        )
    if any(stop.width is None for stop in stops):
        raise GraftError(
            f"{where}: the channels for {point.fusion!r} are read from an example; give graft example={{...}}, or build "
            "the fusion and give the module"
        )
    try:
        fusion = create_fusion(point.fusion, channels=tuple(stop.width for stop in stops), **point.options)
    except FusionInputError as error:
        order = "; ".join(f"modality {stop.slot} is {stop.where}" for stop in stops)
        raise GraftError(f"{where}: {error} ({order})") from error
    parameters = (p for stop in stops for p in networks[stop.network].parameters())
    like = next((p for p in parameters if p.is_floating_point()), None)
    if like is None:
        return fusion
    return fusion.to(like.device, torch.float64 if like.dtype == torch.float64 else None)


def _check_maps(fusion: object, where: str) -> None:
    """Whether it gives maps back, and not a prediction made of several depths."""
    tapped = (
        METHODS[fusion].tapped if isinstance(fusion, str) and fusion in METHODS else isinstance(fusion, TappedFusion)
    )
    if tapped:
        name = repr(fusion) if isinstance(fusion, str) else type(fusion).__name__
        raise GraftError(
            f"{where}: {name} reads several depths at once and gives a prediction, not maps, and does not stand between "
            "layers; it works in networks with stages (torchmsaf.tasks.network.FusedNetwork)"
        )


def _check_built(fusion: nn.Module, stops: Sequence[Stop]) -> None:
    channels = getattr(fusion, "channels", None)
    if not isinstance(channels, tuple | list):
        return
    if len(channels) != len(stops):
        raise GraftError(
            f"point {stops[0].point}: {type(fusion).__name__} was built for {len(channels)} maps (channels {channels}), "
            f"and there are {len(stops)} taps"
        )
    for stop, count in zip(stops, channels, strict=True):
        if stop.width is not None and stop.shape is not None and stop.width != count:
            widths = tuple(one.width for one in stops)
            raise GraftError(
                f"{stop.where}: it gave {stop.width} channels on the example ({stop.shape}, read with layout "
                f"{stop.layouts[len(stop.shape)]!r}), and {type(fusion).__name__} of point {stop.point} was built for "
                f"{count}; build it with channels={widths}, or say the axes with Tap({stop.tap.layer!r}, layout=...)"
            )


def _check_head(
    head: str | nn.Module | None, points: Sequence[FusionPoint], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    if head is None or (isinstance(head, nn.Module) and not needs_branch(head)):
        return
    if not isinstance(head, nn.Module) and head not in (*HEADS, "branch"):
        raise GraftError(f"head is {', '.join(map(repr, HEADS))}, 'branch', a module, or None, got {head!r}")
    if isinstance(head, str) and head != "branch":
        return
    if not any(_grows_branch(point.fusion) for point in points):
        said_head = head if isinstance(head, str) else type(head).__name__
        able = ", ".join(name for name in METHODS if _grows_branch(name))
        raise GraftError(
            f"head {said_head!r} reads a branch, and no fusion here grows one; fuse with one that does: {able}"
        )
    if isinstance(head, nn.Module):
        return
    if not shapes:
        raise GraftError("head 'branch': the width of its output is read from the example; give graft an example")
    name, shape = next(iter(shapes.items()))
    if len(shape) != 2:
        raise GraftError(
            f"head 'branch': it is as wide as the output of network {name!r}, which should be (B, K) and is {shape}; give a "
            "module that has a parameter 'branch' as head"
        )


def _grows_branch(fusion: object) -> bool:
    kind = METHODS[fusion].build if isinstance(fusion, str) and fusion in METHODS else type(fusion)
    return isinstance(kind, type) and issubclass(kind, BranchFusion)


def _head(
    head: str | nn.Module | None,
    networks: Mapping[str, nn.Module],
    fusions: Sequence[nn.Module],
    shapes: Mapping[str, tuple[int, ...]],
) -> nn.Module | None:
    if head is None or isinstance(head, nn.Module):
        return head
    if head != "branch":
        return HEADS[head](tuple(networks))
    last = [fusion for fusion in fusions if isinstance(fusion, BranchFusion)][-1]
    like = next(last.parameters())
    return Branch(last.head(next(iter(shapes.values()))[1]).to(like.device, like.dtype))


def _output_paths(networks: Mapping[str, nn.Module], outputs: Mapping[str, Element]) -> dict[str, Path]:
    if not isinstance(outputs, Mapping):
        raise GraftError(f"outputs is {{network: key}}, got {outputs!r}")
    for name, path in outputs.items():
        if not isinstance(path, int | str | tuple):
            raise GraftError(
                f"outputs: of network {name!r}, expected an index, a key, or a tuple of them, got {path!r}"
            )
    if unknown := [name for name in outputs if name not in networks]:
        raise GraftError(f"outputs: no network {unknown[0]!r}; there are: {', '.join(networks)}")
    return {name: as_path(path) for name, path in outputs.items()}


def _output_shapes(sights: Mapping[str, Sight], paths: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, sight in sights.items():
        owner = f"network {name!r}"
        part = find(sight.output, paths[name] if name in paths else logits_path(sight.output, owner), owner)
        if not isinstance(part, Tensor):
            raise GraftError(f"{owner}: what goes to the head is {said(part)}, and should be a tensor")
        shapes[name] = tuple(part.shape)
    return shapes
