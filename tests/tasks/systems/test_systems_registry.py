"""Protects the list of published models: names, suggestions, errors, and that one line adds a model."""

from __future__ import annotations

import inspect
import sys

import pytest

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.systems import SYSTEMS, SystemEntry, create_system, find_system, list_systems
from torchmsaf.tasks.systems.tfn_network import TFNNetwork

SHAPES = {"video": (5, 6), "audio": (4, 6), "text": (7, 6)}


def test_a_model_says_where_it_is_from() -> None:
    assert {"tfn_network", "lmf_network", "misa"} <= set(SYSTEMS)
    for entry in list_systems():
        assert entry.paper
        assert 2010 < entry.year < 2030
        module = inspect.getdoc(sys.modules[entry.build.__module__]) or ""
        assert str(entry.year) in module, f"{entry.name}: its file cites another paper"
        assert inspect.getdoc(entry.build)
        assert entry.regression or entry.classification


def test_create_takes_options_of_the_class() -> None:
    system = create_system("tfn_network", SHAPES, 1, audio=3, text_out=5)
    assert isinstance(system, TFNNetwork)
    assert system.encoders.audio.norm.num_features == 4
    assert system.encoders.text.out_features == 5


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(
        FusionInputError, match=r"no published model 'missa' \(did you mean 'misa'\?\); there are: tfn_n"
    ):
        find_system("missa")
    with pytest.raises(FusionInputError, match=r"no published model 'xyz'; there are: tfn_network"):
        create_system("xyz", SHAPES, 1)


def test_an_option_that_a_model_does_not_take_names_model_and_option() -> None:
    with pytest.raises(FusionInputError, match=r"^misa: .*'hiden'; its arguments are: hid"):
        create_system("misa", SHAPES, 1, hiden=3)


def test_an_error_begins_with_the_name_once() -> None:
    with pytest.raises(FusionInputError, match=r"^lmf_network: rank: expected an integer of at least 1, got 0"):
        create_system("lmf_network", SHAPES, 1, rank=0)


def test_a_model_that_does_not_fit_the_task_names_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    values = SystemEntry("values", TFNNetwork, "nobody", 2026, classification=False)
    classes = SystemEntry("classes", TFNNetwork, "nobody", 2026, regression=False)
    monkeypatch.setitem(SYSTEMS, "values", values)
    monkeypatch.setitem(SYSTEMS, "classes", classes)
    with pytest.raises(FusionInputError, match=r"^values: it is not for classification; use one of tfn_.*, classes$"):
        create_system("values", SHAPES, 3, kind="classification")
    with pytest.raises(FusionInputError, match=r"^classes: it is not for sentiment; use one of tfn_.*, values$"):
        create_system("classes", SHAPES, 1)
