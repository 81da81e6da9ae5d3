"""Protects the list of methods: names, suggestions, errors, and that one line adds a method."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch

from torchmsaf import MSAF
from torchmsaf.errors import FusionInputError
from torchmsaf.fusion import METHODS, LateFusion, Method, create_fusion, find_method, list_fusions

LATE = ["averaging", "multiplication", "multiplicative", "voting", "weighted"]
EARLY = [
    *("concat", "mulmix", "compact_bilinear", "mcbp", "gmu", "embracenet", "tfn", "lmf", "dense"),
    *("self_attention", "cross_attention"),
]
INTERMEDIATE = ["se", "film", "mmtm", "centralnet", "mfas", "sgm", "mbt", "msaf"]


def test_the_methods_of_this_release() -> None:
    assert list(METHODS) == LATE + EARLY + INTERMEDIATE
    stages = ["late"] * len(LATE) + ["early"] * len(EARLY) + ["intermediate"] * len(INTERMEDIATE)
    assert [method.stage for method in list_fusions()] == stages
    classification = {method.name for method in list_fusions() if not method.regression}
    assert classification == {"multiplication", "multiplicative", "voting", "mulmix", "mfas"}
    assert {method.name for method in list_fusions() if method.fewest == 2} == {
        "film",
        "cross_attention",
        "mfas",
        "sgm",
    }
    assert [method.name for method in list_fusions() if method.tapped] == ["mfas"]


def test_how_many_modalities_in_words() -> None:
    words = {name: method.modalities for name, method in METHODS.items() if method.modalities != "1 or more"}
    assert words == {
        "weighted": "1 to 5",
        "mulmix": "1 to 8",
        "tfn": "1 to 21",
        "cross_attention": "2 or more",
        "film": "2 or more",
        "mfas": "2 or more",
        "sgm": "2 or more",
    }


def test_a_method_says_where_it_is_from_and_how_many_modalities_it_takes() -> None:
    for method in list_fusions():
        assert method.paper
        assert 1990 < method.year < 2030
        module = inspect.getdoc(sys.modules[method.build.__module__]) or ""
        assert str(method.year) in module, f"{method.name}: its file cites another paper"
        assert inspect.getdoc(method.build)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.most is not None])
def test_the_most_modalities_are_taken_and_one_more_is_an_error_that_says_why(name: str) -> None:
    method = METHODS[name]

    def build(count: int) -> None:
        arguments = {"modalities": count} if method.stage == "late" else {"widths": (2,) * count, "out_features": 2}
        with torch.device("meta"):
            create_fusion(name, **arguments)

    assert method.most is not None
    build(method.most)
    with pytest.raises(FusionInputError, match=f"^{name}: .*(modalities|widths)"):
        build(method.most + 1)


def test_create() -> None:
    assert isinstance(create_fusion("msaf", channels=(8, 16), block_dropout=0.2), MSAF)
    assert (
        create_fusion("averaging", modalities=2, regression=True)([torch.ones(1, 1), torch.zeros(1, 1)]).item() == 0.5
    )


@pytest.mark.parametrize(
    ("name", "hint"), [("mssaf", "(did you mean 'msaf'?)"), ("Concat", "(did you mean 'concat'?)")]
)
def test_a_close_name_is_suggested(name: str, hint: str) -> None:
    with pytest.raises(FusionInputError, match="no fusion method") as error:
        find_method(name)
    assert hint in str(error.value)
    assert f"there are: {', '.join(METHODS)}" in str(error.value)


def test_a_strange_name_gets_the_list_alone() -> None:
    with pytest.raises(FusionInputError, match=r"no fusion method 'xyz'; there are: averaging"):
        find_method("xyz")


def test_an_option_that_a_method_does_not_take_names_method_and_option() -> None:
    with pytest.raises(FusionInputError, match=r"msaf: .*'blok'"):
        create_fusion("msaf", channels=(8, 16), blok=3)
    with pytest.raises(FusionInputError, match=r"averaging: .*modalities"):
        create_fusion("averaging")


def test_an_error_begins_with_the_name_once() -> None:
    with pytest.raises(FusionInputError, match=r"^concat: project: "):
        create_fusion("concat", widths=(3, 4), out_features=2, project=-3)
    with pytest.raises(FusionInputError, match=r"^msaf: block_channels: "):
        create_fusion("msaf", channels=(8, 16), block_channels=0)


def test_an_error_that_begins_with_the_name_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise FusionInputError("first: no")

    monkeypatch.setitem(METHODS, "first", Method("first", "late", fails, "nobody", 2026))  # type: ignore[arg-type]
    with pytest.raises(FusionInputError, match=r"^first: no$"):
        create_fusion("first")


def test_a_new_method_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class First(LateFusion):
        def forward(self, logits, *, present=None):  # type: ignore[no-untyped-def]
            return self.read(logits, present)[0][0]

    monkeypatch.setitem(METHODS, "first", Method("first", "late", First, "nobody", 2026))
    x = torch.randn(2, 3)
    assert torch.equal(create_fusion("first", modalities=2)([x, -x]), x)
