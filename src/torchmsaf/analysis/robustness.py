"""The robustness table: the test scores of the same trainings without a modality, and with noise added to one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torchmsaf.analysis.notes import (
    Measured,
    is_whole_test,
    note_on_choice,
    note_on_direction,
    note_on_runs,
    notes_on_gaps,
)
from torchmsaf.analysis.statistics import Estimate, summarize
from torchmsaf.analysis.table import (
    Metric,
    Record,
    count_runs,
    estimate_of,
    group_records,
    is_fraction,
    label,
    modalities_of,
    scores_of,
)
from torchmsaf.errors import ResultError


@dataclass(frozen=True)
class RobustnessRow:
    """One method with its options, over all its runs. Scores are as recorded, not in percent.

    Args:
        method: as in the comparison table.
        stage: one of ``STAGES``.
        complete: the test score of the samples as they are.
        missing: modality -> the score without it; None where no run has it.
        noise: modality -> level -> the score with that noise; None where no run has it.
        runs: runs done.
        expected: runs the comparison asks of every method.
    """

    method: str
    stage: str
    complete: Estimate
    missing: Mapping[str, Estimate | None]
    noise: Mapping[str, Mapping[str, Estimate | None]]
    runs: int
    expected: int

    @property
    def scores(self) -> dict[str, Estimate | None]:
        """All scores by the names of their columns, in column order."""
        scores: dict[str, Estimate | None] = {"complete": self.complete}
        scores |= {f"without {name}": value for name, value in self.missing.items()}
        for name, levels in self.noise.items():
            scores |= {f"{name} + noise {level}": value for level, value in levels.items()}
        return scores


@dataclass(frozen=True)
class Robustness:
    """How the scores of a comparison fall when a modality is absent or noisy, ready to be printed.

    Args:
        title: e.g. the data set.
        protocol: how samples were split, with its citation.
        score: the measure in every column.
        modalities: in declared order.
        levels: the noise levels in rising order, as the records have them: standard deviations of the noise, in those
            of the modality's input in training samples. Empty when no record has noise.
        rows: those of the comparison table, in its order.
        n_folds: distinct folds in the records.
        n_seeds: distinct seeds in the records.
        notes: what a reader must know to read the numbers, a sentence or two each.
    """

    title: str
    protocol: str
    score: Metric
    modalities: tuple[str, ...]
    levels: tuple[str, ...]
    rows: tuple[RobustnessRow, ...]
    n_folds: int
    n_seeds: int
    notes: tuple[str, ...]

    @property
    def caption(self) -> str:
        """Title, score and protocol, and what noise is."""
        unit = " in percent" if self.score.percent else ""
        noise = (
            " Noise s: a normally distributed number is added to every number of that modality's test inputs; its standard "
            "deviation is s times that of the same channel in training samples."
        )
        return (
            f"{self.title}: robustness, test {self.score.name}{unit}. {self.protocol.rstrip('. ')}."
            f"{noise if self.levels else ''}{' One fold: ± tells of the seeds only.' if self.n_folds == 1 else ''}"
        )


def build_robustness(
    records: Sequence[Record],
    *,
    title: str,
    protocol: str,
    score: str,
    higher_is_better: bool,
    expected_runs: int | None = None,
    chosen_on_test: bool = False,
) -> Robustness | None:
    """Build the robustness table from the records of a comparison (docs/design.md, Records).

    It needs ``test_missing``, modality -> metrics, or ``test_noise``, modality -> level -> metrics, of a record. A level
    is the standard deviation of the noise, in those of the modality's input in training samples, as text: ``"0.5"``.

    Args:
        records: as for ``build_table``.
        title: e.g. the data set.
        protocol: how samples were split, with its citation.
        score: the metric to look at; in ``validation`` and ``test`` of every record. null counts as nan.
        higher_is_better: of that metric.
        expected_runs: folds x seeds asked for; default: the distinct folds x distinct seeds in the records.
        chosen_on_test: the protocol chose on samples of its test part; the notes say so.

    Returns:
        The table; None when no record has a score without a modality or with noise.

    Raises:
        ResultError: as ``build_table`` has it of records; a noise level is no number of 0 or more.
    """
    groups = group_records(records, score, "test")
    modalities, levels = modalities_of(groups), _levels(groups)
    n_folds, n_seeds = count_runs(records)
    expected = n_folds * n_seeds if expected_runs is None else expected_runs
    rows = tuple(_row(runs, score, modalities, levels, n_folds, expected) for runs in groups)
    if all(value is None for row in rows for name, value in row.scores.items() if name != "complete"):
        return None
    table = Robustness(
        title=title,
        protocol=protocol,
        score=Metric(score, is_fraction(score), higher_is_better),
        modalities=modalities,
        levels=levels,
        rows=rows,
        n_folds=n_folds,
        n_seeds=n_seeds,
        notes=(),
    )
    choice = note_on_choice(chosen_on_test=chosen_on_test, whole=is_whole_test(records))
    return replace(table, notes=(*choice, *_notes(table)))


def _row(
    runs: Sequence[Record], score: str, modalities: Sequence[str], levels: Sequence[str], n_folds: int, expected: int
) -> RobustnessRow:
    def estimate(*path: str) -> Estimate | None:
        return estimate_of(scores_of(runs, score, *path), n_folds)

    return RobustnessRow(
        method=label(runs[0]),
        stage=runs[0]["stage"],
        complete=estimate("test") or summarize({}),
        missing={name: estimate("test_missing", name) for name in modalities},
        noise={name: {level: estimate("test_noise", name, level) for level in levels} for name in modalities},
        runs=len(runs),
        expected=expected,
    )


def _levels(groups: Sequence[Sequence[Record]]) -> tuple[str, ...]:
    """Return the noise levels of all records in rising order."""
    found: dict[str, float] = {}
    for record in (record for runs in groups for record in runs):
        for name, scores in (record.get("test_noise") or {}).items():
            for level in scores or {}:
                found[level] = _number(level)
                if not (math.isfinite(found[level]) and found[level] >= 0):
                    raise ResultError(
                        f"{label(record)!r}, fold {record['fold']}, seed {record['seed']} has the noise level {level!r} "
                        f"for {name!r}: it must be a number of 0 or more, in standard deviations"
                    )
    return tuple(sorted(found, key=found.__getitem__))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _notes(table: Robustness) -> list[str]:
    meaning = "complete: the test samples as they are. without NAME: NAME is absent from every test sample."
    if table.levels:
        meaning += " NAME + noise s: the other modalities are as they are, and the noise is the same for every row."
    return [
        f"{meaning} These are the trainings of the comparison: none was trained on added noise.",
        note_on_runs(table.n_folds, table.n_seeds, "test"),
        note_on_direction((table.score,)),
        *notes_on_gaps([Measured(row.method, row.runs, row.expected, row.scores) for row in table.rows], table.n_folds),
    ]
