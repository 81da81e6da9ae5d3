"""Protects training of grafted models under PyTorch's tools: results are those of the same networks interleaved by hand."""

from __future__ import annotations

import copy
import gc
import io
import shutil
import subprocess
import sys
import threading
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from tests.bf16 import skip_lstm_without_bf16
from torchmsaf.grafting import FusionPoint, GraftedModel, Tap, graft

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")

# ---- networks, each in three stages with a tapped layer at the end of the first two


class Stages(nn.Module):
    """A network as people write it; ``stages`` is for the interleaving by hand alone."""

    taps: tuple[str, str]
    last_axis_is_channels = False
    # entered around the first two stages
    around = nullcontext

    def forward(self, x):
        with self.around():
            x = self.first(x)
            x = self.second(x)
        return self.third(x.float())

    def stages(self):
        def inside(stage):
            def run(x):
                with self.around():
                    return stage(x)

            return run

        return inside(self.first), inside(self.second), lambda x: self.third(x.float())

    def to_map(self, output):
        return output.movedim(-1, 1) if self.last_axis_is_channels else output

    def from_map(self, fused):
        return fused.movedim(1, -1) if self.last_axis_is_channels else fused


class Convolutions(Stages):
    taps = ("norm", "late")

    def __init__(self, p=0.0):
        super().__init__()
        self.early = nn.Conv1d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(p)
        self.late = nn.Conv1d(6, 6, 3, padding=1)
        self.out = nn.Linear(6, 4)

    def first(self, x):
        return self.norm(self.early(x))

    def second(self, x):
        return self.late(self.drop(torch.relu(x)))

    def third(self, x):
        return self.out(torch.relu(x).mean(2))


class Perceptron(Stages):
    taps = ("early", "late")

    def __init__(self, p=0.0):
        super().__init__()
        self.early = nn.Linear(5, 4)
        self.drop = nn.Dropout(p)
        self.late = nn.Linear(4, 6)
        self.out = nn.Linear(6, 4)

    def first(self, x):
        return self.early(x)

    def second(self, x):
        return self.late(self.drop(torch.tanh(x)))

    def third(self, x):
        return self.out(torch.tanh(x))


class Recurrent(Stages):
    taps = ("early", "late")
    last_axis_is_channels = True

    def __init__(self):
        super().__init__()
        self.early = nn.LSTM(3, 4, batch_first=True)
        self.late = nn.LSTM(4, 6, batch_first=True)
        self.out = nn.Linear(6, 4)

    def first(self, x):
        return self.early(x)[0]

    def second(self, x):
        return self.late(x)[0]

    def third(self, x):
        return self.out(x[:, -1])


class Attending(Stages):
    taps = ("encoder.layers.0", "encoder.layers.1")
    last_axis_is_channels = True

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        return self.third(self.encoder(x))

    def first(self, x):
        return self.encoder.layers[0](x)

    def second(self, x):
        return self.encoder.layers[1](x)

    def third(self, x):
        return self.out(x.mean(1))


SMALL = {"block_channels": 2, "reduction": 1}
INPUTS = {Convolutions: (3, 7), Perceptron: (5,), Recurrent: (5, 3), Attending: (4, 6)}


def some_inputs(networks, batch=4):
    kinds = {name: next(kind for kind in INPUTS if isinstance(network, kind)) for name, network in networks.items()}
    return {name: torch.randn(batch, *INPUTS[kind]) for name, kind in kinds.items()}


class ByHand(nn.Module):
    """The interleaving that a user would write: stages in turns, the fusions between them."""

    def __init__(self, networks, fusions):
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.fusions = fusions

    def forward(self, inputs):
        x = {name: inputs[name] for name in self.networks}
        for number, fusion in enumerate(self.fusions):
            x = {name: network.stages()[number](x[name]) for name, network in self.networks.items()}
            fused = fusion([network.to_map(x[name]) for name, network in self.networks.items()])
            x = {name: network.from_map(one) for (name, network), one in zip(self.networks.items(), fused, strict=True)}
        ends = []
        for name, network in self.networks.items():
            stages = network.stages()
            with network.around() if len(self.fusions) < 2 else nullcontext():
                for stage in stages[len(self.fusions) : 2]:
                    x[name] = stage(x[name])
            ends.append(stages[2](x[name]))
        return sum(ends[1:], ends[0])


def graft_by_taps(networks, number=2, **options):
    """Networks fused at their first taps; the fusions do something from the start."""
    points = [
        FusionPoint({name: network.taps[i] for name, network in networks.items()}, "msaf", **SMALL | options)
        for i in range(number)
    ]
    model = graft(networks, points, example=some_inputs(networks))
    for p in model.fusions.parameters():
        nn.init.normal_(p)
    return model


def pair(networks, number=2, **options):
    """A grafted model, and the same by hand, with parameters of their own that are equal."""
    alone = copy.deepcopy(networks)
    model = graft_by_taps(networks, number, **options)
    return model, ByHand(alone, copy.deepcopy(model.fusions))


def step(model, inputs, call=None, target=None):
    """Forward and backward: what came out, and all gradients and buffers."""
    model.zero_grad()
    out = (model if call is None else call)(inputs)
    (out.float() - (1.0 if target is None else target)).square().sum().backward()
    return found(model, out)


def found(model, *outputs):
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return [list(outputs), grads, {name: b.clone() for name, b in model.named_buffers()}]


def assert_same(got, expected, **tolerance):
    torch.testing.assert_close(got, expected, **{"rtol": 1e-5, "atol": 1e-6} | tolerance)
    assert any(g is not None and g.abs().max() > 0 for g in expected[1].values())


PAIRS = [(Convolutions, Perceptron), (Recurrent, Attending), (Attending, Convolutions)]


@pytest.fixture(params=PAIRS, ids=lambda kinds: "-".join(kind.__name__ for kind in kinds))
def networks(request):
    return {f"n{i}": kind() for i, kind in enumerate(request.param)}


# ---- training steps


@pytest.mark.parametrize("number", [1, 2])
def test_a_grafted_model_gives_outputs_gradients_and_statistics_of_one_written_by_hand(networks, number):
    """Protects the claim that everything else rests on: grafting is the interleaving, nothing more."""
    model, hand = pair(networks, number)
    for batch in (4, 3):
        inputs = some_inputs(networks, batch)
        assert_same(step(model, inputs), step(hand, inputs), rtol=0, atol=0)


def test_optimizer_steps_are_those_of_the_model_by_hand_and_lower_the_loss(networks):
    """Protects ten steps of Adam: the parameters that the optimizer has are those that the forward pass uses."""
    model, hand = pair(networks)
    inputs, target = some_inputs(networks, 6), torch.randn(6, 4)
    losses = []
    for one in (model, hand):
        optimizer = torch.optim.Adam(one.parameters(), lr=1e-2)
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            loss = (one(inputs) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert losses[0][-1] < 0.9 * losses[0][0]


def test_autocast_around_the_whole_model(networks):
    """Protects mixed precision as it is used: one autocast around the forward pass."""
    model, hand = pair(networks)
    skip_lstm_without_bf16(model)
    inputs = some_inputs(networks)

    def cast(one):
        def call(x):
            with torch.autocast("cpu", torch.bfloat16):
                return one(x)

        return call

    got, expected = step(model, inputs, cast(model)), step(hand, inputs, cast(hand))
    assert got[0][0].dtype == torch.bfloat16
    assert_same(got, expected, rtol=0, atol=0)


def test_two_forwards_then_one_backward():
    """Protects losses over two passes: nothing of the first pass is lost to, or mixed into, the second."""
    networks = {"c": Convolutions(), "p": Perceptron()}
    model, hand = pair(networks)
    batches = some_inputs(networks), some_inputs(networks, 3)
    results = []
    for one in (model, hand):
        outputs = [one(x) for x in batches]
        sum(out.square().sum() for out in outputs).backward()
        results.append(found(one, *outputs))
    assert_same(*results)


def test_gradients_accumulate_over_two_backward_passes():
    """Protects accumulation of gradients: two backward passes, then one step."""
    networks = {"c": Convolutions(), "p": Perceptron()}
    model, hand = pair(networks)
    batches = some_inputs(networks), some_inputs(networks, 3)
    for one in (model, hand):
        for x in batches:
            one(x).square().sum().backward()
        torch.optim.SGD(one.parameters(), lr=0.1).step()
    torch.testing.assert_close(list(model.parameters()), list(hand.parameters()), rtol=1e-5, atol=1e-6)


def test_a_retained_graph_gives_the_same_gradients_again(networks):
    """Protects ``retain_graph``: the graph through the fusions can be walked twice."""
    model, hand = pair(networks)
    inputs = some_inputs(networks)
    results = []
    for one in (model, hand):
        out = one(inputs).square().sum()
        first = torch.autograd.grad(out, list(one.parameters()), retain_graph=True)
        second = torch.autograd.grad(out, list(one.parameters()))
        torch.testing.assert_close(first, second)
        results.append(first)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_nothing_of_a_forward_pass_is_kept():
    """Protects memory: what a layer got is free when the pass is over, without the garbage collector's help."""
    networks = {"c": Convolutions(), "p": Perceptron()}
    model = graft_by_taps(networks)
    refs = []
    for layer in (*networks["c"].children(), *networks["p"].children(), *model.fusions):
        layer.register_forward_hook(
            lambda layer, args, out: refs.extend(weakref.ref(x) for x in (out if isinstance(out, list) else [out]))
        )
    inputs = some_inputs(networks)
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            model(inputs)
        assert len(refs) == 13
        assert not [ref for ref in refs if ref() is not None]
    finally:
        gc.enable()


# ---- copies, files, other ways to call


def copied(model):
    return copy.deepcopy(model)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model):
    return swa_utils.AveragedModel(model).module


@pytest.mark.parametrize("make", [copied, saved_and_loaded, averaged])
def test_a_copy_trains_as_the_model_does_and_apart_from_it(networks, make):
    """Protects copies: hooks and fusions of a copy are its own."""
    model, _ = pair(networks)
    other, inputs = make(model), some_inputs(networks)
    expected = step(model, inputs)
    assert all(p.grad is None for p in other.parameters())
    got = step(other, inputs)
    assert_same(got, expected, rtol=0, atol=0)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert_same(step(other, inputs)[:2], expected[:2], rtol=0, atol=0)


def test_an_average_of_models_follows_and_runs(networks):
    """Protects ``AveragedModel``: the average's own forward pass fuses with the averaged weights."""
    model, hand = pair(networks)
    inputs = some_inputs(networks)
    results = []
    for one in (model, hand):
        average = swa_utils.AveragedModel(one, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True)
        for _ in range(2):
            step(one, inputs)
            torch.optim.SGD(one.parameters(), lr=0.01).step()
            average.update_parameters(one)
        results.append(average.eval()(inputs))
    torch.testing.assert_close(*results)


def test_functional_call_with_other_parameters(networks):
    """Protects ``functional_call``: parameters given for one call are used by networks and fusions alike."""
    model, hand = pair(networks)
    inputs = some_inputs(networks)
    expected = None
    for one in (model, hand):
        other = {name: (p * 1.5).detach().requires_grad_() for name, p in one.named_parameters()}
        out = torch.func.functional_call(one, other, (inputs,))
        grads = torch.autograd.grad(out.sum(), list(other.values()))
        assert not torch.equal(out, one(inputs))
        if expected is None:
            expected = (out, grads)
    torch.testing.assert_close((out, grads), expected)


def test_a_state_dict_is_that_of_the_model_by_hand(networks):
    """Protects files of weights: parameters keep the networks' own names."""
    model, hand = pair(networks)
    assert list(model.state_dict()) == list(hand.state_dict())
    with torch.no_grad():
        for p in hand.parameters():
            p.mul_(1.5)
    model.load_state_dict(hand.state_dict())
    inputs = some_inputs(networks)
    assert_same(step(model, inputs), step(hand, inputs), rtol=0, atol=0)


# ---- networks that are used elsewhere too


def test_a_grafted_network_alone_is_the_plain_network(networks):
    """Protects networks outside of the model, itself and a copy: the fusion takes no part."""
    plain = copy.deepcopy(networks)
    model = graft_by_taps(networks)
    inputs = some_inputs(networks)
    model(inputs)
    for name, network in networks.items():
        plain[name].load_state_dict(network.state_dict())
        expected = step(plain[name], inputs[name])
        for one in (copy.deepcopy(network), network):
            assert_same(step(one, inputs[name]), expected, rtol=0, atol=0)


def test_two_grafted_models_share_a_network():
    """Protects two models on one network: each has its own fusions there, and its gradients add up."""
    shared, left, right = Convolutions(), Perceptron(), Perceptron()
    alone = copy.deepcopy((shared, left, right))
    models = [graft_by_taps({"s": shared, "o": other}) for other in (left, right)]
    hands = [
        ByHand({"s": alone[0], "o": other}, copy.deepcopy(model.fusions))
        for model, other in zip(models, alone[1:], strict=True)
    ]
    inputs = {"s": torch.randn(4, 3, 7), "o": torch.randn(4, 5)}
    results = []
    for two in (models, hands):
        outputs = [one(inputs) for one in two]
        sum(out.square().sum() for out in outputs).backward()
        results.append([found(one, out) for one, out in zip(two, outputs, strict=True)])
    for got, expected in zip(*results, strict=True):
        assert_same(got, expected)


def test_one_network_under_two_names():
    """Protects siamese networks: both runs meet each other, and the shared parameters get both gradients."""
    network = Convolutions()
    model, hand = pair({"a": network, "b": network})
    inputs = {"a": torch.randn(4, 3, 7), "b": torch.randn(4, 3, 9)}
    assert model.networks["a"] is model.networks["b"]
    assert_same(step(model, inputs), step(hand, inputs))
    assert int(network.norm.num_batches_tracked) == 2


class Nested(nn.Module):
    """A grafted model and one more network fused with a layer inside of it, by hand."""

    def __init__(self, inner, other, fusions, outer):
        super().__init__()
        self.networks = nn.ModuleDict({"inner": ByHand(inner, fusions), "other": other})
        self.fusions = nn.ModuleList([outer])

    def forward(self, inputs):
        (c, p), other = self.networks["inner"].networks.values(), self.networks["other"]
        a, b = c.first(inputs["inner"][0]["c"]), p.first(inputs["inner"][0]["p"])
        a, b = self.networks["inner"].fusions[0]([a, b])
        a, b = c.second(a), p.second(b)
        z = other.second(other.first(inputs["other"]))
        a, z = self.fusions[0]([a, z.movedim(-1, 1)])
        return c.third(a) + p.third(b) + other.third(z.movedim(1, -1))


def test_a_grafted_model_as_a_network_of_another():
    """Protects nesting: the outer fusion taps a layer of a network inside of the inner grafted model."""
    c, p, other = Convolutions(), Perceptron(), Recurrent()
    alone = copy.deepcopy((c, p, other))
    inner = graft_by_taps({"c": c, "p": p}, 1)
    inputs = {"inner": ({"c": torch.randn(4, 3, 7), "p": torch.randn(4, 5)},), "other": torch.randn(4, 5, 3)}
    point = FusionPoint({"inner": "networks.c.late", "other": "late"}, "msaf", **SMALL)
    model = graft({"inner": inner, "other": other}, [point], example=inputs)
    nn.init.normal_(model.fusions[0].highlight.weight)
    hand = Nested(
        {"c": alone[0], "p": alone[1]}, alone[2], copy.deepcopy(inner.fusions), copy.deepcopy(model.fusions[0])
    )
    for one in (model, copy.deepcopy(model)):
        got, expected = step(one, inputs), step(copy.deepcopy(hand), inputs)
        assert_same(got, expected)
    assert_same(step(inner, inputs["inner"][0])[:2], step(hand.networks["inner"], inputs["inner"][0])[:2])


def test_an_error_inside_of_an_inner_model_ends_all_networks():
    """Protects nested models after an error: the same results as before."""
    inner = graft_by_taps({"c": Convolutions(), "p": Perceptron()}, 1)
    inputs = {"inner": ({"c": torch.randn(4, 3, 7), "p": torch.randn(4, 5)},), "other": torch.randn(4, 5, 3)}
    point = FusionPoint({"inner": "networks.c.late", "other": "late"}, "msaf", **SMALL)
    model = graft({"inner": inner, "other": Recurrent()}, [point], example=inputs).eval()
    expected = model(inputs)

    def fail(*_):
        raise ValueError("here")

    for layer in (inner.networks["p"].late, model.networks["other"].out, inner.networks["c"].out, model.fusions[0]):
        handle = layer.register_forward_pre_hook(fail)
        with pytest.raises(ValueError, match="here"):
            model(inputs)
        handle.remove()
        torch.testing.assert_close(model(inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("call", ["each", "first", "last"])
def test_a_layer_that_runs_several_times(call):
    """Protects layers called several times in training: the calls that are fused have gradients of their own."""

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            for _ in range(3):
                x = torch.tanh(self.cell(x))
            return self.out(x)

    networks = {"a": Loop(), "b": Loop()}
    a, b = copy.deepcopy(networks).values()
    inputs = {"a": torch.randn(4, 6), "b": torch.randn(4, 6)}
    point = FusionPoint({name: Tap("cell", call=call) for name in networks}, "msaf", **SMALL)
    model = graft(networks, [point], example=inputs)
    nn.init.normal_(model.fusions[0].highlight.weight)
    fusion = copy.deepcopy(model.fusions[0])
    x, y = inputs.values()
    for i in range(3):
        x, y = a.cell(x), b.cell(y)
        if call == "each" or i == {"first": 0, "last": 2}[call]:
            x, y = fusion([x, y])
        x, y = torch.tanh(x), torch.tanh(y)
    out = a.out(x) + b.out(y)
    out.square().sum().backward()
    got = model(inputs)
    got.square().sum().backward()
    expected = [p.grad for module in (a, b, fusion) for p in module.parameters()]
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)
    torch.testing.assert_close(got, out)


def test_threads_run_one_model_at_once():
    """Protects serving from several threads: each pass has the answers of its own inputs."""
    networks = {"c": Convolutions(), "p": Perceptron()}
    model = graft_by_taps(networks).eval()
    barrier = threading.Barrier(2, timeout=120)
    # both threads are inside of the model, after the first point
    handle = networks["c"].late.register_forward_pre_hook(lambda *_: (barrier.wait(), None)[1])
    batches = [some_inputs(networks, 3) for _ in range(2)]
    results = [None, None]

    def work(i):
        for _ in range(20):
            out = model(batches[i])
            results[i] = (out, torch.autograd.grad(out.sum(), list(model.parameters())))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    for inputs, result in zip(batches, results, strict=True):
        out = model(inputs)
        assert result is not None
        torch.testing.assert_close(result, (out, torch.autograd.grad(out.sum(), list(model.parameters()))))


# ---- several processes


def test_distributed_in_one_process_with_a_missing_modality(tmp_path):
    """Protects DistributedDataParallel: a None input leaves a network without gradients, and the next step goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        networks = {"c": Convolutions(), "p": Perceptron()}
        model = graft_by_taps(networks)
        alone = copy.deepcopy(model)
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        whole = some_inputs(networks)
        for inputs in (whole, whole | {"p": None}, whole | {"c": None}, whole):
            for call in (wrapped, alone):
                call(inputs).square().sum().backward()
            for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(model.state_dict(), alone.state_dict())
    finally:
        torch.distributed.destroy_process_group()


WORKER = """
import os, sys, warnings
import torch
from torch import nn
from torchmsaf.grafting import FusionPoint, graft

warnings.simplefilter("ignore")
torch.set_num_threads(1)
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

def make():
    torch.manual_seed(0)
    networks = {name: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)) for name in "ab"}
    return graft(networks, [FusionPoint({"a": "0", "b": "0"}, "msaf", block_channels=2, reduction=1, norm="layer")],
                 example={"a": torch.randn(2, 5), "b": torch.randn(2, 5)})

model, alone = make(), make()
wrapped = nn.parallel.DistributedDataParallel(model)
optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, alone)]
for step in range(3):
    torch.manual_seed(step)
    batches = [{name: torch.randn(4, 5) for name in "ab"} for _ in range(2)]
    for optimizer in optimizers:
        optimizer.zero_grad()
    wrapped(batches[rank]).square().sum().backward()
    (sum(alone(x).square().sum() for x in batches) / 2).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in alone.parameters()])
    for optimizer in optimizers:
        optimizer.step()
flat = nn.utils.parameters_to_vector(model.parameters()).detach()
both = [torch.empty_like(flat) for _ in range(2)]
torch.distributed.all_gather(both, flat)
assert torch.equal(*both)
torch.distributed.destroy_process_group()
print("same", flush=True)
os._exit(0)  # gloo's threads still hold tensors: an ordinary end of the interpreter aborts in about one process of 25
"""


@pytest.mark.slow
def test_distributed_in_two_processes_averages_the_gradients(tmp_path):
    """Protects real distributed training: gradients are the average, and the parameters stay the same on both sides."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            out, error = worker.communicate(timeout=600)
            assert (worker.returncode, out.strip()) == (0, "same"), error[-2000:]
    finally:
        for worker in workers:
            worker.kill()


# ---- torch.compile


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("kinds", PAIRS[1:], ids=lambda kinds: "-".join(kind.__name__ for kind in kinds))
def test_compiled_training_gives_what_the_model_gives(kinds):
    """Protects torch.compile in training: fusions run once, statistics move once, at another batch size too."""
    torch._dynamo.reset()
    networks = {f"n{i}": kind() for i, kind in enumerate(kinds)}
    model = graft_by_taps(networks)
    other = copy.deepcopy(model)
    calls = count_calls(other.fusions[0])
    compiled = torch.compile(other, backend="aot_eager")
    for batch in (4, 6, 4):
        inputs = some_inputs(networks, batch)
        calls.clear()
        got, expected = step(other, inputs, compiled), step(model, inputs)
        assert len(calls) == 1
        assert_same(got, expected, rtol=1e-5, atol=1e-4)  # sums of gradients that are zero, before a norm


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_compiled_training_with_the_default_compiler():
    """Protects the default backend, whose kernels are its own."""
    torch._dynamo.reset()
    networks = {"c": Convolutions(), "p": Perceptron()}
    model = graft_by_taps(networks)
    other = copy.deepcopy(model)
    compiled = torch.compile(other)
    inputs = some_inputs(networks)
    assert_same(step(other, inputs, compiled), step(model, inputs), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_evaluation_gives_what_the_model_gives():
    """Protects torch.compile in evaluation without ``fullgraph``, after training with the same compiled model."""
    torch._dynamo.reset()
    networks = {"r": Recurrent(), "a": Attending()}
    model = graft_by_taps(networks)
    compiled = torch.compile(model, backend="aot_eager")
    step(model, some_inputs(networks), compiled)
    model.eval()
    for batch in (4, 6):
        inputs = some_inputs(networks, batch)
        torch.testing.assert_close(compiled(inputs), model(inputs), rtol=1e-5, atol=1e-5)


def test_repr_and_type():
    """Protects what ``graft`` gives: a module with the networks, the fusions and the head."""
    model = graft_by_taps({"c": Convolutions(), "p": Perceptron()})
    assert isinstance(model, GraftedModel)
    assert [name for name, _ in model.named_children()] == ["networks", "fusions", "head"]
