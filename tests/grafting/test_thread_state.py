"""Protects each network's own switches while networks take turns: the others and the fusion do not see them."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import gc
import traceback

import pytest
import torch
from greenlet import greenlet

from tests.grafting.test_tools import (
    SMALL,
    Convolutions,
    Perceptron,
    Recurrent,
    assert_same,
    graft_by_taps,
    pair,
    some_inputs,
    step,
)
from torchmsaf.errors import GraftError
from torchmsaf.grafting import FusionPoint, graft
from torchmsaf.grafting.thread_state import ThreadState, saved_tensor_hooks


@contextlib.contextmanager
def hooks(log=None):
    """Hooks of saved tensors that change what is saved, so that a tensor under the wrong ones is noticed."""

    def pack(x):
        if log is not None:
            log.append(tuple(x.shape))
        return x.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


AROUND = {"autocast": bfloat16, "no_grad": torch.no_grad, "hooks": hooks}


def networks_with(around, which=0):
    """Two networks, one of which has a context around both of its tapped layers."""
    networks = {"c": Convolutions(), "p": Perceptron()}
    list(networks.values())[which].around = around
    return networks


def switches():
    """What is on in this thread."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        saved_tensor_hooks(),
        len(torch.overrides._get_current_function_mode_stack()),
        len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
    )


def spy(layer, seen):
    layer.register_forward_pre_hook(lambda *_: seen.append(switches()))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize("number", [1, 2])
def test_a_context_inside_of_one_network_is_its_own(kind, which, number):
    """Protects autocast, frozen trunks and hooks inside of a network: results are those by hand, the others see nothing."""
    model, hand = pair(networks_with(AROUND[kind], which), number)
    inputs, before = some_inputs(model.networks._modules), switches()
    other = list(model.networks._modules.values())[1 - which]
    seen = []
    for layer in (other.early, other.late, other.out, *model.fusions):
        spy(layer, seen)
    inside = []
    own = list(model.networks._modules.values())[which]
    spy(own.early, inside)
    spy(own.late, inside)
    for _ in range(2):
        assert_same(step(model, inputs), step(hand, inputs), rtol=0, atol=0)
    assert set(seen) == {before}
    assert before not in inside
    assert switches() == before


def test_both_networks_have_a_context_of_their_own():
    """Protects two different contexts that are open at once."""
    networks = {"c": Convolutions(), "p": Perceptron(), "r": Recurrent()}
    networks["c"].around, networks["p"].around = bfloat16, torch.no_grad
    networks["r"].around = hooks
    model, hand = pair(networks)
    inputs, before = some_inputs(networks), switches()
    assert_same(step(model, inputs), step(hand, inputs), rtol=0, atol=0)
    assert all(p.grad is None for p in networks["p"].early.parameters())
    assert all(p.grad is not None for p in networks["c"].early.parameters())
    assert switches() == before


def test_autocast_turned_off_inside_of_one_network():
    """Protects networks that leave the model's autocast around some layers."""

    def off():
        return torch.autocast("cpu", enabled=False)

    model, hand = pair(networks_with(off))
    inputs, types = some_inputs(model.networks._modules), {}
    for name, network in model.networks._modules.items():
        network.late.register_forward_hook(lambda _, args, out, name=name: types.update({name: out.dtype}))

    def cast(one):
        def call(x):
            with bfloat16():
                return one(x)

        return call

    assert_same(step(model, inputs, cast(model)), step(hand, inputs, cast(hand)), rtol=0, atol=0)
    assert types == {"c": torch.float32, "p": torch.bfloat16}


def test_gradients_turned_on_inside_of_one_network():
    """Protects ``enable_grad`` inside of a network of a model that runs without gradients."""
    model, _ = pair(networks_with(torch.enable_grad))
    seen = []
    spy(model.networks["c"].late, seen)
    spy(model.networks["p"].late, seen)
    with torch.no_grad():
        model(some_inputs(model.networks._modules))
    assert sorted(one[0] for one in seen) == [False, True]


def test_hooks_of_saved_tensors_see_their_own_network_alone():
    """Protects offloading inside of a network: nothing of the other network or the fusion goes through its hooks."""
    log = []
    model, _ = pair(networks_with(lambda: hooks(log), 1), 2)
    inputs = some_inputs(model.networks._modules, 5)
    out = model(inputs)
    during = list(log)
    out.sum().backward()
    alone = copy.deepcopy(model.networks["p"])
    log.clear()
    alone(inputs["p"])
    assert during
    assert sorted(during) == sorted(log)


def test_hooks_around_the_model_see_all_and_those_inside_their_own():
    """Protects hooks inside of hooks: the order in which they were put is the order in which they are taken off."""
    outer, inner = [], []
    model, hand = pair(networks_with(lambda: hooks(inner)))
    inputs = some_inputs(model.networks._modules)
    results = []
    for one in (model, hand):
        outer.clear()
        inner.clear()

        def call(x, one=one):
            with hooks(outer):
                before = switches()
                out = one(x)
                assert switches() == before
            return out

        results.append([*step(one, inputs, call), sorted(outer), sorted(inner)])
    assert_same(*results, rtol=0, atol=0)
    assert results[0][3]
    assert results[0][4]


@pytest.mark.parametrize("which", [0, 1])
def test_inference_mode_inside_of_one_network_is_refused(which):
    """Protects from tensors that cannot be trained: the error says where and what to do, and leaves nothing behind."""
    networks = networks_with(torch.inference_mode, which)
    model = graft_by_taps(networks)
    name = "cp"[which]
    inputs, before = some_inputs(networks), switches()
    layer = networks[name].taps[0]
    with pytest.raises(GraftError, match=rf"'{name}', layer '{layer}'.*inference_mode.*torch.no_grad"):
        model(inputs)
    assert switches() == before
    with torch.inference_mode():
        assert model.eval()(inputs).shape == (4, 4)
    del networks[name].around
    plain = ThreadState.now()
    step(model.train(), inputs)
    assert ThreadState.now() == plain


class Device(torch.overrides.TorchFunctionMode):
    def __init__(self, log):
        super().__init__()
        self.log = log

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.log.append(func)
        return func(*args, **(kwargs or {}))


class Dispatch(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self, log):
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.log.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Device, Dispatch])
def test_a_mode_inside_of_one_network_is_its_own(mode):
    """Protects ``with torch.device(...)`` and counters of operations in a network: they see that network alone."""
    log = []
    networks = networks_with(lambda: mode(log), 1)
    model, hand = pair(networks)
    inputs, before, seen = some_inputs(networks), switches(), []
    for layer in (networks["c"].late, *model.fusions):
        spy(layer, seen)
    log.clear()
    model(inputs)
    got = len(log)
    log.clear()
    hand(inputs)
    assert switches() == before
    assert {one[-2:] for one in seen} == {(0, 0)}
    assert got == len(log)


# ---- errors


def fail(*_):
    raise ValueError("this line failed")


def fail_in_backward(_, grads):
    raise ValueError("this line failed")


class Interrupted(KeyboardInterrupt):
    pass


def interrupt(*_):
    raise Interrupted


PLACES = {
    "first network before the point": lambda model: model.networks["c"].early,
    "first network after the point": lambda model: model.networks["c"].late,
    "second network before the point": lambda model: model.networks["p"].early,
    "second network after the point": lambda model: model.networks["p"].late,
    "last stage of the first network": lambda model: model.networks["c"].out,
    "fusion": lambda model: model.fusions[0],
    "second fusion": lambda model: model.fusions[1],
    "head": lambda model: model.head,
}


def waiting():
    """Greenlets that were left in their middle."""
    gc.collect()
    return [one for one in gc.get_objects() if issubclass(type(one), greenlet) and bool(one) and one.parent is not None]


@pytest.mark.parametrize("kind", [*AROUND, "nothing"])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_arrives_and_leaves_nothing_behind(place, kind):
    """Protects what comes after an error: networks unwound, switches as before, and the same results in the next pass."""
    closed = []

    @contextlib.contextmanager
    def around():
        with AROUND.get(kind, contextlib.nullcontext)():
            try:
                yield
            finally:
                closed.append(1)

    networks = {"c": Convolutions(), "p": Perceptron()}
    networks["c"].around = networks["p"].around = around
    model = graft_by_taps(networks).eval()
    inputs = some_inputs(networks)
    with hooks():
        before = switches()
        expected = model(inputs)
        closed.clear()
        opened = []
        for network in networks.values():
            network.early.register_forward_pre_hook(lambda *_: opened.append(1))
        for what, error in ((fail, ValueError), (interrupt, Interrupted)):
            opened.clear()
            closed.clear()
            handle = PLACES[place](model).register_forward_pre_hook(what)
            with pytest.raises(error) as caught:
                model(inputs)
            handle.remove()
            lines = "".join(traceback.format_exception(caught.value))
            assert what.__name__ in lines
            if place.split()[0] in ("first", "second") and "network" in place:
                assert "in forward" in lines
                assert __file__.replace("test_thread_state", "test_tools") in lines
            if what is fail and "network" in place:
                name = "c" if "first network" in place else "p"
                assert f"network {name!r}" in lines
            started = 1 if place == "first network before the point" else 2
            assert len(closed) == started
            assert switches() == before
            assert not waiting()
            torch.testing.assert_close(model(inputs), expected, rtol=0, atol=0)
            assert switches() == before
    assert saved_tensor_hooks() is None


def test_an_error_in_the_backward_pass_leaves_the_model_usable():
    """Protects the pass after a failed backward."""
    networks = {"c": Convolutions(), "p": Perceptron()}
    model = graft_by_taps(networks)
    other, inputs = copy.deepcopy(model), some_inputs(networks)
    handle = networks["c"].early.register_full_backward_pre_hook(fail_in_backward)
    with pytest.raises(ValueError, match="this line failed"):
        model(inputs).sum().backward()
    handle.remove()
    other(inputs)
    assert_same(step(model, inputs), step(other, inputs), rtol=0, atol=0)


def test_a_network_whose_cleanup_fails_does_not_keep_the_others_from_theirs():
    """Protects unwinding: every network's ``finally`` runs, though one of them raises."""
    closed = []

    def closing(name):
        @contextlib.contextmanager
        def around():
            try:
                yield
            finally:
                closed.append(name)
                raise RuntimeError(f"cleanup of {name}")

        return around

    networks = {"a": Perceptron(), "b": Perceptron(), "c": Perceptron()}
    model = graft_by_taps(networks, 1)
    inputs, before = some_inputs(networks), switches()
    networks["a"].around = closing("a")
    networks["b"].around = torch.no_grad
    networks["c"].early.register_forward_pre_hook(fail)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        model(inputs)
    assert closed == ["a"]
    lines = "".join(traceback.format_exception(caught.value))
    assert "this line failed" in lines
    assert "cleanup of a" in lines
    del caught
    assert switches() == before
    assert not waiting()


def test_a_network_that_catches_its_own_error_goes_on():
    """Protects networks with a way out: what they catch themselves is no error of the model."""

    class Careful(Perceptron):
        def forward(self, x):
            x = self.early(x)
            try:
                raise ValueError("caught")
            except ValueError:
                x = torch.tanh(x)
            return self.third(self.late(x))

    networks = {"c": Convolutions(), "p": Careful()}
    model, hand = pair(networks)
    inputs = some_inputs(networks)
    assert_same(step(model, inputs), step(hand, inputs), rtol=0, atol=0)


# ---- Python's own


def test_context_variables_set_outside_are_seen_inside():
    """Protects settings that travel in context variables, before and after a point."""
    variable = contextvars.ContextVar("variable", default="unset")
    networks = {"c": Convolutions(), "p": Perceptron()}
    model, seen = graft_by_taps(networks), []
    for layer in (networks["c"].early, networks["c"].late, networks["p"].out, *model.fusions):
        layer.register_forward_pre_hook(lambda *_: seen.append(variable.get()))
    token = variable.set("outside")
    model(some_inputs(networks))
    variable.reset(token)
    assert seen == ["outside"] * 5


def test_a_context_variable_set_inside_of_one_network_is_its_own():
    """Protects context variables of two networks that are open at once."""
    variable = contextvars.ContextVar("variable", default="unset")

    def setting(value):
        @contextlib.contextmanager
        def around():
            token = variable.set(value)
            try:
                yield
            finally:
                variable.reset(token)

        return around

    networks, seen = {"c": Convolutions(), "p": Perceptron()}, []
    model = graft_by_taps(networks)
    for name, network in networks.items():
        network.around = setting(name)
        network.late.register_forward_pre_hook(lambda *_, name=name: seen.append((name, variable.get())))
    model.fusions[1].register_forward_pre_hook(lambda *_: seen.append(("fusion", variable.get())))
    model(some_inputs(networks))
    assert sorted(seen) == [("c", "c"), ("fusion", "unset"), ("p", "p")]
    assert variable.get() == "unset"


def test_a_network_made_of_generators():
    """Protects networks that leave and enter their own generators around a tapped layer."""

    class Stream(Perceptron):
        def parts(self, x):
            x = yield self.first(x)
            x = yield self.second(x)
            yield self.third(x)

        def forward(self, x):
            parts = self.parts(x)
            x = next(parts)
            x = parts.send(x)
            return parts.send(x)

    networks = {"c": Convolutions(), "p": Stream()}
    model, hand = pair(networks)
    inputs = some_inputs(networks)
    assert_same(step(model, inputs), step(hand, inputs), rtol=0, atol=0)


def test_random_numbers_are_drawn_in_the_order_of_the_turns():
    """Protects repeatable training: the same seed gives the same dropout, in order of networks between points."""
    networks = {"c": Convolutions(0.5), "p": Perceptron(0.5)}
    model, hand = pair(networks)
    inputs, results = some_inputs(networks), []
    for one in (model, hand, model):
        torch.manual_seed(5)
        results.append(step(one, inputs)[:2])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=0)


def test_a_model_runs_inside_of_a_greenlet_of_the_user():
    """Protects servers that use greenlets themselves: the model's turns stay among themselves."""
    networks = {"a": Perceptron(), "b": Perceptron()}
    inputs = some_inputs(networks)
    point = FusionPoint({"a": "early", "b": "early"}, "msaf", **SMALL)
    model = graft(networks, [point], example=inputs).eval()
    results = []

    def serve():
        results.append(model(inputs))

    serving = greenlet(serve)
    serving.switch()
    assert serving.dead
    torch.testing.assert_close(results[0], model(inputs), rtol=0, atol=0)
