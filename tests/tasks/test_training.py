"""Protects training: the same batches for all, the best epoch on validation kept, repeatable, never a hidden failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.bf16 import needs_bf16, skip_lstm_without_bf16
from torchmsaf.backbones import ConvNet, VectorNet
from torchmsaf.errors import DataError
from torchmsaf.tasks import batches, training
from torchmsaf.tasks.batches import Part, training_batches
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe
from torchmsaf.tasks.systems import SYSTEMS, System, create_system

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
        pytest.param(
            {"precision": "bf16", "memory_format": "channels_last"}, (torch.bfloat16, True), 0.1, marks=needs_bf16
        ),
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


def test_an_lstm_that_this_cpu_cannot_run_in_bfloat16_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "runs_lstm_in_bf16", lambda: False)
    net = create_system("tfn_network", {"video": (3,), "audio": (4,), "text": (6, 5)}, 1)
    inputs = (torch.randn(8, 3), torch.randn(8, 4), torch.randn(8, 6, 5))
    samples = Part(inputs, torch.randn(8), torch.ones(8, 3, dtype=torch.bool))
    with pytest.raises(DataError, match="'bf16', in which this CPU runs no LSTM: train without it, or on a GPU"):
        training.train(net, samples, samples, VALUES, Recipe(epochs=1, precision="bf16"), order_seed=0)
    trained_on_clips(precision="bf16")  # networks without one are trained


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


# published models

VALUES = Objective("sentiment", 1)


class Probe(System):
    """A linear layer on means of the steps, which notes what it gets."""

    needs = ()

    def __init__(self) -> None:
        super().__init__({"a": (4, 5), "b": (3, 5)}, 1)
        torch.manual_seed(0)
        self.layer = nn.Linear(7, 1)
        self.seen: list[tuple[bool, list[list[int]]]] = []
        self.events: list[Any] = []

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        self.seen.append((self.training, [mask.sum(1).tolist() for mask in masks.values()]))
        means = [x.sum(1) / masks[name].sum(1, keepdim=True).clamp(min=1) for name, x in steps.items()]
        return Fused(self.layer(torch.cat(means, 1)))


class Solved(Probe):
    """One whose prediction is a number that is solved for: the mean of the training targets, plus what it embeds."""

    closed_form = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("answer", torch.zeros(()))

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        return Fused(super().run(steps, masks, present).prediction * 0.1 + self.answer)

    def embed(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        self.events.append(("embed", self.training, torch.is_grad_enabled(), len(inputs[0]), lengths))
        return torch.cat([x.mean(2) for x in inputs], 1) * self.layer.weight.detach()

    def refit(self, embeddings: Tensor, target: Tensor) -> None:
        self.events.append(("refit", embeddings.clone(), target.clone(), self.layer.weight.detach().clone()))
        self.answer.fill_(float(target.mean()))


ENDS = torch.arange(23) % 5 + 1


def sequences(n: int = 23, seed: int = 0) -> Part:
    """Sequences of one to five steps, of which the second modality has five always."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 4, 5, generator=generator), torch.randn(n, 3, 5, generator=generator)
    x.masked_fill_(torch.arange(5) >= ENDS[:n, None, None], 0)
    target = x.sum((1, 2)) / ENDS[:n] + 1
    return Part((x, y), target, torch.ones(n, 2, dtype=torch.bool), lengths=(ENDS[:n], None))


def train_system(net: System, samples: Part | None = None, objective: Objective = VALUES, **recipe: Any) -> Any:
    settings = Recipe(**{"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, **recipe})
    return training.train(net, samples or sequences(), sequences(9, seed=1), objective, settings, order_seed=1)


def steps_of(net: nn.Module, **recipe: Any) -> list[list[Tensor]]:
    """The gradients of each step of a training of one epoch, as the optimizer used them."""
    found: list[list[Tensor]] = []
    handle = register_optimizer_step_post_hook(
        lambda optimizer, *_: found.append([p.grad.clone() for g in optimizer.param_groups for p in g["params"]])
    )
    try:
        train_system(net, epochs=1, **recipe)  # type: ignore[arg-type]
    finally:
        handle.remove()
    return found


def test_a_system_has_batches_and_a_learning_rate_of_its_own_and_all_else_of_the_recipe() -> None:
    recipe = Recipe(batch_size=8, learning_rate=1e-2, weight_decay=0.5)
    net = Probe()
    assert training.own_recipe(net, recipe) == recipe
    net.batch_size, net.learning_rate = 10, 3e-3
    assert training.own_recipe(net, recipe) == Recipe(batch_size=10, learning_rate=3e-3, weight_decay=0.5)
    task = training.FusionTask(net, VALUES, recipe)
    (group,) = task.configure_optimizers().param_groups
    assert (group["lr"], group["weight_decay"]) == (3e-3, 0.5)
    # a fused network has what all have, whatever it is called
    fused = network()
    fused.batch_size = 10  # type: ignore[assignment]
    assert training.own_recipe(fused, recipe) == recipe
    train_system(net, epochs=1)
    assert [len(lengths[0]) for training_mode, lengths in net.seen if training_mode] == [10, 10, 3]


def test_lengths_reach_a_system_in_training_and_in_evaluation() -> None:
    net = Probe()
    train_system(net, epochs=1)
    told = [
        sorted(length for mode, one in net.seen if mode == training_mode for length in one[0])
        for training_mode in (True, False)
    ]
    assert told == [sorted(ENDS.tolist()), sorted(ENDS[:9].tolist() * 2)]
    assert {length for _, one in net.seen for length in one[1]} == {5}


def test_gradients_are_clipped_entry_by_entry_where_a_system_says_so() -> None:
    free, clipped, loose = Probe(), Probe(), Probe()
    clipped.clip_value, loose.clip_value = 0.05, 1e6
    whole, cut, same = steps_of(free), steps_of(clipped), steps_of(loose)
    assert len(whole) == len(cut) == 3
    for a, b in zip(whole[0], cut[0], strict=True):
        torch.testing.assert_close(b, a.clamp(-0.05, 0.05))
    values = torch.cat([one.flatten() for one in whole[0]]).abs()
    assert values.min() < 0.05 < values.max()  # or there was nothing to see
    assert max(float(one.abs().max()) for step in cut for one in step) <= 0.05 * (1 + 1e-6)
    assert all(
        torch.equal(a, b) for one, other in zip(whole, same, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_the_closed_form_is_solved_on_the_training_samples_alone_before_each_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, real = Solved(), training.evaluate

    def measured(network: Any, samples: Part, objective: Objective) -> dict[str, float]:
        network.events.append(("measure", len(samples), float(network.answer)))
        return real(network, samples, objective)

    monkeypatch.setattr(training, "evaluate", measured)
    net.batch_size, net.least_batch = 20, 10  # three samples take part in no step, and in the solution
    samples = sequences()
    objective = Objective("sentiment", 1, mean=2.0, std=4.0)
    train_system(net, samples, objective, epochs=3, patience=3)
    assert [event[0] for event in net.events] == ["embed", "refit", "measure"] * 4
    scaled = (samples.target - 2) / 4
    weights = []
    for _, embeddings, target, weight in net.events[1::3]:
        torch.testing.assert_close(target, scaled)
        expected = torch.cat([x.mean(2) for x in samples.features], 1) * weight
        torch.testing.assert_close(embeddings, expected)
        weights.append(weight)
    assert not torch.equal(weights[0], weights[-1])  # each time of the weights as they are then
    for _, training_mode, gradients, count, lengths in net.events[::3]:
        assert (training_mode, gradients, count) == (False, False, 23)
        assert torch.equal(lengths[0], ENDS)
    for _, count, answer in net.events[2::3]:
        assert count == 9
        assert answer == pytest.approx(float(scaled.mean()))
    assert len([mode for mode, _ in net.seen if mode]) == 3  # one batch an epoch


def test_the_closed_form_of_the_kept_epoch_is_kept() -> None:
    class Counted(Solved):
        def refit(self, embeddings: Tensor, target: Tensor) -> None:
            super().refit(embeddings, target)
            count = sum(event[0] == "refit" for event in self.events)
            self.answer.fill_((100.0, 5.0, 1.0, 50.0)[count - 1])  # the third is the best, after the second epoch

    net = Counted()
    done = train_system(net, epochs=3, patience=3)
    assert (done.best_epoch, done.epochs) == (2, 3)
    assert float(net.answer) == 1.0
    assert done.validation == training.evaluate(net, sequences(9, seed=1), VALUES)


def test_a_network_without_a_closed_form_is_not_solved_for() -> None:
    net = Probe()
    training.refit(net, sequences(), VALUES)  # embed() of it would raise
    assert net.events == []
    training.refit(network(), part(), OBJECTIVE)


def test_fewer_samples_than_a_batch_needs_are_an_error() -> None:
    net = Probe()
    net.least_batch = 24
    with pytest.raises(DataError, match=r"batches of 24 samples or more are needed, and 23 train: .* or more data"):
        train_system(net)
    assert net.seen == []
    net.least_batch = 23
    net.batch_size = 30
    train_system(net, epochs=1)
    assert [len(lengths[0]) for mode, lengths in net.seen if mode] == [23]


def test_a_loss_of_a_systems_own_is_added_to_the_tasks_and_absolute_errors_take_its_place() -> None:
    net, fused, target = Probe(), Fused(torch.randn(6, 1)), torch.randn(6)
    value = fused.prediction[:, 0]
    squared, absolute = float((value - target).square().mean()), float((value - target).abs().mean())

    def loss(own: float | None) -> float:
        with_own = Fused(fused.prediction, own_loss=None if own is None else torch.tensor(own))
        return float(net.training_loss(with_own, target, None, lambda x, y: F.mse_loss(x[:, 0], y)))

    assert loss(None) == pytest.approx(squared)
    assert loss(0.5) == pytest.approx(squared + 0.5)
    net.absolute_error = True
    assert loss(0.5) == pytest.approx(absolute + 0.5)


@pytest.mark.parametrize("name", [name for name, one in SYSTEMS.items() if one.takes(("text", "audio", "video"))])
def test_every_system_trains_in_bfloat16(name: str) -> None:
    """Clipped gradients, closed forms and correlations too; weights stay in float32."""
    shapes = {"video": (3, 5), "audio": (4, 5), "text": (6, 5)}
    options: dict[str, Any] = {"batch_size": 32, "width": 4} if "dcca" in name or name == "iccn" else {}
    net = create_system(name, shapes, 1, **options)
    skip_lstm_without_bf16(net)
    samples = Part(
        tuple(torch.randn(64, *shape) for shape in shapes.values()),
        torch.randn(64),
        torch.ones(64, 3, dtype=torch.bool),
        lengths=tuple(torch.randint(1, 6, (64,)) for _ in shapes),
    )
    recipe = Recipe(epochs=1, batch_size=32, precision="bf16")
    done = training.train(net, samples, samples, VALUES, recipe, order_seed=0)
    assert not done.diverged
    assert all(p.dtype == torch.float32 and bool(torch.isfinite(p).all()) for p in net.parameters())


def test_a_closed_form_of_what_is_not_finite_ends_training_and_keeps_what_was_best() -> None:
    class Broken(Solved):
        def embed(self, *args: Any, **kwargs: Any) -> Tensor:
            found = super().embed(*args, **kwargs)
            return found * torch.nan if sum(event[0] == "embed" for event in self.events) == 3 else found

    done = train_system(Broken(), epochs=5, patience=5)
    assert done.diverged
    assert done.epochs == 2
    assert math.isfinite(done.validation["loss"])
