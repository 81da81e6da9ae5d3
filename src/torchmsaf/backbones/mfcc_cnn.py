"""The one-dimensional network that the MSAF paper uses for audio.

Su, Hu, Li and Cao, "MSAF: Multimodal Split Attention Fusion", arXiv 2012.07175, 2020; the layers are those of the
authors' code, github.com/anita-hu/MSAF.
"""

# B batch, F coefficients, T steps, K outputs

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer

_POOL = 8
_LOST = 4  # steps that the first two convolutions take off


class MFCCNet(StagedNetwork):
    """Three convolutions over the cepstral coefficients of speech (MFCC), ``(B, F, T)``.

    ReLU comes before batch norm, as in the authors' code. Of 13 x 212, the recordings of the MSAF paper, the layers make:

    - ``conv1``, ``relu1``, ``bn1``: 32 x 210
    - ``conv2``, ``relu2``: 32 x 208
    - ``maxpool``, ``bn2``, ``drop2``: 32 x 26
    - ``conv3``, ``relu3``, ``bn3``: 64 x 26
    - flattened, ``drop3``: 1664

    It has 34,024 parameters for 8 outputs. The names of layers with parameters are those of the authors' code, so that its
    state dicts fit. The last layer, ``fc1``, is as wide as the maps are long, so a network takes eight lengths only:
    built for 212 steps, 212 to 219.

    As a staged network it has two stages, up to ``relu2`` and from ``maxpool`` to ``bn3``: the paper's two points of MSAF
    are after them.

    Args:
        outputs: K.
        coefficients: F.
        steps: T, 12 or more.

    Attributes:
        width: width of the feature vector, 64 floor((T - 4) / 8).
        lengths: the smallest and the largest T that it takes.

    Raises:
        FusionInputError: an argument out of range.
    """

    def __init__(self, outputs: int, *, coefficients: int = 13, steps: int = 212) -> None:
        super().__init__()
        check_integer("outputs", outputs, advice="one a class, 1 in regression")
        check_integer("coefficients", coefficients, advice="the paper's recordings have 13")
        check_integer("steps", steps, advice="the paper's recordings have 212")
        if steps < _LOST + _POOL:
            raise FusionInputError(f"steps is {_LOST + _POOL} or more, got {steps}: nothing is left after the pooling")
        kept = (steps - _LOST) // _POOL
        self.coefficients = coefficients
        self.lengths = (_LOST + _POOL * kept, _LOST + _POOL * kept + _POOL - 1)
        self.width = 64 * kept
        self.conv1 = nn.Conv1d(coefficients, 32, 7, padding=2)
        self.relu1 = nn.ReLU()
        self.bn1 = nn.BatchNorm1d(32)
        self.conv2 = nn.Conv1d(32, 32, 7, padding=2)
        self.relu2 = nn.ReLU()
        self.maxpool = nn.MaxPool1d(_POOL)
        self.bn2 = nn.BatchNorm1d(32)
        self.drop2 = nn.Dropout(0.2)
        self.conv3 = nn.Conv1d(32, 64, 5, padding=2)
        self.relu3 = nn.ReLU()
        self.bn3 = nn.BatchNorm1d(64)
        self.drop3 = nn.Dropout(0.4)
        self.fc1 = nn.Linear(self.width, outputs)
        self.channels = (32, 64)
        self.stages = (self.to_relu2, self.to_bn3)
        self.head = self.classify

    def to_relu2(self, x: Tensor) -> Tensor:
        """Coefficients ``(B, F, T)`` to the maps after ``relu2``, ``(B, 32, T - 4)``."""
        self._check(x)
        maps: Tensor = self.relu2(self.conv2(self.bn1(self.relu1(self.conv1(x)))))
        return maps

    def to_bn3(self, maps: Tensor) -> Tensor:
        """The maps after ``relu2`` to those after ``bn3``, ``(B, 64, width / 64)``."""
        x = self.drop2(self.bn2(self.maxpool(maps)))
        last: Tensor = self.bn3(self.relu3(self.conv3(x)))
        return last

    def feature(self, maps: Tensor) -> Tensor:
        """The maps after ``bn3`` to feature vectors ``(B, width)``, dropout included."""
        vectors: Tensor = self.drop3(torch.flatten(maps, 1))
        return vectors

    def features(self, x: Tensor) -> Tensor:
        """Coefficients ``(B, F, T)`` to feature vectors ``(B, width)``, dropout included."""
        return self.feature(self.to_bn3(self.to_relu2(x)))

    def classify(self, vectors: Tensor) -> Tensor:
        """Feature vectors to ``(B, K)``."""
        prediction: Tensor = self.fc1(vectors)
        return prediction

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients ``(B, F, T)`` to ``(B, K)``.

        Raises:
            FusionInputError: other coefficients, or a T that is not in ``lengths``.
        """
        return self.classify(self.features(x))

    def _check(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[1] != self.coefficients:
            raise FusionInputError(f"expected coefficients (B, {self.coefficients}, T), got {tuple(x.shape)}")
        shortest, longest = self.lengths
        if not shortest <= x.shape[2] <= longest:
            raise FusionInputError(
                f"this network takes {shortest} to {longest} steps, got {x.shape[2]}: pad or cut, or build it with "
                f"steps={x.shape[2]}"
            )
