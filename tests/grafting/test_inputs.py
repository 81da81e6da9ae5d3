"""Protects what goes into networks and comes out of layers: any arguments, any outputs, any element of them."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from tests.grafting.model_output import ModelOutput
from torchmsaf.errors import GraftError
from torchmsaf.grafting import FusionPoint, Tap, graft

Clip = namedtuple("Clip", ["frames", "rate"])


class Wrapped(nn.Module):
    """A layer that gives a convolution's map in whatever way it is told."""

    def __init__(self, wrap: Any, unwrap: Any) -> None:
        super().__init__()
        self.layer = Giving(wrap)
        self.unwrap = unwrap

    def forward(self, x: Tensor) -> Tensor:
        return self.unwrap(self.layer(x))


class Giving(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 1)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.conv(x))


@dataclass
class Hidden(ModelOutput):
    last_hidden_state: Any = None
    hidden_states: Any = None


@dataclass
class Record:
    hidden: Any
    name: str = "record"


class Doing:
    """A fusion that adds one, and remembers what it got."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(self, maps: list[Tensor]) -> list[Tensor]:
        self.maps = list(maps)
        return [m + 1 for m in maps]


def run(network: nn.Module, tap: str | Tap, value: Any, outputs: Any = None, *, example: bool = True) -> Any:
    """One network with one fusion that adds one: what it gives, and what the fusion got."""
    fusion = Doing()
    model = graft(
        {"n": network}, [FusionPoint({"n": tap}, fusion)], head=None if outputs is None else "sum",
        example={"n": value} if example else None, outputs=outputs,
    )  # fmt: skip
    return model({"n": value}), fusion


# what goes in


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor, y: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        z = x if y is None else x + y
        return self.layer(z * scale)


A, B = torch.randn(3, 2), torch.randn(3, 2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (A, A),
        ((A,), A),
        ((A, B), A + B),
        ({"x": A}, A),
        ({"x": A, "y": B, "scale": 2.0}, (A + B) * 2),
        (OrderedDict(y=B, x=A), A + B),
        (UserDict({"x": A, "scale": 3.0}), A * 3),
    ],
    ids=["tensor", "tuple of one", "tuple", "one keyword", "keywords", "ordered dict", "user dict"],
)
@pytest.mark.parametrize("example", [True, False])
def test_a_network_is_called_as_its_input_says(value: Any, expected: Tensor, example: bool) -> None:
    """A tuple is positional arguments, a mapping keyword arguments, anything else the argument."""
    found, fusion = run(Sum(), "layer", value, example=example)
    assert torch.equal(found["n"], expected + 1)
    assert torch.equal(fusion.maps[0], expected)


class Taking(nn.Module):
    """Takes one argument that is no tensor."""

    def __init__(self, take: Any) -> None:
        super().__init__()
        self.take = take
        self.layer = nn.Identity()

    def forward(self, value: Any) -> Tensor:
        return self.layer(self.take(value))


@pytest.mark.parametrize(
    ("take", "value"),
    [
        (lambda clip: clip.frames * clip.rate, Clip(A, 2.0)),
        (lambda parts: torch.stack(parts).sum(0), [A, B]),
        (lambda parts: torch.stack(parts).sum(0), ([A, B],)),
        (lambda record: record["x"] + record["y"], ({"x": A, "y": B},)),
        (lambda pair: pair[0] - pair[1], ((A, B),)),
        (lambda record: record.hidden, Record(A)),
        (lambda packed: pad_packed_sequence(packed, batch_first=True)[0], pack_sequence([A, B[:2]])),
        (lambda text: torch.tensor([[float(len(t))] for t in text]), ["one", "three"]),
    ],
    ids=["namedtuple", "list", "list in a tuple", "dict in a tuple", "pair in a tuple", "object", "packed", "strings"],
)
def test_one_argument_may_be_anything(take: Any, value: Any) -> None:
    """A namedtuple, a list, a packed sequence or an object is one argument; a dict or a tuple is one inside of a tuple."""
    network = Taking(take)
    expected = network(*value) if type(value) is tuple else network(value)
    found, _ = run(network, "layer", value)
    assert torch.equal(found["n"], expected + 1)


def test_a_network_without_arguments_is_called_with_none() -> None:
    """An empty tuple is no argument; a learned prompt is a network too."""

    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Parameter(torch.randn(3, 2))
            self.layer = nn.Identity()

        def forward(self) -> Tensor:
            return self.layer(self.embedding)

    network = Prompt()
    for value in ((), {}):
        found, _ = run(network, "layer", value)
        assert torch.equal(found["n"], network.embedding + 1)


def test_an_error_of_the_network_itself_says_which_network_it_was() -> None:
    """Wrong arguments stay the network's own error, with its name as a note, on the example and in a pass."""
    with pytest.raises(TypeError, match="unexpected keyword") as raised:
        run(Sum(), "layer", {"x": A, "z": B})
    assert any("network 'n'" in note and "example" in note for note in raised.value.__notes__)
    model = graft({"n": Sum()}, [FusionPoint({"n": "layer"}, Doing())], head=None, example={"n": A})
    with pytest.raises(RuntimeError) as raised_later:
        model({"n": (A, torch.randn(5, 7))})
    assert any("network 'n'" in note for note in raised_later.value.__notes__)


# what comes out of layers


WRAPS = {
    "tensor": (lambda z: z, lambda out: out),
    "tuple": (lambda z: (z, z * 0), lambda out: out[0]),
    "list": (lambda z: [z, None], lambda out: out[0]),
    "tuple with None first": (lambda z: (None, z), lambda out: out[1]),
    "dict": (lambda z: {"x": z, "y": 3}, lambda out: out["x"]),
    "hidden state first": (lambda z: {"pooled": 0 * z, "last_hidden_state": z}, lambda out: out["last_hidden_state"]),
    "namedtuple": (lambda z: Clip(z, 2), lambda out: out.frames),
    "model output": (lambda z: Hidden(last_hidden_state=z), lambda out: out.last_hidden_state),
    "model output by index": (lambda z: Hidden(last_hidden_state=z), lambda out: out[0]),
    "nested": (lambda z: ({"deep": [None, z]},), lambda out: out[0]["deep"][1]),
}  # fmt: skip


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("case", WRAPS.values(), ids=WRAPS)
def test_the_default_element_of_any_output_is_fused(case: Any, example: bool) -> None:
    """The network goes on with the fused tensor in the place where it looks for it."""
    network, x = Wrapped(*case), torch.randn(3, 2, 5)
    found, fusion = run(network, "layer", x, example=example)
    torch.testing.assert_close(found["n"], network.layer.conv(x) + 1)
    assert fusion.maps[0].shape == (3, 4, 5)


ELEMENTS = {
    "index": (1, lambda z: (z * 0, z), lambda out: out[1]),
    "index from the end": (-1, lambda z: (z * 0, z), lambda out: out[1]),
    "index of a list": (1, lambda z: [z * 0, z], lambda out: out[1]),
    "index from the end of a list": (-1, lambda z: [z * 0, z], lambda out: out[1]),
    "key": ("b", lambda z: {"a": z * 0, "b": z}, lambda out: out["b"]),
    "index of a mapping": (1, lambda z: {"a": z * 0, "b": z}, lambda out: out["b"]),
    "field": ("frames", lambda z: Clip(z, z * 0), lambda out: out.frames),
    "key of a model output": (
        ("hidden_states", -1), lambda z: Hidden(z * 0, (z * 0, z)), lambda out: out.hidden_states[1],
    ),
    "path": ((1, "x", 0), lambda z: (None, {"x": [z]}), lambda out: out[1]["x"][0]),
    "attribute": ("hidden", lambda z: Record(z), lambda out: out.hidden),
    "attribute in a tuple": ((1, "hidden"), lambda z: (z * 0, Record(z)), lambda out: out[1].hidden),
    "number as key": (4, lambda z: {3: z * 0, 4: z}, lambda out: out[4]),
}  # fmt: skip


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("case", ELEMENTS.values(), ids=ELEMENTS)
def test_the_element_that_is_said_is_fused(case: Any, example: bool) -> None:
    """By index, key, field, attribute, or a path of them; with an example and without."""
    element, wrap, unwrap = case
    network, x = Wrapped(wrap, unwrap), torch.randn(3, 2, 5)
    found, fusion = run(network, Tap("layer", element=element), x, example=example)
    torch.testing.assert_close(found["n"], network.layer.conv(x) + 1)
    torch.testing.assert_close(fusion.maps[0], network.layer.conv(x))


def test_two_elements_of_one_layer_are_fused_at_two_points() -> None:
    """Each has its own place in the output."""
    network = Wrapped(lambda z: (z, z * 2), lambda out: out[0] - out[1])
    x = torch.randn(3, 2, 5)
    points = [
        FusionPoint({"n": Tap("layer", element=0)}, lambda maps: [maps[0] + 1]),
        FusionPoint({"n": Tap("layer", element=1)}, lambda maps: [maps[0] * 10]),
    ]
    found = graft({"n": network}, points, head=None, example={"n": x})({"n": x})["n"]
    z = network.layer.conv(x)
    torch.testing.assert_close(found, z + 1 - z * 20)


def test_the_hidden_state_of_a_recurrent_layer_can_be_fused() -> None:
    """The last state ``(1, B, C)`` is said by path and layout."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[1][0][0]

    network, x = Last(), torch.randn(3, 5, 2)
    alone = network(x)
    found, fusion = run(network, Tap("lstm", element=(1, 0), layout="TBC"), x)
    assert torch.equal(found["n"], alone + 1)
    assert fusion.maps[0].shape == (3, 4, 1)


class Packed(nn.Module):
    """A recurrent layer on a packed sequence."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 4, **options)

    def forward(self, x: PackedSequence) -> Tensor:
        return pad_packed_sequence(self.gru(x)[0], batch_first=True)[0]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("lengths", [(5, 3, 1), (1, 5, 3), (4, 4), (1,)], ids=str)
def test_a_packed_sequence_comes_back_in_its_own_order(lengths: tuple[int, ...], batch_first: bool) -> None:
    """The fusion has ``(B, C, T)`` in the user's order, and the network goes on with a packed sequence as before."""
    network = Packed(batch_first=batch_first)
    packed = pack_sequence([torch.randn(n, 2) for n in lengths], enforce_sorted=False)
    alone = network(packed)
    seen: list[Tensor] = []

    def fusion(maps: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        seen.extend([maps[0], masks[0]])
        numbers = torch.arange(len(lengths)).view(-1, 1, 1)
        return [maps[0] + numbers]

    model = graft({"n": network}, [FusionPoint({"n": "gru"}, fusion)], head=None, example={"n": packed})
    found = model({"n": packed})["n"]
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(seen[0], alone.transpose(1, 2))
    assert torch.equal(seen[1], real)
    expected = torch.where(real[..., None], alone + torch.arange(len(lengths)).view(-1, 1, 1), 0)
    torch.testing.assert_close(found, expected)


def test_a_fusion_that_works_in_place_changes_a_packed_sequence_too() -> None:
    """What a fusion did to its map is what the network goes on with, however the map was read."""

    def double(maps: list[Tensor], masks: Any) -> list[Tensor]:
        return [maps[0].mul_(2)]

    network = Packed()
    packed = pack_sequence([torch.randn(3, 2), torch.randn(2, 2)])
    with torch.no_grad():
        alone = network(packed)
        found = graft({"n": network}, [FusionPoint({"n": "gru"}, double)], head=None)({"n": packed})["n"]
    torch.testing.assert_close(found, alone * 2)


@pytest.mark.parametrize("layout", ["BCT", "BTC", "TBC"])
def test_a_fusion_that_works_in_place_changes_what_the_network_goes_on_with(layout: str) -> None:
    """For each layout the map is a view of the layer's output."""
    x = torch.randn(3, 4, 5)
    with torch.no_grad():
        model = graft(
            {"n": nn.Sequential(nn.Dropout(0.0), nn.Identity())},
            [FusionPoint({"n": Tap("0", layout=layout)}, lambda maps: [m.mul_(2) for m in maps])],
            head=None,
        )
        assert torch.equal(model({"n": x.clone()})["n"], x * 2)


# what goes to the head


class Giver(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 4)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.fc(x))


PREDICTIONS = {
    "tensor": (None, lambda z: z),
    "tuple": (None, lambda z: (z, z * 0)),
    "list": (None, lambda z: [z]),
    "logits": (None, lambda z: {"aux": z * 0, "logits": z}),
    "attribute": (None, lambda z: type("Out", (), {"logits": z})()),
    "index": (1, lambda z: (z * 0, z)),
    "last": (-1, lambda z: (z * 0, z)),
    "key": ("out", lambda z: {"logits": z * 0, "out": z}),
    "index of a mapping": (0, lambda z: {"out": z}),
    "path": (("heads", 1), lambda z: {"heads": (None, z)}),
    "model output": ("last_hidden_state", lambda z: Hidden(z)),
    "object": ("hidden", lambda z: Record(z)),
}


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("case", PREDICTIONS.values(), ids=PREDICTIONS)
def test_the_prediction_goes_to_the_head(case: Any, example: bool) -> None:
    """The tensor, the logits or the first of a tuple; else what ``outputs`` says."""
    said, wrap = case
    one, two, x = Giver(wrap), nn.Linear(2, 4), torch.randn(3, 2)
    model = graft(
        {"a": one, "b": two}, [FusionPoint({"a": "fc", "b": ""}, lambda maps: maps)],
        example={"a": x, "b": x} if example else None, outputs=None if said is None else {"a": said},
    )  # fmt: skip
    torch.testing.assert_close(model({"a": x, "b": x}), one.fc(x) + two(x))


def test_without_a_head_the_networks_outputs_are_as_they_give_them() -> None:
    """In the order of the networks, whole, with all that is in them."""
    x = torch.randn(3, 2)
    networks = {"b": Giver(lambda z: {"out": z, "n": 1}), "a": Giver(lambda z: (z, "text"))}
    model = graft(
        networks, [FusionPoint({"a": "fc", "b": "fc"}, lambda maps: maps)], head=None, example={"a": x, "b": x}
    )
    found = model({"a": x, "b": x})
    assert list(found) == ["b", "a"]
    assert found["b"]["n"] == 1
    assert found["a"][1] == "text"


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize(
    ("wrap", "said", "words"),
    [
        (lambda z: {"out": z}, None, r"network 'a': which part of its output \(dict with out\).*outputs=.*head=None"),
        (lambda z: (z,), 1, r"network 'a': its output \(tuple of tensor \(3, 4\)\) has no element 1"),
        (lambda z: {"out": z}, "logits", r"network 'a': its output \(dict with out\) has no element 'logits'"),
        (lambda z: {"out": (z, z)}, "out", r"(?s)network 'a'.*(tuple|tensor)"),
        (lambda z: z, 0, r"network 'a': its output \(tensor \(3, 4\)\) has no element 0"),
        (lambda z: z, "mean", r"network 'a': its output \(tensor \(3, 4\)\) has no element 'mean'"),
        (lambda z: {"out": None}, "out", r"(?s)network 'a'.*(None|tensor)"),
    ],
    ids=["nothing said", "no such index", "no such key", "a tuple of tensors", "into a tensor", "a method", "None"],
)
def test_what_is_no_prediction_is_an_error_with_the_network(wrap: Any, said: Any, words: str, example: bool) -> None:
    """At graft time with an example, else in the first pass; never an AttributeError, never the first sample alone."""
    networks, x = {"a": Giver(wrap), "b": nn.Linear(2, 4)}, torch.randn(3, 2)
    inputs = {"a": x, "b": x}
    outputs = None if said is None else {"a": said}
    with pytest.raises(GraftError, match=words):  # noqa: PT012
        model = graft(
            networks, [FusionPoint({"a": "fc"}, lambda maps: maps)],
            example=inputs if example else None, outputs=outputs,
        )  # fmt: skip
        assert not example
        model(inputs)


def test_outputs_of_one_network_leave_the_others_as_they_are() -> None:
    """What is said of one is not said of all."""
    x = torch.randn(3, 2)
    networks = {"a": Giver(lambda z: (z * 0, z)), "b": Giver(lambda z: (z, z * 0))}
    points = [FusionPoint({"a": "fc", "b": "fc"}, lambda maps: maps)]
    model = graft(networks, points, example={"a": x, "b": x}, outputs={"a": 1})
    torch.testing.assert_close(model({"a": x, "b": x}), networks["a"].fc(x) + networks["b"].fc(x))


def test_the_whole_network_can_be_tapped() -> None:
    """The tap ``""`` fuses what the network gives, in its place in the output, before the head."""
    x = torch.randn(3, 2)
    network = Giver(lambda z: {"aux": 1, "logits": z})
    found, _ = run(network, "", x, {"n": "logits"})
    torch.testing.assert_close(found, network.fc(x) + 1)


def test_networks_of_nothing_but_a_whole_tap_fuse_plain_features() -> None:
    """Identities are networks: features that come from elsewhere are fused as they are."""
    networks = {"a": nn.Identity(), "b": nn.Identity()}
    inputs = {"a": torch.randn(4, 8), "b": torch.randn(4, 8)}
    model = graft(networks, [FusionPoint({"a": "", "b": ""}, "msaf")], head=None, example=inputs)
    expected = model.fusions[0].eval()([inputs["a"], inputs["b"]])
    found = model({name: value.clone() for name, value in inputs.items()})
    assert all(torch.equal(found[name], value) for name, value in zip("ab", expected, strict=True))
