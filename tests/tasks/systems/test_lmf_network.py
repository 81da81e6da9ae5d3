"""Protects LMF as published: the full tensor behind it, the text's width, sizes, loss and wrong options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.lmf_network import LMFNetwork
from torchmsaf.tasks.systems.tfn_network import TFNNetwork

SHAPES = {"video": (5, 6), "audio": (4, 6), "text": (7, 6)}
OPTIONS: dict[str, Any] = {"audio": 3, "video": 2, "text": 6}


@pytest.mark.parametrize("outputs", [1, 3])
def test_lmf_network_is_the_full_tensor_on_the_vectors_of_tfns_sub_networks(outputs: int) -> None:
    system = LMFNetwork(SHAPES, outputs, rank=5, **OPTIONS).double().eval()
    other = TFNNetwork(SHAPES, 1, text_out=3, **OPTIONS).double().eval()
    other.encoders.load_state_dict(system.encoders.state_dict())
    tensors: list[torch.Tensor] = []
    other.layers[0].register_forward_pre_hook(lambda _, given: tensors.append(given[0]))
    inputs = [torch.randn(4, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    present = torch.tensor([[True] * 3, [True, False, True], [False, True, False], [False] * 3])
    lengths = [torch.tensor([6, 1, 3, 4]), torch.tensor([2, 6, 5, 1]), None]
    found = system(inputs, present, lengths).prediction
    other(inputs, present, lengths)
    weight = torch.einsum("r,rak,rvk,rtk->avtk", system.fusion.weights[0], *system.fusion.factors).flatten(0, 2)
    torch.testing.assert_close(found, tensors[0] @ weight + system.fusion.bias)


def test_the_texts_vector_is_half_of_its_lstm_and_nothing_is_squashed() -> None:
    system = LMFNetwork(SHAPES, 1, text=10).eval()
    assert system.encoders.text.out_features == 5
    assert [factor.shape for factor in system.fusion.factors] == [(4, 17, 1), (4, 129, 1), (4, 6, 1)]
    nn.init.constant_(system.fusion.bias, 50.0)
    assert (system([torch.randn(3, *shape) for shape in SHAPES.values()]).prediction > 40).all()


def test_dropout_is_in_the_sub_networks_alone() -> None:
    dropouts = [name for name, module in LMFNetwork(SHAPES, 1).named_modules() if isinstance(module, nn.Dropout)]
    assert dropouts == ["encoders.audio.layers.0", "encoders.video.layers.0", "encoders.dropout"]


def test_lmf_network_starts_as_the_authors_code() -> None:
    system = LMFNetwork(SHAPES, 4, audio=80, video=90)
    assert not system.fusion.bias.any()
    for factor in list(system.fusion.factors)[:2]:
        rank, width, out = factor.shape
        assert factor.std().item() == pytest.approx(math.sqrt(2 / (width * out + rank * out)), rel=0.1)


def test_lmf_network_has_the_sizes_of_its_defaults() -> None:
    with torch.device("meta"):
        system = LMFNetwork({"video": (35, 50), "audio": (74, 50), "text": (768, 50)}, 1)
    averaged = sum(2 * c + (c + 1) * h + 2 * (h + 1) * h for c, h in ((74, 16), (35, 128)))
    text = 4 * 128 * (768 + 128 + 2) + 129 * 64
    fusion = 4 * (17 + 129 + 65) + 4 + 1
    assert sum(p.numel() for p in system.parameters()) == averaged + text + fusion == 508_475


def test_values_are_learned_by_absolute_error() -> None:
    system = LMFNetwork(SHAPES, 1)
    found = system.training_loss(Fused(torch.tensor([[1.0], [-2.0]])), torch.tensor([0.0, 1.0]), None, F.mse_loss)
    assert found == (1 + 3) / 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank: expected an integer of at least 1, got 0; the authors search"),
        ({"text_out": 0}, "text_out: expected an integer of at least 1, got 0"),
        ({"video": -4}, "video: expected an integer of at least 1, got -4"),
        ({"dropout": "0.2"}, r"dropout is a probability in \[0, 1\), got '0.2'"),
    ],
)
def test_lmf_network_says_what_is_wrong_with_an_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        LMFNetwork(SHAPES, 1, **options)
