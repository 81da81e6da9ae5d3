"""Protects the way into a layer's output and back: find and put are inverses, and nothing is changed in place."""

from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from tests.grafting.model_output import ModelOutput
from torchmsaf.errors import GraftError
from torchmsaf.grafting.values import default_path, element_path, find, logits_path, normal_path, put, said, tensors

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Output(ModelOutput):
    loss: Any = None
    last_hidden_state: Any = None
    hidden_states: Any = None
    logits: Any = None


class Plain:
    """Attributes and nothing else."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


@dataclass
class Record:
    hidden: Any
    other: Any = None


@dataclass(frozen=True)
class Frozen:
    hidden: Any
    other: Any = None


class Slots:
    __slots__ = ("hidden", "other")

    def __init__(self, hidden: Any, other: Any) -> None:
        self.hidden, self.other = hidden, other


def leaves() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.integers(0, 9).map(lambda n: torch.full((2, 3), float(n))),
        st.none(),
        st.just("text"),
        st.integers(1, 3).map(lambda n: pack_sequence([torch.randn(n, 2), torch.randn(1, 2)], enforce_sorted=False)),
    )


KEYS = st.sampled_from(["a", "b", "logits", "last_hidden_state", "0"])


def outputs() -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.lists(inner, min_size=1, max_size=3).map(tuple),
            st.builds(Pair, inner, inner),
            st.dictionaries(KEYS, inner, min_size=1, max_size=3),
            st.dictionaries(st.integers(0, 9), inner, min_size=1, max_size=3),
            st.builds(Output, last_hidden_state=inner, hidden_states=inner),
        ),
        max_leaves=8,
    )


def same(one: Any, other: Any) -> bool:
    """Equal in structure, with the very same leaves."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor | PackedSequence):
        return one is other
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dict__"):
        return same(vars(one), vars(other))
    return one == other


@given(outputs())
def test_put_what_find_gave_changes_nothing(output: Any) -> None:
    """At the place of every tensor of any nested output, put is the inverse of find."""
    for path, tensor in tensors(output):
        found = find(output, path, "x")
        assert found is tensor
        assert same(put(output, path, found), output)


@given(outputs())
def test_find_gives_what_was_put_and_all_else_is_as_it_was(output: Any) -> None:
    """The network goes on with the fused tensor at its place, and with its own at all others."""
    places = dict(tensors(output))
    for path in places:
        new = torch.randn(2, 3)
        changed = put(output, path, new)
        assert type(changed) is (type(output) if path else Tensor)
        assert find(changed, path, "x") is new
        now = dict(tensors(changed))
        assert all(now[other] is places[other] for other in places if other != path)


@given(outputs())
def test_put_changes_nothing_in_place(output: Any) -> None:
    """What a network holds of its layer's output, in a cache or a list, stays its own."""
    places = dict(tensors(output))
    for path in places:
        put(output, path, torch.randn(2, 3))
        now = dict(tensors(output))
        assert list(now) == list(places)
        assert all(now[other] is places[other] for other in places)


@given(outputs())
def test_the_default_path_leads_to_a_tensor(output: Any) -> None:
    """Where any tensor is, one is found without being asked for."""
    if any(True for _ in tensors(output)):
        assert isinstance(find(output, default_path(output, "x"), "x"), Tensor | PackedSequence)
    else:
        with pytest.raises(GraftError, match=r"x: no tensor in its output .*say which part with Tap\(.*element="):
            default_path(output, "x")


@pytest.mark.parametrize("kind", [Plain, Record, Frozen, Slots])
def test_plain_objects_are_copied_and_not_changed(kind: type) -> None:
    """An output with attributes gets another attribute in a copy; the object that the network made stays as it was."""
    old, new, other = torch.randn(2), torch.randn(2), object()
    output = kind(hidden=old, other=other)
    assert find(output, ("hidden",), "x") is old
    changed = put(output, ("hidden",), new)
    assert type(changed) is kind
    assert changed.hidden is new
    assert changed.other is other
    assert output.hidden is old


def test_a_path_goes_through_objects_mappings_and_tuples() -> None:
    """A tensor deep inside is replaced, with copies along the way alone."""
    inner = {"list": [torch.zeros(1), Pair(torch.zeros(2), torch.zeros(3))], "rest": object()}
    output = (Plain(states=inner, keep=1), torch.zeros(4))
    path = (0, "states", "list", 1, "second")
    new = torch.ones(3)
    changed = put(output, path, new)
    assert find(changed, path, "x") is new
    assert changed[1] is output[1]
    assert changed[0].states["rest"] is inner["rest"]
    assert inner["list"][1].second is not new


def test_a_model_output_has_the_new_value_as_key_attribute_and_index() -> None:
    """All three ways in which transformers' code reads an output see the fused tensor."""
    output = Output(last_hidden_state=torch.zeros(1), hidden_states=(torch.zeros(2), torch.zeros(3)))
    new = torch.ones(1)
    changed = put(output, ("last_hidden_state",), new)
    assert isinstance(changed, Output)
    assert changed.last_hidden_state is changed["last_hidden_state"] is changed[0] is new
    assert changed.hidden_states is output.hidden_states
    assert output.last_hidden_state is not new
    deeper = put(output, ("hidden_states", 1), new)
    assert deeper.hidden_states[1] is deeper["hidden_states"][1] is new
    assert output.hidden_states[1] is not new


def test_elements_are_said_by_index_name_or_from_the_end() -> None:
    """An index counts keys and fields; a negative one counts from the end; a name finds a key, a field or an attribute."""
    a, b = torch.zeros(1), torch.zeros(2)
    for output in ((a, b), [a, b], Pair(a, b), {"x": a, "y": b}, Output(last_hidden_state=a, logits=b)):
        assert find(output, (0,), "x") is a
        assert find(output, (1,), "x") is b
        assert find(output, (-1,), "x") is b
        changed = put(output, (-1,), a)
        assert find(changed, (1,), "x") is a
        assert len(changed) == 2
    assert find(Pair(a, b), ("second",), "x") is b
    assert put(Pair(a, b), ("second",), a) == Pair(a, a)


def test_a_mapping_with_numbers_as_keys_is_read_by_its_keys() -> None:
    """Feature pyramids are dicts by level; level 3 is the key 3."""
    a, b = torch.zeros(1), torch.zeros(2)
    output = {4: a, 1: b, 0: None}
    assert find(output, default_path(output, "x"), "x") is a
    assert find(output, (4,), "x") is a
    assert find(output, (1,), "x") is b
    assert put(output, (4,), b) == {4: b, 1: b, 0: None}


def test_what_torch_returns_is_read_by_index() -> None:
    """A pair that torch itself returns is a tuple."""
    output = torch.randn(3, 2).max(1)
    new = torch.zeros(3)
    changed = put(output, (0,), new)
    assert changed[0] is new
    assert changed[1] is output[1]
    assert find(output, ("values",), "x") is output[0]


def test_a_normal_path_is_as_tensors_writes_it() -> None:
    """However an element is said, its shape is found among the shapes that were seen."""
    a, b = torch.zeros(1), torch.zeros(2)
    output = {"x": Pair(a, b), "y": [a, (b, a)]}
    places = dict(tensors(output))
    for path in ((0, 1), ("x", "second"), ("x", -1), (-1, 1, 0), ("y", 1, 0), ("y", -1, 0)):
        assert places[normal_path(output, path, "x")] is b
    assert normal_path(output, (0, "first"), "x") == ("x", 0)


def test_the_default_is_the_tensor_the_preferred_key_or_the_first() -> None:
    """Hidden states come before logits, logits before whatever comes first, and things without tensors are passed over."""
    t = torch.zeros(1)
    assert default_path(t, "x") == ()
    assert default_path((t, t), "x") == (0,)
    assert default_path([None, (None, t)], "x") == (1, 1)
    assert default_path({"a": t, "logits": t}, "x") == ("logits",)
    assert default_path({"logits": t, "last_hidden_state": t}, "x") == ("last_hidden_state",)
    assert default_path({"logits": None, "a": [t]}, "x") == ("a", 0)
    assert default_path(Output(last_hidden_state=t, logits=t), "x") == ("last_hidden_state",)
    assert default_path(Output(loss=t, hidden_states=(t,)), "x") == ("loss",)


def test_a_packed_sequence_is_one_value() -> None:
    """It is a tuple to Python, and one sequence to the fusion."""
    packed = pack_sequence([torch.randn(3, 2), torch.randn(1, 2)])
    assert default_path(packed, "x") == ()
    assert default_path((packed, torch.zeros(1)), "x") == (0,)
    assert [path for path, _ in tensors({"a": packed})] == [("a",)]
    assert put((packed, 1), (0,), packed)[0] is packed


def test_an_element_that_is_said_is_taken_as_it_is() -> None:
    """One step or several."""
    assert element_path(2, None, "x") == (2,)
    assert element_path("a", None, "x") == ("a",)
    assert element_path(("a", 1), None, "x") == ("a", 1)
    assert element_path((), None, "x") == ()
    assert element_path(None, (None, torch.zeros(1)), "x") == (1,)


def test_the_prediction_is_the_tensor_the_logits_or_the_first() -> None:
    """What the head takes where nothing is said."""
    t = torch.zeros(1)
    assert logits_path(t, "x") == ()
    assert logits_path((t, None), "x") == (0,)
    assert logits_path([t], "x") == (0,)
    assert logits_path({"aux": t, "logits": t}, "x") == ("logits",)
    assert logits_path(Output(last_hidden_state=t, logits=t), "x") == ("logits",)
    assert logits_path(Plain(logits=t), "x") == ("logits",)


@pytest.mark.parametrize(
    "output",
    [
        {"a": torch.zeros(1)}, {"logits": None}, {}, (), [], (None, torch.zeros(1)), None, 3, "logits", Plain(a=1),
        Output(last_hidden_state=torch.zeros(1)), pack_sequence([torch.zeros(2, 1)]),
    ],
    ids=lambda output: said(output)[:30],
)  # fmt: skip
def test_a_network_without_a_clear_prediction_is_an_error_that_says_how_to_choose(output: Any) -> None:
    """Nothing is guessed for the head: the message says outputs= and head=None."""
    with pytest.raises(GraftError, match=r"network 'n': which part of its output .*outputs=.*head=None"):
        logits_path(output, "network 'n'")


@pytest.mark.parametrize(
    ("output", "path"),
    [
        ((torch.zeros(1),), (1,)), ((torch.zeros(1),), (-2,)), ([torch.zeros(1)], ("a",)), ({"a": 1}, ("b",)),
        ({"a": 1}, (1,)), (Pair(1, 2), ("third",)), (Plain(a=1), ("b",)), (Plain(a=1), (0,)), (None, (0,)),
        (3, ("a",)), ((1,), (0.5,)), ({"a": (1,)}, ("a", 3)), (torch.zeros(()), (0,)), (torch.zeros(2, 2), ("logits",)),
    ],
    ids=lambda value: repr(value) if isinstance(value, tuple) else said(value)[:30],
)  # fmt: skip
def test_an_element_that_is_not_there_is_an_error_that_says_what_is(output: Any, path: Any) -> None:
    """The message has the owner, what the output is, and the step that failed."""
    with pytest.raises(GraftError, match=r"network 'n', layer 'x': its output \(.+\) has no element"):
        find(output, path, "network 'n', layer 'x'")


@pytest.mark.parametrize("step", [0, -1, "T", "mean", "shape"])
def test_a_tensor_has_no_elements(step: int | str) -> None:
    """An index into a tensor is not the first sample, and a name is not one of its methods."""
    with pytest.raises(GraftError, match=r"x: its output \(tensor \(2, 3\)\) has no element"):
        find(torch.zeros(2, 3), (step,), "x")


def test_outputs_are_said_in_a_few_words() -> None:
    """Messages show shapes and keys, never numbers of a tensor."""
    t = torch.zeros(2, 3)
    assert said(t) == "tensor (2, 3)"
    assert said((t, None)) == "tuple of tensor (2, 3), NoneType"
    assert said({"a": t}) == "dict with a"
    assert said(Output(logits=t)) == "Output with logits"
    assert "packed" in said(pack_sequence([t]))
    assert said(Plain()) == "Plain"


def test_copies_of_outputs_are_shallow() -> None:
    """No tensor is copied to put another one beside it."""
    big = torch.zeros(1000)
    output = {"a": big, "b": [big, torch.zeros(1)]}
    before = copy.copy(output)
    changed = put(output, ("b", 1), torch.ones(1))
    assert changed["a"] is big
    assert changed["b"][0] is big
    assert output["b"] is before["b"]
