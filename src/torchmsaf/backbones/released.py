"""Weights that others have released, read into this package's networks: never by name alone, never by running code.

These kinds of file are known:

- ``kinetics``: the 3D ResNeXt-101 (and networks like it) that Hara, Kataoka and Satoh trained on Kinetics; a dict with
  ``arch``, ``state_dict``, ``optimizer`` and ``epoch``, and ``module.`` before every key.
- ``ravdess-video``, ``ravdess-audio``: the networks for one modality of the authors of MSAF; bare state dicts.
- ``ravdess-fused``: their fused network; a bare state dict of 621 keys.
- ``mosei-fused``: their fused network for CMU-MOSEI, with its optimizer's state and scores beside it.
- ``i3d``: Inception-v1 inflated, in any of its three PyTorch ports, with whatever number of classes; bare state dicts.
- ``ntu-i3d``, ``ntu-rgb``, ``ntu-skeleton``: networks for one modality of NTU RGB+D: I3D, the inflated ResNet-50 and the
  skeleton network of MFAS; bare state dicts.
- ``ntu-fused-i3d``, ``ntu-fused-resnet50``, ``ntu-mmtm``: fused networks for NTU RGB+D, two of the authors of MSAF and one
  of MMTM's; bare state dicts of 428, 418 and 362 keys.
- ``torchvision-resnet50``: ResNet-50 for images, whose kernels become the middle frame of those of the inflated network.

A file is a pickle. It is read with torch's restricted reader, which builds tensors and plain containers and refuses
everything else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from torchmsaf.backbones import released_actions as actions
from torchmsaf.backbones import released_maps as maps
from torchmsaf.backbones.released_files import ReleasedFile, open_released, read_point, some_keys
from torchmsaf.errors import DataError

Kind = Literal["kinetics", "ravdess-video", "ravdess-audio", "ravdess-fused", "mosei-fused", actions.ActionKind]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CLASSES = 8  # of RAVDESS
BGR_INPUT = (
    "Its video network saw frames in BGR order, normalized with the means of RGB: give it frames in BGR order, or train it "
    "further."
)
_STEM = (
    "The published fused network has no ReLU after the video stem (the authors' code loses it), and these weights were "
    "trained without it: build the video network with stem_relu=False."
)
KINETICS_INPUT = (
    "These models take RGB values of 0 to 255 less a mean of (114.7748, 107.7354, 99.4750), not divided by a standard "
    "deviation, in clips of 16 frames of 112 x 112: other input is a start for training only."
)
MOSEI_INPUT = (
    "It was trained on the inputs of --alignment published, not scaled: the last 50 raw frames, zeros before them, and "
    "BERT's last layer with padding behind; it reads step 50 of each, padding or not."
)
_KINETICS_SETTINGS: dict[str, Any] = {
    "stem_relu": True, "channel_order": "rgb", "value_range": [0, 255], "mean": [114.7748, 107.7354, 99.475],
    "std": [1.0, 1.0, 1.0], "frames": 16, "size": 112,
}  # fmt: skip


@dataclass(frozen=True)
class Converted:
    """What a released file holds, under the names of this package.

    Attributes:
        kind: one of ``KINDS``.
        networks: state dicts, ``"video"`` of :class:`~torchmsaf.backbones.ResNeXt3D` and ``"audio"`` of
            :class:`~torchmsaf.backbones.MFCCNet`; of CMU-MOSEI ``"video"``, ``"audio"`` and ``"text"`` of
            :class:`~torchmsaf.backbones.lstm_net.LSTMNet` without their heads; of actions ``"rgb"`` of
            :class:`~torchmsaf.backbones.I3D` or :class:`~torchmsaf.backbones.InflatedResNet50` and ``"skeleton"`` of
            :class:`~torchmsaf.backbones.HCN`. Float32, on the CPU, contiguous, no two tensors share memory.
        points: state dicts of the :class:`torchmsaf.MSAF` modules of a fused network, of channels (1024, 32) and
            (2048, 64), (32, 64, 128), or (832, 128, 128) and (1024, 512), with the ResNet (1024, 128, 128) and (2048, 512);
            those of MMTM in ``ntu-mmtm``; else none.
        notes: sentences that whoever uses the weights has to know.
        matched: how many tensors of the file were used.
        unmatched_file: what else is in the file, ``"key: why it is not used"``.
        unmatched_network: tensors of the networks that are not in the file, ``"video fc.weight"``; they are not in
            ``networks`` either.
        settings: what the networks have to be built and fed with, plain values: ``stem_relu``, ``channel_order`` and, for
            Kinetics, ``value_range``, ``mean``, ``std``, ``frames`` and ``size``; ``padding`` of I3D. Empty for audio,
            CMU-MOSEI and skeletons.
        decide: the last layer of a fused network that has one: ``weight`` and ``bias``; else empty.
    """

    kind: Kind
    networks: dict[str, dict[str, Tensor]]
    points: tuple[dict[str, Tensor], ...]
    notes: tuple[str, ...]
    matched: int
    unmatched_file: tuple[str, ...]
    unmatched_network: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    decide: dict[str, Tensor] = field(default_factory=dict)


def read_released(path: str | Path, kind: str | None = None, *, outputs: int = _CLASSES) -> Converted:
    """Read a released file of weights.

    Args:
        path: the file, as it was downloaded.
        kind: one of ``KINDS``; None = recognized by its keys.
        outputs: K of the video network that Kinetics weights are for. Their last layer is used when it has as many.
            RAVDESS files always have 8, those of NTU RGB+D 60; I3D has as many as its file.

    Raises:
        DataError: there is no such file, it is damaged or something else, it holds more than tensors and plain
            containers, it is of no known kind, or a tensor is missing, of another shape, or not finite.
    """
    path = Path(path)
    if kind is not None and kind not in KINDS:
        raise DataError(f"{path} cannot be read as {kind!r}; the kinds are {', '.join(KINDS)}")
    file = open_released(path)
    found = _recognize(file) if kind is None else KINDS[KINDS.index(kind)]
    if found in actions.READERS:
        networks, rest = actions.READERS[found](file)
        return _result(file, found, networks, **rest)
    reader = {
        "kinetics": _kinetics,
        "ravdess-video": _ravdess_video,
        "ravdess-audio": _ravdess_audio,
        "ravdess-fused": _ravdess_fused,
        "mosei-fused": _mosei_fused,
    }[found]
    return reader(file, outputs)


def _result(file: ReleasedFile, kind: Kind, networks: dict[str, dict[str, Tensor]], **rest: Any) -> Converted:
    """Put everything together."""
    left = [f"{key}: {why}" for key, why in file.left.items()]
    outside = [f"{key}: not a weight of the network" for key in file.outside]
    notes = list(rest.pop("notes"))
    if file.counters:
        notes.append(
            f"{file.counters} counters of batches (num_batches_tracked) are not in the file, which an older torch "
            "wrote; they are 0."
        )
    return Converted(
        kind=kind,
        networks=networks,
        points=rest.pop("points", ()),
        notes=tuple(notes),
        matched=len(file.used),
        unmatched_file=(*left, *outside),
        unmatched_network=rest.pop("unmatched_network", ()),
        settings=rest.pop("settings", {}),
        decide=rest.pop("decide", {}),
    )


def _kinetics(file: ReleasedFile, outputs: int) -> Converted:
    """A Kinetics file into the ResNeXt-50: of a deeper network the first blocks of each layer."""
    shapes, depth = dict(maps.video_shapes(outputs)), [0, 0, 0, 0]
    for key in file.state:
        if place := maps.block_of(key):
            layer, block = place
            depth[layer] = max(depth[layer], block + 1)
            if block >= maps.BLOCKS[layer]:
                file.left[key] = f"{maps.LAYERS[layer]} has {maps.BLOCKS[layer]} blocks here"
    missing: tuple[str, ...] = ()
    notes = [KINETICS_INPUT]
    head = file.state.get("fc.weight")
    if head is not None and head.dim() == 2 and head.shape[1:] == shapes["fc.weight"][1:] and len(head) != outputs:
        for key in maps.HEAD:
            del shapes[key]
            if key in file.state:
                file.left[key] = f"it is for {len(head)} classes, not {outputs}"
        missing = tuple(f"video {key}" for key in maps.HEAD)
        notes.append(
            f"The last layer of the file is for {len(head)} classes and was left out: train one for {outputs}."
        )
    if any(found > own for found, own in zip(depth, maps.BLOCKS, strict=True)):
        counts = ", ".join(f"{own} of {found}" for found, own in zip(depth, maps.BLOCKS, strict=True))
        notes.append(
            f"The file is of a deeper network. Of the blocks of its four layers the first {counts} were taken; without the "
            "others it no longer computes what it was trained for, so train it further."
        )
    state = file.take(shapes)
    file.check("the 3D ResNeXt-50")
    return _result(
        file, "kinetics", {"video": state}, notes=notes, unmatched_network=missing, settings=dict(_KINETICS_SETTINGS)
    )


def _ravdess_video(file: ReleasedFile, _: int) -> Converted:
    state = file.take(maps.video_shapes(_CLASSES))
    file.check("the 3D ResNeXt-50 for RAVDESS")
    settings = {"stem_relu": True, "channel_order": "bgr"}
    return _result(file, "ravdess-video", {"video": state}, notes=[BGR_INPUT], settings=settings)


def _ravdess_audio(file: ReleasedFile, _: int) -> Converted:
    state = file.take(maps.audio_shapes(_CLASSES))
    file.check("the audio network for RAVDESS")
    return _result(file, "ravdess-audio", {"audio": state}, notes=[])


def _ravdess_fused(file: ReleasedFile, _: int) -> Converted:
    video = file.take(maps.video_shapes(_CLASSES), lambda name: maps.fused_name(name, maps.FUSED_VIDEO))
    audio = file.take(maps.audio_shapes(_CLASSES), lambda name: maps.fused_name(name, maps.FUSED_AUDIO))
    points = [file.take(maps.point_shapes(point)) for point in maps.POINTS]
    file.check("the fused network for RAVDESS")
    fused = tuple(read_point(state, point) for state, point in zip(points, maps.POINTS, strict=True))
    settings = {"stem_relu": False, "channel_order": "bgr"}
    networks = {"video": video, "audio": audio}
    return _result(file, "ravdess-fused", networks, points=fused, notes=[_STEM, BGR_INPUT], settings=settings)


def _mosei_fused(file: ReleasedFile, _: int) -> Converted:
    networks = {
        name: file.take(maps.lstm_shapes(*sizes), functools.partial(maps.mosei_name, name))
        for name, sizes in maps.LSTMS.items()
    }
    point = file.take(maps.point_shapes(maps.MOSEI_POINT))
    decide = file.take(maps.MOSEI_DECIDE, lambda name: f"multimodal_classifier.0.{name}")
    file.check("the fused network for CMU-MOSEI")
    fused = (read_point(point, maps.MOSEI_POINT),)
    return _result(file, "mosei-fused", networks, points=fused, decide=decide, notes=[MOSEI_INPUT])


def _recognize(file: ReleasedFile) -> Kind:
    """The kind of a file, by its keys."""
    state = file.state
    if action := actions.recognize(state):
        return action
    if any(key.startswith(("video_model_blocks.", "audio_model_blocks.")) for key in state):
        return "ravdess-fused"
    if "multimodal_classifier.0.weight" in state:
        return "mosei-fused"
    if "conv1.weight" in state and "fc1.weight" in state:
        return "ravdess-audio"
    if "conv1.weight" in state and any(key.startswith("layer1.0.") for key in state):
        head = state.get("fc.weight")
        bare = not file.outside and head is not None and head.dim() > 0
        return "ravdess-video" if bare and head is not None and len(head) == _CLASSES else "kinetics"
    raise DataError(
        f"{file.path} is of no kind that is known ({', '.join(KINDS)}): its {len(state)} keys are {some_keys(list(state))}"
    )
