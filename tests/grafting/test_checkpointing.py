"""Protects gradient checkpointing of networks with tapped layers: gradients are those without it, or there is an error."""

from __future__ import annotations

import copy
import gc
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from tests.grafting.test_tools import SMALL, Convolutions, Perceptron, assert_same, found, graft_by_taps, step
from torchmsaf.errors import GraftError
from torchmsaf.grafting import FusionPoint, Tap, graft

kept = partial(checkpoint, use_reentrant=False)


def not_kept(function, *args, **_):
    """The same call without a checkpoint."""
    return function(*args)


# ---- forwards of a network, where ``self.kept`` is one of the two


def end(self, x):
    """The tapped layer is the last of the region."""
    x = self.kept(self.first, x)
    return self.third(self.second(x))


def middle(self, x):
    """More is done in the region after the tapped layer."""
    x = self.kept(lambda x: torch.tanh(self.first(x)).sin(), x)
    return self.third(self.second(x))


def two(self, x):
    """Two tapped layers in one region."""
    x = self.kept(lambda x: self.second(self.first(x)).sin(), x)
    return self.third(x)


def each_its_own(self, x):
    """A region for each tapped layer."""
    x = self.kept(self.first, x)
    x = self.kept(self.second, x)
    return self.third(x)


def all_of_it(self, x):
    """The whole network."""
    return self.kept(self.plain, x)


def nested(self, x):
    """A region in a region, the tapped layer in the inner one."""
    x = self.kept(lambda x: self.second(self.kept(self.first, x)).sin(), x)
    return self.third(x)


def nested_around(self, x):
    """A region in a region, a tapped layer after the inner one."""
    x = self.kept(lambda x: self.second(self.kept(torch.tanh, self.first(x))), x)
    return self.third(x)


def with_hooks(self, x):
    """Hooks of saved tensors in a region, the tapped layer inside of them."""

    def region(x):
        with torch.autograd.graph.save_on_cpu():
            x = self.first(x)
        return torch.tanh(self.second(x))

    return self.third(self.kept(region, x))


def in_place(self, x):
    """What the tapped layer gave is changed in place."""
    x = self.kept(lambda x: self.second(self.first(x).mul_(2).add_(1)), x)
    return self.third(x)


def selected(self, x):
    """Selective checkpointing: products are kept, the rest is computed again."""
    keep = [torch.ops.aten.addmm.default, torch.ops.aten.mm.default, torch.ops.aten.convolution.default]
    contexts = partial(create_selective_checkpoint_contexts, keep)
    x = self.kept(lambda x: torch.tanh(self.second(torch.tanh(self.first(x)))), x, context_fn=contexts)
    return self.third(x)


FORWARDS = [end, middle, two, each_its_own, all_of_it, nested, nested_around, with_hooks, in_place, selected]


def models(forward, number=2, p=0.0, both=True):
    """A model with checkpoints, in one of the networks or both, and one without, with equal parameters."""

    def network(kind, keep):
        body = {"forward": forward, "plain": kind.forward, "kept": staticmethod(kept if keep else not_kept)}
        return type(kind.__name__, (kind,), body)(p)

    networks = {"c": network(Convolutions, both), "p": network(Perceptron, True)}
    plain = {"c": network(Convolutions, False), "p": network(Perceptron, False)}
    model, other = (_graft(one, number) for one in (networks, plain))
    other.load_state_dict(model.state_dict())
    return model, other


def _graft(networks, number):
    points = [FusionPoint({"c": c, "p": p}, "msaf", **SMALL) for c, p in (("norm", "early"), ("late", "late"))]
    inputs = {"c": torch.randn(2, 3, 7), "p": torch.randn(2, 5)}
    model = graft(networks, points[:number], example=inputs)
    for p in model.fusions.parameters():
        nn.init.normal_(p)
    return model


def inputs(batch=4):
    return {"c": torch.randn(batch, 3, 7), "p": torch.randn(batch, 5)}


def without_statistics(result):
    """Batch norm in a region counts the recomputation too, with and without grafting."""
    return result[:2]


@pytest.mark.parametrize("both", [True, False], ids=["both", "one"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_gradients_are_those_without_checkpoints(forward, number, both):
    """Protects training with less memory: what is recomputed has the fused map where the fusion was."""
    model, plain = models(forward, number, both=both)
    for batch in (4, 3):
        x = inputs(batch)
        assert_same(without_statistics(step(model, x)), without_statistics(step(plain, x)))


@pytest.mark.parametrize("forward", [middle, two, all_of_it], ids=lambda forward: forward.__name__)
def test_dropout_in_a_region_is_drawn_once(forward):
    """Protects dropout around and after the tap: the recomputation draws the same."""
    model, plain = models(forward, p=0.4)
    x, results = inputs(), []
    for one in (model, plain):
        torch.manual_seed(3)
        results.append(without_statistics(step(one, x)))
    assert_same(*results)


@pytest.mark.parametrize("forward", [middle, two, nested, all_of_it], ids=lambda forward: forward.__name__)
def test_two_forwards_before_the_backwards(forward):
    """Protects accumulation with checkpoints: each pass has its own fused maps."""
    model, plain = models(forward)
    batches, results = (inputs(), inputs(3)), []
    for one in (model, plain):
        outputs = [one(x) for x in batches]
        sum(out.square().sum() for out in outputs).backward()
        results.append(without_statistics(found(one, *outputs)))
    assert_same(*results)


@pytest.mark.parametrize("forward", FORWARDS[:-1], ids=lambda forward: forward.__name__)
def test_backward_twice_through_a_retained_graph(forward):
    """Protects ``retain_graph``: each backward pass recomputes, and finds the fused maps of all calls again."""
    model, _ = models(forward)
    loss = model(inputs()).square().sum()
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("forward", [middle, two, all_of_it], ids=lambda forward: forward.__name__)
def test_gradients_of_gradients(forward):
    """Protects penalties on gradients, in evaluation mode, through what is recomputed."""
    model, plain = models(forward)
    x, results = inputs(), []
    for one in (model.eval(), plain.eval()):
        leaf = x["c"].clone().requires_grad_()
        (slope,) = torch.autograd.grad(one(x | {"c": leaf}).square().sum(), leaf, create_graph=True)
        slope.square().sum().backward()
        results.append(without_statistics(found(one, slope)))
    assert_same(*results)


@pytest.mark.parametrize("early_stop", [True, False])
def test_with_and_without_an_early_stop(early_stop):
    """Protects both ways in which torch ends a recomputation."""
    model, plain = models(two)
    x = inputs()
    with torch.utils.checkpoint.set_checkpoint_early_stop(early_stop):
        got = step(model, x)
    assert_same(without_statistics(got), without_statistics(step(plain, x)))


@pytest.mark.parametrize("call", ["each", "first", "last"])
def test_a_layer_that_runs_several_times_in_a_region(call):
    """Protects the order of calls: the recomputation's second call gets what the second call got."""

    class Loop(nn.Module):
        def __init__(self, keep):
            super().__init__()
            self.cell, self.out, self.keep = nn.Linear(6, 6), nn.Linear(6, 4), keep

        def region(self, x):
            for _ in range(3):
                x = torch.tanh(self.cell(x))
            return x

        def forward(self, x):
            return self.out(kept(self.region, x) if self.keep else self.region(x))

    x, results = {"a": torch.randn(4, 6), "b": torch.randn(4, 6)}, []
    for keep in (True, False):
        torch.manual_seed(2)
        point = FusionPoint({name: Tap("cell", call=call) for name in "ab"}, "msaf", **SMALL)
        model = graft({name: Loop(keep) for name in "ab"}, [point], example=x)
        nn.init.normal_(model.fusions[0].highlight.weight)
        results.append(without_statistics(step(model, x)))
    assert_same(*results)


def test_a_network_checkpointed_inside_of_a_wrapper():
    """Protects wrappers that checkpoint what they hold, such as a ready-made network."""

    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return kept(self.inner, x)

    networks = {"c": Wrapper(Convolutions()), "p": Perceptron()}
    plain = copy.deepcopy(networks)
    point = FusionPoint({"c": "inner.norm", "p": "early"}, "msaf", **SMALL)
    model = graft(networks, [point], example=inputs())
    plain["c"].forward = plain["c"].inner.forward
    other = graft(plain, [point], example=inputs())
    other.load_state_dict(model.state_dict())
    x = inputs()
    assert_same(without_statistics(step(model, x)), without_statistics(step(other, x)))


@pytest.mark.parametrize(
    ("reentrant", "forward"), [(False, Convolutions.forward), (True, Convolutions.forward), (False, two)]
)
def test_the_whole_model_checkpointed(reentrant, forward):
    """Protects a checkpoint around the grafted model, with and without others inside: everything runs again there."""
    model, plain = models(forward)
    x = {name: value.requires_grad_() for name, value in inputs().items()}

    def call(x):
        return checkpoint(lambda c, p: model({"c": c, "p": p}), x["c"], x["p"], use_reentrant=reentrant)

    assert_same(without_statistics(step(model, x, call)), without_statistics(step(plain, x)))


def test_a_checkpoint_around_the_whole_model_keeps_no_map():
    """Protects the memory that a checkpoint is for: no map outlives the forward pass."""
    model = graft_by_taps({"c": Convolutions(), "p": Perceptron()})
    x = {"c": torch.randn(5, 3, 77), "p": torch.randn(5, 5)}
    out = kept(model, x)
    gc.collect()
    maps = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.shape == (5, 6, 77)]
    assert not maps
    out.sum().backward()


def test_a_reentrant_checkpoint_around_a_tapped_layer_is_refused():
    """Protects from lost gradients: the error names the network and the layer and says what to do."""

    class Old(Convolutions):
        def forward(self, x):
            again = (lambda f, x: f(x)) if not self.training else partial(checkpoint, use_reentrant=True)
            return self.third(self.second(again(self.first, x)))

    networks = {"c": Old(), "p": Perceptron()}
    model = _graft(networks, 1)
    x = inputs()
    x["c"].requires_grad_()
    with pytest.raises(GraftError, match=r"'c', layer 'norm'.*reentrant.*use_reentrant=False"):
        model(x)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert model(x).shape == (4, 4)


def test_a_checkpointed_network_on_its_own_is_recomputed_as_it_is():
    """Protects a grafted network outside of its model: its checkpoints find no fused maps, and take none."""
    model, plain = models(two)
    x = inputs()
    kept_out = model(x)
    network, other = model.networks["c"], plain.networks["c"]
    assert_same(without_statistics(step(network, x["c"])), without_statistics(step(other, x["c"])))
    kept_out.sum().backward()
