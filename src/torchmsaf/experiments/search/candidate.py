"""Train one architecture for a few epochs, and see how accurate it is."""

# n samples

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from torchmsaf.errors import DataError
from torchmsaf.experiments.search.space import Architecture, SearchSettings
from torchmsaf.fusion.mfas import MFAS, write_architecture

# what a layer can be shared by: its number, the width of what it reads, the activation
Key = tuple[int, int, int]


@dataclass(frozen=True)
class FeaturePart:
    """Pooled vectors of a part of the samples, by networks that stay as they are.

    Attributes:
        features: of each modality, float32 ``(n, C)`` by the name of the place, from the shallowest to the deepest.
        target: ``(n,)`` class indices.
    """

    features: Sequence[Mapping[str, Tensor]]
    target: Tensor

    def check(self, what: str, classes: int) -> None:
        """Whether the vectors are of the same samples, and the classes are there.

        Raises:
            DataError: they are not; the message begins with ``what``.
        """
        if self.target.dim() != 1 or self.target.dtype != torch.int64 or len(self.target) == 0:
            raise DataError(f"{what}: expected class indices (n,), int64, one or more, got {tuple(self.target.shape)}")
        if int(self.target.min()) < 0 or int(self.target.max()) >= classes:
            raise DataError(f"{what}: class indices go from 0 to {classes - 1}, got {int(self.target.max())}")
        for m, own in enumerate(self.features):
            for name, x in own.items():
                if x.dim() != 2 or len(x) != len(self.target) or x.dtype != torch.float32:
                    raise DataError(
                        f"{what}: {name!r} of modality {m}: expected float32 ({len(self.target)}, C), got {x.dtype} "
                        f"{tuple(x.shape)}; maps are averaged over their positions first"
                    )
                if not bool(x.isfinite().all()):
                    raise DataError(f"{what}: {name!r} of modality {m} holds values that are not finite")


@dataclass
class Evaluator:
    """Trains architectures on one part and measures them on another.

    Attributes:
        train: what they are trained on.
        dev: what they are measured on.
        classes: K.
        settings: how.
        shared: layers as they were left, where they are shared.
    """

    train: FeaturePart
    dev: FeaturePart
    classes: int
    settings: SearchSettings
    shared: dict[Key, dict[str, Tensor]] = field(default_factory=dict)

    def accuracy(self, architecture: Architecture) -> float:
        """Accuracy in [0, 1] of the fused prediction alone, on ``dev``, after the last epoch.

        What is drawn depends on the seed and the architecture, and not on what was trained before.
        """
        device = self.train.target.device
        seed = zlib.crc32(f"{self.settings.seed} {write_architecture(architecture)}".encode())
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            model = self._build(architecture).to(device)
            self._train(model)
        with torch.no_grad():
            right = model.eval()(self.dev.features).argmax(1) == self.dev.target
        return float(right.double().mean())

    def _build(self, architecture: Architecture) -> MFAS:
        taps = [{name: x.shape[1] for name, x in own.items()} for own in self.train.features]
        chosen = self.settings
        model = MFAS(
            taps,
            self.classes,
            architecture=architecture,
            inner=chosen.inner,
            batch_norm=chosen.batch_norm,
            dropout=chosen.dropout,
        )
        if chosen.share:
            for key, layer in _layers(model):
                if key in self.shared:
                    layer.load_state_dict(self.shared[key])
        return model

    def _train(self, model: MFAS) -> None:
        chosen, count = self.settings, len(self.train.target)
        optimizer = torch.optim.Adam(model.parameters(), lr=chosen.learning_rate)
        least = min(count, 2 if chosen.batch_norm else 1)  # a smaller last batch is left out
        starts = [start for start in range(0, count, chosen.batch_size) if count - start >= least]
        for epoch in range(chosen.epochs):
            order = torch.randperm(count).to(self.train.target.device)
            for number, start in enumerate(starts):
                rows = order[start : start + chosen.batch_size]
                for group in optimizer.param_groups:
                    group["lr"] = chosen.rate(epoch + number / len(starts))
                batch = [{name: own[name][rows] for name in read} for own, read in self._read(model)]
                loss = nn.functional.cross_entropy(model(batch), self.train.target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if chosen.share:
            for key, layer in _layers(model):
                self.shared[key] = {name: value.detach().clone() for name, value in layer.state_dict().items()}

    def _read(self, model: MFAS) -> list[tuple[Mapping[str, Tensor], set[str]]]:
        """The vectors of each modality, with the names of those that the architecture reads."""
        names = [set(read) for read in zip(*model.places, strict=True)]
        return list(zip(self.train.features, names, strict=True))


def _layers(model: MFAS) -> list[tuple[Key, nn.Module]]:
    each = enumerate(zip(model.architecture, model.layers, model.norms, strict=True))
    return [
        ((number, cast(nn.Linear, layer).in_features, numbers[-1]), nn.ModuleList([layer, norm]))
        for number, (numbers, layer, norm) in each
    ]
