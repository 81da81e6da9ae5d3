"""Weights that others have released, read into this package's networks: never by name alone, never by running code.

Four kinds of file are known:

- ``kinetics``: the 3D ResNeXt-101 (and networks like it) that Hara, Kataoka and Satoh trained on Kinetics; a dict with
  ``arch``, ``state_dict``, ``optimizer`` and ``epoch``, and ``module.`` before every key.
- ``ravdess-video``, ``ravdess-audio``: the networks for one modality of the authors of MSAF; bare state dicts.
- ``ravdess-fused``: their fused network; a bare state dict of 621 keys.

A file is a pickle. It is read with torch's restricted reader, which builds tensors and plain containers and refuses
everything else.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from torchmsaf.backbones import released_maps as maps
from torchmsaf.errors import DataError
from torchmsaf.ops.published import read_published

Kind = Literal["kinetics", "ravdess-video", "ravdess-audio", "ravdess-fused"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CLASSES = 8  # of RAVDESS
_SHOWN = 5
_STARTS = {b"<": "a web page", b"version https://git-lfs": "a Git LFS pointer, not the file itself"}
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
            :class:`~torchmsaf.backbones.MFCCNet`; float32, on the CPU, contiguous, no two tensors share memory.
        points: state dicts of the two :class:`torchmsaf.MSAF` modules of the fused network, of channels (1024, 32) and
            (2048, 64); else none.
        notes: sentences that whoever uses the weights has to know.
        matched: how many tensors of the file were used.
        unmatched_file: what else is in the file, ``"key: why it is not used"``.
        unmatched_network: tensors of the networks that are not in the file, ``"video fc.weight"``; they are not in
            ``networks`` either.
        settings: what the networks have to be built and fed with, plain values: ``stem_relu``, ``channel_order`` and, for
            Kinetics, ``value_range``, ``mean``, ``std``, ``frames`` and ``size``. Empty for audio.
    """

    kind: Kind
    networks: dict[str, dict[str, Tensor]]
    points: tuple[dict[str, Tensor], ...]
    notes: tuple[str, ...]
    matched: int
    unmatched_file: tuple[str, ...]
    unmatched_network: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def read_released(path: str | Path, kind: str | None = None, *, outputs: int = _CLASSES) -> Converted:
    """Read a released file of weights.

    Args:
        path: the file, as it was downloaded.
        kind: one of ``KINDS``; None = recognized by its keys.
        outputs: K of the video network that Kinetics weights are for. Their last layer is used when it has as many.
            RAVDESS files always have 8.

    Raises:
        DataError: there is no such file, it is damaged or something else, it holds more than tensors and plain
            containers, it is of no known kind, or a tensor is missing, of another shape, or not finite.
    """
    path = Path(path)
    if kind is not None and kind not in KINDS:
        raise DataError(f"{path} cannot be read as {kind!r}; the kinds are {', '.join(KINDS)}")
    file = _open(path)
    found = _recognize(file) if kind is None else KINDS[KINDS.index(kind)]
    reader = {
        "kinetics": _kinetics,
        "ravdess-video": _ravdess_video,
        "ravdess-audio": _ravdess_audio,
        "ravdess-fused": _ravdess_fused,
    }[found]
    return reader(file, outputs)


class _File:
    """The tensors of one file, which of them were used, and what was wrong."""

    def __init__(self, path: Path, state: dict[str, Tensor], outside: Mapping[str, Any]) -> None:
        self.path, self.state, self.outside = path, state, outside
        self.used: set[str] = set()
        self.left: dict[str, str] = {}
        self.wrong: list[str] = []
        self.counters = 0

    def take(self, shapes: maps.Shapes, key_of: Callable[[str], str] = str) -> dict[str, Tensor]:
        """The tensors of one network; what is missing or does not fit is noted, see :meth:`check`."""
        taken: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            key = key_of(name)
            tensor = self.state.get(key)
            if tensor is None and name.endswith(maps.COUNTER):
                taken[name] = torch.zeros((), dtype=torch.int64)
                self.counters += 1
            elif tensor is None:
                self.wrong.append(f"{key} is missing, {shape} is needed")
            elif tuple(tensor.shape) != shape:
                self.wrong.append(f"{key} is {tuple(tensor.shape)}, {shape} is needed")
            elif problem := _unusable(name, tensor):
                self.wrong.append(f"{key} {problem}")
            else:
                self.used.add(key)
                taken[name] = _own(tensor)
        return taken

    def check(self, what: str) -> None:
        """Raise what is wrong, the first few of it; a tensor that is neither used nor left out on purpose is wrong too."""
        extra = [key for key in self.state if key not in self.used and key not in self.left]
        if not self.wrong:
            self.wrong = [f"{key} has no place in it" for key in extra]
        if not self.wrong:
            return
        more = f"; and {len(self.wrong) - _SHOWN} more" if len(self.wrong) > _SHOWN else ""
        arch = self.outside.get("arch")
        said = f" (the file says arch {arch!r})" if isinstance(arch, str) else ""
        raise DataError(
            f"{self.path} does not fit {what}{said}: {'; '.join(self.wrong[:_SHOWN])}{more}. Is it another network's file?"
        )

    def result(self, kind: Kind, networks: dict[str, dict[str, Tensor]], **rest: Any) -> Converted:
        """Put everything together."""
        left = [f"{key}: {why}" for key, why in self.left.items()]
        outside = [f"{key}: not a weight of the network" for key in self.outside]
        notes = list(rest.pop("notes"))
        if self.counters:
            notes.append(
                f"{self.counters} counters of batches (num_batches_tracked) are not in the file, which an older torch "
                "wrote; they are 0."
            )
        return Converted(
            kind=kind,
            networks=networks,
            points=rest.pop("points", ()),
            notes=tuple(notes),
            matched=len(self.used),
            unmatched_file=(*left, *outside),
            unmatched_network=rest.pop("unmatched_network", ()),
            settings=rest.pop("settings", {}),
        )


def _kinetics(file: _File, outputs: int) -> Converted:
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
    return file.result(
        "kinetics", {"video": state}, notes=notes, unmatched_network=missing, settings=dict(_KINETICS_SETTINGS)
    )


def _ravdess_video(file: _File, _: int) -> Converted:
    state = file.take(maps.video_shapes(_CLASSES))
    file.check("the 3D ResNeXt-50 for RAVDESS")
    settings = {"stem_relu": True, "channel_order": "bgr"}
    return file.result("ravdess-video", {"video": state}, notes=[BGR_INPUT], settings=settings)


def _ravdess_audio(file: _File, _: int) -> Converted:
    state = file.take(maps.audio_shapes(_CLASSES))
    file.check("the audio network for RAVDESS")
    return file.result("ravdess-audio", {"audio": state}, notes=[])


def _ravdess_fused(file: _File, _: int) -> Converted:
    video = file.take(maps.video_shapes(_CLASSES), lambda name: maps.fused_name(name, maps.FUSED_VIDEO))
    audio = file.take(maps.audio_shapes(_CLASSES), lambda name: maps.fused_name(name, maps.FUSED_AUDIO))
    points = [file.take(maps.point_shapes(point)) for point in maps.POINTS]
    file.check("the fused network for RAVDESS")
    fused = tuple(
        {name: _own(tensor) for name, tensor in read_published(state, point.channels, point.prefix)[0].items()}
        for state, point in zip(points, maps.POINTS, strict=True)
    )
    settings = {"stem_relu": False, "channel_order": "bgr"}
    networks = {"video": video, "audio": audio}
    return file.result("ravdess-fused", networks, points=fused, notes=[_STEM, BGR_INPUT], settings=settings)


def _recognize(file: _File) -> Kind:
    """The kind of a file, by its keys."""
    state = file.state
    if any(key.startswith(("video_model_blocks.", "audio_model_blocks.")) for key in state):
        return "ravdess-fused"
    if "conv1.weight" in state and "fc1.weight" in state:
        return "ravdess-audio"
    if "conv1.weight" in state and any(key.startswith("layer1.0.") for key in state):
        head = state.get("fc.weight")
        bare = not file.outside and head is not None and head.dim() > 0
        return "ravdess-video" if bare and head is not None and len(head) == _CLASSES else "kinetics"
    raise DataError(
        f"{file.path} is of no kind that is known ({', '.join(KINDS)}): its {len(state)} keys are {_some(list(state))}"
    )


def _open(path: Path) -> _File:
    """Read the file and find the tensors in it."""
    content = _load(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {_said(content)}, not a dict of tensors: is it a file of weights?")
    outside: dict[str, Any] = {}
    state: Any = content
    if isinstance(content.get("state_dict"), dict):
        state = content["state_dict"]
        outside = {str(key): value for key, value in content.items() if key != "state_dict"}
    if not state:
        raise DataError(f"{path} holds no tensors: the dict is empty")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(
                f"{path} is no file of weights that is known: under {key!r} is {_said(value)}, not a tensor; its keys are "
                f"{_some(list(state))}"
            )
        if value.is_nested or value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise DataError(
                f"{path}: the tensor under {key!r} is sparse, nested, quantized or empty; a dense one is needed"
            )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return _File(path, dict(state), outside)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; a file of weights is needed")
    try:
        with path.open("rb") as stream:
            start = stream.read(64).lstrip()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for sign, what in _STARTS.items():
        if start.startswith(sign):
            raise DataError(f"{path} is {what}: download the file again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever the bytes lead it to
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise DataError(
                f"{path} is refused: it holds {match[1]}, and only tensors and plain containers are read; "
                "nothing of it was run. Ask for its state dict alone, or save that yourself if you trust the file"
            ) from error
        first = (str(error).strip().splitlines() or [""])[0].partition(". ")[0]
        first = first if " " in first else type(error).__name__
        raise DataError(
            f"{path} is truncated or no file that torch saved ({first}): compare its size with the one it was downloaded "
            "with, and download it again"
        ) from error


def _unusable(name: str, tensor: Tensor) -> str:
    """What is wrong with the values of a tensor of the right shape, or nothing."""
    if name.endswith(maps.COUNTER):
        return "" if tensor.dtype in (torch.int32, torch.int64) else f"is of {tensor.dtype}, an integer is needed"
    if not tensor.is_floating_point():
        return f"is of {tensor.dtype}, real numbers are needed"
    return "" if bool(torch.isfinite(tensor).all()) else "has values that are not finite"


def _own(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, weights in float32."""
    kind = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().to(kind, copy=True, memory_format=torch.contiguous_format)


def _said(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _some(keys: Sequence[object]) -> str:
    rest = ", …" if len(keys) > _SHOWN else ""
    return ", ".join(repr(key)[:60] for key in keys[:_SHOWN]) + rest
