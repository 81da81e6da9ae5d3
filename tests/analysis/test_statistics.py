"""Estimates and paired tests against SciPy and formulas written out by hand."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from torchmsaf.analysis.statistics import holm, paired_test, summarize
from torchmsaf.errors import DataError

SCORE = st.floats(-1, 1).map(lambda x: round(x, 6))
P_VALUES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.04, 1.0, math.nan]), max_size=8)
GRID = st.tuples(st.integers(2, 5), st.integers(1, 4))


def grid(data, folds, seeds):
    return {(fold, seed): data.draw(SCORE) for fold in range(folds) for seed in range(seeds)}


def fold_means(scores):
    folds = sorted({fold for fold, _ in scores})
    return [statistics.fmean(value for (f, _), value in scores.items() if f == fold) for fold in folds]


def test_summarize_by_hand():
    # fold means 2 and 5: mean 3.5, sd = sqrt(2 * 1.5^2) = 2.1213, over sqrt(2) = 1.5
    estimate = summarize({(0, 0): 1.0, (0, 1): 3.0, (1, 0): 4.0, (1, 1): 6.0})
    assert estimate.mean == 3.5
    assert estimate.standard_error == pytest.approx(1.5)
    assert (estimate.n_folds, estimate.n_seeds, estimate.n_runs) == (2, 2, 4)


def test_folds_weigh_the_same_however_many_seeds_they_have():
    assert summarize({(0, 0): 1.0, (0, 1): 1.0, (0, 2): 1.0, (1, 0): 3.0}).mean == 2.0


@settings(deadline=None)
@given(st.data(), GRID)
def test_summarize_is_the_standard_error_of_the_fold_means(data, size):
    scores = grid(data, *size)
    estimate = summarize(scores)
    assert estimate.mean == pytest.approx(statistics.fmean(fold_means(scores)), abs=1e-12)
    assert estimate.standard_error == pytest.approx(stats.sem(fold_means(scores)), abs=1e-12)


@settings(deadline=None)
@given(st.lists(SCORE, min_size=2, max_size=6))
def test_one_fold_is_summarized_over_its_seeds(values):
    estimate = summarize({(3, seed): value for seed, value in enumerate(values)})
    assert estimate.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert estimate.standard_error == pytest.approx(stats.sem(values), abs=1e-12)
    assert (estimate.n_folds, estimate.n_seeds) == (1, len(values))


def test_one_value_has_no_standard_error():
    estimate = summarize({(0, 7): 0.25})
    assert estimate.mean == 0.25
    assert math.isnan(estimate.standard_error)


def test_no_value_is_nan():
    estimate = summarize({})
    assert math.isnan(estimate.mean)
    assert math.isnan(estimate.standard_error)
    assert (estimate.n_folds, estimate.n_seeds, estimate.n_runs) == (0, 0, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_failed_run_is_not_left_out(bad):
    scores = {(0, 0): bad, (0, 1): 1.0, (1, 0): 1.0, (1, 1): 2.0}
    assert not math.isfinite(summarize(scores).mean)
    assert math.isnan(summarize(scores).standard_error)
    test = paired_test(scores, dict.fromkeys(scores, 0.5), 0.25)
    assert not math.isfinite(test.difference)
    assert math.isnan(test.p_value)


def test_opposite_and_equal_infinities_are_nan_without_a_warning():
    scores = {(0, 0): math.inf, (0, 1): -math.inf, (1, 0): math.inf}
    assert math.isnan(summarize(scores).mean)
    assert math.isnan(paired_test(scores, scores, 0.2).difference)


@settings(deadline=None)
@given(st.data(), GRID)
def test_without_a_correction_it_is_the_paired_t_test_of_the_fold_means(data, size):
    a, b = grid(data, *size), grid(data, *size)
    test = paired_test(a, b, 0.0)
    assert test.difference == pytest.approx(statistics.fmean(fold_means(a)) - statistics.fmean(fold_means(b)), abs=1e-9)
    assert test.degrees_of_freedom == size[0] - 1
    assert test.rule == "corrected resampled t-test over folds"
    differences = [x - y for x, y in zip(fold_means(a), fold_means(b), strict=True)]
    if max(differences) - min(differences) > 1e-5:
        expected = stats.ttest_rel(fold_means(a), fold_means(b))
        assert test.p_value == pytest.approx(expected.pvalue, rel=1e-6)
        assert test.difference / test.standard_error == pytest.approx(expected.statistic, rel=1e-6)


@settings(deadline=None)
@given(st.data(), GRID, st.floats(0, 2))
def test_the_correction_widens_the_standard_error(data, size, ratio):
    a, b = grid(data, *size), grid(data, *size)
    plain, corrected = paired_test(a, b, 0.0), paired_test(a, b, ratio)
    assert corrected.standard_error == pytest.approx(plain.standard_error * math.sqrt(1 + ratio * size[0]), rel=1e-9)
    assert corrected.difference == plain.difference
    if not math.isnan(plain.p_value):
        assert corrected.p_value >= plain.p_value - 1e-12


def test_nadeau_and_bengio_by_hand():
    # d = 1, 2, 6: mean 3, var 7; (1/3 + 1/4) * 7 = 49/12; t = 3 / 2.0207 = 1.4846 with 2 degrees of freedom,
    # where Student's t has the closed form p = 1 - t / sqrt(2 + t^2)
    test = paired_test({(0, 0): 1.0, (1, 0): 2.0, (2, 0): 6.0}, {(0, 0): 0.0, (1, 0): 0.0, (2, 0): 0.0}, 0.25)
    t = 3 / math.sqrt(49 / 12)
    assert test.difference == 3.0
    assert test.standard_error == pytest.approx(math.sqrt(49 / 12))
    assert test.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert (test.degrees_of_freedom, test.n_pairs) == (2, 3)


def test_one_fold_is_the_plain_paired_t_test_over_seeds():
    a, b = [0.9, 0.8, 0.85, 0.95], [0.7, 0.75, 0.8, 0.7]
    test = paired_test({(2, s): x for s, x in enumerate(a)}, {(2, s): x for s, x in enumerate(b)}, 0.5)
    assert test.rule == "paired t-test over seeds"
    assert test.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert test.degrees_of_freedom == 3


@settings(deadline=None)
@given(st.data(), GRID)
def test_swapping_the_methods_changes_only_the_sign(data, size):
    a, b = grid(data, *size), grid(data, *size)
    one, other = paired_test(a, b, 0.25), paired_test(b, a, 0.25)
    assert one.difference == -other.difference
    assert one.standard_error == pytest.approx(other.standard_error)
    assert one.p_value == pytest.approx(other.p_value, nan_ok=True)


def test_runs_that_only_one_has_are_left_out():
    a = {(0, 0): 1.0, (0, 1): 100.0, (1, 0): 3.0, (2, 0): 5.0}
    b = {(1, 0): 1.0, (0, 0): 0.0, (3, 0): -50.0}
    test = paired_test(a, b, 0.0)
    assert test.difference == 1.5
    assert test.n_pairs == 2
    assert test.degrees_of_freedom == 1


def test_no_common_run_is_nan():
    test = paired_test({(0, 0): 1.0}, {(0, 1): 1.0}, 0.25)
    assert math.isnan(test.difference)
    assert math.isnan(test.standard_error)
    assert math.isnan(test.p_value)
    assert (test.rule, test.n_pairs, test.degrees_of_freedom) == ("none", 0, 0)


def test_one_common_run_has_a_difference_and_no_p():
    test = paired_test({(0, 0): 0.75}, {(0, 0): 0.5}, 0.25)
    assert test.difference == 0.25
    assert math.isnan(test.p_value)
    assert test.rule == "none"


def test_equal_scores_have_p_one():
    scores = {(fold, seed): 0.1 * fold + 0.01 * seed for fold in range(3) for seed in range(2)}
    test = paired_test(scores, dict(scores), 0.25)
    assert (test.difference, test.standard_error, test.p_value) == (0.0, 0.0, 1.0)


def test_equal_differences_are_no_proof_and_rounding_is_not_variance():
    # 0.1 + 0.2 - 0.2 and its like differ from 0.1 in the last bit: t would be about 1e15
    b = {(fold, 0): 0.2 + 0.3 * fold for fold in range(5)}
    test = paired_test({run: value + 0.1 for run, value in b.items()}, b, 0.25)
    assert test.difference == pytest.approx(0.1)
    assert test.standard_error == 0.0
    assert math.isnan(test.p_value)


@pytest.mark.parametrize("ratio", [-0.1, math.nan, math.inf])
def test_a_ratio_that_cannot_be_is_refused(ratio):
    with pytest.raises(DataError, match=r"test_to_train is (-0.1|nan|inf): give test samples / training samples"):
        paired_test({}, {}, ratio)


def test_under_no_difference_five_percent_are_below_five_percent():
    random = np.random.default_rng(0)
    p = []
    for _ in range(400):
        draws = random.normal(size=(5, 2))
        a = {(fold, seed): draws[fold, seed] for fold in range(5) for seed in range(2)}
        p.append(paired_test(a, dict.fromkeys(a, 0.0), 0.0).p_value)
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    assert stats.kstest(p, "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        # 3 x 0.01, 2 x 0.02, 1 x 0.04, given in another order
        ([0.04, 0.01, 0.02], [0.04, 0.03, 0.04]),
        # 4 x 0.005 = 0.02, 3 x 0.01 = 0.03, 2 x 0.03 = 0.06, 1 x 0.04 is less than 0.06
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([math.nan, 0.01, math.nan, 0.04], [math.nan, 0.02, math.nan, 0.04]),
        ([math.nan], [math.nan]),
    ],
)
def test_holm_by_hand(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected, nan_ok=True)


def rejected(p_values, level):
    """Holm's procedure as he tells it: the smallest first, at level / (tests left), until one is not rejected."""
    left, found = [index for index, p in enumerate(p_values) if not math.isnan(p)], set()
    while left:
        smallest = min(left, key=lambda index: p_values[index])
        if len(left) * p_values[smallest] > level:
            break
        found.add(smallest)
        left.remove(smallest)
    return found


@settings(deadline=None)
@given(P_VALUES, st.floats(0, 1, exclude_max=True) | st.sampled_from([0.01, 0.05, 0.08]))
def test_a_corrected_p_at_most_the_level_is_what_stepping_down_rejects(p_values, level):
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected(p_values, level)


@settings(deadline=None)
@given(P_VALUES)
def test_holm_is_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    count = sum(not math.isnan(p) for p in p_values)
    pairs = sorted((p, c) for p, c in zip(p_values, corrected, strict=True) if not math.isnan(p))
    assert all(p <= c <= min(1, count * p) for p, c in pairs)
    assert [c for _, c in pairs] == sorted(c for _, c in pairs)
    assert [math.isnan(c) for c in corrected] == [math.isnan(p) for p in p_values]
    ties = {}
    assert all(ties.setdefault(p, c) == c for p, c in pairs)


@settings(deadline=None)
@given(st.data(), P_VALUES)
def test_the_order_of_the_tests_is_nothing_to_holm(data, p_values):
    order = data.draw(st.permutations(range(len(p_values))))
    corrected = holm(p_values)
    assert holm([p_values[index] for index in order]) == pytest.approx(
        [corrected[i] for i in order], abs=0, nan_ok=True
    )


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.inf, -math.inf])
def test_what_is_no_p_value_is_refused(bad):
    with pytest.raises(DataError, match=rf"p_values\[1\] is {bad}: give numbers from 0 to 1, or nan for a test"):
        holm([0.5, bad])
