"""ICCN, the interaction canonical correlation network.

Sun, Sarma, Sethares and Liang, "Learning Relationships between Text, Audio, and Video via Deep Canonical Correlation for
Multimodal Language Analysis", AAAI 2020, arXiv 1911.05544.
"""

# B batch, C channels of one modality, T steps, H size of a sequence's vector, D width of a view, K outputs

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.backbones.recurrent import run_lstm
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer, check_widths
from torchmsaf.ops.steps import last_step, masked_mean
from torchmsaf.tasks.systems.base import Kind
from torchmsaf.tasks.systems.label_free import LabelFree, Pair, over_rows
from torchmsaf.tasks.systems.linear_predictor import LinearPredictor


class ICCN(LabelFree):
    """Outer products of text with audio and of text with video, whose embeddings are to correlate.

    From the article, as its abstract and summaries have it: audio and video go each through a convolution over time and an
    LSTM, whose last state is ``H_a`` and ``H_v``; ``H_t`` is the utterance's vector of a language model, here the mean of
    its real steps; a convolutional network of its own makes ``K_ta`` of the matrix ``H_t H_a^T``, another ``K_tv`` of
    ``H_t H_v^T``; the loss is the negative canonical correlation of the two, without labels; a linear predictor works on
    ``[K_ta; H_t; K_tv]``. Ours: batch norm without weights of H_t, and at the end of both views; a sample takes part when
    it has all three modalities; what depends on an absent one is zeros, which is the mean. Guesses: all sizes, the kernels
    of 3, and ReLU after the first convolution; two blocks of convolution, maximum over 2 x 2 and ReLU; the batch size.

    Args:
        shapes: modality -> ``(C,)`` or ``(C, T)``, in declared order.
        outputs: K.
        kind: of the task.
        tokens: modality -> vocabulary size, of modalities that are word numbers.
        width: of each view.
        audio: size of H_a, and channels of its convolution.
        video: size of H_v, and channels of its convolution.
        kernel: steps that the convolutions over time see, an odd number.
        maps: channels of the two convolutions over an outer product.
        regularization: of the covariances; 1e-3 as in the PyTorch ports of deep CCA.
        count: so many of the largest correlations; None = all.
        batch_size: its own.
    """

    learning_rate = 1e-3

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
        width: int = 50,
        audio: int = 64,
        video: int = 32,
        kernel: int = 3,
        maps: Sequence[int] = (4, 8),
        regularization: float = 1e-3,
        count: int | None = None,
        batch_size: int = 512,
    ) -> None:
        super().__init__(
            shapes,
            outputs,
            kind=kind,
            tokens=tokens,
            width=width,
            regularization=regularization,
            count=count,
            batch_size=batch_size,
        )
        if check_integer("kernel", kernel, advice="3") % 2 == 0:
            raise FusionInputError(f"kernel is an odd number of steps, got {kernel}")
        if len(channels := check_widths("maps", maps, example="[4, 8]")) != 2:
            raise FusionInputError(f"maps has the channels of two convolutions, such as [4, 8], got {maps!r}")
        text = self.widths["text"]
        self.text = nn.BatchNorm1d(text, affine=False)
        given = {"audio": audio, "video": video}
        sizes = {name: check_integer(name, size, advice="the size of its vector") for name, size in given.items()}
        self.encoders = nn.ModuleDict(
            {name: SequenceEncoder(self.widths[name], size, kernel) for name, size in sizes.items()}
        )
        self.views = nn.ModuleDict({name: OuterView(text, size, channels, width) for name, size in sizes.items()})
        self.predictor = LinearPredictor(2 * width + text, self.outputs)

    def view(
        self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]
    ) -> tuple[Tensor, list[Pair]]:
        """``[K_ta; H_t; K_tv]``, and the pair of K_ta and K_tv."""
        text = over_rows(self.text, masked_mean(steps["text"], masks["text"]), present["text"])
        found = {}
        for name in ("audio", "video"):
            state = self.encoders[name](steps[name], masks[name])
            found[name] = over_rows(self.views[name], torch.cat([text, state], 1), present["text"] & present[name])
        rows = present["text"] & present["audio"] & present["video"]
        return torch.cat([found["audio"], text, found["video"]], 1), [Pair(found["audio"], found["video"], rows)]


class SequenceEncoder(nn.Module):
    """A convolution over time and an LSTM; the last real state.

    Args:
        width: C.
        size: H.
        kernel: steps of the convolution.
    """

    def __init__(self, width: int, size: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, size, kernel, padding=kernel // 2)
        self.lstm = nn.LSTM(size, size, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, C)``, zeros behind the end, and ``(B, T)`` to ``(B, H)``; zeros where there is no real step."""
        lengths = mask.sum(1)
        longest = max(1, int(lengths.max()))
        seen = torch.relu(self.convolution(x[:, :longest].transpose(1, 2))).transpose(1, 2)
        return last_step(run_lstm(self.lstm, seen, lengths), lengths)


class OuterView(nn.Module):
    """The outer product of two vectors, as an image, through two convolutions and a linear layer.

    Args:
        text: size of the first vector.
        size: H, of the second.
        maps: channels of the convolutions.
        width: D.
    """

    def __init__(self, text: int, size: int, maps: Sequence[int], width: int) -> None:
        super().__init__()
        self.sizes = text, size
        self.first = nn.Conv2d(1, maps[0], 3, padding=1)
        self.second = nn.Conv2d(maps[0], maps[1], 3, padding=1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        rows, columns = (-(-side // 4) for side in (text, size))  # what two times half of it is, rounded up
        self.last = nn.Linear(maps[1] * rows * columns, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Both vectors side by side, ``(B, text + H)``, to ``(B, D)``."""
        text, state = vectors.split(self.sizes, dim=1)
        image = torch.relu(self.pool(convolve_outer(text, state, self.first)))
        image = torch.relu(self.pool(self.second(image)))
        return cast(Tensor, self.norm(self.last(image.flatten(1))))


def convolve_outer(first: Tensor, second: Tensor, convolution: nn.Conv2d) -> Tensor:
    """A 3 x 3 convolution over the outer products of vectors ``(B, X)`` and ``(B, Y)``: ``(B, maps, X, Y)``.

    The sum over i and j of ``w_ij first[x + i] second[y + j]`` is that over i of ``first[x + i] (w_i * second)[y]``, a
    product of matrices with inner size 3, so the outer product is never made. It takes a ninth of the time of the
    convolution on a CPU. The result is channels last, which the next convolution is faster with.
    """
    assert convolution.bias is not None
    maps, columns = convolution.out_channels, second.shape[1]
    shifted = F.pad(first, (1, 1)).unfold(1, 3, 1)  # (B, X, 3)
    rows = F.conv1d(second.unsqueeze(1), convolution.weight.reshape(3 * maps, 1, 3), padding=1)  # w_i * second
    rows = rows.unflatten(1, (maps, 3)).permute(0, 2, 3, 1).flatten(2)  # (B, 3, Y maps)
    image: Tensor = torch.baddbmm(convolution.bias.repeat(columns).view(1, 1, -1), shifted, rows)
    return cast(Tensor, image.unflatten(2, (columns, maps))).permute(0, 3, 1, 2)
