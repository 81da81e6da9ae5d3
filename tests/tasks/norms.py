"""Networks whose norms do something in evaluation, as those of new networks do not."""

from __future__ import annotations

from torch import nn


def randomized(network: nn.Module) -> nn.Module:
    """A network in evaluation mode, after random numbers were put into its norms."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.2)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return network.eval()
