"""Protects that a row is found by what was typed to make it, and that no row is guessed where several fit."""

from __future__ import annotations

from typing import Any

import pytest

from torchmsaf.analysis.references import row_made_by
from torchmsaf.errors import ResultError

MSAF = {"min_attention": 0.5, "reduction": 4}
RECORDS: list[dict[str, Any]] = [
    {"method": method, "stage": stage, "options": options, "fold": fold}
    for fold in (0, 1)
    for method, stage, options in (
        ("mmtm", "unimodal", {}),  # a modality that is called as a method is
        ("averaging", "late", None),
        ("msaf", "intermediate", MSAF),
        ("msaf", "intermediate", {**MSAF, "points": ["early"]}),
        ("msaf", "intermediate", {**MSAF, "points": ["early", "late"]}),
        ("mfas", "intermediate", {"architecture": "0-3-0/3-1-0"}),
    )
]


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        ("averaging", {}, "averaging"),
        ("mfas", {}, "mfas (architecture=0-3-0/3-1-0)"),
        ("mfas", {"architecture": "0-3-0/3-1-0"}, "mfas (architecture=0-3-0/3-1-0)"),
        ("msaf", {"points": ["early"]}, "msaf (min_attention=0.5, reduction=4, points=['early'])"),
        (
            "msaf",
            {"points": ["early", "late"], "reduction": 4},
            "msaf (min_attention=0.5, reduction=4, points=['early', 'late'])",
        ),
        ("msaf", {"reduction": 4, "min_attention": 0.5}, "msaf (min_attention=0.5, reduction=4)"),
        ("mmtm", {}, None),
        ("concat", {}, None),
        ("msaf", {"points": ["late"]}, None),
        ("msaf", {"block_dropout": None}, None),
        ("mfas", {"architecture": "0-3-0"}, None),
    ],
)
def test_a_row_is_found_by_its_method_and_some_of_its_options(
    method: str, options: dict[str, Any], name: str | None
) -> None:
    assert row_made_by(RECORDS, method, options) == name


def test_the_row_with_the_fewest_other_options_goes_first() -> None:
    """A task adds options of its own: what was typed as ``msaf`` is the row that has these alone."""
    assert row_made_by(RECORDS, "msaf", {}) == "msaf (min_attention=0.5, reduction=4)"
    assert row_made_by(RECORDS, "msaf", {"reduction": 4}) == "msaf (min_attention=0.5, reduction=4)"


def test_where_several_rows_fit_they_are_listed() -> None:
    placed = [record for record in RECORDS if record["options"] != MSAF]
    with pytest.raises(
        ResultError,
        match=r"^2 rows are of msaf, reduction=4: choose the reference from "
        r"\"msaf \(min_attention=0.5, reduction=4, points=\['early'\]\)\", \"msaf .*'late'\]\)\"$",
    ):
        row_made_by(placed, "msaf", {"reduction": 4})
    with pytest.raises(ResultError, match=r"^2 rows are of msaf: choose"):
        row_made_by(placed, "msaf", {})
