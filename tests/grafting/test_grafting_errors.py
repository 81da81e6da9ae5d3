"""Every wrong use of grafting is an error that names network and layer and says what to do, and leaves nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

from torchmsaf.errors import FusionInputError, GraftError, TorchmsafError
from torchmsaf.fusion.mfas import MFAS
from torchmsaf.grafting import FusionPoint, Tap, graft
from torchmsaf.msaf import MSAF

ROWS = 4


class Net(nn.Module):
    """``(B, 2, T)`` to ``(B, 3)``, with batch norm and dropout."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, width, 3, padding=1)
        self.norm = nn.BatchNorm1d(width)
        self.block = nn.Sequential(nn.Conv1d(width, width, 1), nn.ReLU(), nn.Dropout(0.5))
        self.fc = nn.Linear(width, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.norm(self.conv1(x))).mean(2))


class Gives(nn.Module):
    """A layer that gives whatever it is told, and a prediction beside it."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = Made(make)
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.fc(x.mean(2))


class Made(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


def two() -> dict[str, nn.Module]:
    return {"a": Net(8), "b": Net(12)}


def inputs(rows: int = ROWS, steps: int = 6) -> dict[str, Any]:
    return {"a": torch.randn(rows, 2, steps), "b": torch.randn(rows, 2, steps)}


def point(fusion: Any = "msaf", a: Any = "conv1", b: Any = "conv1", **options: Any) -> FusionPoint:
    return FusionPoint({"a": a, "b": b}, fusion, **options)


def same(maps: list[Tensor], present: Any = None, masks: Any = None) -> list[Tensor]:
    return maps


# taps and points

SAID: dict[str, tuple[Callable[[], Any], str]] = {
    "layer None": (lambda: Tap(None), r"a layer is said by its name, such as 'layer3', got NoneType"),  # type: ignore[arg-type]
    "layer number": (lambda: Tap(3), r"a layer is said by its name.*got int"),  # type: ignore[arg-type]
    "layer module": (lambda: Tap(nn.ReLU()), r"a layer is said by its name.*got ReLU"),  # type: ignore[arg-type]
    "layout": (lambda: Tap("x", layout="channels_last"), r"layer 'x': a layout has .*got 'channels_last'"),
    "layout tuple": (lambda: Tap("x", layout=(0, 2, 1)), r"layer 'x': a layout has .*got \(0, 2, 1\)"),  # type: ignore[arg-type]
    "call": (lambda: Tap("x", call="second"), r"layer 'x': call is 'each', 'first' or 'last', got 'second'"),  # type: ignore[arg-type]
    "call number": (lambda: Tap("x", call=1), r"layer 'x': call is .*got 1"),  # type: ignore[arg-type]
    "prefix negative": (lambda: Tap("x", prefix=-1), r"layer 'x': prefix is a number of tokens, got -1"),
    "prefix bool": (lambda: Tap("x", prefix=True), r"layer 'x': prefix is a number of tokens, got True"),
    "prefix None": (lambda: Tap("x", prefix=None), r"layer 'x': prefix is .*got None"),  # type: ignore[arg-type]
    "element list": (lambda: Tap("x", element=[0, 1]), r"layer 'x': .*element.*\[0, 1\]"),  # type: ignore[arg-type]
    "element float": (lambda: Tap("x", element=1.0), r"layer 'x': .*element.*1\.0"),  # type: ignore[arg-type]
    "element slice": (lambda: Tap("x", element=slice(2)), r"layer 'x': .*element.*slice"),  # type: ignore[arg-type]
    "optional with call": (
        lambda: Tap("x", optional=True, call="each"),
        r"layer 'x': an optional layer runs once at most; leave call='each' out",
    ),
    "no taps": (lambda: FusionPoint({}), r"a fusion point is \{network: layer\}, such as"),
    "taps None": (lambda: FusionPoint(None), r"a fusion point is \{network: layer\}"),  # type: ignore[arg-type]
    "taps list": (lambda: FusionPoint(["conv1"]), r"a fusion point is \{network: layer\}"),  # type: ignore[arg-type]
    "tap None": (lambda: FusionPoint({"a": None}), r"network 'a': a tap is a layer's name or a Tap, .*got None"),  # type: ignore[dict-item]
    "tap number": (lambda: FusionPoint({"a": 3}), r"network 'a': a tap is .*got 3"),  # type: ignore[dict-item]
    "tap empty list": (lambda: FusionPoint({"a": []}), r"network 'a': a tap is .*got \[\]"),
    "tap in list": (lambda: FusionPoint({"a": ["x", 1]}), r"network 'a': a tap is .*got \['x', 1\]"),  # type: ignore[list-item]
    "tap module": (lambda: FusionPoint({"a": nn.ReLU()}), r"network 'a': a tap is .*got ReLU\(\)"),  # type: ignore[dict-item]
    "fusion None": (lambda: point(None), r"a fusion is a method's name, a module or a callable, got NoneType"),
    "fusion number": (lambda: point(3), r"a fusion is a method's name.*got int"),
    "fusion list": (lambda: point([MSAF((8, 8))]), r"a fusion is a method's name.*got list"),
    "fusion class": (lambda: point(MSAF), r"(?i)a fusion is .*(class|MSAF).*"),
    "options of a module": (
        lambda: point(MSAF((8, 12)), block_dropout=0.2),
        r"options block_dropout are for a method given by name; build them into the module",
    ),
}


@pytest.mark.parametrize("case", SAID.values(), ids=SAID)
def test_a_tap_or_point_that_makes_no_sense_is_refused_where_it_is_written(case: Any) -> None:
    """Before any network is there to be blamed."""
    make, words = case
    with pytest.raises(GraftError, match=words):
        make()


# graft()

GRAFT: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "networks None": (lambda: {"networks": None}, r"networks is \{name: module\}, such as"),
    "networks list": (lambda: {"networks": [Net()]}, r"networks is \{name: module\}"),
    "networks empty": (lambda: {"networks": {}}, r"networks is \{name: module\}"),
    "networks module": (lambda: {"networks": Net()}, r"networks is \{name: module\}"),
    "network None": (lambda: {"networks": {"a": None}}, r"network 'a': expected a torch\.nn\.Module, got NoneType"),
    "network function": (lambda: {"networks": {"a": torch.relu}}, r"network 'a': expected a torch\.nn\.Module, got builtin"),
    "network class": (lambda: {"networks": {"a": Net}}, r"network 'a': expected a torch\.nn\.Module, got type"),
    "name number": (lambda: {"networks": {1: Net()}}, r"a network's name is a word without dots, got 1"),
    "name empty": (lambda: {"networks": {"": Net()}}, r"a network's name is a word without dots, got ''"),
    "name dot": (lambda: {"networks": {"a.b": Net()}}, r"a network's name is a word without dots, got 'a\.b'"),
    "name forward": (lambda: {"networks": {"forward": Net()}}, r"a network cannot be called 'forward'"),
    "name training": (lambda: {"networks": {"training": Net()}}, r"a network cannot be called 'training'"),
    "name __len__": (
        lambda: {
            "networks": {"__len__": Net()}, "points": [FusionPoint({"__len__": "conv1"})],
            "example": {"__len__": inputs()["a"]},
        },
        r"a network cannot be called '__len__'",
    ),
    "points None": (lambda: {"points": None}, r"points is a list of FusionPoint\("),
    "points empty": (lambda: {"points": []}, r"points is a list of FusionPoint\(.*one or more"),
    "points string": (lambda: {"points": "conv1"}, r"points is a list of FusionPoint\("),
    "points dict": (lambda: {"points": {"a": "conv1"}}, r"points is a list of FusionPoint\("),
    "points of strings": (lambda: {"points": ["conv1"]}, r"points is a list of FusionPoint\("),
    "unknown network": (
        lambda: {"points": [FusionPoint({"a": "conv1", "audio": "conv1"})]},
        r"point 0: no network 'audio'; there are: a, b",
    ),
    "unknown layer": (
        lambda: {"points": [point(b="conv2")]},
        r"network 'b' \(Net\) has no layer 'conv2'; did you mean 'conv1'\? Its outermost layers: conv1, norm, block, fc",
    ),
    "layer by its class": (lambda: {"points": [point(b="Conv1")]}, r"network 'b' .*no layer 'Conv1'; did you mean 'conv1'"),
    "layer without its block": (lambda: {"points": [point(b="blocks.0")]}, r"did you mean 'block\.0'"),
    "layer of nothing": (
        lambda: {"points": [point(b="zzz")]}, r"network 'b' .*no layer 'zzz'; its outermost layers: conv1.*describe\(",
    ),
    "layer that did not run": (
        lambda: {"points": [point(b="unused")]}, r"network 'b', layer 'unused': it did not run on the example",
    ),
    "vector": (
        lambda: {"networks": {"a": Gives(lambda x: x[:, 0, 0]), "b": Net()}, "points": [point(a="layer")]},
        r"network 'a', layer 'layer': its output is \(4,\); a map is \(B, C, \*positions\)",
    ),
    "scalar": (
        lambda: {"networks": {"a": Gives(lambda x: x.sum()), "b": Net()}, "points": [point(a="layer")]},
        r"network 'a', layer 'layer': its output is \(\); a map is",
    ),
    "nothing given": (
        lambda: {"networks": {"a": Gives(lambda x: None), "b": Net()}, "points": [point(a="layer")]},
        r"network 'a', layer 'layer': it gave no tensor but NoneType",
    ),
    "text given": (
        lambda: {"networks": {"a": Gives(lambda x: ("x", {"y": 1})), "b": Net()}, "points": [point(a="layer")]},
        r"network 'a', layer 'layer': it gave no tensor but tuple of str, dict with y",
    ),
    "integers": (
        lambda: {"networks": {"a": Gives(lambda x: x.long()), "b": Net()}, "points": [point(same, a="layer")]},
        r"network 'a', layer 'layer': .*(int64|floating)",
    ),
    "booleans": (
        lambda: {"networks": {"a": Gives(lambda x: x > 0), "b": Net()}, "points": [point(same, a="layer")]},
        r"network 'a', layer 'layer': .*(bool|floating)",
    ),
    "rank of the layout": (
        lambda: {"points": [point(a=Tap("conv1", layout="BCHW"))]},
        r"network 'a', layer 'conv1': its output is \(4, 8, 6\), 3 axes, and layout 'BCHW' says 4",
    ),
    "no such element": (
        lambda: {"points": [point(a=Tap("conv1", element="logits"))]},
        r"network 'a'.*its output \(tensor \(4, 8, 6\)\) has no element 'logits'",
    ),
    "an element of a tensor": (
        lambda: {"points": [point(a=Tap("conv1", element=0))]},
        r"network 'a'.*its output \(tensor \(4, 8, 6\)\) has no element 0",
    ),
    "an element that is no tensor": (
        lambda: {
            "networks": {"a": Gives(lambda x: (x, "text")), "b": Net()}, "points": [point(a=Tap("layer", element=1))],
        },
        r"network 'a', layer 'layer': element 1 of its output \(tuple of tensor \(4, 2, 6\), str\) is not a tensor",
    ),
    "unknown method": (lambda: {"points": [point("msfa")]}, r"no fusion method 'msfa' \(did you mean 'msaf'\?\)"),
    "late method": (
        lambda: {"points": [point("averaging")]},
        r"point 0: 'averaging' is a late method; between layers stand intermediate ones",
    ),
    "tapped method": (
        lambda: {"points": [point("mfas")]},
        r"point 0: 'mfas' reads several depths at once and gives a prediction, not maps, .*FusedNetwork",
    ),
    "tapped method built": (
        lambda: {"points": [point(MFAS([{"conv1": 8}, {"conv1": 12}], 3))]},
        r"point 0: MFAS reads several depths at once and gives a prediction",
    ),
    "early method": (lambda: {"points": [point("concat")]}, r"point 0: 'concat' is an early method"),
    "unknown option": (
        lambda: {"points": [point(dropout=0.2)]}, r"point 0: msaf: got an unexpected keyword argument 'dropout'",
    ),
    "wrong option": (
        lambda: {"points": [point(block_dropout=2)]},
        r"point 0: msaf: block_dropout .*\(modality 0 is network 'a', layer 'conv1'; modality 1 is network 'b'",
    ),
    "channels as option": (lambda: {"points": [point(channels=(8, 12))]}, r"point 0: .*channels"),
    "too many maps for the module": (
        lambda: {"points": [point(MSAF((8, 12, 8)))]},
        r"point 0: MSAF was built for 3 maps \(channels \(8, 12, 8\)\), and there are 2 taps",
    ),
    "other channels than the module's": (
        lambda: {"points": [point(MSAF((8, 16)))]},
        r"network 'b', layer 'conv1': it gave 12 channels on the example \(\(4, 12, 6\), read with layout 'BCT'\), and MSAF "
        r"of point 0 was built for 16; build it with channels=\(8, 12\), or say the axes with Tap\('conv1', layout=\.\.\.\)",
    ),
    "name without an example": (
        lambda: {"example": None},
        r"point 0: the channels for 'msaf' are read from an example; give graft example=\{\.\.\.\}, or build the fusion",
    ),
    "example list": (lambda: {"example": [1, 2]}, r"example is an input of each network by name, got list"),
    "example tensor": (lambda: {"example": torch.zeros(2)}, r"example is an input of each network by name, got Tensor"),
    "example lacks one": (lambda: {"example": {"a": inputs()["a"]}}, r"example: one input for each of a, b; not so for 'b'"),
    "example has more": (lambda: {"example": {**inputs(), "c": 1}}, r"example: one input for each of a, b; not so for 'c'"),
    "example has odd keys": (lambda: {"example": {**inputs(), 1: 1, "c": 1}}, r"example: one input for each of a, b"),
    "example None": (lambda: {"example": {**inputs(), "b": None}}, r"example: network 'b' has None; every network runs"),
    "head unhashable": (lambda: {"head": ["sum"]}, r"head is 'sum', 'mean', 'concat', 'branch', .*got \['sum'\]"),
    "head function": (lambda: {"head": torch.add}, r"head is 'sum', 'mean', 'concat', 'branch', a module, or None"),
    "head typo": (lambda: {"head": "Sum"}, r"head is 'sum', .*got 'Sum'"),
    "outputs of nobody": (lambda: {"outputs": {"c": 0}}, r"outputs: no network 'c'; there are: a, b"),
    "outputs string": (lambda: {"outputs": "logits"}, r"(?i)outputs is .*got (str|'logits')"),
    "outputs list": (lambda: {"outputs": ["a"]}, r"(?i)outputs is .*got (list|\['a'\])"),
    "outputs None for one": (lambda: {"outputs": {"a": None}}, r"(?s)network 'a'.*None"),
    "each at several layers": (
        lambda: {"points": [point(a=[Tap("conv1", call="each"), "fc"])]},
        r"point 0: network 'a' is tapped at 'conv1', 'fc'; of several layers at one point none is fused at each call",
    ),
}  # fmt: skip


def bad(case: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return {"networks": two(), "points": [point()], "example": inputs(), **case()}


@pytest.mark.parametrize("case", GRAFT.values(), ids=GRAFT)
def test_a_graft_that_cannot_be_is_an_error_that_says_what_to_do(case: Any) -> None:
    """Nothing but errors of this package, with the words that help."""
    said, words = case
    arguments = bad(said)
    with pytest.raises(TorchmsafError, match=words) as raised:  # noqa: PT012
        model = graft(**arguments)
        model(arguments["example"])
    assert len(str(raised.value)) < 500


def state(networks: Any) -> list[Any]:
    """All that a graft could leave behind in networks and in torch."""
    found: list[Any] = [torch.get_rng_state(), torch.is_grad_enabled()]
    for network in networks.values() if isinstance(networks, dict) else ():
        if not isinstance(network, nn.Module):
            continue
        for layer in network.modules():
            found += [layer.training, "forward" in vars(layer), sorted(vars(layer))]
            found += [len(getattr(layer, name)) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        found += [p.requires_grad for p in network.parameters()]
        found += [p.grad for p in network.parameters()]
        found += [tensor.clone() for tensor in network.state_dict().values()]
    return found


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def check_same(before: list[Any], after: list[Any]) -> None:
    assert len(before) == len(after)
    assert all(map(equal, before, after))


@pytest.mark.parametrize("case", GRAFT.values(), ids=GRAFT)
def test_a_graft_that_fails_leaves_nothing_behind(case: Any) -> None:
    """No hooks, no moved statistics, no drawn random numbers, no training flag of any layer."""
    arguments = bad(case[0])
    networks = arguments["networks"]
    for network in networks.values() if isinstance(networks, dict) else ():
        if isinstance(network, Net):
            network.norm.eval()
            network.fc.weight.requires_grad_(False)
    before = state(networks)
    try:
        graft(**arguments)
    except Exception:
        check_same(before, state(networks))


def test_the_dry_run_leaves_nothing_behind_but_the_hooks() -> None:
    """Batch statistics, random numbers, flags of each layer and gradients are as before; ungraft takes the hooks too."""
    networks = two()
    networks["a"].block.eval()
    networks["b"].conv1.requires_grad_(False)
    fusion = MSAF((8, 12))
    before = state(networks)
    model = graft(networks, [point(fusion)], example=inputs_of(before))
    hooked = [layer for network in networks.values() for layer in network.modules() if layer._forward_hooks]
    assert hooked == [networks["a"].conv1, networks["b"].conv1]
    model.ungraft()
    check_same(before, state(networks))


def inputs_of(before: list[Any]) -> dict[str, Tensor]:
    """Inputs that move no random numbers."""
    return {name: torch.linspace(-1, 1, ROWS * 12).view(ROWS, 2, 6) for name in "ab"}


def test_buffers_that_move_in_evaluation_are_as_before() -> None:
    """A counter or a memory that a network keeps in its forward does not count the dry run."""

    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += len(x)
            return super().forward(x)

    networks = {"a": Counting(), "b": Net(12)}
    graft(networks, [point(MSAF((8, 12)))], example=inputs())
    assert networks["a"].seen == 0


def test_a_network_that_fails_in_the_dry_run_is_left_as_it_was() -> None:
    """The network's own error comes through, and the networks before it are clean too."""
    networks = {"a": Net(), "b": Net()}
    before = state(networks)
    with pytest.raises(RuntimeError) as raised:
        graft(networks, [point(same)], example={**inputs_of(before), "b": torch.zeros(ROWS, 5, 6)})
    assert any("network 'b', on its example" in note for note in raised.value.__notes__)
    check_same(before, state(networks))


def test_the_random_numbers_after_a_graft_are_those_of_the_fusions_alone() -> None:
    """A seed before a graft gives the same fusion and the same data after it, whatever the networks draw."""

    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    networks = {"a": Noisy(), "b": Net(12)}
    x = inputs()
    torch.manual_seed(3)
    model = graft(networks, [point()], example=x)
    after = torch.rand(3)
    torch.manual_seed(3)
    fusion = MSAF((8, 12))
    assert torch.equal(after, torch.rand(3))
    assert all(map(torch.equal, fusion.state_dict().values(), model.fusions[0].state_dict().values()))


# forward

FORWARD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a tensor": (lambda x: x["a"], r"inputs is a dict by network \('a', 'b'\), got Tensor"),
    "a list": (lambda x: [x["a"], x["b"]], r"inputs is a dict by network \('a', 'b'\), got list"),
    "None": (lambda x: None, r"inputs is a dict by network \('a', 'b'\), got NoneType"),
    "one missing": (lambda x: {"a": x["a"]}, r"inputs: nothing for network 'b'; a modality that is missing is None"),
    "unknown": (lambda x: {**x, "c": x["a"]}, r"inputs: no network 'c'; there are: 'a', 'b'"),
    "empty": (lambda x: {}, r"inputs: nothing for network 'a'"),
    "all None": (lambda x: {"a": None, "b": None}, r"inputs: every modality is None; at least one network has to run"),
    "other batches": (
        lambda x: {**x, "b": x["b"][:3]},
        r"point 0: network 'b', layer 'conv1' gave 3 samples \(\(3, 12, 6\) as BCT\), and network 'a', layer 'conv1' gave 4 "
        r"\(\(4, 8, 6\) as BCT\); say where the batch axis is with Tap\(\.\.\., layout=\.\.\.\), and give every network",
    ),
    "a batch of one for all": (lambda x: {**x, "b": x["b"][:1]}, r"network 'b', layer 'conv1' gave 1 samples"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORWARD.values(), ids=FORWARD)
def test_inputs_that_do_not_fit_are_an_error_and_the_model_goes_on(case: Any) -> None:
    """The next right batch gives what it gave before."""
    change, words = case
    model, x = graft(two(), [point()], example=inputs()).eval(), inputs()
    before = model(x)
    with pytest.raises(GraftError, match=words):
        model(change(x))
    assert torch.equal(model(x), before)


def test_a_model_that_was_ungrafted_says_so() -> None:
    """It would run without its fusions, silently."""
    model = graft(two(), [point()], example=inputs())
    model.ungraft()
    with pytest.raises(GraftError, match=r"given back by ungraft\(\); graft them again"):
        model(inputs())


FUSED: dict[str, tuple[Callable[[list[Tensor]], Any], str]] = {
    "None": (lambda maps: None, r"point 0: .*gave NoneType; expected a list of 2 maps, one a tap"),
    "one tensor": (lambda maps: maps[0], r"point 0: .*gave tensor \(4, 8, 6\); expected a list of 2 maps"),
    "too few": (lambda maps: maps[:1], r"point 0: .*gave list of tensor \(4, 8, 6\); expected a list of 2 maps"),
    "too many": (lambda maps: [*maps, maps[0]], r"point 0: .*expected a list of 2 maps"),
    "a dict": (lambda maps: {"a": maps[0], "b": maps[1]}, r"point 0: .*gave dict with a, b; expected a list of 2 maps"),
    "a generator": (lambda maps: (m for m in maps), r"point 0: .*gave generator; expected a list of 2 maps"),
    "None for a map": (lambda maps: [maps[0], None], r"network 'b', layer 'conv1': the fusion of point 0 got .*NoneType"),
    "another shape": (
        lambda maps: [maps[0], maps[1][..., :3]],
        r"network 'b', layer 'conv1': the fusion of point 0 got a map \(4, 12, 6\) \(channels second\) and gave tensor "
        r"\(4, 12, 3\); it gives maps of the same shapes",
    ),
    "a shape that could be broadcast": (lambda maps: [maps[0].mean(2, keepdim=True), maps[1]], r"gave tensor \(4, 8, 1\)"),
    "maps exchanged": (lambda maps: maps[::-1], r"network 'a', layer 'conv1': .*gave tensor \(4, 12, 6\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED.values(), ids=FUSED)
def test_a_fusion_that_gives_something_else_is_an_error_that_says_what(case: Any) -> None:
    """Never broadcast into the network."""
    fusion, words = case
    model = graft(two(), [point(fusion)], example=inputs())
    with pytest.raises(GraftError, match=words):
        model(inputs())


def test_an_error_inside_of_a_fusion_comes_out_as_it_is() -> None:
    """The user's own bug keeps its type and its words."""

    def broken(maps: list[Tensor]) -> list[Tensor]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        graft(two(), [point(broken)], example=inputs())(inputs())


@pytest.mark.parametrize("example", [True, False])
def test_other_channels_than_the_fusions_in_a_pass_are_an_error(example: bool) -> None:
    """A layer that was read with the wrong axes, or an input of another size; the message has the map and the way out."""
    networks = {"a": nn.Identity(), "b": nn.Identity()}
    x = {"a": torch.randn(ROWS, 8, 5), "b": torch.randn(ROWS, 8, 5)}
    points = [FusionPoint({"a": "", "b": ""}, MSAF((8, 8)))]
    model = graft(networks, points, head=None, example=x if example else None)
    words = (
        r"network 'b', layer '': it gave 5 channels \(map \(4, 5, 8\), read with layout 'BC[A-Z]'\), and MSAF of point 0 "
        r"was built for 8; build it with channels=\(8, 5\), or say the axes with Tap\('', layout=\.\.\.\)"
    )
    with pytest.raises(GraftError, match=words):
        model({**x, "b": x["b"].transpose(1, 2)})


def test_another_number_of_axes_than_the_layout_has_is_an_error_in_a_pass() -> None:
    """What was seen on the example or said of the layer does not fit what came."""
    x = torch.randn(ROWS, 8, 5)
    for tap, example in ((Tap("", layout="BCT"), None), (Tap(""), {"a": x})):
        model = graft({"a": nn.Identity()}, [FusionPoint({"a": tap}, same)], head=None, example=example)
        words = r"network 'a', layer '': its output is \(4, 8, 5, 2\), 4 axes, and its layout is 'BCT'"
        with pytest.raises(GraftError, match=words):
            model({"a": torch.randn(ROWS, 8, 5, 2)})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda x: x.sum(),
            r"network 'a', layer 'layer': expected a tensor \(B, C, \*positions\) to fuse, got tensor \(\)",
        ),
        (lambda x: x[:, 0, 0], r"network 'a', layer 'layer': expected a tensor .*got tensor \(4,\)"),
        (lambda x: None, r"network 'a', layer 'layer': no tensor in its output \(NoneType\).*element="),
        (lambda x: x.to_sparse(), r"network 'a', layer 'layer': its output is a nested or sparse tensor"),
        (lambda x: x.long(), r"(?=.*network 'a', layer 'layer').*(int64|floating)"),
        (lambda x: x.cfloat(), r"(?=.*network 'a', layer 'layer').*(complex64|floating)"),
    ],
    ids=["scalar", "vector", "nothing", "sparse", "integers", "complex"],
)
@pytest.mark.parametrize("fusion", ["MSAF", "callable"])
def test_what_a_layer_gives_is_checked_in_a_pass_too(make: Any, words: str, fusion: str) -> None:
    """Without an example it is seen here first, with network and layer."""
    chosen = MSAF((2, 8), reduction=1) if fusion == "MSAF" else same
    model = graft({"a": Gives(make), "b": Net()}, [point(chosen, a="layer")])
    with pytest.raises(GraftError, match=words):
        model(inputs())


def test_nested_tensors_are_an_error_that_says_how_to_switch_them_off() -> None:
    """An encoder's fast path gives them in evaluation mode."""
    nested = torch.nested.as_nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
    model = graft({"a": nn.Identity()}, [FusionPoint({"a": ""}, same)], head=None)
    with pytest.raises(GraftError, match=r"network 'a', layer '': .*nested or sparse .*enable_nested_tensor=False"):
        model({"a": nested})


def test_a_missing_map_without_an_example_is_an_error_that_asks_for_one() -> None:
    """How wide nothing is cannot be guessed for a fusion that does not say."""
    model = graft(two(), [point(same)])
    with pytest.raises(
        GraftError, match=r"network 'b', layer 'conv1': the width of a missing map .*give graft an example"
    ):
        model({**inputs(), "b": None})


def test_an_optional_or_last_layer_without_an_example_is_an_error() -> None:
    """Both are counted from the example."""
    for tap in (Tap("conv1", call="last"), Tap("conv1", optional=True)):
        with pytest.raises(
            GraftError, match=r"network 'a', layer 'conv1': .* is read from the example; give graft an example"
        ):
            graft(two(), [point(same, a=tap)])


def test_training_on_a_batch_of_one_names_the_point_and_the_ways_out() -> None:
    """The fusion's own message, with networks and layers in the place of numbers."""
    networks = {"a": nn.Conv1d(2, 8, 1), "b": nn.Conv1d(2, 12, 1)}
    model = graft(networks, [FusionPoint({"a": "", "b": ""})], head=None, example=inputs())
    words = r"point 0: batch norm cannot train on a batch of 1: .*norm='layer'.*modality 1 is network 'b', layer ''"
    with pytest.raises(GraftError, match=words):
        model(inputs(rows=1))
    assert model.eval()(inputs(rows=1))["a"].shape == (1, 8, 6)


def test_an_empty_batch_goes_through_in_evaluation() -> None:
    """The last shard of a data set may be empty."""
    assert graft(two(), [point()], example=inputs()).eval()(inputs(rows=0)).shape == (0, 3)


# types, devices, odd networks


def test_networks_of_different_types_are_an_error_that_names_the_one() -> None:
    """A double network beside a float one."""
    networks = two()
    networks["b"].double()
    x = inputs()
    x["b"] = x["b"].double()
    words = r"point 0: modality 1: expected torch\.float32.*got torch\.float64.*network 'b'"
    with pytest.raises(GraftError, match=words):  # noqa: PT012
        model = graft(networks, [point()], example=x)
        model(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_of_one_type_work_in_it(dtype: torch.dtype) -> None:
    """The fusion built for them takes their maps, and gives maps of their type."""
    networks = {name: network.to(dtype) for name, network in two().items()}
    x = {name: value.to(dtype) for name, value in inputs().items()}
    assert graft(networks, [point()], example=x).eval()(x).dtype == dtype


def test_a_half_network_beside_a_full_one_keeps_its_type() -> None:
    """Each goes on in its own type."""
    networks = two()
    networks["a"].bfloat16()
    x = {"a": inputs()["a"].bfloat16(), "b": inputs()["b"]}
    found = graft(networks, [point()], head=None, example=x).eval()(x)
    assert found["a"].dtype == torch.bfloat16
    assert found["b"].dtype == torch.float32


def test_the_fusion_has_the_type_of_the_maps_also_where_the_first_network_has_no_parameters() -> None:
    """Features that come from elsewhere say their own type."""
    x = {"a": torch.randn(ROWS, 8, dtype=torch.float64), "b": torch.randn(ROWS, 2, 6, dtype=torch.float64)}
    networks = {"a": nn.Identity(), "b": Net(12).double()}
    model = graft(networks, [FusionPoint({"a": "", "b": "conv1"})], head=None, example=x)
    assert model(x)["b"].dtype == torch.float64


def test_networks_without_memory_are_grafted_and_run() -> None:
    """Large models are planned on the meta device."""
    networks = {name: network.to("meta") for name, network in two().items()}
    x = {name: value.to("meta") for name, value in inputs().items()}
    found = graft(networks, [point()], example=x)(x)
    assert found.shape == (ROWS, 3)
    assert found.device.type == "meta"


def test_networks_on_different_devices_are_an_error_that_names_the_one() -> None:
    """A map on another device than the fusion."""
    networks, x = two(), inputs()
    networks["b"].to("meta")
    x["b"] = x["b"].to("meta")
    with pytest.raises(GraftError, match=r"point 0: modality 1: .*device.*network 'b', layer 'conv1'"):  # noqa: PT012
        model = graft(networks, [point()], head=None, example=x)
        model(x)


def test_lazy_layers_get_their_sizes_on_the_example() -> None:
    """A network with lazy layers is grafted as it is, and trains."""
    network = nn.Sequential(nn.LazyConv1d(8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    x = inputs()
    model = graft({"a": network, "b": Net(12)}, [point(a="0")], example=x)
    model(x).sum().backward()
    assert network[3].weight.shape == (3, 48)
    assert network[0].weight.grad is not None


def test_compiled_networks_are_an_error_that_says_which_order_is_right() -> None:
    """What was compiled before does not see the fusions."""
    networks = two()
    networks["b"].conv1._compiled_call_impl = lambda x: x  # what Module.compile() sets
    with pytest.raises(GraftError, match=r"network 'b': conv1 is compiled.*graft first, and compile the grafted model"):
        graft(networks, [point()], example=inputs())


def test_packed_sequences_at_two_layers_of_a_point_are_an_error_that_names_the_layer() -> None:
    """Several layers of one network at a point give tensors."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.GRU(2, 8)
            self.two = nn.GRU(2, 8)

        def forward(self, x: Any) -> Any:
            return self.one(x)[0], self.two(x)[0]

    packed = pack_sequence([torch.randn(3, 2), torch.randn(2, 2)])
    words = r"network 'n', layer 'one': of several layers at one point, each gives a tensor; this gave packed sequence"
    with pytest.raises(GraftError, match=words):  # noqa: PT012
        model = graft({"n": Twice()}, [FusionPoint({"n": ["one", "two"]}, same)], head=None, example={"n": packed})
        model({"n": packed})


def test_inference_mode_inside_of_a_network_is_an_error_that_says_what_does() -> None:
    """Its tensors could not be used by the rest of the model."""

    class Frozen(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                return super().forward(x)

    networks = {"a": Frozen(), "b": Net(12)}
    model = graft(networks, [point(MSAF((8, 12)))])
    for _ in range(2):
        with pytest.raises(
            GraftError, match=r"network 'a', layer 'conv1': the network switches torch\.inference_mode.*no_grad"
        ):
            model(inputs())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_a_layer_inside_of_a_reentrant_checkpoint_is_an_error_that_says_the_other_way() -> None:
    """There its output has no graph, so that the fusion would learn nothing from it, silently."""

    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            z = checkpoint(self.conv1, x.requires_grad_(), use_reentrant=True)
            return self.fc(z.mean(2))

    model = graft({"a": Checkpointed(), "b": Net(12)}, [point(MSAF((8, 12)))], example=inputs())
    with pytest.raises(GraftError, match=r"network 'a', layer 'conv1': .*reentrant checkpoint.*use_reentrant=False"):
        model(inputs())


def test_a_network_that_catches_errors_does_not_swallow_those_of_the_fusion() -> None:
    """A fusion's error ends the pass, whatever the network does with exceptions."""

    class Catching(Net):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return super().forward(x)
            except Exception:
                return x.new_zeros(len(x), 3)

    def broken(maps: list[Tensor]) -> list[Tensor]:
        raise ValueError("mine")

    model = graft({"a": Catching(), "b": Net(12)}, [point(broken)], example=inputs())
    with pytest.raises(ValueError, match="mine"):
        model(inputs())


def test_a_copy_of_a_grafted_model_is_as_good_as_the_model() -> None:
    """After an error too."""
    model, x = graft(two(), [point()], example=inputs()).eval(), inputs()
    with pytest.raises(GraftError):
        model({"a": x["a"]})
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_an_unknown_method_is_an_error_of_the_fusions() -> None:
    """As the documentation says."""
    with pytest.raises(FusionInputError, match="no fusion method 'best'"):
        graft(two(), [point("best")], example=inputs())
