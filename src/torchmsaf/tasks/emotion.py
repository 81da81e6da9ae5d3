"""Emotion recognition on RAVDESS: the MSAF paper's first application (Table 1).

Video is 3 x 30 x 224 x 224 for a 3D ResNeXt-50, audio 13 x 212 coefficients for a 1D CNN. The two points of fusion are after
``layer3`` and ``relu2``, and after ``layer4`` and ``bn3``; MSAF's C is 16 and 32 there, its default. Logits are summed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchmsaf.backbones.mfcc_cnn import MFCCNet
from torchmsaf.backbones.resnext3d import ResNeXt3D
from torchmsaf.errors import DataError, FusionInputError
from torchmsaf.tasks.augment import Augmentation, CropAndFlip

NETWORKS = {"video": f"{__name__}.video_network", "audio": f"{__name__}.audio_network"}
# drawn once a clip; the audio is not changed
AUGMENT: Mapping[str, Augmentation] = {"video": CropAndFlip()}
# what the authors' code reports beside the accuracy
TOP_K = (2, 4)


@dataclass(frozen=True)
class Preset:
    """Sizes that fit a machine.

    Attributes:
        frames: of a clip.
        size: of a frame, in pixels.
        video: arguments of :class:`~torchmsaf.backbones.ResNeXt3D`.
    """

    frames: int
    size: int
    video: Mapping[str, Any] = field(default_factory=dict)


PRESETS: Mapping[str, Preset] = {
    # as in the paper
    "full": Preset(30, 224),
    # for a laptop: a quarter of the frames, at half the size, and one block a layer with a quarter of the channels:
    # 0.8 million parameters in place of 25.9, and less than a hundredth of the time
    "small": Preset(8, 112, {"blocks": [1, 1, 1, 1], "width": 16, "cardinality": 8}),
}


def preset_of(parameters: Mapping[str, Any]) -> str:
    """The name of the preset that clips were prepared for.

    Args:
        parameters: of the preparation, with ``frames`` and ``size``.

    Raises:
        DataError: they are of no preset.
    """
    sizes = (parameters.get("frames"), parameters.get("size"))
    for name, preset in PRESETS.items():
        if sizes == (preset.frames, preset.size):
            return name
    raise DataError(
        f"the clips have {sizes[0]} frames of {sizes[1]} x {sizes[1]}, which is no preset: say with --preset whose networks "
        f"to train, {' or '.join(PRESETS)}"
    )


def video_network(shape: Sequence[int], outputs: int, **options: Any) -> ResNeXt3D:
    """The network of the video: :class:`~torchmsaf.backbones.ResNeXt3D` with its options, for clips ``(3, T, H, W)``."""
    if len(shape) != 4 or shape[0] != 3:
        raise FusionInputError(f"expected clips (3, T, H, W), got {tuple(shape)}")
    return ResNeXt3D(outputs, **options)


def audio_network(shape: Sequence[int], outputs: int) -> MFCCNet:
    """The network of the audio: :class:`~torchmsaf.backbones.MFCCNet` for coefficients ``(F, T)``."""
    if len(shape) != 2:
        raise FusionInputError(f"expected coefficients (F, T), got {tuple(shape)}")
    return MFCCNet(outputs, coefficients=shape[0], steps=shape[1])
