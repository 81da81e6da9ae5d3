"""Protects a recipe's learning rates over epochs, and networks that learn in turn."""

from __future__ import annotations

import copy
import itertools
from dataclasses import asdict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.backbones import ConvNet, VectorNet
from torchmsaf.errors import DataError
from torchmsaf.tasks import training
from torchmsaf.tasks.batches import Part, training_batches
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe

OBJECTIVE = Objective("classification", 3)


def part(n: int = 24, seed: int = 0, absent: bool = False) -> Part:
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(n) % 3
    features = tuple(torch.randn(n, 4, generator=generator) + target[:, None] for _ in range(2))
    present = torch.ones(n, 2, dtype=torch.bool)
    if absent:
        present[::3, 0] = present[1::4, 1] = False
    return Part(features, target, present)


def network(method: str = "msaf", **arguments: Any) -> FusedNetwork:
    torch.manual_seed(0)
    net = FusedNetwork({"a": VectorNet((4,), 3), "b": VectorNet((4,), 3)}, method, outputs=3, **arguments)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # so that no draw sets two trainings apart
    return net


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"epochs": 3, "patience": 9, "batch_size": 8, "learning_rate": 1e-2, **changes})


def train(net: FusedNetwork, samples: Part | None = None, **changes: Any) -> training.Trained:
    return training.train(net, samples or part(), part(seed=1), OBJECTIVE, recipe(**changes), order_seed=1)


def test_what_is_off_is_null_so_that_older_results_are_of_the_same_recipe() -> None:
    off = asdict(Recipe(decay_epochs=(), alternate=False))
    assert off == asdict(Recipe())
    assert off["decay_epochs"] is off["alternate"] is None
    assert Recipe(decay_epochs=[5, 20]).decay_epochs == (5, 20)  # type: ignore[arg-type]


@pytest.mark.parametrize("epochs", [(0,), (5, 5), (20, 5), (-1,), (1.5,), (True,), ("5",)])
def test_epochs_that_are_no_rising_numbers(epochs: Any) -> None:
    with pytest.raises(DataError, match=r"decay_epochs is .*; whole numbers from 1 on are needed"):
        Recipe(decay_epochs=epochs)


def test_alternate_is_true_or_false() -> None:
    with pytest.raises(DataError, match="alternate is 'yes'; True or False is needed"):
        Recipe(alternate="yes")  # type: ignore[arg-type]


def test_after_so_many_epochs_the_rates_are_a_tenth() -> None:
    rates = [1e-4 / Recipe(decay_epochs=(5, 20)).decay(epoch) for epoch in (0, 4, 5, 19, 20, 21)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])
    assert Recipe().decay(100) == 1


@pytest.mark.parametrize("alternate", [False, True])
def test_all_rates_fall_in_training(alternate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    end = training.KeepBest.on_train_epoch_end

    def look(self: Any, trainer: Any, module: Any) -> None:
        seen.append([group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups])
        end(self, trainer, module)

    monkeypatch.setattr(training.KeepBest, "on_train_epoch_end", look)
    train(network(), epochs=4, decay_epochs=(1, 3), fusion_learning_rate=1e-1, alternate=alternate)
    both = [[1e-2, 1e-1], [1e-3, 1e-2], [1e-3, 1e-2], [1e-4, 1e-3]]
    assert seen == [pytest.approx(rates * (1 + alternate)) for rates in both]


def test_a_decay_that_does_not_come_changes_no_bit() -> None:
    plain, later = network(), network()
    train(plain)
    train(later, decay_epochs=(3,))
    assert all(torch.equal(x, y) for x, y in zip(plain.state_dict().values(), later.state_dict().values(), strict=True))
    earlier = network()
    train(earlier, decay_epochs=(1,))
    assert not all(map(torch.equal, plain.state_dict().values(), earlier.state_dict().values()))


def by_hand(net: FusedNetwork, samples: Part, epochs: int) -> None:
    """The published loop: an Adam of each network and the fusion, a step of each a batch."""
    adams = [
        torch.optim.Adam([*one.parameters(), *net.fusion_parameters()], lr=1e-2, weight_decay=1e-4, fused=True)
        for one in net.networks.values()
    ]
    loader = training_batches(samples, 8, 1)
    net.train()
    for _ in range(epochs):
        for inputs, target, present, _ in loader:
            for m, adam in enumerate(adams):
                logits = net(inputs, None if present.all() else present).parts[m]
                loss = F.cross_entropy(logits[present[:, m]], target[present[:, m]])
                net.zero_grad()
                loss.backward()
                adam.step()


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("method", ["msaf", "mmtm", "film"])
def test_networks_in_turn_are_the_published_loop(method: str, absent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    falling = itertools.count()  # so that the last epoch is kept
    monkeypatch.setattr(training, "evaluate", lambda *_: {"loss": -float(next(falling)), "accuracy": 0.0})
    first, second, samples = network(method), network(method), part(absent=absent)
    train(first, samples, alternate=True, epochs=2)
    by_hand(second, samples, 2)
    for (name, x), y in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    assert all(p.requires_grad for p in first.parameters())


def test_in_turn_a_method_that_learns_otherwise_learns_as_without() -> None:
    for method in ("averaging", "weighted", "concat", "centralnet"):
        states = []
        for alternate in (False, True):
            net = network(method)
            train(net, alternate=alternate)
            states.append(net.state_dict())
        assert all(map(torch.equal, states[0].values(), states[1].values()))
    assert training.learns_in_turn(network("msaf"))
    assert not training.learns_in_turn(network("msaf", decision="joint"))
    assert not training.learns_in_turn(FusedNetwork({"a": VectorNet((4,), 3)}, "msaf", outputs=3))


def test_what_is_frozen_stays_in_turn() -> None:
    net = network()
    net.networks["a"].requires_grad_(False)
    before = copy.deepcopy(net.networks["a"].state_dict())
    train(net, alternate=True)
    assert not any(p.requires_grad for p in net.networks["a"].parameters())
    own = dict(net.networks["a"].named_parameters())
    assert all(torch.equal(own[name], before[name]) for name in own)


def test_a_batch_without_a_modality_is_no_step_of_its_network() -> None:
    samples = part()
    samples.present[:, 1] = False
    net = network()
    before = copy.deepcopy(dict(net.networks["b"].named_parameters()))
    done = train(net, samples, alternate=True)
    assert all(torch.equal(p, before[name]) for name, p in net.networks["b"].named_parameters())
    assert not done.diverged


def test_in_turn_gradients_are_clipped_and_bfloat16_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    net = network()
    net.clip_value = 1e-3
    step = torch.optim.Adam.step

    def look(self: torch.optim.Adam, closure: Any = None) -> Any:
        result = closure() if closure is not None else None
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append(max(float(grad.abs().max()) for grad in grads))
        step(self)
        return result

    monkeypatch.setattr(torch.optim.Adam, "step", look)
    train(net, alternate=True, epochs=1, precision="bf16")
    assert seen
    assert max(seen) <= 1e-3 * (1 + 1e-6)


def test_of_clips_each_network_learns() -> None:
    target = torch.arange(16) % 3
    clips: Tensor = torch.randn(16, 3, 4, 8, 8) + target[:, None, None, None, None]
    samples = Part((clips, part(16).features[0]), target, torch.ones(16, 2, dtype=torch.bool))
    torch.manual_seed(0)
    net = FusedNetwork({"video": ConvNet((3, 4, 8, 8), 3), "b": VectorNet((4,), 3)}, "mmtm", outputs=3)
    done = training.train(net, samples, samples, OBJECTIVE, recipe(epochs=6, alternate=True), order_seed=1)
    assert done.validation["loss"] < 0.9  # of log 3 = 1.1 before training
