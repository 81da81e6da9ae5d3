"""A small network that guesses how accurate an architecture is, from those that were tried."""

# n architectures, L layers, F numbers a layer

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from torchmsaf.experiments.search.space import Architecture


class Surrogate(nn.Module):
    """The numbers of each layer through a linear layer with sigmoid, an LSTM over the layers, a linear layer, a sigmoid.

    Linear layers start uniform in [-0.1, 0.1] with biases 1.8, as in github.com/juanmanpr/mfas.

    Args:
        entries: F, one more than there are modalities.
        width: of the embedding and of the LSTM.
        learning_rate: of Adam, whose state is kept from :meth:`learn` to :meth:`learn`.
    """

    def __init__(self, entries: int, *, width: int = 100, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.embed = nn.Linear(entries, width)
        self.recurrent = nn.LSTM(width, width, batch_first=True)
        self.decide = nn.Linear(width, 1)
        for layer in (self.embed, self.decide):
            nn.init.uniform_(layer.weight, -0.1, 0.1)
            nn.init.constant_(layer.bias, 1.8)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)

    def forward(self, layers: Tensor) -> Tensor:
        """``(n, L, F)`` to accuracies ``(n,)`` in [0, 1]."""
        states = self.recurrent(torch.sigmoid(self.embed(layers)))[0]
        return torch.sigmoid(self.decide(states[:, -1])).squeeze(1)

    def learn(self, tried: Mapping[Architecture, float], epochs: int) -> float:
        """Fit the accuracies of all that was tried: mean squared error, a step for each length an epoch.

        Returns:
            The error of the last epoch, a mean over architectures.
        """
        groups: dict[int, list[Architecture]] = {}
        for one in tried:
            groups.setdefault(len(one), []).append(one)
        error = 0.0
        for _ in range(epochs):
            error = 0.0
            for group in groups.values():
                truth = torch.tensor([tried[one] for one in group])
                loss = nn.functional.mse_loss(self(_as_tensor(group)), truth)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                error += float(loss.detach()) * len(group) / len(tried)
        return error

    @torch.no_grad()
    def predict(self, architectures: Sequence[Architecture]) -> list[float]:
        """Guessed accuracies of architectures of any lengths, in order."""
        found: dict[Architecture, float] = {}
        for length in {len(one) for one in architectures}:
            group = [one for one in architectures if len(one) == length]
            found |= dict(zip(group, self(_as_tensor(group)).tolist(), strict=True))
        return [found[one] for one in architectures]


def _as_tensor(group: Sequence[Architecture]) -> Tensor:
    return torch.tensor(group, dtype=torch.float32)
