"""Protects the way networks are run for a tracer: in evaluation mode, bit for bit what they give when they take turns."""

import copy
import shutil
import warnings

import pytest
import torch
from torch import nn

from torchmsaf import FusionPoint, Tap, graft
from torchmsaf.errors import GraftError
from torchmsaf.grafting.export import export_program

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")

C = 6  # channels of every layer


class Block(nn.Module):
    """A residual block that works in place."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(C, C, 3, padding=1)
        self.norm1 = nn.BatchNorm1d(C)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv1d(C, C, 3, padding=1)

    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.conv2(y).add_(x))


class Net(nn.Module):
    """A residual network that uses its middle layer three times."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, C, 3)
        self.first = Block()
        self.again = Block()
        self.last = Block()
        self.fc = nn.Linear(C, 4)

    def forward(self, x):
        x = self.first(self.stem(x).relu_())
        for _ in range(3):
            x = self.again(x)
        return self.fc(self.last(x).mean(-1))


def mix(maps):
    """Every map with something of every other."""
    means = [x.flatten(2).mean(2) for x in maps]
    whole = torch.stack(means).cumsum(0)[-1]
    return [
        x * (1 + 0.1 * torch.tanh(whole + m)).view(*m.shape, *[1] * (x.dim() - 2)) + 0.2
        for m, x in zip(means, maps, strict=True)
    ]


def inputs(names, batch=3):
    return {name: torch.randn(batch, 3, 9 + 2 * number) for number, name in enumerate(names)}


def make(points, names="ab"):
    return graft({name: Net() for name in names}, points, example=inputs(names)).eval()


def replayed(model, *args, **kwargs):
    """What the model gives when its networks run from their start for each answer."""
    other = copy.copy(model)
    other._replays = lambda: True
    return run(other, *args, **kwargs)


def run(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs)


def both(*layers):
    """One point for each layer or tap, in both networks."""
    return [FusionPoint({"a": layer, "b": layer}, mix) for layer in layers]


PLANS = {
    "two points": both("first", "last"),
    "inside residual blocks": both("first.conv1", "last.norm1"),
    "before something in place": both("stem", "first.norm1", "last.conv2"),
    "in place itself": both(Tap("first.relu", call="each")),
    "each call": both(Tap("again", call="each")),
    "each call of a part": both("first.conv2", Tap("again.norm1", call="each"), "last"),
    "first call": both(Tap("again.norm1", call="first"), "last"),
    "last call": both("first", Tap("again.conv2", call="last")),
    "first call with last": [
        FusionPoint({"a": Tap("again", call="first"), "b": Tap("again", call="last")}, mix),
        FusionPoint({"a": "last", "b": "last.conv1"}, mix),
    ],
    "read-only": [
        FusionPoint({"a": [Tap("first.norm1", read_only=True), "last.norm1"], "b": Tap("first", read_only=True)}, mix),
        FusionPoint({"a": "fc", "b": "last"}, lambda maps: [maps[0] + maps[1].mean(2)[:, :4], maps[1]]),
    ],
    "read-only last call": [
        FusionPoint({"a": Tap("again.norm1", call="last", read_only=True), "b": Tap("again.conv1", call="first")}, mix)
    ],
    "not in every point": [
        FusionPoint({"a": "first.conv1"}, mix),
        FusionPoint({"a": "first.conv2", "b": "last.conv1"}, mix),
        FusionPoint({"b": "last.conv2"}, mix),
    ],
    "one further on than the other": [
        FusionPoint({"a": "first.conv1", "b": "last.conv1"}, mix),
        FusionPoint({"a": "last.conv1", "b": "last.conv2"}, mix),
    ],
    "a method": [FusionPoint({"a": "first.conv1", "b": "first"}, "msaf", reduction=1), *both("last")],
}


@pytest.mark.parametrize("name", PLANS)
def test_networks_that_run_again_give_what_networks_in_turns_give(name):
    model, given = make(PLANS[name]), inputs("ab")
    expected = run(model, given)
    assert torch.equal(replayed(model, given), expected)
    model.ungraft()
    assert (expected - sum(run(model.networks[k], x) for k, x in given.items())).abs().max() > 1e-5


def test_three_networks():
    points = [
        FusionPoint({"b": "first.conv1", "c": "first"}, mix),
        FusionPoint({"a": "first.norm1", "c": "last.conv1", "b": "first.conv2"}, mix),
        FusionPoint({"a": "last", "b": "last.norm1"}, mix),
    ]
    model, given = make(points, "abc"), inputs("abc")
    assert torch.equal(replayed(model, given), run(model, given))
    for name in "abc":
        assert torch.equal(
            replayed(model, given | {name: given[name] * 2}), run(model, given | {name: given[name] * 2})
        )


def test_masks_present_and_missing_networks():
    points = [
        FusionPoint({"a": "first.norm1", "b": "last"}, "msaf", reduction=1),
        FusionPoint({"a": "last", "b": "fc"}, "mmtm"),
    ]
    model, given = make(points), inputs("ab")
    for asked in (
        {"masks": {"a": torch.rand(3, 9) < 0.6}},
        {"present": torch.tensor([[True, True], [True, False], [False, True]])},
    ):
        assert torch.equal(replayed(model, given, **asked), run(model, given, **asked))
    assert torch.equal(replayed(model, given | {"b": None}), run(model, given | {"b": None}))


def test_a_layer_that_two_networks_share():
    net = Net()
    model = graft({"a": net, "b": net}, both("first.norm1", "last"), example=inputs("ab")).eval()
    given = inputs("ab")
    assert torch.equal(replayed(model, given), run(model, given))


def test_a_read_only_tap_reads_what_the_layer_gave_whatever_becomes_of_it():
    seen = []

    def look(maps):
        seen.extend(x.clone() for x in maps)
        return maps

    model = make([FusionPoint({"a": [Tap("first.norm1", read_only=True), "last"]}, look)])
    given = inputs("ab")
    net = model.networks["a"]
    expected = run(net.first.norm1, run(net.first.conv1, run(net.stem, given["a"]).relu()))
    for way in (run, replayed):
        seen.clear()
        way(model, given)
        assert torch.equal(seen[0], expected)
        assert seen[0].min() < 0


def test_after_an_error_in_a_replay_the_model_works():
    fails = False

    def fuse(maps):
        if fails:
            raise RuntimeError("in the fusion")
        return mix(maps)

    model, given = make([*both("first.conv1"), FusionPoint({"a": "last", "b": "last"}, fuse)]), inputs("ab")
    expected = run(model, given)
    fails = True
    with pytest.raises(RuntimeError, match="in the fusion"):
        replayed(model, given)
    with pytest.raises(RuntimeError):
        replayed(model, given | {"a": given["a"][:, :2]})
    fails = False
    assert torch.equal(run(model, given), expected)
    assert torch.equal(replayed(model, given), expected)
    alone = run(copy.deepcopy(model).ungraft()["a"], given["a"])
    assert torch.equal(run(model.networks["a"], given["a"]), alone)


def test_networks_that_would_wait_for_each_other_are_an_error():
    points = [FusionPoint({"a": "first", "b": "last"}, mix), FusionPoint({"a": "last", "b": "first"}, mix)]
    model = graft({"a": Net(), "b": Net()}, points).eval()
    with pytest.raises(GraftError, match="point 0: waiting for network 'b', layer 'last'"):
        replayed(model, inputs("ab"))


# ---- tracers


def test_a_program_has_every_layer_once():
    model, given = make(PLANS["each call of a part"]), inputs("ab")
    program = export_program(model, given)
    kinds = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    # a stem and five blocks of two
    assert sum("conv1d" in kind for kind in kinds) == 2 * 11
    assert sum("batch_norm" in kind for kind in kinds) == 2 * 5
    assert sum("tanh" in kind for kind in kinds) == 2 * 5
    other = inputs("ab", 5)
    assert torch.equal(run(program.module(), other), run(model, other))


def test_after_an_export_that_failed_the_model_works():
    class Odd(Net):
        def forward(self, x):
            y = super().forward(x)
            return y if y.sum() > 0 else -y

    model = graft({"a": Odd(), "b": Net()}, both("first", "last.conv1"), example=inputs("ab")).eval()
    given = inputs("ab")
    expected = run(model, given)
    with pytest.raises(GraftError, match=r"torch.export cannot follow this model"):
        export_program(model, given)
    assert torch.equal(run(model, given), expected)


def test_torch_jit_trace():
    model, given = make(both("first.conv1", "last")), inputs("ab")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (given,))
    torch.testing.assert_close(run(traced, given), run(model, given))
    other = inputs("ab", 5)
    torch.testing.assert_close(run(traced, other), run(model, other))


def test_in_training_an_export_is_an_error():
    model, given = make(both("first.conv1", "last")).train(), inputs("ab")
    with pytest.raises(GraftError, match=r"exported or traced in evaluation mode alone; call model.eval"):
        torch.export.export(model, (given,), strict=False)
    warnings.simplefilter("ignore")
    with pytest.raises(GraftError, match=r"exported or traced"):
        torch.jit.trace(model, (given,))
    assert run(model.eval(), given).shape == (3, 4)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch 2.13's own compiler
@pytest.mark.parametrize("name", ["inside residual blocks", "each call of a part", "read-only"])
def test_compiled_as_one_graph(name):
    model, given = make(PLANS[name]), inputs("ab")
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(run(compiled, given), run(model, given), rtol=1e-5, atol=1e-5)
