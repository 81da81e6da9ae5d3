"""Protects the natural order of names, which decides the class index and the test groups of each fold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.data.natural_order import natural_key, natural_sorted


def test_numbers_sort_by_value_and_before_names() -> None:
    assert natural_sorted(["10", "b", "9", "-1", "2.5", "a", "2"]) == ("-1", "2", "2.5", "9", "10", "a", "b")


def test_digits_inside_names_sort_by_value() -> None:
    assert natural_sorted(["actor10", "actor2", "actor1b", "actor1"]) == ("actor1", "actor1b", "actor2", "actor10")


def test_names_come_once() -> None:
    assert natural_sorted(["b", "a", "b"]) == ("a", "b")


@given(st.lists(st.text(alphabet="ab01.-9", max_size=6)))
def test_the_order_does_not_depend_on_the_input_order(names: list[str]) -> None:
    assert natural_sorted(names) == natural_sorted(reversed(names))


@given(st.text(), st.text())
def test_different_names_have_different_keys(first: str, second: str) -> None:
    assert (natural_key(first) == natural_key(second)) == (first == second)
