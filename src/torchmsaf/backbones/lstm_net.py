"""Two LSTM layers, the network that the MSAF paper uses for each modality of CMU-MOSEI.

Su, Hu, Li and Cao, "MSAF: Multimodal Split Attention Fusion", arXiv 2012.07175, 2020; sizes are those of the authors' code,
github.com/anita-hu/MSAF.
"""

# B batch, D inputs, T steps, H hidden size, K outputs

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchmsaf.backbones.recurrent import run_lstm
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.backbones.word_embedding import WordEmbedding
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer, check_share
from torchmsaf.ops.steps import last_step


class LSTMNet(StagedNetwork):
    """Two LSTMs, one after the other, over sequences ``(B, D, T)``; the last real step, dropout and a linear layer.

    As a staged network it has one stage, the first LSTM: the paper's point of MSAF is between the two. Both go forward in
    time. The paper has H = 32, 64 and 128 for video, audio and text, and dropout of 0.1 before the last layer.

    Args:
        shape: ``(D, T)``, or ``(1, T)`` for word numbers.
        outputs: K.
        hidden: H.
        dropout: probability of dropping a feature before the head.
        vocabulary: how many word numbers there are; the inputs are then numbers, and their vectors are learned. None = the
            inputs are features.
        embedding: size of a word's vector.

    Raises:
        FusionInputError: an argument out of range.
    """

    takes_lengths = True

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        *,
        hidden: int = 64,
        dropout: float = 0.1,
        vocabulary: int | None = None,
        embedding: int = 300,
    ) -> None:
        super().__init__()
        if len(shape) != 2 or (vocabulary is not None and shape[0] != 1):
            needed = "sequences (D, T)" if vocabulary is None else "word numbers (1, T)"
            raise FusionInputError(f"LSTMNet takes {needed}, got samples of shape {tuple(shape)}")
        check_integer("hidden", hidden, advice="the paper has 32, 64 and 128")
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        self.words = None if vocabulary is None else WordEmbedding(vocabulary, embedding)
        self.lstm1 = nn.LSTM(shape[0] if vocabulary is None else embedding, hidden, batch_first=True)
        self.lstm2 = nn.LSTM(hidden, hidden, batch_first=True)
        self.channels, self.width = (hidden,), hidden
        self.stages = (self.to_lstm1,)
        self.feature = self.last_state
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, outputs))

    def to_lstm1(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Inputs ``(B, D, T)`` to the states of the first LSTM, ``(B, H, T)``; zeros where there is padding."""
        steps = x if self.words is None else self.words(x)
        return run_lstm(self.lstm1, steps.transpose(1, 2), lengths).transpose(1, 2)

    def last_state(self, maps: Tensor, lengths: Tensor | None) -> Tensor:
        """States of the first LSTM to the second's at the last real step, ``(B, H)``."""
        states = run_lstm(self.lstm2, maps.transpose(1, 2), lengths)
        return states[:, -1] if lengths is None else last_step(states, lengths)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, D, T)`` of ``lengths`` ``(B,)`` real steps, None = T, to ``(B, K)``."""
        prediction: Tensor = self.head(self.last_state(self.to_lstm1(x, lengths), lengths))
        return prediction
