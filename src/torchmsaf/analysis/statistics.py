"""Means, standard errors and paired tests of scores measured over folds and seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from torchmsaf.errors import DataError, require

# (fold, seed) -> the score of that run
Scores = Mapping[tuple[int, int], float]
Rule = Literal["corrected resampled t-test over folds", "paired t-test over seeds", "none"]

# Differences that agree to this part of the scores' size are one number with rounding noise.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean score and how sure it is.

    Args:
        mean: the mean of the fold means.
        standard_error: of that mean; nan where there is only one value.
        n_folds: distinct folds.
        n_seeds: distinct seeds.
        n_runs: values that came in.
    """

    mean: float
    standard_error: float
    n_folds: int
    n_seeds: int
    n_runs: int


@dataclass(frozen=True)
class PairedTest:
    """The mean difference of two methods on the same runs, and a two-sided test of no difference.

    Args:
        difference: mean of a - b over the common runs, seeds averaged within folds first.
        standard_error: what ``difference`` is divided by in the t statistic.
        p_value: two-sided; nan where it is not defined.
        degrees_of_freedom: folds - 1, or seeds - 1 with one fold.
        rule: the test that was made; ``"none"`` with fewer than two folds and two seeds.
        n_pairs: (fold, seed) runs that both methods have.
    """

    difference: float
    standard_error: float
    p_value: float
    degrees_of_freedom: int
    rule: Rule
    n_pairs: int


def summarize(values: Scores) -> Estimate:
    """Average a score over seeds within each fold, then over folds.

    Seeds of one fold share their test samples, so they are not independent: with two folds or more the standard error
    is the standard deviation of the k fold means (divisor k - 1) over sqrt(k). Folds share training samples, for which
    no unbiased correction exists (Bengio & Grandvalet, 2004, JMLR 5), so it leans small. With one fold it is taken
    over the seeds, and tells how much the seed matters, not how much the samples do. A score that is not finite makes
    the mean not finite: a failed run is not left out quietly.

    Args:
        values: (fold, seed) -> score, in any unit. Folds may have different seeds. Empty gives nan.
    """
    units = _units(values)
    mean, variance = _mean_and_variance(units)
    return Estimate(
        mean=mean,
        standard_error=math.sqrt(variance / len(units)) if len(units) else math.nan,
        n_folds=_count_folds(values),
        n_seeds=len({seed for _, seed in values}),
        n_runs=len(values),
    )


def paired_test(a: Scores, b: Scores, test_to_train: float) -> PairedTest:
    """Test whether two methods differ, on the runs that both have.

    With k >= 2 folds: the corrected resampled t-test of Nadeau & Bengio (2003, Machine Learning 52, 239-281) on the
    differences d of the fold means, t = mean(d) / sqrt((1/k + n_test/n_train) var(d)), k - 1 degrees of freedom. The
    second term is for the training samples that folds share. With one fold: the plain paired t-test over its seeds,
    which says nothing about other samples.

    Where the differences do not vary (to rounding) there is no t: the p-value is 1 if they are all zero and nan if
    they are not, because two or three equal differences are no proof. It is nan, too, with fewer than two differences
    and with scores that are not finite.

    Args:
        a: (fold, seed) -> score of the one method, in any unit.
        b: the same of the other, in the same unit.
        test_to_train: n_test / n_train, test samples over training samples of a fold; 0 gives the plain t-test.

    Raises:
        DataError: ``test_to_train`` is negative or not finite.
        MissingDependencyError: SciPy is not installed.
    """
    if not (math.isfinite(test_to_train) and test_to_train >= 0):
        raise DataError(
            f"test_to_train is {test_to_train!r}: give test samples / training samples of a fold, 0 or greater"
        )
    common = [run for run in a if run in b]
    with np.errstate(invalid="ignore"):
        differences = _units({run: float(np.subtract(a[run], b[run])) for run in common})
    size = max((abs(scores[run]) for scores in (a, b) for run in common), default=0.0)
    mean, variance = _mean_and_variance(differences, noise=_ROUNDING * size)
    n, n_folds = len(differences), _count_folds(common)
    rule: Rule = "none"
    correction = 0.0
    if n_folds > 1:
        rule, correction = "corrected resampled t-test over folds", test_to_train
    elif n > 1:
        rule = "paired t-test over seeds"
    error = math.sqrt((1 / n + correction) * variance) if n else math.nan
    return PairedTest(mean, error, _two_sided_p(mean, error, n - 1), max(n - 1, 0), rule, len(common))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of several tests for their number, by Holm's step-down method.

    Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6(2),
    65-70. Of m p-values in rising order the i-th, from 1, becomes the largest of (m - j + 1) p_j over j <= i, and 1 at
    most. Call real what has a corrected p of 0.05 or less: the chance of one false claim or more is then 0.05 at most,
    however the tests depend on one another. Corrected values are never above Bonferroni's m p_i.

    Args:
        p_values: in any order. nan is a test that was not made: it stays nan and does not count.

    Returns:
        The corrected values, in the order of ``p_values``.

    Raises:
        DataError: a value is below 0 or above 1.
    """
    for index, p in enumerate(p_values):
        if p < 0 or p > 1:
            raise DataError(
                f"p_values[{index}] is {p!r}: give numbers from 0 to 1, or nan for a test that was not made"
            )
    rising = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for done, (p, index) in enumerate(rising):
        largest = max(largest, min((len(rising) - done) * p, 1.0))
        corrected[index] = largest
    return corrected


def _two_sided_p(mean: float, error: float, degrees_of_freedom: int) -> float:
    if math.isnan(error):
        return math.nan
    if error == 0:
        return 1.0 if mean == 0 else math.nan
    stats = require("scipy.stats", "compare")
    return float(2 * stats.t.sf(abs(mean / error), degrees_of_freedom))


def _units(values: Scores) -> NDArray[np.float64]:
    """Return the fold means, or the single values where there is one fold."""
    if _count_folds(values) < 2:
        return np.array([values[run] for run in sorted(values)], dtype=np.float64)
    by_fold: dict[int, list[float]] = {}
    for fold, seed in sorted(values):
        by_fold.setdefault(fold, []).append(values[fold, seed])
    with np.errstate(invalid="ignore"):
        return np.array([np.mean(scores) for scores in by_fold.values()], dtype=np.float64)


def _mean_and_variance(units: NDArray[np.float64], noise: float = 0.0) -> tuple[float, float]:
    """Return mean and variance (divisor n - 1); what is within ``noise`` of zero is zero, what is undefined nan."""
    if len(units) == 0:
        return math.nan, math.nan
    with np.errstate(invalid="ignore"):  # inf - inf is nan, as it should be
        mean = float(np.mean(units))
    if not math.isfinite(mean):
        return mean, math.nan
    mean = 0.0 if abs(mean) <= noise else mean
    if len(units) == 1:
        return mean, math.nan
    return mean, 0.0 if np.ptp(units) <= noise else float(np.var(units, ddof=1))


def _count_folds(runs: Iterable[tuple[int, int]]) -> int:
    return len({fold for fold, _ in runs})
