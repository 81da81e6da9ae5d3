"""Which methods a comparison runs, written as ``name`` or ``name:option=value,option=value``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from torchmsaf.errors import FusionInputError, require
from torchmsaf.fusion.registry import METHODS, Stage, find_method, list_fusions
from torchmsaf.tasks.systems.registry import SYSTEMS, create_system, list_systems


@dataclass(frozen=True)
class MethodChoice:
    """One method with its options.

    Attributes:
        name: a registered name.
        options: arguments of its class.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> Stage | Literal["system"]:
        """Where it fuses, or that it is a system of its own."""
        return "system" if self.name in SYSTEMS else find_method(self.name).stage

    @property
    def key(self) -> str:
        """A name for files: unlike for unlike options."""
        text = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return re.sub(r"[^A-Za-z0-9_.,=+-]", "_", f"{self.name}:{text}" if text else self.name).replace(":", "_")


def parse_method(text: str) -> MethodChoice:
    """Read ``msaf`` or ``msaf:identity_start=true,block_dropout=0.2``; values are YAML.

    Raises:
        FusionInputError: an unknown method, or options that cannot be read.
    """
    name, _, rest = text.partition(":")
    _check_name(name.strip())
    yaml = require("yaml", "compare")
    options = {}
    for part in _parts(rest):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise FusionInputError(f"method {text!r}: expected name:option=value,option=value, got {part!r}")
        if key.strip() in options:
            raise FusionInputError(f"method {text!r}: option {key.strip()!r} is given twice")
        try:
            options[key.strip()] = _number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise FusionInputError(f"method {text!r}: option {key.strip()!r} cannot be read: {value!r}") from error
    return MethodChoice(name.strip(), options)


def _parts(text: str) -> list[str]:
    """The options of a method, cut at commas that are in no list."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts if text else []


def _check_name(name: str) -> None:
    if name in METHODS or name in SYSTEMS:
        return
    known = [*METHODS, *SYSTEMS]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise FusionInputError(f"no fusion method {name!r}{hint}; there are: {', '.join(known)}")


def _number(value: Any) -> Any:
    """``1e-3``, which YAML 1.1 reads as text, as a number; in lists too."""
    if isinstance(value, list):
        return [_number(one) for one in value]
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def choose_methods(
    texts: Sequence[str] | None, *, regression: bool, modalities: int | None = None, named: Sequence[str] = ()
) -> list[MethodChoice]:
    """The methods asked for; ``all``, or None, is every one that fits the data, and MSAF with an identity start too.

    Args:
        texts: as :func:`parse_method` reads them, or ``all``.
        regression: whether the target is a number.
        modalities: how many there are; ``all`` leaves out methods that do not take so many. None = it does not matter.
        named: the modalities, where published systems may take them by their names; ``all`` then has those that can.

    Raises:
        FusionInputError: a method twice, or one that cannot do regression.
    """
    choices: list[MethodChoice] = []
    for text in ["all"] if texts is None else texts:
        asked = _all_methods(regression, modalities, named) if text == "all" else [parse_method(text)]
        for choice in asked:
            if choice in choices:
                raise FusionInputError(f"method {text!r} is given twice")
            if regression and not (SYSTEMS.get(choice.name) or find_method(choice.name)).regression:
                raise FusionInputError(f"method {choice.name!r} is for classification, and the target is a number")
        choices += asked
    return choices


def _all_methods(regression: bool, modalities: int | None, named: Sequence[str]) -> list[MethodChoice]:
    able = [one for one in list_fusions() if (one.regression or not regression) and one.takes(modalities)]
    whole = [one for one in list_systems() if one.takes(named) and (one.regression or not regression)]
    identity = MethodChoice("msaf", {"identity_start": True})
    return [*(MethodChoice(one.name) for one in able), identity, *(MethodChoice(one.name) for one in whole)]


def fitting_methods(
    texts: Sequence[str], shapes: Mapping[str, Sequence[int]], *, shipped: bool = False
) -> tuple[list[MethodChoice], dict[str, list[str]]]:
    """The methods of classes that fit the modalities there are; those that the user names stay, whether they fit or not.

    Args:
        texts: as :func:`choose_methods` takes them.
        shapes: modality -> shape of one sample, in declared order.
        shipped: nobody named them; then fusions need two modalities.

    Returns:
        The methods, and by the reason, in words, the names of those that were left out.

    Raises:
        FusionInputError: as :func:`choose_methods`.
    """
    chosen = choose_methods(texts, regression=False, modalities=len(shapes), named=tuple(shapes))
    named = [] if shipped else [parse_method(text) for text in texts if text != "all"]
    others = [MethodChoice(one.name) for one in list_fusions() if "all" in texts and not one.takes(len(shapes))]
    left_out: dict[str, list[str]] = {}
    for choice in [*chosen, *others]:
        if choice not in named and (why := _why_not(choice, shapes, 2 if shipped else 1)) is not None:
            left_out.setdefault(why, []).append(choice.name)
            chosen = [one for one in chosen if one != choice]
    return chosen, left_out


def _why_not(choice: MethodChoice, shapes: Mapping[str, Sequence[int]], fewest: int) -> str | None:
    """Why a method cannot be built, in words; None = it can."""
    count = len(shapes)
    if choice.name not in SYSTEMS:
        if count >= fewest and find_method(choice.name).takes(count):
            return None
        return "there is one modality" if count == 1 else f"there are {count} modalities"
    if not SYSTEMS[choice.name].takes(tuple(shapes)):
        return f"the data have {', '.join(shapes)}"
    try:
        with torch.device("meta"):
            create_system(choice.name, shapes, 2, kind="classification", **choice.options)
    except FusionInputError as error:
        return str(error).removeprefix(f"{choice.name}: ")
    return None
