"""The memory fusion network: an LSTM a modality, and a memory of what changes across them.

Zadeh, Liang, Mazumder, Poria, Cambria and Morency, "Memory Fusion Network for Multi-view Sequential Learning", AAAI 2018,
arXiv 1802.00927.
"""

# B batch, T steps, C channels and H states of one modality, S states of all, P size of the memory, R real steps in all

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MemoryFusion(nn.Module):
    """The last states of one LSTM a modality, and the memory at its last step.

    At each step, with c the cell states of all modalities side by side: ``c* = [c_(t-1); c_t]``; the attention is the
    softmax of FC-ReLU-dropout-FC of c*; the proposal is ``tanh`` of FC-ReLU-dropout-FC of the attended c*; both gates are
    ``sigmoid`` of FC-ReLU-dropout-FC of the attended c* and the memory u; ``u = gate_1 u + gate_2 proposal``. Only the gates
    depend on u, so all else is done for all steps at once, and for real steps alone.

    A step that a modality has not leaves its states as they are, and one that no modality has leaves the memory as it is.

    Args:
        widths: modality -> C.
        hidden: modality -> H.
        memory: P.
        layers: hidden widths of attention, proposal and the two gates.
        dropouts: their probabilities.

    Attributes:
        width: of what comes out, ``S + P``.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        hidden: Mapping[str, int],
        memory: int,
        layers: Sequence[int],
        dropouts: Sequence[float],
    ) -> None:
        super().__init__()
        self.cells = nn.ModuleDict({name: nn.LSTMCell(widths[name], hidden[name]) for name in hidden})
        states = sum(hidden.values())
        self.memory = memory
        self.width = states + memory
        attention, proposal, keep, add = layers
        drops = [nn.Dropout(p) for p in dropouts]
        seen = 2 * states
        self.attention = nn.Sequential(nn.Linear(seen, attention), nn.ReLU(), drops[0], nn.Linear(attention, seen))
        self.proposal = nn.Sequential(nn.Linear(seen, proposal), nn.ReLU(), drops[1], nn.Linear(proposal, memory))
        self.keep = nn.Sequential(nn.Linear(seen + memory, keep), nn.ReLU(), drops[2], nn.Linear(keep, memory))
        self.add = nn.Sequential(nn.Linear(seen + memory, add), nn.ReLU(), drops[3], nn.Linear(add, memory))

    def forward(self, steps: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Sequences ``(B, T, C)`` and masks ``(B, T)`` by modality, whose T may differ, to ``(B, S + P)``."""
        lengths = {name: masks[name].sum(1) for name in self.cells}
        longest = torch.stack(list(lengths.values())).amax(0)  # (B,)
        total = max(1, int(longest.max()))
        last, cells = [], []
        for name, cell in self.cells.items():
            assert isinstance(cell, nn.LSTMCell)
            h, c = run_cell(cell, steps[name][:, :total])
            last.append(at_step(h, lengths[name]))
            cells.append(held(c, lengths[name], total))
        now = torch.cat(cells, 2)  # (B, T + 1, S), from c_0 on
        real = torch.arange(total, device=longest.device) < longest[:, None]
        star = torch.cat([now[:, :-1], now[:, 1:]], 2)[real]  # c*: (R, 2 S)
        attended = torch.softmax(self.attention(star), 1) * star
        return torch.cat([*last, self._remember(attended, real, longest)], 1)

    def _remember(self, attended: Tensor, real: Tensor, lengths: Tensor) -> Tensor:
        """The memory after each row's last step, ``(B, P)``, from the attended c* ``(R, 2 S)`` of real steps."""
        proposal = _spread(torch.tanh(self.proposal(attended)), real)
        gates = [self.keep, self.add]
        firsts = [cast(nn.Linear, gate[0]) for gate in gates]
        seen = attended.shape[1]
        # what of the gates' first layers does not depend on the memory, for all steps; the rest, for both gates at once
        outer = _spread(torch.cat([F.linear(attended, fc.weight[:, :seen], fc.bias) for fc in firsts], 1), real)
        inner = torch.cat([fc.weight[:, seen:] for fc in firsts]).T
        sizes = [fc.out_features for fc in firsts]
        rests = [gate[1:] for gate in gates]
        u = proposal.new_zeros(len(real), self.memory)
        history = [u]
        for part, new in zip(outer.unbind(1), proposal.unbind(1), strict=True):
            keep, add = (
                torch.sigmoid(rest(x))
                for rest, x in zip(rests, torch.addmm(part, u, inner).split(sizes, 1), strict=True)
            )
            u = keep * u + add * new
            history.append(u)
        return at_step(torch.stack(history[1:], 1), lengths)


def run_cell(cell: nn.LSTMCell, x: Tensor) -> tuple[Tensor, Tensor]:
    """All hidden and cell states ``(B, T, H)`` of an LSTM over ``(B, T, C)``; what comes in is weighted for all at once."""
    inputs = F.linear(x, cell.weight_ih, cell.bias_ih + cell.bias_hh)
    return unroll(inputs.unbind(1), cell.weight_hh.T, x.new_zeros(len(x), cell.hidden_size))


def unroll(inputs: Sequence[Tensor], weight: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All states ``(B, T, H)`` of an LSTM, from what its inputs bring to the gates, T times ``(B, 4 H)``.

    Args:
        inputs: weighted inputs with biases, gates in the order of torch: in, forget, cell, out.
        weight: ``(H, 4 H)`` of the hidden state.
        h: ``(B, H)``, before the first step.
        c: the cell state before it; None = zeros.
    """
    c = torch.zeros_like(h) if c is None else c
    hidden, cells = [], []
    for x in inputs:
        enter, forget, cell, out = torch.addmm(x, h, weight).chunk(4, 1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(cell)
        h = torch.sigmoid(out) * torch.tanh(c)
        hidden.append(h)
        cells.append(c)
    return torch.stack(hidden, 1), torch.stack(cells, 1)


def at_step(states: Tensor, lengths: Tensor) -> Tensor:
    """The state of ``(B, T, H)`` after so many steps, ``(B, H)``; zeros after none."""
    return _from_start(states, lengths[:, None]).squeeze(1)


def held(states: Tensor, lengths: Tensor, total: int) -> Tensor:
    """States from before the first step on, ``(B, total + 1, H)``: zeros, then as they come, the last one kept."""
    return _from_start(states, torch.minimum(torch.arange(total + 1, device=lengths.device), lengths[:, None]))


def _from_start(states: Tensor, index: Tensor) -> Tensor:
    """States ``(B, T, H)`` after ``(B, N)`` numbers of steps: ``(B, N, H)``."""
    padded = F.pad(states, (0, 0, 1, 0))  # zeros before the first step
    return padded.gather(1, index.unsqueeze(2).expand(-1, -1, states.shape[2]))


def _spread(values: Tensor, real: Tensor) -> Tensor:
    """Values ``(R, P)`` of real steps, where they belong in ``(B, T, P)``; zeros elsewhere."""
    return values.new_zeros(*real.shape, values.shape[1]).index_put(real.nonzero(as_tuple=True), values)
