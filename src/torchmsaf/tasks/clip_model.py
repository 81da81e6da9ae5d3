"""A trained model of clips, as a file holds it, and what it says of one clip: what all tasks of clips share."""

# M modalities of the model

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from torchmsaf.errors import DataError
from torchmsaf.tasks.attention import even_attention, modality_attention
from torchmsaf.tasks.model_file import ModelSpec, load_model, read_spec
from torchmsaf.tasks.models import Model
from torchmsaf.tasks.network import FusedNetwork


@dataclass(frozen=True)
class Said:
    """What a model says of one clip.

    Attributes:
        probabilities: of each class; they sum to one.
        alone: what each modality's own network says within the fused one, as probabilities; empty where it has no
            prediction of its own, as in early fusion, and where there is one network alone.
        attention: share of each modality at each point of MSAF; empty for other methods.
        even_attention: the shares if attention were even: those of the modalities in the blocks.
    """

    probabilities: dict[str, float]
    alone: dict[str, dict[str, float]]
    attention: list[dict[str, float]]
    even_attention: list[dict[str, float]]

    @property
    def likeliest(self) -> str:
        """The class with the largest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class ClipModel:
    """A trained network with all that is needed to feed it clips.

    Args:
        network: of modalities of the task, or of one of them; it is put into evaluation mode.
        spec: how it is built, and how its inputs are prepared.

    Attributes:
        task: what ``spec`` has to say that it is of.
        modalities: that the task knows.
        classes: of the outputs, in order.
        made_up: it was trained on made-up clips, so that what it says means nothing.
        notes: sentences that whoever uses converted weights has to know.

    Raises:
        DataError: the model is of another task, or says too little.
    """

    task: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]

    def __init__(self, network: Model, spec: ModelSpec) -> None:
        if spec.about.get("task") != self.task:
            raise DataError(f"the model's task is {spec.about.get('task')!r}; {self.task!r} is needed")
        if unknown := [name for name in spec.networks if name not in self.modalities]:
            raise DataError(
                f"the model is of modality {unknown[0]!r}; {' and '.join(self.modalities)} are those of {self.task}s"
            )
        self.network, self.spec = network.eval(), spec
        classes = spec.about["classes"]
        if not isinstance(classes, list | tuple) or len({str(one) for one in classes}) != len(classes):
            raise DataError(f"the model's classes are {classes!r}; a list of different names is needed")
        if not isinstance(spec.about.get("parameters", {}), dict):
            raise DataError("what the model says of the preparation of its clips is no list of names and values")
        self.classes: tuple[str, ...] = tuple(map(str, classes))
        if len(self.classes) != spec.outputs:
            raise DataError(f"the model has {spec.outputs} outputs and names {len(self.classes)} classes")
        self.made_up = bool(spec.about.get("made_up"))
        notes = spec.about.get("notes")
        self.notes = tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model's file.

        Raises:
            DataError: it is no model of this task that torchmsaf wrote.
        """
        about = read_about(path)
        if about.get("task") is None and "released" in about:
            raise DataError(
                f"{path} holds {about['released']} weights: a start for training (--pretrained), no model yet"
            )
        network, spec = load_model(path)
        try:
            return cls(network, spec)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except KeyError as error:
            raise DataError(f"{path} does not say how its inputs are prepared: {error} is missing") from error
        except TypeError as error:
            raise DataError(f"{path}: what it says of itself cannot be used: {error}") from error

    def check_settings(self, own: Mapping[str, Any]) -> None:
        """Raise DataError where clips would be prepared otherwise than those of training were.

        Args:
            own: how this torchmsaf prepares them.
        """
        theirs = self.spec.about["parameters"]
        for name in sorted(own):
            if name != "modalities" and theirs.get(name, own[name]) != own[name]:
                raise DataError(
                    f"the model's clips were prepared with {name} = {theirs[name]}, and this torchmsaf has {own[name]}"
                )

    @torch.no_grad()
    def say(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> Said:
        """What the network says of one clip.

        Args:
            inputs: ``(1, *shape)`` of each modality, in the model's order.
            present: ``(1, M)`` booleans; None = all.
            lengths: as in :meth:`~torchmsaf.tasks.network.FusedNetwork.forward`.
        """
        fused = self.network(inputs, present, lengths)
        names = tuple(self.spec.networks)
        there = [True] * len(names) if present is None else present[0].tolist()
        attention: list[Tensor] = []
        even: list[list[float]] = []
        if isinstance(self.network, FusedNetwork):
            attention = [share[0] for share in modality_attention(self.network, inputs, present, lengths)]
            even = [share.tolist() for share in even_attention(self.network)]
        return Said(
            probabilities=self._named(fused.prediction),
            alone={
                name: self._named(part)
                for name, part, here in zip(names, fused.parts, there, strict=False)
                if here and self.spec.method is not None
            },
            attention=[dict(zip(names, share.tolist(), strict=True)) for share in attention],
            even_attention=[dict(zip(names, share, strict=True)) for share in even],
        )

    def _named(self, logits: Tensor) -> dict[str, float]:
        return dict(zip(self.classes, logits[0].softmax(0).tolist(), strict=True))


def read_about(path: str | Path) -> Mapping[str, Any]:
    """What a model's file says of its task.

    Raises:
        DataError: it is no file that torchmsaf wrote.
    """
    if not str(path).endswith(".safetensors"):
        raise DataError(f"{path} is no .safetensors file; torchmsaf convert makes one of weights that others released")
    return read_spec(path).about
