"""MISA, modality-invariant and -specific representations.

Hazarika, Zimmermann and Poria, "MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis",
ACM Multimedia 2020, arXiv 2005.03545.
"""

# B batch, T steps, D inputs of one modality, H width of a representation, K outputs (1 in regression)

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from torchmsaf.backbones.recurrent import run_lstm
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_boolean, check_integer, check_number, check_share
from torchmsaf.ops.steps import last_step, masked_mean
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.base import Kind, System

_ORDER = ("text", "video", "audio")  # of the six tokens, as in the authors' code
MOMENTS = 5


class MISA(System):
    """Two representations a modality, one of its own and one in a space that all share, and a transformer over the six.

    ``u_m = LN(ReLU(W_m x_m))`` of an utterance's vector x_m; private ``p_m = sigmoid(P_m u_m)``, shared
    ``c_m = sigmoid(S u_m)`` with the same S for all, reconstruction ``R_m (p_m + c_m)``. The sequence p_t, p_v, p_a, c_t,
    c_v, c_a goes through one layer of a transformer; all six side by side through a linear layer, dropout, ReLU and a
    linear layer make the prediction. Beside the task's loss the model learns by

    - similarity: :func:`central_moment_discrepancy` of the c, averaged over the three pairs;
    - difference: :func:`difference` of each p_m with its c_m and of the p with each other, summed over the six pairs;
    - reconstruction: the mean squared error to u_m, averaged over the modalities.

    x_m of text is the mean of its real steps; that of audio and video, the last states of both layers and directions of
    :class:`TwoLSTMs`. The authors fine-tune BERT's upper layers; here the text comes as features, and no BERT is trained.
    Without BERT they run text through LSTMs like audio and video; that is the default for word numbers.

    Order, widths, starts (orthogonal recurrent weights), weights of the losses, learning rate and clipping are of the
    authors' code (github.com/declare-lab/MISA). Where that differs from the article: difference is a mean over the entries
    of the matrix, of which the article takes the squared norm. The authors' weights for CMU-MOSEI in the article are
    remembered as others, which is a recollection. Left out are a discriminator of shared and private and a layer norm
    for text, which change no output: with 768, 74 and 35 features and one output there are 1,431,517 parameters, which with
    these two is the code's 1,433,233 without BERT. The authors' batches of 16 on CMU-MOSEI and 64 on CMU-MOSI and
    halving of the learning rate are left to the comparison.

    A row that lacks a modality is left out of its terms in all three losses, its two tokens are not attended to, and they
    are zeros where the six are put side by side.

    Args:
        shapes: of ``text``, ``audio`` and ``video``, see :class:`System`.
        outputs: K.
        kind: of the task.
        tokens: vocabulary sizes of word numbers.
        hidden: H.
        heads: of the transformer's layer.
        feed_forward: its inner width.
        dropout: probability between the two last layers; in the transformer's layer it is 0.1.
        difference: weight of the difference.
        similarity: weight of the similarity.
        reconstruction: weight of the reconstruction.
        text_lstms: whether text goes through LSTMs too; None = where it is word numbers.
    """

    learning_rate = 1e-4
    clip_value = 1.0

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
        hidden: int = 128,
        heads: int = 2,
        feed_forward: int = 2048,
        dropout: float = 0.5,
        difference: float = 0.3,
        similarity: float = 1.0,
        reconstruction: float = 1.0,
        text_lstms: bool | None = None,
    ) -> None:
        super().__init__(shapes, outputs, kind=kind, tokens=tokens)
        check_integer("hidden", hidden, advice="it is the width of a representation")
        check_integer("heads", heads, advice="the authors have 2")
        check_integer("feed_forward", feed_forward, advice="it is the width of the feed-forward layer")
        check_share("dropout", dropout, said="a probability in [0, 1)", below_one=True)
        if hidden % heads:
            raise FusionInputError(f"hidden={hidden} cannot be shared among heads={heads}; choose heads that divide it")
        weights = {"difference": difference, "similarity": similarity, "reconstruction": reconstruction}
        self.weights = {name: check_number(name, weight) for name, weight in weights.items()}
        words = "text" in self.worded if text_lstms is None else check_boolean("text_lstms", text_lstms)
        with_lstms = ("text", "video", "audio") if words else ("video", "audio")
        self.encoders = nn.ModuleDict({m: TwoLSTMs(self.widths[m]) for m in _ORDER if m in with_lstms})
        sizes = {m: self.widths[m] * (4 if m in with_lstms else 1) for m in _ORDER}
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(sizes[m], hidden), nn.ReLU(), nn.LayerNorm(hidden)) for m in _ORDER}
        )
        self.private = nn.ModuleDict({m: nn.Linear(hidden, hidden) for m in _ORDER})
        self.shared = nn.Linear(hidden, hidden)
        self.decode = nn.ModuleDict({m: nn.Linear(hidden, hidden) for m in _ORDER})
        # tokens come first: torch's shortcut for evaluation, which needs the batch first, is left alone
        self.transformer = nn.TransformerEncoderLayer(hidden, heads, feed_forward, 0.1, batch_first=False)
        self.head = nn.Sequential(
            nn.Linear(6 * hidden, 3 * hidden), nn.Dropout(dropout), nn.ReLU(), nn.Linear(3 * hidden, outputs)
        )

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """Predict, see :meth:`System.run`; in training the weighted sum of the three losses comes with it."""
        projected = {m: self.project[m](self._utterance(m, steps[m], masks[m])) for m in _ORDER}
        private = {m: torch.sigmoid(self.private[m](u)) for m, u in projected.items()}
        shared = {m: torch.sigmoid(self.shared(u)) for m, u in projected.items()}
        prediction: Tensor = self.head(self._attend([*private.values(), *shared.values()], present))
        if not self.training:
            return Fused(prediction)
        rebuilt = {m: self.decode[m](private[m] + shared[m]) for m in _ORDER}
        terms = {
            "difference": self._difference(private, shared, present),
            "similarity": self._similarity(shared, present),
            "reconstruction": self._reconstruction(rebuilt, projected, present),
        }
        return Fused(prediction, own_loss=torch.stack([self.weights[name] * terms[name] for name in terms]).sum())

    def _utterance(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        """One vector a sample; zeros where absent."""
        if name not in self.encoders:
            return masked_mean(x, mask)
        vector: Tensor = self.encoders[name](x, mask.sum(1))
        return vector

    def _attend(self, tokens: Sequence[Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Six tokens ``(B, H)`` to all that the transformer makes of them side by side, ``(B, 6 H)``."""
        here = torch.stack([present[m] for m in _ORDER] * 2)  # (6, B)
        sequence = torch.where(here[:, :, None], torch.stack(list(tokens)), 0)
        # softmax over nothing is NaN: a sample without any modality attends to zeros, and is blanked too
        ignored = (~here & here.any(0)).T
        outcome: Tensor = self.transformer(sequence, src_key_padding_mask=ignored)
        return torch.where(here[:, :, None], outcome, 0).transpose(0, 1).flatten(1)

    def _difference(
        self, private: Mapping[str, Tensor], shared: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> Tensor:
        own = [difference(private[m], shared[m], present[m]) for m in _ORDER]
        pairs = itertools.combinations(_ORDER, 2)
        others = [difference(private[a], private[b], present[a] & present[b]) for a, b in pairs]
        return torch.stack(own + others).sum()

    def _similarity(self, shared: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        pairs = itertools.combinations(_ORDER, 2)
        terms = [central_moment_discrepancy(shared[a], shared[b], present[a], present[b]) for a, b in pairs]
        return torch.stack(terms).mean()

    def _reconstruction(
        self, rebuilt: Mapping[str, Tensor], projected: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> Tensor:
        return torch.stack([_mean((rebuilt[m] - projected[m]).square(), present[m]).mean() for m in _ORDER]).mean()


class TwoLSTMs(nn.Module):
    """Two LSTMs of two directions, with layer norm between, to the last states of all four.

    The last state of the direction that goes back is that of the first step. The recurrent weights start orthogonal.

    Args:
        width: D, of the inputs and of each direction's states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * width)
        self.second = nn.LSTM(2 * width, width, batch_first=True, bidirectional=True)
        for name, weight in self.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(weight)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, 4 D)``: forward of both layers, then backward of both; zeros where there are no steps."""
        low = run_lstm(self.first, x, lengths)
        high = run_lstm(self.second, self.norm(low), lengths)
        ends = [(last_step(y, lengths), y[:, 0]) for y in (low, high)]
        forward = [end.chunk(2, dim=1)[0] for end, _ in ends]
        backward = [start.chunk(2, dim=1)[1] for _, start in ends]
        return torch.cat(forward + backward, dim=1)


def difference(x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """How far two representations are from orthogonal: the mean of the squared entries of ``X^T Y``.

    The columns of X and Y are centred over the batch, then each row is divided by its norm, through which no gradient goes.
    Of one row, and of none, it is 0.

    Args:
        x: ``(B, H)``.
        y: ``(B, H)``.
        rows: ``(B,)`` booleans; the others are left out.
    """
    first, second = (_unit_rows(_centre(z, rows)) for z in (x, y))
    return (first.T @ second).square().mean()


def central_moment_discrepancy(x: Tensor, y: Tensor, rows: Tensor, others: Tensor, moments: int = MOMENTS) -> Tensor:
    """How far two distributions are apart: ``|E x - E y| + sum over k = 2 .. K of |E (x - E x)^k - E (y - E y)^k|``.

    The norms are Euclidean. The gradient of a norm of exactly 0 is 0. Where either has no row, the whole is 0.

    Args:
        x: ``(B, H)``, in [0, 1] for the higher moments to mean less.
        y: ``(B, H)``.
        rows: ``(B,)`` booleans, the rows that x has.
        others: those that y has.
        moments: K.
    """
    a, b = _centre(x, rows), _centre(y, others)
    gaps = [_mean(x, rows) - _mean(y, others)]
    gaps += [_mean(a**k, rows) - _mean(b**k, others) for k in range(2, moments + 1)]
    total = torch.stack([_norm(gap) for gap in gaps]).sum()
    return torch.where(rows.any() & others.any(), total, 0)


def _mean(x: Tensor, rows: Tensor) -> Tensor:
    """The mean over some rows of ``(B, H)``: ``(H,)``; zeros over none."""
    return torch.where(rows[:, None], x, 0).sum(0) / rows.sum().clamp(min=1)


def _centre(x: Tensor, rows: Tensor) -> Tensor:
    """Less the mean over some rows; the other rows are zeros."""
    return torch.where(rows[:, None], x - _mean(x, rows), 0)


def _unit_rows(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    return x / (norms + 1e-6)


def _norm(x: Tensor) -> Tensor:
    """Euclidean, with a gradient of 0 at 0."""
    square = x.square().sum()
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
