"""Protects what models without labels share: loss, batches, absent views, and the last layer that is solved for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.correlation import canonical_correlation
from torchmsaf.tasks.systems.dcca import OneStepDCCA, TwoStepDCCA
from torchmsaf.tasks.systems.iccn import ICCN
from torchmsaf.tasks.systems.label_free import LabelFree, over_rows

SHAPES = {"video": (5, 6), "audio": (4, 6), "text": (7, 6)}
SMALL: dict[type[LabelFree], dict[str, Any]] = {
    OneStepDCCA: {"hidden": (8,)},
    TwoStepDCCA: {"hidden": (8,)},
    ICCN: {"audio": 5, "video": 3},
}
ALL = pytest.mark.parametrize("kind", list(SMALL))


def build(system: type[LabelFree], outputs: int = 1, **options: Any) -> LabelFree:
    return system(SHAPES, outputs, **{"width": 3, "batch_size": 32, **SMALL[system], **options})


def batch(n: int = 32) -> list[Tensor]:
    common = torch.randn(n, 1, 1)
    return [torch.randn(n, *shape) + common for shape in SHAPES.values()]


def no_criterion(prediction: Tensor, target: Tensor) -> Tensor:
    raise AssertionError


@ALL
def test_the_loss_is_the_negative_correlation_and_no_label_is_read(kind: type[LabelFree]) -> None:
    net = build(kind).train()
    inputs = batch()
    fused = net(inputs)
    _, pairs = net.view(*net.read(inputs, None, None))
    expected = -sum(canonical_correlation(pair.first, pair.second) for pair in pairs)
    loss = net.training_loss(fused, torch.full((32,), float("nan")), None, no_criterion)
    torch.testing.assert_close(loss, expected)
    assert -3 * len(pairs) < float(loss.detach()) < 0
    assert not fused.prediction.any()  # nothing is fitted yet


@ALL
def test_the_largest_correlations_alone(kind: type[LabelFree]) -> None:
    net = build(kind, count=1, regularization=0.1).train()
    inputs = batch()
    own = net(inputs).own_loss
    _, pairs = net.view(*net.read(inputs, None, None))
    expected = -sum(canonical_correlation(p.first, p.second, regularization=0.1, count=1) for p in pairs)
    torch.testing.assert_close(own, expected)


@ALL
def test_views_have_mean_zero_and_variance_one_in_training(kind: type[LabelFree]) -> None:
    net = build(kind).train()
    for pair in net.view(*net.read(batch(), None, None))[1]:
        for view in (pair.first, pair.second):
            torch.testing.assert_close(view.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
            assert (view.var(0, correction=0) > 0.5).all()  # below one, for what batch norm adds to small variances
            assert (view.var(0, correction=0) < 1).all()


@ALL
def test_a_batch_too_small_for_the_width_is_an_error(kind: type[LabelFree]) -> None:
    net = build(kind).train()
    assert net.least_batch == 7
    assert net.batch_size == 32
    said = "batch of 6 samples is too small .* of width 3, which needs 7 or more: raise batch_size or lower width"
    with pytest.raises(FusionInputError, match=said):
        net(batch(6))
    assert net(batch(7)).own_loss is not None
    assert net.eval()(batch(1)).own_loss is None
    with pytest.raises(FusionInputError, match=said):
        build(kind, batch_size=6)


@ALL
def test_the_defaults_fit_a_batch_of_512(kind: type[LabelFree]) -> None:
    with torch.device("meta"):
        net = kind({"video": (35, 50), "audio": (74, 50), "text": (768, 50)}, 1)
    assert (net.batch_size, net.least_batch, net.closed_form, net.learning_rate) == (512, 101, True, 1e-3)


@ALL
def test_samples_without_both_views_are_not_in_the_loss(kind: type[LabelFree]) -> None:
    net = build(kind).train()
    inputs, present = batch(), torch.ones(32, 3, dtype=torch.bool)
    present[:4, 2] = False  # no text
    present[2:6, :2] = False  # nothing but text, or nothing
    own = net(inputs, present).own_loss
    _, pairs = net.view(*net.read(inputs, present, None))
    rows = [present.all(1)] if kind is ICCN else [present[:, :2].all(1), present.all(1)][-len(pairs) :]
    assert len(rows) == len(pairs)
    expected = -sum(canonical_correlation(p.first[r], p.second[r]) for p, r in zip(pairs, rows, strict=True))
    torch.testing.assert_close(own, expected)


@ALL
def test_too_few_samples_with_both_views_teach_nothing(kind: type[LabelFree]) -> None:
    net = build(kind).train()
    present = torch.ones(32, 3, dtype=torch.bool)
    present[6:, 2] = False
    present[6:, 0] = False  # 6 have text with anything; all have audio
    own = net(batch(), present).own_loss
    assert own is not None
    own.backward()
    assert float(own.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


@ALL
def test_in_evaluation_the_loss_is_the_tasks(kind: type[LabelFree]) -> None:
    net = build(kind).eval()
    fused = net(batch(4))
    loss = net.training_loss(fused, torch.ones(4), None, lambda p, t: (p[:, 0] - t).square().mean())
    assert float(loss.detach()) == 1


@ALL
def test_embeddings_are_made_in_evaluation_mode_and_fit_the_last_layer(kind: type[LabelFree]) -> None:
    net = build(kind).train()
    for _ in range(3):
        net(batch())  # running statistics
    inputs = batch(40)
    target = sum(x.mean((1, 2)) for x in inputs)
    assert isinstance(target, Tensor)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    embeddings = net.embed(inputs)
    assert net.training
    assert not embeddings.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.refit(embeddings, target)
    fitted = [name for name, value in net.state_dict().items() if not torch.equal(before[name], value)]
    assert {name.partition(".")[0] for name in fitted} == {"predictor"}
    net.eval()
    assert torch.equal(net.embed(inputs), embeddings)
    mean, std = embeddings.double().mean(0), embeddings.double().std(0, correction=0)
    z = ((embeddings - mean) / std).numpy()
    found = net(inputs).prediction[:, 0].detach().double()
    # a ridge solution leaves errors that its columns explain by the penalty alone: Z^T (y - Z w) = penalty w
    w = net.predictor.weight[0].double().numpy()
    left = z.T @ (target.double() - found).numpy()
    penalty = float(left @ w / (w @ w))
    np.testing.assert_allclose(left, penalty * w, atol=1e-2 * np.abs(left).max() + 1e-3)
    other = build(kind)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(inputs).prediction, net(inputs).prediction)


@ALL
def test_classes_are_predicted_after_a_fit(kind: type[LabelFree]) -> None:
    net = build(kind, 3, kind="classification").train()
    for _ in range(3):
        net(batch())
    inputs = batch(60)
    value = sum(x.mean((1, 2)) for x in inputs)
    assert isinstance(value, Tensor)
    target = torch.bucketize(value, value.quantile(torch.tensor([0.33, 0.67])))
    net.refit(net.embed(inputs), target)
    prediction = net.eval()(inputs).prediction
    assert prediction.shape == (60, 3)
    assert float((prediction.argmax(1) == target).float().mean()) > 0.6


@ALL
def test_an_absent_view_stands_at_the_mean(kind: type[LabelFree]) -> None:
    net = build(kind).train()
    for _ in range(3):
        net(batch())
    absent = torch.tensor([[False, False, True], [True, True, False], [False] * 3])
    embedding = net.embed([torch.randn(3, *shape) for shape in SHAPES.values()], absent)
    text = slice(3, 10) if kind is ICCN else slice(3, 6)
    others = torch.ones(embedding.shape[1], dtype=torch.bool)
    others[text] = False
    assert embedding[0, text].all()
    assert not embedding[0, others].any()
    assert not embedding[1, text].any()
    assert bool(embedding[1, others].any()) == (kind is not ICCN)  # outer products need the text
    assert not embedding[2].any()


def test_rows_that_do_not_count_are_kept_from_batch_norm() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    x, rows = torch.randn(6, 3), torch.tensor([True, False, True, True, False, True])
    y = over_rows(net, x, rows)
    linear = net[0](x[rows])
    torch.testing.assert_close(y[rows], (linear - linear.mean(0)) / (linear.var(0, correction=0) + 1e-5).sqrt())
    assert not y[~rows].any()
    torch.testing.assert_close(net[1].running_mean, 0.1 * linear.detach().mean(0))
    before = net[1].running_mean.clone()
    for one in (rows & (torch.arange(6) == 2), torch.zeros(6, dtype=torch.bool)):
        y = over_rows(net, x, one)
        torch.testing.assert_close(y[one], (net[0](x[one]) - before) / (net[1].running_var + 1e-5).sqrt())
        assert not y[~one].any()
    assert torch.equal(net[1].running_mean, before)
    assert net[1].training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "width: expected an integer"),
        ({"regularization": 0}, "regularization is greater than 0"),
        ({"count": 0}, "count: expected an integer"),
        ({"count": 4}, "count: views of width 3 have 3 correlations, got 4"),
        ({"batch_size": 0}, "batch_size: expected an integer"),
    ],
)
@ALL
def test_wrong_options_of_models_without_labels(kind: type[LabelFree], options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        build(kind, **options)


@ALL
def test_what_is_embedded_is_normalized_by_all_training_samples_after_calibration(kind: type[LabelFree]) -> None:
    """Where the moving averages of a few batches are still far from what they follow."""
    net, inputs = build(kind), [20 * x + 50 for x in batch(64)]
    net.train()(inputs)
    modes = [module.training for module in net.modules()]
    lagging = net.embed(inputs)
    net.calibrate([(inputs, None, None)])
    embedded = net.embed(inputs)
    assert [module.training for module in net.modules()] == modes
    views = slice(0, 3 if kind is ICCN else 6)  # the text of ICCN, which comes next, is as it is
    torch.testing.assert_close(embedded[:, views].mean(0), torch.zeros(views.stop), rtol=0, atol=0.02)
    assert float(lagging[:, views].mean(0).abs().max()) > 0.1
    torch.testing.assert_close(embedded[:, views].std(0, correction=0), torch.ones(views.stop), rtol=0, atol=0.05)


def test_calibration_in_pieces_is_near_that_of_the_whole() -> None:
    net, inputs = build(OneStepDCCA), batch(64)
    net.calibrate([(inputs, None, None)])
    whole = net.embed(inputs)
    net.calibrate([([x[rows] for x in inputs], None, None) for rows in torch.arange(64).split(32)])
    torch.testing.assert_close(net.embed(inputs), whole, rtol=0, atol=0.5)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    assert {norm.momentum for norm in norms} == {0.1}
