"""The published models by name: one line each."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer, check_number
from torchmsaf.tasks.systems.base import Kind, System
from torchmsaf.tasks.systems.dcca import OneStepDCCA, TwoStepDCCA
from torchmsaf.tasks.systems.iccn import ICCN
from torchmsaf.tasks.systems.lmf_network import LMFNetwork
from torchmsaf.tasks.systems.mfm import MFM
from torchmsaf.tasks.systems.misa import MISA
from torchmsaf.tasks.systems.pose_image import PoseImage
from torchmsaf.tasks.systems.tfn_network import TFNNetwork


@dataclass(frozen=True)
class SystemEntry:
    """One published model.

    Attributes:
        name: how it is called.
        build: its class.
        paper: where it is from.
        year: of the paper.
        regression: whether it can do regression.
        classification: whether it can do classification.
    """

    name: str
    build: type[System]
    paper: str
    year: int
    regression: bool = True
    classification: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The modalities it is made of, by name; empty = any two or more."""
        return self.build.needs

    def takes(self, modalities: Sequence[str]) -> bool:
        """Whether it can be built for modalities of these names."""
        return self.build.fits(modalities)


_ALL = (
    SystemEntry("tfn_network", TFNNetwork, "Zadeh et al., EMNLP, arXiv 1707.07250", 2017),
    SystemEntry("lmf_network", LMFNetwork, "Liu et al., ACL, arXiv 1806.00064", 2018),
    SystemEntry("mfm", MFM, "Tsai et al., ICLR, arXiv 1806.06176", 2019),
    SystemEntry("dcca_one_step", OneStepDCCA, "Sun et al., arXiv 1907.08696", 2019),
    SystemEntry("dcca_two_step", TwoStepDCCA, "Sun et al., arXiv 1907.08696", 2019),
    SystemEntry("iccn", ICCN, "Sun et al., AAAI, arXiv 1911.05544", 2020),
    SystemEntry("misa", MISA, "Hazarika et al., ACM Multimedia, arXiv 2005.03545", 2020),
    SystemEntry("pose_image", PoseImage, "Liu and Yuan, CVPR: PoseMap's pose image alone", 2018, regression=False),
)
SYSTEMS: dict[str, SystemEntry] = {entry.name: entry for entry in _ALL}


def find_system(name: str) -> SystemEntry:
    """The model of that name.

    Raises:
        FusionInputError: there is none; the message suggests the closest.
    """
    if name not in SYSTEMS:
        close = difflib.get_close_matches(name, SYSTEMS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise FusionInputError(f"no published model {name!r}{hint}; there are: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def create_system(
    name: str,
    shapes: Mapping[str, Sequence[int]],
    outputs: int,
    *,
    kind: Kind = "sentiment",
    tokens: Mapping[str, int] | None = None,
    **options: Any,
) -> System:
    """Build a model by name.

    Args:
        name: a name in :data:`SYSTEMS`.
        shapes: modality -> ``(C,)`` or ``(C, T)``, in declared order; what else a system takes, it says.
        outputs: K.
        kind: of the task.
        tokens: modality -> vocabulary size, of modalities that are word numbers.
        **options: of its class; of all systems ``batch_size`` and ``learning_rate``, where training is to have others
            than the model's own, or the recipe's.

    Raises:
        FusionInputError: no such model; a task or modalities that it does not fit; options that it does not take. The
            message begins with the model's name.
    """
    entry = find_system(name)
    if not (entry.classification if kind == "classification" else entry.regression):
        able = ", ".join(e.name for e in SYSTEMS.values() if (e.classification if entry.regression else e.regression))
        raise FusionInputError(f"{name}: it is not for {kind}; use one of {able}")
    try:
        own = inspect.signature(entry.build).parameters
        training = {
            key: options.pop(key) for key in ("batch_size", "learning_rate") if key in options and key not in own
        }
        system = entry.build(shapes, outputs, kind=kind, tokens=tokens, **options)
        _set_training(system, **training)
        return system
    except FusionInputError as error:
        said = str(error)
        raise FusionInputError(said if said.startswith(f"{name}: ") else f"{name}: {said}") from error
    except (TypeError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        first = str(error).partition("\n")[0]  # torch adds a stack of addresses
        set_by_task = ("shapes", "outputs", "kind", "tokens")
        arguments = ", ".join(key for key in inspect.signature(entry.build).parameters if key not in set_by_task)
        raise FusionInputError(f"{name}: {first.split('__init__() ')[-1]}; its arguments are: {arguments}") from error


def _set_training(system: System, batch_size: Any = None, learning_rate: Any = None) -> None:
    """Change what a model asks of its training."""
    if batch_size is not None:
        system.batch_size = check_integer("batch_size", batch_size, advice="None is the model's own")
        if system.batch_size < system.least_batch:
            raise FusionInputError(f"batch_size is {system.least_batch} or more, got {batch_size}")
    if learning_rate is not None:
        if not check_number("learning_rate", learning_rate) > 0:
            raise FusionInputError(f"learning_rate is greater than 0, got {learning_rate!r}")
        system.learning_rate = float(learning_rate)


def list_systems() -> list[SystemEntry]:
    """All models, in the order of the table."""
    return list(SYSTEMS.values())
