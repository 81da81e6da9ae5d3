"""Protects what each method computes, against the formula written another way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.averaging import Averaging
from torchmsaf.fusion.concat import ConcatFC
from torchmsaf.fusion.mmtm import MMTM
from torchmsaf.fusion.multiplication import Multiplication
from torchmsaf.fusion.multiplicative import Multiplicative

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, True]])


def logits() -> list[torch.Tensor]:
    return [torch.randn(4, 5, dtype=torch.float64) * 3 for _ in range(3)]


def test_averaging_is_the_mean_of_the_present_softmaxes() -> None:
    values = logits()
    found = Averaging(3)(values, present=PRESENT).exp()
    for b in range(4):
        here = [values[m][b].softmax(0) for m in range(3) if PRESENT[b, m]]
        torch.testing.assert_close(found[b], torch.stack(here).mean(0))


def test_averaging_of_values_is_their_mean() -> None:
    values = [torch.randn(4, 1) for _ in range(3)]
    found = Averaging(3, regression=True)(values, present=PRESENT)
    for b in range(4):
        torch.testing.assert_close(found[b], torch.stack([values[m][b] for m in range(3) if PRESENT[b, m]]).mean(0))


def test_averaging_stays_finite_where_a_probability_underflows() -> None:
    found = Averaging(2)([torch.tensor([[0.0, 500.0]]), torch.tensor([[0.0, 400.0]])])
    assert found.isfinite().all()


def test_multiplication_is_the_renormalized_product_of_probabilities() -> None:
    values = logits()
    found = Multiplication(3)(values, present=PRESENT).softmax(1)
    for b in range(4):
        product = torch.stack([values[m][b].softmax(0) for m in range(3) if PRESENT[b, m]]).prod(0)
        torch.testing.assert_close(found[b], product / product.sum())
    torch.testing.assert_close(Multiplication(3)(values), sum(values))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_multiplicative_is_the_formula_by_loops(beta: float) -> None:
    values = logits()
    fusion = Multiplicative(3, beta=beta)
    found = fusion(values, present=PRESENT)
    for b in range(4):
        here = [m for m in range(3) if PRESENT[b, m]]
        p = {m: values[m][b].softmax(0) for m in here}
        for k in range(5):
            loss = 0.0
            for i in here:
                q = 1.0
                for j in here:
                    if j != i:
                        q *= float(1 - p[j][k]) ** (beta / (len(here) - 1))
                loss -= q * float(p[i][k].log())
            assert float(found[b, k]) == pytest.approx(-loss, rel=1e-6)


def test_multiplicative_trains_on_the_loss_of_the_true_class() -> None:
    values, target = logits(), torch.tensor([0, 4, 2, 1])
    fusion = Multiplicative(3)
    loss = fusion.training_loss(fusion(values), values, target, None, F.cross_entropy)
    torch.testing.assert_close(loss, -fusion(values)[torch.arange(4), target].mean())


def test_multiplicative_with_beta_0_is_the_sum_of_cross_entropies() -> None:
    values, target = logits(), torch.tensor([0, 4, 2, 1])
    fusion = Multiplicative(3, beta=0)
    loss = fusion.training_loss(fusion(values), values, target, None, F.cross_entropy)
    torch.testing.assert_close(loss, sum(F.cross_entropy(z, target) for z in values))


def test_multiplicative_lets_no_gradient_through_q() -> None:
    values = [z.requires_grad_() for z in logits()[:2]]
    target = torch.tensor([0, 4, 2, 1])
    fusion = Multiplicative(2)
    fusion.training_loss(fusion(values), values, target, None, F.cross_entropy).backward()
    for z, other in ((values[0], values[1]), (values[1], values[0])):
        q = (1 - other.detach().softmax(1)[torch.arange(4), target]) ** 0.3
        expected = q[:, None] * (z.detach().softmax(1) - F.one_hot(target, 5)) / 4
        torch.testing.assert_close(z.grad, expected)


def test_multiplicative_stays_finite_where_a_modality_is_sure() -> None:
    values = [torch.tensor([[1000.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 1000.0]], requires_grad=True)]
    fusion = Multiplicative(2)
    loss = fusion.training_loss(fusion(values), values, torch.tensor([0]), None, F.cross_entropy)
    loss.backward()
    assert loss.isfinite()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in values)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_beta_out_of_range(beta: float) -> None:
    with pytest.raises(FusionInputError, match=r"beta is in \[0, 1\]"):
        Multiplicative(2, beta=beta)


@pytest.mark.parametrize("method", [Multiplication, Multiplicative])
def test_probabilities_have_no_meaning_in_regression(method: type[Multiplication] | type[Multiplicative]) -> None:
    with pytest.raises(FusionInputError, match="regression"):
        method(2, regression=True)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_mmtm_is_its_formula(scale: float) -> None:
    fusion = MMTM((6, 4), gate_scale=scale).double()
    a, b = torch.randn(3, 6, 2, 5, dtype=torch.float64), torch.randn(3, 4, 7, dtype=torch.float64)
    z = F.relu(fusion.squeeze(torch.cat([a.mean((2, 3)), b.mean(2)], dim=1)))
    gates = [scale * torch.sigmoid(layer(z)) for layer in fusion.excite]
    found = fusion([a, b])
    torch.testing.assert_close(found[0], a * gates[0][:, :, None, None])
    torch.testing.assert_close(found[1], b * gates[1][:, :, None])


@pytest.mark.parametrize(("channels", "width", "count"), [((1024, 32), 528, 1_116_720), ((2048, 64), 1056, 4_463_712)])
def test_mmtm_has_the_published_width_and_parameters(channels: tuple[int, ...], width: int, count: int) -> None:
    with torch.device("meta"):
        fusion = MMTM(channels)
    assert fusion.squeeze.out_features == width
    assert sum(p.numel() for p in fusion.parameters()) == count


def test_mmtm_identity_start_changes_nothing_and_needs_a_gate_of_two() -> None:
    values = [torch.randn(2, 6, 3), torch.randn(2, 4)]
    for x, y in zip(values, MMTM((6, 4), gate_scale=2, identity_start=True)(values), strict=True):
        torch.testing.assert_close(x, y)
    with pytest.raises(FusionInputError, match="gate_scale=2"):
        MMTM((6, 4), identity_start=True)


@pytest.mark.parametrize("ratio", [0, -1, 1e6])
def test_mmtm_needs_a_width(ratio: float) -> None:
    with pytest.raises(FusionInputError, match="ratio"):
        MMTM((6, 4), ratio=ratio)


@pytest.mark.parametrize(
    ("options", "classifiers", "total"),
    [
        ({"hidden": (256,)}, True, 26_868_664),
        ({"hidden": (256, 128)}, False, 26_870_824),
        ({"project": 256, "hidden": ()}, True, 26_870_968),
        ({"project": 256, "hidden": (64,)}, False, 26_870_504),
    ],
    ids=["A", "B", "C", "D"],
)
def test_concat_builds_every_candidate_for_table_1(options: dict[str, int], classifiers: bool, total: int) -> None:
    networks = 25_882_056 + 34_024  # 3D ResNeXt-50 and the 1D CNN, with their classifiers
    heads = (2048 + 1) * 8 + (1664 + 1) * 8
    with torch.device("meta"):
        fusion = ConcatFC((2048, 1664), 8, **options)
    own = sum(p.numel() for p in fusion.parameters())
    assert networks - (0 if classifiers else heads) + own == total


def test_concat_is_its_formula() -> None:
    fusion = ConcatFC((3, 2), 4, hidden=(5,))
    a, b = torch.randn(6, 3), torch.randn(6, 2)
    first, last = fusion.layers[0], fusion.layers[-1]
    torch.testing.assert_close(fusion([a, b]), last(F.relu(first(torch.cat([a, b], 1)))))


def test_concat_with_dropout_of_one_is_refused() -> None:
    with pytest.raises(FusionInputError, match="dropout"):
        ConcatFC((3, 2), 4, dropout=1.0)
