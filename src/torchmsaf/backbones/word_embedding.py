"""Learned vectors of words."""

# B batch, T steps, C channels

from __future__ import annotations

from torch import Tensor, nn

PADDING, UNKNOWN = 0, 1  # the numbers of what is no word, and of words that training does not have


class WordEmbedding(nn.Module):
    """Word numbers ``(B, 1, T)``, as floats, to vectors ``(B, C, T)`` that are learned; padding is zeros.

    Args:
        vocabulary: how many numbers there are, padding and unknown included.
        width: C.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary, width, padding_idx=PADDING)

    def forward(self, numbers: Tensor) -> Tensor:
        """The vectors."""
        found: Tensor = self.vectors(numbers[:, 0].long())
        return found.transpose(1, 2)
