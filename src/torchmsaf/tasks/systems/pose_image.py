"""Actions from an image of how a skeleton moves: the pose image of PoseMap.

Liu and Yuan, "Recognizing Human Actions as the Evolution of Pose Estimation Maps", CVPR 2018.
"""

# B batch, C coordinates, T steps, V joints, S persons, P points along the body, K outputs

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.data.ntu import BONES, JOINTS
from torchmsaf.errors import FusionInputError, require
from torchmsaf.fusion.base import check_flags
from torchmsaf.ops.checks import check_integer, check_share, check_widths, is_integer
from torchmsaf.ops.modes import evaluating
from torchmsaf.ops.steps import check_lengths, step_mask
from torchmsaf.ops.support import over_samples
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.base import Kind, System

_COLOURS = 3
_SMALLEST = 16  # pixels, of which four layers of stride 2 leave one
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class PoseImage(System):
    """A convolutional network of an image of the whole clip: points along the body by time, coordinates as colours.

    A walk goes along all limbs, there and back; each limb is so many points, by linear interpolation between its joints. Of
    each point and step the coordinates are a pixel. They are scaled to [0, 1] by the least and the greatest of the clip,
    each coordinate by itself. The persons' images stand one above the other, and the whole is resized to a square. A person
    that is absent is black.

    Of PoseMap this is one part. The points along limbs, five of each, the scaling, coordinates as colours and 224 pixels are
    of the authors' code for skeletons (github.com/nkliuyifang/Skeleton-based-Human-Action-Recognition). Their network is
    VGG-19 with the weights of ImageNet; ``network="vgg19"`` is its layers with random weights. The order of the walk, that
    coordinates are scaled by themselves, the place of a second person and the small network are guesses, or ours. PoseMap's
    image of body shapes needs the heat maps of a pose estimator, and is not here: its published number is of both images.

    Args:
        shapes: of ``skeleton``, ``(C, T, V, S)``; other modalities may be there, and are not read.
        outputs: K.
        kind: of the task.
        tokens: of no use here.
        points: interpolated points of a limb.
        size: of the image, in pixels: 16 or more; 224 or more suits VGG-19.
        persons: at most so many, the first ones.
        bones: pairs of joints, counted from 0; the walk begins at the first one's second joint. None = those of NTU RGB+D,
            of 25 joints.
        network: ``"small"``: four convolutions, of stride 2; or ``"vgg19"``.
        widths: channels of the small network's four layers.
        dropout: before the last layer of the small network, a probability in [0, 1).

    Raises:
        FusionInputError: an argument out of range; joints that the bones do not have.
    """

    needs: ClassVar[tuple[str, ...]] = ("skeleton",)
    others_pass: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (4,)
    expected: ClassVar[str] = "skeletons (C, T, V, S), persons last,"

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "classification",
        tokens: Mapping[str, int] | None = None,
        points: int = 5,
        size: int = 224,
        persons: int = 2,
        bones: Sequence[Sequence[int]] | None = None,
        network: Literal["small", "vgg19"] = "small",
        widths: Sequence[int] = (32, 64, 128, 256),
        dropout: float = 0.5,
    ) -> None:
        super().__init__(shapes, outputs, kind=kind, tokens=tokens)
        check_integer("points", points, advice="the authors' code has 5")
        self.persons = check_integer("persons", persons, advice="an action of NTU RGB+D has one or two")
        self.size = check_integer("size", size, advice="the authors' code has 224")
        if self.size < _SMALLEST:
            raise FusionInputError(f"size is {_SMALLEST} or more, got {size}: less is nothing after the last layer")
        self.shape = tuple(map(int, shapes["skeleton"]))
        self.position = self.modalities.index("skeleton")
        if bones is None and self.shape[2] != len(JOINTS):
            raise FusionInputError(
                f"bones are those of NTU RGB+D's {len(JOINTS)} joints, and these skeletons have {self.shape[2]}: give "
                "bones, pairs of joints"
            )
        walk = tour(BONES if bones is None else bones, self.shape[2])
        # it follows from the arguments, and is no part of the weights
        self.register_buffer("along", walk_weights(walk, self.shape[2], points), persistent=False)
        self.network: nn.Module
        if network == "small":
            self.network = _small(check_widths("widths", widths, example="(32, 64, 128, 256)"), outputs, dropout)
        elif network == "vgg19":
            vgg: Any = require("torchvision.models", "compare").vgg19(num_classes=outputs)
            self.network = nn.Sequential(_Normalized(), vgg)
        else:
            raise FusionInputError(f"network is 'small' or 'vgg19', got {network!r}")

    def forward(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> Fused:
        """Predict.

        Args:
            inputs: ``(B, C, T, V, S)`` of the skeletons at their place in declared order. What is there of an absent
                sample or person is not read.
            present: ``(B, M)`` booleans; None = all. Samples without a skeleton have zeros as logits.
            lengths: how many persons are real ``(B,)``, at the place of the skeletons; None = all are.
        """
        count = len(self.modalities)
        if not isinstance(inputs, list | tuple) or len(inputs) != count:
            found = len(inputs) if isinstance(inputs, list | tuple) else type(inputs).__name__
            raise FusionInputError(f"expected the inputs of {', '.join(self.modalities)}, in that order, got {found}")
        x = inputs[self.position]
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise FusionInputError(f"modality 'skeleton': expected (B, {', '.join(map(str, self.shape))}), got {got}")
        real = None
        if lengths is not None:
            if len(lengths) != count:
                raise FusionInputError(f"lengths: expected one entry a modality, {count} in all, got {len(lengths)}")
            if (own := lengths[self.position]) is not None:
                check_lengths(own, len(x), x.shape[4], "'skeleton'")
                real = step_mask(own.to(x.device), x.shape[4])
        if present is not None:
            check_flags(present, len(x), count)
            here = present[:, self.position, None].expand(-1, x.shape[4])
            real = here if real is None else real & here
        return Fused(self._classify(self.image(x, real), real))

    def image(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """The images ``(B, 3, size, size)`` in [0, 1] of skeletons ``(B, C, T, V, S)``.

        Args:
            x: where ``real`` says so, finite.
            real: ``(B, S)`` booleans, which persons are; None = all.
        """
        persons = min(self.persons, x.shape[4])
        x = x[:, :_COLOURS, :, :, :persons].permute(0, 4, 1, 3, 2)  # (B, S, C, V, T)
        low = high = x
        if real is not None:
            keep = real[:, :persons, None, None, None]
            x = torch.where(keep, x, 0)
            low, high = torch.where(keep, x, torch.inf), torch.where(keep, x, -torch.inf)
        least, greatest = low.amin((1, 3, 4), keepdim=True), high.amax((1, 3, 4), keepdim=True)
        span = greatest - least
        still = ~(span > 0)  # no extent, or nobody there
        x = torch.where(still, 0, (x - torch.where(still, 0, least)) / torch.where(still, 1, span))
        if real is not None:
            x = torch.where(keep, x, 0)
        assert isinstance(self.along, Tensor)
        rows = self.along.to(x.dtype) @ x  # (B, S, C, P, T)
        picture = rows.transpose(1, 2).flatten(2, 3)  # (B, C, S P, T)
        if picture.shape[1] < _COLOURS:
            picture = F.pad(picture, (0, 0, 0, 0, 0, _COLOURS - picture.shape[1]))
        # more rows than pixels are averaged, and not skipped
        return F.interpolate(picture, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)

    def _classify(self, image: Tensor, real: Tensor | None) -> Tensor:
        """Logits ``(B, K)``; zeros of samples in which nobody is real, which batch norm never sees."""
        if real is None:
            logits: Tensor = self.network(image)
            return logits
        rows = real.any(1)
        if self.training and int(rows.sum()) > 1:
            some: Tensor = self.network(image[rows])
            return some.new_zeros(len(image), self.outputs).index_put((rows.nonzero()[:, 0],), some)
        with evaluating(self.network):  # no statistics of one row: use the running ones
            every = self.network(image)
        return torch.where(over_samples(rows, every), every, 0)


def tour(bones: Sequence[Sequence[int]], joints: int) -> tuple[int, ...]:
    """A walk along bones, from joint to joint, there and back, that ends where it begins.

    Args:
        bones: pairs of joints, counted from 0; the walk begins at the first one's second joint. One that closes a ring is
            left out.
        joints: V.

    Raises:
        FusionInputError: no pairs of joints below V; joints that cannot be reached.
    """
    given = bones if isinstance(bones, list | tuple) else ()
    pairs = [tuple(bone) if isinstance(bone, list | tuple) else () for bone in given]
    good = [len(p) == 2 and all(is_integer(j) and 0 <= j < joints for j in p) and p[0] != p[1] for p in pairs]
    if not good or not all(good):
        raise FusionInputError(
            f"bones are pairs of two joints from 0 to {joints - 1}, such as ((1, 0), (2, 1)), got {bones!r}"
        )
    beside: dict[int, list[int]] = {}
    for a, b in pairs:
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    walk, path, seen = [pairs[0][1]], [pairs[0][1]], {pairs[0][1]}
    while path:
        further = next((joint for joint in beside[path[-1]] if joint not in seen), None)
        if further is None:
            path.pop()
        else:
            path.append(further)
            seen.add(further)
        walk += path[-1:]
    if missed := sorted(set(beside) - seen):
        raise FusionInputError(f"bones are of one body: no way leads from joint {walk[0]} to joint {missed[0]}")
    return tuple(walk)


def walk_weights(walk: Sequence[int], joints: int, points: int) -> Tensor:
    """What each joint has of each point along a walk, ``(P, V)`` with P = points a limb and the walk's last joint."""
    rows = []
    for a, b in pairwise(walk):
        for n in range(points):
            row = torch.zeros(joints)
            row[a], row[b] = 1 - n / points, n / points
            rows.append(row)
    last = torch.zeros(joints)
    last[walk[-1]] = 1
    return torch.stack([*rows, last])


def _small(widths: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """Four convolutions of stride 2 with batch norm and ReLU, the mean over positions, and a linear layer."""
    if len(widths) != 4:
        raise FusionInputError(f"widths are those of four layers, got {tuple(widths)}")
    check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
    layers: list[nn.Module] = []
    for before, after in pairwise((_COLOURS, *widths)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(widths[-1], outputs)
    )


class _Normalized(nn.Module):
    """Images in [0, 1] with the means and deviations of ImageNet taken out."""

    def forward(self, image: Tensor) -> Tensor:
        mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in _IMAGENET)
        return (image - mean) / std
