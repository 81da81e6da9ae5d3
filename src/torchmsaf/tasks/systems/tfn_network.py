"""TFN as published, with its sub-networks.

Zadeh, Chen, Poria, Cambria and Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017, arXiv
1707.07250.
"""

# B batch, T steps, C inputs, H hidden width, K outputs (1 in regression)

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from torchmsaf.backbones.recurrent import run_lstm
from torchmsaf.fusion.fully_connected import fully_connected
from torchmsaf.fusion.tfn import outer_product
from torchmsaf.ops.checks import check_integer, check_share, check_widths
from torchmsaf.ops.modes import evaluating
from torchmsaf.ops.steps import last_step, masked_mean
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.base import Kind, System


class TFNNetwork(System):
    """Sub-networks of audio, video and text, the outer product of their vectors, and fully connected layers.

    Audio and video are averaged over their real steps, then batch norm, dropout and three layers with ReLU. Text is an
    LSTM, whose last state goes through dropout and one linear layer. ``Z = [1; h_a] (x) [1; h_v] (x) [1; h_t]``; dropout,
    two hidden layers with ReLU and a linear layer make the prediction. Of an absent modality only the 1 is left in Z.

    Widths, rates and order are of the authors' code (github.com/A2Zadeh/TensorFusionNetwork); the dropout of the LSTM's
    state is of its PyTorch port (github.com/Justin1904/TensorFusionNetworks). The article is remembered as having hidden
    layers of 128 after Z, which is a recollection; the code has 160. The output for a sentiment is ``6 sigmoid - 3``, the
    range of the labels, as the port means it to be; the authors' code has ``8 sigmoid - 4``. Values of other tasks and
    logits are not squashed. The loss of values is the absolute error. The authors scale each video feature by its largest
    value in training; that is left to whoever prepares the data, and batch norm comes first in any case. Their learning
    rate is not known for certain, so it is that of the comparison.

    Args:
        shapes: of ``text``, ``audio`` and ``video``, see :class:`System`.
        outputs: K.
        kind: of the task.
        tokens: vocabulary sizes of word numbers.
        audio: H of the audio's sub-network.
        video: H of the video's sub-network.
        text: H of the LSTM.
        text_out: width of the text's vector.
        hidden: widths of the layers after Z.
        dropout: probability in the sub-networks and of an entry of Z.
    """

    absolute_error = True

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
        audio: int = 32,
        video: int = 32,
        text: int = 128,
        text_out: int = 64,
        hidden: Sequence[int] = (160, 160),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(shapes, outputs, kind=kind, tokens=tokens)
        check_widths("hidden", hidden, example="[160, 160]")
        self.encoders = SubNetworks(self.widths, audio, video, text, text_out, dropout)
        size = (audio + 1) * (video + 1) * (text_out + 1)
        self.layers = fully_connected(size, hidden, outputs, dropout=dropout)

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """Predict, see :meth:`System.run`."""
        prediction: Tensor = self.layers(outer_product(self.encoders(steps, masks, present)))
        return Fused(6 * torch.sigmoid(prediction) - 3 if self.kind == "sentiment" else prediction)


class SubNetworks(nn.Module):
    """What TFN and LMF make of audio, video and text before they fuse: a vector each, in that order.

    Args:
        widths: modality -> channels of its steps.
        audio: width of the audio's vector and hidden layers.
        video: width of the video's.
        text: width of the LSTM.
        text_out: width of the text's vector.
        dropout: probability, of inputs of audio and video and of the LSTM's last state.
    """

    def __init__(
        self, widths: Mapping[str, int], audio: int, video: int, text: int, text_out: int, dropout: float
    ) -> None:
        super().__init__()
        for name, width in (("audio", audio), ("video", video), ("text", text), ("text_out", text_out)):
            check_integer(name, width, advice="it is the width of a layer")
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        self.audio = AveragedNetwork(widths["audio"], audio, dropout)
        self.video = AveragedNetwork(widths["video"], video, dropout)
        self.lstm = nn.LSTM(widths["text"], text, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.text = nn.Linear(text, text_out)

    def forward(
        self, steps: Mapping[str, Tensor], masks: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Vectors ``(B, H)`` of audio, video and text, zeros where absent."""
        lengths = masks["text"].sum(1)
        state = last_step(run_lstm(self.lstm, steps["text"], lengths), lengths)
        return [
            self.audio(masked_mean(steps["audio"], masks["audio"]), present["audio"]),
            self.video(masked_mean(steps["video"], masks["video"]), present["video"]),
            torch.where(present["text"][:, None], self.text(self.dropout(state)), 0),
        ]


class AveragedNetwork(nn.Module):
    """Batch norm, dropout and three layers with ReLU, for a modality that was averaged over time.

    Batch norm never sees a row that lacks the modality; fewer than two rows have no statistics and are normalized by
    those that it has kept.

    Args:
        width: C.
        hidden: H.
        dropout: probability.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        sizes = (width, hidden, hidden)
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for size in sizes:
            layers += [nn.Linear(size, hidden), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """``(B, C)``, zeros where absent, to ``(B, H)``, zeros where absent."""
        y: Tensor = self.layers(self._normalize(x, present))
        return torch.where(present[:, None], y, 0)

    def _normalize(self, x: Tensor, present: Tensor) -> Tensor:
        rows = present.nonzero()[:, 0]
        if not self.training or len(rows) < 2:
            with evaluating(self.norm):
                normed: Tensor = self.norm(x)
                return normed
        some: Tensor = self.norm(x[rows])
        return some.new_zeros(x.shape).index_put((rows,), some)
