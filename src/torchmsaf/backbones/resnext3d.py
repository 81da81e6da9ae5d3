"""The 3D ResNeXt-50 that the MSAF paper uses for video.

Hara, Kataoka and Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018,
arXiv 1711.09577.
"""

# B batch, T frames, H and W size of a frame, K outputs

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchmsaf.backbones.clip_conv3d import ClipConv3d
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_boolean, check_integer

_EXPANSION = 2


class ResNeXtBlock(nn.Module):
    """1 x 1 x 1, grouped 3 x 3 x 3 and 1 x 1 x 1 convolutions, each with batch norm, added to a shortcut.

    Args:
        in_channels: channels that come in.
        inside: channels of the grouped convolution; twice as many go out.
        stride: of the grouped convolution and the shortcut, along all three axes.
        project: whether the shortcut is a convolution with batch norm (shortcut B); else it is the input itself.
        groups: of the grouped convolution.
    """

    def __init__(self, in_channels: int, inside: int, *, stride: int, project: bool, groups: int = 32) -> None:
        super().__init__()
        out = _EXPANSION * inside
        self.conv1 = nn.Conv3d(in_channels, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inside)
        self.relu1 = nn.ReLU()
        self.conv2 = ClipConv3d(inside, inside, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(inside)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv3d(inside, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.relu3 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if project:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out, 1, stride=stride, bias=False), nn.BatchNorm3d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, T, H, W)`` to ``(B, 2 * inside, T', H', W')``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + self.downsample(x))
        return out


class ResNeXtLayer(nn.Sequential):
    """Blocks of one width; the first has the stride and a shortcut of its own.

    Args:
        in_channels: channels that come in.
        inside: channels inside of a block; twice as many go out.
        blocks: how many.
        stride: of the first.
        groups: of the grouped convolutions.
        checkpointing: recompute each block in the backward pass, and keep its input alone.
    """

    def __init__(
        self, in_channels: int, inside: int, blocks: int, *, stride: int, groups: int, checkpointing: bool
    ) -> None:
        rest = [
            ResNeXtBlock(_EXPANSION * inside, inside, stride=1, project=False, groups=groups) for _ in range(blocks - 1)
        ]
        super().__init__(ResNeXtBlock(in_channels, inside, stride=stride, project=True, groups=groups), *rest)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        """One block after the other."""
        for block in self:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x


class ResNeXt3D(StagedNetwork):
    """3D ResNeXt-50 of cardinality 32 with shortcut B, for clips ``(B, 3, T, H, W)``.

    Of 3 x 30 x 224 x 224, the clips of the MSAF paper, the layers make:

    - ``conv1``: 64 x 30 x 112 x 112, ``maxpool``: 64 x 15 x 56 x 56
    - ``layer1``: 256 x 15 x 56 x 56, ``layer2``: 512 x 8 x 28 x 28
    - ``layer3``: 1024 x 4 x 14 x 14, ``layer4``: 2048 x 2 x 7 x 7
    - ``avgpool``: 2048 x 1 x 1 x 1

    It has 25,882,056 parameters for 8 outputs; 2049 of them are for each output. The names of layers with
    parameters are those of the authors' code (github.com/kenshohara/3D-ResNets-PyTorch, its CVPR 2018 branch), so that
    its state dicts fit once ``module.`` is taken off the keys.

    Two things differ from that code, and neither changes a value on clips of 30 x 224 x 224. The last pooling is over all
    positions there are, whatever the clip's length and size; theirs is over 2 x 7 x 7, for one length and size. And every
    ReLU is a module of its own, not in place, so that it can be tapped.

    As a staged network it has two stages, up to ``layer3`` and ``layer4``: the paper's two points of MSAF are after them.

    Args:
        outputs: K.
        blocks: how many each of the four layers has; (3, 4, 23, 3) is ResNeXt-101.
        width: channels of the stem; the layers put out 4, 8, 16 and 32 times as many. 64 is the published network.
        cardinality: groups of the grouped convolutions; divides 2 ``width``.
        stem_relu: False leaves out the ReLU after ``bn1``, as the MSAF authors' fused network does. It is for their fused
            checkpoints alone; MSAF's paper and the unimodal networks have it.
        checkpointing: in training, keep the inputs of blocks alone and compute the rest again in the backward pass: less
            memory, more time. Batch norm then sees each batch twice, which changes its running statistics a little.

    Attributes:
        width: width of the feature vector.

    Raises:
        FusionInputError: an argument out of its range.
    """

    def __init__(
        self,
        outputs: int,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        cardinality: int = 32,
        stem_relu: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_integer("outputs", outputs, advice="one a class, 1 in regression")
        check_integer("width", width, advice="64 is the published network")
        check_integer("cardinality", cardinality, advice="32 is the published network")
        if len(blocks) != 4:
            raise FusionInputError(f"blocks is one number for each of four layers, got {tuple(blocks)}")
        for number in blocks:
            check_integer("blocks", number, advice="(3, 4, 6, 3) is the published network")
        if 2 * width % cardinality:
            raise FusionInputError(f"cardinality divides twice the width, {2 * width}, got {cardinality}")
        self.stem_relu = check_boolean("stem_relu", stem_relu)
        check_boolean("checkpointing", checkpointing)
        self.conv1 = ClipConv3d(3, width, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        inside = [2 * width * 2**k for k in range(4)]
        before = [width, *(_EXPANSION * one for one in inside)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            ResNeXtLayer(
                before[k],
                inside[k],
                blocks[k],
                stride=1 if k == 0 else 2,
                groups=cardinality,
                checkpointing=checkpointing,
            )
            for k in range(4)
        )
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.channels, self.width = (before[-2], before[-1]), before[-1]
        self.stages = (self.to_layer3, self.to_layer4)
        self.head = self.classify
        self.fc = nn.Linear(self.width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def to_layer3(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to the maps after ``layer3``."""
        if x.dim() != 5 or x.shape[1] != 3:
            raise FusionInputError(f"expected clips (B, 3, T, H, W), got {tuple(x.shape)}")
        x = self.bn1(self.conv1(x))
        x = self.maxpool(self.relu(x) if self.stem_relu else x)
        maps: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return maps

    def to_layer4(self, maps: Tensor) -> Tensor:
        """The maps after ``layer3`` to those after ``layer4``."""
        last: Tensor = self.layer4(maps)
        return last

    def feature(self, maps: Tensor) -> Tensor:
        """The maps after ``layer4`` to feature vectors ``(B, width)``."""
        return torch.flatten(self.avgpool(maps), 1)

    def features(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to feature vectors ``(B, width)``."""
        return self.feature(self.to_layer4(self.to_layer3(x)))

    def classify(self, vectors: Tensor) -> Tensor:
        """Feature vectors to ``(B, K)``."""
        prediction: Tensor = self.fc(vectors)
        return prediction

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)``, of any length and size, to ``(B, K)``."""
        return self.classify(self.features(x))
