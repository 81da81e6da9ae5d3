"""Deep CCA of text, audio and video, in one step and in two.

Sun, Sarma, Sethares and Bucy, "Multi-modal Sentiment Analysis using Deep Canonical Correlation Analysis", arXiv 1907.08696,
2019; the loss is of Andrew, Arora, Bilmes and Livescu, "Deep Canonical Correlation Analysis", ICML 2013.
"""

# B batch, C channels of one modality, D width of a view, K outputs (1 in regression)

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from torchmsaf.ops.checks import check_boolean, check_widths
from torchmsaf.ops.steps import masked_mean
from torchmsaf.tasks.systems.base import Kind
from torchmsaf.tasks.systems.label_free import LabelFree, Pair, over_rows
from torchmsaf.tasks.systems.linear_predictor import LinearPredictor


class _DCCA(LabelFree):
    """What both have: utterance vectors, options, and the embedding of two views."""

    learning_rate = 1e-3  # of the run that public code of deep CCA reports; with RMSprop there

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
        width: int = 50,
        hidden: Sequence[int] = (256, 256),
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
        self.hidden = check_widths("hidden", hidden, example="[256, 256]")
        self.norms = nn.ModuleDict({name: nn.BatchNorm1d(self.widths[name], affine=False) for name in self.needs})
        self.networks = nn.ModuleDict(
            {name: projection(inputs, self.hidden, width) for name, inputs in self._inputs().items()}
        )
        self.predictor = LinearPredictor(2 * width, self.outputs)

    def _inputs(self) -> dict[str, int]:
        """What each network that makes a view is called, and the width of what it gets."""
        raise NotImplementedError

    def _utterances(
        self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The mean over the real steps of each modality, standardized; zeros where it is absent."""
        return {
            name: over_rows(self.norms[name], masked_mean(steps[name], masks[name]), present[name])
            for name in self.needs
        }


class OneStepDCCA(_DCCA):
    """Deep CCA of audio and video, side by side, with text.

    From the article's abstract and from summaries of it: utterance vectors are means over time; ``[audio; video]`` and the
    text go each through a network; the loss is the negative correlation of what comes out, without labels; a linear
    predictor works on both outputs side by side. From public PyTorch code of deep CCA: sigmoid, and batch norm without
    weights between the layers. Ours: batch norm of the utterance vectors, and of the outputs; a sample takes part when it
    has text and one of the two others, and an absent one is at its mean. Guesses: widths, depth and batch size.

    Args:
        shapes: modality -> ``(C,)`` or ``(C, T)``, in declared order.
        outputs: K.
        kind: of the task.
        tokens: modality -> vocabulary size, of modalities that are word numbers.
        width: of each view.
        hidden: widths of the hidden layers of each network; empty = it is linear.
        regularization: of the covariances; 1e-3 as in the PyTorch ports.
        count: so many of the largest correlations; None = all.
        batch_size: its own.
    """

    def _inputs(self) -> dict[str, int]:
        return {"joint": self.widths["audio"] + self.widths["video"], "text": self.widths["text"]}

    def view(
        self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]
    ) -> tuple[Tensor, list[Pair]]:
        """The projections of ``[audio; video]`` and of the text."""
        vectors = self._utterances(steps, masks, present)
        either = present["audio"] | present["video"]
        joint = over_rows(self.networks["joint"], torch.cat([vectors["audio"], vectors["video"]], 1), either)
        text = over_rows(self.networks["text"], vectors["text"], present["text"])
        return torch.cat([joint, text], 1), [Pair(joint, text, either & present["text"])]


class TwoStepDCCA(_DCCA):
    """Deep CCA of audio with video, then of what comes out with text.

    As :class:`OneStepDCCA`, but for this: audio and video go each through a network, whose outputs are to correlate; side
    by side they go through another, whose output is to correlate with that of the text. The linear predictor works on the
    outputs of the second step.

    The article trains the steps one after the other. Here both are trained side by side, the second on outputs of the
    first through which it sends no gradient, so that each network has the objective that it has there and one training is
    all there is.

    Args:
        shapes: modality -> ``(C,)`` or ``(C, T)``, in declared order.
        outputs: K.
        kind: of the task.
        tokens: modality -> vocabulary size, of modalities that are word numbers.
        width: of each view.
        hidden: widths of the hidden layers of each network; empty = it is linear.
        regularization: of the covariances.
        count: so many of the largest correlations; None = all.
        batch_size: its own.
        end_to_end: the second step sends its gradient through the first, which the article does not do.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
        width: int = 50,
        hidden: Sequence[int] = (256, 256),
        regularization: float = 1e-3,
        count: int | None = None,
        batch_size: int = 512,
        end_to_end: bool = False,
    ) -> None:
        super().__init__(
            shapes,
            outputs,
            kind=kind,
            tokens=tokens,
            width=width,
            hidden=hidden,
            regularization=regularization,
            count=count,
            batch_size=batch_size,
        )
        self.end_to_end = check_boolean("end_to_end", end_to_end)

    def _inputs(self) -> dict[str, int]:
        return {**{name: self.widths[name] for name in self.needs}, "joint": 2 * self.width}

    def view(
        self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]
    ) -> tuple[Tensor, list[Pair]]:
        """The projections of the second step; two pairs."""
        vectors = self._utterances(steps, masks, present)
        audio, video = (over_rows(self.networks[m], vectors[m], present[m]) for m in ("audio", "video"))
        both = torch.cat([audio, video], 1)
        either = present["audio"] | present["video"]
        joint = over_rows(self.networks["joint"], both if self.end_to_end else both.detach(), either)
        text = over_rows(self.networks["text"], vectors["text"], present["text"])
        pairs = [Pair(audio, video, present["audio"] & present["video"]), Pair(joint, text, either & present["text"])]
        return torch.cat([joint, text], 1), pairs


def projection(inputs: int, hidden: Sequence[int], width: int) -> nn.Sequential:
    """``(B, inputs)`` to ``(B, width)``: linear layers, with a sigmoid and batch norm between, and batch norm at the end.

    The last layer has no bias, which batch norm would take out.
    """
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), nn.Sigmoid(), nn.BatchNorm1d(size, affine=False)]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width, affine=False))
