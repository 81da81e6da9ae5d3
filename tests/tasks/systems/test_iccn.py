"""Protects ICCN: sequence encoders, outer products and their convolutions, the embedding, and its sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.systems.iccn import ICCN, OuterView, SequenceEncoder, convolve_outer

SHAPES = {"video": (5, 6), "audio": (4, 9), "text": (7, 6)}
SMALL: dict[str, Any] = {"width": 3, "audio": 6, "video": 5, "batch_size": 16}


def standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def encoded(net: SequenceEncoder, x: Tensor) -> Tensor:
    """The last state of one sequence ``(T, C)``, step by step."""
    kernel = net.convolution.kernel_size[0]
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2))
    lstm = net.lstm
    h = c = x.new_zeros(lstm.hidden_size)
    for t in range(len(x)):
        seen = torch.einsum("ock,kc->o", net.convolution.weight, padded[t : t + kernel]) + net.convolution.bias
        gates = lstm.weight_ih_l0 @ seen.relu() + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h


def viewed(net: OuterView, text: Tensor, state: Tensor) -> Tensor:
    """The view of a batch before batch norm, with the outer product made and convolved."""
    image = torch.einsum("bx,by->bxy", text, state).unsqueeze(1)
    for layer in (net.first, net.second):
        image = F.max_pool2d(F.relu(F.conv2d(image, layer.weight, layer.bias, padding=1)), 2, ceil_mode=True)
    return image.flatten(1) @ net.last.weight.T


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_sequence_encoder_is_the_loop_over_its_real_steps(kernel: int) -> None:
    net = SequenceEncoder(4, 5, kernel).double()
    lengths = torch.tensor([7, 1, 4, 0])
    mask = torch.arange(7) < lengths[:, None]
    x = torch.randn(4, 7, 4, dtype=torch.float64) * mask.unsqueeze(2)
    found = net(x, mask)
    for row, state, end in zip(x, found, lengths, strict=True):
        torch.testing.assert_close(state, encoded(net, row[: int(end)]))


@pytest.mark.parametrize(("rows", "columns", "maps"), [(7, 5, 4), (1, 1, 2), (2, 9, 1), (8, 2, 3)])
def test_a_convolution_over_an_outer_product_does_not_need_the_product(rows: int, columns: int, maps: int) -> None:
    convolution = nn.Conv2d(1, maps, 3, padding=1).double()
    first = torch.randn(3, rows, dtype=torch.float64, requires_grad=True)
    second = torch.randn(3, columns, dtype=torch.float64, requires_grad=True)
    leaves = [first, second, *convolution.parameters()]
    expected = convolution(torch.einsum("bx,by->bxy", first, second).unsqueeze(1))
    found = convolve_outer(first, second, convolution)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_embedding_is_both_views_with_the_text_between() -> None:
    net = ICCN(SHAPES, 1, **SMALL).double().train()
    inputs = [torch.randn(16, *shape, dtype=torch.float64) for shape in SHAPES.values()]
    lengths = [torch.arange(16) % 6 + 1, torch.arange(16) % 9 + 1, torch.arange(16) % 5 + 2]
    embedding, pairs = net.view(*net.read(inputs, None, lengths))
    text = standard(torch.stack([x[:, : int(end)].mean(1) for x, end in zip(inputs[2], lengths[2], strict=True)]))
    found = {}
    for m, name in ((1, "audio"), (0, "video")):
        encoder = net.encoders[name]
        assert isinstance(encoder, SequenceEncoder)
        rows = [encoded(encoder, x.T[: int(end)]) for x, end in zip(inputs[m], lengths[m], strict=True)]
        view = net.views[name]
        assert isinstance(view, OuterView)
        found[name] = standard(viewed(view, text, torch.stack(rows)))
    torch.testing.assert_close(embedding, torch.cat([found["audio"], text, found["video"]], 1))
    torch.testing.assert_close(pairs[0].first, found["audio"])
    torch.testing.assert_close(pairs[0].second, found["video"])


def test_what_lacks_audio_keeps_the_view_of_text_and_video() -> None:
    net = ICCN(SHAPES, 1, **SMALL).train()
    inputs = [torch.randn(16, *shape) for shape in SHAPES.values()]
    for _ in range(2):
        net(inputs)
    present = torch.tensor([[True, False, True]]).expand(16, 3)
    found, whole = net.embed(inputs, present), net.embed(inputs)
    assert not found[:, :3].any()
    assert torch.equal(found[:, 3:], whole[:, 3:])


@pytest.mark.parametrize("shapes", [dict.fromkeys(SHAPES, (1,)), dict.fromkeys(SHAPES, (2, 3))])
def test_small_widths_have_an_image_too(shapes: dict[str, tuple[int, ...]]) -> None:
    net = ICCN(shapes, 2, width=1, audio=1, video=1, batch_size=8, kernel=5, maps=(1, 1))
    own = net([torch.randn(8, *shape) for shape in shapes.values()]).own_loss
    assert own is not None
    own.backward()
    assert own.isfinite()


def test_training_makes_the_views_correlate() -> None:
    net = ICCN(SHAPES, 1, **SMALL).train()
    hidden = torch.randn(64, 1, 1)
    inputs = [torch.randn(64, *shape) * 0.5 + hidden for shape in SHAPES.values()]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        own = net(inputs).own_loss
        assert own is not None
        own.backward()
        optimizer.step()
        losses.append(float(own.detach()))
    assert losses[-1] < losses[0] - 0.3


def test_sizes_of_iccn_at_mosei() -> None:
    with torch.device("meta"):
        net = ICCN({"video": (35, 50), "audio": (74, 50), "text": (768, 50)}, 1)
    expected = 0
    for width, size in ((74, 64), (35, 32)):
        expected += 3 * width * size + size + 8 * size * size + 8 * size  # convolution and LSTM
        expected += 9 * 4 + 4 + 9 * 4 * 8 + 8 + 8 * (768 // 4) * (size // 4) * 50
    assert sum(p.numel() for p in net.parameters()) == expected
    assert net.predictor.weight.shape == (1, 50 + 768 + 50)


def test_wrong_options_of_iccn() -> None:
    with pytest.raises(FusionInputError, match="kernel is an odd number of steps, got 4"):
        ICCN(SHAPES, 1, kernel=4)
    with pytest.raises(FusionInputError, match="maps has the channels of two convolutions"):
        ICCN(SHAPES, 1, maps=(4,))
    with pytest.raises(FusionInputError, match="audio: expected an integer"):
        ICCN(SHAPES, 1, audio=0)
