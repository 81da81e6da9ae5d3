"""Protects missing modalities: a network that does not run, samples that lack one, and what that leaves untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import GraftError, TorchmsafError
from torchmsaf.fusion import create_fusion
from torchmsaf.grafting import FusionPoint, GraftedModel, Tap, graft
from torchmsaf.msaf import MSAF

ROWS = 4


class Net(nn.Module):
    """A small network on ``(B, 2, T)`` that counts its runs."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, width, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, classes)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.fc(self.conv2(self.relu(self.conv(x))).mean(2))


def inputs(names: str = "ab", steps: int = 6, rows: int = ROWS) -> dict[str, Tensor]:
    return {name: torch.randn(rows, 2, steps + index) for index, name in enumerate(names)}


def make(
    names: str = "ab",
    head: Any = "sum",
    fusion: Any = None,
    *,
    example: bool = True,
    classes: tuple[int, ...] = (3, 3, 3),
) -> GraftedModel:
    widths = (8, 12, 8)[: len(names)]
    networks = {name: Net(width, k) for name, width, k in zip(names, widths, classes, strict=False)}
    points = [
        FusionPoint(dict.fromkeys(names, layer), MSAF(widths, norm="layer", reduction=2) if fusion is None else fusion)
        for layer in ("conv", "conv2")
    ]
    return graft(networks, points, head=head, example=inputs(names) if example else None)


def passing(maps: list[Tensor], present: Tensor | None = None, masks: Any = None) -> list[Tensor]:
    return maps


class Joined(nn.Module):
    """A head of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, outputs: list[Tensor], present: Tensor | None = None) -> Tensor:
        flags = torch.ones(len(outputs[0]), 2).bool() if present is None else present
        kept = [torch.where(flags[:, m, None], z, 0) for m, z in enumerate(outputs)]
        return self.fc(torch.cat(kept, 1))


def flags(*rows: str) -> Tensor:
    return torch.tensor([[one == "1" for one in row] for row in rows])


# a modality that is None


def test_a_network_whose_input_is_none_does_not_run() -> None:
    """It costs nothing; the others run once."""
    model = make("abc")
    before = {name: model.networks[name].runs for name in "abc"}
    model({**inputs("abc"), "b": None})
    assert {name: model.networks[name].runs - before[name] for name in "abc"} == {"a": 1, "b": 0, "c": 1}


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("head", ["sum", "mean"])
def test_its_share_of_a_sum_and_a_mean_is_left_out(head: str, example: bool) -> None:
    """The prediction is that of the networks that ran."""
    model, x = make("ab", head, passing, example=example), inputs()
    if example:
        assert torch.equal(model({**x, "b": None}), model.networks["a"](x["a"]))
        assert torch.equal(model({**x, "a": None}), model.networks["b"](x["b"]))
    else:
        with pytest.raises(
            GraftError, match=r"network 'b', layer 'conv': the width of a missing map.*give graft an example"
        ):
            model({**x, "b": None})


def test_its_share_of_a_concatenation_is_zeros_of_its_own_width() -> None:
    """The classifier behind a concatenation has its columns where they always are."""
    model, x = make("ab", "concat", passing, classes=(3, 5)), inputs()
    with torch.no_grad():
        a, b = model.networks["a"](x["a"]), model.networks["b"](x["b"])
    assert torch.equal(model({**x, "b": None}), torch.cat([a, torch.zeros(ROWS, 5)], 1))
    assert torch.equal(model({**x, "a": None}), torch.cat([torch.zeros(ROWS, 3), b], 1))


def test_without_an_example_a_concatenation_does_not_change_its_width() -> None:
    """Zeros of the wrong width would move all columns; the width is known or it is an error that says so."""
    model, x = make("ab", "concat", example=False, classes=(3, 5)).eval(), inputs()
    try:
        found = model({**x, "b": None})
    except TorchmsafError as error:
        assert "example" in str(error)  # noqa: PT017
    else:
        assert found.shape == model(x).shape == (ROWS, 8)


def test_a_module_as_head_is_told_who_is_there() -> None:
    """Zeros in the place of the output, and False in present."""
    head = Joined()
    model, x = make("ab", head, passing), inputs()
    found = model({**x, "b": None})
    a = model.networks["a"](x["a"])
    torch.testing.assert_close(found, head.fc(torch.cat([a, torch.zeros(ROWS, 3)], 1)))


def test_without_a_head_the_outputs_are_of_those_that_ran() -> None:
    """No key for a network that gave nothing."""
    assert list(make("abc", None)({**inputs("abc"), "b": None})) == ["a", "c"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head", ["sum", "mean", "concat", "module", None])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_none_is_as_present_all_false(head: str | None, norm: str, training: bool) -> None:
    """A modality that no sample has is as one that is not there at all, in MSAF and in the head."""
    fusion = MSAF((8, 12), norm=norm, reduction=2)  # type: ignore[arg-type]
    model = make("ab", Joined() if head == "module" else head, fusion).train(training)
    x = inputs()
    found = model({**x, "b": None})
    expected = model(x, present=flags(*["10"] * ROWS))
    if head is None:
        torch.testing.assert_close(found["a"], expected["a"])
    else:
        torch.testing.assert_close(found, expected)


def test_none_leaves_the_fusion_to_the_others() -> None:
    """MSAF over two of three is MSAF that had been called with the third absent."""
    model, x = make("abc").eval(), inputs("abc")
    a, c = model.networks["a"], model.networks["c"]
    maps = {"a": a.conv(x["a"]), "c": c.conv(x["c"])}
    for fusion, layer in zip(model.fusions, ("relu", "fc"), strict=True):
        got = fusion([maps["a"], torch.zeros(ROWS, 12, 1), maps["c"]], present=flags(*["101"] * ROWS))
        maps["a"], maps["c"] = got[0], got[2]
        if layer == "relu":
            maps = {name: net.conv2(net.relu(maps[name])) for name, net in (("a", a), ("c", c))}
    expected = a.fc(maps["a"].mean(2)) + c.fc(maps["c"].mean(2))
    # the layers above were called outside of a pass of the model, so that their hooks were silent
    torch.testing.assert_close(model({**x, "b": None}), expected)


def test_a_network_that_did_not_run_learns_nothing() -> None:
    """No gradient at all, so that an optimizer leaves it alone; the others have theirs."""
    model = make("abc")
    model({**inputs("abc"), "b": None}).sum().backward()
    assert all(p.grad is None for p in model.networks["b"].parameters())
    assert all(p.grad is not None for name in "ac" for p in model.networks[name].parameters())


@pytest.mark.parametrize("missing", ["a", "b", "c"])
def test_any_network_may_be_missing_the_first_and_the_last_too(missing: str) -> None:
    """Type, device and batch of the zeros come from whoever is there."""
    model, x = make("abc").double(), {name: value.double() for name, value in inputs("abc").items()}
    found = model({**x, missing: None})
    assert found.shape == (ROWS, 3)
    assert found.dtype == torch.float64
    assert found.isfinite().all()


def test_one_network_alone_runs() -> None:
    """With two of three missing."""
    model, x = make("abc").eval(), inputs("abc")
    assert model({"a": x["a"], "b": None, "c": None}).shape == (ROWS, 3)


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_nothing_at_all_is_an_error(names: str) -> None:
    """It says that at least one network has to run."""
    with pytest.raises(GraftError, match=r"inputs: every modality is None; at least one network has to run"):
        make(names)(dict.fromkeys(names))


@pytest.mark.parametrize("fusion", ["msaf", "mmtm"])
def test_methods_by_name_take_a_missing_modality(fusion: str) -> None:
    """MSAF and MMTM have present."""
    model = make("ab", "sum", fusion).eval()
    assert model({**inputs(), "b": None}).isfinite().all()


@pytest.mark.parametrize("segments", [2, 3])
@pytest.mark.parametrize("steps", [4, 6, 9])
def test_segments_take_a_missing_modality(segments: int, steps: int) -> None:
    """However long the others are now, and whatever the example was."""
    model = make("ab", "sum", MSAF((8, 12), segments=segments)).eval()
    x = inputs(steps=steps)
    found = model({**x, "b": None})
    torch.testing.assert_close(found, model(x, present=flags(*["10"] * ROWS)))


def test_segments_take_a_missing_modality_without_an_example() -> None:
    """The map of a network that does not run has as many steps as segments need."""
    model = make("ab", "sum", MSAF((8, 12), segments=3), example=False).eval()
    assert model({**inputs(), "b": None}).shape == (ROWS, 3)


def test_dense_predictions_of_another_size_than_the_examples_take_a_missing_modality() -> None:
    """The zeros in the place of a missing output have the positions of the others' outputs, not of the example's."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    networks = {"a": Dense(), "b": Dense()}
    example = {name: torch.randn(2, 2, 6) for name in "ab"}
    model = graft(networks, [FusionPoint({"a": "conv", "b": "conv"}, passing)], example=example)
    x = torch.randn(2, 2, 9)
    assert torch.equal(model({"a": x, "b": None}), networks["a"](x))


def test_a_network_at_no_point_may_be_missing_with_any_fusion() -> None:
    """A fusion that takes no present is not asked to, if all of its own networks are there."""
    networks = {"a": Net(), "b": Net(), "c": Net()}
    points = [FusionPoint({"a": "conv", "b": "conv"}, lambda maps: [maps[0] + maps[1].mean(), maps[1]])]
    x = {name: torch.randn(ROWS, 2, 6) for name in "abc"}
    model = graft(networks, points, example=x)
    with torch.no_grad():
        whole, c = model(x), networks["c"](x["c"])
        torch.testing.assert_close(model({**x, "c": None}), whole - c)
    with pytest.raises(GraftError, match="no parameter 'present'"):
        model({**x, "b": None})


def test_a_point_of_missing_networks_alone_is_not_met() -> None:
    """There is nothing to fuse, and no error."""
    met: list[int] = []

    def fusion(maps: list[Tensor], present: Tensor | None = None) -> list[Tensor]:
        met.append(len(maps))
        return maps

    networks = {"a": Net(), "b": Net(), "c": Net()}
    points = [FusionPoint({"b": "conv", "c": "conv"}, fusion)]
    x = {name: torch.randn(ROWS, 2, 6) for name in "abc"}
    model = graft(networks, points, example=x)
    assert torch.equal(model({"a": x["a"], "b": None, "c": None}), networks["a"](x["a"]))
    assert not met


# samples that lack a modality


def junk_in(x: dict[str, Tensor], present: Tensor, junk: float) -> dict[str, Tensor]:
    dirty = {name: value.clone() for name, value in x.items()}
    for m, value in enumerate(dirty.values()):
        value[~present[:, m]] = junk
    return dirty


PRESENT = flags("111", "101", "110", "100")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head", ["sum", "mean", "concat"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e30])
def test_what_an_absent_sample_holds_changes_nothing_in_the_others(
    junk: float, norm: str, head: str, training: bool
) -> None:
    """Outputs, gradients of other networks and of the fusions, and running statistics are the same to the last bit."""
    x, results = inputs("abc"), []
    for values in (x, junk_in(x, PRESENT, junk)):
        torch.manual_seed(5)
        model = make("abc", head, MSAF((8, 12, 8), norm=norm, reduction=2)).train(training)  # type: ignore[arg-type]
        values = {name: value.clone().requires_grad_() for name, value in values.items()}
        out = model(values, present=PRESENT)
        out.mul(torch.arange(1.0, out.numel() + 1).view_as(out)).sum().backward()
        own = ["a"] if not abs(junk) < float("inf") else ["a", "b", "c"]
        grads = [p.grad for name in own for p in model.networks[name].parameters()]
        grads += [p.grad for p in model.fusion_parameters()]
        grads += [value.grad[PRESENT[:, m]] for m, value in enumerate(values.values())]
        results.append([out, *grads, *model.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert results[0][0].isfinite().all()


@pytest.mark.parametrize("head", ["sum", "mean"])
def test_a_sample_that_lacks_a_modality_is_as_in_a_batch_without_it(head: str) -> None:
    """Sample by sample, a mixed batch gives what batches of one kind give."""
    model, x = make("ab", head).eval(), inputs()
    present = flags("11", "10", "01", "11")
    mixed = model(x, present=present)
    for row, (a, b) in enumerate(present.tolist()):
        one = {name: value[row : row + 1] for name, value in x.items()}
        alone = model({"a": one["a"] if a else None, "b": one["b"] if b else None})
        torch.testing.assert_close(mixed[row : row + 1], alone)


def test_present_all_true_is_as_saying_nothing() -> None:
    """To the last digits."""
    model, x = make("abc").eval(), inputs("abc")
    torch.testing.assert_close(model(x, present=torch.ones(ROWS, 3).bool()), model(x))


def test_none_and_present_add_up() -> None:
    """A network that is None is absent for all, whatever its column says; the others are as their columns say."""
    model, x = make("abc").eval(), inputs("abc")
    expected = model({**x, "c": None}, present=flags("110", "100", "010", "110"))
    for column in ("1", "0"):
        present = flags(*[row + column for row in ("11", "10", "01", "11")])
        assert torch.equal(model({**x, "c": None}, present=present), expected)
    torch.testing.assert_close(expected, model(x, present=flags("110", "100", "010", "110")))


def test_the_columns_are_of_the_networks_and_not_of_the_points_taps() -> None:
    """A point that names networks in another order, or some of them, gets its own columns."""
    got: list[Tensor] = []

    def fusion(maps: list[Tensor], present: Tensor) -> list[Tensor]:
        got.append(present)
        return maps

    networks = {"a": Net(), "b": Net(), "c": Net()}
    points = [
        FusionPoint({"c": "conv", "a": "conv"}, fusion),
        FusionPoint({"b": [Tap("conv", read_only=True), "conv2"], "a": "conv2"}, fusion),
    ]
    x = {name: torch.randn(ROWS, 2, 6) for name in "abc"}
    graft(networks, points, example=x)(x, present=PRESENT)
    assert torch.equal(got[0], PRESENT[:, [2, 0]])
    assert torch.equal(got[1], PRESENT[:, [1, 1, 0]])


@pytest.mark.parametrize("how", ["None", "present"])
def test_a_fusion_without_present_is_an_error_that_says_what_has_it(how: str) -> None:
    """It would fuse zeros, or garbage, as if they were maps."""

    def mix(maps: list[Tensor]) -> list[Tensor]:
        return maps

    model, x = make("ab", "sum", mix), inputs()
    words = r"point 0: .*mix has no parameter 'present', and a modality is missing; all methods of torchmsaf have it"
    with pytest.raises(GraftError, match=words):
        model({**x, "b": None} if how == "None" else x, present=None if how == "None" else flags(*["11"] * ROWS))
    assert model(x).shape == (ROWS, 3)


def test_a_module_as_fusion_without_present_is_named_by_its_class() -> None:
    """Not as a function somewhere in the library."""

    class Mixing(nn.Module):
        def forward(self, maps: list[Tensor]) -> list[Tensor]:
            return maps

    with pytest.raises(GraftError, match=r"point 0: Mixing has no parameter 'present', and a modality is missing"):
        make("ab", "sum", Mixing())({**inputs(), "b": None})


@pytest.mark.parametrize(
    ("present", "words"),
    [
        (torch.ones(ROWS, 3).bool(), r"present.*\(4, 2\).*\(4, 3\)"),
        (torch.ones(3, 2).bool(), r"present.*\(4, 2\).*\(3, 2\)"),
        (torch.ones(1, 2).bool(), r"present.*\(4, 2\).*\(1, 2\)"),
        (torch.ones(ROWS).bool(), r"present.*\(4, 2\).*\(4,\)"),
        (torch.tensor(True), r"present.*booleans \(B, M\)"),
        (torch.ones(ROWS, 2), r"present.*booleans.*torch\.float32"),
        (torch.ones(ROWS, 2).long(), r"present.*booleans.*torch\.int64"),
        ([[True, True]] * ROWS, r"present.*booleans.*list"),
        (True, r"present.*booleans.*bool"),
        ({"a": torch.ones(ROWS).bool()}, r"present.*booleans.*dict"),
    ],
    ids=["modalities", "samples", "one sample", "one axis", "scalar", "floats", "integers", "list", "bool", "dict"],
)
@pytest.mark.parametrize("fusion", ["msaf", "callable"])
def test_present_that_is_no_flag_a_sample_and_network_is_an_error(present: Any, words: str, fusion: str) -> None:
    """Never broadcast, whether the fusion looks at it or not; with what was expected and what came."""
    model = make("ab", "sum", passing if fusion == "callable" else None)
    with pytest.raises(TorchmsafError, match=words):
        model(inputs(), present=present)


def test_every_intermediate_method_is_as_if_the_absent_were_not_there() -> None:
    """By name as by module."""
    x = inputs()
    present = flags("11", "10", "11", "10")
    for method in ("msaf", "mmtm"):
        torch.manual_seed(1)
        model = make("ab", "sum", create_fusion(method, channels=(8, 12))).eval()
        assert torch.equal(model(x, present=present), model(junk_in(x, present, float("nan")), present=present))
