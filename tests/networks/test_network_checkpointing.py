"""Protects gradient checkpointing of grafted networks, as their libraries switch it on, with taps on what is recomputed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.networks.architectures import BY_NAME, Architecture
from tests.networks.comparing import (
    NETWORKS,
    assert_same_gradients,
    assert_same_outputs,
    backward,
    both,
    fresh,
    gradients,
    join,
)
from torchmsaf.errors import GraftError

# the name that transformers 4 has too
pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_[a-z]+. is deprecated:FutureWarning")

# taps on layers that are recomputed, one after the other
LAYERS = {
    "transformers-bert": ("encoder.layer.0", "encoder.layer.1"),
    "transformers-vit": ("layers.0", "layers.2"),
    "transformers-wav2vec2": ("encoder.layers.0", "encoder.layers.2"),
    "timm-vit": ("blocks.0", "blocks.2"),
    "timm-swin": ("layers.0.blocks.0", "layers.1.blocks.1"),
    "timm-convnext": ("stages.0.blocks.0", "stages.2.blocks.1"),
}
# inside of what is recomputed as one
INNER = {
    "transformers-bert": ("encoder.layer.0.attention", "encoder.layer.0.output"),
    "timm-vit": ("blocks.1.attn", "blocks.1.mlp.fc1"),
}


def tapped(name: str, layers: tuple[str, str]) -> Architecture:
    kind = BY_NAME[name]
    return Architecture(name, kind.build, kind.example, dict.fromkeys(layers, ""), kind.library, kind.differentiable)


def by_default(network: nn.Module) -> None:
    if hasattr(network, "gradient_checkpointing_enable"):
        network.gradient_checkpointing_enable()
    else:
        network.set_grad_checkpointing()


def not_reentrant(network: nn.Module) -> None:
    if not hasattr(network, "gradient_checkpointing_enable"):
        pytest.skip("this library has one way")
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def counted(network: nn.Module, layer: str) -> list[int]:
    """How often the first thing in a layer runs from now on: it is recomputed, or the test protects nothing."""
    runs = [0]

    def count(module: nn.Module, args: Any) -> None:
        runs[0] += 1

    inside = network.get_submodule(layer).modules()
    next(one for one in inside if not list(one.children())).register_forward_pre_hook(count)
    return runs


CASES = [pytest.param(name, layers, id=f"{name}-{layers[0]}") for t in (LAYERS, INNER) for name, layers in t.items()]


@pytest.mark.parametrize("enable", [by_default, not_reentrant])
@pytest.mark.parametrize(("name", "layers"), CASES)
@pytest.mark.parametrize("first", ["checkpointing", "graft"])
def test_gradients_are_those_without_checkpointing(
    name: str, layers: tuple[str, str], enable: Callable[[nn.Module], None], first: str
) -> None:
    """Protects training in less memory: a recomputed layer gives what the fusion made of it, dropout as it was drawn."""
    kind = tapped(name, layers)
    networks, inputs = both(kind)
    values = fresh(inputs)
    plain = copy.deepcopy(networks)
    expected_model = join(plain, values, "msaf", kind).train()
    if first == "checkpointing":
        enable(networks["it"])
    model = join(networks, inputs, "msaf", kind).train()
    model.fusions.load_state_dict(expected_model.fusions.state_dict())
    if first == "graft":
        enable(networks["it"])
    for _ in range(2):  # what was kept for one pass is not there in the next
        for one in (model, expected_model):
            one.zero_grad()
        torch.manual_seed(7)
        expected = expected_model(values)
        backward(*expected.values())
        runs = counted(networks["it"], layers[0])
        torch.manual_seed(7)
        outputs = model(inputs)
        backward(*outputs.values())
        assert runs == [2]
        for one in NETWORKS:
            assert_same_outputs(outputs[one], expected[one])
            assert_same_gradients(gradients(networks[one], inputs[one]), gradients(plain[one], values[one]))
        assert_same_gradients(gradients(model.fusions, ()), gradients(expected_model.fusions, ()))


def reentrant(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(network, "gradient_checkpointing_enable"):
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    else:
        monkeypatch.setattr(pytest.importorskip("timm.layers.config"), "_USE_REENTRANT_CKPT", True)
        network.set_grad_checkpointing()


@pytest.mark.parametrize("name", INNER)
def test_a_reentrant_checkpoint_is_refused_by_the_name_of_the_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects from a fusion that silently gets no gradient; the refused pass leaves a model that works on."""
    kind = tapped(name, INNER[name])
    networks, inputs = both(kind)
    model = join(networks, inputs, "msaf", kind).train()
    reentrant(networks["it"], monkeypatch)
    with pytest.raises(GraftError, match=rf"network 'it', layer '{INNER[name][0]}': .*use_reentrant=False"):
        model(inputs)
    assert torch.is_grad_enabled()
    if hasattr(networks["it"], "gradient_checkpointing_disable"):
        networks["it"].gradient_checkpointing_disable()
    else:
        networks["it"].set_grad_checkpointing(False)
    backward(*model(inputs).values())
    assert all(p.grad is not None for p in model.fusions.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_a_tap_on_what_is_checkpointed_reentrantly_is_right_or_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects whatever a library's version puts into its checkpoint: the layer's hooks, or what they come after."""
    kind = tapped(name, LAYERS[name])
    networks, inputs = both(kind)
    values = fresh(inputs)
    plain = copy.deepcopy(networks)
    expected_model = join(plain, values, "msaf", kind).train()
    model = join(networks, inputs, "msaf", kind).train()
    model.fusions.load_state_dict(expected_model.fusions.state_dict())
    reentrant(networks["it"], monkeypatch)
    torch.manual_seed(7)
    try:
        outputs = model(inputs)
    except GraftError:
        with pytest.raises(GraftError, match=f"layer '{LAYERS[name][0]}': it runs inside of a reentrant checkpoint"):
            model(inputs)
        return
    backward(*outputs.values())
    torch.manual_seed(7)
    backward(*expected_model(values).values())
    for one in NETWORKS:
        assert_same_gradients(gradients(networks[one], inputs[one]), gradients(plain[one], values[one]))
    assert_same_gradients(gradients(model.fusions, ()), gradients(expected_model.fusions, ()))
