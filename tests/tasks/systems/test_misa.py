"""Protects MISA: its encoders, representations, fusion, three losses, sizes, and rows that lack a modality."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.systems.misa import MISA, TwoLSTMs, central_moment_discrepancy, difference

SHAPES = {"video": (5, 6), "audio": (4, 6), "text": (7, 6)}
PAIRS = (("text", "video"), ("text", "audio"), ("video", "audio"))
Floats = NDArray[np.float64]


def small(**options: Any) -> MISA:
    return MISA(SHAPES, 1, **{"hidden": 8, "feed_forward": 16, **options}).double()


def one_direction(lstm: nn.LSTM, x: Tensor, suffix: str) -> list[Tensor]:
    """The states of one sequence ``(T, D)``, one step after the other, in the order in which they are made."""
    w, u, b, c = (getattr(lstm, f"{n}_l0{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = cell = x.new_zeros(lstm.hidden_size)
    states = []
    for step in x:
        i, f, g, o = (w @ step + b + u @ h + c).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        h = o.sigmoid() * cell.tanh()
        states.append(h)
    return states


def two_lstms_by_loop(net: TwoLSTMs, x: Tensor) -> Tensor:
    forward = one_direction(net.first, x, "")
    backward = one_direction(net.first, x.flip(0), "_reverse")
    low = torch.stack([torch.cat([a, b]) for a, b in zip(forward, backward[::-1], strict=True)])
    mean, var = low.mean(1, keepdim=True), low.var(1, correction=0, keepdim=True)
    normed = (low - mean) / (var + 1e-5).sqrt() * net.norm.weight + net.norm.bias
    second = one_direction(net.second, normed, "")[-1], one_direction(net.second, normed.flip(0), "_reverse")[-1]
    return torch.cat([forward[-1], second[0], backward[-1], second[1]])


def cmd_by_loop(x: Floats, y: Floats) -> float:
    if not len(x) or not len(y):
        return 0.0
    total = math.dist(x.mean(0), y.mean(0))
    for k in range(2, 6):
        a, b = ([np.mean([(row[j] - z[:, j].mean()) ** k for row in z]) for j in range(z.shape[1])] for z in (x, y))
        total += math.dist(a, b)
    return total


def difference_by_loop(x: Floats, y: Floats) -> float:
    h = x.shape[1]
    if not len(x):
        return 0.0
    first, second = (z - z.mean(0) for z in (x, y))
    total = 0.0
    for a in range(h):
        for b in range(h):
            entry = 0.0
            for u, v in zip(first, second, strict=True):
                entry += u[a] / (math.hypot(*u) + 1e-6) * v[b] / (math.hypot(*v) + 1e-6)
            total += entry**2
    return total / h**2


def representations(system: MISA, inputs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """u, p, c and what is rebuilt, of whole sequences ``(B, T, D)``, row by row."""
    found: dict[str, dict[str, Tensor]] = {}
    for m, x in inputs.items():
        if m == "text":
            vector = x.mean(1)
        else:
            net = system.encoders[m]
            assert isinstance(net, TwoLSTMs)
            vector = torch.stack([two_lstms_by_loop(net, row) for row in x])
        linear, _, norm = system.project[m]  # type: ignore[misc]
        u = F.layer_norm(F.relu(linear(vector)), (8,), norm.weight, norm.bias)
        p, c = system.private[m](u).sigmoid(), system.shared(u).sigmoid()
        found[m] = {"u": u, "p": p, "c": c, "rebuilt": system.decode[m](p + c)}
    return found


def losses_by_loop(found: dict[str, dict[str, Tensor]], here: dict[str, Tensor]) -> tuple[float, float, float]:
    def rows(m: str, what: str, mask: Tensor) -> Floats:
        return found[m][what].detach()[mask].numpy()

    diff = sum(difference_by_loop(rows(m, "p", here[m]), rows(m, "c", here[m])) for m in found)
    for a, b in PAIRS:
        diff += difference_by_loop(rows(a, "p", here[a] & here[b]), rows(b, "p", here[a] & here[b]))
    sim = sum(cmd_by_loop(rows(a, "c", here[a]), rows(b, "c", here[b])) for a, b in PAIRS) / 3
    recon = 0.0
    for m in found:
        gap = rows(m, "rebuilt", here[m]) - rows(m, "u", here[m])
        recon += float((gap**2).mean()) / 3 if len(gap) else 0.0
    return diff, sim, recon


def layer_by_formula(layer: nn.TransformerEncoderLayer, s: Tensor) -> Tensor:
    """One sequence ``(tokens, H)``, attended to by all of itself, with norms after the sums."""
    attention, n, h = layer.self_attn, *s.shape
    heads, width = attention.num_heads, h // attention.num_heads
    q, k, v = (s @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
    joined = torch.zeros(n, h, dtype=s.dtype)
    for i in range(heads):
        cut = slice(i * width, (i + 1) * width)
        joined[:, cut] = (q[:, cut] @ k[:, cut].T / math.sqrt(width)).softmax(1) @ v[:, cut]
    u = layer.norm1(s + attention.out_proj(joined))
    outcome: Tensor = layer.norm2(u + layer.linear2(F.relu(layer.linear1(u))))
    return outcome


def test_two_lstms_are_their_equations_one_row_and_step_at_a_time() -> None:
    net = TwoLSTMs(4).double()
    nn.init.normal_(net.norm.weight)
    nn.init.normal_(net.norm.bias)
    x, lengths = torch.randn(4, 6, 4, dtype=torch.float64), torch.tensor([3, 6, 1, 0])
    found = net(x, lengths)
    for i in range(3):
        torch.testing.assert_close(found[i], two_lstms_by_loop(net, x[i, : int(lengths[i])]))
    assert not found[3].any()
    assert found.shape == (4, 16)


def test_recurrent_weights_start_orthogonal() -> None:
    net = TwoLSTMs(5)
    weights = [weight for name, weight in net.named_parameters() if "weight_hh" in name]
    assert len(weights) == 4
    for weight in weights:
        torch.testing.assert_close(weight.T @ weight, torch.eye(5))


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_central_moment_discrepancy_is_its_sum_of_five(rows: int) -> None:
    x, y = torch.rand(rows, 3, dtype=torch.float64), torch.rand(rows, 3, dtype=torch.float64)
    here = torch.ones(rows, dtype=torch.bool)
    assert central_moment_discrepancy(x, y, here, here).item() == pytest.approx(cmd_by_loop(x.numpy(), y.numpy()))
    some = torch.arange(rows) != 1
    expected = cmd_by_loop(x[some].numpy(), y.numpy())
    assert central_moment_discrepancy(x, y, some, here).item() == pytest.approx(expected)
    assert central_moment_discrepancy(x, y, ~here, here) == 0


def test_the_gradient_of_a_discrepancy() -> None:
    x = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    here, some = torch.ones(5, dtype=torch.bool), torch.arange(5) < 4
    assert torch.autograd.gradcheck(lambda a, b: central_moment_discrepancy(a, b, here, some), (x, y))
    same = central_moment_discrepancy(x, x.detach().clone(), here, here)
    same.backward()
    assert same == 0
    assert x.grad is not None
    assert not x.grad.any()  # a norm of 0 has no gradient but this


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_difference_centres_columns_and_divides_rows(rows: int) -> None:
    x, y = torch.rand(rows, 3, dtype=torch.float64), torch.rand(rows, 3, dtype=torch.float64)
    here = torch.ones(rows, dtype=torch.bool)
    assert difference(x, y, here).item() == pytest.approx(difference_by_loop(x.numpy(), y.numpy()))
    some = torch.arange(rows) != 1
    expected = difference_by_loop(x[some].numpy(), y[some].numpy())
    assert difference(x, y, some).item() == pytest.approx(expected)
    assert difference(x, y, ~here) == 0
    if rows == 1:
        assert difference(x, y, here) == 0


def test_no_gradient_of_a_difference_goes_through_the_norms() -> None:
    x = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    y = torch.rand(6, 3, dtype=torch.float64)
    difference(x, y, torch.ones(6, dtype=torch.bool)).backward()
    norms = [(z - z.mean(0)).detach().pow(2).sum(1, keepdim=True).sqrt() + 1e-6 for z in (x, y)]
    free = x.detach().clone().requires_grad_()
    (((free - free.mean(0)) / norms[0]).T @ ((y - y.mean(0)) / norms[1])).pow(2).mean().backward()
    assert x.grad is not None
    assert free.grad is not None
    torch.testing.assert_close(x.grad, free.grad)


def test_misa_predicts_by_its_formula() -> None:
    system = small().eval()
    inputs = [torch.randn(3, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    prediction = system(inputs).prediction
    found = representations(system, {m: x.transpose(1, 2) for m, x in zip(SHAPES, inputs, strict=True)})
    first, _, _, last = system.head
    for i in range(3):
        tokens = [found[m][what][i] for what in "pc" for m in ("text", "video", "audio")]
        outcome = layer_by_formula(system.transformer, torch.stack(tokens))
        torch.testing.assert_close(prediction[i], last(F.relu(first(outcome.flatten()))))


def test_tokens_of_an_absent_modality_are_not_attended_to_and_are_zeros() -> None:
    system = small().eval()
    inputs = [torch.randn(3, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    present = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    prediction = system(inputs, present).prediction
    found = representations(system, {m: x.transpose(1, 2) for m, x in zip(SHAPES, inputs, strict=True)})
    first, _, _, last = system.head
    for i, here in enumerate((["text", "video"], ["audio"], [])):
        tokens = [(what, m) for what in "pc" for m in here]
        outcome = torch.zeros(6, 8, dtype=torch.float64)
        if tokens:
            attended = layer_by_formula(system.transformer, torch.stack([found[m][what][i] for what, m in tokens]))
            for token, row in zip(tokens, attended, strict=True):
                outcome["pc".index(token[0]) * 3 + ["text", "video", "audio"].index(token[1])] = row
        torch.testing.assert_close(prediction[i], last(F.relu(first(outcome.flatten()))))


@pytest.mark.parametrize("lacking", [False, True])
def test_misas_own_loss_is_the_weighted_sum_of_three(lacking: bool) -> None:
    inputs = [torch.randn(7, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    present = torch.ones(7, 3, dtype=torch.bool)
    if lacking:
        present[0, 0] = present[1, 1] = present[2, 2] = present[3, 0] = present[3, 1] = False
    weights = {"difference": 0.3, "similarity": 1.0, "reconstruction": 1.0}
    for options in ({}, {"difference": 2.0, "similarity": 0.5, "reconstruction": 0.0}):
        system = small(**options)
        found = representations(system, {m: x.transpose(1, 2) for m, x in zip(SHAPES, inputs, strict=True)})
        found = {m: found[m] for m in ("text", "video", "audio")}
        here = {m: present[:, list(SHAPES).index(m)] for m in SHAPES}
        expected = sum(
            w * loss for w, loss in zip({**weights, **options}.values(), losses_by_loop(found, here), strict=True)
        )
        own = system(inputs, present).own_loss
        assert own is not None
        assert own.item() == pytest.approx(expected)
        assert system.eval()(inputs, present).own_loss is None


def test_the_loss_is_the_tasks_and_misas_own() -> None:
    system = small()
    inputs = [torch.randn(4, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    fused, target = system(inputs), torch.randn(4, dtype=torch.float64)

    def squared(prediction: Tensor, truth: Tensor) -> Tensor:
        return F.mse_loss(prediction[:, 0], truth)

    assert fused.own_loss is not None
    found = system.training_loss(fused, target, None, squared)
    torch.testing.assert_close(found, (fused.prediction[:, 0] - target).square().mean() + fused.own_loss)


def test_one_row_has_a_finite_loss_and_gradient() -> None:
    system = small()
    fused = system([torch.randn(1, *shape, dtype=torch.float64) for shape in SHAPES.values()])
    assert fused.own_loss is not None
    (fused.prediction.sum() + fused.own_loss).backward()
    grads = [p.grad for p in system.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_misa_has_the_parameters_of_the_authors_code_but_for_two_layers_that_change_nothing() -> None:
    with torch.device("meta"):
        system = MISA({"video": (35, 50), "audio": (74, 50), "text": (768, 50)}, 1)
    discriminator, text_norm = 128 * 4 + 4, 2 * 600
    assert sum(p.numel() for p in system.parameters()) == 1_433_233 - discriminator - text_norm == 1_431_517
    rates = sorted(module.p for module in system.modules() if isinstance(module, nn.Dropout))
    assert rates == [0.1, 0.1, 0.1, 0.5]
    assert system.transformer.self_attn.dropout == 0.1
    assert (system.learning_rate, system.clip_value) == (1e-4, 1.0)


def test_text_goes_through_lstms_where_it_is_words_or_when_asked() -> None:
    shapes = {**SHAPES, "text": (1, 6)}
    assert list(MISA(SHAPES, 1).encoders) == ["video", "audio"]
    assert list(MISA(SHAPES, 1, text_lstms=True).encoders) == ["text", "video", "audio"]
    assert list(MISA(shapes, 1, tokens={"text": 9}, text_lstms=False).encoders) == ["video", "audio"]
    words = MISA(shapes, 1, tokens={"text": 9})
    net = words.encoders["text"]
    assert isinstance(net, TwoLSTMs)
    assert net.first.input_size == 300
    assert words.project["text"][0].in_features == 1200  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hidden": 0}, "hidden: expected an integer of at least 1, got 0; it is the width of a representation"),
        ({"heads": 3}, "hidden=8 cannot be shared among heads=3; choose heads that divide it"),
        ({"feed_forward": 0}, "feed_forward: expected an integer of at least 1, got 0"),
        ({"dropout": -0.1}, r"dropout is a probability in \[0, 1\), got -0.1"),
        ({"similarity": math.nan}, "similarity is a finite number, got nan"),
        ({"text_lstms": "no"}, "text_lstms is True or False, got 'no'"),
    ],
)
def test_misa_says_what_is_wrong_with_an_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        small(**options)
