"""Protects the heads: what they make of the networks' outputs, of absent ones, and of shapes that do not agree."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import GraftError
from torchmsaf.fusion import create_fusion
from torchmsaf.grafting import FusionPoint, graft


def networks(*widths: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(2, width) for name, width in zip("abc", widths, strict=False)}


def inputs(names: Any, rows: int = 4) -> dict[str, Tensor]:
    return {name: torch.randn(rows, 2) for name in names}


def passing(maps: list[Tensor], **asked: Any) -> list[Tensor]:
    return maps


def model(parts: dict[str, nn.Module], head: Any, **options: Any) -> Any:
    return graft(parts, [FusionPoint(dict.fromkeys(parts, ""), passing)], head=head, **options)


PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()


def test_sum_is_the_sum() -> None:
    """Of logits: the product of the networks' probabilities."""
    parts, x = networks(3, 3, 3), inputs("abc")
    torch.testing.assert_close(model(parts, "sum")(x), sum(parts[name](x[name]) for name in "abc"))


def test_mean_is_the_mean() -> None:
    """Over all networks."""
    parts, x = networks(3, 3, 3), inputs("abc")
    torch.testing.assert_close(model(parts, "mean")(x), torch.stack([parts[name](x[name]) for name in "abc"]).mean(0))


def test_concat_is_one_after_the_other() -> None:
    """Along axis 1, in the order of the networks, of any widths."""
    parts, x = networks(3, 1, 2), inputs("abc")
    assert torch.equal(model(parts, "concat")(x), torch.cat([parts[name](x[name]) for name in "abc"], 1))


def test_the_default_head_is_the_sum() -> None:
    """As in the paper."""
    parts, x = networks(3, 3), inputs("ab")
    found = graft(parts, [FusionPoint({"a": "", "b": ""}, passing)])(x)
    torch.testing.assert_close(found, parts["a"](x["a"]) + parts["b"](x["b"]))


def test_no_head_is_the_dict_of_outputs() -> None:
    """In the order of the networks."""
    parts, x = networks(3, 1), inputs("ab")
    found = model(parts, None)({"b": x["b"], "a": x["a"]})
    assert list(found) == ["a", "b"]
    assert all(torch.equal(found[name], parts[name](x[name])) for name in "ab")


class Classifier(nn.Module):
    """A module of one's own, that is given the list of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 2)

    def forward(self, outputs: list[Tensor]) -> Tensor:
        assert isinstance(outputs, list)
        return self.fc(torch.cat(outputs, 1))


class Present(Classifier):
    got: Any = "nothing"

    def forward(self, outputs: list[Tensor], present: Tensor | None = None) -> Tensor:
        self.got = present
        return super().forward(outputs)


def test_a_module_gets_the_list_of_outputs_in_the_order_of_the_networks() -> None:
    """And learns with the model."""
    parts, x, head = networks(3, 2), inputs("ab"), Classifier()
    whole = model(parts, head)
    found = whole({"b": x["b"], "a": x["a"]})
    assert torch.equal(found, head.fc(torch.cat([parts["a"](x["a"]), parts["b"](x["b"])], 1)))
    assert set(head.parameters()) <= set(whole.parameters())
    assert whole.head is head


def test_a_module_that_takes_present_gets_it_where_something_is_missing() -> None:
    """The flags of all networks in order; nothing where nothing was said."""
    parts, x, head = networks(3, 2), inputs("ab"), Present()
    whole = model(parts, head, example=x)
    whole(x)
    assert head.got is None
    whole(x, present=PRESENT[:, :2])
    assert torch.equal(head.got, PRESENT[:, :2])
    whole({"a": x["a"], "b": None})
    assert head.got.tolist() == [[True, False]] * 4


def test_a_module_without_present_is_an_error_where_something_is_missing() -> None:
    """It would take zeros, or garbage, for a prediction; the message has its class and what is missing in it."""
    whole, x = model(networks(3, 2), Classifier(), example=inputs("ab")), inputs("ab")
    words = r"Classifier as head has no parameter 'present', and a modality is missing"
    with pytest.raises(GraftError, match=words):
        whole({"a": x["a"], "b": None})
    with pytest.raises(GraftError, match=words):
        whole(x, present=PRESENT[:, :2])
    assert whole(x).shape == (4, 2)


@pytest.mark.parametrize("junk", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("head", ["sum", "mean", "concat"])
def test_what_is_absent_is_left_out_whatever_is_there(head: str, junk: float) -> None:
    """Sample by sample: the sum and the mean are of those present, and a concatenation has zeros."""
    parts, x = networks(3, 3, 3), inputs("abc")
    expected = [torch.where(PRESENT[:, m : m + 1], parts[name](x[name]), 0) for m, name in enumerate("abc")]
    for m, name in enumerate("abc"):
        x[name][~PRESENT[:, m]] = junk
    found = model(parts, head)(x, present=PRESENT)
    count = PRESENT.sum(1, keepdim=True).clamp(min=1)
    by_hand = {"sum": sum(expected), "mean": sum(expected) / count, "concat": torch.cat(expected, 1)}
    torch.testing.assert_close(found, by_hand[head])


@pytest.mark.parametrize("head", ["sum", "mean"])
@pytest.mark.parametrize("example", [True, False])
def test_shapes_that_do_not_agree_are_an_error_that_names_networks_and_shapes(head: str, example: bool) -> None:
    """Never broadcast: a width of one is not a width of three. The message has the heads that would do."""
    x = inputs("abc")
    words = (
        rf"head '{head}': network 'c' gives \(4, 1\) and 'a' gives \(4, 3\); use head='concat', a module, or head=None"
    )
    with pytest.raises(GraftError, match=words):
        model(networks(3, 3, 1), head, example=x if example else None)(x)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 2), ()], ids=str)
def test_concat_of_other_ranks_is_an_error_that_names_the_network(shape: tuple[int, ...]) -> None:
    """The message has the shape that came and the one that is expected."""

    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).new_zeros(shape)

    words = rf"head 'concat': network 'b' gives {re.escape(str(shape))}; expected \(B, K\), of one rank for all"
    parts = {"a": nn.Linear(2, 3), "b": Shaped()}
    whole = graft(parts, [FusionPoint({"a": "", "b": "layer"}, passing)], head="concat")
    with pytest.raises(GraftError, match=words):
        whole(inputs("ab"))


def test_maps_are_summed_and_joined_along_the_channels() -> None:
    """Dense predictions ``(B, K, H, W)`` go through every head."""
    parts = {"a": nn.Conv2d(1, 3, 1), "b": nn.Conv2d(1, 3, 1)}
    x = {name: torch.randn(4, 1, 2, 5) for name in "ab"}
    maps = [parts[name](x[name]) for name in "ab"]
    torch.testing.assert_close(model(parts, "sum")(x), maps[0] + maps[1])
    torch.testing.assert_close(model(parts, "concat")(x), torch.cat(maps, 1))
    present = PRESENT[:, :2]
    kept = [torch.where(present[:, m].view(4, 1, 1, 1), z, 0) for m, z in enumerate(maps)]
    torch.testing.assert_close(
        model(parts, "mean")(x, present=present), sum(kept) / torch.tensor([2, 1, 1, 1]).view(4, 1, 1, 1)
    )


def test_heads_do_not_change_the_networks_outputs_in_place() -> None:
    """What a user keeps of an output, in a hook or a cache, stays as it was."""
    kept: list[Tensor] = []
    parts, x = networks(3, 3), inputs("ab")
    whole = model(parts, "sum")
    for name in "ab":
        parts[name].register_forward_hook(lambda module, args, output: kept.append(output))
    whole(x)
    assert all(torch.equal(z, parts[name](x[name])) for name, z in zip("ab", kept[:2], strict=True))


@pytest.mark.parametrize("head", ["sum", "mean", "concat"])
def test_gradients_reach_the_networks_that_are_there_alone(head: str) -> None:
    """An absent sample teaches its network nothing."""
    parts, x = networks(3, 3), inputs("ab")
    present = torch.tensor([[True, False], [True, True], [True, False], [True, True]])
    model(parts, head)(x, present=present).pow(2).sum().backward()
    found = parts["b"].weight.grad.clone()
    for part in parts.values():
        part.zero_grad()
    some = present[:, 1]
    only = {name: value[some] for name, value in x.items()}
    model(parts, head)(only).pow(2).sum().backward()
    torch.testing.assert_close(found, parts["b"].weight.grad)


@pytest.mark.parametrize(
    "head",
    ["max", "", "Sum", 3, True, ["sum"], {"sum"}, lambda outputs: outputs, nn.Linear],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_head_is_an_error_that_lists_the_heads(head: Any) -> None:
    """Of any type, hashable or not."""
    with pytest.raises(GraftError, match=r"head is 'sum', 'mean', 'concat', 'branch', a module, or None, got "):
        model(networks(3, 3), head)


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def test_the_branch_head_predicts_from_what_grew_along_the_points() -> None:
    parts, x = {"a": deep(), "b": deep()}, inputs("ab")
    points = [FusionPoint({"a": layer, "b": layer}, "centralnet", width=4) for layer in ("1", "3")]
    grafted = graft(parts, points, head="branch", example=x)
    features: list[list[Tensor]] = [[parts[name][:end](x[name]) for name in "ab"] for end in (2, 4)]
    _, branch = grafted.fusions[0].grow(features[0], None)
    _, branch = grafted.fusions[1].grow(features[1], branch)
    torch.testing.assert_close(grafted(x), grafted.head.layer(branch))
    grafted(x).sum().backward()
    assert all(p.grad is not None for p in grafted.fusion_parameters())
    assert grafted({"a": x["a"], "b": None}).isfinite().all()


def test_a_module_that_takes_the_branch_gets_it_beside_the_outputs() -> None:
    """For all task losses: the central prediction and the networks' own."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, outputs: list[Tensor], branch: Tensor) -> tuple[Tensor, list[Tensor]]:
            return self.layer(branch), outputs

    parts, x = {"a": deep(), "b": deep()}, inputs("ab")
    grafted = graft(parts, [FusionPoint({"a": "1", "b": "1"}, "centralnet", width=4)], head=Both(), example=x)
    said, outputs = grafted(x)
    assert said.shape == (4, 3)
    assert all(torch.equal(z, parts[name](x[name])) for name, z in zip("ab", outputs, strict=True))


def test_a_branch_head_needs_a_fusion_that_grows_one_and_an_example() -> None:
    parts, x = {"a": deep(), "b": deep()}, inputs("ab")
    taps = {"a": "1", "b": "1"}
    with pytest.raises(GraftError, match=r"head 'branch' reads a branch, and no fusion here grows one; .*centralnet"):
        graft(parts, [FusionPoint(taps, "mmtm")], head="branch", example=x)
    with pytest.raises(GraftError, match="head 'branch': the width of its output is read from the example"):
        graft(parts, [FusionPoint(taps, create_fusion("centralnet", channels=(6, 6)))], head="branch")


def test_a_head_that_can_do_without_a_branch_needs_none() -> None:
    class Optional(nn.Module):
        def forward(self, outputs: list[Tensor], branch: Tensor | None = None) -> tuple[Tensor, bool]:
            return outputs[0], branch is not None

    class Anything(nn.Module):
        def forward(self, outputs: list[Tensor], **asked: Any) -> tuple[Tensor, bool]:
            return outputs[0], "branch" in asked

    parts, x = {"a": deep(), "b": deep()}, inputs("ab")
    for head in (Optional(), Anything()):
        for method, grown in (("mmtm", False), ("centralnet", True)):
            grafted = graft(parts, [FusionPoint({"a": "1", "b": "1"}, method)], head=head, example=x)
            assert grafted(x)[1] is grown
            grafted.ungraft()


@pytest.mark.parametrize("last", [nn.Flatten(0), nn.Unflatten(1, (3, 1))])
def test_a_branch_head_is_as_wide_as_predictions_and_nothing_else(last: nn.Module) -> None:
    parts, x = {"a": nn.Sequential(*deep(), last), "b": deep()}, inputs("ab")
    with pytest.raises(GraftError, match=r"as wide as the output of network 'a', which should be \(B, K\)"):
        graft(parts, [FusionPoint({"a": "1", "b": "1"}, "centralnet")], head="branch", example=x)


def test_a_branch_that_no_network_grows_is_an_error() -> None:
    parts, x = {name: deep() for name in "abc"}, inputs("abc")
    grafted = graft(parts, [FusionPoint({"a": "1", "b": "1"}, "centralnet")], head="branch", example=x)
    with pytest.raises(GraftError, match="Branch as head needs a branch, and no network that grows one runs"):
        grafted({"a": None, "b": None, "c": x["c"]})
