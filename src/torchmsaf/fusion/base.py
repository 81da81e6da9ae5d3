"""The contracts of the three stages of fusion.

- *intermediate*: ``fusion(maps, masks=None, present=None) -> maps``, built from the channel counts it will meet.
- *early*: ``fusion(vectors, present=None) -> (B, K)``, built from the widths of the feature vectors and K.
- *late*: ``fusion(logits, present=None) -> (B, K)``, built from the number of modalities and the kind of task.

A tapped method is an intermediate one that reads the networks at several depths at once and changes nothing in them:
``fusion(features, present=None) -> (B, K)``, built from the widths of what can be read, by name, and K.

A method that trains by a rule of its own overrides ``training_loss``, one that chooses something on validation ``fit``;
nobody else asks which method it is.
"""

# B batch, M modalities, K classes (1 in regression)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_boolean, check_channels, check_integer, check_vectors

Criterion = Callable[[Tensor, Tensor], Tensor]


class TrainingRule:
    """How a fused network is trained. The default is the task's loss on the fused prediction.

    A method that stands at several points of a network is asked once, at the first.

    Attributes:
        fits_on_validation: whether :meth:`fit` does something.
    """

    fits_on_validation = False

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """The loss of one batch, a mean over its samples.

        Args:
            prediction: the fused prediction, ``(B, K)``.
            parts: each network's own prediction, ``(B, K)`` a modality; empty where the networks make none.
            target: ``(B,)`` class indices, or values in regression.
            present: ``(B, M)`` booleans, or None = all.
            criterion: the task's loss of ``(B, K)`` and target: cross-entropy, or squared error.
        """
        return criterion(prediction, target)

    def fit(self, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion) -> None:
        """Choose what the method chooses on validation samples, once the networks are trained. The default: nothing.

        Args:
            parts: each network's own prediction of all validation samples, ``(n, K)`` a modality.
            target: ``(n,)``.
            present: ``(n, M)`` booleans, or None = all.
            criterion: the task's loss.
        """


class BranchFusion(TrainingRule, nn.Module):
    """An intermediate method with a branch of its own beside the networks.

    The branch is a vector a sample. It grows from point to point, and the fused prediction is made of its last state, by
    the module that ``head`` makes.

    Attributes:
        branch_width: width of the branch, the same at all points of a network.
    """

    branch_width: int

    def grow(
        self,
        features: Sequence[Tensor],
        branch: Tensor | None,
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Maps ``(B, C_m, *positions)`` and the branch ``(B, branch_width)``, None at the first point, to both again."""
        raise NotImplementedError

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """Maps alone, as at a first point: what the branch came to is left out."""
        return self.grow(features, None, masks=masks, present=present)[0]

    def head(self, out_features: int) -> nn.Module:
        """A new module from the last branch, ``(B, branch_width)``, to the fused prediction, ``(B, K)``."""
        return nn.Linear(self.branch_width, out_features)


class EarlyFusion(TrainingRule, nn.Module):
    """Feature vectors of all modalities to one prediction.

    Args:
        widths: width of each modality's feature vector.
        out_features: K.
    """

    def __init__(self, widths: Sequence[int], out_features: int) -> None:
        super().__init__()
        self.widths = check_channels(widths, "widths")
        self.out_features = check_integer(
            "out_features", out_features, advice="the number of classes, or 1 in regression"
        )

    def read(self, vectors: Sequence[Tensor], present: Tensor | None) -> list[Tensor]:
        """Check the vectors, and put zeros where a modality is absent, whatever was there."""
        values = check_vectors(vectors, self.widths, "features", next(self.parameters(), None))
        if present is None:
            return values
        check_flags(present, values[0].shape[0], len(values), values[0].device)
        return [torch.where(present[:, m, None], vector, 0) for m, vector in enumerate(values)]


class TappedFusion(TrainingRule, nn.Module):
    """Pooled vectors of several depths of all networks to one prediction.

    Args:
        taps: of each modality, the widths of the vectors that can be read, by the name of the place, from the shallowest
            to the deepest.
        out_features: K.

    Attributes:
        adds_parts: the prediction of the whole network is the sum of this one and of the networks' own.
    """

    adds_parts = False

    def __init__(self, taps: Sequence[Mapping[str, int]], out_features: int) -> None:
        super().__init__()
        self.taps = _check_taps(taps)
        self.out_features = check_integer("out_features", out_features, advice="the number of classes")

    def forward(self, features: Sequence[Mapping[str, Tensor]], *, present: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            features: of each modality, vectors ``(B, C)`` by the names of ``taps``. What is there of an absent modality is
                not read.
            present: ``(B, M)`` booleans; None = all.

        Returns:
            ``(B, K)``, without the networks' own predictions.
        """
        raise NotImplementedError

    def read(
        self, names: Sequence[str], features: Sequence[Mapping[str, Tensor]], present: Tensor | None
    ) -> list[Tensor]:
        """The vectors of one place a modality, checked, with zeros where a modality is absent."""
        if not isinstance(features, list | tuple) or len(features) != len(self.taps):
            got = len(features) if isinstance(features, list | tuple) else type(features).__name__
            raise FusionInputError(f"features is a list of {len(self.taps)}, vectors by name a modality, got {got}")
        vectors = []
        for m, (name, own) in enumerate(zip(names, features, strict=True)):
            if not isinstance(own, Mapping) or name not in own:
                got = ", ".join(map(repr, own)) if isinstance(own, Mapping) else type(own).__name__
                raise FusionInputError(f"modality {m}: expected vectors by name, {name!r} among them, got {got}")
            vectors.append(own[name])
        widths = [own[name] for name, own in zip(names, self.taps, strict=True)]
        values = check_vectors(vectors, widths, "features", next(self.parameters(), None))
        if present is None:
            return values
        check_flags(present, values[0].shape[0], len(values), values[0].device)
        return [torch.where(present[:, m, None], vector, 0) for m, vector in enumerate(values)]


def _check_taps(taps: Sequence[Mapping[str, int]]) -> tuple[dict[str, int], ...]:
    example = '({"layer3": 1024, "layer4": 2048}, {"conv6": 256})'
    if not isinstance(taps, list | tuple) or not taps:
        raise FusionInputError(f"taps is a list of one mapping a modality, such as {example}, got {taps!r}")
    for m, own in enumerate(taps):
        if not isinstance(own, Mapping) or not own or not all(isinstance(name, str) for name in own):
            raise FusionInputError(f"taps of modality {m}: expected widths by name, as in {example}, got {own!r}")
        check_channels(list(own.values()), f"taps of modality {m}: the width of place")
    return tuple({name: int(width) for name, width in own.items()} for own in taps)


class LateFusion(TrainingRule, nn.Module):
    """Predictions of all modalities to one.

    Args:
        modalities: M.
        regression: the predictions are values and not logits.
    """

    def __init__(self, modalities: int, *, regression: bool = False) -> None:
        super().__init__()
        self.modalities = check_integer("modalities", modalities, advice="the number of networks")
        self.regression = check_boolean("regression", regression)

    def read(self, logits: Sequence[Tensor], present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Check and stack: logits ``(M, B, K)``, zeros where absent, and presence ``(M, B, 1)`` in their type."""
        first = logits[0] if isinstance(logits, list | tuple) and logits else None
        size = first.shape[1] if isinstance(first, Tensor) and first.dim() == 2 else 1
        values = check_vectors(logits, [size] * self.modalities, "predictions", None)
        stacked = torch.stack(values)
        if present is None:
            return stacked, torch.ones_like(stacked[..., :1])
        check_flags(present, stacked.shape[1], self.modalities, stacked.device)
        here = present.T.unsqueeze(2)
        return torch.where(here, stacked, 0), here.to(stacked.dtype)


def check_flags(present: Tensor, batch: int, modalities: int, device: torch.device | None = None) -> None:
    """Presence is ``(B, M)`` booleans, in the place of the features."""
    expected = (batch, modalities)
    if not isinstance(present, Tensor):
        raise FusionInputError(f"present: expected booleans (B, M) = {expected}, got {type(present).__name__}")
    if present.dtype != torch.bool or tuple(present.shape) != expected:
        raise FusionInputError(
            f"present: expected booleans (B, M) = {expected}, got {present.dtype} {tuple(present.shape)}"
        )
    if device is not None and present.device != device:
        raise FusionInputError(f"present: expected device {device}, got {present.device}")
