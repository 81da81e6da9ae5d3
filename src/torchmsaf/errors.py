"""The exceptions of torchmsaf. Each message says what was asked, what came and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class TorchmsafError(Exception):
    """Base class of every error that torchmsaf raises on purpose."""


class FusionInputError(TorchmsafError, ValueError):
    """A fusion was built or called with something it cannot take."""


class GraftError(TorchmsafError, ValueError):
    """A network, a layer or a fusion point cannot be grafted, or did not run as it was grafted."""


class DataError(TorchmsafError, ValueError):
    """A data file, an array or a label cannot be used as it is."""


class ProtocolError(TorchmsafError, ValueError):
    """A split would leak: the same group in two parts, too few groups, an empty part."""


class ResultError(TorchmsafError, RuntimeError):
    """A result folder cannot be written, resumed or read."""


class MissingDependencyError(TorchmsafError, ImportError):
    """An optional package is needed and is not installed."""


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        package: the import name, e.g. ``"lightning"``.
        extra: the extra of torchmsaf that lists it, e.g. ``"compare"``.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"{package!r} is needed here and is not installed: pip install 'torchmsaf[{extra}]'"
        ) from error


def in_one_line(error: BaseException) -> str:
    """What an error says, without line breaks, 400 characters at most."""
    said = " ".join(str(error).split())
    return said if len(said) <= 400 else f"{said[:397]}..."
