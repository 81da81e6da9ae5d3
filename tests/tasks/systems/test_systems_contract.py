"""Protects the contract of every published model: padding, absent modalities, batches of one, words, state, gradients."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems import SYSTEMS, System, create_system

# those of text, audio and video; others have tests of the same kind beside their own
NAMES = [name for name, entry in SYSTEMS.items() if entry.takes(("text", "audio", "video"))]
CLASSIFIERS = [name for name in NAMES if SYSTEMS[name].classification]
SHAPES = {"video": (5, 6), "audio": (4, 9), "text": (7, 6)}  # audio with steps of its own
STEPS = {name: shape[1] for name, shape in SHAPES.items()}
# small layers, as these tests are of the contract and not of the sizes
SMALL: dict[str, dict[str, Any]] = {
    "tfn_network": {"audio": 4, "video": 5, "text": 6, "text_out": 4, "hidden": (8, 7)},
    "lmf_network": {"audio": 4, "video": 5, "text": 6},
    "misa": {"hidden": 8, "feed_forward": 16},
    "mfm": {
        "hidden": (6, 4, 5),
        "latents": (6, 4, 5),
        "factors": (8, 9, 7),
        "joint": (5, 4),
        "memory": 6,
        "layers": (9, 8, 6, 5),
    },
    "dcca_one_step": {"width": 3, "hidden": (8,)},
    "dcca_two_step": {"width": 3, "hidden": (8,)},
    "iccn": {"width": 3, "audio": 8, "video": 6},
}


def build(name: str, outputs: int = 1, **arguments: Any) -> System:
    torch.manual_seed(5)
    return create_system(name, arguments.pop("shapes", SHAPES), outputs, **SMALL.get(name, {}), **arguments)


def fitted(name: str, **arguments: Any) -> System:
    """In evaluation mode, with a last layer that does something where it is solved for."""
    system = build(name, **arguments).eval()
    if system.closed_form:
        inputs, present, lengths = batch(40)
        system.refit(system.embed(inputs, present, lengths), torch.randn(40))
        assert system(inputs, present, lengths).prediction.any()
    return system


def rows(system: System) -> int:
    return system.least_batch + 6


def batch(n: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Inputs with zeros where nothing is, presence, and lengths from 1 to all steps."""
    inputs = [torch.randn(n, *shape, dtype=dtype) for shape in SHAPES.values()]
    present = torch.ones(n, 3, dtype=torch.bool)
    present[1, 0] = present[2, 1] = present[3, 2] = present[4, 0] = present[4, 1] = False
    lengths = [torch.arange(n) % steps + 1 for steps in STEPS.values()]
    for m, (x, end) in enumerate(zip(inputs, lengths, strict=True)):
        x *= present[:, m, None, None]
        x *= (torch.arange(x.shape[2]) < end[:, None]).unsqueeze(1)
    return inputs, present, lengths


def spoil(inputs: list[Tensor], present: Tensor, lengths: list[Tensor], junk: float) -> list[Tensor]:
    spoiled = [x.clone() for x in inputs]
    for m, (x, end) in enumerate(zip(spoiled, lengths, strict=True)):
        real = (torch.arange(x.shape[2]) < end[:, None]) & present[:, m, None]
        x.masked_fill_(~real.unsqueeze(1), junk)
    return spoiled


def task_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(prediction[:, 0], target)


def everything(fused: Fused) -> list[Tensor]:
    return [fused.prediction, *fused.parts, *([] if fused.own_loss is None else [fused.own_loss])]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_padding_and_where_nothing_is_changes_nothing(name: str, junk: float, training: bool) -> None:
    first = fitted(name).train(training)
    inputs, present, lengths = batch(rows(first))
    results = []
    for values in (inputs, spoil(inputs, present, lengths, junk)):
        system = copy.deepcopy(first)
        values = [x.clone().requires_grad_() for x in values]
        torch.manual_seed(2)  # of dropout
        fused = system(values, present, lengths)
        if training:
            loss = system.training_loss(fused, torch.linspace(-3, 3, len(present)), present, task_loss)
        else:
            loss = fused.prediction.square().sum()
        loss.backward()
        grads = [p.grad for p in system.parameters() if p.grad is not None]
        found = [x.grad for x in values if x.grad is not None]
        results.append([loss.detach(), *everything(fused), *grads, *found, *system.buffers()])
        for m, x in enumerate(values):
            real = (torch.arange(x.shape[2]) < lengths[m][:, None]) & present[:, m, None]
            assert x.grad is None or not x.grad.transpose(1, 2)[~real].any()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(y.isfinite().all() for y in results[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_predicted_as_if_it_were_alone_and_unpadded(name: str) -> None:
    system = fitted(name).double()
    inputs, present, lengths = batch(rows(system), torch.float64)
    together = system(inputs, present, lengths).prediction
    for i in range(6):
        one = [x[i : i + 1, :, : int(end[i])] for x, end in zip(inputs, lengths, strict=True)]
        torch.testing.assert_close(system(one, present[i : i + 1]).prediction, together[i : i + 1])


@pytest.mark.parametrize("name", NAMES)
def test_more_padding_is_the_same_to_a_model(name: str) -> None:
    system = fitted(name).double()
    inputs, present, lengths = batch(rows(system), torch.float64)
    longer = [F.pad(x, (0, 4)) for x in inputs]
    torch.testing.assert_close(system(longer, present, lengths).prediction, system(inputs, present, lengths).prediction)


@pytest.mark.parametrize("name", NAMES)
def test_all_present_and_all_real_is_as_saying_nothing(name: str) -> None:
    system = fitted(name)
    n = rows(system)
    inputs = [torch.randn(n, *shape) for shape in SHAPES.values()]
    ends = [torch.full((n,), steps) for steps in STEPS.values()]
    said = system(inputs, torch.ones(n, 3, dtype=torch.bool), ends).prediction
    torch.testing.assert_close(system(inputs).prediction, said)
    torch.testing.assert_close(system(inputs, lengths=[None, ends[1], None]).prediction, said)


@pytest.mark.parametrize("absent", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_modalities_that_no_row_has_leave_all_finite(name: str, absent: tuple[int, ...]) -> None:
    system = build(name)
    n = rows(system)
    present = torch.ones(n, 3, dtype=torch.bool)
    present[:, list(absent)] = False
    fused = system([torch.randn(n, *shape) for shape in SHAPES.values()], present)
    loss = system.training_loss(fused, torch.randn(n), present, task_loss)
    if loss.requires_grad:
        loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert system.eval()([torch.randn(n, *shape) for shape in SHAPES.values()], present).prediction.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_of_no_steps_is_absent(name: str) -> None:
    system = fitted(name)
    inputs, present, lengths = batch(rows(system))
    said = system(inputs, present, lengths).prediction
    none = [torch.where(present[:, m], end, 0) for m, end in enumerate(lengths)]
    assert torch.equal(system(inputs, None, none).prediction, said)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_trains_and_is_predicted(name: str) -> None:
    system = build(name)
    inputs = [torch.randn(1, *shape) for shape in SHAPES.values()]
    assert system.eval()(inputs).prediction.shape == (1, 1)
    if system.least_batch > 2:
        return
    fused = system.train()(inputs)
    system.training_loss(fused, torch.ones(1), None, task_loss).backward()
    assert all(y.isfinite().all() for y in everything(fused))
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_one_step_is_as_a_vector(name: str) -> None:
    one = {m: (shape[0], 1) for m, shape in SHAPES.items()}
    vectors = build(name, shapes={m: shape[:1] for m, shape in SHAPES.items()}).eval()
    steps = build(name, shapes=one).eval()
    with torch.no_grad():
        for p, q in zip(vectors.parameters(), steps.parameters(), strict=True):
            q.copy_(p.add_(0.01))
    inputs = [torch.randn(3, shape[0]) for shape in SHAPES.values()]
    assert torch.equal(vectors(inputs).prediction, steps([x.unsqueeze(2) for x in inputs]).prediction)


@pytest.mark.parametrize("name", NAMES)
def test_words_are_learned_vectors_and_what_is_behind_the_end_is_not_looked_up(name: str) -> None:
    shapes = {**SHAPES, "text": (1, 6)}
    system = build(name, shapes=shapes, tokens={"text": 11})
    assert system.widths == {"video": 5, "audio": 4, "text": 300}
    n = rows(system)
    inputs, present, lengths = batch(n)
    inputs[2] = torch.randint(1, 11, (n, 1, 6)).float()
    found = []
    for junk in (0.0, 99.0, math.nan):
        torch.manual_seed(2)
        copied = copy.deepcopy(system)
        fused = copied(spoil(inputs, present, lengths, junk), present, lengths)
        copied.training_loss(fused, torch.linspace(-1, 1, n), present, task_loss).backward()
        grad = copied.words[0].vectors.weight.grad
        assert grad is not None
        assert grad[1:].any()
        assert not grad[0].any()
        found.append([*everything(fused), grad])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_order_is_by_name(name: str) -> None:
    system = fitted(name)
    other = build(name, shapes={m: SHAPES[m] for m in ("text", "video", "audio")}).eval()
    other.load_state_dict(system.state_dict())
    inputs, present, lengths = batch(rows(system))
    turned = [[values[m] for m in (2, 0, 1)] for values in (inputs, lengths)]
    expected = system(inputs, present, lengths).prediction
    assert torch.equal(other(turned[0], present[:, [2, 0, 1]], turned[1]).prediction, expected)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip_and_evaluation_is_deterministic(name: str) -> None:
    system = fitted(name).train()
    inputs, present, lengths = batch(rows(system))
    system(inputs, present, lengths)  # running statistics move
    other = build(name)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    other.load_state_dict(system.state_dict())
    system.eval()
    other.eval()
    first = system(inputs, present, lengths)
    assert first.own_loss is None
    assert torch.equal(first.prediction, system(inputs, present, lengths).prediction)
    assert torch.equal(first.prediction, other(inputs, present, lengths).prediction)


@pytest.mark.parametrize("name", NAMES)
def test_float64(name: str) -> None:
    system = fitted(name)
    inputs, present, lengths = batch(rows(system))
    expected = system(inputs, present, lengths).prediction
    found = system.double()([x.double() for x in inputs], present, lengths).prediction
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    fused = system.train()([x.double() for x in inputs], present, lengths)
    system.training_loss(fused, torch.zeros(len(present), dtype=torch.float64), present, task_loss).backward()


@pytest.mark.parametrize("outputs", [2, 7])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes(name: str, outputs: int) -> None:
    system = build(name, outputs, kind="classification")
    n = rows(system)
    inputs, present, lengths = batch(n)
    fused = system(inputs, present, lengths)
    assert fused.prediction.shape == (n, outputs)
    target = torch.arange(n) % outputs
    loss = system.training_loss(fused, target, present, F.cross_entropy)
    assert loss.isfinite()
    if not system.closed_form:
        own = 0 if fused.own_loss is None else fused.own_loss
        torch.testing.assert_close(loss, F.cross_entropy(fused.prediction, target) + own)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_all_that_learns(name: str) -> None:
    system = build(name)
    n = 4 * rows(system)
    inputs = [torch.randn(n, *shape) for shape in SHAPES.values()]
    system.training_loss(system(inputs), torch.randn(n), None, task_loss).backward()
    without = [
        which for which, p in system.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_training_makes_the_loss_smaller(name: str) -> None:
    system = build(name)
    n = max(4 * rows(system), 32)
    torch.manual_seed(4)
    hidden = torch.randn(n)
    inputs = [torch.randn(n, *shape) * 0.3 + hidden[:, None, None] for shape in SHAPES.values()]
    target = hidden.clamp(-2.5, 2.5)
    optimizer = torch.optim.Adam((p for p in system.parameters() if p.requires_grad), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = system.training_loss(system(inputs), target, None, task_loss)
        loss.backward()
        if system.clip_value is not None:
            torch.nn.utils.clip_grad_value_(system.parameters(), system.clip_value)
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert last < first - 0.1 * abs(first), (first, last)


@pytest.mark.parametrize("name", NAMES)
def test_the_runner_may_treat_it_as_a_network_without_a_rule(name: str) -> None:
    system = build(name)
    assert system.rule is None
    assert list(system.fusion_parameters()) == []
    assert system.modalities == tuple(SHAPES)
    if not system.closed_form:
        before = {key: value.clone() for key, value in system.state_dict().items()}
        system.refit(torch.randn(8, 3), torch.randn(8))
        assert all(torch.equal(value, before[key]) for key, value in system.state_dict().items())
