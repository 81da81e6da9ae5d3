"""Published numbers of NTU RGB+D beside a comparison: which rows meet, and that each number says how it came here."""

from __future__ import annotations

import re
from typing import Any

import pytest

from torchmsaf.analysis.published_actions import TABLE_3, build_published_actions
from torchmsaf.analysis.published_tables import NOT_COMPARED, Published
from torchmsaf.analysis.report import render_html, render_markdown, render_text
from torchmsaf.analysis.table import Table, build_table
from torchmsaf.errors import ResultError

ARGUMENTS: dict[str, Any] = {"title": "NTU", "protocol": "Subjects.", "score": "accuracy", "higher_is_better": True}
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rgb", "unimodal", {}),
    ("skeleton", "unimodal", {}),
    ("averaging", "late", {}),
    ("mmtm", "intermediate", {}),
    ("msaf", "intermediate", {"min_attention": 0.5}),
)


def make_table(rows: Any = ROWS, part: Any = "test", scores: dict[str, float] | None = None, **changes: Any) -> Table:
    told = scores or {"accuracy": 0.9, "loss": 1.0}
    records = [
        {
            "fold": 0,
            "seed": seed,
            "method": name,
            "stage": stage,
            "modality": name if stage == "unimodal" else None,
            "options": options,
            "validation": told,
            "test": {key: value + 0.02 * seed for key, value in told.items()},
            "train_size": 100,
            "validation_size": 20,
            "test_size": 25,
        }
        for name, stage, options in rows
        for seed in range(2)
    ]
    return build_table(records, **(ARGUMENTS | changes), part=part)


def both(**arguments: Any) -> tuple[Table, Published]:
    video = arguments.pop("video", "i3d")
    table = make_table(**arguments)
    published = build_published_actions(table, video=video)
    assert published is not None
    return table, published


@pytest.mark.parametrize(
    ("video", "mine", "not_mine"),
    [
        ("i3d", ["I3D", "HCN", "MMTM, I3D and HCN", "MSAF, I3D and HCN"], "MSAF, ResNet50 and HCN"),
        ("resnet50", ["Inflated ResNet50", "HCN", "MMTM, ResNet50 and HCN", "MSAF, ResNet50 and HCN"], "I3D"),
    ],
)
def test_rows_meet_by_name_and_by_the_network_of_the_frames(video: str, mine: list[str], not_mine: str) -> None:
    _, published = both(video=video)
    met = [(line.method, line.published.system) for line in published.rows if line.stage != NOT_COMPARED]
    assert met == list(zip(["rgb", "skeleton", "mmtm", "msaf (min_attention=0.5)"], mine, strict=True))
    assert not_mine in [line.method for line in published.rows if line.stage == NOT_COMPARED]
    assert len(published.rows) == len(TABLE_3)


def test_it_says_what_the_numbers_are_in_every_form() -> None:
    table, published = both(rows=(*ROWS, ("sgm", "intermediate", {}), ("pose_image", "system", {})))
    for text in (render_text(table, 9999, published=published), render_markdown(table, published=published)):
        assert "beside Table 3 of the MSAF paper" in text
        assert "the numbers stand beside each other and do not compare" in text
        assert "no number was read in the paper itself" in text
        assert "chosen on four of the twenty test subjects" in text
        assert "SGM-Net: ours is a stand-in" in text
        assert "PoseMap: ours is its pose image alone" in text
    assert "92.24" in render_html(table, published=published)
    _, fewer = both()
    assert not any("stand-in" in note or "pose image" in note for note in fewer.notes)


def test_our_scores_are_those_of_the_comparison() -> None:
    _, published = both()
    mean = published.rows[0].ours["accuracy"]
    assert mean is not None
    assert mean.mean == pytest.approx(0.91)


def test_a_recalled_number_is_marked_wherever_it_is_printed() -> None:
    table, published = both()
    for text in (render_text(table, 9999, published=published), render_html(table, published=published)):
        assert "91.99?" in text
        assert not re.search(r"91\.99(?!\?)", text)
        assert "92.24?" not in text


def test_no_row_of_the_paper_or_no_accuracy_gives_no_table() -> None:
    assert build_published_actions(make_table((("depth", "unimodal", {}), ("averaging", "late", {})))) is None
    assert build_published_actions(make_table(scores={"mae": 0.5}, score="mae")) is None


def test_validation_scores_and_other_networks_are_refused() -> None:
    with pytest.raises(ResultError, match=r"this table is of validation scores: build it of part 'test'"):
        build_published_actions(make_table(part="validation"))
    with pytest.raises(ResultError, match="video is 'i3d' or 'resnet50'"):
        build_published_actions(make_table(), video="vgg")  # type: ignore[arg-type]


def test_every_number_says_how_it_came_here() -> None:
    systems = [row.system for row in TABLE_3]
    assert len(set(systems)) == len(systems)
    for row in TABLE_3:
        assert bool(row.seen) == (row.status != "recalled")
        assert re.fullmatch(r"\d\d\.\d\d", row.accuracy)
        assert row.status != "released" or row.accuracy in row.seen
    for video in ("i3d", "resnet50"):
        methods = [method for row in TABLE_3 if row.video in (None, video) for method in row.methods]
        assert len(methods) == len(set(methods))
