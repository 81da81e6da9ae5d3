"""The contract of published models of several modalities, which have encoders, a fusion and losses of their own."""

# B batch, M modalities, C channels of one modality, T steps, K outputs (1 in regression)

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.backbones.word_embedding import WordEmbedding
from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion, TrainingRule, check_flags
from torchmsaf.ops.checks import check_integer
from torchmsaf.ops.steps import check_lengths, step_mask
from torchmsaf.tasks.fused import Fused

Kind = Literal["classification", "regression", "sentiment"]
WORD_WIDTH = 300  # of a learned word vector, as of GloVe, which the published models take


Inputs: TypeAlias = tuple[Sequence[Tensor], Tensor | None, Sequence[Tensor | None] | None]


class System(nn.Module):
    """A published model of several modalities: encoders, fusion and losses of its own.

    A subclass says in :meth:`run` what it does with sequences of which padding and absent modalities are already zeros.

    Args:
        shapes: modality -> ``(C,)`` of a vector a sample or ``(C, T)`` of a sequence, in declared order; of a system that
            overrides ``forward``, whatever it takes.
        outputs: K.
        kind: of the task; the target of ``"sentiment"`` is a value in [-3, 3].
        tokens: modality -> vocabulary size, of modalities that are word numbers ``(1, T)``; each gets learned vectors.

    Attributes:
        needs: the modalities it is made of, by name; empty = any two or more.
        others_pass: other modalities may be there too, and are not read.
        ranks: axes of one sample of those that it needs.
        batch_size: its own; None = the recipe's.
        least_batch: a smaller last batch is left out in training.
        learning_rate: its own; None = the recipe's.
        clip_value: gradients are clipped to [-v, v], entry by entry; None = they are not.
        closed_form: :meth:`refit` does something.
        absolute_error: values are learned by their absolute error, and not by the task's criterion.
        modalities: names in declared order.
        widths: modality -> channels of the steps that :meth:`run` gets.
        expected: what ``ranks`` are, in words.

    Raises:
        FusionInputError: a modality that it needs is not there, or one that it cannot take is; a shape that is neither a
            vector nor a sequence, or not what it takes.
    """

    needs: ClassVar[tuple[str, ...]] = ("text", "audio", "video")
    others_pass: ClassVar[bool] = False
    ranks: ClassVar[tuple[int, ...]] = (1, 2)
    expected: ClassVar[str] = "a vector (C,) or a sequence (C, T)"
    batch_size: int | None = None
    least_batch: int = 2
    learning_rate: float | None = None
    clip_value: float | None = None
    closed_form: bool = False
    absolute_error: bool = False
    rule: TrainingRule | None = None

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        vocabularies = dict(tokens or {})
        self.modalities = _check_shapes(shapes, type(self), vocabularies)
        if kind not in ("classification", "regression", "sentiment"):
            raise FusionInputError(f"kind is 'classification', 'regression' or 'sentiment', got {kind!r}")
        self.kind: Kind = kind
        self.outputs = check_integer("outputs", outputs, advice="the number of classes, or 1 in regression")
        self.channels = {name: int(shape[0]) for name, shape in shapes.items()}
        self.widths = {name: WORD_WIDTH if name in vocabularies else c for name, c in self.channels.items()}
        self.worded = tuple(name for name in self.modalities if name in vocabularies)
        self.words = nn.ModuleList(WordEmbedding(vocabularies[name], WORD_WIDTH) for name in self.worded)

    @classmethod
    def fits(cls, modalities: Sequence[str]) -> bool:
        """Whether it can be built for modalities of these names."""
        if not cls.needs:
            return len(modalities) > 1
        return set(cls.needs) <= set(modalities) if cls.others_pass else set(cls.needs) == set(modalities)

    @property
    def regression(self) -> bool:
        """Whether predictions are values."""
        return self.kind != "classification"

    def forward(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> Fused:
        """Predict.

        Args:
            inputs: ``(B, C)`` or ``(B, C, T)`` of each modality, in declared order. What is there of an absent modality,
                and behind the end of a sequence, is not read.
            present: ``(B, M)`` booleans; None = all.
            lengths: real steps ``(B,)`` of each modality; None = it has no padding. A sequence of length 0 is absent.
        """
        return self.run(*self.read(inputs, present, lengths))

    def read(
        self, inputs: Sequence[Tensor], present: Tensor | None, lengths: Sequence[Tensor | None] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """What :meth:`run` takes, from what :meth:`forward` takes; words are vectors, and a vector is one step."""
        count = len(self.modalities)
        if not isinstance(inputs, list | tuple) or len(inputs) != count:
            found = len(inputs) if isinstance(inputs, list | tuple) else type(inputs).__name__
            raise FusionInputError(f"expected the inputs of {', '.join(self.modalities)}, in that order, got {found}")
        for name, x in zip(self.modalities, inputs, strict=True):
            _check_input(name, x, self.channels[name], inputs[0])
        ends = [None] * count if lengths is None else list(lengths)
        if len(ends) != count:
            raise FusionInputError(f"lengths: expected one entry a modality, {count} in all, got {len(ends)}")
        if present is None:
            present = torch.ones(inputs[0].shape[0], count, dtype=torch.bool, device=inputs[0].device)
        check_flags(present, inputs[0].shape[0], count)
        steps, masks, here = {}, {}, {}
        words = dict(zip(self.worded, self.words, strict=True))
        for m, (name, x, end) in enumerate(zip(self.modalities, inputs, ends, strict=True)):
            x = x.unsqueeze(2) if x.dim() == 2 else x  # (B, C, T)
            mask = present[:, m, None].expand(-1, x.shape[2])
            if end is not None:
                check_lengths(end, x.shape[0], x.shape[2], repr(name))
                mask = mask & step_mask(end.to(x.device), x.shape[2])
            real = mask.unsqueeze(1)
            x = torch.where(real, x, 0)
            if name in words:
                x = torch.where(real, words[name](x), 0)
            steps[name], masks[name], here[name] = x.transpose(1, 2), mask, mask[:, 0]
        return steps, masks, here

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """Predict from sequences by modality.

        Args:
            steps: ``(B, T, width)``, zeros behind the end and where the modality is absent.
            masks: ``(B, T)`` booleans, True = a real step, which stand before all others; all False where absent.
            present: ``(B,)`` booleans.
        """
        raise NotImplementedError

    def training_loss(self, fused: Fused, target: Tensor, present: Tensor | None, criterion: Criterion) -> Tensor:
        """The loss of one batch: the task's, and the model's own if it has one.

        Args:
            fused: what the model said of the batch, in training mode.
            target: ``(B,)`` class indices, or values on the scale of the prediction.
            present: ``(B, M)`` booleans; None = all.
            criterion: the task's loss of ``(B, K)`` and target: cross-entropy, or squared error of the first output.
        """
        if self.absolute_error and self.regression:
            loss = F.l1_loss(fused.prediction[:, 0], target)
        else:
            loss = criterion(fused.prediction, target)
        return loss if fused.own_loss is None else loss + fused.own_loss

    def embed(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """What :meth:`refit` makes predictions of, ``(B, E)``, in evaluation mode; of closed-form systems alone."""
        raise NotImplementedError

    def calibrate(self, batches: Iterable[Inputs]) -> None:
        """Prepare for :meth:`embed` on all training samples, of closed-form systems alone. The default: nothing.

        Args:
            batches: inputs, ``present`` and ``lengths`` as :meth:`forward` takes them, piece by piece.
        """

    def refit(self, embeddings: Tensor, target: Tensor) -> None:
        """Solve for the last layer on all training samples, of closed-form systems alone. The default: nothing.

        Args:
            embeddings: ``(n, E)``.
            target: ``(n,)``.
        """

    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that a fusion adds to networks: none, as encoders and fusion are one model here."""
        yield from ()


def _check_shapes(
    shapes: Mapping[str, Sequence[int]], system: type[System], tokens: Mapping[str, int]
) -> tuple[str, ...]:
    """The names of modalities that a system can take."""
    names = tuple(shapes)
    said = ", ".join(map(repr, names)) or "none"
    if not system.fits(names):
        if not system.needs:
            raise FusionInputError(f"it fuses two modalities or more, got {said}")
        needs = ", ".join(map(repr, system.needs))
        one = "modalities" if len(system.needs) > 1 else "modality"
        these = "these names" if len(system.needs) > 1 else "this name"
        raise FusionInputError(f"it is made of the {one} {needs}, by {these}, got {said}")
    for name, shape in shapes.items():
        if (name in system.needs or not system.others_pass) and (len(shape) not in system.ranks or min(shape) < 1):
            raise FusionInputError(f"modality {name!r}: expected {system.expected} a sample, got {tuple(shape)}")
        if name in tokens and (len(shape) != 2 or shape[0] != 1):
            raise FusionInputError(f"modality {name!r}: word numbers are (1, T) a sample, got {tuple(shape)}")
    if strange := [name for name in tokens if name not in names]:
        raise FusionInputError(f"tokens: {', '.join(map(repr, strange))} is none of the modalities {said}")
    return names


def _check_input(name: str, x: object, channels: int, first: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise FusionInputError(f"modality {name!r}: expected a tensor, got {type(x).__name__}")
    batch = len(first) if first.dim() else 1
    if x.dim() not in (2, 3) or x.shape[1] != channels or x.shape[0] != batch or 0 in x.shape[2:]:
        raise FusionInputError(
            f"modality {name!r}: expected ({batch}, {channels}) or ({batch}, {channels}, T), got {tuple(x.shape)}; "
            "channels come before steps"
        )
