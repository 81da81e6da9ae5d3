"""Protects training: the same batches for all, the best epoch on validation kept, repeatable, never a hidden failure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchmsaf.backbones import ConvNet, VectorNet
from torchmsaf.errors import DataError
from torchmsaf.tasks import batches, training
from torchmsaf.tasks.batches import Part, training_batches
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe

OBJECTIVE = Objective("classification", 3)


def part(n: int = 40, seed: int = 0) -> Part:
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(n) % 3
    features = tuple(torch.randn(n, 4, generator=generator) + target[:, None] for _ in range(2))
    return Part(features, target, torch.ones(n, 2, dtype=torch.bool))


def network(method: str = "concat") -> FusedNetwork:
    torch.manual_seed(0)
    return FusedNetwork({"a": VectorNet((4,), 3), "b": VectorNet((4,), 3)}, method, outputs=3)


def train(net: FusedNetwork, order_seed: int = 1, **recipe: Any) -> training.Trained:
    settings = Recipe(**{"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, **recipe})
    return training.train(net, part(), part(seed=1), OBJECTIVE, settings, order_seed=order_seed)


def test_batches_are_the_same_for_every_method_and_new_each_epoch() -> None:
    first, second = (training_batches(part(), 8, 3) for _ in range(2))
    epochs = [[batch[1].tolist() for batch in loader] for loader in (first, first, second, second)]
    assert epochs[:2] == epochs[2:]
    assert epochs[0] != epochs[1]
    assert sorted(label for batch in epochs[0] for label in batch) == sorted(part().target.tolist())
    assert epochs[0] != [batch[1].tolist() for batch in training_batches(part(), 8, 4)]


@pytest.mark.parametrize(("n", "batches"), [(17, 2), (18, 3), (16, 2), (2, 1)])
def test_a_last_batch_of_one_is_left_out(n: int, batches: int) -> None:
    loader = training_batches(part(n), 8, 0)
    assert len(list(loader)) == len(loader) == batches


@pytest.mark.parametrize("method", ["multiplicative", "concat", "mmtm", "msaf", "weighted", "embracenet", "centralnet"])
def test_the_same_seeds_give_the_same_weights(method: str) -> None:
    states = []
    for _ in range(2):
        net = network(method)
        train(net)
        states.append(net.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_another_order_gives_other_weights() -> None:
    nets = [network(), network()]
    for seed, net in enumerate(nets):
        train(net, order_seed=seed)
    assert not torch.equal(
        nets[0].state_dict()["decide.layers.0.weight"], nets[1].state_dict()["decide.layers.0.weight"]
    )


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[dict[str, torch.Tensor]]:
    """Validation losses by script; the states that they were of."""
    seen: list[dict[str, torch.Tensor]] = []

    def measure(net: FusedNetwork, _: Part, __: Objective) -> dict[str, float]:
        seen.append({key: value.clone() for key, value in net.state_dict().items()})
        return {"loss": losses[len(seen) - 1], "accuracy": 0.5}

    monkeypatch.setattr(training, "evaluate", measure)
    return seen


@pytest.mark.parametrize(
    ("losses", "patience", "best", "epochs"),
    [
        ([3.0, 2.0, 1.0, 2.0, 2.0, 2.0], 9, 2, 5),
        ([1.0, 2.0, 2.0, 2.0, 2.0, 2.0], 2, 0, 2),
        ([3.0, 2.0, 2.0, 2.0, 1.0, 1.0], 2, 1, 3),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], 1, 5, 5),
    ],
    ids=["the smallest", "before training", "patience", "the last"],
)
def test_the_best_epoch_is_kept(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], patience: int, best: int, epochs: int
) -> None:
    seen = scripted(monkeypatch, losses)
    net = network()
    trained = train(net, epochs=5, patience=patience)
    assert (trained.best_epoch, trained.epochs, trained.diverged) == (best, epochs, False)
    assert trained.validation["loss"] == losses[best]
    assert all(torch.equal(value, seen[best][key]) for key, value in net.state_dict().items())
    assert not net.training


def test_a_loss_that_is_no_number_ends_training_and_keeps_what_was_best(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scripted(monkeypatch, [3.0, 2.0, float("nan"), 1.0])
    net = network()
    trained = train(net, epochs=9)
    assert (trained.best_epoch, trained.epochs, trained.diverged) == (1, 2, True)
    assert all(torch.equal(value, seen[1][key]) for key, value in net.state_dict().items())


def test_a_huge_learning_rate_does_not_crash() -> None:
    trained = train(network(), learning_rate=1e30)
    assert trained.validation["loss"] < float("inf")


def test_predictions_are_those_of_evaluation_mode_in_any_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    whole = training.predict(net, part())
    assert torch.equal(training.predict(net.eval(), part()), whole)
    net.train()
    monkeypatch.setattr(batches, "_MOST_VALUES", 7 * 4)
    assert part().at_once == 7
    torch.testing.assert_close(training.predict(net, part()), whole)
    assert net.training


def test_parts() -> None:
    whole = part()
    whole.present[5:, 1] = False
    assert len(whole.only(1)) == 5
    assert len(whole.alone(1)) == 40
    assert not whole.without(0).present[:, 0].any()
    assert whole.present[:, 0].all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs is 0; 1 or more"),
        ({"patience": 0}, "patience is 0; 1 or more"),
        ({"batch_size": 1}, "batch_size is 1; 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; a number greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; a number of 0 or more"),
        ({"precision": "fp16"}, "precision is 'fp16'; 'bf16' or nothing is needed"),
        ({"memory_format": "nhwc"}, "memory_format is 'nhwc'; 'channels_last' or nothing is needed"),
    ],
)
def test_a_recipe_out_of_range(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Recipe(**setting)


@pytest.mark.parametrize("often", [0, 1])
def test_samples_without_any_modality_count_the_same_whatever_the_classes_are_called(often):
    torch.manual_seed(0)
    network = FusedNetwork({"a": VectorNet((4,), 2)}, None, outputs=2)
    target = torch.tensor([often] * 8 + [1 - often] * 2)
    nothing = Part((torch.randn(10, 4),), target, torch.zeros(10, 1, dtype=torch.bool))
    prior = (0.8, 0.2) if often == 0 else (0.2, 0.8)
    assert training.evaluate(network, nothing, Objective("classification", 2, prior=prior))[
        "accuracy"
    ] == pytest.approx(0.8)


def test_what_is_chosen_on_validation_is_chosen_after_training_and_measured_so() -> None:
    net, validation = network("weighted"), part(seed=1)
    noise = Part((torch.randn(40, 4), validation.features[1]), validation.target, validation.present)
    settings = Recipe(epochs=2, batch_size=8, learning_rate=1e-2)
    trained = training.train(net, part(), noise, OBJECTIVE, settings, order_seed=1)
    weights = net.decide.weights
    assert weights[1] > weights[0]
    assert float(weights.sum()) == pytest.approx(1)
    assert trained.validation == training.evaluate(net, noise, OBJECTIVE)


def test_what_the_fusion_adds_can_learn_at_a_rate_of_its_own() -> None:
    net = network("mmtm")
    task = training.FusionTask(net, OBJECTIVE, Recipe(learning_rate=1e-3, fusion_learning_rate=1e-2))
    groups = task.configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [1e-3, 1e-2]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in net.fusion_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    same = training.FusionTask(net, OBJECTIVE, Recipe(learning_rate=1e-3)).configure_optimizers().param_groups
    assert [group["lr"] for group in same] == [1e-3, 1e-3]
    alone = training.FusionTask(network("multiplication"), OBJECTIVE, Recipe()).configure_optimizers()
    assert len(alone.param_groups) == 1


def trained_on_clips(**recipe: Any) -> tuple[FusedNetwork, training.Trained, list[tuple[torch.dtype, bool]]]:
    """A network of clips, and what its second stage's maps were in training: their type, and whether channels come last."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(24) % 3
    clips = torch.randn(24, 3, 8, 8, 8, generator=generator) + target[:, None, None, None, None]
    samples = Part((clips, part(24).features[0]), target, torch.ones(24, 2, dtype=torch.bool))
    torch.manual_seed(0)
    net = FusedNetwork({"video": ConvNet((3, 8, 8, 8), 3), "b": VectorNet((4,), 3)}, "msaf", outputs=3)
    seen = []

    def look(module: torch.nn.Module, _: Any, y: torch.Tensor) -> None:
        if module.training:
            seen.append((y.dtype, y.is_contiguous(memory_format=torch.channels_last_3d) and not y.is_contiguous()))

    handle = net.networks["video"].stages[1][0].register_forward_hook(look)
    settings = Recipe(**{"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, **recipe})
    done = training.train(net, samples, samples, OBJECTIVE, settings, order_seed=1)
    handle.remove()
    return net, done, seen


@pytest.mark.parametrize(
    ("recipe", "as_seen", "close"),
    [
        ({"precision": "bf16"}, (torch.bfloat16, False), 0.1),
        ({"memory_format": "channels_last"}, (torch.float32, True), 1e-3),
        ({"precision": "bf16", "memory_format": "channels_last"}, (torch.bfloat16, True), 0.1),
    ],
)
def test_precision_and_memory_format_are_those_asked_for_and_change_little(
    recipe: dict[str, Any], as_seen: tuple[torch.dtype, bool], close: float
) -> None:
    _, plain, seen = trained_on_clips()
    assert set(seen) == {(torch.float32, False)}
    net, done, seen = trained_on_clips(**recipe)
    assert set(seen) == {as_seen}
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert done.validation["loss"] == pytest.approx(plain.validation["loss"], abs=close)
    assert done.validation["loss"] < 0.9  # of log 3 = 1.1 before training
    assert not done.diverged


def test_by_accuracy_the_first_of_the_best_epochs_is_kept_whatever_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([(1.0, 0.3), (3.0, 0.7), (0.5, 0.6), (0.4, 0.7)])
    seen: list[dict[str, torch.Tensor]] = []

    def measure(net: FusedNetwork, _: Part, __: Objective) -> dict[str, float]:
        seen.append({key: value.clone() for key, value in net.state_dict().items()})
        return dict(zip(("loss", "accuracy"), next(said), strict=True))

    monkeypatch.setattr(training, "evaluate", measure)
    net, objective = network(), Objective("classification", 3, chosen_by="accuracy")
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=1e-2)
    trained = training.train(net, part(), part(seed=1), objective, recipe, order_seed=1)
    assert (trained.best_epoch, trained.epochs) == (1, 3)
    assert trained.validation == {"loss": 3.0, "accuracy": 0.7}
    assert all(torch.equal(value, seen[1][key]) for key, value in net.state_dict().items())
