"""The 3D ResNeXt-50 that the MSAF paper uses for video.

Hara, Kataoka and Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018,
arXiv 1711.09577.
"""

# B batch, T frames, H and W size of a frame, K outputs

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer

_CARDINALITY = 32
_EXPANSION = 2
# blocks of each layer, and the channels inside of them
_BLOCKS = (3, 4, 6, 3)
_INSIDE = (128, 256, 512, 1024)


class ResNeXtBlock(nn.Module):
    """1 x 1 x 1, grouped 3 x 3 x 3 and 1 x 1 x 1 convolutions, each with batch norm, added to a shortcut.

    Args:
        in_channels: channels that come in.
        inside: channels of the grouped convolution; twice as many go out.
        stride: of the grouped convolution and the shortcut, along all three axes.
        project: whether the shortcut is a convolution with batch norm (shortcut B); else it is the input itself.
    """

    def __init__(self, in_channels: int, inside: int, *, stride: int, project: bool) -> None:
        super().__init__()
        out = _EXPANSION * inside
        self.conv1 = nn.Conv3d(in_channels, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inside)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv3d(inside, inside, 3, stride=stride, padding=1, groups=_CARDINALITY, bias=False)
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


class ResNeXt3D(nn.Module):
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

    Args:
        outputs: K.

    Attributes:
        width: width of the feature vector.

    Raises:
        FusionInputError: outputs is not a positive integer.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        check_integer("outputs", outputs, advice="one a class, 1 in regression")
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        widths = (64, *(_EXPANSION * inside for inside in _INSIDE))
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _layer(widths[i], _INSIDE[i], _BLOCKS[i], stride=1 if i == 0 else 2) for i in range(4)
        )
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.width = widths[-1]
        self.fc = nn.Linear(self.width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to feature vectors ``(B, 2048)``."""
        if x.dim() != 5 or x.shape[1] != 3:
            raise FusionInputError(f"expected clips (B, 3, T, H, W), got {tuple(x.shape)}")
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)``, of any length and size, to ``(B, K)``."""
        prediction: Tensor = self.fc(self.features(x))
        return prediction


def _layer(in_channels: int, inside: int, blocks: int, *, stride: int) -> nn.Sequential:
    """Blocks of one width; the first has the stride and a shortcut of its own."""
    rest = [ResNeXtBlock(_EXPANSION * inside, inside, stride=1, project=False) for _ in range(blocks - 1)]
    return nn.Sequential(ResNeXtBlock(in_channels, inside, stride=stride, project=True), *rest)
