"""Released weights as models of torchmsaf: files that training can begin with and ``torchmsaf predict`` can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from torchmsaf.backbones.released import BGR_INPUT, KINETICS_INPUT, Converted
from torchmsaf.backbones.released_actions import ACTION_BGR, I3D_INPUT, READERS
from torchmsaf.backbones.released_maps import LSTMS
from torchmsaf.data.clips import IMAGENET_MEAN, IMAGENET_STD
from torchmsaf.data.ntu import ACTIONS, FIRST_ACTIONS, FIRST_SETUPS, PUBLISHED_DEV, TRAIN_SUBJECTS_60, NtuName
from torchmsaf.data.ntu_protocols import PROTOCOLS, ntu_groups
from torchmsaf.data.prepare.actions.preparation import NtuSettings
from torchmsaf.data.prepare.ravdess import Settings
from torchmsaf.data.ravdess import ACTORS, EMOTIONS
from torchmsaf.tasks.action import NETWORKS as ACTION_NETWORKS
from torchmsaf.tasks.emotion import NETWORKS
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec
from torchmsaf.tasks.sentiment import MSAF, network_options
from torchmsaf.tasks.sentiment import NETWORKS as SENTIMENT_NETWORKS

_AUDIO = (13, 212)
# of the methods' options, what the published fused network was trained with
_MSAF = {"block_dropout": 0.2}
# what the published networks of actions were trained with; MSAF has three inputs at its first point and r = 4 still
_ACTION_MSAF = {"points": ["intermediate", "late"], "min_attention": 0.5, "reduction": 4}
_ACTION_MMTM = {"points": ["layer2+conv5.0", "layer3+conv6", "layer4+fc7"]}
_ACTION_METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ntu-fused-i3d": ("msaf", _ACTION_MSAF),
    "ntu-fused-resnet50": ("msaf", _ACTION_MSAF),
    "ntu-mmtm": ("mmtm", _ACTION_MMTM),
}
_I3D_KINDS = ("i3d", "ntu-i3d", "ntu-fused-i3d")
_RESNET_KINDS = ("ntu-rgb", "ntu-fused-resnet50", "ntu-mmtm", "torchvision-resnet50")
# kinds whose epoch the authors of MSAF chose, by four of the test subjects
_CHOSEN_BY_TEST = ("ntu-i3d", "ntu-fused-i3d", "ntu-fused-resnet50")


def model_of(converted: Converted) -> tuple[dict[str, Tensor], ModelSpec]:
    """The state dict and the description of a model with released weights.

    Kinetics weights are for values of 0 to 255 less a mean, the authors' video networks for frames in BGR order. So that
    training can begin with them, their first layer is changed to take the normalized RGB values that networks of torchmsaf
    get, and its batch norm shifted: its outputs are the same but at the border of the frames and in the first and last
    ones. I3D's weights for values of -1 to 1, and networks of actions for BGR frames, are changed alike. Fused networks are
    left as they are; ``about`` says that their frames are in BGR order, and ``torchmsaf predict`` gives them so.

    Args:
        converted: as :func:`torchmsaf.backbones.released.read_released` gives it.
    """
    if converted.kind == "mosei-fused":
        return _sentiment_model(converted)
    if converted.kind in READERS:
        return _action_model(converted)
    notes = list(converted.notes)
    if not converted.points and (told := [note for note in notes if note in (KINETICS_INPUT, BGR_INPUT)]):
        notes = [note for note in notes if note not in told]
        notes.append("Its first layer was changed to take normalized RGB frames, as training gives them.")
    about: dict[str, Any] = {"released": converted.kind, "notes": notes}
    settings = converted.settings
    networks = {name: dict(state) for name, state in converted.networks.items()}
    bgr = settings.get("channel_order") == "bgr"
    if "value_range" in settings:
        _take_normalized(networks["video"], [x / 255 for x in settings["mean"]], [x / 255 for x in settings["std"]])
    elif bgr and not converted.points:
        _take_normalized(networks["video"], IMAGENET_MEAN, IMAGENET_STD, order=(2, 1, 0))
        bgr = False
    if "value_range" not in settings:
        # the published code spreads the frames over the clip; it also cuts the face out of a frame that was squeezed to
        # 224 x 224 before, which torchmsaf does not do
        prepared = Settings(sampling="uniform", pad_mode="reflect").parameters()
        about |= {
            "task": "emotion",
            # which actors trained is not in the file, and in its own fold the test actors may have chosen the epoch
            "seen": {"RAVDESS": [str(actor) for actor in range(1, ACTORS + 1)]},
            "classes": list(EMOTIONS),
            "parameters": {**prepared, "channel_order": "bgr" if bgr else "rgb"},
        }
    frames, size = settings.get("frames", 30), settings.get("size", 224)
    options = {} if settings.get("stem_relu", True) else {"stem_relu": False}
    specs = {
        "video": NetworkSpec((3, frames, size, size), NETWORKS["video"], options),
        "audio": NetworkSpec(_AUDIO, NETWORKS["audio"]),
    }
    state = {f"networks.{name}.{key}": value for name in networks for key, value in networks[name].items()}
    state |= {f"points.{k}.{key}": value for k, point in enumerate(converted.points) for key, value in point.items()}
    fused = bool(converted.points)
    spec = ModelSpec(
        networks={name: specs[name] for name in specs if name in networks},
        method="msaf" if fused else None,
        outputs=len(EMOTIONS),
        options=_MSAF if fused else {},
        about=about,
    )
    return state, spec


def _sentiment_model(converted: Converted) -> tuple[dict[str, Tensor], ModelSpec]:
    """The authors' network for CMU-MOSEI."""
    state = {f"networks.{name}.{key}": value for name, own in converted.networks.items() for key, value in own.items()}
    state |= {f"points.0.{key}": value for key, value in converted.points[0].items()}
    state |= {f"decide.layers.0.{key}": value for key, value in converted.decide.items()}
    options = network_options({})
    about = {"released": converted.kind, "notes": list(converted.notes), "task": "sentiment", "set": "mosei"}
    spec = ModelSpec(
        networks={
            name: NetworkSpec((inputs, 50), SENTIMENT_NETWORKS[name], options[name])
            for name, (inputs, _) in LSTMS.items()
        },
        method="msaf",
        outputs=1,
        options=MSAF,
        regression=True,
        about={**about, "parameters": {"alignment": "published", "steps": 50}},
        decision="joint",
        kind="sentiment",
    )
    return state, spec


def _action_model(converted: Converted) -> tuple[dict[str, Tensor], ModelSpec]:
    """A network of actions."""
    kind, settings = converted.kind, converted.settings
    networks = {name: dict(state) for name, state in converted.networks.items()}
    method, options = _ACTION_METHODS.get(kind, (None, {}))
    notes = list(converted.notes)
    if "rgb" in networks and method is None:
        mean, std, order = IMAGENET_MEAN, IMAGENET_STD, (0, 1, 2)
        if "value_range" in settings:
            mean, std = (tuple(value / 255 for value in settings[name]) for name in ("mean", "std"))
        elif settings["channel_order"] == "bgr":
            order = (2, 1, 0)
        first = ("features.0.conv", "features.0.bn") if kind in _I3D_KINDS else ("cnn.conv1", "cnn.bn1")
        if (mean, order) != (IMAGENET_MEAN, (0, 1, 2)):
            _take_normalized(networks["rgb"], mean, std, order, first)
            notes = [note for note in notes if note not in (ACTION_BGR, I3D_INPUT)]
            notes.append("Its first layer was changed to take normalized RGB frames, as training gives them.")
    shapes = {"rgb": (3, 8 if kind in _RESNET_KINDS else 32, 224, 224), "skeleton": (3, 32, 25, 2)}
    built: dict[str, Any] = {"kind": "resnet50" if kind in _RESNET_KINDS else "i3d"}
    if settings.get("padding", "symmetric") != "symmetric":  # what is as usual is not said
        built["padding"] = settings["padding"]
    specs = {
        name: NetworkSpec(shapes[name], ACTION_NETWORKS[name], built if name == "rgb" else {}) for name in networks
    }
    state = {f"networks.{name}.{key}": value for name, own in networks.items() for key, value in own.items()}
    state |= {f"points.{k}.{key}": value for k, point in enumerate(converted.points) for key, value in point.items()}
    about: dict[str, Any] = {"released": kind, "notes": notes}
    if kind in ("i3d", "torchvision-resnet50"):
        outputs = len(networks["rgb"]["features.18.bias"]) if kind == "i3d" else FIRST_ACTIONS
    else:
        outputs = FIRST_ACTIONS
        about |= _of_actions(kind, list(networks), "rgb" if method is None else "bgr")
    return state, ModelSpec(
        networks=specs, method=method, outputs=outputs, options=options, about=about, decision="mean"
    )


def _of_actions(kind: str, modalities: Sequence[str], channel_order: str) -> dict[str, Any]:
    """What a model of NTU RGB+D has to say of itself.

    Which subjects trained is not in the file: they are those of the training code, and the ones that chose the epoch.
    """
    subjects = (*TRAIN_SUBJECTS_60, *(PUBLISHED_DEV if kind in _CHOSEN_BY_TEST else ()))
    clips = [
        NtuName(setup, camera, subject, 1, 1).stem
        for setup, camera, subject in product(range(1, FIRST_SETUPS + 1), (1, 2, 3), subjects)
    ]
    settings = replace(NtuSettings.published(modalities=tuple(modalities)), channel_order=channel_order)
    return {
        "task": "action",
        "seen": {"NTU RGB+D": sorted({group for protocol in PROTOCOLS for group in ntu_groups(clips, protocol)})},
        "classes": [f"A{number:03} {action}" for number, action in enumerate(ACTIONS[:FIRST_ACTIONS], start=1)],
        "parameters": settings.parameters(),
    }


def _take_normalized(
    state: dict[str, Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    order: Sequence[int] = (0, 1, 2),
    first: tuple[str, str] = ("conv1", "bn1"),
) -> None:
    """Let the first layer of a video network take values as :func:`torchmsaf.data.clips.normalize` makes them.

    Its own input k is (v - mean[k]) / std[k] of RGB channel order[k], whose values v are in [0, 1]; what it gets is
    z = (v - m) / s. So its input is s / std z + (m - mean) / std: a scale of its weights, and a constant, which its batch
    norm takes off. ``first`` are the names of its first convolution and of that one's norm.
    """
    order = list(order)
    kernel, norm = f"{first[0]}.weight", f"{first[1]}.running_mean"
    m, s = torch.tensor(IMAGENET_MEAN)[order], torch.tensor(IMAGENET_STD)[order]
    theirs, weight = torch.tensor(std), state[kernel]
    constant = torch.einsum("oc...,c->o", weight, (m - torch.tensor(mean)) / theirs)
    scaled = weight * (s / theirs).view(1, -1, *(1 for _ in weight.shape[2:]))
    state[kernel] = scaled[:, [order.index(k) for k in range(3)]].contiguous()
    state[norm] = state[norm] - constant
