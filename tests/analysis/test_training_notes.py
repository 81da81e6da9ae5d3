"""Protects that a table says how its trainings began, learned and drew, where it is not as by default, and else nothing."""

from __future__ import annotations

from typing import Any

import pytest

from torchmsaf.analysis.training_notes import note_on_divergence, notes_on_training


def config(**changes: Any) -> dict[str, Any]:
    plain = {
        "data": {"modalities": {"rgb": [3, 8, 56, 56], "skeleton": [3, 32, 25, 2]}},
        "about": {"task": "action", "protocol": "cross-subject", "draw": "random"},
        "recipe": {"epochs": 2, "alternate": None},
    }
    return plain | changes


def drawn(draw: str, protocol: str) -> dict[str, Any]:
    return config(about={"task": "action", "protocol": protocol, "draw": draw})


@pytest.mark.parametrize(
    "plain",
    [
        {},
        config(),
        config(about=None, recipe=None, data=None, pretrained=None),
        # skeletons of a file have the persons that the file has
        config(about={"task": "action"}, data={"modalities": {"skeleton": [3, 32, 33, 4]}}),
        config(data={"modalities": {"rgb": [3, 8, 56, 56]}}),
    ],
)
def test_what_is_as_by_default_or_not_on_record_has_no_note(plain: dict[str, Any]) -> None:
    assert notes_on_training(plain) == []


@pytest.mark.parametrize(
    ("said", "note"),
    [
        (
            config(pretrained={"rgb": "f17", "skeleton": "212"}),
            "The networks of one modality, which are trained first, begin with given weights (--pretrained): rgb, skeleton.",
        ),
        (
            config(recipe={"alternate": True}),
            "Networks learned in turn, each from its own loss (--alternate), in intermediate rows that predict from the "
            "networks' own predictions. All other rows learned as without it, so rows are not trained alike.",
        ),
        (drawn("none", "cross-view"), "Nothing was drawn anew in training (--draw none)."),
        (drawn("none", "published"), "Nothing was drawn anew in training (--draw none)."),
        (
            drawn("published", "published"),
            "Training clips were drawn as the published code does (--draw published).",
        ),
        (
            drawn("random", "published"),
            "Training clips were drawn at random (--draw random), not as the published code does.",
        ),
        (
            config(data={"modalities": {"skeleton": [3, 32, 25, 1]}}),
            "Skeletons are of 1 person of a scene (--persons 1).",
        ),
        (
            config(data={"modalities": {"skeleton": [3, 32, 25, 3]}}),
            "Skeletons are of 3 persons of a scene (--persons 3).",
        ),
    ],
)
def test_what_is_not_as_by_default_is_told(said: dict[str, Any], note: str) -> None:
    assert notes_on_training(said) == [note]


def test_rows_and_starts_that_diverged_are_counted() -> None:
    record = {
        "method": "msaf",
        "stage": "intermediate",
        "modality": None,
        "options": {"reduction": 4},
        "diverged": True,
    }
    start = {**record, "method": "rgb", "stage": "start", "modality": "rgb", "options": {}}
    assert note_on_divergence([{**record, "diverged": False}]) == []
    assert note_on_divergence([record, record, start]) == [
        "Trainings whose loss became no finite number: msaf (reduction=4) (2), the start of every row from rgb (1). The "
        "best epoch before that was kept. A smaller --learning-rate may help."
    ]
