"""Protects the order of points: met as the networks come to them, deadlocks said before anything trains, none invented."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from torchmsaf.errors import GraftError
from torchmsaf.grafting import FusionPoint, Tap, graft


class Chain(nn.Module):
    """Layers that run one after the other, in an order of their own."""

    def __init__(self, *order: str) -> None:
        super().__init__()
        self.order = order
        for name in sorted(set(order)):
            self.add_module(name, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def x(*names: str, rows: int = 2) -> dict[str, Tensor]:
    return {name: torch.randn(rows, 3) for name in names}


def noting(met: list[int], number: int) -> Callable[[list[Tensor]], list[Tensor]]:
    def fusion(maps: list[Tensor]) -> list[Tensor]:
        met.append(number)
        return maps

    return fusion


def pair(one: str, other: str, met: list[int], number: int) -> FusionPoint:
    return FusionPoint({"a": one, "b": other}, noting(met, number))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_points_are_met_as_the_networks_come_to_them(order: Sequence[int]) -> None:
    """The order in which points are declared says nothing; the networks' own forward does."""
    met: list[int] = []
    layers = "pqr"
    points = [pair(layers[stage], layers[stage], met, stage) for stage in order]
    networks = {"a": Chain("p", "q", "r"), "b": Chain("p", "q", "r")}
    graft(networks, points, example=x("a", "b"))(x("a", "b"))
    assert met == [0, 1, 2]


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a")], ids=str)
def test_the_order_of_networks_changes_no_meeting(order: tuple[str, ...]) -> None:
    """Whoever runs first waits for the others."""
    met: list[int] = []
    points = [
        FusionPoint({"c": "q", "a": "q"}, noting(met, 0)),
        FusionPoint({"a": "p", "b": "p", "c": "p"}, noting(met, 1)),
        FusionPoint({"b": "q", "c": "r"}, noting(met, 2)),
    ]
    networks = {name: Chain("p", "q", "r") for name in order}
    graft(networks, points, example=x(*order))(x(*order))
    assert met == [1, 0, 2]


def test_two_networks_that_wait_for_each_other_are_an_error_at_graft_time() -> None:
    """The message has both networks, both layers and both points; nobody waits for a hang in training."""
    met: list[int] = []
    points = [pair("p", "q", met, 0), pair("q", "p", met, 1)]
    networks = {"a": Chain("p", "q"), "b": Chain("p", "q")}
    words = (
        r"cannot be met in any order.*'a' waits at point 0 \(layer 'p'\), then comes to point 1 \(layer 'q'\); "
        r"'b' waits at point 1 \(layer 'p'\), then comes to point 0 \(layer 'q'\)"
    )
    with pytest.raises(GraftError, match=words):
        graft(networks, points, example=x("a", "b"))
    assert not met


def test_three_networks_in_a_ring_are_an_error_at_graft_time() -> None:
    """No two of them wait for each other directly, and all three are named."""
    points = [
        FusionPoint({"a": "p", "c": "q"}, lambda maps: maps),
        FusionPoint({"b": "p", "a": "q"}, lambda maps: maps),
        FusionPoint({"c": "p", "b": "q"}, lambda maps: maps),
    ]
    networks = {name: Chain("p", "q") for name in "abc"}
    words = (
        r"'a' waits at point 0 \(layer 'p'\).*'b' waits at point 1 \(layer 'p'\).*'c' waits at point 2 \(layer 'p'\)"
    )
    with pytest.raises(GraftError, match=words):
        graft(networks, points, example=x("a", "b", "c"))


def test_the_order_that_runs_counts_and_not_the_one_of_the_attributes() -> None:
    """A network may name its layers in another order than it runs them."""
    met: list[int] = []
    points = [pair("p", "q", met, 0), pair("q", "p", met, 1)]
    graft({"a": Chain("p", "q"), "b": Chain("q", "p")}, points, example=x("a", "b"))(x("a", "b"))
    assert met == [0, 1]


def test_without_an_example_a_deadlock_is_an_error_in_the_first_forward_pass() -> None:
    """It is said who waits and for whom, and the networks work on their own afterwards."""
    met: list[int] = []
    points = [pair("p", "q", met, 0), pair("q", "p", met, 1)]
    networks = {"a": Chain("p", "q"), "b": Chain("p", "q")}
    model = graft(networks, points)
    words = r"point 0: waiting for network 'b', layer 'q', which did not come; there: network 'a', layer 'p'\. .*order"
    for _ in range(2):
        with pytest.raises(GraftError, match=words):
            model(x("a", "b"))
    values = x("a")["a"]
    assert torch.equal(networks["a"](values), values)


@st.composite
def meetings(draw: st.DrawFn) -> tuple[dict[str, list[int]], list[int]]:
    """Points in the order in which each network comes to them, and the order in which they are declared."""
    count = draw(st.integers(1, 4))
    names = "abcd"[: draw(st.integers(1, 4))]
    comes = {name: draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count)) for name in names}
    used = sorted({point for points in comes.values() for point in points})
    return comes, draw(st.permutations(used))


def can_be_met(comes: dict[str, list[int]]) -> bool:
    """Whether any order of all points agrees with every network's, by trying all."""
    used = sorted({point for points in comes.values() for point in points})
    return any(
        all([point for point in order if point in points] == points for points in comes.values())
        for order in itertools.permutations(used)
    )


@given(meetings())
def test_a_deadlock_is_said_if_and_only_if_there_is_one(case: tuple[dict[str, list[int]], list[int]]) -> None:
    """Networks that are not at every point do not wait for points of others; compared with all orders tried out."""
    comes, declared = case
    if not declared:
        return
    met: list[int] = []
    networks = {name: Chain(*[f"l{point}" for point in order]) for name, order in comes.items()}
    points = [
        FusionPoint({name: f"l{point}" for name, order in comes.items() if point in order}, noting(met, point))
        for point in declared
    ]
    if not can_be_met(comes):
        with pytest.raises(GraftError, match="cannot be met in any order"):
            graft(networks, points, example=x(*comes))
        assert not met
        model = graft(networks, points)
        with pytest.raises(GraftError, match="did not come"):
            model(x(*comes))
        return
    for example in (None, x(*comes)):
        met.clear()
        graft(networks, points, example=example)(x(*comes))
        assert sorted(met) == sorted(declared)
        assert all([point for point in met if point in order] == order for order in comes.values())


@given(meetings(), st.data())
def test_a_missing_network_is_waited_for_by_nobody(
    case: tuple[dict[str, list[int]], list[int]], data: st.DataObject
) -> None:
    """With any of the modalities None, the others meet at their points as ever."""
    comes, declared = case
    if not declared or not can_be_met(comes):
        return
    met: list[int] = []

    def fusion(point: int) -> Callable[..., list[Tensor]]:
        def fuse(maps: list[Tensor], present: Tensor | None = None) -> list[Tensor]:
            met.append(point)
            return maps

        return fuse

    networks = {name: Chain(*[f"l{point}" for point in order]) for name, order in comes.items()}
    points = [
        FusionPoint({name: f"l{point}" for name, order in comes.items() if point in order}, fusion(point))
        for point in declared
    ]
    runs = data.draw(st.sets(st.sampled_from(sorted(comes)), min_size=1))
    inputs = {name: value if name in runs else None for name, value in x(*comes).items()}
    graft(networks, points, example=x(*comes))(inputs)
    assert sorted(met) == sorted({point for name in runs for point in comes[name]})


def test_one_layer_at_two_points_is_fused_twice_in_the_order_of_the_points() -> None:
    """The second fusion gets what the first one made."""
    for swap in (False, True):
        points = [
            FusionPoint({"a": "p", "b": "p"}, lambda maps: [m + 1 for m in maps]),
            FusionPoint({"a": "p", "b": "p"}, lambda maps: [m * 2 for m in maps]),
        ]
        inputs = x("a", "b")
        networks = {"a": Chain("p"), "b": Chain("p")}
        found = graft(networks, points[::-1] if swap else points, head=None, example=inputs)(inputs)
        for name in "ab":
            assert torch.equal(found[name], inputs[name] * 2 + 1 if swap else (inputs[name] + 1) * 2)


def test_one_fusion_point_said_twice_is_two_fusions_of_their_own() -> None:
    """A method given by name is built once a place in the list."""
    point = FusionPoint({"a": "p"}, "msaf", norm="layer", block_channels=2, reduction=1)
    model = graft({"a": Chain("p")}, [point, point], example=x("a"))
    assert model.fusions[0] is not model.fusions[1]


def test_one_module_at_two_points_shares_its_weights() -> None:
    """A fusion that is given as a module is used where it is given."""
    fusion = nn.Module()
    fusion.scale = nn.Parameter(torch.tensor(3.0))
    fusion.forward = lambda maps: [m * fusion.scale for m in maps]  # type: ignore[method-assign]
    inputs = x("a")
    model = graft({"a": Chain("p", "q")}, [FusionPoint({"a": "p"}, fusion), FusionPoint({"a": "q"}, fusion)], head=None)
    torch.testing.assert_close(model(inputs)["a"], inputs["a"] * 9)
    assert len(list(model.fusion_parameters())) == 1


def test_one_network_at_several_points_with_different_partners() -> None:
    """A hub network is fused with one neighbour after the other."""
    points = [
        FusionPoint({"a": "p", "b": "p"}, lambda maps: [maps[0] + maps[1], maps[1]]),
        FusionPoint({"a": "q", "c": "p"}, lambda maps: [maps[0] * maps[1], maps[0]]),
    ]
    inputs = x("a", "b", "c")
    networks = {"a": Chain("p", "q"), "b": Chain("p"), "c": Chain("p")}
    found = graft(networks, points, head=None, example=inputs)(inputs)
    joined = inputs["a"] + inputs["b"]
    assert torch.equal(found["a"], joined * inputs["c"])
    assert torch.equal(found["b"], inputs["b"])
    assert torch.equal(found["c"], joined)


def test_the_maps_come_in_the_order_of_the_taps() -> None:
    """Not in that of the networks, nor in that of arrival."""
    seen: list[list[float]] = []

    def look(maps: list[Tensor]) -> list[Tensor]:
        seen.append([float(m[0, 0]) for m in maps])
        return maps

    inputs = {name: torch.full((2, 3), value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    networks = {"a": Chain("o", "p"), "b": Chain("p"), "c": Chain("p")}
    graft(networks, [FusionPoint({"c": "p", "a": "p", "b": "p"}, look)], example=inputs)(inputs)
    assert seen == [[3.0, 1.0, 2.0]]


def test_one_network_under_two_names_is_two_players() -> None:
    """A siamese network is fused with itself."""
    shared = Chain("p")
    points = [FusionPoint({"a": "p", "b": "p"}, lambda maps: [maps[0] + maps[1], maps[0] - maps[1]])]
    inputs = x("a", "b")
    found = graft({"a": shared, "b": shared}, points, head=None, example=inputs)(inputs)
    assert torch.equal(found["a"], inputs["a"] + inputs["b"])
    assert torch.equal(found["b"], inputs["a"] - inputs["b"])


def test_two_grafted_models_of_one_network_do_not_see_each_other() -> None:
    """Hooks of one graft are silent in a pass of another."""
    shared, inputs = Chain("p"), x("a")
    one = graft({"a": shared}, [FusionPoint({"a": "p"}, lambda maps: [maps[0] + 1])], head=None)
    two = graft({"a": shared}, [FusionPoint({"a": "p"}, lambda maps: [maps[0] * 2])], head=None)
    assert torch.equal(one(inputs)["a"], inputs["a"] + 1)
    assert torch.equal(two(inputs)["a"], inputs["a"] * 2)
    assert torch.equal(shared(inputs["a"]), inputs["a"])


# several layers of one network at one point


def test_a_layer_that_is_read_goes_on_with_its_own() -> None:
    """The fusion has its map, and the network's next layer has the layer's output."""
    seen: list[list[Tensor]] = []

    def fuse(maps: list[Tensor]) -> list[Tensor]:
        seen.append(maps)
        return [m + 10 for m in maps]

    inputs = x("a", "b")
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    taps = {"a": [Tap("0", read_only=True), "1"], "b": "p"}
    found = graft({"a": network, "b": Chain("p")}, [FusionPoint(taps, fuse)], head=None, example=inputs)(inputs)
    first = network[0](inputs["a"])
    torch.testing.assert_close(seen[0][0], first)
    torch.testing.assert_close(found["a"], network[1](first) + 10)
    torch.testing.assert_close(found["b"], inputs["b"] + 10)


@pytest.mark.parametrize("example", [True, False])
def test_layers_that_feed_each_other_are_an_error_that_says_read_only(example: bool) -> None:
    """The network cannot come to the second layer without the first one's map; the message names layers and the way out."""
    inputs = x("a", "b")
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    points = [FusionPoint({"a": ["0", "1"], "b": "p"}, lambda maps: maps)]
    with pytest.raises(GraftError, match=r"(?=.*network 'a')(?=.*'0').*read_only=True"):  # noqa: PT012
        model = graft({"a": network, "b": Chain("p")}, points, example=inputs if example else None)
        model(inputs)


def test_a_later_layer_that_is_read_by_an_earlier_one_is_an_error() -> None:
    """Read-only said of the wrong one of two: the network would wait for itself, and the message says where."""
    inputs = x("a", "b")
    points = [FusionPoint({"a": ["p", Tap("q", read_only=True)], "b": "p"}, lambda maps: maps)]
    with pytest.raises(GraftError, match=r"'a' waits at point 0 \(layer 'p'\), then comes to point 0 \(layer 'q'\)"):
        graft({"a": Chain("p", "q"), "b": Chain("p")}, points, example=inputs)


def test_a_point_where_all_is_read_changes_nothing() -> None:
    """A probe is a fusion whose maps nobody takes."""
    seen: list[int] = []
    taps = {"a": Tap("p", read_only=True), "b": Tap("p", read_only=True)}

    def probe(maps: list[Tensor]) -> list[Tensor]:
        seen.append(len(maps))
        return [m * 0 for m in maps]

    inputs = x("a", "b")
    found = graft({"a": Chain("p"), "b": Chain("p")}, [FusionPoint(taps, probe)], head=None, example=inputs)(inputs)
    assert seen == [2]
    assert all(torch.equal(found[name], inputs[name]) for name in "ab")


def test_a_part_and_the_whole_can_be_at_different_points() -> None:
    """A layer ends before the block that it is in, so it is met first."""
    met: list[int] = []
    inputs = x("a")
    points = [FusionPoint({"a": "0"}, noting(met, 0)), FusionPoint({"a": "0.0"}, noting(met, 1))]
    graft({"a": nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))}, points, example=inputs)(inputs)
    assert met == [1, 0]
