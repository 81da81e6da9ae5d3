"""A fused network and its weights in one file, which says by itself what network it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from torchmsaf.backbones.by_rank import network_for
from torchmsaf.errors import DataError, FusionInputError, TorchmsafError, in_one_line, require
from torchmsaf.ops.checks import is_integer
from torchmsaf.tasks import action, emotion, sentiment
from torchmsaf.tasks.models import Model
from torchmsaf.tasks.network import Decision, FusedNetwork, module_name
from torchmsaf.tasks.systems.base import Kind
from torchmsaf.tasks.systems.registry import SYSTEMS, create_system

_KEY, _FORMAT = "torchmsaf", 3
_OLD = (1, 2)  # in which ``joint`` was yes or no (format 2), or unknown, as systems were (format 1)
# what a file may have called; by a prefix it could reach every function of torchmsaf, with arguments of its choice
_PLACES = ("torchmsaf.backbones", "torchmsaf.backbones.staged")
_OWN = {*action.NETWORKS.values(), *emotion.NETWORKS.values(), *sentiment.NETWORKS.values()}
_OWN |= {*(f"{place}.{name}" for place in _PLACES for name in ("VectorNet", "ConvNet"))}
_LONGEST = 400  # characters of what torch says


@dataclass(frozen=True)
class NetworkSpec:
    """How the network of one modality is built.

    Attributes:
        shape: of one sample.
        path: class path; None = by the rank of the shape.
        options: further arguments of the class.
    """

    shape: tuple[int, ...]
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSpec:
    """How a fused network is built, as plain data.

    Attributes:
        networks: by modality, in order.
        method: name of the fusion method, or of a published system; None = one network alone.
        outputs: K.
        options: arguments of the method.
        regression: predictions are values.
        about: what else is to be known to use the model: classes, how its inputs are prepared.
        decision: as in :class:`FusedNetwork`.
        kind: of the task, which systems ask for; None = as ``regression`` says.
    """

    networks: Mapping[str, NetworkSpec]
    method: str | None
    outputs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    regression: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    decision: Decision = "product"
    kind: Kind | None = None

    def build(self) -> Model:
        """The network, with random weights.

        Raises:
            FusionInputError: a network or a method that cannot be built.
        """
        if self.method in SYSTEMS:
            if taken := {"shapes", "outputs", "kind", "tokens"} & set(self.options):
                raise FusionInputError(f"{self.method}: {min(taken)!r} is set by the task, and is no option")
            return create_system(
                self.method,
                {name: one.shape for name, one in self.networks.items()},
                self.outputs,
                kind=self.kind or ("regression" if self.regression else "classification"),
                tokens={
                    n: one.options["vocabulary"] for n, one in self.networks.items() if "vocabulary" in one.options
                },
                **self.options,
            )
        networks = {
            name: network_for(one.shape, self.outputs, class_path=one.path, options=one.options)
            for name, one in self.networks.items()
        }
        arguments: dict[str, Any] = {"options": self.options, "regression": self.regression, "decision": self.decision}
        return FusedNetwork(networks, self.method, outputs=self.outputs, **arguments)

    @property
    def seen(self) -> Mapping[str, Sequence[str]]:
        """Data set -> the groups that trained the weights or chose their epoch; empty where nothing is known."""
        seen = self.about.get("seen", {})
        return seen if isinstance(seen, Mapping) else {}

    def metadata(self) -> dict[str, str]:
        """What a file of weights has in its header."""
        return {_KEY: json.dumps({"format": _FORMAT, **asdict(self)})}


def kind_of_systems(kind: Kind, scale_target: bool) -> Kind:
    """What systems are told of a task: a sentiment that is scaled is no longer within three."""
    return "regression" if kind == "sentiment" and scale_target else kind


def model_bytes(state: Mapping[str, Tensor], spec: ModelSpec) -> bytes:
    """The content of a file of weights."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    content: bytes = require("safetensors.torch", "compare").save(tensors, metadata=spec.metadata())
    return content


def load_model(path: str | Path) -> tuple[Model, ModelSpec]:
    """A network from its file of weights, in evaluation mode.

    The file is data: no code in it is run, and it can name no networks but torchmsaf's own.

    Raises:
        DataError: no such file, or not a model that torchmsaf wrote; it is broken; it needs a network that is not
            torchmsaf's.
    """
    spec = read_spec(path)
    for name, one in spec.networks.items():
        if one.path is not None and one.path not in _OWN:
            raise DataError(
                f"{path}: the network of {name!r} is {one.path}, which is none of torchmsaf's networks; build the "
                "FusedNetwork yourself and give it load_state_dict(safetensors.torch.load_file(…))"
            )
    try:
        network = spec.build()
        network.load_state_dict(_tensors(path))
    except (TorchmsafError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        if "released" in spec.about and "task" not in spec.about:
            raise DataError(
                f"{path} holds {spec.about['released']} weights, a start for training (--pretrained) and no whole model: "
                f"{in_one_line(error)}"
            ) from error
        raise DataError(f"{path}: its weights do not fit what it says of itself: {in_one_line(error)}") from error
    return network.eval(), spec


def read_spec(path: str | Path) -> ModelSpec:
    """What a file of weights says of itself.

    Raises:
        DataError: as in :func:`load_model`.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file")
    safetensors = require("safetensors", "compare")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{path} is no .safetensors file, or it is broken: {in_one_line(error)}") from error
    if _KEY not in metadata:
        raise DataError(
            f"{path} does not say what network it is of; models are what torchmsaf train, compare and convert write"
        )
    try:
        content = json.loads(metadata[_KEY])
        if (found := content.pop("format")) not in (*_OLD, _FORMAT):
            raise ValueError(f"its format is {found!r}, and this torchmsaf knows up to {_FORMAT}; use a newer one")
        if content.pop("joint", False):
            content["decision"] = "joint"
        networks = content.pop("networks")
        specs = {name: NetworkSpec(tuple(one["shape"]), one["path"], one["options"]) for name, one in networks.items()}
        return _checked(ModelSpec(networks=specs, **content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: what it says of itself cannot be read: {in_one_line(error)}") from error


def _tensors(path: str | Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = require("safetensors.torch", "compare").load_file(str(path))
    except require("safetensors", "compare").SafetensorError as error:
        raise DataError(f"{path}: its tensors cannot be read: {in_one_line(error)}") from error
    return tensors


def _checked(spec: ModelSpec) -> ModelSpec:
    for name, one in spec.networks.items():
        if not all(is_integer(size) for size in one.shape) or not isinstance(one.path, str | None):
            raise ValueError(f"the network of {name!r} is {one.path!r} for {one.shape!r}")
    if spec.decision not in get_args(Decision):
        raise ValueError(f"decision {spec.decision!r}")
    if not is_integer(spec.outputs) or not isinstance(spec.method, str | None):
        raise ValueError(f"method {spec.method!r} with {spec.outputs!r} outputs")
    for some in (spec.options, spec.about, *(one.options for one in spec.networks.values())):
        if not isinstance(some, dict):
            raise ValueError(f"{some!r} in place of names and values")
    return spec


def load_pretrained(
    network: nn.Module,
    path: str | Path,
    modality: str,
    *,
    options: Mapping[str, Any] | None = None,
    order: str = "rgb",
) -> tuple[str, ...]:
    """Put weights into a network before it is trained, but for a last layer of another number of classes.

    Args:
        network: is modified.
        path: a model that has this modality, as ``torchmsaf train``, ``compare`` and ``convert`` write it.
        modality: whose network.
        options: what the network was built with; None = whatever. Weights that were trained with others do not fit, but for
            ``checkpointing`` and ``momentum``, which change no weight's meaning.
        order: of the channels of the frames to train on, ``rgb`` or ``bgr``.

    Returns:
        The names of the network's tensors that keep their random start: those of its last layer, or none.

    Raises:
        DataError: the file cannot be read, has no such modality, lacks tensors, has more, or has them in other shapes.
    """
    spec = read_spec(path)
    if modality not in spec.networks:
        raise DataError(f"{path} has no network of {modality!r}; it has {', '.join(spec.networks)}")
    if modality in ("video", "rgb") and (made_for := channel_order(spec.about)) != order:
        raise DataError(f"{path} was trained on frames in {made_for.upper()} order, and training has {order.upper()}")
    if options is not None:
        plain = json.loads(json.dumps(dict(options)))  # lists, as a file has them
        free = dict.fromkeys(("checkpointing", "momentum"))
        theirs, ours = ({**one, **free} for one in (spec.networks[modality].options, plain))
        if differing := [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]:
            name = differing[0]
            raise DataError(
                f"{path}: its network of {modality!r} has {name}={theirs.get(name, 'as usual')}, and the one to train "
                f"{name}={ours.get(name, 'as usual')}"
            )
    prefix = f"networks.{module_name(modality)}."
    whole = _tensors(path)
    given = {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}
    own = network.state_dict()
    head = _last_layer(network)
    last = [name for name in own if head is not None and name.rpartition(".")[0] == head]
    wrong = [
        f"{name} {tuple(given[name].shape) if name in given else 'is missing'}, {tuple(own[name].shape)} is needed"
        for name in own
        if name not in last and (name not in given or given[name].shape != own[name].shape)
    ]
    wrong += [f"{name} has no place in it" for name in given if name not in own]
    if wrong:
        more = "; …" if len(wrong) > 5 else ""
        raise DataError(
            f"{path} does not fit {type(network).__name__} in {len(wrong)} tensors: {'; '.join(wrong[:5])}{more}. Is it of "
            "another preset?"
        )
    fits = all(name in given and given[name].shape == own[name].shape for name in last)
    kept = () if fits else tuple(last)
    network.load_state_dict({**own, **{name: given[name] for name in own if name not in kept}})
    return kept


def channel_order(about: Mapping[str, Any]) -> str:
    """The channel order of prepared frames, by what is said of a task."""
    parameters = about.get("parameters")
    return str(parameters.get("channel_order", "rgb")) if isinstance(parameters, Mapping) else "rgb"


def _last_layer(network: nn.Module) -> str | None:
    linear: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    # I3D has no linear layer
    convolutions: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv3d)]
    return next(reversed(linear or convolutions), None)
