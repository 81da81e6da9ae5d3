"""Sentiment of utterances on CMU-MOSEI and CMU-MOSI: the MSAF paper's second application (Table 2).

Three networks of two LSTMs, 32, 64 and 128 wide for video, audio and text. The one point of fusion is between the LSTMs;
MSAF has five time segments there, C is 16 and r is 2, its defaults for these widths. One linear layer predicts from the
three last states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NETWORKS = dict.fromkeys(("video", "audio", "text"), "torchmsaf.backbones.lstm_net.LSTMNet")
HIDDEN = {"video": 32, "audio": 64, "text": 128}
# what the paper's MSAF has; the other methods have the defaults of their classes
MSAF = {"segments": 5, "block_dropout": 0.2}
# vectors of words, where they are learned: as wide as GloVe's, which the compared systems were made for
EMBEDDING = 300


def network_options(tokens: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Arguments of the networks.

    Args:
        tokens: modality -> size of its vocabulary, where words are numbers.
    """
    words = {name: {"vocabulary": size, "embedding": EMBEDDING} for name, size in tokens.items()}
    return {name: {"hidden": hidden, **words.get(name, {})} for name, hidden in HIDDEN.items()}
