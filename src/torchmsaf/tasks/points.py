"""Where in its networks an intermediate method stands, and what a method reads that reads several depths at once.

``points`` of a method is one of

- a number: after so many stages that all networks have, counted from the last;
- a list of numbers: after these, 1 = the last;
- a list of words: ``intermediate`` is the stage of that placement in each network
  (:attr:`~torchmsaf.backbones.StagedNetwork.placements`), ``layer3+conv5`` one stage of each network in the order of the
  modalities, and ``conv5.0`` the first person alone.

Without ``points`` it stands where the MSAF paper has it for actions, ``intermediate`` and ``late``, if a network has these,
else after every stage that all networks have. In a network without placements of its own these two are its last two stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import is_integer

FEATURE = "feature"
USUAL = ("intermediate", "late")


@dataclass(frozen=True)
class Tap:
    """A place in one network.

    Attributes:
        stage: the number of the stage it is after, from 0.
        person: the number of the one person, from 0; None = all that there are.
    """

    stage: int
    person: int | None = None


Place: TypeAlias = tuple[Tap, ...]


def find_places(method: str, points: Any, networks: Mapping[str, StagedNetwork]) -> tuple[Place, ...]:
    """Where a method stands, one tap a network, in the order in which the networks run.

    Args:
        method: for messages.
        points: as the module says; None = not said.
        networks: by modality, each with a stage or more.

    Raises:
        FusionInputError: no such stage or placement, or points that are not in order.
    """
    nets = list(networks.values())
    shared = min(len(net.stages) for net in nets)
    if points is None:
        usual = any(net.placements for net in nets) and all(_placed(net, word) for net in nets for word in USUAL)
        points = list(USUAL) if usual else shared
    if isinstance(points, str):
        points = [points]
    if is_integer(points) and 1 <= points <= shared:
        points = list(range(points, 0, -1))
    said = (
        f"{method}: points is the number of stages that it stands after, from the last, 1 to {shared} with these networks, "
        "or a list"
    )
    if not isinstance(points, list | tuple) or not points:
        raise FusionInputError(f"{said} of them or of names, such as {_example(nets)}, got {points!r}")
    if all(isinstance(one, str) for one in points):
        places = [_named(method, one, networks) for one in points]
    elif all(is_integer(one) and 1 <= one <= shared for one in points):
        places = [tuple(Tap(len(net.stages) - int(one)) for net in nets) for one in points]
    else:
        raise FusionInputError(f"{said} of them or of names, such as {_example(nets)}, got {points!r}")
    places.sort(key=lambda place: [tap.stage for tap in place])
    for before, after in pairwise(places):
        if before == after or any(a.stage > b.stage for a, b in zip(before, after, strict=True)):
            raise FusionInputError(
                f"{method}: points {list(points)!r} are not in one order in all networks, or one is given twice"
            )
    return tuple(places)


def _named(method: str, text: str, networks: Mapping[str, StagedNetwork]) -> Place:
    words = text.split("+")
    if len(words) == 1:
        for name, net in networks.items():
            if _placed(net, text) is None:
                known = (
                    ", ".join(word for word in dict.fromkeys((*net.placements, *USUAL)) if _placed(net, word)) or "none"
                )
                raise FusionInputError(
                    f"{method}: points: {text!r} is no placement of the network of {name!r}; it has {known}; or give one "
                    f"stage of each network, such as {_example(list(networks.values()))}"
                )
        words = [_placed(net, text) or "" for net in networks.values()]
    if len(words) != len(networks):
        raise FusionInputError(f"{method}: points: {text!r} names {len(words)} stages for {len(networks)} networks")
    return tuple(
        _tap(method, word.strip(), name, net) for word, (name, net) in zip(words, networks.items(), strict=True)
    )


def _example(nets: Sequence[StagedNetwork]) -> str:
    return f"[{'+'.join(stage_name(net, len(net.stages) - 1) for net in nets)}]"


def _placed(net: StagedNetwork, word: str) -> str | None:
    """The stage of a placement; None = there is none."""
    if net.placements or word not in USUAL or len(net.stages) < len(USUAL):
        return net.placements.get(word)
    return stage_name(net, len(net.stages) - len(USUAL) + USUAL.index(word))


def _tap(method: str, word: str, name: str, net: StagedNetwork) -> Tap:
    names = [stage_name(net, k) for k in range(len(net.stages))]
    stage, _, person = word.partition(".")
    if stage not in names:
        raise FusionInputError(
            f"{method}: points: the network of {name!r} has no stage {stage!r}; it has {', '.join(names)}"
        )
    k = names.index(stage)
    if not person:
        return Tap(k)
    persons = persons_at(net, k)
    if person not in map(str, range(persons)):
        held = f"persons 0 to {persons - 1}" if persons else "no persons"
        raise FusionInputError(f"{method}: points: stage {stage!r} of the network of {name!r} has {held}, got {word!r}")
    return Tap(k, int(person))


def stage_name(net: StagedNetwork, stage: int) -> str:
    """The name of a stage: its own, or ``stage1`` for the first."""
    return net.names[stage] if net.names else f"stage{stage + 1}"


def persons_at(net: StagedNetwork, stage: int) -> int:
    """How many persons the maps after a stage have on their last axis; 0 = no such axis."""
    return net.streams[stage] if net.streams else 0


def inputs_of(net: StagedNetwork, tap: Tap) -> int:
    """How many inputs a fusion gets of a network."""
    return 1 if tap.person is not None else max(1, persons_at(net, tap.stage))


def channels_at(place: Place, nets: Sequence[StagedNetwork]) -> list[int]:
    """The channels of all inputs of a fusion, person by person."""
    return [net.channels[tap.stage] for net, tap in zip(nets, place, strict=True) for _ in range(inputs_of(net, tap))]


def taps_of(net: StagedNetwork) -> tuple[str, ...]:
    """What a method may read of a network: names of stages, and ``feature`` for its feature vector."""
    return net.taps or (*(stage_name(net, k) for k in range(len(net.stages))), FEATURE)


def channels_of_taps(net: StagedNetwork) -> dict[str, int]:
    """The channels of what a method may read of a network, in the order of its depths."""
    known = {stage_name(net, k): count for k, count in enumerate(net.channels)} | {FEATURE: net.width}
    return {name: known[name] for name in taps_of(net)}
