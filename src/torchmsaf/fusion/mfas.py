"""Fusion found by architecture search, MFAS (intermediate fusion, beside the networks).

Perez-Rua, Vielzeuf, Pateux, Baccouche and Jurie, "MFAS: Multimodal Fusion Architecture Search", CVPR 2019, arXiv 1903.06496.
The search itself is :mod:`torchmsaf.experiments.search`.
"""

# B batch, M modalities, L layers, D inner width, K classes

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.base import Criterion, TappedFusion
from torchmsaf.fusion.own_losses import own_losses
from torchmsaf.ops.checks import check_boolean, check_integer, check_share, is_integer

Layer = tuple[int, ...]

# those of github.com/juanmanpr/mfas, in its order; the article has the first two
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "leaky_relu": nn.functional.leaky_relu,
}
# places of the video network, of the skeleton network, activation; the sources write the skeleton first
ARCHITECTURES: dict[str, tuple[Layer, ...]] = {
    "ntu-paper": ((0, 3, 0), (3, 1, 0), (1, 1, 1), (3, 3, 0)),
    "ntu-repository": ((1, 3, 1), (3, 1, 0), (1, 1, 1), (3, 3, 0)),
}
_TEXT = re.compile(r"\d+(-\d+)*(/\d+(-\d+)*)*")


class MFAS(TappedFusion):
    """A chain of layers beside the networks, each of which reads one depth of every network and the layer before.

    ``h_l = dropout(f_l(W_l [x_1; ...; x_M; h_(l-1)] + b_l))``, where x_m is the pooled vector of modality m at the place
    that the architecture names for layer l, and h_0 is empty. The prediction is a linear layer of h_L; that of the whole
    network is the sum of it and of the networks' own logits. The loss is the task's of the fused prediction, plus those of
    the networks' own, with weight one each.

    With the places layer2, layer3, layer4 and the feature vector of an inflated ResNet50 (512, 1024, 2048, 2048 wide) and
    conv5, conv6, flattened conv6 and fc7 of HCN (128, 256, 1024, 512), ``ntu-paper`` is the architecture that the article
    found on NTU RGB+D, and ``ntu-repository`` the one of the best weights in github.com/juanmanpr/mfas.

    Guesses: more than two modalities; the default architecture; ``weights`` start even.

    Args:
        taps: of each modality, the widths of the vectors that can be read, by name, from the shallowest; two modalities or
            more.
        out_features: K.
        architecture: L lists of M + 1 numbers, counted from 0: which of ``taps`` is read of each modality, in order, and
            which activation (0 ReLU, 1 sigmoid, 2 leaky ReLU). The same as text is ``"0-3-0/3-1-0"``; or a name in
            :data:`ARCHITECTURES`. None = as many layers as the deepest network has places, with ReLU, layer l
            on each network's place l counted from the first, or on its last if it has fewer.
        inner: D.
        batch_norm: batch norm behind each activation.
        dropout: probability in [0, 1), behind each layer.
        weights: each layer weighs the modalities by trainable scalars, for two ``sigmoid(a)`` and ``1 - sigmoid(a)``.

    Raises:
        FusionInputError: one modality; places or activations that there are not; wrong options.
    """

    adds_parts = True

    def __init__(
        self,
        taps: Sequence[Mapping[str, int]],
        out_features: int,
        *,
        architecture: str | Sequence[Sequence[int]] | None = None,
        inner: int = 256,
        batch_norm: bool = False,
        dropout: float = 0.4,
        weights: bool = False,
    ) -> None:
        super().__init__(taps, out_features)
        if len(self.taps) < 2:
            raise FusionInputError("taps: mfas needs 2 or more modalities, got 1")
        inner = check_integer("inner", inner, advice="it is the width of the layers")
        batch_norm = check_boolean("batch_norm", batch_norm)
        names = [tuple(own) for own in self.taps]
        self.architecture = read_architecture(architecture, [len(own) for own in names])
        self.places = [tuple(own[k] for own, k in zip(names, layer[:-1], strict=True)) for layer in self.architecture]
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for number, places in enumerate(self.places):
            read = sum(own[name] for own, name in zip(self.taps, places, strict=True))
            self.layers.append(nn.Linear(read + (inner if number else 0), inner))
            self.norms.append(nn.BatchNorm1d(inner) if batch_norm else nn.Identity())
        self.dropout = nn.Dropout(check_share("dropout", dropout, said="a number in [0, 1)", below_one=True))
        self.alpha: nn.Parameter | None = None
        if check_boolean("weights", weights):
            self.alpha = nn.Parameter(torch.zeros(len(self.architecture), len(names) - 1))
        self.classifier = nn.Linear(inner, self.out_features)

    def forward(self, features: Sequence[Mapping[str, Tensor]], *, present: Tensor | None = None) -> Tensor:
        """Vectors ``(B, C)`` by name a modality to logits ``(B, K)``; an absent modality is zeros.

        Raises:
            FusionInputError: vectors that are missing or of another width.
        """
        chain: list[Tensor] = []
        for number, (layer, places) in enumerate(zip(self.architecture, self.places, strict=True)):
            vectors = self.read(places, features, present)
            if self.alpha is not None:
                scores = torch.cat((self.alpha[number], self.alpha.new_zeros(1)))
                vectors = [weight * x for weight, x in zip(scores.softmax(0), vectors, strict=True)]
            activate = list(ACTIVATIONS.values())[layer[-1]]
            state = activate(self.layers[number](torch.cat([*vectors, *chain], 1)))
            chain = [self.dropout(self.norms[number](state))]
        out: Tensor = self.classifier(chain[0])
        return out

    def training_loss(
        self, prediction: Tensor, parts: Sequence[Tensor], target: Tensor, present: Tensor | None, criterion: Criterion
    ) -> Tensor:
        """The task's loss of the fused prediction, plus that of each network's own on the samples that have it.

        Args:
            prediction: of the whole network, the sum of what :meth:`forward` gave and of ``parts``, which are taken off
                again.
            parts: each network's own, ``(B, K)``; zeros where its modality is absent.
            target: ``(B,)``.
            present: ``(B, M)`` booleans, or None = all.
            criterion: the task's loss.
        """
        each = own_losses(parts, target, present, criterion)
        return criterion(prediction - torch.stack(tuple(parts)).sum(0), target) + each


def read_architecture(said: str | Sequence[Sequence[int]] | None, places: Sequence[int]) -> tuple[Layer, ...]:
    """An architecture as numbers, one layer an entry.

    Args:
        said: as :class:`MFAS` takes it.
        places: how many there are of each modality.

    Raises:
        FusionInputError: no such name; not a list of layers; a place or an activation that there is not.
    """
    if said is None:
        return tuple((*(min(depth, count - 1) for count in places), 0) for depth in range(max(places)))
    layers: object = said
    if isinstance(said, str):
        if said not in ARCHITECTURES and not _TEXT.fullmatch(said):
            raise FusionInputError(
                f"architecture: no {said!r}; there are {', '.join(ARCHITECTURES)}, or numbers such as '0-3-0/3-1-0'"
            )
        layers = ARCHITECTURES.get(said) or [[int(one) for one in layer.split("-")] for layer in said.split("/")]
    if not isinstance(layers, list | tuple) or not layers:
        raise FusionInputError(f"architecture is a list of layers, such as [[0, 3, 0], [3, 1, 0]], got {said!r}")
    for number, layer in enumerate(layers):
        if not isinstance(layer, list | tuple) or len(layer) != len(places) + 1 or not all(map(is_integer, layer)):
            raise FusionInputError(
                f"architecture: layer {number} is one place a modality and the activation, {len(places) + 1} numbers "
                f"here, got {layer!r}"
            )
        for m, (index, count) in enumerate(zip(layer, places, strict=False)):
            if not 0 <= index < count:
                raise FusionInputError(
                    f"architecture: layer {number} reads place {index} of modality {m}, which has {count}, counted from 0"
                )
        if not 0 <= layer[-1] < len(ACTIVATIONS):
            known = ", ".join(f"{k} {name}" for k, name in enumerate(ACTIVATIONS))
            raise FusionInputError(f"architecture: layer {number} has activation {layer[-1]}; there are: {known}")
    return tuple(tuple(int(index) for index in layer) for layer in layers)


def write_architecture(architecture: Sequence[Layer]) -> str:
    """As text that :class:`MFAS` reads: ``0-3-0/3-1-0``."""
    return "/".join("-".join(map(str, layer)) for layer in architecture)
