"""LMF as published, with its sub-networks.

Liu, Shen, Lakshminarasimhan, Liang, Zadeh and Morency, "Efficient Low-rank Multimodal Fusion with Modality-Specific
Factors", ACL 2018, arXiv 1806.00064.
"""

# B batch, H hidden width, R rank, K outputs (1 in regression)

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from torchmsaf.fusion.lmf import LMF
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.base import Kind, System
from torchmsaf.tasks.systems.tfn_network import SubNetworks


class LMFNetwork(System):
    """Sub-networks of audio, video and text, and the low-rank tensor of :class:`torchmsaf.fusion.lmf.LMF`.

    The sub-networks are those of TFN; the text's vector is half as wide as its LSTM, as in the authors' code
    (github.com/Justin1904/Low-rank-Multimodal-Fusion). Nothing is squashed, and no dropout comes after the tensor: the code
    declares one and does not use it. Of an absent modality only the 1 is left.

    The authors search widths of 4, 8 and 16 for audio and video and 64, 128 and 256 for text, dropout of 0 to 0.5, ranks
    of 1, 4, 8 and 16 and learning rates of 3e-4 to 3e-3. The defaults here are what the MMSA library
    (github.com/thuiar/MMSA) takes for CMU-MOSEI: 16 for audio, 128 for video and text, a dropout of 0.2 and rank 4. It has
    a learning rate of 1e-3 for all, so the learning rate of their own that the authors give the factors is left out, and
    the rate is that of the comparison. The loss of values is the absolute error; the authors sum it over a batch, here it
    is the mean, which is nearly the same to Adam without weight decay.

    Args:
        shapes: of ``text``, ``audio`` and ``video``, see :class:`System`.
        outputs: K.
        kind: of the task.
        tokens: vocabulary sizes of word numbers.
        audio: H of the audio's sub-network.
        video: H of the video's sub-network.
        text: H of the LSTM.
        text_out: width of the text's vector; None = half of ``text``.
        rank: R.
        dropout: probability in the sub-networks.
    """

    absolute_error = True

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
        audio: int = 16,
        video: int = 128,
        text: int = 128,
        text_out: int | None = None,
        rank: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(shapes, outputs, kind=kind, tokens=tokens)
        width = max(1, text // 2) if text_out is None else text_out
        self.encoders = SubNetworks(self.widths, audio, video, text, width, dropout)
        self.fusion = LMF((audio, video, width), outputs, rank=rank)

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """Predict, see :meth:`System.run`."""
        return Fused(self.fusion(self.encoders(steps, masks, present)))
