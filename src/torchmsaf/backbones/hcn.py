"""HCN: co-occurrence features of skeletons, from positions and motions of any number of persons."""

# B batch, C channels, T steps, V joints, M persons, K outputs

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer, check_share

_POOLED = 16  # four poolings by 2


class HCN(StagedNetwork):
    """Hierarchical co-occurrence network for skeletons ``(B, 3, T, V, M)`` (Li et al. 2018).

    Every person goes through the same layers. Positions and motions, the differences of neighbouring steps, have layers of
    their own up to conv4. Of 3 x 32 x 25, a person, the layers make:

    - ``conv1`` 64 x 32 x 25, ``conv2`` 32 x 32 x 25; then joints become channels, 25 x 32 x 32
    - ``conv3`` 32 x 16 x 16, ``conv4`` 64 x 8 x 8; positions and motions in a row: 128 x 8 x 8
    - ``conv5`` 128 x 4 x 4, ``conv6`` 256 x 2 x 2; then the largest value over persons, 256 x 2 x 2
    - ``fc7`` 512, ``fc8`` K

    It has 1,062,652 parameters for 60 outputs; 513 of them are for each output. The names of layers with parameters are
    those of the network that the MFAS and the MSAF authors use (github.com/juanmanpr/mfas, after
    github.com/huguyuehuhu/HCN-pytorch). Weights begin Glorot uniform and biases as zeros, as there.

    Persons are the last axis, the real ones first. Stages and ``feature`` take how many are real, ``(B,)``, or None where
    all are. What stands in the place of an absent person, NaN included, changes neither values nor gradients; its maps are
    zeros. With nobody at all the maps after conv6 are zeros.

    As a staged network it has five stages. Two keep persons apart, ``(B, C, H, W, M)``: conv4 and conv5. Three do not:
    conv6 with the maximum over persons, ``(B, 256, 2, 2)``, the same flattened, ``(B, 1024)``, and fc7, ``(B, 512)``. The
    paper's two points of MSAF are after conv5 and fc7, and its early one, of the ablation, is after conv4.

    Args:
        outputs: K.
        channels: coordinates of a joint.
        joints: V.
        steps: T, at least 16; clips have exactly as many.
        persons: M of the clips. The network takes other numbers too; a fusion between its layers does not.
        widths: channels of conv1 to conv6 and width of fc7. That of conv2 is also a side of the maps after it, and at
            least 16.
        dropout: probability of dropping a channel, from conv4 on, or a feature of fc7.

    Attributes:
        width: width of the feature vector, of fc7.

    Raises:
        FusionInputError: an argument out of its range, or skeletons of another shape.
    """

    takes_lengths = True
    names = ("conv4", "conv5", "conv6", "flat6", "fc7")
    placements = MappingProxyType({"early": "conv4", "intermediate": "conv5", "late": "fc7"})
    taps = ("conv5", "conv6", "flat6", "fc7")

    def __init__(
        self,
        outputs: int,
        *,
        channels: int = 3,
        joints: int = 25,
        steps: int = 32,
        persons: int = 2,
        widths: Sequence[int] = (64, 32, 32, 64, 128, 256, 512),
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        check_integer("outputs", outputs, advice="one a class, 1 in regression")
        check_integer("channels", channels, advice="3 coordinates a joint")
        check_integer("joints", joints, advice="25 in NTU RGB+D")
        check_integer("steps", steps, advice="32 is the published network")
        check_integer("persons", persons, advice="2 in NTU RGB+D")
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        if len(widths) != 7:
            raise FusionInputError(f"widths is one number for each of conv1 to conv6 and fc7, got {widths!r}")
        for one in widths:
            check_integer("widths", one, advice="(64, 32, 32, 64, 128, 256, 512) is the published network")
        if min(steps, widths[1]) < _POOLED:
            raise FusionInputError(
                f"steps and the width of conv2 are at least {_POOLED}, as four layers halve them, got {steps}, {widths[1]}"
            )
        self.shape = (channels, steps, joints)
        first, second, third, fourth, fifth, sixth, last = widths
        for suffix in ("", "m"):
            self.add_module(f"conv1{suffix}", nn.Sequential(nn.Conv2d(channels, first, 1), nn.ReLU()))
            self.add_module(f"conv2{suffix}", nn.Conv2d(first, second, (3, 1), padding=(1, 0)))
            self.add_module(f"conv3{suffix}", nn.Sequential(_conv(joints, third), nn.MaxPool2d(2)))
            self.add_module(
                f"conv4{suffix}", nn.Sequential(_conv(third, fourth), nn.Dropout2d(dropout), nn.MaxPool2d(2))
            )
        self.conv5 = nn.Sequential(_conv(2 * fourth, fifth), nn.ReLU(), nn.Dropout2d(dropout), nn.MaxPool2d(2))
        self.conv6 = nn.Sequential(_conv(fifth, sixth), nn.ReLU(), nn.Dropout2d(dropout), nn.MaxPool2d(2))
        flat = sixth * (steps // _POOLED) * (second // _POOLED)
        self.fc7 = nn.Sequential(nn.Linear(flat, last), nn.ReLU(), nn.Dropout(dropout))
        self.fc8 = nn.Linear(last, outputs)
        self.channels, self.width = (2 * fourth, fifth, sixth, flat, last), last
        self.streams = (persons, persons, 0, 0, 0)
        self.stages = (self.to_conv4, self.to_conv5, self.to_conv6, self.to_flat6, self.to_fc7)
        self.head = self.classify
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def to_conv4(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Skeletons ``(B, C, T, V, M)`` to the maps of positions and motions after conv4, ``(B, 128, 8, 8, M)``."""
        if x.dim() != 5 or tuple(x.shape[1:4]) != self.shape or not x.shape[4]:
            wanted = ", ".join(map(str, self.shape))
            raise FusionInputError(
                f"expected skeletons (B, {wanted}, M) of coordinates, steps, joints and persons, got {tuple(x.shape)}; "
                "resample them to the number of steps"
            )
        positions = _one_by_one(_only_real(x, lengths))
        motions = positions[:, :, 1:] - positions[:, :, :-1]
        motions = F.interpolate(motions, size=positions.shape[2:], mode="bilinear", align_corners=False)
        maps = torch.cat([self._stream(positions, ""), self._stream(motions, "m")], 1)
        return _only_real(_side_by_side(maps, x.shape[-1]), lengths)

    def to_conv5(self, maps: Tensor, lengths: Tensor | None) -> Tensor:
        """The maps after conv4 to those after conv5, ``(B, 128, 4, 4, M)``."""
        return self._each(self.conv5, maps, lengths)

    def to_conv6(self, maps: Tensor, lengths: Tensor | None) -> Tensor:
        """The maps after conv5 to the largest values over real persons after conv6, ``(B, 256, 2, 2)``."""
        return self._each(self.conv6, maps, lengths).amax(-1)  # after ReLU the zeros of absent persons change nothing

    def to_flat6(self, maps: Tensor, lengths: Tensor | None) -> Tensor:
        """The maps after conv6, flattened, ``(B, 1024)``."""
        return maps.flatten(1)

    def to_fc7(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """The flat vectors to those after fc7, ``(B, 512)``."""
        last: Tensor = self.fc7(vectors)
        return last

    def feature(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """The vectors themselves."""
        return vectors

    def classify(self, vectors: Tensor) -> Tensor:
        """Feature vectors to ``(B, K)``."""
        prediction: Tensor = self.fc8(vectors)
        return prediction

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Skeletons ``(B, C, T, V, M)``, and how many persons of each are real, ``(B,)``, to ``(B, K)``."""
        for stage in self.stages:
            x = stage(x, lengths)
        return self.classify(self.feature(x, lengths))

    def _stream(self, x: Tensor, suffix: str) -> Tensor:
        layer = self.get_submodule
        x = layer(f"conv2{suffix}")(layer(f"conv1{suffix}")(x))
        maps: Tensor = layer(f"conv4{suffix}")(layer(f"conv3{suffix}")(x.permute(0, 3, 2, 1)))
        return maps

    def _each(self, layer: nn.Module, maps: Tensor, lengths: Tensor | None) -> Tensor:
        found = _side_by_side(layer(_one_by_one(_only_real(maps, lengths))), maps.shape[-1])
        return _only_real(found, lengths)


def _conv(in_channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out, 3, padding=1)


def _one_by_one(x: Tensor) -> Tensor:
    """``(B, C, H, W, M)`` to ``(B M, C, H, W)``."""
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)


def _side_by_side(x: Tensor, persons: int) -> Tensor:
    """``(B M, C, H, W)`` to ``(B, C, H, W, M)``."""
    return x.reshape(-1, persons, *x.shape[1:]).permute(0, 2, 3, 4, 1)


def _only_real(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``(B, C, H, W, M)`` with zeros in place of persons from ``lengths`` on."""
    if lengths is None:
        return x
    absent = torch.arange(x.shape[-1], device=x.device) >= lengths.to(x.device)[:, None]
    return x.masked_fill(absent[:, None, None, None], 0)
