"""The methods by name: one line each."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.averaging import Averaging
from torchmsaf.fusion.concat import ConcatFC
from torchmsaf.fusion.mmtm import MMTM
from torchmsaf.fusion.multiplication import Multiplication
from torchmsaf.fusion.multiplicative import Multiplicative
from torchmsaf.msaf import MSAF

Stage = Literal["late", "early", "intermediate"]


@dataclass(frozen=True)
class Method:
    """One fusion method.

    Attributes:
        name: how it is called.
        stage: where it fuses: late (predictions), early (feature vectors) or intermediate (between layers).
        build: its class.
        paper: where it is from.
        year: of the paper.
        regression: whether it can do regression; all do classification.
    """

    name: str
    stage: Stage
    build: Callable[..., nn.Module]
    paper: str
    year: int | None
    regression: bool = True


_ALL = (
    Method("averaging", "late", Averaging, "MSAF, Table 1", None),
    Method("multiplication", "late", Multiplication, "MSAF, Table 1", None, regression=False),
    Method("multiplicative", "late", Multiplicative, "Liu et al., arXiv 1805.11730", 2018, regression=False),
    Method("concat", "early", ConcatFC, "MSAF, Table 1, after Ortega et al., arXiv 1907.03196", 2019),
    Method("mmtm", "intermediate", MMTM, "Vaezi Joze et al., CVPR", 2020),
    Method("msaf", "intermediate", MSAF, "Su et al., arXiv 2012.07175", 2020),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        FusionInputError: there is none; the message suggests the closest.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise FusionInputError(f"no fusion method {name!r}{hint}; there are: {', '.join(METHODS)}")
    return METHODS[name]


def create_fusion(name: str, /, **arguments: Any) -> nn.Module:
    """Build a method by name.

    Args:
        name: a name in :data:`METHODS`.
        **arguments: of its class: ``channels`` for an intermediate method, ``widths`` and ``out_features`` for an early
            one, ``modalities`` and ``regression`` for a late one, and its own options.

    Raises:
        FusionInputError: no such method, or arguments that it does not take; the message begins with the method's name.
    """
    method = find_method(name)
    try:
        return method.build(**arguments)
    except FusionInputError as error:
        said = str(error)
        raise FusionInputError(said if said.startswith(f"{name}: ") else f"{name}: {said}") from error
    except TypeError as error:
        first = str(error).partition("\n")[0]  # torch adds a stack of addresses
        options = ", ".join(inspect.signature(method.build).parameters)
        raise FusionInputError(f"{name}: {first.split('__init__() ')[-1]}; its arguments are: {options}") from error


def list_fusions() -> list[Method]:
    """All methods, late ones first."""
    return list(METHODS.values())
