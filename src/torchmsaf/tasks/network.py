"""Networks of several modalities with one fusion: late, early, or between their stages."""

# B batch, M modalities, K outputs

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from torchmsaf.backbones.staged import Part, StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.averaging import Averaging
from torchmsaf.fusion.base import BranchFusion, Criterion, TrainingRule, check_flags
from torchmsaf.fusion.multiplication import Multiplication
from torchmsaf.fusion.registry import METHODS, create_fusion, find_method
from torchmsaf.ops.checks import is_integer
from torchmsaf.ops.modes import evaluating
from torchmsaf.ops.steps import check_lengths, step_mask
from torchmsaf.ops.support import over_samples
from torchmsaf.tasks.fused import Fused

# arguments of methods that follow from the networks and the task
_NO_OPTIONS = ("channels", "widths", "modalities", "out_features", "regression")


class FusedNetwork(nn.Module):
    """Networks of several modalities with one fusion method.

    An intermediate method stands after every stage that all networks have, counted from the last; the networks'
    predictions are multiplied then (their logits summed, as in the paper), or averaged in regression. A method with a
    branch of its own stands after the feature vectors too, and predicts from its branch.

    Args:
        networks: one network a modality, in order. Their parameters keep their names under ``networks.<modality>.``,
            with the modality's name as :func:`module_name` writes it.
        method: name of the method; None for a single network without fusion.
        outputs: K.
        options: arguments of the method; ``points`` of an intermediate one is how many stages it stands after, from
            the last.
        regression: predictions are values.
        joint: an intermediate method without a branch predicts by one linear layer on all feature vectors, as the MSAF paper
            does for sentiment. The networks then go without heads of their own.

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
        joint: bool = False,
    ) -> None:
        super().__init__()
        names = {name: module_name(name) for name in networks}
        if len(set(names.values())) < len(names):
            raise FusionInputError(f"modality names {', '.join(map(repr, names))} are too alike: rename one")
        self.networks = nn.ModuleDict({names[name]: network for name, network in networks.items()})
        self.stage = None if method is None else find_method(method).stage
        self.outputs = outputs
        if not networks:
            raise FusionInputError("no networks: one a modality is needed")
        if method is None and len(networks) != 1:
            raise FusionInputError(f"{len(networks)} networks need a fusion method")
        if method is not None and regression and not find_method(method).regression:
            able = ", ".join(one.name for one in METHODS.values() if one.regression)
            raise FusionInputError(f"{method} is for classification; in regression use one of {able}")
        arguments = dict(options or {})
        for option in _NO_OPTIONS:
            if option in arguments:
                raise FusionInputError(f"{method}: {option!r} is set by the comparison, from the networks and the task")
        nets = list(networks.values())
        self.points = nn.ModuleList()
        if self.stage == "intermediate" and method is not None:
            if bare := [name for name, net in networks.items() if len(net.stages) == 0]:
                raise FusionInputError(
                    f"{method}: it stands between stages, and the network of {', '.join(map(repr, bare))} has none; "
                    "early and late methods need none"
                )
            shared = min(len(net.stages) for net in nets)
            for back in range(_number_of_points(method, arguments, shared), 0, -1):
                self.points.append(create_fusion(method, channels=[net.channels[-back] for net in nets], **arguments))
        self.joint = joint and self.stage == "intermediate"
        self.has_branch = len(self.points) > 0 and isinstance(self.points[0], BranchFusion)
        if self.has_branch and method is not None:
            self.points.append(create_fusion(method, channels=[net.width for net in nets], **arguments))
        decide: nn.Module
        if self.stage == "late" and method is not None:
            decide = create_fusion(method, modalities=len(nets), regression=regression, **arguments)
        elif self.stage == "early" and method is not None:
            decide = create_fusion(method, widths=[net.width for net in nets], out_features=outputs, **arguments)
        elif self.has_branch:
            decide = cast(BranchFusion, self.points[-1]).head(outputs)
        elif self.joint:
            decide = create_fusion("concat", widths=[net.width for net in nets], out_features=outputs, hidden=[])
            for net in nets:
                if isinstance(net.head, nn.Module):
                    net.head = nn.Identity()
        else:
            decide = (Averaging if regression else Multiplication)(len(nets), regression=regression)
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
        maps, branch = list(inputs), None
        between = len(self.points) - self.has_branch  # points between stages
        for back in range(max(len(way.net.stages) for way in ways), 0, -1):
            for m, way in enumerate(ways):
                if back <= len(way.net.stages):
                    maps[m] = way.run(way.net.stages[-back], maps[m], way.lengths)
            if back <= between:
                point = self.points[between - back]
                masks = [way.mask(x) for way, x in zip(ways, maps, strict=True)]
                more = {} if all(mask is None for mask in masks) else {"masks": masks}
                if isinstance(point, BranchFusion):
                    maps, branch = point.grow(maps, branch, present=present, **more)
                else:
                    maps = point(maps, present=present, **more)
        vectors = [way.run(way.net.feature, x, way.lengths) for way, x in zip(ways, maps, strict=True)]
        if self.stage == "early":
            return Fused(self.decide(vectors, present=present))
        if self.has_branch:
            vectors, branch = cast(BranchFusion, self.points[-1]).grow(vectors, branch, present=present)
        elif self.joint:
            return Fused(self.decide(vectors, present=present))
        parts = [way.run(way.net.head, vector) for way, vector in zip(ways, vectors, strict=True)]
        prediction = self.decide(parts, present=present) if branch is None else self.decide(branch)
        return Fused(prediction, tuple(parts))

    def _ways(
        self, inputs: Sequence[Tensor], present: Tensor | None, lengths: Sequence[Tensor | None] | None
    ) -> list[_Way]:
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
            _Way(
                net,
                None if present is None else present[:, m],
                lengths[m] if lengths is not None and net.takes_lengths else None,
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


def _number_of_points(method: str, arguments: dict[str, Any], shared: int) -> int:
    """How many stages a method stands after; takes the option out of the arguments."""
    points = arguments.pop("points", shared)
    if not is_integer(points) or not 1 <= points <= shared:
        raise FusionInputError(
            f"{method}: points is the number of stages that it stands after, from the last, 1 to {shared} with these "
            f"networks, got {points!r}"
        )
    return int(points)


def module_name(modality: str) -> str:
    """What a modality is called in a state dict: its name, without what the name of a module cannot have."""
    name = modality.replace(".", "_")
    return f"{name}_" if not name or hasattr(nn.ModuleDict(), name) else name


@dataclass(frozen=True)
class _Way:
    """A network in one batch.

    Attributes:
        net: the network.
        rows: ``(B,)`` booleans, the samples that have its modality; None = all.
        lengths: ``(B,)`` real steps, where the network takes lengths and there is padding.
    """

    net: StagedNetwork
    rows: Tensor | None
    lengths: Tensor | None

    def run(self, part: Part, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run a part of the network on the rows that have the modality; the others come out as zeros.

        In training, absent rows are left out, so that batch norm never sees them. In evaluation rows do not meet: absent
        ones run as zeros, as the gradient of what is NaN would be NaN.
        """
        net, rows = self.net, self.rows
        takes = net.takes_lengths and part is not net.head
        if rows is None or (net.training and bool(rows.all())):
            return part(x, lengths) if takes else part(x)
        if not net.training:
            return self._run_blanked(part, x, rows, lengths, takes)
        if int(rows.sum()) < 2:  # no statistics of one row: use the running ones
            with evaluating(net):
                return self._run_blanked(part, x, rows, lengths, takes)
        own = None if lengths is None else lengths[rows]
        some = part(x[rows], own) if takes else part(x[rows])
        return some.new_zeros(len(x), *some.shape[1:]).index_put((rows.nonzero()[:, 0],), some)

    def _run_blanked(self, part: Part, x: Tensor, rows: Tensor, lengths: Tensor | None, takes: bool) -> Tensor:
        clean = torch.where(over_samples(rows, x), x, 0)
        y = part(clean, lengths) if takes else part(clean)
        return torch.where(over_samples(rows, y), y, 0)

    def mask(self, maps: Tensor) -> Tensor | None:
        """``(B, T)`` booleans over the steps of maps ``(B, C, T)``, True = real; None = all are."""
        return None if self.lengths is None else step_mask(self.lengths, maps.shape[2])
