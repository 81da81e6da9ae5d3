"""LSTMs over sequences of different lengths."""

# B batch, T steps, D inputs, H hidden size

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torchmsaf.ops.steps import step_mask

# sequences that an LSTM on a CPU runs over at once: twice as fast at a batch of 256 with CMU-MOSEI's lengths
_AT_ONCE = 32


def run_lstm(lstm: nn.LSTM, x: Tensor, lengths: Tensor | None) -> Tensor:
    """The states of one LSTM layer at each step, zeros behind a sequence's end; no value there is read.

    An LSTM that goes forward meets the padding after all that is real, so it runs over the batch as it is, up to the longest
    sequence, which gives what packed sequences give and takes less time. On a CPU a large batch is cut into pieces of
    similar lengths, each run up to its own longest. An LSTM of two directions runs on packed sequences.

    Args:
        lstm: one layer, ``batch_first``.
        x: ``(B, T, D)``.
        lengths: ``(B,)`` real steps, 0 to T; None = all T.

    Returns:
        ``(B, T, H)``, or ``(B, T, 2 H)`` of two directions.
    """
    if lengths is None:
        states: Tensor = lstm(x)[0]
        return states
    steps = x.shape[1]
    if lstm.bidirectional:
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        y = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=steps)[0]
        return torch.where(step_mask(lengths, steps).unsqueeze(2), y, 0)
    if x.device.type != "cpu" or len(x) <= _AT_ONCE:
        return _run_to_longest(lstm, x, lengths)
    lengths, order = lengths.sort(stable=True)
    pieces = zip(x.index_select(0, order).split(_AT_ONCE), lengths.split(_AT_ONCE), strict=True)
    sorted_states = torch.cat([_run_to_longest(lstm, some, own) for some, own in pieces])
    return sorted_states.index_select(0, order.argsort())


def _run_to_longest(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    longest = max(1, int(lengths.max()))
    padding = ~step_mask(lengths, longest).unsqueeze(2)
    y = lstm(x[:, :longest].masked_fill(padding, 0))[0]
    return F.pad(y.masked_fill(padding, 0), (0, 0, 0, x.shape[1] - longest))
