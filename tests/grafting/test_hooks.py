"""Hooks on layers: transformer layers that work otherwise where they have hooks, hooks of others, and taking ours off."""

import copy

import pytest
import torch
from torch import nn

from torchmsaf import FusionPoint, graft

EXAMPLE = {
    "a": {"src": torch.randn(3, 7, 32), "src_key_padding_mask": torch.arange(7) >= torch.tensor([[7], [5], [3]])}
}


@pytest.fixture
def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.mark.parametrize("how", ["grafted", "copied"])
def test_a_tapped_encoder_layer_keeps_its_fast_path_to_the_last_bit(encoder, how):
    """With a plain hook it would compute the padded samples in another way."""
    with torch.no_grad():
        wanted = encoder(**EXAMPLE["a"])
    points = [FusionPoint({"a": f"layers.{i}"}, lambda maps: maps) for i in range(2)]
    model = graft({"a": encoder}, points, head=None, example=EXAMPLE).eval()
    if how == "copied":
        model = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(model(EXAMPLE)["a"], wanted)
    seen = []
    graft({"a": encoder}, [FusionPoint({"a": "layers.1"}, lambda maps: seen.append(1) or maps)], head=None)(EXAMPLE)
    assert seen == [1]  # another graft of the same layer is served too


def test_ungraft_leaves_an_encoder_layer_without_a_forward_of_its_own(encoder):
    before = [sorted(vars(layer)) for layer in encoder.modules()]
    model = graft({"a": encoder}, [FusionPoint({"a": "layers.0"}, lambda maps: maps)], example=EXAMPLE)
    assert "forward" in vars(encoder.layers[0])
    model.ungraft()
    assert [sorted(vars(layer)) for layer in encoder.modules()] == before


def test_hooks_of_others_see_the_fused_map_whenever_they_came():
    network, seen = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), []
    network[0].register_forward_hook(lambda layer, args, output: seen.append(output))
    example = {"a": torch.randn(3, 4)}
    graft({"a": network}, [FusionPoint({"a": "0"}, lambda maps: [maps[0] * 0])], example=example)(example)
    assert torch.equal(seen[-1], torch.zeros(3, 8))
