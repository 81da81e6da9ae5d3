"""Protects MulMix: every subset's network, the losses over subsets, absent modalities, and its limits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.mulmix import MulMix

WIDTHS, K = (3, 4, 2), 5
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
TARGET = torch.tensor([0, 4, 2, 1])


def vectors(modalities: int = 3) -> list[torch.Tensor]:
    return [torch.randn(4, width, dtype=torch.float64) * 2 for width in WIDTHS[:modalities]]


def build(modalities: int = 3, **options: Any) -> MulMix:
    return MulMix(WIDTHS[:modalities], K, hidden=6, **options).double()


def logits_of_subsets(fusion: MulMix, values: list[torch.Tensor], b: int, here: list[int]) -> list[torch.Tensor]:
    """Of sample b, with the module's own layers, in the order of subsets."""
    found, number = [], 0
    for size in range(1, len(values) + 1):
        for subset in itertools.combinations(range(len(values)), size):
            first, _, last = fusion.layers[number]
            number += 1
            if set(subset) <= set(here):
                found.append(last(F.relu(first(torch.cat([values[m][b] for m in subset])))))
    assert number == len(fusion.layers)
    return found


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("modalities", [2, 3])
def test_mulmix_is_the_formula_by_loops_over_the_subsets_that_are_there(modalities: int, beta: float) -> None:
    fusion, values, present = build(modalities, beta=beta), vectors(modalities), PRESENT[:, :modalities]
    found = fusion(values, present=present).detach()
    for b in range(4):
        here = present[b].nonzero()[:, 0].tolist()
        p = [z.detach().softmax(0) for z in logits_of_subsets(fusion, values, b, here)]
        for k in range(K):
            loss = 0.0
            for i in range(len(p)):
                q = 1.0
                for j in range(len(p)):
                    if j != i:
                        q *= float(1 - p[j][k]) ** (beta / (len(p) - 1))
                loss -= q * float(p[i][k].log())
            assert float(found[b, k]) == pytest.approx(-loss, rel=1e-6)


def test_all_nonempty_subsets_have_a_network_of_their_own() -> None:
    fusion = MulMix((3, 4, 2), 5)
    assert [layers[0].in_features for layers in fusion.layers] == [3, 4, 2, 7, 5, 6, 9]
    assert all(layers[0].out_features == 256 and layers[2].out_features == 5 for layers in fusion.layers)


def test_with_beta_0_the_loss_is_the_sum_of_the_subsets_cross_entropies() -> None:
    fusion, values = build(beta=0), vectors()
    loss = fusion.training_loss(fusion(values), (), TARGET, None, F.cross_entropy)
    expected = 0.0
    for b in range(4):
        expected += sum(F.cross_entropy(z, TARGET[b]) for z in logits_of_subsets(fusion, values, b, [0, 1, 2])) / 4
    torch.testing.assert_close(loss, expected)


def test_mulmix_lets_no_gradient_through_q() -> None:
    fusion, values = build(2), vectors(2)
    fusion.training_loss(fusion(values), (), TARGET, None, F.cross_entropy).backward()
    found = [p.grad.clone() for p in fusion.parameters()]
    fusion.zero_grad()
    total = 0.0
    for b in range(4):
        logs = [z.log_softmax(0)[TARGET[b]] for z in logits_of_subsets(fusion, values, b, [0, 1])]
        for i, own in enumerate(logs):
            q = 1.0
            for j, other in enumerate(logs):
                q *= 1.0 if i == j else (1 - other.detach().exp()) ** (0.3 / 2)
            total = total - q * own / 4
    total.backward()
    for gradient, p in zip(found, fusion.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad)


def test_an_absent_modality_teaches_none_of_its_subsets() -> None:
    fusion, values = build(2), vectors(2)
    present = torch.tensor([[True, False]]).expand(4, 2)
    fusion.training_loss(fusion(values, present=present), (), TARGET, present, F.cross_entropy).backward()
    taught = [any(bool(p.grad.any()) for p in layers.parameters()) for layers in fusion.layers]
    assert taught == [True, False, False]


def test_where_nothing_is_present_all_scores_are_zero() -> None:
    assert not build()(vectors(), present=PRESENT)[3].any()


def test_boosted_leaves_out_what_is_won() -> None:
    fusion, values = build(boosted=True, margin=0.1), vectors()
    scores = fusion(values).detach()
    won = scores.argmax(1)
    lost = (won + 1) % K
    target = torch.cat([won[:2], lost[2:]])
    best_two = scores[:2].topk(2).values
    kept = [b for b in range(2) if best_two[b, 0] - best_two[b, 1] <= 0.1] + [2, 3]
    loss = fusion.training_loss(scores, (), target, None, F.cross_entropy)
    assert loss.item() == pytest.approx(sum(-float(scores[b, target[b]]) for b in kept) / 4)


def test_one_modality_is_a_network_with_one_hidden_layer() -> None:
    fusion, values = build(1), vectors(1)
    torch.testing.assert_close(fusion(values), fusion.layers[0](values[0]).log_softmax(1))


def test_subsets_of_many_modalities_are_counted_in_the_error() -> None:
    assert len(MulMix((1,) * 8, 2, hidden=1).layers) == 255
    with pytest.raises(FusionInputError, match="9 have 511 subsets"):
        MulMix((1,) * 9, 2, hidden=1)


def test_one_output_is_a_regression_and_refused() -> None:
    with pytest.raises(FusionInputError, match="regression"):
        MulMix((3, 4), 1)


@pytest.mark.parametrize(
    ("options", "said"), [({"beta": 1.1}, "beta"), ({"hidden": 0}, "hidden"), ({"margin": 1.0}, "boosted=True")]
)
def test_an_option_out_of_range_is_an_error_that_names_it(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        MulMix((3, 4), 2, **options)
