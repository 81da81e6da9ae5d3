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
from torchmsaf.tasks.clip_model import ClipModel
from torchmsaf.tasks.emotion import NETWORKS
from torchmsaf.tasks.model_file import ModelSpec
from torchmsaf.tasks.models import Model


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


class EmotionModel(ClipModel):
    """A trained network of emotions with all that is needed to feed it files.

    Args:
        network: of video and audio, or of one of them.
        spec: how it is built, and how its inputs are prepared.

    Raises:
        DataError: the model is of another task, or says too little.
    """

    task = "emotion"
    modalities = tuple(NETWORKS)

    def __init__(self, network: Model, spec: ModelSpec) -> None:
        super().__init__(network, spec)
        parameters = spec.about["parameters"]
        self.settings = Settings(**{name: parameters[name] for name in _SETTINGS})
        self.check_settings(self.settings.parameters())
        self.bgr = parameters.get("channel_order") == "bgr"

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
        said = self.say(inputs)
        return ClipEmotion(
            clip=str(clip),
            emotion=said.likeliest,
            **vars(said),
            box="detector" if landmarks is None else "landmarks",
            audio_seconds=float(facts["audio_seconds"]),
            made_up_model=self.made_up,
        )

    def _input(self, name: str, x: Tensor) -> Tensor:
        # such networks had the mean of red taken off blue: the order changes first
        return normalize(x[None].flip(1) if name == "video" and self.bgr else x[None])


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
