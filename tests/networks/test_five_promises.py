"""Protects what a graft promises of networks as people have them: nothing of theirs is touched but what a fusion changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.networks.architectures import ARCHITECTURES, BY_NAME, Architecture, Branching, Partner, Recurrent
from tests.networks.comparing import (
    NETWORKS,
    assert_same_buffers,
    assert_same_gradients,
    assert_same_outputs,
    backward,
    both,
    call,
    fresh,
    gradients,
    identity,
    join,
    parts,
    reference,
    run_with,
    times_one,
)
from torchmsaf.errors import GraftError
from torchmsaf.grafting import FusionPoint, Tap, graft

# one of each library, for what does not depend on the architecture
ONE_EACH = ["plain-packed-gru", "plain-transformer", "torchvision-swin", "timm-vit", "transformers-bert"]


@pytest.fixture(params=ARCHITECTURES, ids=lambda one: one.name)
def kind(request: pytest.FixtureRequest) -> Architecture:
    one: Architecture = request.param
    return one


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def training(request: pytest.FixtureRequest) -> bool:
    mode: bool = request.param
    return mode


def test_the_layout_of_every_tap_is_found_without_being_said(kind: Architecture) -> None:
    """Protects fusions of channels with channels: nobody has to know how a library orders its axes."""
    networks, inputs = both(kind)
    model = join(networks, inputs, identity, kind)
    for number, (layer, layout) in enumerate(kind.layouts.items()):
        stop = model._plan[number][0]
        assert stop.tap.layer == layer
        (found,) = stop.layouts.values()
        axes = [found.index("B"), found.index("C"), len(found)]
        assert axes == [layout.index("B"), layout.index("C"), len(layout)], f"{layer}: {found}, and it is {layout}"


# ---- 1 and 2: parameters and their names


def test_parameters_and_layers_are_the_networks_own(kind: Architecture) -> None:
    """Protects optimizers, and tied weights, that were made before the graft: the model holds the same objects."""
    networks, inputs = both(kind)
    own = {f"networks.{name}.{key}": p for name, n in networks.items() for key, p in n.named_parameters()}
    layers = [layer for network in networks.values() for layer in network.modules()]
    model = join(networks, inputs, "msaf", kind)
    there = {key: p for key, p in model.named_parameters() if not key.startswith("fusions.")}
    assert there.keys() == own.keys()
    assert all(there[key] is own[key] for key in own)
    after = [layer for name in NETWORKS for layer in model.networks[name].modules()]
    assert len(after) == len(layers)
    assert all(one is other for one, other in zip(after, layers, strict=True))


def test_state_dict_keys_are_the_networks_own_and_their_checkpoints_load(kind: Architecture) -> None:
    """Protects checkpoints: those of a network alone load into the graft's part of its name, and the other way round."""
    networks, inputs = both(kind)
    before = {name: list(network.state_dict()) for name, network in networks.items()}
    model = join(networks, inputs, "msaf", kind)
    state = model.state_dict()
    for name, keys in before.items():
        prefix = f"networks.{name}."
        assert [key.removeprefix(prefix) for key in state if key.startswith(prefix)] == keys
    others = [key for key in state if not key.startswith("networks.")]
    assert others
    assert all(key.startswith("fusions.") for key in others)
    checkpoint = {key: x + 0.25 if x.is_floating_point() else x.clone() for key, x in kind().state_dict().items()}
    model.networks["it"].load_state_dict(checkpoint)
    assert all(torch.equal(model.state_dict()[f"networks.it.{key}"], x) for key, x in checkpoint.items())
    another = kind()
    another.load_state_dict(model.networks["it"].state_dict())
    assert all(torch.equal(x, checkpoint[key]) for key, x in another.state_dict().items())


def test_what_is_new_is_to_be_had_apart_from_the_networks(kind: Architecture) -> None:
    """Protects training and saving the fusions alone: they are all of what is new, and nothing else."""
    networks, inputs = both(kind)
    own = {id(p) for network in networks.values() for p in network.parameters()}
    model = join(networks, inputs, "msaf", kind)
    new = [id(p) for p in model.parameters() if id(p) not in own]
    assert new
    assert [id(p) for p in model.fusion_parameters()] == new
    state, whole = model.fusion_state_dict(), model.state_dict()
    assert list(state) == [key for key in whole if key.startswith(("fusions.", "head."))]
    assert all(torch.equal(x, whole[key]) for key, x in state.items())


# ---- 3: a fusion that changes nothing


@pytest.mark.parametrize("fusion", ["identity", "msaf-times-one"])
def test_a_fusion_that_changes_nothing_leaves_every_bit_as_it_was(
    kind: Architecture, training: bool, fusion: str
) -> None:
    """Protects a network's own numbers: outputs, gradients and statistics are those of the network alone."""
    networks, inputs = both(kind)
    alone, values = copy.deepcopy(networks), fresh(inputs)
    made = identity if fusion == "identity" else times_one(kind, networks, inputs)
    model = join(networks, inputs, made, kind).train(training)
    torch.manual_seed(7)
    expected = {name: call(alone[name].train(training), values[name]) for name in NETWORKS}
    for output in expected.values():
        backward(output)
    torch.manual_seed(7)
    outputs = model(inputs)
    backward(*outputs.values())
    assert list(outputs) == list(NETWORKS)
    for name in NETWORKS:
        assert_same_outputs(outputs[name], expected[name])
        assert_same_gradients(gradients(networks[name], inputs[name]), gradients(alone[name], values[name]))
        assert_same_buffers(networks[name], alone[name])


@pytest.mark.parametrize("fusion", ["identity", "msaf-times-one"])
def test_a_fusion_that_changes_nothing_leaves_every_bit_as_it_was_without_gradients(
    kind: Architecture, fusion: str
) -> None:
    """Protects predictions: layers that have a faster way without gradients still take it, with its rounding."""
    networks, inputs = both(kind)
    with torch.no_grad():
        expected = {name: call(copy.deepcopy(networks[name]).eval(), inputs[name]) for name in NETWORKS}
        made = identity if fusion == "identity" else times_one(kind, networks, inputs)
        outputs = join(networks, inputs, made, kind).eval()(inputs)
    for name in NETWORKS:
        assert_same_outputs(outputs[name], expected[name])
        assert not any(y.requires_grad for y in parts(outputs[name]))


# ---- 4: a fusion that changes something


def test_msaf_changes_both_networks_and_all_learn(kind: Architecture) -> None:
    """Protects that a fusion is in the way from input to loss, in both directions and for both networks."""
    networks, inputs = both(kind)
    alone, values = copy.deepcopy(networks), fresh(inputs)
    model = join(networks, inputs, "msaf", kind).eval()
    outputs = model(inputs)
    for name in NETWORKS:
        expected = call(alone[name].eval(), values[name])
        backward(expected)
        assert not any(torch.equal(y, z) for y, z in zip(parts(outputs[name]), parts(expected), strict=True))
    backward(*outputs.values())
    for name in NETWORKS:
        learned, learned_alone = gradients(networks[name], inputs[name]), gradients(alone[name], values[name])
        # as many as alone: a branch on the data may be another one, of as many parameters
        assert sum(g is not None for g in learned.values()) == sum(g is not None for g in learned_alone.values())
    for key, p in model.fusions.named_parameters():
        assert p.grad is not None, key
        assert p.grad.abs().max() > 0, key
    # what only the other network's output says reaches a network through the fusion
    for name, other in (NETWORKS, NETWORKS[::-1]):
        model.zero_grad()
        backward(model(inputs)[other])
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in networks[name].parameters())


def test_a_graft_computes_what_runs_of_each_network_alone_compute(kind: Architecture) -> None:
    """Protects the fused numbers and their gradients, against networks that run again for each fusion point."""
    networks, inputs = both(kind)
    alone, values = copy.deepcopy(networks), fresh(inputs)
    model = join(networks, inputs, "msaf", kind).eval()
    fusions = copy.deepcopy(model.fusions)
    outputs = model(inputs)
    backward(*outputs.values())
    expected = reference(kind, {name: network.eval() for name, network in alone.items()}, values, list(fusions))
    backward(*expected.values())
    for name in NETWORKS:
        assert_same_outputs(outputs[name], expected[name], rtol=1e-5, atol=1e-6)
        got, wanted = gradients(networks[name], inputs[name]), gradients(alone[name], values[name])
        assert_same_gradients(got, wanted, rtol=1e-3, atol=1e-5)
    got, wanted = gradients(model.fusions, ()), gradients(fusions, ())
    assert_same_gradients(got, wanted, rtol=1e-3, atol=1e-5)


# the forward passes of networks, written once more with their fused maps handed out, channels second, and taken back
Written = Generator[Tensor, Tensor, Any]


def _partner(network: Partner, x: Tensor) -> Written:
    x = yield network.norm1(network.conv1(x))
    x = yield network.norm2(network.conv2(x.relu()))
    return network.out(x.relu().mean(2))


def _branching(network: Branching, x: Tensor) -> Written:
    x = (yield network.norm(network.first(x))).relu()
    x = network.bright(x) if float(x.detach().mean()) > 0.1 else network.dark(x)
    x = x + network.again[0](x).tanh()
    x = x + (yield network.again[1](x)).tanh()
    x = x + network.again[2](x).tanh()
    return {"logits": network.out(network.last(x).mean((2, 3))), "rounds": 3}


def _recurrent(network: Recurrent, x: Tensor) -> Written:
    x = (yield network.lower(x)[0].transpose(1, 2)).transpose(1, 2)
    x, (state, _) = network.upper(network.drop(x).transpose(0, 1))
    x = (yield x.permute(1, 2, 0)).permute(2, 0, 1)
    return network.out(x[-1] + state[0])


def _resnet(network: nn.Module, x: Tensor) -> Written:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    x = network.layer2((yield network.layer1(x)))
    x = network.layer4((yield network.layer3(x)))
    return network.fc(network.avgpool(x).flatten(1))


def _swin(network: nn.Module, x: Tensor) -> Written:
    x = (yield network.features[:2](x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    x = (yield network.features[2:4](x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return network.head(network.flatten(network.avgpool(network.permute(network.norm(x)))))


def _timm_vit(network: nn.Module, x: Tensor) -> Written:
    x = (yield network.patch_embed(x).transpose(1, 2)).transpose(1, 2)
    x = network.pos_drop(torch.cat([network.cls_token.expand(len(x), -1, -1), x], 1) + network.pos_embed)
    x = network.blocks[1](network.blocks[0](x))
    x = network.blocks[2]((yield x.transpose(1, 2)).transpose(1, 2))
    return network.head(network.head_drop(network.norm(x)[:, 0]))


def _timm_convnext(network: nn.Module, x: Tensor) -> Written:
    x = network.stages[:2]((yield network.stem(x)))
    x = network.stages[3]((yield network.stages[2](x)))
    return network.head(x)


def _bert(network: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Written:
    seen = attention_mask.bool()[:, None, None, :].expand(-1, 1, input_ids.shape[1], -1)
    x = network.encoder.layer[0](network.embeddings(input_ids), seen)
    x = network.encoder.layer[1]((yield x.transpose(1, 2)).transpose(1, 2), seen)
    x = network.encoder.layer[2]((yield x.transpose(1, 2)).transpose(1, 2), seen)
    return {"last_hidden_state": x, "pooler_output": network.pooler(x)}


WRITTEN: dict[str, Callable[..., Written]] = {
    "plain-branching-cnn": _branching,
    "plain-lstm": _recurrent,
    "torchvision-resnet": _resnet,
    "torchvision-swin": _swin,
    "timm-vit": _timm_vit,
    "timm-convnext": _timm_convnext,
    "transformers-bert": _bert,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_graft_computes_what_the_networks_written_with_fusions_in_them_compute(name: str, training: bool) -> None:
    """Protects the fused numbers, gradients and statistics in training too, against an edit of the networks by hand."""
    kind = BY_NAME[name]
    networks, inputs = both(kind)
    alone, values = copy.deepcopy(networks), fresh(inputs)
    model = join(networks, inputs, "msaf", kind).train(training)
    fusions = copy.deepcopy(model.fusions)
    torch.manual_seed(7)
    outputs = model(inputs)
    backward(*outputs.values())

    for network in alone.values():
        network.train(training)
    torch.manual_seed(7)
    value = values["it"]
    it = WRITTEN[name](alone["it"], **value) if isinstance(value, dict) else WRITTEN[name](alone["it"], value)
    partner = _partner(alone["partner"], values["partner"])
    maps = [next(it), next(partner)]
    for fusion in fusions[:-1]:
        fused = fusion(maps)
        maps = [it.send(fused[0]), partner.send(fused[1])]
    fused, expected = fusions[-1](maps), {}
    for one, written, x in zip(NETWORKS, (it, partner), fused, strict=True):
        with pytest.raises(StopIteration) as ended:
            written.send(x)
        expected[one] = ended.value.value
    backward(*expected.values())

    for one in NETWORKS:
        for y, z in zip(parts(outputs[one]), parts(expected[one]), strict=True):
            torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-6)
        got, wanted = gradients(networks[one], inputs[one]), gradients(alone[one], values[one])
        assert_same_gradients(got, wanted, rtol=1e-3, atol=1e-5)
        for (key, buffer), other in zip(networks[one].named_buffers(), alone[one].buffers(), strict=True):
            torch.testing.assert_close(buffer, other, msg=key)
    assert_same_gradients(gradients(model.fusions, ()), gradients(fusions, ()), rtol=1e-3, atol=1e-5)


# ---- layers whose output the network then changes in place, as torchvision's blocks do after their last norm


def changed_later(layers: dict[str, str]) -> Architecture:
    return replace(BY_NAME["torchvision-resnet"], layouts=layers)


@pytest.mark.parametrize("layers", [("layer1.0.bn1", "layer1.0.bn2"), ("layer1.0.bn2", "layer3.0.bn2")])
def test_what_is_fused_is_what_the_layer_gave_before_the_network_changed_it(layers: tuple[str, str]) -> None:
    """Protects taps on a norm before an in-place ReLU or sum."""
    kind = changed_later(dict.fromkeys(layers, "BCHW"))
    networks, inputs = both(kind)
    model = join(networks, inputs, "msaf", kind).eval()
    outputs = model(inputs)
    expected = reference(kind, networks, inputs, list(model.fusions))
    for name in NETWORKS:
        assert_same_outputs(outputs[name], expected[name], rtol=1e-5, atol=1e-6)


class Positional(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, it: Tensor, partner: Tensor) -> Any:
        return self.model({"it": it, "partner": partner})


@pytest.mark.parametrize("layers", [("layer1.0.bn1", "layer1.0.bn2"), ("layer1.0.bn2", "layer3.0.bn2")])
def test_an_exported_graft_fuses_what_the_layer_gave_before_the_network_changed_it(layers: tuple[str, str]) -> None:
    """Protects exported and compiled models, in which a network runs from its start for every fusion."""
    kind = changed_later(dict.fromkeys(layers, "BCHW"))
    networks, inputs = both(kind)
    model = join(networks, inputs, "msaf", kind).eval()
    with torch.no_grad():
        expected = model(inputs)
        values = (inputs["it"].detach(), inputs["partner"].detach())
        outputs = torch.export.export(Positional(model), values).module()(*values)
    for name in NETWORKS:
        assert_same_outputs(outputs[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_read_is_read_before_the_network_changes_it() -> None:
    """Protects a further tap of a network, which goes on before the fusion is done."""
    kind = changed_later({"layer1.0.bn1": "BCHW"})
    networks, inputs = both(kind)
    seen: list[Tensor] = []

    def note(maps: list[Tensor]) -> list[Tensor]:
        seen.append(maps[0].detach().clone())
        return maps

    taps = {"it": [Tap("layer1.0.bn1", read_only=True), "layer2"], "partner": "norm1"}
    model = graft(networks, [FusionPoint(taps, note)], head=None, example=inputs).eval()
    model(inputs)
    _, given = run_with(networks["it"], inputs["it"], {}, ["layer1.0.bn1"])
    assert given["layer1.0.bn1"].min() < 0
    assert torch.equal(seen[0], given["layer1.0.bn1"])


@pytest.mark.parametrize("used_before", [True, False])
def test_what_transformers_records_of_a_tapped_layer_is_what_the_network_went_on_with(used_before: bool) -> None:
    """Protects ``hidden_states``: they do not depend on whether the network ran before it was grafted."""
    kind = BY_NAME["transformers-bert"]
    networks, inputs = both(kind)
    value = inputs["it"] | {"output_hidden_states": True}
    expected = call(kind().eval(), value).hidden_states[2] * 2
    if used_before:
        call(networks["it"].eval(), value)
    point = FusionPoint({"it": "encoder.layer.1", "partner": "norm1"}, lambda maps: [maps[0] * 2, maps[1]])
    model = graft(networks, [point], head=None, example=inputs).eval()
    outputs = model({"it": value, "partner": inputs["partner"]})
    assert torch.equal(outputs["it"].hidden_states[2], expected)


# ---- 5: the networks given back


def hooks_of(network: nn.Module) -> list[Any]:
    return [
        hook
        for layer in network.modules()
        for key, hooks in vars(layer).items()
        if "hooks" in key and isinstance(hooks, dict)
        for hook in hooks.values()
    ]


def test_ungraft_gives_the_networks_back_as_they_came(kind: Architecture, training: bool) -> None:
    """Protects networks that are used alone again: nothing of the graft is left in them, nor was it felt before."""
    networks, inputs = both(kind)
    alone, values = copy.deepcopy(networks), fresh(inputs)
    before = {name: [list(vars(layer)) for layer in network.modules()] for name, network in networks.items()}
    hooks = {name: hooks_of(network) for name, network in networks.items()}
    model = join(networks, inputs, "msaf", kind).eval()
    model(inputs)
    with torch.no_grad():
        for name in NETWORKS:  # outside of its model, while grafted
            assert_same_outputs(call(networks[name], inputs[name]), call(alone[name].eval(), inputs[name]))
    given = model.ungraft()
    assert list(given) == list(NETWORKS)
    for name in NETWORKS:
        assert given[name] is networks[name]
        assert hooks_of(networks[name]) == hooks[name]
        assert [list(vars(layer)) for layer in networks[name].modules()] == before[name]
        torch.manual_seed(7)
        expected = call(alone[name].train(training), values[name])
        torch.manual_seed(7)
        output = call(networks[name].train(training), inputs[name])
        assert_same_outputs(output, expected)
        backward(output)
        backward(expected)
        assert_same_gradients(gradients(networks[name], inputs[name]), gradients(alone[name], values[name]))
    with pytest.raises(GraftError, match="given back by ungraft"):
        model(inputs)


# ---- copies


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ONE_EACH)
def test_a_copy_is_a_model_of_its_own(name: str, way: str) -> None:
    """Protects averaged weights, and models sent to other processes: a copy fuses its own networks, alone."""
    kind = BY_NAME[name]
    networks, inputs = both(kind)
    model = join(networks, inputs, "msaf", kind).eval()
    expected = model(inputs)
    other = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    for one, output in other(inputs).items():
        assert_same_outputs(output, expected[one])
    assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    changed = other(inputs)
    assert not any(torch.equal(y, z) for y, z in zip(parts(changed["it"]), parts(expected["it"]), strict=True))
    backward(*changed.values())
    assert all(p.grad is None for p in model.parameters())
    other.ungraft()
    for one, output in model(inputs).items():
        assert_same_outputs(output, expected[one])
