"""A trial run of every network and method of a comparison, on samples of zeros, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from torchmsaf.analysis.table import label
from torchmsaf.backbones.by_rank import network_for
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.errors import FusionInputError, TorchmsafError, in_one_line
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec, channel_order, kind_of_systems, load_pretrained
from torchmsaf.tasks.models import Model
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.systems.base import System

if TYPE_CHECKING:
    from torchmsaf.experiments.compare import Comparison

# more than a machine that compares can hold: a slip in the options of a method
MOST_PARAMETERS = 10**9
# of a sample, for which a check runs the networks on values
MOST_VALUES = 10**5


def check_networks(comparison: Comparison) -> None:
    """Build every network and method, and run it on two samples of zeros.

    Raises:
        FusionInputError: one cannot be built, or cannot run; the message begins with what it is about.
        DataError: pretrained weights do not fit.
    """
    outputs, regression = comparison.samples.n_outputs, comparison.samples.regression
    networks = {
        name: network_for(
            value.shape[1:],
            outputs,
            class_path=comparison.networks.get(name),
            options=comparison.network_options.get(name),
        )
        for name, value in comparison.samples.features.items()
    }
    for name, path in comparison.pretrained.items():
        options, order = comparison.network_options.get(name, {}), channel_order(comparison.about)
        load_pretrained(networks[name], path, name, options=options, order=order)
    large = max(x.shape[1:].numel() for x in comparison.samples.features.values()) > MOST_VALUES
    device = "meta" if large else "cpu"  # shapes alone, where values would take long
    networks = {name: net.to(device) for name, net in networks.items()}
    for name, net in networks.items():
        path = comparison.networks.get(name, f"{type(net).__module__}.{type(net).__qualname__}")
        with _naming(f"network of modality {name!r} ({path})"), torch.device(device):
            _check_shapes(net, torch.zeros(2, *comparison.samples.features[name].shape[1:]), outputs)
            _run(comparison, FusedNetwork({name: net}, None, outputs=outputs, regression=regression), [name])
    for choice in comparison.methods:
        said = label({"method": choice.name, "options": choice.options})
        with _naming(f"method {said!r}", unless=f"{choice.name}: "):
            with torch.device("meta"):  # a fusion without memory: its size is seen before it is paid for
                count = sum(p.numel() for p in _model(comparison, choice).parameters())
            if count > MOST_PARAMETERS:
                raise FusionInputError(f"{count:,} parameters: check its options")
            with torch.device(device):
                network = _model(comparison, choice)
                _run(comparison, network, comparison.samples.modalities)
            _check_batches(comparison, network)


def _check_batches(comparison: Comparison, network: Model) -> None:
    """There are as many training samples, with all modalities, as the batches of a network need."""
    least = network.least_batch
    if not isinstance(network, System) or least <= 2:
        return
    size = network.batch_size or comparison.recipe.batch_size
    for fold in comparison.protocol.folds:
        whole = comparison.samples.present[torch.from_numpy(fold.train)].all(1)
        of_a_batch = size * whole.double().mean().item()
        if int(whole.sum()) < least or of_a_batch < least:
            raise FusionInputError(
                f"it needs batches of {least} samples that have all modalities; fold {fold.index} has {int(whole.sum())} "
                f"such of {len(whole)} to train on, {of_a_batch:.0f} a batch: leave it out, or give it a smaller width"
            )


def _model(comparison: Comparison, choice: MethodChoice) -> Model:
    """A row's network, with random weights."""
    specs = {
        name: NetworkSpec(tuple(x.shape[1:]), comparison.networks.get(name), comparison.network_options.get(name, {}))
        for name, x in comparison.samples.features.items()
    }
    arguments: Any = {
        "options": choice.options,
        "regression": comparison.samples.regression,
        "decision": comparison.decision,
        "kind": kind_of_systems(comparison.kind, comparison.scale_target),
    }
    return ModelSpec(specs, choice.name, comparison.samples.n_outputs, **arguments).build()


@torch.no_grad()
def _run(comparison: Comparison, network: Model, modalities: Sequence[str]) -> None:
    """Predict two samples of zeros, and their loss, on torch's default device."""
    network.eval()
    fused = network([torch.zeros(2, *comparison.samples.features[name].shape[1:]) for name in modalities])
    _check_shape("the prediction", fused.prediction, (2, network.outputs))
    target = torch.zeros(2, dtype=comparison.samples.target.dtype)
    network.training_loss(fused, target, None, comparison.objective.loss)


@torch.no_grad()
def _check_shapes(net: StagedNetwork, x: torch.Tensor, outputs: int) -> None:
    """What a network says of itself (``channels``, ``width``) is what comes out of its parts."""
    net.eval()
    stages: list[Callable[..., torch.Tensor]] = list(net.stages)
    more = (None,) if net.takes_lengths else ()
    for number, (stage, count) in enumerate(zip(stages, net.channels, strict=True)):
        x = stage(x, *more)
        if x.dim() < 2 or tuple(x.shape[:2]) != (2, count):
            raise FusionInputError(
                f"channels[{number}] is {count}, and of 2 samples stage {number} makes maps {tuple(x.shape)}"
            )
    x = net.feature(x, *more)
    _check_shape("feature(), whose size is width,", x, (2, net.width))
    _check_shape("the head", net.head(x), (2, outputs))


def _check_shape(what: str, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise FusionInputError(f"of 2 samples {what} makes {tuple(x.shape)}, and {shape} is needed")


@contextmanager
def _naming(what: str, *, unless: str | None = None) -> Iterator[None]:
    """Turn whatever is raised into one line that begins with what it is about, unless it does so already."""
    try:
        yield
    except Exception as error:  # whatever users' networks raise
        said = in_one_line(error)
        if not isinstance(error, TorchmsafError):
            said = f"{type(error).__name__}: {said}"
        elif unless is not None and said.startswith(unless):
            raise
        raise FusionInputError(f"{what}: {said}") from error
