"""ResNet-50 inflated to clips, as in Glimpse Clouds: a stem for each frame, then 3D bottlenecks that keep all frames."""

# B batch, C channels, T frames, H height, W width, K outputs

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchmsaf.backbones.clip_conv3d import ClipConv3d
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_boolean, check_integer

_EXPANSION = 4
_NORM_KEY = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_IMAGE_KEY = re.compile(
    rf"conv1\.weight|bn1\.{_NORM_KEY}|layer[1-4]\.\d+\."
    rf"(conv[123]\.weight|bn[123]\.{_NORM_KEY}|downsample\.(0\.weight|1\.{_NORM_KEY}))"
)


class Bottleneck(nn.Module):
    """1 x 1 x 1, 3 x 3 x 3 and 1 x 1 x 1 convolutions, each with batch norm, added to a shortcut.

    Args:
        in_channels: channels that come in.
        inside: channels of the 3 x 3 x 3 convolution; four times as many go out.
        stride: of that convolution and the shortcut, along height and width.
        project: whether the shortcut is a convolution with batch norm; else it is the input itself.
    """

    def __init__(self, in_channels: int, inside: int, *, stride: int, project: bool) -> None:
        super().__init__()
        out = _EXPANSION * inside
        self.conv1 = nn.Conv3d(in_channels, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inside)
        self.relu1 = nn.ReLU()
        self.conv2 = ClipConv3d(inside, inside, 3, stride=(1, stride, stride), padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(inside)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv3d(inside, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.relu3 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if project:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out, 1, stride=(1, stride, stride), bias=False), nn.BatchNorm3d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, T, H, W)`` to ``(B, 4 * inside, T, H', W')``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + self.downsample(x))
        return out


class Trunk(nn.Module):
    """All layers but the last: a stem of images, and four layers of bottlenecks.

    Args:
        width: channels of the stem.
        blocks: how many each of the four layers has.
    """

    def __init__(self, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = width
        for k, number in enumerate(blocks):
            inside = width * 2**k
            out = _EXPANSION * inside
            rest = [Bottleneck(out, inside, stride=1, project=False) for _ in range(number - 1)]
            first = Bottleneck(before, inside, stride=1 if k == 0 else 2, project=True)
            self.add_module(f"layer{k + 1}", nn.Sequential(first, *rest))
            before = out

    def stem(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)``, frame by frame, to maps ``(B, width, T, H', W')``."""
        frames = x.transpose(1, 2).flatten(0, 1)
        maps: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        return maps.reshape(x.shape[0], x.shape[2], *maps.shape[1:]).transpose(1, 2).contiguous()


class InflatedResNet50(StagedNetwork):
    """ResNet-50 with 3D bottlenecks, for clips ``(B, 3, T, H, W)`` (Baradel et al. 2018, "Glimpse Clouds").

    The stem works on each frame by itself, and no layer has a stride along time. Of 3 x 8 x 224 x 224 the layers make:

    - the stem: 64 x 8 x 56 x 56, ``cnn.layer1``: 256 x 8 x 56 x 56, ``cnn.layer2``: 512 x 8 x 28 x 28
    - ``cnn.layer3``: 1024 x 8 x 14 x 14, ``cnn.layer4``: 2048 x 8 x 7 x 7
    - the mean over all positions: 2048

    It has 46,265,468 parameters for 60 outputs; 2049 of them are for each output. The names of layers with parameters are
    those of the network that the MFAS and the MSAF authors use (github.com/juanmanpr/mfas, after
    github.com/fabienbaradel/glimpse_clouds). Clips may have any length and size.

    As a staged network it has four stages, up to ``layer1`` to ``layer4``. The paper's two points of MSAF are after
    ``layer3`` and ``layer4``. That its early one is after ``layer2`` is a guess: the paper has it for I3D alone.

    Args:
        outputs: K.
        blocks: how many each of the four layers has.
        width: channels of the stem; the layers put out 4, 8, 16 and 32 times as many. 64 is the published network.
        checkpointing: in training, keep the inputs of blocks alone and compute the rest again in the backward pass: less
            memory, more time. Batch norm then sees each batch twice, which changes its running statistics a little.

    Attributes:
        width: width of the feature vector.

    Raises:
        FusionInputError: an argument out of its range, or what comes in is no clip.
    """

    names = ("layer1", "layer2", "layer3", "layer4")
    placements = MappingProxyType({"early": "layer2", "intermediate": "layer3", "late": "layer4"})
    streams = (0, 0, 0, 0)
    taps = ("layer2", "layer3", "layer4", "feature")

    def __init__(
        self,
        outputs: int,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_integer("outputs", outputs, advice="one a class, 1 in regression")
        check_integer("width", width, advice="64 is the published network")
        if len(blocks) != 4:
            raise FusionInputError(f"blocks is one number for each of four layers, got {tuple(blocks)}")
        for number in blocks:
            check_integer("blocks", number, advice="(3, 4, 6, 3) is the published network")
        self.checkpointing = check_boolean("checkpointing", checkpointing)
        self.channels = tuple(_EXPANSION * width * 2**k for k in range(4))
        self.width = self.channels[-1]
        self.cnn = Trunk(width, blocks)
        self.classifier = nn.Linear(self.width, outputs)
        self.stages = (self.to_layer1, self.to_layer2, self.to_layer3, self.to_layer4)
        self.head = self.classify
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                fan = math.prod(module.kernel_size[:2]) * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))

    def to_layer1(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to the maps after ``layer1``."""
        if x.dim() != 5 or x.shape[1] != 3:
            raise FusionInputError(f"expected clips (B, 3, T, H, W), got {tuple(x.shape)}")
        return self._layer(1, self.cnn.stem(x))

    def to_layer2(self, maps: Tensor) -> Tensor:
        """The maps after ``layer1`` to those after ``layer2``."""
        return self._layer(2, maps)

    def to_layer3(self, maps: Tensor) -> Tensor:
        """The maps after ``layer2`` to those after ``layer3``."""
        return self._layer(3, maps)

    def to_layer4(self, maps: Tensor) -> Tensor:
        """The maps after ``layer3`` to those after ``layer4``."""
        return self._layer(4, maps)

    def feature(self, maps: Tensor) -> Tensor:
        """The maps after ``layer4`` to feature vectors ``(B, width)``."""
        return maps.mean((-3, -2, -1))

    def classify(self, vectors: Tensor) -> Tensor:
        """Feature vectors to ``(B, K)``."""
        prediction: Tensor = self.classifier(vectors)
        return prediction

    def _layer(self, number: int, x: Tensor) -> Tensor:
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.cnn.get_submodule(f"layer{number}").children():
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if again else block(x)
        return x


def centre_inflate(state: Mapping[str, Tensor], *, how: str = "centre") -> dict[str, Tensor]:
    """The state dict of an image ResNet as that of the clip network, without its last layer.

    A k x k kernel of the four layers becomes one of k x k x k; the stem stays two-dimensional. On a clip of equal frames
    the "centre" network gives everywhere what the image network gives on one of them. The "mean" network gives it where its
    kernels do not reach beyond the ends of the clip: with ResNet-50's 16 of them, 16 frames away from both.

    Args:
        state: of torchvision's ResNet-50, or another with bottlenecks and the same names: ``conv1``, ``bn1``, ``layer1`` to
            ``layer4``; ``fc`` is left out.
        how: "centre" puts the kernel at the middle step and zeros elsewhere, "mean" puts it at all steps, divided by k.

    Returns:
        The entries of an :class:`InflatedResNet50` that begin with ``cnn.``. The tensors of ``state`` are not changed.

    Raises:
        FusionInputError: an unknown way, an entry with another name, or a kernel of another rank.
    """
    if how not in ("centre", "mean"):
        raise FusionInputError(f'how is "centre" or "mean", got {how!r}')
    inflated: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in ("fc.weight", "fc.bias"):
            continue
        if not _IMAGE_KEY.fullmatch(key):
            raise FusionInputError(f"{key!r} is no entry of an image ResNet; give torchvision's resnet50 state dict")
        kernel = key == "conv1.weight" or re.search(r"(conv\d|downsample\.0)\.weight$", key)
        if kernel and value.dim() != 4:
            raise FusionInputError(
                f"{key!r} has shape {tuple(value.shape)}; a kernel of an image network has four axes"
            )
        stays = not kernel or key == "conv1.weight"
        inflated[f"cnn.{key}"] = value.clone() if stays else _inflate(value, how)
    if not inflated:
        raise FusionInputError("the state dict has no entries; give torchvision's resnet50 state dict")
    return inflated


def _inflate(kernel: Tensor, how: str) -> Tensor:
    length = kernel.shape[-1]
    if how == "mean":
        return kernel[:, :, None].repeat(1, 1, length, 1, 1) / length
    wide = kernel.new_zeros(*kernel.shape[:2], length, *kernel.shape[2:])
    wide[:, :, length // 2] = kernel
    return wide
