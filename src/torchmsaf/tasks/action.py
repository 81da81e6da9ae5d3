"""Action recognition on NTU RGB+D: the MSAF paper's third application (Table 3).

Frames are 3 x 32 x 224 x 224 for I3D, or 3 x 8 x 224 x 224 for an inflated ResNet-50, skeletons 3 x 32 x 25 of each person
for HCN. Fusion stands after ``mixed_5b`` (or ``layer3``) and ``conv5``, where each person is an input of its own, and after
``mixed_5c`` (or ``layer4``) and ``fc7``; lambda is 0.5, and MSAF's C is 64 and 256 there, its default. Logits are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchmsaf.backbones.hcn import HCN
from torchmsaf.backbones.i3d import I3D
from torchmsaf.backbones.inflated_resnet import InflatedResNet50
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import DataError, FusionInputError

NETWORKS = {"rgb": f"{__name__}.rgb_network", "skeleton": f"{__name__}.skeleton_network"}
# the paper's options of MSAF, where its own defaults differ
MSAF: Mapping[str, Any] = {"min_attention": 0.5, "reduction": 4}
STEPS = 32
# stages of the paper's Table 5, alone and together
PLACEMENTS = (
    ("early",),
    ("intermediate",),
    ("late",),
    ("early", "intermediate"),
    ("early", "late"),
    ("intermediate", "late"),
    ("early", "intermediate", "late"),
)


@dataclass(frozen=True)
class Preset:
    """Sizes that fit a machine.

    Attributes:
        stored: size of the prepared frames, in pixels.
        size: of what the RGB network gets of them.
        frames: that it gets, by its kind.
        rgb: further arguments of the RGB network, by its kind.
        skeleton: further arguments of the skeleton network.
    """

    stored: int
    size: int
    frames: Mapping[str, int]
    rgb: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skeleton: Mapping[str, Any] = field(default_factory=dict)


PRESETS: Mapping[str, Preset] = {
    # as in the paper
    "full": Preset(256, 224, {"i3d": 32, "resnet50": 8}),
    # for a laptop: 8 frames of 56 x 56, an eighth of I3D's channels or one block a layer of ResNet, a quarter of HCN's
    "small": Preset(
        64,
        56,
        {"i3d": 8, "resnet50": 8},
        {"i3d": {"width": 0.125, "momentum": 0.1}, "resnet50": {"blocks": [1, 1, 1, 1], "width": 8}},
        {"widths": [16, 16, 16, 16, 32, 64, 128]},
    ),
}
KINDS = tuple(PRESETS["full"].frames)


def preset_of(parameters: Mapping[str, Any]) -> str:
    """The name of the preset that clips were prepared for.

    Args:
        parameters: of the preparation, with ``size``, and ``modalities``: skeletons alone fit every preset.

    Raises:
        DataError: they are of no preset.
    """
    if "rgb" not in parameters.get("modalities", ("rgb",)):
        return "full"
    for name, preset in PRESETS.items():
        if parameters.get("size") == preset.stored:
            return name
    size = parameters.get("size")
    raise DataError(
        f"the frames are {size} x {size}, and presets are for {' or '.join(str(one.stored) for one in PRESETS.values())}: "
        "prepare with such a --size"
    )


def network_options(preset: str, rgb: str, *, checkpointing: bool = False) -> dict[str, dict[str, Any]]:
    """The options of both networks.

    Args:
        preset: one of ``PRESETS``.
        rgb: kind of the RGB network, one of ``KINDS``.
        checkpointing: of the RGB network: less memory, more time.

    Raises:
        DataError: no such preset or kind.
    """
    if preset not in PRESETS:
        raise DataError(f"there is no preset {preset!r}: choose {' or '.join(PRESETS)}")
    if rgb not in KINDS:
        raise DataError(f"there is no RGB network {rgb!r}: choose {' or '.join(KINDS)}")
    sizes = PRESETS[preset]
    more = {"checkpointing": True} if checkpointing else {}
    return {"rgb": {"kind": rgb, **sizes.rgb.get(rgb, {}), **more}, "skeleton": dict(sizes.skeleton)}


def rgb_network(shape: Sequence[int], outputs: int, *, kind: str = "i3d", **options: Any) -> StagedNetwork:
    """The network of the frames ``(3, T, H, W)``: :class:`I3D`, or with ``kind="resnet50"`` :class:`InflatedResNet50`."""
    if len(shape) != 4 or shape[0] != 3:
        raise FusionInputError(f"expected clips (3, T, H, W), got {tuple(shape)}")
    if kind not in KINDS:
        raise FusionInputError(f"kind is {kind!r}; {' or '.join(map(repr, KINDS))} is needed")
    return I3D(outputs, **options) if kind == "i3d" else InflatedResNet50(outputs, **options)


def skeleton_network(shape: Sequence[int], outputs: int, **options: Any) -> HCN:
    """The network of the skeletons ``(C, T, V, S)``: :class:`HCN` for any number of joints and persons."""
    if len(shape) != 4:
        raise FusionInputError(f"expected skeletons (C, T, V, persons), got {tuple(shape)}")
    channels, steps, joints, persons = shape
    return HCN(outputs, channels=channels, steps=steps, joints=joints, persons=persons, **options)
