"""The comparison table: rows, reference, notes and every refusal."""

import copy
import math
import random

import pytest
from scipy import stats

from torchmsaf.analysis.statistics import holm
from torchmsaf.analysis.table import build_table, label
from torchmsaf.errors import ResultError

METHODS = (
    ("left", "unimodal", "left", {}),
    ("right", "unimodal", "right", {}),
    ("msaf", "intermediate", None, {}),
    ("average", "late", None, {}),
    ("msaf", "intermediate", None, {"identity_start": True, "reduction": 4}),
    ("concat", "early", None, {}),
)


def make_records(folds=3, seeds=2, score="accuracy", extra=("macro_f1", "loss"), methods=METHODS):
    draw = random.Random(0)
    records = []
    for fold in range(folds):
        for seed in range(seeds):
            for name, stage, modality, options in methods:
                test = {metric: draw.uniform(0.2, 0.9) for metric in (score, *extra)}
                missing = {m: None if m == modality else {score: draw.uniform(0.1, 0.5)} for m in ("left", "right")}
                records.append(
                    {
                        "fold": fold,
                        "seed": seed,
                        "method": name,
                        "stage": stage,
                        "modality": modality,
                        "options": options,
                        "validation": {score: draw.uniform(0.5, 0.6) + 0.3 * (name == "left"), "loss": 1.0},
                        "test": test,
                        "test_missing": missing,
                        "parameters": 1000,
                        "added_parameters": 10,
                        "flops": 5000,
                        "seconds": 1.0 + seed,
                        "train_size": 100,
                        "validation_size": 20,
                        "test_size": 25,
                    }
                )
    return records


def build(records, **changes):
    arguments = {
        "title": "Digits",
        "protocol": "Five folds (Who, 2020).",
        "score": "accuracy",
        "higher_is_better": True,
    }
    return build_table(records, **(arguments | changes))


def notes_of(table):
    return "\n".join(table.notes)


def test_rows_are_by_stage_then_by_first_appearance():
    rows = build(make_records()).rows
    assert [(row.method, row.stage) for row in rows] == [
        ("left", "unimodal"),
        ("right", "unimodal"),
        ("average", "late"),
        ("concat", "early"),
        ("msaf", "intermediate"),
        ("msaf (identity_start=True, reduction=4)", "intermediate"),
    ]


def test_a_row_holds_the_numbers_of_its_records():
    records = make_records()
    row = build(records).rows[2]
    mine = [record for record in records if record["method"] == "average"]
    folds = [sum(r["test"]["accuracy"] for r in mine if r["fold"] == fold) / 2 for fold in range(3)]
    assert row.score.mean == pytest.approx(sum(folds) / 3)
    assert row.score.standard_error == pytest.approx(stats.sem(folds))
    folds = [sum(r["test_missing"]["right"]["accuracy"] for r in mine if r["fold"] == fold) / 2 for fold in range(3)]
    assert row.missing["right"].mean == pytest.approx(sum(folds) / 3)
    assert (row.parameters, row.added_parameters, row.flops) == (1000, 10, 5000)
    assert row.seconds == pytest.approx(1.5)
    assert (row.runs, row.expected) == (6, 6)


def test_the_difference_is_tested_against_the_reference():
    records = make_records()
    table = build(records)
    means = {
        name: [
            sum(r["test"]["accuracy"] for r in records if r["method"] == name and r["fold"] == fold) / 2
            for fold in range(3)
        ]
        for name in ("average", "left")
    }
    plain = stats.ttest_rel(means["average"], means["left"])
    t = plain.statistic / math.sqrt(1 + 3 * 0.25)  # n_test / n_train = 25 / 100
    assert table.rows[2].difference.difference == pytest.approx(sum(means["average"]) / 3 - sum(means["left"]) / 3)
    assert table.rows[2].difference.p_value == pytest.approx(2 * stats.t.sf(abs(t), 2))


def test_the_corrected_p_is_over_all_rows_that_have_a_p_unimodal_ones_too():
    records = make_records()
    for record in records:
        record["test"]["accuracy"] += 9 * (record["method"] == "concat")
    rows = build(records).rows
    tested = [row for row in rows if row.difference is not None]
    assert [row.method for row in rows if row.corrected_p is None] == ["left"]
    assert [row.corrected_p for row in tested] == holm([row.difference.p_value for row in tested])
    smallest = min(tested, key=lambda row: row.difference.p_value)
    assert smallest.method == "concat"
    assert smallest.corrected_p == pytest.approx(5 * smallest.difference.p_value)


def test_one_comparison_needs_no_correction():
    table = build([record for record in make_records() if record["stage"] == "unimodal"])
    assert table.rows[1].corrected_p == table.rows[1].difference.p_value
    assert "over the 1 comparison with a p in this table" in notes_of(table)


def test_without_any_p_there_is_nothing_to_correct():
    records = [record for record in make_records() if record["stage"] == "unimodal"]
    for record in records:  # the differences are all one number
        record["test"]["accuracy"] = 0.5 if record["method"] == "left" else 0.75
    table = build(records)
    assert table.rows[1].corrected_p is None
    assert "for one comparison alone. None is defined here." in notes_of(table)


@pytest.mark.parametrize("name", ["msaf", "msaf (identity_start=True, reduction=4)", "concat", "right"])
def test_a_reference_that_is_named(name):
    table = build(make_records(), reference=name)
    plain = build(make_records())
    by_default = {row.method: row for row in plain.rows}
    assert table.rows[table.reference].method == name
    assert [row.method for row in table.rows if row.difference is None] == [name]
    for row in table.rows:
        assert row.score == by_default[row.method].score
        if row.difference is not None:
            expected = row.score.mean - by_default[name].score.mean
            assert row.difference.difference == pytest.approx(expected)
    assert f"difference: to {name!r} (ref.), the row that was asked for, on the runs both have" in notes_of(table)
    assert "If these scores were the reason to ask for it, p and p corrected are too small." in notes_of(table)
    assert "best mean validation" not in notes_of(table)


def test_the_default_reference_by_its_name_has_the_same_numbers():
    named, plain = build(make_records(), reference="left"), build(make_records())
    assert named.rows == plain.rows
    assert named.notes != plain.notes


def test_a_named_reference_needs_no_unimodal_rows():
    records = [record for record in make_records() if record["stage"] != "unimodal"]
    assert build(records, reference="average").rows[1].difference is not None


def test_a_reference_that_is_no_row_is_refused_with_the_rows_there_are():
    with pytest.raises(
        ResultError,
        match=r"no row is named 'mssaf': choose the reference from 'left', 'right', 'average', 'concat', 'msaf', "
        r"'msaf \(identity_start=True, reduction=4\)'$",
    ):
        build(make_records(), reference="mssaf")
    with pytest.raises(ResultError, match="no row is named '': choose"):
        build(make_records(), reference="")


def test_a_name_of_two_rows_is_no_reference():
    methods = (*METHODS[:2], ("left", "late", None, {}))  # a modality that is called as a method is
    with pytest.raises(ResultError, match=r"2 rows are named 'left': choose the reference from 'right'$"):
        build(make_records(methods=methods), reference="left")


def with_validation(records):
    draw = random.Random(1)
    for record in records:
        record["validation"] |= {"macro_f1": draw.uniform(0.5, 0.9)}
    return records


def test_a_table_of_validation_scores():
    records = with_validation(make_records())
    table = build(records, part="validation")
    mine = {
        name: [
            sum(r["validation"]["accuracy"] for r in records if r["method"] == name and r["fold"] == fold) / 2
            for fold in range(3)
        ]
        for name in ("average", "left")
    }
    row = table.rows[2]
    assert table.part == "validation"
    assert row.score.mean == pytest.approx(sum(mine["average"]) / 3)
    assert row.score.standard_error == pytest.approx(stats.sem(mine["average"]))
    f1 = [record["validation"]["macro_f1"] for record in records if record["method"] == "average"]
    assert row.others["macro_f1"].mean == pytest.approx(sum(f1) / 6)
    assert [metric.name for metric in table.others] == ["macro_f1"]
    t = stats.ttest_rel(mine["average"], mine["left"]).statistic / math.sqrt(1 + 3 * 0.2)  # 20 / 100
    assert row.difference.p_value == pytest.approx(2 * stats.t.sf(abs(t), 2))


def test_a_table_of_validation_scores_has_nothing_of_test():
    records = make_records()
    table = build(records, part="validation")
    for record in records:
        record["test"] = {"accuracy": 0.123, "new": 0.5}
        record["test_missing"] = None
        record["test_size"] = 999
    assert build(records, part="validation") == table
    assert table.modalities == ()
    assert all(row.missing == {} for row in table.rows)


def test_a_table_of_validation_scores_says_so():
    table = build(make_records(), part="validation")
    assert table.caption == ("Digits. VALIDATION scores, which also chose the epochs. Five folds (Who, 2020).")
    assert table.notes[0] == (
        "These are VALIDATION scores. Validation also chose the epoch of every row, so they are optimistic. "
        "Differences, p and p corrected are made of them. Look for reasons here, and report test scores."
    )
    assert "n_validation / n_train from the records" in notes_of(table)
    assert "may share validation samples" in notes_of(table)
    assert "test scores did not" not in notes_of(table)
    assert "choice made by test scores" not in notes_of(table)
    assert "alidation" not in build(make_records()).caption
    assert "VALIDATION" not in notes_of(build(make_records()))


def test_a_table_of_validation_scores_needs_the_size_of_validation():
    records = make_records()
    del records[3]["validation_size"]
    build(records)
    with pytest.raises(ResultError, match=r"record 3 has no validation_size: it needs fold, .*, validation_size"):
        build(records, part="validation")


def test_a_part_that_is_none_is_refused():
    with pytest.raises(ResultError, match="there is no part 'train': a table is of 'test' or of 'validation' scores"):
        build(make_records(), part="train")


def test_the_best_unimodal_is_chosen_by_validation_and_not_by_test():
    records = make_records()
    for record in records:
        record["test"]["accuracy"] = 0.1 if record["method"] == "left" else 0.9
    table = build(records)
    assert table.rows[table.reference].method == "left"
    assert table.rows[0].difference is None
    assert table.rows[1].difference.difference == pytest.approx(0.8)
    assert "to 'left' (ref.), the unimodal network with the best mean validation accuracy" in notes_of(table)
    assert "(test scores did not choose it)" in notes_of(table)


def test_the_smallest_is_best_where_lower_is_better():
    records = make_records(score="mae", extra=("pearson",))
    table = build(records, score="mae", higher_is_better=False)
    assert table.rows[table.reference].method == "right"
    assert "Higher is better: pearson. Lower is better: mae." in notes_of(table)
    assert "percent" not in notes_of(table)
    assert not table.score.percent


def test_the_reference_is_chosen_on_runs_that_all_unimodal_networks_have():
    records = make_records()
    for record in records:
        if record["method"] == "right":
            record["validation"]["accuracy"] = 0.99 if record["fold"] == 2 else 0.7
        if record["method"] == "left":
            record["validation"]["accuracy"] = 0.75
    assert build(records).reference == 1  # 0.797 against 0.75
    without = [r for r in records if not (r["method"] == "left" and r["fold"] == 2)]
    assert build(without).reference == 0  # fold 2 is no longer compared


def test_a_validation_score_of_nan_is_never_best():
    records = make_records()
    next(r for r in records if r["method"] == "left")["validation"]["accuracy"] = math.nan
    assert build(records).reference == 1


@pytest.mark.parametrize("empty", ["no unimodal", "null validation"])
def test_without_a_reference_there_are_no_differences(empty):
    records = make_records()
    if empty == "no unimodal":
        records = [record for record in records if record["stage"] != "unimodal"]
    for record in records:
        record["validation"]["accuracy"] = None
    table = build(records)
    assert table.reference is None
    assert all(row.difference is None for row in table.rows)
    assert "No unimodal network has a mean validation accuracy over the runs that all of them have" in notes_of(table)
    assert "t-test" not in notes_of(table)


def test_without_a_difference_no_note_explains_it():
    """One row, or rows without a run in common: the table has no such column."""
    alone = build([record for record in make_records() if record["method"] == "left"])
    assert alone.reference == 0
    assert "difference: " not in notes_of(alone)
    apart = [r for r in make_records() if r["method"] == ("left" if r["fold"] else "average")]
    assert "difference: " not in notes_of(build(apart))
    assert "difference: to 'left' (ref.)" in notes_of(build(make_records()[:2]))


def test_metrics_are_ordered_and_losses_left_out():
    records = make_records(score="mae", extra=("mystery", "acc7", "f1", "pearson", "loss", "acc2"))
    table = build(records, score="mae", higher_is_better=False)
    assert [metric.name for metric in table.others] == ["pearson", "acc2", "f1", "acc7", "mystery"]
    assert [metric.percent for metric in table.others] == [False, True, True, True, False]
    assert [metric.higher_is_better for metric in table.others] == [True, True, True, True, None]
    assert "Scores with % are in percent, their differences in points." in notes_of(table)
    assert "mystery" not in notes_of(table)


def test_accuracies_of_the_first_k_stand_after_the_accuracy_in_percent():
    table = build(make_records(extra=("macro_f1", "top4", "top2")))
    assert [metric.name for metric in table.others] == ["top2", "top4", "macro_f1"]
    assert all(metric.percent and metric.higher_is_better for metric in table.others)


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        *[
            (name, True)
            for name in ("accuracy", "balanced_accuracy", "acc2", "acc2_nonzero", "macro_f1", "f1_macro", "top10")
        ],
        *[(name, False) for name in ("mae", "pearson", "access", "mf10", "stop2", "top")],
    ],
)
def test_which_metrics_are_fractions(name, percent):
    assert build(make_records(score=name), score=name).score.percent is percent


def test_modalities_keep_their_order_and_their_own_is_not_left_out():
    table = build(make_records())
    assert table.modalities == ("left", "right")
    assert table.rows[0].missing["left"] is None
    assert table.rows[0].missing["right"] is not None


def test_modalities_are_found_without_unimodal_rows():
    records = [record for record in make_records() if record["stage"] != "unimodal"]
    assert build(records).modalities == ("left", "right")


def test_optional_keys_may_be_absent_or_null():
    records = make_records()
    for record in records:
        for key in ("test_missing", "parameters", "flops", "options", "modality"):
            del record[key]
        record["seconds"] = record["added_parameters"] = None
    records = [record for record in records if record["method"] != "msaf"]  # told apart by options alone
    row = build(records).rows[2]
    assert (row.parameters, row.added_parameters, row.flops, row.seconds) == (None, None, None, None)
    assert row.missing == {}


def test_unequal_counts_give_the_largest():
    records = make_records()
    records[0]["parameters"] = 2000
    assert build(records).rows[0].parameters == 2000


def test_notes_of_folds_and_seeds():
    table = build(make_records())
    assert (table.n_folds, table.n_seeds) == (3, 2)
    assert table.caption == "Digits. Five folds (Who, 2020)."
    assert "3 folds, 2 seeds. Scores are means over folds, seeds averaged within each fold first" in notes_of(table)
    assert "± is one standard error over the fold means" in notes_of(table)
    assert "p: corrected resampled t-test over folds (Nadeau & Bengio, 2003)" in notes_of(table)
    assert "two-sided, for one comparison alone. p corrected: Holm's (1979), over the 5 comparisons" in notes_of(table)
    assert "No row is marked as the winner: that would be a choice made by test scores." in table.notes
    assert "Incomplete" not in notes_of(table)


def test_one_fold_warns():
    table = build(make_records(folds=1))
    assert table.caption == "Digits. Five folds (Who, 2020). One fold: ± and p tell of the seeds only."
    assert "1 fold, 2 seeds. With one fold ± is one standard error over the seeds" in notes_of(table)
    assert "nothing about other samples" in notes_of(table)
    assert "p: paired t-test over the seeds of one fold, two-sided" in notes_of(table)
    assert not math.isnan(table.rows[2].difference.p_value)


def test_one_run_each_has_no_test():
    table = build(make_records(folds=1, seeds=1))
    assert "1 fold, 1 seed: single values, with no ± and no p." in notes_of(table)
    assert "t-test" not in notes_of(table)
    assert math.isnan(table.rows[2].score.standard_error)


def test_incomplete_runs_are_told():
    records = [r for r in make_records() if not (r["method"] == "average" and r["fold"] == 1)]
    table = build(records)
    assert "Incomplete, so rows may not be comparable; runs done: average 4 of 6." in table.notes
    assert table.rows[2].difference.n_pairs == 4


def test_expected_runs_may_be_more_than_there_are():
    table = build(make_records(), expected_runs=10)
    assert {row.expected for row in table.rows} == {10}
    assert "runs done: left 6 of 10; right 6 of 10;" in notes_of(table)


def test_a_row_with_one_fold_so_far_gets_no_spread_over_seeds():
    records = [r for r in make_records() if not (r["method"] == "average" and r["fold"] > 0)]
    table = build(records)
    row = table.rows[2]
    assert math.isnan(row.score.standard_error)
    assert math.isnan(row.missing["left"].standard_error)
    assert math.isnan(row.difference.p_value)
    assert math.isnan(row.difference.standard_error)
    assert row.difference.rule == "none"
    assert "One fold only so far, so no ± and no p: average." in table.notes
    assert row.corrected_p is None
    assert "over the 4 comparisons with a p in this table" in notes_of(table)


def test_values_that_some_runs_lack_are_told():
    records = make_records()
    average = [record for record in records if record["method"] == "average"]
    del average[0]["test"]["macro_f1"]
    average[1]["test_missing"]["left"] = None
    assert (
        "Measured in some of the runs only: average, macro_f1: 5 of 6; average, without left: 5 of 6."
        in build(records).notes
    )


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_numbers_that_are_not_finite_are_told(value):
    records = make_records()
    average = next(record for record in records if record["method"] == "average")
    average["test"]["macro_f1"] = average["test"]["accuracy"] = value
    table = build(records)
    assert not math.isfinite(table.rows[2].score.mean)
    assert math.isnan(table.rows[2].difference.p_value)
    assert "Not a finite number in at least one run, so no mean: average, accuracy; average, macro_f1." in table.notes


def test_records_are_not_changed_and_their_order_within_a_method_is_nothing():
    records = make_records()
    before = copy.deepcopy(records)
    table = build(records)
    assert records == before
    first = records[: len(METHODS)]
    rest = records[len(METHODS) :]
    assert build(first + rest[::-1]) == table


def test_label():
    assert label({"method": "msaf"}) == "msaf"
    assert label({"method": "msaf", "options": {}}) == "msaf"
    assert (
        label({"method": "msaf", "options": {"identity_start": True, "name": "x"}})
        == "msaf (identity_start=True, name=x)"
    )


def test_options_in_another_order_are_the_same_method():
    methods = (("msaf", "intermediate", None, {"a": 1, "b": 2}),)
    swapped = (("msaf", "intermediate", None, {"b": 2, "a": 1}),)
    records = make_records(folds=2, methods=methods)[:2] + make_records(folds=2, methods=swapped)[2:]
    assert [row.runs for row in build(records).rows] == [4]


def test_no_records_is_refused():
    with pytest.raises(ResultError, match=r"no records: there is nothing to tabulate; run the comparison first"):
        build([])


def test_a_record_without_a_key_is_refused():
    records = make_records()
    del records[3]["stage"], records[3]["test"]
    with pytest.raises(
        ResultError, match=r"record 3 has no stage, test: it needs fold, seed, method, stage, validation"
    ):
        build(records)


def test_an_unknown_stage_is_refused():
    records = make_records()
    records[2]["stage"] = "middle"
    with pytest.raises(
        ResultError,
        match=r"record 2 \('msaf', fold 0, seed 0\) has the stage 'middle': it must be one of unimodal, late, early",
    ):
        build(records)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_record_without_the_score_is_refused(part):
    records = make_records()
    records[1][part] = {"loss": 1.0}
    with pytest.raises(ResultError, match=rf"\('right', fold 0, seed 0\) has no {part} score 'accuracy': it has loss"):
        build(records)
    records[1][part] = {}
    with pytest.raises(ResultError, match=rf"has no {part} score 'accuracy': it has none"):
        build(records)


def test_a_training_part_without_samples_is_refused():
    records = make_records()
    records[0]["train_size"] = 0
    with pytest.raises(ResultError, match=r"\('left', fold 0, seed 0\) has train_size 0: it must be greater than 0"):
        build(records)


def test_a_record_that_is_there_twice_is_refused():
    records = make_records()
    with pytest.raises(ResultError, match=r"\('left', fold 0, seed 0\) is there twice: keep one record a method, fold"):
        build([*records, records[0]])


def test_more_runs_than_expected_are_refused():
    with pytest.raises(ResultError, match=r"'left' has 6 runs; expected_runs is 4: give folds x seeds"):
        build(make_records(), expected_runs=4)
