"""How weights and maps lie in memory."""

from __future__ import annotations

import torch
from torch import nn


def to_channels_last(network: nn.Module) -> None:
    """Keep the weights of 2D and 3D convolutions with their channels last in memory; maps follow them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
