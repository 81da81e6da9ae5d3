"""Protects every intermediate method between two networks of different kinds: by name, in training, with nobody there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.fusion import METHODS
from torchmsaf.grafting import FusionPoint, GraftedModel, Tap, graft

ROWS, K = 4, 3
NAMES = [method.name for method in METHODS.values() if method.stage == "intermediate" and not method.tapped]
# options with which a new fusion changes nothing
IDENTITY: dict[str, dict[str, Any]] = {
    "mmtm": {"gate_scale": 2, "identity_start": True},
    "se": {"gate_scale": 2, "identity_start": True},
    "film": {"identity_start": True},
    "mbt": {"identity_start": True},
    "msaf": {"identity_start": True},
}


class Convolutions(nn.Module):
    """On ``(B, 2, T)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 8, 3, padding=1)
        self.second = nn.Conv1d(8, 16, 3, padding=1, stride=2)
        self.fc = nn.Linear(16, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.second(torch.tanh(self.first(x)))).mean(2))


class Attention(nn.Module):
    """On ``(B, T, 5)``; channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.block = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.fc = nn.Linear(12, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.embed(x)).mean(1))


def networks() -> dict[str, nn.Module]:
    return {"a": Convolutions(), "b": Attention()}


def inputs() -> dict[str, Tensor | None]:
    return {"a": torch.randn(ROWS, 2, 9), "b": torch.randn(ROWS, 6, 5)}


def make(name: str, own: dict[str, nn.Module] | None = None, **options: Any) -> GraftedModel:
    points = [
        FusionPoint({"a": "first", "b": Tap("embed", layout="BTC")}, name, **options),
        FusionPoint({"a": "second", "b": Tap("block", layout="BTC")}, name, **options),
    ]
    return graft(networks() if own is None else own, points, head="sum", example=inputs())


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_with_gradients_everywhere(name: str) -> None:
    model = make(name)
    out = model(inputs())
    assert out.shape == (ROWS, K)
    assert out.isfinite().all()
    nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 0])).backward()
    if name == "centralnet":  # its head may take the place of the networks' own
        return
    parameters = [*model.fusion_parameters(), *model.networks["a"].parameters(), *model.networks["b"].parameters()]
    assert parameters
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


@pytest.mark.parametrize("missing", ["a", "b"])
@pytest.mark.parametrize("name", NAMES)
def test_a_modality_that_is_none(name: str, missing: str) -> None:
    model, x = make(name).eval(), inputs()
    present = torch.tensor([[missing != "a", missing != "b"]] * ROWS)
    found = model({**x, missing: None})
    assert found.shape == (ROWS, K)
    assert found.isfinite().all()
    torch.testing.assert_close(found, model(x, present=present))


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_lack_one(name: str) -> None:
    """What they hold changes nothing, and each is as in a batch of its own kind."""
    model, x = make(name).eval(), inputs()
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    found = model(x, present=present)
    junk = {key: value.clone() for key, value in x.items()}
    for m, value in enumerate(junk.values()):
        value[~present[:, m]] = torch.nan
    assert torch.equal(model(junk, present=present), found)
    alone = model({"a": x["a"][1:2], "b": None})
    torch.testing.assert_close(found[1:2], alone)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", IDENTITY)
def test_identity_start_gives_the_bits_of_the_networks(name: str, training: bool) -> None:
    own, x = networks(), inputs()
    for net in own.values():
        net.train(training)
    expected = own["a"](x["a"]) + own["b"](x["b"])
    model = make(name, own, **IDENTITY[name]).train(training)
    assert torch.equal(model(x), expected)
