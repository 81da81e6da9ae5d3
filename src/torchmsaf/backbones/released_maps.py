"""Where the tensors of released weight files belong in this package's networks.

The names are facts about the files: those of the authors of MSAF (github.com/anita-hu/MSAF, commit 125e0f1) and of Hara,
Kataoka and Satoh (github.com/kenshohara/3D-ResNets-PyTorch, its CVPR 2018 branch).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from torchmsaf.backbones.lstm_net import LSTMNet
from torchmsaf.backbones.mfcc_cnn import MFCCNet
from torchmsaf.backbones.resnext3d import ResNeXt3D
from torchmsaf.ops.blocks import block_counts

Shapes = Mapping[str, tuple[int, ...]]

# blocks of layer1 to layer4 in the network of this package
BLOCKS = (3, 4, 6, 3)
LAYERS = ("layer1", "layer2", "layer3", "layer4")
COUNTER = ".num_batches_tracked"
HEAD = ("fc.weight", "fc.bias")

# The authors cut each network into three rows of layers. A layer without weights has a place in its row and no key: the
# pooling is video 0.2 and the ReLUs are audio 0.1, 0.4 and 1.4. Video has no place for the ReLU of the stem.
FUSED_VIDEO = {
    "conv1": "video_model_blocks.0.0",
    "bn1": "video_model_blocks.0.1",
    "layer1": "video_model_blocks.0.3",
    "layer2": "video_model_blocks.0.4",
    "layer3": "video_model_blocks.0.5",
    "layer4": "video_model_blocks.1.0",
    "fc": "video_model_blocks.2.2",
}
FUSED_AUDIO = {
    "conv1": "audio_model_blocks.0.0",
    "bn1": "audio_model_blocks.0.2",
    "conv2": "audio_model_blocks.0.3",
    "bn2": "audio_model_blocks.1.1",
    "conv3": "audio_model_blocks.1.3",
    "bn3": "audio_model_blocks.1.5",
    "fc1": "audio_model_blocks.2.2",
}


@dataclass(frozen=True)
class Point:
    """One published MSAF module.

    Attributes:
        prefix: of its keys.
        channels: of the modalities.
        block_channels: C.
        joint: C'.
        segments: q.
    """

    prefix: str
    channels: tuple[int, ...]
    block_channels: int
    joint: int
    segments: int = 1


POINTS = (Point("msaf.0.", (1024, 32), 16, 4), Point("msaf.1.", (2048, 64), 32, 8))


# of CMU-MOSEI: video, audio and text, which are joined in this order; inputs and hidden size of their LSTMs
LSTMS = {"video": (35, 32), "audio": (74, 64), "text": (768, 128)}
MOSEI_POINT = Point("msaf.0.", (32, 64, 128), 16, 8, 5)
MOSEI_DECIDE: Shapes = {"weight": (1, 224), "bias": (1,)}
_MOSEI_MODELS = {"video": "visual_model", "audio": "audio_model", "text": "text_model"}


@functools.cache
def lstm_shapes(inputs: int, hidden: int) -> Shapes:
    """Name and shape of every tensor of the LSTMs of :class:`~torchmsaf.backbones.lstm_net.LSTMNet`."""
    shapes = network_shapes(lambda: LSTMNet((inputs, 50), 1, hidden=hidden))
    return {name: shape for name, shape in shapes.items() if name.startswith("lstm")}


def mosei_name(modality: str, name: str) -> str:
    """The key in the authors' file of a tensor that the network of a modality calls ``name``.

    Example:
        >>> mosei_name("video", "lstm2.bias_hh_l0")
        'visual_model.1.bias_hh_l0'
    """
    layer, _, rest = name.partition(".")
    return f"{_MOSEI_MODELS[modality]}.{int(layer.removeprefix('lstm')) - 1}.{rest}"


@functools.cache
def video_shapes(outputs: int) -> Shapes:
    """Name and shape of every tensor of :class:`~torchmsaf.backbones.ResNeXt3D`."""
    return network_shapes(lambda: ResNeXt3D(outputs))


@functools.cache
def audio_shapes(outputs: int) -> Shapes:
    """Name and shape of every tensor of :class:`~torchmsaf.backbones.MFCCNet`, built for the paper's recordings."""
    return network_shapes(lambda: MFCCNet(outputs))


def point_shapes(point: Point) -> Shapes:
    """Key and shape of every tensor of a published MSAF module, in the authors' file."""
    width, joint = point.block_channels, point.joint
    shapes: dict[str, tuple[int, ...]] = {}
    for segment in range(point.segments):
        start = f"{point.prefix}blocks.{segment}."
        shapes[f"{start}joint_features.0.weight"] = (joint, width)
        shapes[f"{start}joint_features.0.bias"] = (joint,)
        shapes |= {
            f"{start}joint_features.1.{name}": (joint,) for name in ("weight", "bias", "running_mean", "running_var")
        }
        shapes[f"{start}joint_features.1{COUNTER}"] = ()
        for block in range(sum(block_counts(point.channels, width))):
            shapes[f"{start}dense_group.{block}.weight"] = (width, joint)
            shapes[f"{start}dense_group.{block}.bias"] = (width,)
    return shapes


def fused_name(name: str, places: Mapping[str, str]) -> str:
    """The key in the authors' fused file of a tensor that the unimodal network calls ``name``.

    Example:
        >>> fused_name("layer3.5.bn1.weight", FUSED_VIDEO)
        'video_model_blocks.0.5.5.bn1.weight'
    """
    layer, _, rest = name.partition(".")
    return f"{places[layer]}.{rest}"


def block_of(key: str) -> tuple[int, int] | None:
    """Which layer (from 0) and block (from 0) a key of a 3D ResNet belongs to, None for stem and head.

    Example:
        >>> block_of("layer3.22.bn1.weight")
        (2, 22)
    """
    layer, _, rest = key.partition(".")
    number = rest.partition(".")[0]
    # twelve digits are more than any network has; int() refuses thousands of them with an error of its own
    if layer not in LAYERS or not (number.isascii() and number.isdigit() and len(number) < 12):
        return None
    return LAYERS.index(layer), int(number)


def network_shapes(build: Callable[[], nn.Module]) -> Shapes:
    """Name and shape of every tensor of a network. Torch's generator is left as it was."""
    # built for real: drawing starting values on the meta device makes torch import for seconds
    with torch.random.fork_rng(devices=[]):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
