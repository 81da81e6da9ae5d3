"""Protects how methods are written on the command line."""

from __future__ import annotations

import pytest

from torchmsaf.errors import FusionInputError
from torchmsaf.experiments import MethodChoice, choose_methods, parse_method
from torchmsaf.fusion import METHODS


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("msaf", MethodChoice("msaf")),
        (
            "msaf:identity_start=true,block_dropout=0.2",
            MethodChoice("msaf", {"identity_start": True, "block_dropout": 0.2}),
        ),
        ("concat:hidden=[256,128],project=64", MethodChoice("concat", {"hidden": [256, 128], "project": 64})),
        ("concat:project=null", MethodChoice("concat", {"project": None})),
    ],
)
def test_parse(text: str, choice: MethodChoice) -> None:
    assert parse_method(text) == choice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("msaf:block_dropout", "expected name:option=value"),
        ("msaf:=3", "expected name:option=value"),
        ("msaf:a=[1", r"option 'a' cannot be read"),
        ("masf", r"did you mean 'msaf'\?"),
    ],
)
def test_what_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        parse_method(text)


def test_all_methods_by_default_and_by_name() -> None:
    every = [*METHODS, "msaf_identity_start=True"]
    assert [choice.key for choice in choose_methods(None, regression=False)] == every
    more = choose_methods(["all", "mmtm:gate_scale=2"], regression=False)
    assert [choice.key for choice in more] == [*every, "mmtm_gate_scale=2"]
    regression = {choice.name for choice in choose_methods(["all"], regression=True)}
    assert regression == {name for name, method in METHODS.items() if method.regression}


@pytest.mark.parametrize(
    ("modalities", "out"),
    [(1, {"film", "cross_attention"}), (2, set()), (6, {"weighted"}), (9, {"weighted", "mulmix"})],
)
def test_all_methods_are_those_that_take_so_many_modalities(modalities: int, out: set[str]) -> None:
    names = {choice.name for choice in choose_methods(["all"], regression=False, modalities=modalities)}
    assert names == set(METHODS) - out


def test_twice_and_unfit() -> None:
    with pytest.raises(FusionInputError, match="'msaf' is given twice"):
        choose_methods(["msaf", "averaging", "msaf"], regression=False)
    with pytest.raises(FusionInputError, match="'msaf' is given twice"):
        choose_methods(["all", "msaf"], regression=False)
    with pytest.raises(FusionInputError, match="'multiplication' is for classification"):
        choose_methods(["multiplication"], regression=True)


def test_keys_are_unlike_for_unlike_options() -> None:
    texts = [
        "msaf",
        "msaf:segments=2",
        "msaf:segments=3",
        "msaf:norm=layer",
        "concat:hidden=[1,2]",
        "concat:hidden=[12]",
    ]
    assert len({parse_method(text).key for text in texts}) == len(texts)


def test_numbers_with_an_exponent_are_numbers() -> None:
    assert parse_method("multiplicative:beta=1e-1").options == {"beta": 0.1}
    assert parse_method("embracenet:prior=[1e-3,1]").options == {"prior": [0.001, 1]}
    assert parse_method("msaf:norm=layer").options == {"norm": "layer"}


def test_an_option_given_twice() -> None:
    with pytest.raises(FusionInputError, match="option 'rank' is given twice"):
        parse_method("lmf:rank=2,rank=3")
