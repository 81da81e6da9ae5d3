"""I3D: the Inception-v1 network with every kernel inflated to three dimensions, for clips."""

# B batch, C channels, T frames, H height, W width, K outputs

from __future__ import annotations

from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchmsaf.backbones.clip_conv3d import ClipConv3d
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_boolean, check_integer, check_number, check_share

_LEAST_CHANNELS = 4

Sides = tuple[int, int, int]

# of each Mixed layer: the 1 x 1 x 1 branch, two branches of (reduction, 3 x 3 x 3), and the branch of the pooling
_MIXED = {
    "3b": (64, (96, 128), (16, 32), 32),
    "3c": (128, (128, 192), (32, 96), 64),
    "4b": (192, (96, 208), (16, 48), 64),
    "4c": (160, (112, 224), (24, 64), 64),
    "4d": (128, (128, 256), (24, 64), 64),
    "4e": (112, (144, 288), (32, 64), 64),
    "4f": (256, (160, 320), (32, 128), 128),
    "5b": (256, (160, 320), (32, 128), 128),
    "5c": (384, (192, 384), (48, 128), 128),
}

# of each stage but the first, which begins with layer 0: its first layer
_CUTS = (0, 12, 13, 15, 16)


class ConvUnit(nn.Module):
    """A convolution without bias, batch norm and ReLU.

    Args:
        in_channels: channels that come in.
        out: channels that go out.
        kernel: side of the kernel along all axes, odd.
        stride: along all axes.
        same: pad as TensorFlow's SAME does, else by half a kernel on both sides. They differ where ``stride`` is not 1.
    """

    def __init__(self, in_channels: int, out: int, kernel: int, *, stride: int = 1, same: bool = False) -> None:
        super().__init__()
        self.same = same and stride > 1
        padding = 0 if self.same else kernel // 2
        self.conv = ClipConv3d(in_channels, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=1e-3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, T, H, W)`` to ``(B, out, T', H', W')``."""
        if self.same:
            sides, strides = self.conv.kernel_size, self.conv.stride
            x = _pad_same(x, (sides[0], sides[1], sides[2]), (strides[0], strides[1], strides[2]))
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class ClipPool(nn.Module):
    """Maximum pooling of clips whose values are not negative.

    Args:
        kernel: along time, height and width.
        stride: the same.
        same: pad as TensorFlow's SAME does, at the end first; an incomplete window then counts. Else odd kernels are padded
            by half on both sides, and even ones are not: an incomplete window is left out, unless there is no other.
    """

    def __init__(self, kernel: Sides, stride: Sides, *, same: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.same = kernel, stride, same

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C, T', H', W')``."""
        if self.same:
            return F.max_pool3d(_pad_same(x, self.kernel, self.stride), self.kernel, self.stride)
        size = x.shape[2:]
        kernel = [side if side % 2 else min(side, size[axis]) for axis, side in enumerate(self.kernel)]
        padding = [side // 2 if side % 2 else 0 for side in self.kernel]
        return F.max_pool3d(x, kernel, self.stride, padding)


class Mixed(nn.Module):
    """An Inception layer: four branches of one clip, their channels in a row.

    Args:
        in_channels: channels that come in.
        first: channels of the branch of one 1 x 1 x 1 convolution.
        second: channels of a 1 x 1 x 1 and of a 3 x 3 x 3 convolution after it.
        third: the same, of a narrower branch.
        fourth: channels of the 1 x 1 x 1 convolution after a pooling.
    """

    def __init__(
        self, in_channels: int, first: int, second: tuple[int, int], third: tuple[int, int], fourth: int
    ) -> None:
        super().__init__()
        self.out = first + second[1] + third[1] + fourth
        self.branch0 = nn.Sequential(ConvUnit(in_channels, first, 1))
        self.branch1 = nn.Sequential(ConvUnit(in_channels, second[0], 1), ConvUnit(*second, 3))
        self.branch2 = nn.Sequential(ConvUnit(in_channels, third[0], 1), ConvUnit(*third, 3))
        self.branch3 = nn.Sequential(ClipPool((3, 3, 3), (1, 1, 1)), ConvUnit(in_channels, fourth, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, T, H, W)`` to ``(B, out, T, H, W)``."""
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class WindowAverage(nn.Module):
    """The mean over space, then over windows of two time steps, then over the windows; of one step, that step.

    The steps between the first and the last so count twice. On maps of 7 x 7 it is the published pooling of 2 x 7 x 7 with
    the mean over time that follows the last convolution there.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C)``."""
        steps = maps.mean((-2, -1))
        if steps.shape[-1] > 1:
            steps = (steps[..., 1:] + steps[..., :-1]) / 2
        return steps.mean(-1)


class I3D(StagedNetwork):
    """Inception-v1 inflated to three dimensions, for clips ``(B, 3, T, H, W)`` (Carreira and Zisserman 2017).

    Of 3 x 32 x 224 x 224, the clips of the MSAF paper, the layers make:

    - ``features.0``, a convolution: 64 x 16 x 112 x 112, ``features.3``: 192 x 16 x 56 x 56
    - ``features.6``, Mixed 3c: 480 x 16 x 28 x 28
    - ``features.11``, Mixed 4e: 528 x 8 x 14 x 14, ``features.12``, Mixed 4f: 832 x 8 x 14 x 14
    - ``features.14``, Mixed 5b: 832 x 4 x 7 x 7, ``features.15``, Mixed 5c: 1024 x 4 x 7 x 7
    - ``features.16``, the mean over space and time: 1024

    It has 12,348,764 parameters for 60 outputs; 1025 of them are for each output. The names of layers with parameters are
    those of github.com/rimchang/kinetics-i3d-Pytorch, which the MSAF authors use. Clips may have any length and size: the
    last pooling is over all positions there are. On 7 x 7 maps the values are those of that code, which pools windows of
    2 x 7 x 7, convolves, and takes the mean over time.

    As a staged network it has four stages, up to Mixed 4e, 4f, 5b and 5c. The paper's two points of MSAF are after 5b and
    5c, and its early one, of the ablation, is after 4f.

    Args:
        outputs: K.
        padding: of strided layers: "symmetric" as in the code above, or "same", TensorFlow's way, which is that of the
            original network and of the ports of hassony2 and piergiaj. Parameters are alike, values are not: a state dict
            belongs to the padding that it was trained with. Where a size is not a multiple of the stride, "same" goes by the
            size, as TensorFlow and piergiaj do; hassony2's port does not.
        width: factor of all channel counts, each rounded and at least 4; 1 is the published network.
        dropout: probability of dropping a feature before the last layer.
        momentum: of batch norm; 0.001 is that of the published port, for networks that begin with its weights. From random
            weights it follows the batches only after thousands of steps.
        checkpointing: in training, keep the inputs of layers alone and compute the rest again in the backward pass: less
            memory, more time. Batch norm then sees each batch twice, which changes its running statistics a little.

    Attributes:
        width: width of the feature vector.

    Raises:
        FusionInputError: an argument out of its range, or what comes in is no clip.
    """

    names = ("mixed_4e", "mixed_4f", "mixed_5b", "mixed_5c")
    placements = MappingProxyType({"early": "mixed_4f", "intermediate": "mixed_5b", "late": "mixed_5c"})
    streams = (0, 0, 0, 0)
    taps = ("mixed_4f", "mixed_5b", "mixed_5c", "feature")

    def __init__(
        self,
        outputs: int,
        *,
        padding: str = "symmetric",
        width: float = 1.0,
        dropout: float = 0.5,
        momentum: float = 0.001,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_integer("outputs", outputs, advice="one a class, 1 in regression")
        if padding not in ("symmetric", "same"):
            raise FusionInputError(f'padding is "symmetric" or "same", got {padding!r}')
        if check_number("width", width) <= 0:
            raise FusionInputError(
                f"width is a positive factor of the channel counts, got {width!r}; 1 is as published"
            )
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        if not 0 < check_number("momentum", momentum) <= 1:
            raise FusionInputError(f"momentum is a number in (0, 1], got {momentum!r}")
        self.checkpointing = check_boolean("checkpointing", checkpointing)
        layers, counts = _layers(float(width), same=padding == "same")
        self.width = counts[15]
        self.channels = tuple(counts[cut - 1] for cut in _CUTS[1:])
        last = nn.Conv3d(self.width, outputs, 1)
        self.features = nn.Sequential(*layers, WindowAverage(), nn.Dropout(dropout), last)
        self.stages = (self.to_mixed_4e, self.to_mixed_4f, self.to_mixed_5b, self.to_mixed_5c)
        self.head = self.classify
        for module in self.modules():
            if isinstance(module, ClipConv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm3d):
                module.momentum = float(momentum)

    def to_mixed_4e(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to the maps after Mixed 4e."""
        if x.dim() != 5 or x.shape[1] != 3:
            raise FusionInputError(f"expected clips (B, 3, T, H, W), got {tuple(x.shape)}")
        return self._stage(0, x)

    def to_mixed_4f(self, maps: Tensor) -> Tensor:
        """The maps after Mixed 4e to those after Mixed 4f."""
        return self._stage(1, maps)

    def to_mixed_5b(self, maps: Tensor) -> Tensor:
        """The maps after Mixed 4f to those after the last pooling between layers and Mixed 5b."""
        return self._stage(2, maps)

    def to_mixed_5c(self, maps: Tensor) -> Tensor:
        """The maps after Mixed 5b to those after Mixed 5c."""
        return self._stage(3, maps)

    def feature(self, maps: Tensor) -> Tensor:
        """The maps after Mixed 5c to feature vectors ``(B, width)``."""
        vectors: Tensor = self.features[16](maps)
        return vectors

    def classify(self, vectors: Tensor) -> Tensor:
        """Feature vectors to ``(B, K)``."""
        kept = self.features[17](vectors)
        prediction: Tensor = self.features[18](kept[..., None, None, None])
        return prediction.flatten(1)

    def _stage(self, index: int, x: Tensor) -> Tensor:
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer in range(_CUTS[index], _CUTS[index + 1]):
            block = self.features[layer]
            if again and not isinstance(block, ClipPool):
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x


def _layers(width: float, *, same: bool) -> tuple[list[nn.Module], list[int]]:
    """The layers before the last pooling, and how many channels each puts out."""

    def scaled(count: int) -> int:
        return max(_LEAST_CHANNELS, round(count * width))

    counts = [scaled(64)]
    layers: list[nn.Module] = [ConvUnit(3, counts[0], 7, stride=2, same=same)]

    def add(layer: nn.Module, out: int | None = None) -> None:
        layers.append(layer)
        counts.append(counts[-1] if out is None else out)

    def add_mixed(names: str) -> None:
        for name in names.split():
            first, second, third, fourth = _MIXED[name]
            pairs = [(scaled(a), scaled(b)) for a, b in (second, third)]
            layer = Mixed(counts[-1], scaled(first), pairs[0], pairs[1], scaled(fourth))
            add(layer, layer.out)

    add(ClipPool((1, 3, 3), (1, 2, 2), same=same))
    add(ConvUnit(counts[-1], scaled(64), 1), scaled(64))
    add(ConvUnit(counts[-1], scaled(192), 3), scaled(192))
    add(ClipPool((1, 3, 3), (1, 2, 2), same=same))
    add_mixed("3b 3c")
    add(ClipPool((3, 3, 3), (2, 2, 2), same=same))
    add_mixed("4b 4c 4d 4e 4f")
    add(ClipPool((2, 2, 2), (2, 2, 2), same=same))
    add_mixed("5b 5c")
    return layers, counts


def _pad_same(x: Tensor, kernel: Sides, stride: Sides) -> Tensor:
    """Zeros around the positions, so that each axis of n comes out as ceil(n / stride); an odd zero is at the end."""
    pads: list[int] = []
    for axis in (2, 1, 0):
        size, side, step = x.shape[2 + axis], kernel[axis], stride[axis]
        total = max((-(-size // step) - 1) * step + side - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x
