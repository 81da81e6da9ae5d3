"""The comparison table: from plain records, one a training, to typed rows and the notes that go under them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torchmsaf.analysis.notes import is_whole_test, notes_of
from torchmsaf.analysis.statistics import Estimate, PairedTest, Scores, holm, paired_test, summarize
from torchmsaf.errors import ResultError

Record = Mapping[str, Any]
Part = Literal["test", "validation"]

STAGES = ("unimodal", "late", "early", "intermediate", "system")
_KEYS = ("fold", "seed", "method", "stage", "validation", "test", "train_size", "test_size")
_TOPS = ("top2", "top3", "top4", "top5")
_ORDER = (
    "accuracy",
    *_TOPS,
    "balanced_accuracy",
    "macro_f1",
    "mae",
    "pearson",
    "acc2",
    "f1",
    "acc2_has0",
    "f1_has0",
    "acc7",
)
_LOWER_IS_BETTER = ("mae", "mse", "rmse", "loss")
_FRACTION = re.compile(r"(^|_)(accuracy|acc\d*|top\d+|f1|recall|precision|uar)(_|$)")


@dataclass(frozen=True)
class Metric:
    """A measure in the table.

    Args:
        name: its key in the records.
        percent: it is a fraction in [0, 1], printed in percent; differences are in points.
        higher_is_better: None where torchmsaf does not know.
    """

    name: str
    percent: bool
    higher_is_better: bool | None


@dataclass(frozen=True)
class Row:
    """One method with its options, over all its runs. Scores are as recorded, not in percent.

    Args:
        method: what to call it, options included: ``"msaf (identity_start=True)"``.
        stage: one of ``STAGES``.
        score: of the table's part.
        others: further metrics of that part by name; None where no run has it.
        difference: score minus the reference's, and its test; None for the reference itself and without one.
        corrected_p: the difference's p-value, corrected by Holm's method for all of the table; None without a p-value.
        missing: modality -> test score without it; None where no run has it. Empty in a table of validation scores.
        parameters: trained in this row, all networks together.
        added_parameters: of these, what the fusion adds to the networks.
        flops: as recorded.
        seconds: mean over the runs.
        runs: runs done.
        expected: runs the comparison asks of every method.
    """

    method: str
    stage: str
    score: Estimate
    others: Mapping[str, Estimate | None]
    difference: PairedTest | None
    corrected_p: float | None
    missing: Mapping[str, Estimate | None]
    parameters: int | None
    added_parameters: int | None
    flops: int | None
    seconds: float | None
    runs: int
    expected: int


@dataclass(frozen=True)
class Table:
    """A comparison, ready to be printed.

    Args:
        title: e.g. the data set.
        protocol: how samples were split, with its citation.
        score: the measure that methods are compared by.
        others: further metrics, in column order.
        modalities: in declared order; none in a table of validation scores, which has no column for them.
        rows: unimodal networks, then late, early and intermediate fusion.
        reference: the index in ``rows`` of the row that differences are to; None without one.
        n_folds: distinct folds in the records.
        n_seeds: distinct seeds in the records.
        notes: what a reader must know to read the numbers, a sentence or two each.
        part: the samples that scores are of.
        reference_named: the reference was asked for; else it is the best unimodal network by *validation* score.
        chosen_on_test: the protocol's validation part is of its test part, so its test scores are optimistic too.
        validation_is_test: and it is all of it, so validation scores are test scores.
    """

    title: str
    protocol: str
    score: Metric
    others: tuple[Metric, ...]
    modalities: tuple[str, ...]
    rows: tuple[Row, ...]
    reference: int | None
    n_folds: int
    n_seeds: int
    notes: tuple[str, ...]
    part: Part = "test"
    reference_named: bool = False
    chosen_on_test: bool = False
    validation_is_test: bool = False

    @property
    def caption(self) -> str:
        """Title and protocol, with a warning before validation scores and one after one fold."""
        part = " VALIDATION scores, which also chose the epochs." if self.part == "validation" else ""
        warning = " One fold: ± and p tell of the seeds only." if self.n_folds == 1 else ""
        return f"{self.title}.{part} {self.protocol.rstrip('. ')}.{warning}"


def build_table(
    records: Sequence[Record],
    *,
    title: str,
    protocol: str,
    score: str,
    higher_is_better: bool,
    expected_runs: int | None = None,
    reference: str | None = None,
    part: Part = "test",
    chosen_on_test: bool = False,
) -> Table:
    """Build the comparison table from records (docs/design.md, Records).

    Parameters, added parameters and FLOPs are the largest over the runs, seconds the mean.

    The reference of the differences is the row that ``reference`` names; by default the unimodal network with the best
    mean *validation* score, over the runs that all unimodal networks have. Test scores choose nothing. A method is
    told apart by stage, name, modality and options.

    Args:
        records: one a training, in any order; methods stay in the order of their first record within a stage.
        title: e.g. the data set.
        protocol: how samples were split, with its citation.
        score: the metric to compare by; in ``validation`` and ``test`` of every record. null counts as nan.
        higher_is_better: of that metric.
        expected_runs: folds x seeds asked for; default: the distinct folds x distinct seeds in the records.
        reference: the name of a row, as in its ``method``: ``"msaf (identity_start=True)"``.
        part: ``"validation"`` gives a table to look for reasons in, without looking at test scores. Validation chose
            the epochs too, so its scores are optimistic. What is left out when a modality is missing was measured on
            test alone, and is not in it. Every record needs ``validation_size``.
        chosen_on_test: the protocol chose on samples of its test part (its ``chosen_on_test``); the notes say so.

    Raises:
        ResultError: there are no records; one lacks a key, has an unknown stage or no such score; the same method has
            two records of one fold and seed, or more than ``expected_runs``; ``reference`` is the name of no row, or
            of several; there is no such ``part``.
        MissingDependencyError: SciPy is not installed.
    """
    if not records:
        raise ResultError("no records: there is nothing to tabulate; run the comparison first")
    if part not in ("test", "validation"):
        raise ResultError(f"there is no part {part!r}: a table is of 'test' or of 'validation' scores")
    groups = group_records(records, score, part)
    n_folds, n_seeds = count_runs(records)
    expected = n_folds * n_seeds if expected_runs is None else expected_runs
    metrics = _metrics(records, score, part)
    modalities = modalities_of(groups) if part == "test" else ()
    chosen = _best_unimodal(groups, score, higher_is_better) if reference is None else _named(groups, reference)
    names = [metric.name for metric in metrics]
    rows = [
        _row(
            runs,
            groups[chosen] if chosen is not None and index != chosen else None,
            score=score,
            part=part,
            metrics=names,
            modalities=modalities,
            n_folds=n_folds,
            expected=expected,
        )
        for index, runs in enumerate(groups)
    ]
    for row in rows:
        if row.runs > expected:
            raise ResultError(f"{row.method!r} has {row.runs} runs; expected_runs is {expected}: give folds x seeds")
    table = Table(
        title=title,
        protocol=protocol,
        score=Metric(score, is_fraction(score), higher_is_better),
        others=metrics,
        modalities=modalities,
        rows=_corrected(rows),
        reference=chosen,
        n_folds=n_folds,
        n_seeds=n_seeds,
        notes=(),
        part=part,
        reference_named=reference is not None,
        chosen_on_test=chosen_on_test,
        validation_is_test=chosen_on_test and is_whole_test(records),
    )
    return replace(table, notes=tuple(notes_of(table)))


def label(record: Record) -> str:
    """Return what to call the method of a record: its name, then its options as ``name (key=value, ...)``."""
    options = ", ".join(f"{key}={value}" for key, value in (record.get("options") or {}).items())
    return f"{record['method']} ({options})" if options else str(record["method"])


def count_runs(records: Iterable[Record]) -> tuple[int, int]:
    """Return the numbers of distinct folds and of distinct seeds."""
    runs = [(record["fold"], record["seed"]) for record in records]
    return len({fold for fold, _ in runs}), len({seed for _, seed in runs})


def group_records(records: Sequence[Record], score: str, part: Part) -> list[list[Record]]:
    """Check the records and gather them by method, stage by stage: the rows of a table in its order.

    Raises:
        ResultError: see :func:`build_table`.
    """
    needed = _KEYS if part == "test" else (*_KEYS, "validation_size")
    groups: dict[tuple[str, ...], dict[tuple[int, int], Record]] = {}
    for number, record in enumerate(records):
        missing = [key for key in needed if key not in record]
        if missing:
            raise ResultError(f"record {number} has no {', '.join(missing)}: it needs {', '.join(needed)}")
        run = (record["fold"], record["seed"])
        where = f"record {number} ({label(record)!r}, fold {run[0]}, seed {run[1]})"
        if record["stage"] not in STAGES:
            raise ResultError(f"{where} has the stage {record['stage']!r}: it must be one of {', '.join(STAGES)}")
        for name in ("validation", "test"):
            if score not in record[name]:
                raise ResultError(f"{where} has no {name} score {score!r}: it has {', '.join(record[name]) or 'none'}")
        if not record["train_size"] > 0:
            raise ResultError(f"{where} has train_size {record['train_size']!r}: it must be greater than 0")
        options = json.dumps(record.get("options") or {}, sort_keys=True, default=str)
        runs = groups.setdefault((record["stage"], record["method"], str(record.get("modality")), options), {})
        if run in runs:
            raise ResultError(f"{where} is there twice: keep one record a method, fold and seed")
        runs[run] = record
    return [list(runs.values()) for stage in STAGES for key, runs in groups.items() if key[0] == stage]


def _row(
    runs: Sequence[Record],
    reference: Sequence[Record] | None,
    *,
    score: str,
    part: Part,
    metrics: Sequence[str],
    modalities: Sequence[str],
    n_folds: int,
    expected: int,
) -> Row:
    scores = scores_of(runs, score, part)
    seconds = [record["seconds"] for record in runs if record.get("seconds") is not None]
    difference = None
    if reference is not None:
        ratios = [record[f"{part}_size"] / record["train_size"] for record in runs]
        difference = paired_test(scores, scores_of(reference, score, part), sum(ratios) / len(ratios))
        if n_folds > 1 and difference.rule == "paired t-test over seeds":
            difference = replace(difference, standard_error=math.nan, p_value=math.nan, rule="none")
    return Row(
        method=label(runs[0]),
        stage=runs[0]["stage"],
        score=estimate_of(scores, n_folds) or summarize({}),
        others={name: estimate_of(scores_of(runs, name, part), n_folds) for name in metrics},
        difference=difference,
        corrected_p=None,
        missing={name: estimate_of(scores_of(runs, score, "test_missing", name), n_folds) for name in modalities},
        parameters=_largest(runs, "parameters"),
        added_parameters=_largest(runs, "added_parameters"),
        flops=_largest(runs, "flops"),
        seconds=sum(seconds) / len(seconds) if seconds else None,
        runs=len(runs),
        expected=expected,
    )


def _corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Give every row that has a p-value the one that is corrected for all of them."""
    tests = [row.difference for row in rows]
    adjusted = holm([math.nan if test is None else test.p_value for test in tests])
    return tuple(replace(row, corrected_p=None if math.isnan(p) else p) for row, p in zip(rows, adjusted, strict=True))


def scores_of(runs: Iterable[Record], name: str, *path: str) -> Scores:
    """Gather a metric by (fold, seed), from the runs that have it; null, which JSON has for nan, is nan.

    Args:
        runs: records of one method.
        name: the metric.
        path: where it is in a record, key by key: ``"test"``, or ``"test_missing", "left"``.
    """
    found: dict[tuple[int, int], float] = {}
    for record in runs:
        values: Any = record
        for key in path:
            values = (values or {}).get(key)
        if values and name in values:
            found[record["fold"], record["seed"]] = math.nan if values[name] is None else float(values[name])
    return found


def estimate_of(scores: Scores, n_folds: int) -> Estimate | None:
    """Summarize the scores of a row, None without any.

    In a table over ``n_folds`` folds, a row that has one fold so far gets no ±, which would tell of seeds.
    """
    if not scores:
        return None
    estimate = summarize(scores)
    return replace(estimate, standard_error=math.nan) if n_folds > 1 and estimate.n_folds == 1 else estimate


def _best_unimodal(groups: Sequence[Sequence[Record]], score: str, higher_is_better: bool) -> int | None:
    """Return the index of the unimodal network with the best mean validation score; the first of equals."""
    validation = {
        index: scores_of(runs, score, "validation")
        for index, runs in enumerate(groups)
        if runs[0]["stage"] == "unimodal"
    }
    if not validation:
        return None
    shared = set.intersection(*(set(scores) for scores in validation.values()))
    means = {i: summarize({run: scores[run] for run in shared}).mean for i, scores in validation.items()}
    means = {i: mean if higher_is_better else -mean for i, mean in means.items() if math.isfinite(mean)}
    return max(means, key=means.__getitem__) if means else None


def _named(groups: Sequence[Sequence[Record]], name: str) -> int:
    """Return the index of the row with this name."""
    names = [label(runs[0]) for runs in groups]
    found = [index for index, own in enumerate(names) if own == name]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} rows are named {name!r}" if found else f"no row is named {name!r}"
    others = ", ".join(repr(own) for own in names if own != name)
    raise ResultError(f"{what}: choose the reference from {others or 'other names'}")


def _metrics(records: Sequence[Record], score: str, part: Part) -> tuple[Metric, ...]:
    """Return the further metrics: those we know in our order, then the others as they come. No losses."""
    names = dict.fromkeys(name for record in records for name in record[part] if name not in (score, "loss"))
    ordered = [name for name in _ORDER if name in names] + [name for name in names if name not in _ORDER]
    return tuple(Metric(name, is_fraction(name), _direction(name)) for name in ordered)


def modalities_of(groups: Sequence[Sequence[Record]]) -> tuple[str, ...]:
    """Return the modalities of the unimodal rows, then those only left out, then those only noisy; all as they come."""
    own = [record["modality"] for runs in groups for record in runs if record.get("modality") is not None]
    changed = [
        name
        for key in ("test_missing", "test_noise")
        for runs in groups
        for record in runs
        for name in record.get(key) or {}
    ]
    return tuple(dict.fromkeys([*own, *changed]))


def is_fraction(name: str) -> bool:
    """Whether a metric is a share of 1, which tables print in percent."""
    return _FRACTION.search(name) is not None


def _direction(name: str) -> bool | None:
    if name in _LOWER_IS_BETTER:
        return False
    return True if name in _ORDER or is_fraction(name) else None


def _largest(runs: Sequence[Record], key: str) -> int | None:
    return max((record[key] for record in runs if record.get(key) is not None), default=None)
