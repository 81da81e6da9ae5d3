"""Networks of several modalities with one fusion: late, early, or between their stages."""

# B batch, M modalities, K outputs

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.averaging import Averaging
from torchmsaf.fusion.base import BranchFusion, Criterion, TappedFusion, TrainingRule, check_flags
from torchmsaf.fusion.multiplication import Multiplication
from torchmsaf.fusion.registry import METHODS, create_fusion, find_method
from torchmsaf.ops.steps import check_lengths
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.points import FEATURE, Place, channels_at, channels_of_taps, find_places, inputs_of, taps_of
from torchmsaf.tasks.way import Way

Decision: TypeAlias = Literal["product", "mean", "joint"]
# arguments of methods that follow from the networks and the task
_NO_OPTIONS = ("channels", "widths", "modalities", "out_features", "regression")


class FusedNetwork(nn.Module):
    """Networks of several modalities with one fusion method.

    An intermediate method stands after every stage that all networks have, counted from the last, or where ``points`` says
    (:mod:`torchmsaf.tasks.points`); the networks' predictions are combined then, as ``decision`` says. A method with a
    branch of its own stands after the feature vectors too, and predicts from its branch; one that reads several depths at
    once leaves all maps as they are. Each person of a network of several persons is an input of its own to a fusion, which
    is absent where the data have fewer.

    Args:
        networks: one network a modality, in order. Their parameters keep their names under ``networks.<modality>.``,
            with the modality's name as :func:`module_name` writes it.
        method: name of the method; None for a single network without fusion.
        outputs: K.
        options: arguments of the method; ``points`` of an intermediate one is where it stands.
        regression: predictions are values.
        decision: how an intermediate method without a branch predicts. ``product``: probabilities are multiplied, which is
            to sum logits, as the MSAF paper does for emotions; ``mean``: logits are averaged, as it does for actions; in
            regression both are the mean of the values. ``joint``: one linear layer on all feature vectors, as it does for
            sentiment; the networks then go without heads of their own.

    Raises:
        FusionInputError: no such method, or options that it does not take; a method that does not fit the task; an
            intermediate one, and a network without stages.
    """

    # a smaller last batch is left out: batch norm cannot train on one sample
    least_batch = 2
    clip_value: float | None = None

    def __init__(
        self,
        networks: Mapping[str, StagedNetwork],
        method: str | None,
        *,
        outputs: int,
        options: Mapping[str, Any] | None = None,
        regression: bool = False,
        decision: Decision = "product",
    ) -> None:
        super().__init__()
        names = {name: module_name(name) for name in networks}
        if len(set(names.values())) < len(names):
            raise FusionInputError(f"modality names {', '.join(map(repr, names))} are too alike: rename one")
        self.networks = nn.ModuleDict({names[name]: network for name, network in networks.items()})
        self.stage = None if method is None else find_method(method).stage
        self.outputs = outputs
        arguments = dict(options or {})
        _check(networks, method, arguments, regression, decision)
        nets = list(networks.values())
        self.points = nn.ModuleList()
        self.places: tuple[Place, ...] = ()
        taps: list[dict[str, int]] | None = None
        if self.stage == "intermediate" and method is not None:
            build = find_method(method).build
            if isinstance(build, type) and issubclass(build, TappedFusion):
                taps = [channels_of_taps(net) for net in nets]
                if "points" in arguments:
                    raise FusionInputError(f"{method}: it has no points, and reads the networks at all their depths")
            else:
                self.places = find_places(method, arguments.pop("points", None), networks)
            for place in self.places:
                self.points.append(create_fusion(method, channels=channels_at(place, nets), **arguments))
        self.joint = decision == "joint" and self.stage == "intermediate" and taps is None
        self.has_branch = len(self.points) > 0 and isinstance(self.points[0], BranchFusion)
        if self.has_branch and method is not None:
            self.points.append(create_fusion(method, channels=[net.width for net in nets], **arguments))
        decide: nn.Module
        if self.stage == "late" and method is not None:
            decide = create_fusion(method, modalities=len(nets), regression=regression, **arguments)
        elif self.stage == "early" and method is not None:
            decide = create_fusion(method, widths=[net.width for net in nets], out_features=outputs, **arguments)
        elif taps is not None and method is not None:
            decide = create_fusion(method, taps=taps, out_features=outputs, **arguments)
        elif self.has_branch:
            decide = cast(BranchFusion, self.points[-1]).head(outputs)
        elif self.joint:
            decide = create_fusion("concat", widths=[net.width for net in nets], out_features=outputs, hidden=[])
            for net in nets:
                if isinstance(net.head, nn.Module):
                    net.head = nn.Identity()
        elif regression or decision == "mean":
            decide = Averaging(len(nets), regression=regression, of="logits")
        else:
            decide = Multiplication(len(nets))
        self.decide = decide

    def forward(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> Fused:
        """Predict.

        Args:
            inputs: ``(B, *shape)`` of each modality, in order. What is there of an absent modality is not read.
            present: ``(B, M)`` booleans; None = all.
            lengths: ``(B,)`` real steps of each modality that is a padded sequence, None for the others; None = no padding.
        """
        ways = self._ways(inputs, present, lengths)
        maps, reached, branch = list(inputs), [0] * len(inputs), None
        read: list[dict[str, Tensor]] = [{} for _ in ways]
        for place, point in zip(self.places, self.points, strict=False):
            for m, (way, tap) in enumerate(zip(ways, place, strict=True)):
                maps[m], reached[m] = way.run_stages(maps[m], reached[m], tap.stage + 1), tap.stage + 1
            met = [way.streams(tap, x) for way, tap, x in zip(ways, place, maps, strict=True)]
            masks = [way.mask(x) for way, x in zip(ways, maps, strict=True)]
            each = [mask for mask, some in zip(masks, met, strict=True) for _ in some]
            here = self._present(place, ways, present)
            more = {} if all(mask is None for mask in each) else {"masks": each}
            flat = [x for some in met for x in some]
            if isinstance(point, BranchFusion):
                flat, branch = point.grow(flat, branch, present=here, **more)
            else:
                flat = point(flat, present=here, **more)
            for m, (way, tap) in enumerate(zip(ways, place, strict=True)):
                maps[m] = way.put(tap, maps[m], [flat.pop(0) for _ in met[m]])
        tapped = isinstance(self.decide, TappedFusion)
        for m, way in enumerate(ways):
            maps[m] = way.run_stages(maps[m], reached[m], len(way.net.stages), read[m] if tapped else None)
        vectors = [way.run(way.net.feature, x, way.lengths) for way, x in zip(ways, maps, strict=True)]
        for way, own, vector in zip(ways, read, vectors, strict=True):
            if tapped and FEATURE in taps_of(way.net):
                own[FEATURE] = vector
        if self.stage == "early":
            return Fused(self.decide(vectors, present=present))
        if self.has_branch:
            vectors, branch = cast(BranchFusion, self.points[-1]).grow(vectors, branch, present=present)
        elif self.joint:
            return Fused(self.decide(vectors, present=present))
        parts = [way.run(way.net.head, vector) for way, vector in zip(ways, vectors, strict=True)]
        if tapped:
            prediction = self.decide(read, present=present)
            if self.decide.adds_parts:
                prediction = prediction + torch.stack(parts).sum(0)
        else:
            prediction = self.decide(parts, present=present) if branch is None else self.decide(branch)
        return Fused(prediction, tuple(parts))

    @property
    def owners(self) -> tuple[tuple[int, ...], ...]:
        """Of each point between stages, the modality's number of each of its inputs."""
        nets = [cast(StagedNetwork, net) for net in self.networks.values()]
        return tuple(
            tuple(m for m, (net, tap) in enumerate(zip(nets, place, strict=True)) for _ in range(inputs_of(net, tap)))
            for place in self.places
        )

    def _present(self, place: Place, ways: Sequence[Way], present: Tensor | None) -> Tensor | None:
        """Presence ``(B, inputs)`` of all that meet at a point."""
        if present is None and all(way.lengths is None for way in ways):
            return None
        if not any(way.has_persons(tap) for way, tap in zip(ways, place, strict=True)):
            return present
        return torch.stack([row for way, tap in zip(ways, place, strict=True) for row in way.here(tap)], dim=1)

    def _ways(
        self, inputs: Sequence[Tensor], present: Tensor | None, lengths: Sequence[Tensor | None] | None
    ) -> list[Way]:
        """Each network with what a batch says of it."""
        nets = [cast(StagedNetwork, net) for net in self.networks.values()]
        if len(inputs) != len(nets):
            raise FusionInputError(f"expected the inputs of {len(nets)} networks, got {len(inputs)}")
        if lengths is not None and len(lengths) != len(nets):
            raise FusionInputError(f"expected the lengths of {len(nets)} networks, None or (B,), got {len(lengths)}")
        if present is not None:
            check_flags(present, inputs[0].shape[0], len(nets))
        for name, x, own in zip(self.networks, inputs, lengths or (), strict=lengths is not None):
            if own is not None:
                check_lengths(own, len(x), x.shape[-1], f"network {name!r}")
        return [
            Way(
                net,
                None if present is None else present[:, m],
                lengths[m] if lengths is not None and net.takes_lengths else None,
                len(inputs[m]),
                inputs[m].device,
            )
            for m, net in enumerate(nets)
        ]

    def training_loss(self, fused: Fused, target: Tensor, present: Tensor | None, criterion: Criterion) -> Tensor:
        """The loss of one batch by the method's own rule (:class:`torchmsaf.fusion.base.TrainingRule`)."""
        rule = self.rule
        if rule is None:
            return criterion(fused.prediction, target)
        return rule.training_loss(fused.prediction, fused.parts, target, present, criterion)

    @property
    def rule(self) -> TrainingRule | None:
        """How the method trains: what the fusion of the first point says, or the one that decides; None = nothing."""
        fusion = next(iter(self.points), self.decide)
        return fusion if isinstance(fusion, TrainingRule) else None

    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the fusion adds to the networks."""
        yield from self.points.parameters()
        yield from self.decide.parameters()


def _check(
    networks: Mapping[str, StagedNetwork],
    method: str | None,
    options: Mapping[str, Any],
    regression: bool,
    decision: Decision,
) -> None:
    """Raise FusionInputError where networks, method and task do not go together."""
    if not networks:
        raise FusionInputError("no networks: one a modality is needed")
    if decision not in get_args(Decision):
        raise FusionInputError(f"decision is {' or '.join(map(repr, get_args(Decision)))}, got {decision!r}")
    if method is None:
        if len(networks) != 1:
            raise FusionInputError(f"{len(networks)} networks need a fusion method")
        return
    if regression and not find_method(method).regression:
        able = ", ".join(one.name for one in METHODS.values() if one.regression)
        raise FusionInputError(f"{method} is for classification; in regression use one of {able}")
    for option in _NO_OPTIONS:
        if option in options:
            raise FusionInputError(f"{method}: {option!r} is set by the comparison, from the networks and the task")
    bare = [name for name, net in networks.items() if len(net.stages) == 0]
    if bare and find_method(method).stage == "intermediate":
        raise FusionInputError(
            f"{method}: it stands between stages, and the network of {', '.join(map(repr, bare))} has none; "
            "early and late methods need none"
        )


def module_name(modality: str) -> str:
    """What a modality is called in a state dict: its name, without what the name of a module cannot have."""
    name = modality.replace(".", "_")
    return f"{name}_" if not name or hasattr(nn.ModuleDict(), name) else name
