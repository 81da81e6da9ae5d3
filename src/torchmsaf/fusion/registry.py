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
from torchmsaf.fusion.base import TappedFusion
from torchmsaf.fusion.centralnet import CentralNet
from torchmsaf.fusion.compact_bilinear import CompactBilinear
from torchmsaf.fusion.concat import ConcatFC
from torchmsaf.fusion.cross_attention import CrossAttention
from torchmsaf.fusion.dense import DenseFusion
from torchmsaf.fusion.embracenet import EmbraceNet
from torchmsaf.fusion.film import FiLM
from torchmsaf.fusion.gmu import GMU
from torchmsaf.fusion.lmf import LMF
from torchmsaf.fusion.mbt import MBT
from torchmsaf.fusion.mcbp import MCBP
from torchmsaf.fusion.mfas import MFAS
from torchmsaf.fusion.mmtm import MMTM
from torchmsaf.fusion.mulmix import MulMix
from torchmsaf.fusion.multiplication import Multiplication
from torchmsaf.fusion.multiplicative import Multiplicative
from torchmsaf.fusion.se import SqueezeExcitation
from torchmsaf.fusion.self_attention import SelfAttention
from torchmsaf.fusion.sgm import SGM
from torchmsaf.fusion.tfn import TFN
from torchmsaf.fusion.voting import Voting
from torchmsaf.fusion.weighted import WeightedSum
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
        fewest: modalities that it needs at least.
        most: modalities that it takes at most, with its default options; None = any number.
    """

    name: str
    stage: Stage
    build: Callable[..., nn.Module]
    paper: str
    year: int
    regression: bool = True
    fewest: int = 1
    most: int | None = None

    @property
    def modalities(self) -> str:
        """How many modalities it takes, in words."""
        return f"{self.fewest} or more" if self.most is None else f"{self.fewest} to {self.most}"

    @property
    def tapped(self) -> bool:
        """Whether it reads several depths of the networks at once, as :class:`torchmsaf.fusion.base.TappedFusion`."""
        return isinstance(self.build, type) and issubclass(self.build, TappedFusion)

    def takes(self, modalities: int | None) -> bool:
        """Whether it takes so many modalities; None = whatever number there is."""
        return modalities is None or self.fewest <= modalities <= (self.most or modalities)


_ALL = (
    Method("averaging", "late", Averaging, "Kittler et al., IEEE TPAMI 20(3): the sum rule", 1998),
    Method(
        "multiplication",
        "late",
        Multiplication,
        "Kittler et al., IEEE TPAMI 20(3): the product rule",
        1998,
        regression=False,
    ),
    Method("multiplicative", "late", Multiplicative, "Liu et al., arXiv 1805.11730", 2018, regression=False),
    Method(
        "voting", "late", Voting, "Kittler et al., IEEE TPAMI 20(3): the majority vote rule", 1998, regression=False
    ),
    Method("weighted", "late", WeightedSum, "Su et al., arXiv 2012.07175, Sec. 2", 2020, most=5),
    Method("concat", "early", ConcatFC, "Ortega et al., arXiv 1907.03196", 2019),
    Method("mulmix", "early", MulMix, "Liu et al., arXiv 1805.11730", 2018, regression=False, most=8),
    Method("compact_bilinear", "early", CompactBilinear, "Gao et al., CVPR, arXiv 1511.06062", 2016),
    Method("mcbp", "early", MCBP, "Fukui et al., EMNLP, arXiv 1606.01847", 2016),
    Method("gmu", "early", GMU, "Arevalo et al., arXiv 1702.01992", 2017),
    Method("embracenet", "early", EmbraceNet, "Choi and Lee, Information Fusion 51, arXiv 1904.09078", 2019),
    Method("tfn", "early", TFN, "Zadeh et al., EMNLP, arXiv 1707.07250", 2017, most=21),
    Method("lmf", "early", LMF, "Liu et al., ACL, arXiv 1806.00064", 2018),
    Method("dense", "early", DenseFusion, "Hu et al., arXiv 1810.03414", 2018),
    Method(
        "self_attention", "early", SelfAttention, "Vaswani et al., arXiv 1706.03762, as in Hazarika et al., 2020", 2017
    ),
    Method("cross_attention", "early", CrossAttention, "Tsai et al., ACL, arXiv 1906.00295", 2019, fewest=2),
    Method("se", "intermediate", SqueezeExcitation, "Hu et al., CVPR, arXiv 1709.01507", 2018),
    Method("film", "intermediate", FiLM, "Perez et al., AAAI, arXiv 1709.07871", 2018, fewest=2),
    Method("mmtm", "intermediate", MMTM, "Vaezi Joze et al., CVPR, arXiv 1911.08670", 2020),
    Method("centralnet", "intermediate", CentralNet, "Vielzeuf et al., ECCV Workshops, arXiv 1808.07275", 2018),
    Method("mfas", "intermediate", MFAS, "Perez-Rua et al., CVPR, arXiv 1903.06496", 2019, regression=False, fewest=2),
    Method("sgm", "intermediate", SGM, "Li et al., Pattern Recognition 104:107356, a stand-in", 2020, fewest=2),
    Method("mbt", "intermediate", MBT, "Nagrani et al., NeurIPS, arXiv 2107.00135", 2021),
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
    except (TypeError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        first = str(error).partition("\n")[0]  # torch adds a stack of addresses
        options = ", ".join(inspect.signature(method.build).parameters)
        raise FusionInputError(f"{name}: {first.split('__init__() ')[-1]}; its arguments are: {options}") from error


def list_fusions() -> list[Method]:
    """All methods, late ones first."""
    return list(METHODS.values())
