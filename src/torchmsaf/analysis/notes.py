"""The notes under a comparison table: what its numbers are, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchmsaf.analysis.statistics import Estimate, PairedTest

if TYPE_CHECKING:
    from torchmsaf.analysis.table import Metric, Part, Record, Row, Table


class Measured(NamedTuple):
    """What a row has of what it should have: runs done and asked for, and its scores by name, the table's own first."""

    method: str
    runs: int
    expected: int
    scores: Mapping[str, Estimate | None]


def notes_of(table: Table) -> list[str]:
    """All notes of a table, in reading order."""
    tests = [row.difference for row in table.rows if row.difference is not None]
    choice = note_on_choice(chosen_on_test=table.chosen_on_test, whole=table.validation_is_test)
    notes = [*choice, *_note_on_part(table)]
    notes.append(note_on_runs(table.n_folds, table.n_seeds, table.part))
    notes += [note_on_direction((table.score, *table.others)), *_note_on_reference(table)]
    if any(test.rule != "none" for test in tests):
        notes.append(_note_on_test(table, tests))
    if table.part == "test":
        notes.append("No row is marked as the winner: that would be a choice made by test scores.")
    else:
        notes.append("No row is marked as the winner: of many optimistic scores the best is the most optimistic.")
    return notes + notes_on_gaps([_measured(row, table.score) for row in table.rows], table.n_folds)


def is_whole_test(records: Sequence[Record]) -> bool:
    """Whether validation, which is of the test part, is all of it: by the sizes in every record. False where unknown."""
    return all(record.get("validation_size") == record["test_size"] for record in records)


def note_on_choice(*, chosen_on_test: bool, whole: bool) -> list[str]:
    """Say that test samples chose the epochs, where they did: all of them (``whole``), or some."""
    if not chosen_on_test:
        return []
    who = "Validation is the test part: the TEST samples chose the epoch of every row."
    if not whole:
        who = (
            "Validation is of the test part, and not all of it: some of the TEST samples chose the epoch of every row."
        )
    return [f"{who} So these scores, and all that is made of them, are optimistic."]


def _note_on_part(table: Table) -> list[str]:
    if table.part == "test":
        return []
    return [
        "These are VALIDATION scores. Validation also chose the epoch of every row, so they are optimistic. "
        "Differences, p and p corrected are made of them. Look for reasons here, and report test scores."
    ]


def note_on_runs(n_folds: int, n_seeds: int, part: Part) -> str:
    """Say over what the means are, and what ± is."""
    folds, seeds = _count(n_folds, "fold"), _count(n_seeds, "seed")
    if n_folds > 1:
        shared = "training samples" if part == "test" else "training samples, and may share validation samples"
        return (
            f"{folds}, {seeds}. Scores are means over folds, seeds averaged within each fold first; ± is one standard "
            f"error over the fold means. Folds share {shared}, so it leans small."
        )
    if n_seeds > 1:
        return (
            f"{folds}, {seeds}. With one fold ± is one standard error over the seeds: it tells how much the seed "
            "matters, and nothing about other samples or splits."
        )
    return f"{folds}, {seeds}: single values, with no ± and no p. A difference between them may be chance."


def note_on_direction(metrics: Sequence[Metric]) -> str:
    """Say which metrics are better higher or lower, and which are in percent."""
    sides = []
    for word, side in (("Higher", True), ("Lower", False)):
        names = [metric.name for metric in metrics if metric.higher_is_better is side]
        sides += [f"{word} is better: {', '.join(names)}."] if names else []
    percent = ["Scores with % are in percent, their differences in points."] if any(m.percent for m in metrics) else []
    return " ".join(sides + percent)


def _note_on_reference(table: Table) -> list[str]:
    """What the column difference is; nothing where no row has one, and so the table no such column."""
    if table.reference is None:
        return [
            f"No unimodal network has a mean validation {table.score.name} over the runs that all of them have, so "
            "there is no reference for differences."
        ]
    if all(row.difference is None or row.difference.n_pairs == 0 for row in table.rows):
        return []
    name = table.rows[table.reference].method
    how = "on the runs both have; the score minus the reference's."
    if table.reference_named:
        return [
            f"difference: to {name!r} (ref.), the row that was asked for, {how} If these scores were the reason to "
            "ask for it, p and p corrected are too small."
        ]
    by = " (test scores did not choose it)" if table.part == "test" else ""
    if table.chosen_on_test:
        by = " (which is the mean test score here)" if table.validation_is_test else " (of samples that test too)"
    return [
        f"difference: to {name!r} (ref.), the unimodal network with the best mean validation {table.score.name}{by}, "
        f"{how}"
    ]


def _note_on_test(table: Table, tests: Sequence[PairedTest]) -> str:
    made = sum(not math.isnan(test.p_value) for test in tests)
    rule = "paired t-test over the seeds of one fold"
    if table.n_folds > 1:
        ratio = f"n_{table.part} / n_train"
        rule = f"corrected resampled t-test over folds (Nadeau & Bengio, 2003), {ratio} from the records"
    note = f"p: {rule}, two-sided, for one comparison alone."
    if not made:
        return f"{note} None is defined here."
    return f"{note} p corrected: Holm's (1979), over the {_count(made, 'comparison')} with a p in this table."


def _measured(row: Row, score: Metric) -> Measured:
    missing = {f"without {name}": value for name, value in row.missing.items()}
    return Measured(row.method, row.runs, row.expected, {score.name: row.score, **row.others, **missing})


def notes_on_gaps(rows: Sequence[Measured], n_folds: int) -> list[str]:
    """Say what is not there: runs, folds, values, numbers."""
    notes = []
    short = [f"{row.method} {row.runs} of {row.expected}" for row in rows if row.runs < row.expected]
    if short:
        notes.append(f"Incomplete, so rows may not be comparable; runs done: {'; '.join(short)}.")
    own = [(row.method, next(iter(row.scores.values()))) for row in rows]
    narrow = [method for method, score in own if score is not None and score.n_folds == 1 < n_folds]
    if narrow:
        notes.append(f"One fold only so far, so no ± and no p: {'; '.join(narrow)}.")
    partial, broken = [], []
    for row in rows:
        for name, value in row.scores.items():
            if value is not None and value.n_runs < row.runs:
                partial.append(f"{row.method}, {name}: {value.n_runs} of {row.runs}")
            if value is not None and not math.isfinite(value.mean):
                broken.append(f"{row.method}, {name}")
    if partial:
        notes.append(f"Measured in some of the runs only: {'; '.join(partial)}.")
    if broken:
        notes.append(f"Not a finite number in at least one run, so no mean: {'; '.join(broken)}.")
    return notes


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
