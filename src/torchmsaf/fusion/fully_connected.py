"""The layers that make a prediction from one long vector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn


def fully_connected(width: int, hidden: Sequence[int], out_features: int, *, dropout: float) -> nn.Sequential:
    """Dropout of the vector, hidden layers with ReLU, and a linear layer: ``(B, width)`` to ``(B, out_features)``."""
    sizes = [width, *hidden]
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out_features))
