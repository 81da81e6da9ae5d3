"""Protects the LSTM networks of CMU-MOSEI: their sizes, their last real step, and words as vectors that are learned."""

import pytest
import torch
from torch import nn

from torchmsaf.backbones.lstm_net import LSTMNet
from torchmsaf.backbones.word_embedding import WordEmbedding
from torchmsaf.errors import FusionInputError


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_sizes_are_the_papers() -> None:
    """678,272 parameters of six LSTMs, from the authors' layer sizes."""
    nets = [LSTMNet((d, 50), 1, hidden=h) for d, h in ((35, 32), (74, 64), (768, 128))]
    assert sum(count(net.lstm1) + count(net.lstm2) for net in nets) == 678_272
    assert [count(net.head) for net in nets] == [33, 65, 129]


def test_the_prediction_is_that_of_the_last_real_step() -> None:
    torch.manual_seed(0)
    net = LSTMNet((5, 9), 2, hidden=4).double().eval()
    x, lengths = torch.randn(3, 5, 9, dtype=torch.float64), torch.tensor([2, 9, 6])
    y = net(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        steps = x[row : row + 1, :, :length].transpose(1, 2)
        state = net.lstm2(net.lstm1(steps)[0])[0][:, -1]
        torch.testing.assert_close(y[row : row + 1], net.head(state))
    torch.testing.assert_close(net(x), net(x, torch.full((3,), 9)))


def test_a_batch_of_one_and_one_step() -> None:
    net = LSTMNet((5, 1), 1)
    assert net(torch.randn(1, 5, 1)).shape == (1, 1)


def test_words_are_rows_of_a_table_and_padding_is_zeros() -> None:
    torch.manual_seed(0)
    words = WordEmbedding(6, 3)
    numbers = torch.tensor([[[2.0, 5.0, 0.0]]])
    table = words.vectors.weight
    torch.testing.assert_close(words(numbers)[0].T, torch.stack([table[2], table[5], torch.zeros(3)]))
    net = LSTMNet((1, 3), 1, vocabulary=6, embedding=3)
    net(numbers, torch.tensor([2])).sum().backward()
    assert net.words is not None
    moved = net.words.vectors.weight.grad.abs().sum(1) > 0
    assert moved.tolist() == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((5,), {}, r"takes sequences \(D, T\), got samples of shape \(5,\)"),
        ((5, 9), {"vocabulary": 7}, r"takes word numbers \(1, T\)"),
        ((5, 9), {"hidden": 0}, "hidden"),
        ((5, 9), {"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_arguments(shape: tuple[int, ...], options: dict[str, float], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        LSTMNet(shape, 1, **options)
