"""Protects how methods are written on the command line."""

from __future__ import annotations

import pytest

from torchmsaf.errors import FusionInputError
from torchmsaf.experiments import MethodChoice, choose_methods, parse_method
from torchmsaf.experiments.methods import fitting_methods
from torchmsaf.fusion import METHODS
from torchmsaf.tasks.systems import SYSTEMS, SystemEntry


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
    [(1, {"film", "cross_attention", "mfas", "sgm"}), (2, set()), (6, {"weighted"}), (9, {"weighted", "mulmix"})],
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


# published models

NAMES = ("video", "audio", "text")


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_published_model_is_a_method_by_name_and_a_stage_of_its_own(name: str) -> None:
    assert parse_method(f"{name}:width=8") == MethodChoice(name, {"width": 8})
    assert MethodChoice(name).stage == "system"
    assert MethodChoice(name, {"width": 8}).key == f"{name}_width=8"
    assert MethodChoice("msaf").stage == "intermediate"
    assert name not in METHODS  # or one of the two could not be asked for


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missa", r"no fusion method 'missa' \(did you mean 'misa'\?\); there are: .*msaf.*, tfn_network, .*, misa"),
        ("dcca_onestep:width=3", r"did you mean 'dcca_one_step'\?"),
        ("tfn_netwrok", r"did you mean 'tfn_network'\?"),
        ("tnf", r"did you mean 'tfn'\?"),
        ("xyz", r"no fusion method 'xyz'; there are: "),
    ],
)
def test_a_published_model_can_be_what_was_meant(text: str, message: str) -> None:
    with pytest.raises(FusionInputError, match=message):
        parse_method(text)


@pytest.mark.parametrize("regression", [False, True])
def test_all_has_published_models_where_they_can_be_trained(regression: bool) -> None:
    without = [choice.key for choice in choose_methods(["all"], regression=regression, modalities=3)]
    assert not set(without) & set(SYSTEMS)
    able = [name for name, one in SYSTEMS.items() if one.takes(NAMES) and (one.regression or not regression)]
    assert able
    found = choose_methods(None, regression=regression, modalities=3, named=NAMES)
    assert [choice.key for choice in found] == [*without, *able]
    two = choose_methods(None, regression=regression, modalities=2, named=NAMES[:2])
    assert not {choice.name for choice in two} & set(SYSTEMS)  # they are made for three
    actions = choose_methods(None, regression=regression, modalities=2, named=("rgb", "skeleton"))
    assert [choice.name for choice in actions if choice.stage == "system"] == [] if regression else ["pose_image"]
    more = choose_methods(["all", "misa:hidden=8"], regression=regression, named=NAMES)
    assert more[-1] == MethodChoice("misa", {"hidden": 8})


def test_a_published_model_twice_or_of_another_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FusionInputError, match="'misa' is given twice"):
        choose_methods(["misa", "msaf", "misa"], regression=True)
    with pytest.raises(FusionInputError, match="'mfm' is given twice"):
        choose_methods(["all", "mfm"], regression=True, named=NAMES)
    entry = SYSTEMS["misa"]
    monkeypatch.setitem(SYSTEMS, "misa", SystemEntry("misa", entry.build, entry.paper, entry.year, regression=False))
    for regression in (False, True):
        names = [choice.name for choice in choose_methods(["all"], regression=regression, named=NAMES)]
        assert ("misa" in names) == (not regression)
    with pytest.raises(FusionInputError, match="'misa' is for classification, and the target is a number"):
        choose_methods(["misa"], regression=True)


def test_lists_of_lists_are_read() -> None:
    choice = parse_method("mfas:architecture=[[3,0,0],[1,3,0]],inner=16")
    assert choice.options == {"architecture": [[3, 0, 0], [1, 3, 0]], "inner": 16}


BODY, SENSOR = (3, 32, 25, 2), (6, 20)
BONES = "bones are those of NTU RGB+D's 25 joints, and these skeletons have 17: give bones, pairs of joints"


def test_methods_that_fit_are_told_from_those_that_do_not() -> None:
    """What ``all`` and the shipped defaults leave out is on record with its reason."""
    shipped = ["averaging", "film", "pose_image", "msaf"]

    def told(
        texts: list[str], shapes: dict[str, tuple[int, ...]], named: bool = True
    ) -> tuple[set[str], dict[str, list[str]]]:
        chosen, left_out = fitting_methods(texts, shapes, shipped=not named)
        return {choice.name for choice in chosen}, left_out

    both, other = {"skeleton": BODY, "imu": SENSOR}, {"skeleton": (3, 32, 17, 2), "imu": SENSOR}
    assert told(shipped, both, named=False) == (set(shipped), {})
    assert told(shipped, other, named=False) == ({"averaging", "film", "msaf"}, {BONES: ["pose_image"]})
    alone = {"there is one modality": ["averaging", "film", "msaf"]}
    assert told(shipped, {"skeleton": BODY}, named=False) == ({"pose_image"}, alone)
    assert told(shipped, {"rgb": BODY}, named=False) == (set(), {**alone, "the data have rgb": ["pose_image"]})
    assert told(["all"], both) == ({*METHODS, "pose_image"}, {})
    assert told(["all"], other) == (set(METHODS), {BONES: ["pose_image"]})
    many = {"skeleton": BODY} | {f"imu{k}": SENSOR for k in range(5)}
    assert told(["all"], many)[1] == {"there are 6 modalities": ["weighted"]}
    # who names a method is told by its own error, and not by silence
    assert told(["film", "pose_image"], {"skeleton": other["skeleton"]}) == ({"film", "pose_image"}, {})
    bones = "pose_image:bones=[[1,0],[2,1]]"
    assert [one.name for one in fitting_methods([bones], other)[0]] == ["pose_image"]
    assert "film" not in told(["all", "film"], {"skeleton": BODY})[1].get("there is one modality", [])
