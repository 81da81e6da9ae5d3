"""Protects the numbers that a comparison reports, against scikit-learn, SciPy and formulas by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from torchmsaf.errors import DataError
from torchmsaf.tasks.objective import Objective, sentiment_classes


def test_classification() -> None:
    prediction, target = torch.randn(50, 4), torch.arange(50) % 4
    values = Objective("classification", 4).measure(prediction, target)
    labels = prediction.argmax(1)
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(target, labels))
    assert values["macro_f1"] == pytest.approx(metrics.f1_score(target, labels, average="macro"))
    assert values["loss"] == pytest.approx(metrics.log_loss(target, prediction.double().softmax(1)), rel=1e-5)


def test_regression_is_measured_in_the_targets_own_unit() -> None:
    prediction, target = torch.randn(50, 1), torch.randn(50) * 4 + 10
    values = Objective("regression", 1, mean=10.0, std=4.0).measure(prediction, target)
    value = prediction[:, 0] * 4 + 10
    assert values["mae"] == pytest.approx(metrics.mean_absolute_error(target, value), rel=1e-5)
    assert values["pearson"] == pytest.approx(stats.pearsonr(value, target).statistic, rel=1e-4)
    assert values["loss"] == pytest.approx(float(((value - target) / 4).square().mean()), rel=1e-5)


@pytest.mark.parametrize("prediction", [torch.zeros(5, 1), torch.ones(1, 1)])
def test_there_is_no_correlation_with_a_constant(prediction: torch.Tensor) -> None:
    values = Objective("regression", 1).measure(prediction, torch.arange(len(prediction)).float())
    assert math.isnan(values["pearson"])


def test_sentiment_by_hand() -> None:
    value = torch.tensor([0.5, -0.5, 0.0, 1.5, 2.5, -3.4, 9.0, -0.2])
    target = torch.tensor([1.0, 1.0, -2.0, 0.0, 2.0, -3.0, 3.0, -0.4])
    found = sentiment_classes(value, target)
    # the label 0 is dropped (row 3), then the prediction 0 leaves acc2's denominator (row 2): 5 of 6
    assert found["acc2"] == pytest.approx(5 / 6)
    # half to even: 0.5 is 0, 1.5 is 2, 2.5 is 2; -3.4 and 9 are kept in range: rows 4, 5, 6, 7 agree
    assert found["acc7"] == pytest.approx(4 / 8)
    told = target != 0
    weighted = metrics.f1_score(
        target[told].sign().numpy(), value[told].sign().numpy(), labels=[-1, 1], average="weighted"
    )
    assert found["f1"] == pytest.approx(weighted)


def test_sentiment_as_the_authors_compute_it() -> None:
    value, target = torch.randn(400) * 2, (torch.randn(400) * 2).round().clamp(-3, 3)
    value[::7] = 0
    v, t = value.numpy(), target.numpy()
    keep = t != 0
    sign = np.sign(v[keep])
    agree = sign[sign != 0] == np.sign(t[keep])[sign != 0]
    found = sentiment_classes(value, target)
    assert found["acc2"] == pytest.approx(agree.mean())
    assert found["acc7"] == pytest.approx((np.clip(np.round(v), -3, 3) == np.clip(np.round(t), -3, 3)).mean())
    f1 = metrics.f1_score(np.sign(t[keep]), sign, labels=[-1, 1], average="weighted")
    assert found["f1"] == pytest.approx(f1)


def test_sentiment_without_anything_to_tell() -> None:
    found = sentiment_classes(torch.tensor([0.3, -0.2]), torch.zeros(2))
    assert math.isnan(found["acc2"])
    assert math.isnan(found["f1"])
    assert math.isnan(sentiment_classes(torch.zeros(2), torch.ones(2))["acc2"])


@pytest.mark.parametrize("labels", ["of people", "whole numbers", "all positive"])
def test_the_classes_with_zero_are_below_it_and_not_below_it(labels: str) -> None:
    """Of all samples, labels and predictions of exactly 0 among them, which are not below it."""
    value, target = torch.randn(300) * 2, (torch.randn(300) * 9).round().clamp(-9, 9) / 3
    value[::7], value[1::7] = 0.0, -0.0
    if labels == "whole numbers":
        target = target.round()
    elif labels == "all positive":
        target = target.abs()
    assert bool((target == 0).any())
    found = sentiment_classes(value, target)
    truth, said = target.numpy() >= 0, value.numpy() >= 0
    assert found["acc2_has0"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["f1_has0"] == pytest.approx(metrics.f1_score(truth, said, average="weighted", zero_division=0))


def test_the_classes_with_zero_by_hand() -> None:
    value = torch.tensor([0.0, -0.1, 2.0, -1.0, -2.0])
    target = torch.tensor([0.0, 0.0, -1.0, -1.0, 3.0])
    found = sentiment_classes(value, target)
    # not below 0: 1 of 3 found, of 2 said; below 0: 1 of 2 found, of 3 said; both have F1 = 2 / 5
    assert found["acc2_has0"] == pytest.approx(2 / 5)
    assert found["f1_has0"] == pytest.approx(2 / 5)
    # without labels of 0 and predictions of 0: rows 2 to 4
    assert found["acc2"] == pytest.approx(1 / 3)


def test_every_sentiment_has_all_its_classes_and_a_regression_has_none() -> None:
    prediction, target = torch.randn(9, 1), torch.randn(9)
    scores = ["loss", "mae", "pearson", "acc2", "f1", "acc7", "acc2_has0", "f1_has0"]
    assert list(Objective("sentiment", 1).measure(prediction, target)) == scores
    assert list(Objective("regression", 1).measure(prediction, target)) == scores[:3]


def test_a_target_is_scaled_for_training_and_scores_are_in_its_own_unit() -> None:
    target = torch.tensor([-3.0, 0.0, 1.5])
    as_it_is, scaled = Objective("sentiment", 1), Objective("sentiment", 1, mean=1.5, std=3.0)
    assert torch.equal(as_it_is.scaled(target), target)
    torch.testing.assert_close(scaled.scaled(target), torch.tensor([-1.5, -0.5, 0.0]))
    classes = torch.tensor([0, 1])
    assert torch.equal(Objective("classification", 2, mean=1.5, std=3.0).scaled(classes), classes)
    prediction = scaled.scaled(target)[:, None]
    assert scaled.measure(prediction, target)["mae"] == pytest.approx(0, abs=1e-6)
    assert float(scaled.loss(prediction, target)) == pytest.approx(0, abs=1e-12)
    assert float(as_it_is.loss(prediction, target)) == pytest.approx((1.5**2 + 0.5**2 + 1.5**2) / 3)


def test_the_answer_without_input_is_in_the_units_of_training() -> None:
    present = torch.tensor([[False, False], [True, False]])
    objective = Objective("sentiment", 1, answer=0.25)
    assert objective.without_input(torch.tensor([[7.0], [1.0]]), present).flatten().tolist() == [0.25, 1.0]
    scaled = Objective("sentiment", 1, mean=1.0, std=2.0, answer=0.25)
    answer = scaled.without_input(torch.tensor([[7.0], [1.0]]), present)
    assert scaled.measure(answer[:1], torch.tensor([1.5]))["mae"] == pytest.approx(0)


def test_what_a_table_is_about() -> None:
    assert (Objective("classification", 3).score, Objective("classification", 3).higher_is_better) == ("accuracy", True)
    assert (Objective("sentiment", 1).score, Objective("sentiment", 1).higher_is_better) == ("mae", False)
    with pytest.raises(DataError, match="sentiment has one output, got 2"):
        Objective("sentiment", 2)


def test_a_sample_without_any_modality_gets_the_share_of_the_classes_in_training():
    present = torch.tensor([[True, False], [False, False]])
    objective = Objective("classification", 3, prior=(0.1, 0.7, 0.2))
    answer = objective.without_input(torch.tensor([[1.0, 2.0, 3.0], [9.0, 0.0, 0.0]]), present)
    assert torch.equal(answer[0], torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(answer[1].exp(), torch.tensor([0.1, 0.7, 0.2]))
    values = Objective("regression", 1, mean=5.0, std=2.0).without_input(torch.tensor([[1.0], [7.0]]), present)
    assert values.flatten().tolist() == [1.0, 0.0]  # the standardized mean


def test_top_k_is_a_count_of_the_true_class_among_the_k_largest() -> None:
    prediction, target = torch.randn(60, 8), torch.arange(60) % 8
    values = Objective("classification", 8, top_k=(2, 4)).measure(prediction, target)
    for k in (2, 4):
        hits = sum(t in sorted(range(8), key=row.__getitem__)[-k:] for row, t in zip(prediction, target, strict=True))
        assert values[f"top{k}"] == pytest.approx(hits / 60)
    assert values["accuracy"] < values["top2"] < values["top4"]
    assert not {"top2", "top4"} & set(Objective("classification", 8).measure(prediction, target))


def test_of_equal_logits_the_smaller_classes_come_first_in_top_k() -> None:
    prediction = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0]] * 5 + [[0.0, 2.0, 1.0, 1.0, 1.0]] * 5)
    values = Objective("classification", 5, top_k=(2, 3)).measure(prediction, torch.arange(5).repeat(2))
    # of five equals 0 and 1, then 2; beside 1 the first of its equals is 2, then 3
    assert values["top2"] == pytest.approx((2 + 2) / 10)
    assert values["top3"] == pytest.approx((3 + 3) / 10)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "classification", "outputs": 4, "top_k": (2, 4)}, "top_k has 4; more than 1 and fewer than the 4"),
        ({"kind": "classification", "outputs": 4, "top_k": (1,)}, "top_k has 1; more than 1 and fewer than the 4"),
        ({"kind": "sentiment", "outputs": 1, "top_k": (2,)}, r"top_k is \(2,\); sentiment has no classes to rank"),
        ({"kind": "regression", "outputs": 1, "chosen_by": "accuracy"}, "'accuracy', which regression has not"),
        ({"kind": "classification", "outputs": 4, "chosen_by": "luck"}, "chosen_by is 'luck'; loss or accuracy"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Objective(**fields)


def test_epochs_are_chosen_by_the_smaller_loss_or_by_the_greater_accuracy() -> None:
    old, same = {"loss": 1.0, "accuracy": 0.5}, {"loss": 1.0, "accuracy": 0.5}
    sure, right, broken = (
        {"loss": 0.9, "accuracy": 0.4},
        {"loss": 1.1, "accuracy": 0.6},
        {"loss": math.nan, "accuracy": 0.9},
    )
    by_loss = Objective("classification", 3)
    by_accuracy = Objective("classification", 3, chosen_by="accuracy")
    assert [by_loss.better(new, old) for new in (same, sure, right, broken)] == [False, True, False, False]
    assert [by_accuracy.better(new, old) for new in (same, sure, right, broken)] == [False, False, True, False]
