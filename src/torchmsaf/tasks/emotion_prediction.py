"""The emotions of somebody's own clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torchmsaf.data.clips import normalize
from torchmsaf.data.prepare.ravdess import Settings, prepare_clip
from torchmsaf.errors import DataError
from torchmsaf.tasks.attention import even_attention, modality_attention
from torchmsaf.tasks.emotion import NETWORKS
from torchmsaf.tasks.model_file import ModelSpec, load_model, read_spec
from torchmsaf.tasks.network import FusedNetwork


@dataclass(frozen=True)
class ClipEmotion:
    """What a model says of one clip.

    Attributes:
        clip: its file.
        emotion: the likeliest.
        probabilities: of each emotion; they sum to one.
        alone: what each modality's own network says within the fused one, as probabilities; empty for early fusion.
        attention: share of each modality at each point of MSAF; empty for other methods.
        even_attention: the shares if attention were even: those of the modalities in the blocks.
        box: where the face is from: ``landmarks``, or ``detector``, which frames it otherwise than in training.
        audio_seconds: of sound there were; zeros follow up to what the model hears.
        made_up_model: the model was trained on made-up clips, so that what it says means nothing.
    """

    clip: str
    emotion: str
    probabilities: dict[str, float]
    alone: dict[str, dict[str, float]]
    attention: list[dict[str, float]]
    even_attention: list[dict[str, float]]
    box: str
    audio_seconds: float
    made_up_model: bool


class EmotionModel:
    """A trained network with all that is needed to feed it files.

    Args:
        network: of video and audio, or of one of them.
        spec: how it is built, and how its inputs are prepared.

    Raises:
        DataError: the model is of another task, or says too little.
    """

    def __init__(self, network: FusedNetwork, spec: ModelSpec) -> None:
        if spec.about.get("task") != "emotion":
            raise DataError(f"the model's task is {spec.about.get('task')!r}; 'emotion' is needed")
        parameters = spec.about["parameters"]
        if unknown := [name for name in spec.networks if name not in NETWORKS]:
            raise DataError(f"the model is of modality {unknown[0]!r}; {' and '.join(NETWORKS)} are those of emotions")
        self.network, self.spec = network.eval(), spec
        self.classes: tuple[str, ...] = tuple(spec.about["classes"])
        if len(self.classes) != spec.outputs:
            raise DataError(f"the model has {spec.outputs} outputs and names {len(self.classes)} classes")
        self.settings = Settings(**{name: parameters[name] for name in _SETTINGS})
        own = self.settings.parameters()
        if differing := sorted(name for name in own if parameters.get(name, own[name]) != own[name]):
            name = differing[0]
            raise DataError(
                f"the model's clips were prepared with {name} = {parameters[name]}, and this torchmsaf has {own[name]}"
            )
        self.bgr = parameters.get("channel_order") == "bgr"

    @classmethod
    def load(cls, path: str | Path) -> EmotionModel:
        """Read a model's file.

        Raises:
            DataError: it is no model of emotions that torchmsaf wrote.
        """
        if not str(path).endswith(".safetensors"):
            raise DataError(
                f"{path} is no .safetensors file; torchmsaf convert makes one of weights that others released"
            )
        about = read_spec(path).about
        if about.get("task") is None and "released" in about:
            raise DataError(
                f"{path} holds {about['released']} weights: a start for training (--pretrained), no model yet"
            )
        network, spec = load_model(path)
        if not isinstance(network, FusedNetwork):
            raise DataError(f"{path} holds {spec.method}, which is no model of clips")
        try:
            return cls(network, spec)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} does not say how its inputs are prepared: {error} is missing") from error

    def predict(self, clip: str | Path, landmarks: str | Path | None = None) -> ClipEmotion:
        """The emotion of one clip with pictures and sound.

        Args:
            clip: a video file.
            landmarks: OpenFace's csv of it; None = the face is looked for (extra ``faces``).

        Raises:
            DataError: a file cannot be used; the message names it.
        """
        path = Path(clip)
        if not path.is_file():
            raise DataError(
                f"{path}: {'a video file is needed, not a folder' if path.is_dir() else 'there is no such file'}"
            )
        arrays, facts = prepare_clip(path, path.name, None if landmarks is None else Path(landmarks), self.settings)
        inputs = [self._input(name, torch.from_numpy(arrays[name])) for name in self.spec.networks]
        with torch.no_grad():
            fused = self.network(inputs)
        names = tuple(self.spec.networks)
        probabilities = self._named(fused.prediction)
        return ClipEmotion(
            clip=str(clip),
            emotion=max(probabilities, key=probabilities.__getitem__),
            probabilities=probabilities,
            alone={name: self._named(part) for name, part in zip(names, fused.parts, strict=False)},
            attention=[_shares(names, share[0]) for share in modality_attention(self.network, inputs)],
            even_attention=[_shares(names, share) for share in even_attention(self.network)],
            box="detector" if landmarks is None else "landmarks",
            audio_seconds=float(facts["audio_seconds"]),
            made_up_model=bool(self.spec.about.get("made_up")),
        )

    def _input(self, name: str, x: Tensor) -> Tensor:
        # such networks had the mean of red taken off blue: the order changes first
        return normalize(x[None].flip(1) if name == "video" and self.bgr else x[None])

    def _named(self, logits: Tensor) -> dict[str, float]:
        return dict(zip(self.classes, logits[0].softmax(0).tolist(), strict=True))


_SETTINGS = ("frames", "size", "sampling", "pad_mode", "landmark_slack")


def match_landmarks(clips: Sequence[Path], given: Sequence[Path]) -> list[Path | None]:
    """The landmark file of each clip: the csv of its name among those given, in folders given, or beside it.

    A single file given is that of a single clip, whatever it is called.

    Raises:
        DataError: what was given is not there, or is a file that belongs to no clip.
    """
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder of landmarks")
        if path.is_file() and not len(clips) == len(given) == 1 and path.stem not in {clip.stem for clip in clips}:
            raise DataError(f"{path}: no clip has its name, so it is not clear whose landmarks they are")
    if len(clips) == len(given) == 1 and given[0].is_file():
        return [given[0]]
    return [_landmarks_of(clip, given) for clip in clips]


def _landmarks_of(clip: Path, given: Sequence[Path]) -> Path | None:
    places = [path / f"{clip.stem}.csv" if path.is_dir() else path for path in given]
    places.append(clip.with_suffix(".csv"))
    return next((path for path in places if path.stem == clip.stem and path.is_file()), None)


def _shares(names: Sequence[str], share: Tensor) -> dict[str, float]:
    return dict(zip(names, share.tolist(), strict=True))
