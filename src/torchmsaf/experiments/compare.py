"""Compare fusion methods on the same networks, data and folds."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from torchmsaf.analysis.table import Table, label
from torchmsaf.backbones.by_rank import network_for
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.data import Fold, Protocol, Samples, check_fold, fold_ids
from torchmsaf.errors import DataError, FusionInputError, ProtocolError, TorchmsafError
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.progress import progress
from torchmsaf.experiments.results import ResultFolder, write_tables
from torchmsaf.experiments.side_by_side import run_units
from torchmsaf.experiments.unit import Unit
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe

# more than a machine that compares can hold: a slip in the options of a method
MOST_PARAMETERS = 10**9


@dataclass(frozen=True, eq=False)
class Comparison:
    """What to compare, on what.

    Attributes:
        title: of the table.
        samples: the data.
        protocol: the folds.
        methods: the fusion methods.
        seeds: one run a fold and seed.
        recipe: the budget, the same for every network and method.
        kind: classification, regression, or sentiment (regression in [-3, 3] with its customary classes).
        networks: class path of a modality's network; others are chosen by rank.
    """

    title: str
    samples: Samples
    protocol: Protocol
    methods: Sequence[MethodChoice]
    seeds: Sequence[int] = (0, 1, 2)
    recipe: Recipe = field(default_factory=Recipe)
    kind: Literal["classification", "regression", "sentiment"] = "classification"
    networks: Mapping[str, str] = field(default_factory=dict)

    @property
    def objective(self) -> Objective:
        """The loss and the metrics."""
        return Objective(self.kind, self.samples.n_outputs)

    @property
    def trainings(self) -> int:
        """How many networks are trained: two a modality and one a method, for each fold and seed."""
        rows = 2 * len(self.samples.modalities) + len(self.methods)
        return len(self.protocol.folds) * len(self.seeds) * rows

    def check(self) -> None:
        """Find what would fail later: leaks, unknown networks, options that a method does not take.

        Every network and method runs once, on two samples of zeros on the CPU, without a trace in torch's random state.

        Raises:
            DataError: the target does not fit the kind of task; networks are named for modalities that are not there.
            ProtocolError: a fold leaks.
            FusionInputError: a network or a method cannot be built, or cannot run.
        """
        if (self.kind != "classification") != self.samples.regression:
            what = "numbers" if self.samples.regression else "classes"
            raise DataError(f"{self.samples.name}: the target holds {what}, which does not fit {self.kind}")
        if unknown := sorted(set(self.networks) - set(self.samples.modalities)):
            raise DataError(
                f"network given for {unknown[0]!r}; the modalities are {', '.join(self.samples.modalities)}"
            )
        if not self.seeds:
            raise DataError("no seeds; one or more are needed")
        for fold in self.protocol.folds:
            check_fold(fold, self.samples)
            self._check_presence(fold)
        with torch.random.fork_rng(devices=[]):  # the check draws no number that a training would have drawn
            self._check_networks()

    def _check_networks(self) -> None:
        outputs, regression = self.samples.n_outputs, self.samples.regression
        networks = {
            name: network_for(value.shape[1:], outputs, class_path=self.networks.get(name))
            for name, value in self.samples.features.items()
        }
        for name, net in networks.items():
            path = self.networks.get(name, f"{type(net).__module__}.{type(net).__qualname__}")
            with _naming(f"network of modality {name!r} ({path})"):
                _check_shapes(net, torch.zeros(2, *self.samples.features[name].shape[1:]), outputs)
                self._run(FusedNetwork({name: net}, None, outputs=outputs, regression=regression), [name])
        for choice in self.methods:
            said = label({"method": choice.name, "options": choice.options})
            with _naming(f"method {said!r}", unless=f"{choice.name}: "):
                arguments: Any = {"outputs": outputs, "options": choice.options, "regression": regression}
                with torch.device("meta"):  # a fusion without memory: its size is seen before it is paid for
                    network = FusedNetwork(networks, choice.name, **arguments)
                count = sum(p.numel() for p in network.parameters())
                if count > MOST_PARAMETERS:
                    raise FusionInputError(f"{count:,} parameters: check its options")
                self._run(FusedNetwork(networks, choice.name, **arguments), self.samples.modalities)

    @torch.no_grad()
    def _run(self, network: FusedNetwork, modalities: Sequence[str]) -> None:
        """Predict two samples of zeros, and their loss."""
        network.eval()
        fused = network([torch.zeros(2, *self.samples.features[name].shape[1:]) for name in modalities])
        _check_shape("the prediction", fused.prediction, (2, network.outputs))
        target = torch.zeros(2, dtype=self.samples.target.dtype)
        network.training_loss(fused, target, None, self.objective.loss)

    def _check_presence(self, fold: Fold) -> None:
        """Each modality is there often enough to train its own network, and to choose its epoch."""
        for part, rows, least in (("training", fold.train, 2), ("validation", fold.validation, 1)):
            counts = self.samples.present[torch.from_numpy(rows)].sum(0).tolist()
            for name, count in zip(self.samples.modalities, counts, strict=True):
                if count < least:
                    raise ProtocolError(
                        f"fold {fold.index}: {count} {part} samples have modality {name!r}; {least} or more are needed"
                    )

    def config(self) -> dict[str, Any]:
        """What decides the results, as plain data."""
        samples, protocol, objective = self.samples, self.protocol, self.objective
        return {
            "title": self.title,
            "data": {
                "name": samples.name,
                "samples": len(samples),
                "modalities": {name: list(value.shape[1:]) for name, value in samples.features.items()},
                "classes": None if samples.classes is None else list(samples.classes),
                "groups": None if samples.groups is None else len(set(samples.groups)),
                "fingerprint": samples.fingerprint,
            },
            "protocol": {
                "name": protocol.name,
                "description": protocol.description,
                "citation": protocol.citation,
                "folds": len(protocol.folds),
            },
            "objective": {
                "kind": objective.kind,
                "score": objective.score,
                "higher_is_better": objective.higher_is_better,
                "epoch_chosen_by": "smallest validation loss of the task",
            },
            "methods": [asdict(choice) for choice in self.methods],
            "networks": dict(self.networks),
            "seeds": list(self.seeds),
            "recipe": asdict(self.recipe),
            "tuning": "none: defaults of the methods, or the options said here, and the same recipe",
        }


def compare(
    comparison: Comparison, out: str | Path, *, resume: bool = False, jobs: int | None = None, accelerator: str = "cpu"
) -> Table:
    """Run a comparison, or the rest of it, and write its table.

    Folds and seeds run side by side, one thread each. A killed run leaves a folder that ``resume`` goes on with.

    Args:
        comparison: what to compare.
        out: the result folder.
        resume: go on with what is there.
        jobs: processes; None = as many as there are cores to use.
        accelerator: of Lightning, "cpu", "gpu" or "auto".

    Raises:
        TorchmsafError: everything in :meth:`Comparison.check` before any training; ResultError when the folder cannot be
            used, or when a training failed.
    """
    if jobs is not None and jobs < 1:
        raise DataError(f"jobs is {jobs}; 1 or more is needed")
    if accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise DataError("accelerator is gpu, and torch finds none; cpu or auto is needed")
    comparison.check()
    splits = {str(fold.index): fold_ids(fold, comparison.samples) for fold in comparison.protocol.folds}
    folder = ResultFolder.create(out, comparison.config(), splits, _versions(accelerator), resume=resume)
    units = [
        Unit(
            folder=folder.path,
            samples=comparison.samples,
            fold=fold,
            seed=seed,
            methods=comparison.methods,
            objective=comparison.objective,
            recipe=comparison.recipe,
            networks=comparison.networks,
            accelerator=accelerator,
        )
        for seed in comparison.seeds
        for fold in comparison.protocol.folds
    ]
    with progress(folder.count, comparison.trainings):
        run_units(units, jobs)
    return write_tables(folder)


@torch.no_grad()
def _check_shapes(net: StagedNetwork, x: torch.Tensor, outputs: int) -> None:
    """What a network says of itself (``channels``, ``width``) is what comes out of its parts."""
    net.eval()
    for number, (stage, count) in enumerate(zip(net.stages, net.channels, strict=True)):
        x = stage(x)
        if x.dim() < 2 or tuple(x.shape[:2]) != (2, count):
            raise FusionInputError(
                f"channels[{number}] is {count}, and of 2 samples stage {number} makes maps {tuple(x.shape)}"
            )
    x = net.feature(x)
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
        said = " ".join(str(error).split())
        if not isinstance(error, TorchmsafError):
            said = f"{type(error).__name__}: {said}"
        elif unless is not None and said.startswith(unless):
            raise
        raise FusionInputError(f"{what}: {said}") from error


def _versions(accelerator: str) -> dict[str, Any]:
    names = ("torchmsaf", "torch", "lightning", "torchmetrics", "numpy", "scikit-learn", "safetensors")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "time": now,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "accelerator": accelerator,
        **versions,
    }
