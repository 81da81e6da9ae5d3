"""Published numbers beside a comparison: which rows meet, what is printed, and that each number says how it came here."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from torchmsaf.analysis.published_tables import NOT_COMPARED, TABLE_2, Published, build_published
from torchmsaf.analysis.report import render_html, render_markdown, render_text
from torchmsaf.analysis.robustness import build_robustness
from torchmsaf.analysis.table import STAGES, Table, build_table
from torchmsaf.errors import ResultError

PAGE = Path(__file__).parents[2] / "docs" / "published-numbers.md"
ARGUMENTS: dict[str, Any] = {"title": "Toy", "protocol": "Folds.", "score": "mae", "higher_is_better": False}
SCORES = {"mae": 0.61, "pearson": 0.7, "acc2": 0.83, "f1": 0.82, "acc7": 0.5, "loss": 1.0}


def make_records(*methods: tuple[str, str, dict[str, Any]], scores: dict[str, float] = SCORES) -> list[dict[str, Any]]:
    """Two seeds of each method, 0.02 apart."""
    return [
        {
            "fold": 0,
            "seed": seed,
            "method": name,
            "stage": stage,
            "modality": name if stage == "unimodal" else None,
            "options": options,
            "validation": scores,
            "test": {key: value + 0.02 * seed for key, value in scores.items()},
            "train_size": 100,
            "validation_size": 20,
            "test_size": 25,
        }
        for name, stage, options in methods
        for seed in range(2)
    ]


DEFAULT = (
    ("text", "unimodal", {}),
    ("msaf", "intermediate", {}),
    ("misa", "intermediate", {}),
    ("dcca_two_step", "early", {}),
)


def both(records: list[dict[str, Any]], **changes: Any) -> tuple[Table, Published]:
    table = build_table(records, **(ARGUMENTS | changes))
    published = build_published(table)
    assert published is not None
    return table, published


def test_rows_meet_by_name_in_the_order_of_the_comparison_and_the_others_come_last() -> None:
    _, published = both(make_records(*DEFAULT))
    met = [(line.method, line.stage, line.published.system) for line in published.rows]
    assert met == [
        ("dcca_two_step", "early", "DCCA"),
        ("msaf", "intermediate", "MSAF"),
        ("misa", "intermediate", "MISA"),
        *((name, NOT_COMPARED, name) for name in ("TFN", "LMF", "MFM", "ICCN")),
    ]


def test_options_do_not_matter_and_names_that_only_begin_alike_do_not_meet() -> None:
    _, published = both(
        make_records(
            ("msaf", "intermediate", {"identity_start": True}),
            ("msaf", "intermediate", {}),
            ("tfn", "early", {}),  # the fusion of that name is not the network
            ("misa_like", "intermediate", {}),
        )
    )
    assert [line.method for line in published.rows if line.stage != NOT_COMPARED] == [
        "msaf (identity_start=True)",
        "msaf",
    ]


def test_both_forms_of_dcca_stand_beside_its_one_row() -> None:
    _, published = both(make_records(("dcca_one_step", "early", {}), ("dcca_two_step", "early", {})))
    assert [line.published.system for line in published.rows[:2]] == ["DCCA", "DCCA"]
    assert any("one step or of two is not known" in note for note in published.notes)


def test_our_scores_are_those_of_the_comparison() -> None:
    table, published = both(make_records(*DEFAULT))
    row = next(row for row in table.rows if row.method == "msaf")
    line = next(line for line in published.rows if line.method == "msaf")
    assert line.ours["mae"] is row.score
    assert {name: line.ours[name] for name in row.others} == row.others
    mean = line.ours["acc7"]
    assert mean is not None
    assert mean.mean == pytest.approx(0.51)


def test_another_score_of_the_table_is_found_as_well() -> None:
    _, published = both(make_records(*DEFAULT), score="acc2", higher_is_better=True)
    mean = published.rows[0].ours["acc2"]
    assert mean is not None
    assert mean.mean == pytest.approx(0.84)


def test_a_metric_that_was_not_measured_is_absent() -> None:
    table, published = both(make_records(*DEFAULT, scores={"mae": 0.61, "loss": 1.0}))
    assert published.rows[0].ours["acc7"] is None
    assert " ours acc7" not in render_markdown(table, published=published)
    assert "paper acc7" in render_markdown(table, published=published)


def test_text_is_these_lines_after_the_other_tables() -> None:
    records = make_records(*DEFAULT)
    for record in records:
        record["test_missing"] = {"text": record["test"]}
    table, published = both(records)
    robustness = build_robustness(records, **ARGUMENTS)
    assert robustness is not None
    before = render_text(table, 200, robustness=robustness)
    text = render_text(table, 200, robustness=robustness, published=published)
    assert text.startswith(before)
    lines = text[len(before) :].splitlines()
    starts = {line.split()[0]: line.split() for line in lines if line.strip()}
    ours = ["0.620", "±", "0.010", "0.710", "±", "0.010", "84.0", "±", "1.0", "83.0", "±", "1.0", "51.0", "±", "1.0"]
    paper = ["0.555", "0.756", "85.5", "85.3", "52.2"]
    cells = [cell for k, number in enumerate(paper) for cell in (number, *ours[3 * k : 3 * k + 3])]
    assert starts["misa"] == ["misa", *cells, "from", "its", "own", "authors", "repeated"]
    assert starts["TFN"][1:9] == ["0.593", "–", "0.700", "–", "82.5", "–", "82.1", "–"]
    assert lines.index("not in this comparison") > lines.index("intermediate fusion")


def test_it_says_that_the_numbers_do_not_compare_and_which_are_from_memory() -> None:
    table, published = both(make_records(*DEFAULT))
    for text in (render_text(table, 9999, published=published), render_markdown(table, published=published)):
        assert "the numbers stand beside each other and do not compare" in text
        assert "no number was read in the paper itself" in text
        assert "recalled, and ? after a number: from memory, not looked up; it may be wrong" in text
        assert "Only the MSAF row was run by the authors of that paper" in text


def test_a_recalled_number_is_marked_wherever_it_is_printed() -> None:
    table, published = both(make_records(*DEFAULT))
    for row in TABLE_2:
        assert all(number.endswith("?") == (row.status == "recalled") for number in row.marked.values())
    for text in (render_text(table, 80, published=published), render_html(table, published=published)):
        assert "0.559?" in text
        assert not re.search(r"0\.559(?!\?)", text)
        assert "0.555?" not in text


def test_our_rows_of_published_models_have_a_stage_that_is_printed() -> None:
    table, published = both(make_records(("text", "unimodal", {}), ("misa", "system", {})))
    assert "published models\n  misa" in render_text(table, published=published).split("Table 2", 1)[1]


def test_markdown_and_html_have_it_and_are_as_before_without() -> None:
    table, published = both(make_records(*DEFAULT))
    markdown = render_markdown(table, published=published)
    assert markdown.startswith(render_markdown(table))
    head = (
        "| method | stage | paper mae | ours mae | paper pearson | ours pearson | paper acc2 % | ours acc2 % | paper f1 % "
        "| ours f1 % | paper acc7 % | ours acc7 % | paper's numbers | status |"
    )
    assert head in markdown.splitlines()
    page = render_html(table, published=published)
    assert page.count("<table>") == page.count("</table>") == 2
    assert 'aria-label="Published numbers table"' in page
    assert "the MSAF authors&#39; run" in page
    assert render_html(table).count("<table>") == 1


def test_a_narrow_page_keeps_its_width_and_names_are_escaped() -> None:
    table, published = both(make_records(*DEFAULT), title="<b>|")
    assert max(map(len, render_text(table, 80, published=published).splitlines())) <= 80
    assert "<b>" not in render_html(table, published=published)


def test_no_row_of_the_paper_or_no_metric_of_it_gives_no_table() -> None:
    records = make_records(("text", "unimodal", {}), ("average", "late", {}))
    assert build_published(build_table(records, **ARGUMENTS)) is None
    records = make_records(*DEFAULT, scores={"accuracy": 0.5})
    table = build_table(records, **(ARGUMENTS | {"score": "accuracy", "higher_is_better": True}))
    assert build_published(table) is None


def test_validation_scores_are_refused() -> None:
    table = build_table(make_records(*DEFAULT), **ARGUMENTS, part="validation")
    with pytest.raises(ResultError, match=r"this table is of validation scores: build it of part 'test'"):
        build_published(table)


def test_every_number_says_how_it_came_here() -> None:
    assert [row.system for row in TABLE_2] == ["DCCA", "TFN", "LMF", "MFM", "ICCN", "MISA", "MSAF"]
    for row in TABLE_2:
        assert bool(row.seen) == (row.status == "repeated")
        assert row.provenance in ("quoted from ICCN", "from its own authors", "the MSAF authors' run")
        assert re.fullmatch(r"0\.\d{3}", row.mae)
        assert re.fullmatch(r"0\.\d{3}", row.pearson)
        assert all(re.fullmatch(r"\d\d\.\d{1,2}", text) for text in (row.acc2, row.f1, row.acc7))
    methods = [method for row in TABLE_2 for method in row.methods]
    assert len(methods) == len(set(methods))
    assert NOT_COMPARED not in STAGES
    with pytest.raises(FrozenInstanceError):
        TABLE_2[0].mae = "0"  # type: ignore[misc]


def test_the_page_has_the_same_rows() -> None:
    found = re.findall(
        r"^\| (\w+) \|((?: [\d.]+ \|){5}) ([^|]+) \| (\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    page = {name: (*numbers.replace("|", " ").split(), whose, status) for name, numbers, whose, status in found}
    assert page == {row.system: (*row.numbers.values(), row.provenance, row.status) for row in TABLE_2}
