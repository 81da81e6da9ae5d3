"""A 3D convolution that can be trained in bfloat16 on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClipConv3d(nn.Conv3d):
    """A convolution that is in float32 where bfloat16 is broken on CPUs.

    With fewer frames than its kernel has, torch 2.15 (oneDNN) makes gradients of bfloat16 weights out of memory that
    nobody wrote, or writes where it must not. The last layer has two frames of 30, and a kernel of 3.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`torch.nn.Conv3d`."""
        if torch.is_autocast_enabled("cpu") and x.device.type == "cpu" and x.shape[2] < self.kernel_size[0]:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)
