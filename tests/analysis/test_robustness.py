"""The robustness table: its numbers against the records, its order, its words, and that the first table stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from scipy import stats

from torchmsaf.analysis.report import render_html, render_markdown, render_text
from torchmsaf.analysis.robustness import Robustness, build_robustness
from torchmsaf.analysis.table import Table, build_table
from torchmsaf.errors import ResultError

LEVELS = ("2", "0.5", "10", "1")  # in no order, and 10 before 2 as text
METHODS: tuple[tuple[str, str, str | None], ...] = (
    ("msaf", "intermediate", None),
    ("left", "unimodal", "left"),
    ("right", "unimodal", "right"),
)


def make_records(folds: int = 3, seeds: int = 2) -> list[dict[str, Any]]:
    """Each score is a number of its own, known from fold, seed, method, modality and level."""
    records = []
    for fold in range(folds):
        for seed in range(seeds):
            for number, (name, stage, modality) in enumerate(METHODS):
                base = 0.5 + 0.1 * number + 0.01 * fold * fold + 0.001 * seed
                noise = {
                    m: {level: {"accuracy": base - 0.01 * float(level) - 0.1 * k, "loss": 1.0} for level in LEVELS}
                    for k, m in enumerate(("left", "right"))
                }
                records.append(
                    {
                        "fold": fold,
                        "seed": seed,
                        "method": name,
                        "stage": stage,
                        "modality": modality,
                        "options": {},
                        "validation": {"accuracy": 0.5, "loss": 1.0},
                        "test": {"accuracy": base, "loss": 1.0},
                        "test_missing": {m: None if m == modality else {"accuracy": base / 2} for m in noise},
                        "test_noise": noise,
                        "train_size": 100,
                        "validation_size": 20,
                        "test_size": 25,
                    }
                )
    return records


def tables(records: list[dict[str, Any]], **changes: Any) -> tuple[Table, Robustness]:
    arguments: Any = {"title": "Toy", "protocol": "Folds.", "score": "accuracy", "higher_is_better": True} | changes
    robustness = build_robustness(records, **arguments)
    assert robustness is not None
    return build_table(records, **arguments), robustness


def test_a_row_has_the_scores_of_its_records_with_the_errors_of_the_comparison() -> None:
    records = make_records()
    table, robustness = tables(records)
    assert [(row.method, row.stage) for row in robustness.rows] == [(row.method, row.stage) for row in table.rows]
    assert [row.complete for row in robustness.rows] == [row.score for row in table.rows]
    assert [row.missing for row in robustness.rows] == [row.missing for row in table.rows]
    assert robustness.levels == ("0.5", "1", "2", "10")
    row = next(row for row in robustness.rows if row.method == "msaf")
    mine = [record for record in records if record["method"] == "msaf"]
    found = row.noise["right"]["2"]
    assert found is not None
    by_fold = [
        sum(r["test_noise"]["right"]["2"]["accuracy"] for r in mine if r["fold"] == fold) / 2 for fold in range(3)
    ]
    assert (found.mean, found.standard_error) == pytest.approx((sum(by_fold) / 3, stats.sem(by_fold)))


def test_text_is_these_lines_after_the_table_as_it_was() -> None:
    records = make_records()
    for record in records:
        record["test_noise"] = {name: {"0.5": levels["0.5"]} for name, levels in record["test_noise"].items()}
    table, robustness = tables(records)
    plain, both = render_text(table, 100), render_text(table, 100, robustness=robustness)
    assert both.startswith(plain)
    expected = """\
Toy: robustness, test accuracy in percent. Folds. Noise s: a normally distributed number is added to
every number of that modality's test inputs; its standard deviation is s times that of the same
channel in training samples.

                         without     without      left +     right +
method      complete        left       right   noise 0.5   noise 0.5
--------------------------------------------------------------------
unimodal
  left    61.7 ± 1.2           –  30.9 ± 0.6  61.2 ± 1.2  51.2 ± 1.2
  right   71.7 ± 1.2  35.9 ± 0.6           –  71.2 ± 1.2  61.2 ± 1.2
intermediate fusion
  msaf    51.7 ± 1.2  25.9 ± 0.6  25.9 ± 0.6  51.2 ± 1.2  41.2 ± 1.2
"""
    assert expected in both
    assert "none was trained on added noise" in both


def test_markdown_and_html_have_both_tables_with_all_levels() -> None:
    table, robustness = tables(make_records())
    head = (
        "| method | stage | complete | without left | without right | left + noise 0.5 | left + noise 1 | left + noise 2 "
        "| left + noise 10 | right + noise 0.5 | right + noise 1 | right + noise 2 | right + noise 10 |"
    )
    markdown = render_markdown(table, robustness=robustness)
    assert markdown.startswith(render_markdown(table))
    assert head in markdown.splitlines()
    page = render_html(table, robustness=robustness)
    assert page.count("<table>") == page.count("</table>") == 2
    assert 'aria-label="Robustness table"' in page
    assert '<th scope="col">left + noise 10</th>' in page
    assert render_html(table).count("<table>") == 1


def test_names_are_escaped_and_long_tables_stay_within_the_width() -> None:
    evil = "<script>|x\n"
    records = make_records()
    for record in records:
        record["test_noise"][evil] = record["test_noise"]["left"]
    table, robustness = tables(records)
    assert "<script>" not in render_html(table, robustness=robustness)
    assert r"| &lt;script>\|x + noise 0.5 |" in render_markdown(table, robustness=robustness)
    assert max(map(len, render_text(table, 80, robustness=robustness).splitlines())) <= 80


def test_without_scores_of_missing_or_noisy_modalities_there_is_no_table() -> None:
    records = make_records()
    for record in records:
        record["test_noise"] = None
        del record["test_missing"]
    assert build_robustness(records, title="", protocol="", score="accuracy", higher_is_better=True) is None


def test_without_noise_it_has_the_missing_modalities_and_does_not_speak_of_noise() -> None:
    records = make_records()
    for record in records:
        del record["test_noise"]
    table, robustness = tables(records)
    assert robustness.levels == ()
    text = render_text(table, robustness=robustness).removeprefix(render_text(table))
    assert "without" in text
    assert "Noise s" not in text
    assert "+ noise" not in text


def test_what_is_measured_in_some_runs_only_or_not_finite_is_named() -> None:
    records = make_records()
    mine = [record for record in records if record["method"] == "msaf"]
    del mine[0]["test_noise"]["left"]["2"]
    mine[1]["test_noise"]["right"]["1"]["accuracy"] = None
    mine[2]["test_noise"]["left"] = None
    _, robustness = tables([record for record in records if record is not mine[3]])
    notes = "\n".join(robustness.notes)
    assert "runs done: msaf 5 of 6." in notes
    assert "msaf, left + noise 2: 3 of 5" in notes
    assert "msaf, left + noise 0.5: 4 of 5" in notes
    assert "Not a finite number in at least one run, so no mean: msaf, right + noise 1." in notes


@pytest.mark.parametrize("level", ["much", "-1", "inf", "nan"])
def test_a_noise_level_that_is_no_number_of_0_or_more_is_refused(level: str) -> None:
    records = make_records()
    records[4]["test_noise"]["right"][level] = {"accuracy": 0.5}
    with pytest.raises(ResultError, match=f"'left', fold 0, seed 1 has the noise level '{level}' for 'right': it must"):
        tables(records)


@pytest.mark.parametrize(
    ("size", "warning", "by"),
    [
        (
            25,
            "Validation is the test part: the TEST samples chose the epoch of every row.",
            "which is the mean test score",
        ),
        (
            20,
            "Validation is of the test part, and not all of it: some of the TEST samples chose the epoch of every row.",
            "of samples that test too",
        ),
    ],
)
def test_a_protocol_that_chose_on_test_is_told_under_both_tables(size: int, warning: str, by: str) -> None:
    """Validation may be all of the test part, as of RAVDESS, or a part of it with other scores, as of NTU RGB+D."""
    records = [{**record, "validation_size": size} for record in make_records()]
    before = copy.deepcopy(records)
    for table in tables(records, chosen_on_test=True):
        assert table.notes[0] == f"{warning} So these scores, and all that is made of them, are optimistic."
        assert "test scores did not choose it" not in "\n".join(table.notes)
    words = " ".join(tables(records, chosen_on_test=True)[0].notes)
    assert f"the best mean validation accuracy ({by}" in words
    assert ("is the mean test score here" in words) is (size == 25)
    for table in tables(records):
        assert "TEST" not in "\n".join(table.notes)
    assert records == before


def test_validation_is_all_of_the_test_part_where_every_record_says_so() -> None:
    """One fold with a smaller part, or a record that does not tell, is enough not to claim it."""
    records: list[dict[str, Any]] = [{**record, "validation_size": 25} for record in make_records()]
    assert tables(records, chosen_on_test=True)[0].validation_is_test
    assert not tables(records)[0].validation_is_test
    records[-1]["validation_size"] = 24
    assert not tables(records, chosen_on_test=True)[0].validation_is_test
    del records[-1]["validation_size"]
    assert not tables(records, chosen_on_test=True)[0].validation_is_test
