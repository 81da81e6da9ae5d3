"""Protects LSTMs over sequences of different lengths: each gives what it gives alone, whatever is behind its end."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torchmsaf.backbones.recurrent import run_lstm
from torchmsaf.ops.steps import step_mask

LENGTHS = torch.tensor([3, 7, 1, 5])


def layer(*, both: bool = False) -> nn.LSTM:
    torch.manual_seed(1)
    return nn.LSTM(4, 3, batch_first=True, bidirectional=both).double()


def sequences() -> torch.Tensor:
    return torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("both", [False, True])
def test_states_are_those_of_each_sequence_alone_and_of_packed_ones(both: bool) -> None:
    lstm, x = layer(both=both), sequences()
    dirty = torch.where(step_mask(LENGTHS, 8).unsqueeze(2), x, 1e9)
    y = run_lstm(lstm, dirty, LENGTHS)
    assert y.shape == (4, 8, 6 if both else 3)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = lstm(x[row : row + 1, :length])[0][0]
        torch.testing.assert_close(y[row, :length], alone)
        assert not y[row, length:].any()
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    torch.testing.assert_close(y, pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=8)[0])


@pytest.mark.parametrize("both", [False, True])
def test_gradients_are_those_of_packed_sequences(both: bool) -> None:
    grads = []
    for packs in (False, True):
        lstm, x = layer(both=both), sequences().requires_grad_()
        if packs:
            packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
            y = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=8)[0]
        else:
            y = run_lstm(lstm, x, LENGTHS)
        (y * torch.arange(8.0)[:, None]).sum().backward()
        grads.append([x.grad, *(p.grad for p in lstm.parameters())])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_an_empty_sequence_and_none_with_padding() -> None:
    lstm, x = layer(), sequences()
    y = run_lstm(lstm, x, torch.tensor([0, 0, 0, 0]))
    assert y.shape == (4, 8, 3)
    assert not y.any()
    torch.testing.assert_close(run_lstm(lstm, x, None), lstm(x)[0])
    torch.testing.assert_close(run_lstm(lstm, x, torch.full((4,), 8)), lstm(x)[0])


def test_a_batch_that_is_run_in_pieces() -> None:
    lstm = layer()
    x = torch.randn(80, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.randint(0, 8, (80,), generator=torch.Generator().manual_seed(0))
    dirty = torch.where(step_mask(lengths, 8).unsqueeze(2), x, torch.nan).requires_grad_()
    y = run_lstm(lstm, dirty, lengths)
    y.sum().backward()
    found = [p.grad.clone() for p in lstm.parameters()]
    lstm.zero_grad()
    for row, length in enumerate(lengths.tolist()):
        assert not y[row, length:].any()
        if length:
            alone = lstm(x[row : row + 1, :length])[0][0]
            torch.testing.assert_close(y[row, :length], alone)
            alone.sum().backward()
    for one, parameter in zip(found, lstm.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)
    assert not dirty.grad[~step_mask(lengths, 8)].any()
    assert torch.isfinite(dirty.grad).all()
