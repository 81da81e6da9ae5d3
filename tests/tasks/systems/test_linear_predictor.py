"""Protects the linear last layer: its equations, state, constant columns, few samples, absent classes, wrong values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.systems.linear_predictor import PENALTIES, UNSEEN, LinearPredictor


def samples(n: int = 60, width: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, width, dtype=torch.float64) * torch.logspace(-2, 3, width, dtype=torch.float64) + 4
    return x, x @ torch.randn(width, dtype=torch.float64) / 100 + torch.randn(n, dtype=torch.float64) / 10 - 2


def left_out(z: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """The squared error when each sample in turn is left out, by solving n times."""
    wrong = []
    for i in range(len(z)):
        kept = np.arange(len(z)) != i
        a, b = z[kept], y[kept]
        mean = a.mean(0)
        w = np.linalg.solve((a - mean).T @ (a - mean) + penalty * np.eye(a.shape[1]), (a - mean).T @ (b - b.mean()))
        wrong.append(y[i] - b.mean() - (z[i] - mean) @ w)
    return float(np.mean(np.square(wrong)))


def test_it_predicts_zeros_before_it_is_fitted() -> None:
    assert torch.equal(LinearPredictor(3, 2)(torch.randn(4, 3)), torch.zeros(4, 2))


@pytest.mark.parametrize("n", [8, 60])
def test_regression_is_ridge_with_the_penalty_that_is_best_with_one_sample_left_out(n: int) -> None:
    x, y = samples(n)
    net = LinearPredictor(5, 1).double()
    net.fit(x, y, "regression")
    z = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    penalty = min(PENALTIES, key=lambda p: left_out(z, y.numpy(), p))
    w = np.linalg.solve(z.T @ z + penalty * np.eye(5), z.T @ y.numpy())
    np.testing.assert_allclose(net(x)[:, 0].numpy(), z @ w + float(y.mean()), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "width"), [(200, 6), (30, 50), (5, 3)])
def test_regression_is_what_scikit_learn_finds(n: int, width: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = samples(n, width)
    x[:, -1] = x[:, 0]  # columns that repeat
    net = LinearPredictor(width, 1).double()
    net.fit(x, y, "regression")
    z = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    model = linear_model.RidgeCV(alphas=PENALTIES).fit(z, y.numpy())
    np.testing.assert_allclose(net(x)[:, 0].numpy(), model.predict(z), rtol=1e-6, atol=1e-8)


def test_a_state_dict_carries_it_and_no_optimizer_has_it() -> None:
    x, y = samples()
    net, other = LinearPredictor(5, 1), LinearPredictor(5, 1)
    net.fit(x, y, "sentiment")
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x.float()), other(x.float()))
    assert list(net.parameters()) == []


def test_the_same_samples_give_the_same_bits() -> None:
    x, y = samples()
    nets = [LinearPredictor(5, 1) for _ in range(2)]
    nets[1].fit(x * 2 - 5, -y, "regression")  # what was fitted before does not matter
    for net in nets:
        net.fit(x, y, "regression")
    assert all(torch.equal(a, b) for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True))


@pytest.mark.parametrize("kind", ["regression", "classification"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_column_has_no_weight(value: float, kind: str) -> None:
    x, y = samples()
    x[:, 2] = value
    target = (y > y.median()).long() if kind == "classification" else y
    net, without = LinearPredictor(5, 2).double(), LinearPredictor(4, 2).double()
    net.fit(x, target, kind)  # type: ignore[arg-type]
    kept = [0, 1, 3, 4]
    without.fit(x[:, kept], target, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(net(x), without(x[:, kept]), rtol=1e-6, atol=1e-8)
    moved = x.clone()
    moved[:, 2] += 1e3
    assert torch.equal(net(moved), net(x))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_samples_do(n: int) -> None:
    x, y = samples(n, 5)
    net = LinearPredictor(5, 1).double()
    net.fit(x, y, "regression")
    assert net(x).isfinite().all()
    assert float(net(x).mean()) == pytest.approx(float(y.mean()))
    if n == 1:
        assert torch.equal(net(x + 100), y[:, None])
    net = LinearPredictor(5, 3).double()
    net.fit(x, torch.arange(n), "classification")
    assert torch.equal(net(x).argmax(1), torch.arange(n))


def test_one_width_and_constant_targets_do() -> None:
    x = torch.randn(9, 1)
    net = LinearPredictor(1, 1)
    net.fit(x, torch.full((9,), 2.5), "sentiment")
    torch.testing.assert_close(net(x), torch.full((9, 1), 2.5))
    net.fit(torch.ones(9, 1), torch.arange(9.0), "sentiment")
    torch.testing.assert_close(net(x), torch.full((9, 1), 4.0))


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_is_where_the_gradient_of_the_penalized_loss_is_zero(classes: int) -> None:
    x, y = samples(80)
    target = torch.bucketize(y, y.quantile(torch.linspace(0, 1, classes + 1, dtype=torch.float64))[1:-1])
    net = LinearPredictor(5, classes).double()
    net.fit(x, target, "classification")
    z = (x - x.mean(0)) / x.std(0, correction=0)
    weight, bias = net.weight.clone().requires_grad_(), net.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(z @ weight.T + bias, target, reduction="sum")
    # two classes are one row of weights, the second class's: the first one's are zeros and stay so
    loss = loss + weight.square().sum() / 2
    loss.backward()
    learned = slice(1, None) if classes == 2 else slice(None)
    assert weight.grad is not None
    assert float(weight.grad[learned].abs().max()) < 2e-2
    assert float(bias.grad.abs().max()) < 2e-2  # type: ignore[union-attr]
    assert float((net(x).argmax(1) == target).double().mean()) > 0.8


@pytest.mark.parametrize("seen", [(1,), (0, 2), (0, 1, 3)])
def test_a_class_without_samples_is_never_the_answer(seen: tuple[int, ...]) -> None:
    x, _ = samples(30)
    target = torch.tensor(seen)[torch.arange(30) % len(seen)]
    net = LinearPredictor(5, 4).double()
    net.fit(x, target, "classification")
    far = net(torch.randn(500, 5, dtype=torch.float64) * 1e4)
    assert set(far.argmax(1).tolist()) <= set(seen)
    absent = [k for k in range(4) if k not in seen]
    assert (far[:, absent] == UNSEEN).all()
    assert (far.amax(1) >= -1e-9).all()


def test_what_is_not_finite_is_named() -> None:
    x, y = samples(6)
    net = LinearPredictor(5, 2)
    wrong = x.clone()
    wrong[2, 1] = wrong[4, 0] = float("nan")
    with pytest.raises(
        FusionInputError, match=r"embeddings: 2 of 6 samples are not finite, the first is number 2; a low"
    ):
        net.fit(wrong, y, "regression")
    target = y.clone()
    target[5] = float("inf")
    with pytest.raises(FusionInputError, match=r"target: 1 of 6 samples are not finite, the first is number 5; leave"):
        net.fit(x, target, "regression")
    assert torch.equal(net(x.float()), torch.zeros(6, 2))


def test_wrong_shapes_and_classes() -> None:
    x, y = samples(6)
    net = LinearPredictor(5, 2)
    with pytest.raises(FusionInputError, match=r"expected embeddings \(n, 5\) of 1 sample or more, got \(0, 5\)"):
        net.fit(x[:0], y[:0], "regression")
    with pytest.raises(FusionInputError, match=r"expected embeddings \(n, 5\)"):
        net.fit(x[:, :4], y, "regression")
    with pytest.raises(FusionInputError, match=r"expected a target \(6,\), one a sample, got \(6, 1\)"):
        net.fit(x, y[:, None], "regression")
    with pytest.raises(FusionInputError, match=r"expected class indices from 0 to 1, got 0 to 5"):
        net.fit(x, torch.arange(6), "classification")


def test_a_column_of_rounding_has_no_weight() -> None:
    """A constant in float32, averaged over different numbers of steps, is no constant any more; nor is it information."""
    x, y = samples(200, 3)
    noise = 3.7 + 2e-7 * torch.randn(200, 1, dtype=torch.float64)
    for column in (noise, noise - noise.mean()):  # as it is, and as batch norm centres it
        net = LinearPredictor(4, 1).double()
        net.fit(torch.cat([x, column], 1), y, "regression")
        assert float(net.weight[0, 3]) == 0.0
        changed = torch.cat([x, column + 0.1], 1)
        torch.testing.assert_close(net(changed), net(torch.cat([x, column], 1)))
