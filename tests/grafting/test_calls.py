"""Protects layers that run several times, another number of times than on the example, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import GraftError
from torchmsaf.grafting import FusionPoint, Tap, graft

Cell = Callable[[int, Tensor], Tensor]


class Recurrent(nn.Module):
    """A cell in a loop over time, as often as there are steps."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.cell = nn.RNNCell(2, width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.width)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.fc(state)

    def by_hand(self, x: Tensor, change: Cell) -> Tensor:
        state = x.new_zeros(len(x), self.width)
        for step in range(x.shape[1]):
            state = change(step, self.cell(x[:, step], state))
        return self.fc(state)


class Shared(nn.Module):
    """One activation module for all layers, as torchvision has it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 4)
        self.two = nn.Linear(4, 4)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.two(self.relu(self.one(x))))


def steps(count: int, rows: int = 3) -> Tensor:
    return torch.randn(rows, count, 2)


def at(network: nn.Module, call: str | None, fusion: Callable[..., object], example: object, layer: str = "cell"):
    return graft({"a": network}, [FusionPoint({"a": Tap(layer, call=call)}, fusion)], head=None, example={"a": example})


def doubled(maps: list[Tensor]) -> list[Tensor]:
    return [m * 2 for m in maps]


@pytest.mark.parametrize(
    ("network", "layer", "count"), [(Recurrent(), "cell", 5), (Shared(), "relu", 2)], ids=["cell", "relu"]
)
def test_a_layer_that_runs_often_is_an_error_until_it_is_said_which_call(network, layer, count) -> None:
    """The message has how often it ran, and the three ways to say it."""
    example = steps(5) if layer == "cell" else torch.randn(3, 2)
    words = (
        rf"network 'a', layer '{layer}': it ran {count} times on the example; say which call is fused with "
        rf"Tap\('{layer}', call='first'\), 'last' or 'each'"
    )
    with pytest.raises(GraftError, match=words):
        at(network, None, doubled, example, layer)


def test_without_an_example_it_is_an_error_in_the_forward_pass() -> None:
    """A second call is never fused or left out silently."""
    model = graft({"a": Recurrent()}, [FusionPoint({"a": "cell"}, doubled)], head=None)
    with pytest.raises(GraftError, match=r"network 'a', layer 'cell': it runs more than once.*call='first'"):
        model({"a": steps(2)})
    assert model({"a": steps(1)})["a"].shape == (3, 3)


@pytest.mark.parametrize("call", ["first", "last", "each"])
def test_the_calls_that_are_said_are_fused_as_a_loop_written_by_hand(call: str) -> None:
    """The first, the last, or each one, and no other."""
    network, x = Recurrent(), steps(5)
    model = at(network, call, doubled, steps(5))
    chosen = {"first": [0], "last": [4], "each": range(5)}[call]
    expected = network.by_hand(x, lambda step, state: state * 2 if step in chosen else state)
    assert torch.equal(model({"a": x})["a"], expected)


@pytest.mark.parametrize("call", ["first", "last", "each"])
def test_gradients_of_fused_calls_are_those_of_the_loop_by_hand(call: str) -> None:
    """Backpropagation through time goes through the fusions."""
    network, x = Recurrent(), steps(4)
    chosen = {"first": [0], "last": [3], "each": range(4)}[call]
    at(network, call, doubled, steps(4))({"a": x})["a"].sum().backward()
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network.by_hand(x, lambda step, state: state * 2 if step in chosen else state).sum().backward()
    for grad, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


@pytest.mark.parametrize("call", ["first", "last", "each"])
def test_a_shared_activation_is_fused_at_the_calls_that_are_said(call: str) -> None:
    """One module under several places of a network."""
    network, x = Shared(), torch.randn(3, 2)
    first = 2 if call in ("first", "each") else 1
    second = 2 if call in ("last", "each") else 1
    expected = network.two(network.one(x).relu() * first).relu() * second
    torch.testing.assert_close(at(network, call, doubled, x, "relu")({"a": x})["a"], expected)


def test_two_loops_meet_at_each_step() -> None:
    """Step by step the fusion has the states of the same step of both networks."""
    a, b = Recurrent(), Recurrent()

    def mix(maps: list[Tensor]) -> list[Tensor]:
        return [maps[0] + 0.5 * maps[1], maps[1] - maps[0]]

    x, y = steps(5), steps(5)
    tap = Tap("cell", call="each")
    model = graft({"a": a, "b": b}, [FusionPoint({"a": tap, "b": tap}, mix)], head=None, example={"a": x, "b": y})
    found = model({"a": x, "b": y})
    s, t = torch.zeros(3, 4), torch.zeros(3, 4)
    for step in range(5):
        s, t = mix([a.cell(x[:, step], s), b.cell(y[:, step], t)])
    torch.testing.assert_close(found["a"], a.fc(s))
    torch.testing.assert_close(found["b"], b.fc(t))


def test_first_of_one_and_last_of_the_other_meet_once() -> None:
    """Different calls of the networks may meet at one point."""
    a, b = Recurrent(), Recurrent()
    met: list[int] = []

    def mix(maps: list[Tensor]) -> list[Tensor]:
        met.append(1)
        return [maps[0] + maps[1], maps[1]]

    x, y = steps(3), steps(5)
    taps = {"a": Tap("cell", call="first"), "b": Tap("cell", call="last")}
    found = graft({"a": a, "b": b}, [FusionPoint(taps, mix)], head=None, example={"a": x, "b": y})({"a": x, "b": y})
    states: list[Tensor] = []
    expected = b.by_hand(y, lambda step, state: states.append(state) or state)
    assert met == [1]
    torch.testing.assert_close(found["b"], expected)
    torch.testing.assert_close(found["a"], a.by_hand(x, lambda step, s: s + states[-1] if step == 0 else s))


def each(a: nn.Module, b: nn.Module, example: dict[str, Tensor] | None):
    tap = Tap("cell", call="each")
    return graft({"a": a, "b": b}, [FusionPoint({"a": tap, "b": tap}, doubled)], head=None, example=example)


def test_loops_of_different_lengths_are_an_error_at_graft_time_that_names_both() -> None:
    """One network waits for a step that the other does not have; the message says so, and not that both wait."""
    with pytest.raises(GraftError, match=r"(?s)(?=.*'a')(?=.*'b')(?=.*'cell')"):
        each(Recurrent(), Recurrent(), {"a": steps(3), "b": steps(2)})


def test_loops_of_different_lengths_are_an_error_at_run_time_that_names_both() -> None:
    """Lengths that were the same on the example and are not in a batch."""
    model = each(Recurrent(), Recurrent(), {"a": steps(3), "b": steps(3)})
    words = (
        r"waiting for network 'b', layer 'cell', which did not come; there: network 'a', layer 'cell'.*equally often"
    )
    with pytest.raises(GraftError, match=words):
        model({"a": steps(3), "b": steps(2)})


def test_a_layer_that_is_read_at_each_call_before_the_others_came_is_an_error() -> None:
    """A network that does not wait cannot meet the others step by step; the message has the layer that ran ahead."""
    taps = {"a": Tap("cell", call="each", read_only=True), "b": Tap("cell", call="each")}
    words = (
        r"network 'a', layer 'cell': it ran again before point 0 had all its maps; missing: network 'b', layer 'cell'"
    )
    for example in (None, {"a": steps(3), "b": steps(3)}):
        with pytest.raises(GraftError, match=words):  # noqa: PT012
            model = graft({"a": Recurrent(), "b": Recurrent()}, [FusionPoint(taps, doubled)], example=example)
            model({"a": steps(3), "b": steps(3)})


def test_after_an_error_in_a_pass_the_model_works_as_before() -> None:
    """A network left in its middle is ended, and the next pass starts anew."""
    model = each(Recurrent(), Recurrent(), {"a": steps(3), "b": steps(3)})
    inputs = {"a": steps(4), "b": steps(4)}
    before = model(inputs)
    with pytest.raises(GraftError):
        model({"a": steps(3), "b": steps(2)})
    after = model(inputs)
    assert all(torch.equal(before[name], after[name]) for name in "ab")


def test_each_and_first_take_any_number_of_calls_at_run_time() -> None:
    """Sequences of another length than the example's are fused all the same."""
    network = Recurrent()
    for call, chosen in (("each", range(9)), ("first", [0])):
        for count in (1, 3, 7):
            x = steps(count)
            expected = network.by_hand(x, lambda step, state, chosen=chosen: state * 2 if step in chosen else state)
            assert torch.equal(at(network, call, doubled, steps(3))({"a": x})["a"], expected)


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_the_last_call_is_counted_from_the_example_and_another_number_is_an_error(count: int) -> None:
    """Which call is the last is not known before it; so a longer or shorter loop is not fused in its middle silently."""
    model = at(Recurrent(), "last", doubled, steps(3))
    words = rf"network 'a', layer 'cell': it ran {count} times, and 3 times on the example, from which call='last'"
    with pytest.raises(GraftError, match=words):
        model({"a": steps(count)})


def test_one_call_on_the_example_and_two_at_run_time_is_an_error() -> None:
    """A tap without a call stays an error when the second call comes later."""
    model = at(Recurrent(), None, doubled, steps(1))
    with pytest.raises(GraftError, match=r"network 'a', layer 'cell': it runs more than once.*call='first'"):
        model({"a": steps(2)})


def test_the_last_call_without_an_example_is_an_error_at_graft_time() -> None:
    """It says that the example is what is missing."""
    with pytest.raises(GraftError, match=r"network 'a', layer 'cell': which call is the last .*give graft an example"):
        graft({"a": Recurrent()}, [FusionPoint({"a": Tap("cell", call="last")}, doubled)])


class Switched(nn.Module):
    """A layer that runs where the input is positive, and another one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)
        self.side = nn.Linear(3, 3)
        self.aux = nn.Linear(3, 3)
        self.parts = nn.ModuleList([nn.Linear(3, 3)])

    def forward(self, x: Tensor) -> Tensor:
        z = self.parts[0](self.head(x))
        if self.training:
            z = self.aux(z)
        return self.side(z) if x.sum() > 0 else z


def test_a_layer_that_does_not_run_on_the_example_is_an_error_at_graft_time() -> None:
    """Control flow, auxiliary heads of training, and containers whose parts are called: all said before training."""
    words = r"network 'a', layer '{}': it did not run on the example \(in evaluation mode\); .*nn\.ModuleList"
    for layer, example in (("side", -torch.ones(2, 2)), ("aux", torch.ones(2, 2)), ("parts", torch.ones(2, 2))):
        with pytest.raises(GraftError, match=words.format(layer)):
            at(Switched(), None, doubled, example, layer)


def test_a_layer_that_does_not_run_in_a_pass_is_an_error_in_that_pass() -> None:
    """A fusion is never left out silently, and the model goes on with the next batch."""
    model = at(Switched(), None, doubled, torch.ones(2, 2), "side").eval()
    for _ in range(2):
        with pytest.raises(GraftError, match=r"network 'a', layer 'side': it did not run in this forward pass"):
            model({"a": -torch.ones(2, 2)})
        assert model({"a": torch.ones(2, 2)})["a"].shape == (2, 3)


def test_nobody_waits_for_a_layer_that_did_not_run() -> None:
    """The network that left its layer out is named, and not the one that waits for it."""
    point = FusionPoint({"a": "side", "b": "head"}, doubled)
    example = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    for names in ("ab", "ba"):
        networks = {name: Switched().eval() for name in names}
        model = graft(networks, [point], example=example).eval()
        with pytest.raises(GraftError, match=r"network 'a', layer 'side': it did not run in this forward pass"):
            model({"a": -torch.ones(2, 2), "b": torch.ones(2, 2)})


def test_an_optional_layer_may_be_passed_by() -> None:
    """A layer that is said to be optional is fused where it runs, and absent where it does not."""
    seen: list[Tensor | None] = []

    def fusion(maps: list[Tensor], present: Tensor | None = None) -> list[Tensor]:
        seen.append(present)
        return [m + 1 for m in maps]

    point = FusionPoint({"a": Tap("side", optional=True), "b": "head"}, fusion)
    networks = {"a": Switched().eval(), "b": Switched().eval()}
    example = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    model = graft(networks, [point], head=None, example=example).eval()
    alone = networks["a"](-torch.ones(2, 2))
    assert torch.equal(model({"a": -torch.ones(2, 2), "b": torch.ones(2, 2)})["a"], alone)
    model(example)
    assert seen[0] is not None
    assert seen[0].tolist() == [[False, True], [False, True]]
    assert seen[1] is None
