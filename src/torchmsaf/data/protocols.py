"""The protocols of RAVDESS: which actors train, validate and test.

Both have the six folds of Su, Hu, Li and Cao (arXiv 2012.07175): fold k tests actors 4k + 1 to 4k + 4. Their published code
(github.com/anita-hu/MSAF) keeps the epoch that is best on these same actors; ``leak-free`` has other actors for that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from torchmsaf.data.folds import Fold, Protocol, check_fold
from torchmsaf.data.ravdess import ACTORS
from torchmsaf.data.samples import Samples
from torchmsaf.errors import ProtocolError

ProtocolName = Literal["leak-free", "published"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)

_IN_A_FOLD = 4
_FOLDS = ACTORS // _IN_A_FOLD
_ACTOR = re.compile(r"(?:(?:.*[^a-z])?actor[_ -]?)?0*([0-9]+)", re.IGNORECASE)
_CITATION = "folds: Su, Hu, Li and Cao, arXiv 2012.07175"


def ravdess_protocol(
    samples: Samples, name: ProtocolName = "leak-free", *, folds: Sequence[int] | None = None
) -> Protocol:
    """Six folds of four consecutive actors, two men and two women, each fold checked by :func:`check_fold`.

    ``leak-free``: the four actors after the test actors validate (actors 1 to 4 in the last fold), the other sixteen train.
    Nothing is chosen on a test actor.

    ``published``: the twenty other actors train, and the test actors validate too, as in the published code. So the epoch is
    chosen on the samples that test, and ``chosen_on_test`` of the protocol is True.

    Single actors may be missing from the samples; the description then names them.

    Args:
        samples: groups are the actors: ``1``, ``01`` or ``Actor_01``, up to 24.
        name: one of ``PROTOCOLS``.
        folds: numbers of those that are needed, 0 to 5; None = all. Actors of the others may be missing.

    Raises:
        ProtocolError: there is no such protocol or fold; the samples have no groups, or one that is no actor; all
            actors of a test or validation part are missing; a fold that :func:`check_fold` refuses.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"there is no RAVDESS protocol {name!r}: choose {' or '.join(PROTOCOLS)}")
    if samples.groups is None:
        raise ProtocolError(f"{samples.name}: a RAVDESS protocol needs the actor of each sample as its group")
    actors = np.array([_actor(samples.name, group) for group in samples.groups])
    published = name == "published"
    numbers = list(range(_FOLDS)) if folds is None else sorted(folds)
    if unknown := [number for number in numbers if not 0 <= number < _FOLDS]:
        raise ProtocolError(f"there is no fold {unknown[0]}: 0 to {_FOLDS - 1} are there")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ProtocolError(f"folds are {', '.join(map(str, numbers)) or 'none'}: one or more are needed, each once")
    chosen = tuple(_fold(index, actors, published) for index in numbers)
    for fold in chosen:
        check_fold(fold, samples, chosen_on_test=published)
    description = f"{_FOLDS} folds of {_IN_A_FOLD} consecutive actors"
    if len(numbers) < _FOLDS:
        description = f"Fold{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of {description}"
    if published:
        description = (
            "PUBLISHED PROTOCOL: the best epoch of each fold is chosen on its test actors, so scores are optimistic; "
            f"{description}"
        )
    else:
        description += f"; validation: the {_IN_A_FOLD} actors after them"
    if missing := _missing(range(1, ACTORS + 1), actors):
        description += f"; {_list(missing)} missing from the samples"
    return Protocol(f"ravdess-{name}", description, _CITATION, chosen, chosen_on_test=published)


def _actor(name: str, group: str) -> int:
    found = _ACTOR.fullmatch(group)
    if found is None or not 1 <= int(found[1]) <= ACTORS:
        raise ProtocolError(f"{name}: group {group!r} is no actor of RAVDESS: 1 to {ACTORS}, 01 or Actor_01, is needed")
    return int(found[1])


def _fold(index: int, actors: np.ndarray, published: bool) -> Fold:
    tested = _run(index)
    held = tested if published else _run((index + 1) % _FOLDS)
    for part, chosen in (("test", tested), ("validation", held)):
        missing = _missing(chosen, actors)
        if len(missing) == len(chosen):
            raise ProtocolError(
                f"fold {index}: the {part} part is empty, as {_list(missing)} missing from the samples; folds whose actors "
                "are there can be run alone"
            )
    train = ~np.isin(actors, [*tested, *held])
    return Fold(index, *(np.flatnonzero(rows) for rows in (train, np.isin(actors, held), np.isin(actors, tested))))


def _run(index: int) -> list[int]:
    """The actors of the index-th run of four."""
    return [_IN_A_FOLD * index + number for number in range(1, _IN_A_FOLD + 1)]


def _missing(chosen: Sequence[int], actors: np.ndarray) -> list[int]:
    return sorted(set(chosen) - set(actors.tolist()))


def _list(missing: Sequence[int]) -> str:
    if len(missing) == 1:
        return f"actor {missing[0]} is"
    return f"actors {', '.join(map(str, missing))} are"
