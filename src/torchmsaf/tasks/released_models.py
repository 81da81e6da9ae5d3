"""Released weights as models of torchmsaf: files that training can begin with and ``torchmsaf predict`` can use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchmsaf.backbones.released import BGR_INPUT, KINETICS_INPUT, Converted
from torchmsaf.backbones.released_maps import LSTMS
from torchmsaf.data.clips import IMAGENET_MEAN, IMAGENET_STD
from torchmsaf.data.prepare.ravdess import Settings
from torchmsaf.data.ravdess import ACTORS, EMOTIONS
from torchmsaf.tasks.emotion import NETWORKS
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec
from torchmsaf.tasks.sentiment import MSAF, network_options
from torchmsaf.tasks.sentiment import NETWORKS as SENTIMENT_NETWORKS

_AUDIO = (13, 212)
# of the methods' options, what the published fused network was trained with
_MSAF = {"block_dropout": 0.2}


def model_of(converted: Converted) -> tuple[dict[str, Tensor], ModelSpec]:
    """The state dict and the description of a model with released weights.

    Kinetics weights are for values of 0 to 255 less a mean, the authors' video networks for frames in BGR order. So that
    training can begin with them, their first layer is changed to take the normalized RGB values that networks of torchmsaf
    get, and its batch norm shifted: away from the border of the frames its outputs are the same. The fused network is left
    as it is, and ``torchmsaf predict`` gives it frames in BGR order.

    Args:
        converted: as :func:`torchmsaf.backbones.released.read_released` gives it.
    """
    if converted.kind == "mosei-fused":
        return _sentiment_model(converted)
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
        joint=True,
        kind="sentiment",
    )
    return state, spec


def _take_normalized(
    state: dict[str, Tensor], mean: Sequence[float], std: Sequence[float], order: Sequence[int] = (0, 1, 2)
) -> None:
    """Let the first layer of a video network take values as :func:`torchmsaf.data.clips.normalize` makes them.

    Its own input k is (v - mean[k]) / std[k] of RGB channel order[k], whose values v are in [0, 1]; what it gets is
    z = (v - m) / s. So its input is s / std z + (m - mean) / std: a scale of its weights, and a constant, which its batch
    norm takes off.
    """
    order = list(order)
    m, s = torch.tensor(IMAGENET_MEAN)[order], torch.tensor(IMAGENET_STD)[order]
    theirs, weight = torch.tensor(std), state["conv1.weight"]
    constant = torch.einsum("oc...,c->o", weight, (m - torch.tensor(mean)) / theirs)
    scaled = weight * (s / theirs).view(1, -1, 1, 1, 1)
    state["conv1.weight"] = scaled[:, [order.index(k) for k in range(3)]].contiguous()
    state["bn1.running_mean"] = state["bn1.running_mean"] - constant
