"""Folds: which samples train, validate and test. Whole groups, no overlap, nothing chosen on test samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.data.samples import PARTS, Samples
from torchmsaf.errors import ProtocolError, require

Rows = NDArray[np.int64]

# where a class has no training sample: nothing is drawn, or folds are
_ADVICE = "take in samples of it of more subjects or groups, who train, or leave the class out"
_OTHER_DRAW = "use other folds, less validation or another seed, or remove the class"


@dataclass(frozen=True, eq=False)
class Fold:
    """The rows of one fold.

    Attributes:
        index: number of the fold, from 0.
        train: sorted row numbers.
        validation: sorted row numbers; what is chosen is chosen on these.
        test: sorted row numbers; nothing is chosen on these.
    """

    index: int
    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True)
class Protocol:
    """The folds of a comparison.

    Attributes:
        name: short name.
        description: what tests, what validates, and how it was drawn.
        citation: where the protocol is from, or None.
        folds: the folds, by index.
        chosen_on_test: samples of the test part are the validation part, so scores are optimistic.
        chosen_by: what chooses the epoch; None = the accuracy where it is chosen on test samples, else the loss.
    """

    name: str
    description: str
    citation: str | None
    folds: tuple[Fold, ...]
    chosen_on_test: bool = False
    chosen_by: Literal["loss", "accuracy"] | None = None


def make_protocol(samples: Samples, *, folds: int = 5, validation: float = 0.2, seed: int = 0) -> Protocol:
    """The folds that the samples allow, each checked by :func:`check_fold`.

    - A shipped split gives one fold, and ``folds`` does not count. Its validation part validates; when it has none,
      validation is drawn from its training part.
    - Groups give ``folds`` runs of consecutive groups in natural order, as even as can be, each the test groups of one
      fold. 24 actors in six folds test actors 4f+1 to 4f+4, as Su, Hu, Li and Cao do on RAVDESS (arXiv 2012.07175).
      As many folds as groups leave one group out.
    - Else the folds are stratified by class, or shuffled for regression.

    Validation is drawn at random: whole groups when there are groups, else by class, else by sample.

    Args:
        samples: the data set.
        folds: number of folds, 2 or more.
        validation: part of the groups (or samples) left after the test part that validates, in (0, 1); one or more
            groups validate and one or more train.
        seed: of every random choice, 0 to 2**32 - 1.

    Raises:
        ProtocolError: too few groups or samples, or a fold that :func:`check_fold` refuses.
    """
    if folds < 2 or not 0 < validation < 1 or not 0 <= seed < 2**32:
        raise ProtocolError(
            f"folds={folds}, validation={validation}, seed={seed}: "
            "folds must be 2 or more, validation between 0 and 1, seed from 0 to 2**32 - 1"
        )
    if samples.parts is not None:
        protocol = _shipped(samples, validation, seed)
    elif samples.groups is not None:
        protocol = _grouped(samples, folds, validation, seed)
    else:
        protocol = _ungrouped(samples, folds, validation, seed)
    for fold in protocol.folds:
        check_fold(fold, samples, advice=_ADVICE if samples.parts is not None else _OTHER_DRAW)
    return protocol


def check_fold(fold: Fold, samples: Samples, *, chosen_on_test: bool = False, advice: str = _ADVICE) -> None:
    """Refuse a fold that leaks or cannot be trained.

    Args:
        fold: to be checked.
        samples: whose rows the fold has.
        chosen_on_test: the protocol says that it validates on samples of its test part. Then all of them must be, and all
            else is checked as ever.
        advice: what to do where a class has no training sample.

    Raises:
        ProtocolError: a part is empty, not sorted or out of range; a sample or a group is in two parts; a class does
            not occur in the training part; with ``chosen_on_test``, a validation sample does not test. The message names
            the fold and what is wrong.
    """
    parts = {"train": fold.train, "validation": fold.validation, "test": fold.test}
    for part, rows in parts.items():
        if len(rows) == 0:
            raise ProtocolError(f"fold {fold.index}: the {part} part is empty")
        if rows[0] < 0 or rows[-1] >= len(samples) or (np.diff(rows) <= 0).any():
            raise ProtocolError(
                f"fold {fold.index}: the {part} part must be sorted row numbers from 0 to {len(samples) - 1}, each once"
            )
    if chosen_on_test:
        if len(alone := np.setdiff1d(fold.validation, fold.test)):
            raise ProtocolError(
                f"fold {fold.index}: its protocol is chosen_on_test, so the validation part must be of the test part; "
                f"{len(alone)} samples are not"
            )
        del parts["validation"]
    _check_disjoint(fold.index, "sample", samples.ids, parts)
    if samples.groups is not None:
        _check_disjoint(fold.index, "group", samples.groups, parts)
    if samples.classes is not None:
        target = samples.target.numpy()
        absent = [samples.classes[index] for index in np.setdiff1d(target, target[fold.train])]
        if absent:
            raise ProtocolError(
                f"fold {fold.index}: no training sample of class {', '.join(repr(name) for name in absent)}; {advice}"
            )


def fold_ids(fold: Fold, samples: Samples) -> dict[str, list[str]]:
    """The ids of each part, ``train``, ``validation`` and ``test``, in row order."""
    rows = (fold.train, fold.validation, fold.test)
    return {part: [samples.ids[row] for row in chosen] for part, chosen in zip(PARTS, rows, strict=True)}


def _check_disjoint(index: int, what: str, names: tuple[str, ...], parts: dict[str, Rows]) -> None:
    members = {part: {names[row] for row in rows} for part, rows in parts.items()}
    for first, second in combinations(parts, 2):
        both = natural_sorted(members[first] & members[second])
        if both:
            raise ProtocolError(
                f"fold {index}: {len(both)} {what}{'s are' if len(both) > 1 else ' is'} in both {first} and {second}: "
                f"{', '.join(repr(name) for name in both[:5])}"
            )


def _shipped(samples: Samples, validation: float, seed: int) -> Protocol:
    parts = samples.parts or ()
    train, held, test = (np.flatnonzero(np.array(parts) == part) for part in PARTS)
    for part, rows in (("train", train), ("test", test)):
        if len(rows) == 0:
            raise ProtocolError(
                f"{samples.name}: the shipped split has no {part} part; it has {', '.join(sorted(set(parts)))}"
            )
    if samples.groups is not None:
        _check_disjoint(0, "group", samples.groups, {"train": train, "validation": held, "test": test})
    drawn = "as shipped"
    if len(held) == 0:
        train, held = _draw_validation(samples, train, validation, seed, 0)
        drawn = f"{validation:g} of the training {'samples' if samples.groups is None else 'groups'}, drawn at random"
    fold = Fold(0, train, held, test)
    description = f"The split that {samples.name} ships. Validation: {drawn}."
    return Protocol("shipped-split", description, None, (fold,))


def _grouped(samples: Samples, folds: int, validation: float, seed: int) -> Protocol:
    groups = np.array(samples.groups)
    names = natural_sorted(samples.groups or ())
    if len(names) < folds:
        raise ProtocolError(f"{samples.name}: {folds} folds need {folds} groups or more, and there are {len(names)}")
    made = []
    for index, chosen in enumerate(np.array_split(np.arange(len(names)), folds)):
        inside = np.isin(groups, [names[number] for number in chosen])
        train, held = _draw_validation(samples, np.flatnonzero(~inside), validation, seed, index)
        made.append(Fold(index, train, held, np.flatnonzero(inside)))
    description = (
        f"{len(names)} groups in natural order, cut into {folds} runs; each run tests once. "
        f"Validation: {validation:g} of the other groups, drawn at random."
    )
    return Protocol(f"grouped-{folds}-fold", description, None, tuple(made))


def _ungrouped(samples: Samples, folds: int, validation: float, seed: int) -> Protocol:
    if len(samples) < folds:
        raise ProtocolError(f"{samples.name}: {folds} folds need {folds} samples or more, and there are {len(samples)}")
    selection = require("sklearn.model_selection", "compare")
    splitter: Callable[..., object] = selection.KFold
    kind, target = "shuffled", samples.target.numpy()
    if samples.classes is not None:
        splitter, kind = selection.StratifiedKFold, "stratified"
        for name, count in zip(samples.classes, np.bincount(target, minlength=len(samples.classes)), strict=True):
            if 0 < count < folds:
                raise ProtocolError(
                    f"{samples.name}: class {name!r} has {count} samples, fewer than the {folds} folds; "
                    "use fewer folds or remove the class"
                )
    made = []
    split = splitter(n_splits=folds, shuffle=True, random_state=seed)
    for index, (rest, test) in enumerate(split.split(np.zeros(len(samples)), target)):  # type: ignore[attr-defined]
        train, held = _draw_validation(samples, np.sort(rest), validation, seed, index)
        made.append(Fold(index, train, held, np.sort(test)))
    description = f"{folds} {kind} folds. Validation: {validation:g} of the samples that do not test, {kind} too."
    return Protocol(f"{kind}-{folds}-fold", description, None, tuple(made))


def _draw_validation(samples: Samples, rows: Rows, validation: float, seed: int, index: int) -> tuple[Rows, Rows]:
    """Cut rows into training and validation, both sorted."""
    generator = np.random.default_rng([seed, index])
    if samples.groups is not None:
        groups = np.array(samples.groups)[rows]
        names = natural_sorted(groups.tolist())
        count = _validation_count(len(names), validation, index, "groups")
        drawn = generator.choice(len(names), size=count, replace=False)
        held = np.isin(groups, [names[number] for number in drawn])
        return rows[~held], rows[held]
    count = _validation_count(len(rows), validation, index, "samples")
    order = generator.permutation(len(rows))
    if samples.classes is not None:
        order = order[np.argsort(samples.target.numpy()[rows[order]], kind="stable")]
    # every (1 / validation)th of the shuffled samples, class after class: each class gives its share
    held = np.zeros(len(rows), dtype=np.bool_)
    held[order[((np.arange(count) + 0.5) * len(rows) / count).astype(np.int64)]] = True
    return rows[~held], rows[held]


def _validation_count(total: int, validation: float, index: int, what: str) -> int:
    if total < 2:
        left = f"{total} {what.removesuffix('s') if total == 1 else what}"
        raise ProtocolError(
            f"fold {index}: {left} left after the test part; two or more are needed, to train and to validate"
        )
    return min(max(round(validation * total), 1), total - 1)
