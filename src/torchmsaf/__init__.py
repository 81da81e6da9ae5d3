"""Multimodal fusion for networks you already have.

The public names are found when they are first used, so that ``torchmsaf --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchmsaf.errors import DataError as DataError
    from torchmsaf.errors import FusionInputError as FusionInputError
    from torchmsaf.errors import GraftError as GraftError
    from torchmsaf.errors import TorchmsafError as TorchmsafError
    from torchmsaf.grafting import FusionPoint as FusionPoint
    from torchmsaf.grafting import GraftedModel as GraftedModel
    from torchmsaf.grafting import Tap as Tap
    from torchmsaf.grafting import graft as graft
    from torchmsaf.msaf import MSAF as MSAF
    from torchmsaf.msaf import BlockDropout as BlockDropout

__version__ = "0.1.0"

_HOMES = {
    "MSAF": "torchmsaf.msaf",
    "BlockDropout": "torchmsaf.msaf",
    "DataError": "torchmsaf.errors",
    "FusionInputError": "torchmsaf.errors",
    "FusionPoint": "torchmsaf.grafting",
    "GraftError": "torchmsaf.errors",
    "GraftedModel": "torchmsaf.grafting",
    "Tap": "torchmsaf.grafting",
    "TorchmsafError": "torchmsaf.errors",
    "graft": "torchmsaf.grafting",
}

__all__ = [
    "MSAF",
    "BlockDropout",
    "DataError",
    "FusionInputError",
    "FusionPoint",
    "GraftError",
    "GraftedModel",
    "Tap",
    "TorchmsafError",
    "__version__",
    "graft",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'torchmsaf' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
