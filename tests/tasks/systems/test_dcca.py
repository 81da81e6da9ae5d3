"""Protects deep CCA in one and two steps: what is put side by side, the networks, and which gradient goes where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.systems.dcca import OneStepDCCA, TwoStepDCCA, projection

SHAPES = {"video": (5, 6), "audio": (4, 6), "text": (7, 6)}
SMALL: dict[str, Any] = {"width": 3, "hidden": (8, 6), "batch_size": 32}
LENGTHS = [torch.arange(32) % 6 + 1, torch.arange(32) % 5 + 2, torch.arange(32) % 4 + 3]


def batch(n: int = 32) -> list[Tensor]:
    return [torch.randn(n, *shape, dtype=torch.float64) for shape in SHAPES.values()]


def standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def by_hand(net: nn.Module, x: Tensor) -> Tensor:
    """Linear, sigmoid, batch norm; at the end linear and batch norm."""
    linear = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        x = standard(1 / (1 + (-(x @ layer.weight.T + layer.bias)).exp()))
    return standard(x @ linear[-1].weight.T)


def means(inputs: list[Tensor]) -> dict[str, Tensor]:
    """The mean over real steps of each sample, standardized over the batch."""
    rows = {
        m: torch.stack([one[:, : int(end)].mean(1) for one, end in zip(x, ends, strict=True)])
        for m, x, ends in zip(SHAPES, inputs, LENGTHS, strict=True)
    }
    return {m: standard(x) for m, x in rows.items()}


def test_one_step_correlates_audio_and_video_side_by_side_with_text() -> None:
    net = OneStepDCCA(SHAPES, 1, **SMALL).double().train()
    inputs = batch()
    embedding, pairs = net.view(*net.read(inputs, None, LENGTHS))
    vectors = means(inputs)
    joint = by_hand(net.networks["joint"], torch.cat([vectors["audio"], vectors["video"]], 1))
    text = by_hand(net.networks["text"], vectors["text"])
    assert len(pairs) == 1
    torch.testing.assert_close(pairs[0].first, joint)
    torch.testing.assert_close(pairs[0].second, text)
    torch.testing.assert_close(embedding, torch.cat([joint, text], 1))


def test_two_steps_correlate_audio_with_video_and_both_with_text() -> None:
    net = TwoStepDCCA(SHAPES, 1, **SMALL).double().train()
    inputs = batch()
    embedding, pairs = net.view(*net.read(inputs, None, LENGTHS))
    vectors = means(inputs)
    audio, video, text = (by_hand(net.networks[m], vectors[m]) for m in ("audio", "video", "text"))
    joint = by_hand(net.networks["joint"], torch.cat([audio, video], 1))
    for pair, first, second in zip(pairs, (audio, joint), (video, text), strict=True):
        torch.testing.assert_close(pair.first, first)
        torch.testing.assert_close(pair.second, second)
    torch.testing.assert_close(embedding, torch.cat([joint, text], 1))


@pytest.mark.parametrize("end_to_end", [False, True])
def test_the_second_step_sends_no_gradient_through_the_first_unless_asked(end_to_end: bool) -> None:
    net = TwoStepDCCA(SHAPES, 1, end_to_end=end_to_end, **SMALL).double().train()
    _, pairs = net.view(*net.read(batch(), None, None))
    net._loss(pairs[1]).backward()
    reached = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"joint", "text", *(("audio", "video") if end_to_end else ())}


def test_an_absent_modality_of_a_pair_is_at_its_mean() -> None:
    net = OneStepDCCA(SHAPES, 1, **SMALL).double().train()
    inputs = batch()
    for _ in range(2):
        net(inputs)
    net.eval()
    present = torch.ones(32, 3, dtype=torch.bool)
    present[0, 0] = False
    middle = [x.clone() for x in inputs]
    mean = net.norms["video"].running_mean
    assert isinstance(mean, Tensor)
    middle[0][0] = mean[:, None]
    torch.testing.assert_close(net.embed(inputs, present)[0], net.embed(middle)[0])


def test_training_finds_what_the_views_share() -> None:
    net = OneStepDCCA(SHAPES, 1, width=2, hidden=(16,), batch_size=128).train()
    hidden = torch.randn(400, 1, 1)
    inputs = [torch.randn(400, *shape) + hidden for shape in SHAPES.values()]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for start in [0, 128, 256] * 15:
        optimizer.zero_grad()
        own = net([x[start : start + 128] for x in inputs]).own_loss
        assert own is not None
        own.backward()
        optimizer.step()
    net.refit(net.embed([x[:300] for x in inputs]), hidden[:300, 0, 0])
    prediction = net.eval()([x[300:] for x in inputs]).prediction[:, 0].detach()
    assert float(torch.corrcoef(torch.stack([prediction, hidden[300:, 0, 0]]))[0, 1]) > 0.9


@pytest.mark.parametrize("hidden", [[], [4], [6, 5, 4]])
def test_depth_is_an_option(hidden: list[int]) -> None:
    net = projection(3, hidden, 2)
    sizes = [(layer.in_features, layer.out_features) for layer in net if isinstance(layer, nn.Linear)]
    assert sizes == list(zip([3, *hidden], [*hidden, 2], strict=True))
    assert net(torch.randn(4, 3)).shape == (4, 2)


def test_sizes_of_dcca_at_mosei() -> None:
    shapes = {"video": (35, 50), "audio": (74, 50), "text": (768, 50)}
    sizes = [sum(p.numel() for p in kind(shapes, 1).parameters()) for kind in (OneStepDCCA, TwoStepDCCA)]
    rest = 256 * 256 + 256 + 256 * 50  # behind the first layer of each network
    first = [[109, 768], [74, 35, 100, 768]]
    assert sizes == [sum(256 * n + 256 + rest for n in own) for own in first]


def test_wrong_options_of_dcca() -> None:
    with pytest.raises(FusionInputError, match="hidden is a list of positive widths"):
        OneStepDCCA(SHAPES, 1, hidden=[0])
    with pytest.raises(FusionInputError, match="end_to_end is True or False"):
        TwoStepDCCA(SHAPES, 1, end_to_end="no")  # type: ignore[arg-type]
