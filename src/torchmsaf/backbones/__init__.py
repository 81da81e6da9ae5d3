"""Networks made of stages; they know nothing of fusion."""

from torchmsaf.backbones.by_rank import network_for as network_for
from torchmsaf.backbones.staged import ConvNet as ConvNet
from torchmsaf.backbones.staged import StagedNetwork as StagedNetwork
from torchmsaf.backbones.staged import VectorNet as VectorNet
