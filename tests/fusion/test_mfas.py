"""Protects MFAS: its formula, the published sizes, how an architecture is written, the loss, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.backbones import ConvNet, StagedNetwork, VectorNet
from torchmsaf.errors import FusionInputError
from torchmsaf.fusion import create_fusion, find_method
from torchmsaf.fusion.mfas import ARCHITECTURES, MFAS, read_architecture, write_architecture
from torchmsaf.tasks.network import FusedNetwork

B, K = 5, 3
# an inflated ResNet50 and HCN
RESNET = {"layer2": 512, "layer3": 1024, "layer4": 2048, "feature": 2048}
HCN = {"conv5": 128, "conv6": 256, "flat6": 1024, "fc7": 512}
TAPS = ({"low": 4, "high": 6}, {"low": 3, "mid": 5, "high": 2})


def features(taps: Any = TAPS) -> list[dict[str, Tensor]]:
    return [{name: torch.randn(B, width, dtype=torch.float64) for name, width in own.items()} for own in taps]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"architecture": "ntu-paper", "weights": True}, 2_048_064),
        ({"architecture": "ntu-paper"}, 2_048_060),
        ({"architecture": "ntu-repository", "inner": 128, "batch_norm": True, "weights": True}, 1_041_472),
    ],
)
def test_the_published_architectures_have_the_published_sizes(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        fusion = MFAS([RESNET, HCN], 60, **options)
    assert sum(p.numel() for p in fusion.parameters()) == count


def test_the_paper_reads_the_places_it_says() -> None:
    """Table of the article: fc7 and res2, conv6 and pooled, conv6 and res3, fc7 and pooled."""
    with torch.device("meta"):
        fusion = MFAS([RESNET, HCN], 60, architecture="ntu-paper")
    assert fusion.places == [("layer2", "fc7"), ("feature", "conv6"), ("layer3", "conv6"), ("feature", "fc7")]
    assert [layer[-1] for layer in fusion.architecture] == [0, 0, 1, 0]


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_formula_layer_by_layer(weights: bool, batch_norm: bool) -> None:
    chosen = [[1, 0, 1], [0, 2, 0], [0, 1, 2]]
    fusion = MFAS(TAPS, K, architecture=chosen, inner=7, weights=weights, batch_norm=batch_norm).double()
    fusion.train()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.copy_(torch.randn_like(parameter))
    values = features()
    fusion(values)  # running statistics move
    fusion.eval()
    state = torch.zeros(B, 0, dtype=torch.float64)
    reads = [("high", "low"), ("low", "high"), ("low", "mid")]
    activations = (torch.sigmoid, torch.relu, lambda x: torch.where(x > 0, x, 0.01 * x))
    for number, ((first, second), activate) in enumerate(zip(reads, activations, strict=True)):
        one, two = values[0][first], values[1][second]
        if fusion.alpha is not None:
            gate = torch.sigmoid(fusion.alpha[number])
            one, two = one * gate, two * (1 - gate)
        layer, norm = fusion.layers[number], fusion.norms[number]
        state = activate(torch.cat([one, two, state], 1) @ layer.weight.T + layer.bias)
        if batch_norm:
            state = (state - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    expected = state @ fusion.classifier.weight.T + fusion.classifier.bias
    torch.testing.assert_close(fusion(values), expected)


def test_weights_of_three_modalities_are_shares() -> None:
    fusion = MFAS([{"x": 2}] * 3, K, weights=True, dropout=0).double()
    even = MFAS([{"x": 2}] * 3, K, dropout=0).double()
    even.load_state_dict({key: value for key, value in fusion.state_dict().items() if key != "alpha"})
    values = features([{"x": 2}] * 3)
    torch.testing.assert_close(fusion(values), even([{"x": own["x"] / 3} for own in values]))


def test_by_default_all_networks_are_read_from_the_first_place_to_the_last() -> None:
    assert MFAS(TAPS, K).places == [("low", "low"), ("high", "mid"), ("high", "high")]


def test_an_absent_modality_is_zeros() -> None:
    fusion, values = MFAS(TAPS, K).double().eval(), features()
    present = torch.tensor([[True, True]] * 3 + [[True, False], [False, True]])
    zeroed = [{name: x * present[:, m, None] for name, x in own.items()} for m, own in enumerate(values)]
    for m, own in enumerate(values):
        for x in own.values():
            x[~present[:, m]] = math.nan
    torch.testing.assert_close(fusion(values, present=present), fusion(zeroed))


def test_a_place_that_is_not_read_may_be_left_out() -> None:
    fusion, values = MFAS(TAPS, K, architecture=[[0, 1, 0]]).double().eval(), features()
    expected = fusion(values)
    del values[0]["high"], values[1]["high"]
    assert torch.equal(fusion(values), expected)


# in a network


def fused(**options: Any) -> FusedNetwork:
    torch.manual_seed(0)
    nets: dict[str, StagedNetwork] = {"a": ConvNet((2, 9), K), "b": VectorNet((5,), K)}
    return FusedNetwork(nets, "mfas", outputs=K, options=options)


def test_a_networks_prediction_is_the_sum_of_all_logits_and_its_loss_of_each_by_itself() -> None:
    network, values = fused().eval(), [torch.randn(B, 2, 9), torch.randn(B, 5)]
    central: list[Tensor] = []
    network.decide.register_forward_hook(lambda *seen: central.append(seen[-1]))
    said, target = network(values), torch.tensor([0, 1, 2, 0, 1])
    assert len(said.parts) == 2
    torch.testing.assert_close(said.prediction, central[0] + said.parts[0] + said.parts[1])
    loss = network.training_loss(said, target, None, F.cross_entropy)
    torch.testing.assert_close(loss, sum(F.cross_entropy(z, target) for z in (central[0], *said.parts)))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_loss_with_absent_samples() -> None:
    fusion = MFAS(TAPS, K)
    present = torch.tensor([[True, True], [True, False]])
    parts = [torch.randn(2, K), torch.randn(2, K) * present[:, 1:]]
    central, target = torch.randn(2, K), torch.tensor([0, 2])
    found = fusion.training_loss(central + parts[0] + parts[1], parts, target, present, F.cross_entropy)
    one, own = F.cross_entropy(parts[0], target), F.cross_entropy(parts[1][:1], target[:1])
    torch.testing.assert_close(found, F.cross_entropy(central, target) + one + own)


# how an architecture is written


@pytest.mark.parametrize("said", [*ARCHITECTURES, "0-3-0/3-1-0", "2-2-2", [[0, 3, 0], [3, 1, 0]], ((1, 1, 1),)])
def test_an_architecture_as_text_and_back(said: Any) -> None:
    numbers = read_architecture(said, [4, 4])
    assert read_architecture(write_architecture(numbers), [4, 4]) == numbers
    assert read_architecture([list(layer) for layer in numbers], [4, 4]) == numbers


WRONG: dict[str, tuple[Any, str]] = {
    "another name": ("ntu", r"no 'ntu'; there are ntu-paper, ntu-repository, or numbers such as '0-3-0/3-1-0'"),
    "text that ends early": ("0-1-0/", "no '0-1-0/'"),
    "no layers": ([], "a list of layers"),
    "a number": (3, "a list of layers"),
    "a flat list": ([0, 1, 0], "layer 0 is one place a modality and the activation, 3 numbers here, got 0"),
    "two numbers": ([[0, 1, 0], [0, 1]], r"layer 1 is one place .* got \[0, 1\]"),
    "a fraction": ([[0, 1.0, 0]], "layer 0 is one place"),
    "a place too far": ([[0, 1, 0], [2, 0, 0]], "layer 1 reads place 2 of modality 0, which has 2, counted from 0"),
    "a place below 0": ([[0, -1, 0]], "layer 0 reads place -1 of modality 1, which has 3"),
    "an activation too far": ("0-0-3", "layer 0 has activation 3; there are: 0 relu, 1 sigmoid, 2 leaky_relu"),
    "the paper's on two places": ("ntu-paper", "layer 0 reads place 3 of modality 1, which has 3"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_architecture_says_what_is_wrong(wrong: str) -> None:
    said, words = WRONG[wrong]
    with pytest.raises(FusionInputError, match=f"^mfas: architecture.*{words}"):
        create_fusion("mfas", taps=TAPS, out_features=K, architecture=said)


@pytest.mark.parametrize(
    ("taps", "words"),
    [
        ([{"x": 3}], "needs 2 or more modalities, got 1"),
        ([{"x": 3}, {}], "taps of modality 1: expected widths by name"),
        ([{"x": 3}, {"x": 0}], "taps of modality 1"),
        ([{"x": 3}, {1: 3}], "taps of modality 1: expected widths by name"),
        ({"x": 3}, "one mapping a modality"),
    ],
)
def test_wrong_taps(taps: Any, words: str) -> None:
    with pytest.raises(FusionInputError, match=words):
        create_fusion("mfas", taps=taps, out_features=K)


def test_features_that_do_not_fit() -> None:
    fusion, values = MFAS(TAPS, K).double(), features()
    with pytest.raises(FusionInputError, match="modality 1: expected vectors by name, 'mid' among them, got 'low'"):
        fusion([values[0], {"low": values[1]["low"]}])
    with pytest.raises(FusionInputError, match="a list of 2, vectors by name a modality, got 1"):
        fusion(values[:1])
    with pytest.raises(FusionInputError, match="modality 1: "):
        fusion([values[0], {**values[1], "low": values[1]["mid"]}])


def test_it_is_a_tapped_method_for_classification() -> None:
    method = find_method("mfas")
    assert method.tapped
    assert not find_method("centralnet").tapped
    with pytest.raises(FusionInputError, match="mfas is for classification"):
        FusedNetwork({"a": ConvNet((2, 9), 1), "b": VectorNet((5,), 1)}, "mfas", outputs=1, regression=True)
