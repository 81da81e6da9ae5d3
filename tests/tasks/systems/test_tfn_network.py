"""Protects TFN as published: sub-networks, tensor, head, range of the output, loss, sizes and batch statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.tfn_network import AveragedNetwork, TFNNetwork

SHAPES = {"video": (5, 6), "audio": (4, 6), "text": (7, 6)}
PUBLISHED = {"video": (35, 50), "audio": (74, 50), "text": (300, 50)}


def small(**options: Any) -> TFNNetwork:
    return TFNNetwork(SHAPES, 1, **{"audio": 3, "video": 2, "text": 6, "text_out": 4, "hidden": (8, 7), **options})


def lstm_by_loop(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """The last state of one sequence ``(T, D)``, one step after the other."""
    h = c = x.new_zeros(lstm.hidden_size)
    for step in x:
        gates = lstm.weight_ih_l0 @ step + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h


def averaged_by_formula(net: AveragedNetwork, x: Tensor) -> Tensor:
    norm = net.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    y = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            y = (layer.weight @ y + layer.bias).clamp(min=0)
    return y


def test_tfn_network_is_its_formula_row_by_row() -> None:
    system = small().double()
    for net in (system.encoders.audio, system.encoders.video):
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(net.norm.weight)
        nn.init.normal_(net.norm.bias)
    system.eval()
    inputs = [torch.randn(4, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    lengths = [torch.tensor([6, 1, 3, 4]), torch.tensor([2, 6, 5, 1]), torch.tensor([1, 4, 6, 2])]
    found = system(inputs, lengths=lengths).prediction
    first, second, last = (layer for layer in system.layers if isinstance(layer, nn.Linear))
    for i in range(4):
        video, audio, text = (x[i, :, : int(end[i])] for x, end in zip(inputs, lengths, strict=True))
        a = averaged_by_formula(system.encoders.audio, audio.mean(1))
        v = averaged_by_formula(system.encoders.video, video.mean(1))
        t = system.encoders.text(lstm_by_loop(system.encoders.lstm, text.T))
        one = torch.ones(1, dtype=torch.float64)
        z = torch.einsum("a,v,t->avt", *(torch.cat([one, h]) for h in (a, v, t))).flatten()
        y = last(F.relu(second(F.relu(first(z)))))
        torch.testing.assert_close(found[i], 6 / (1 + torch.exp(-y)) - 3)


def test_tfn_network_drops_where_the_code_does() -> None:
    system = small(dropout=0.3)
    rates = {name: module.p for name, module in system.named_modules() if isinstance(module, nn.Dropout)}
    assert rates == {
        "encoders.audio.layers.0": 0.3,  # after batch norm
        "encoders.video.layers.0": 0.3,
        "encoders.dropout": 0.3,  # of the LSTM's state
        "layers.0": 0.3,  # of the tensor
    }


@pytest.mark.parametrize("kind", ["sentiment", "regression", "classification"])
def test_only_a_sentiment_is_kept_within_three(kind: Any) -> None:
    system = TFNNetwork(SHAPES, 2, kind=kind, hidden=(5,)).eval()
    nn.init.constant_(system.layers[-1].bias, 100.0)
    values = system([torch.randn(3, *shape) for shape in SHAPES.values()]).prediction
    if kind == "sentiment":
        assert torch.equal(values, torch.full((3, 2), 3.0))
    else:
        assert (values > 90).all()


def test_values_are_learned_by_absolute_error_and_classes_by_the_criterion() -> None:
    prediction, target = torch.tensor([[1.0], [-2.0], [0.5]]), torch.tensor([0.0, 1.0, 0.5])
    for kind in ("sentiment", "regression"):
        assert small(kind=kind).training_loss(Fused(prediction), target, None, F.mse_loss) == (1 + 3 + 0) / 3
    labels, logits = torch.tensor([0, 1, 1]), torch.randn(3, 2)
    found = small(kind="classification").training_loss(Fused(logits), labels, None, F.cross_entropy)
    assert found == F.cross_entropy(logits, labels)


def test_tfn_network_has_the_sizes_of_the_authors_code() -> None:
    with torch.device("meta"):
        system = TFNNetwork(PUBLISHED, 1)
    assert system.layers[1].in_features == 33 * 33 * 65 == 70_785
    assert sum(p.numel() for p in system.layers.parameters()) == 11_351_681
    averaged = sum(2 * c + (c + 1) * 32 + 2 * 33 * 32 for c in (74, 35))
    text = 4 * 128 * (300 + 128 + 2) + 129 * 64
    assert sum(p.numel() for p in system.encoders.parameters()) == averaged + text
    with torch.device("meta"):
        features = TFNNetwork({**PUBLISHED, "text": (768, 50)}, 1)
    assert sum(p.numel() for p in features.parameters()) == 11_827_707


def test_batch_norm_is_of_the_rows_that_have_the_modality() -> None:
    net = AveragedNetwork(4, 3, 0.0)
    x, present = torch.randn(6, 4), torch.tensor([True, False, True, True, False, True])
    x[~present] = 0
    found = net(x, present)
    other = AveragedNetwork(4, 3, 0.0)
    other.load_state_dict({**net.state_dict(), **AveragedNetwork(4, 3, 0.0).norm.state_dict(prefix="norm.")})
    some = x[present]
    normed = (some - some.mean(0)) / (some.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(found[present], other.layers(normed))
    assert not found[~present].any()
    assert net.norm.running_mean is not None
    torch.testing.assert_close(net.norm.running_mean, 0.1 * some.mean(0))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_are_normalized_by_what_was_kept_and_change_nothing_kept(count: int) -> None:
    net = AveragedNetwork(4, 3, 0.0)
    net(torch.randn(8, 4) * 3 + 2, torch.ones(8, dtype=torch.bool))
    before = {key: value.clone() for key, value in net.norm.state_dict().items()}
    x, present = torch.randn(5, 4), torch.arange(5) < count
    found = net(x, present)
    assert net.training
    assert net.norm.training
    assert all(torch.equal(value, before[key]) for key, value in net.norm.state_dict().items())
    torch.testing.assert_close(found, torch.where(present[:, None], net.eval()(x, present), 0))


def test_of_an_absent_modality_the_one_is_left() -> None:
    system = small().double().eval()
    inputs = [torch.randn(2, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    present = torch.tensor([[True, False, True], [False, False, False]])
    kept: list[Tensor] = []
    system.layers[0].register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    system(inputs, present)
    z = kept[0].view(2, 4, 3, 5)  # audio, video, text
    assert not z[:, 1:].any()
    assert z[0, 0, 1:].any()
    assert z[1].sum() == z[1, 0, 0, 0] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"audio": 0}, "audio: expected an integer of at least 1, got 0; it is the width of a layer"),
        ({"text_out": 2.5}, "text_out: expected an integer of at least 1, got 2.5"),
        ({"hidden": 160}, r"hidden is a list of positive widths, such as \[160, 160\], got 160"),
        ({"dropout": 1}, r"dropout is a probability in \[0, 1\), got 1; use 0 for no dropout"),
    ],
)
def test_tfn_network_says_what_is_wrong_with_an_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        small(**options)
