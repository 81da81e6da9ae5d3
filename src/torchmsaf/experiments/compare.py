"""Compare fusion methods on the same networks, data and folds."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from torchmsaf.analysis.table import Table, label
from torchmsaf.backbones.by_rank import network_for
from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.data import Fold, Protocol, Samples, check_fold, fold_ids
from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.errors import DataError, FusionInputError, ProtocolError, TorchmsafError, in_one_line
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.progress import progress
from torchmsaf.experiments.results import ResultFolder, write_tables
from torchmsaf.experiments.unit import Setting, Unit, run_units
from torchmsaf.tasks.augment import Augmentation
from torchmsaf.tasks.model_file import load_pretrained, read_spec
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe

# more than a machine that compares can hold: a slip in the options of a method
MOST_PARAMETERS = 10**9
# of a sample, for which a check runs the networks on values
MOST_VALUES = 10**5


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
        network_options: further arguments of the networks in ``networks``.
        pretrained: file of weights that a modality's network begins with, in place of random ones.
        augment: what changes a modality's training samples.
        noise: standard deviations of the noise on test samples, in those of the training samples, 0 or more.
        top_k: further accuracies: the true class is among the k likeliest.
        about: what files of weights say of the task, as plain data.
    """

    title: str
    samples: Samples
    protocol: Protocol
    methods: Sequence[MethodChoice]
    seeds: Sequence[int] = (0, 1, 2)
    recipe: Recipe = field(default_factory=Recipe)
    kind: Literal["classification", "regression", "sentiment"] = "classification"
    networks: Mapping[str, str] = field(default_factory=dict)
    network_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pretrained: Mapping[str, str] = field(default_factory=dict)
    augment: Mapping[str, Augmentation] = field(default_factory=dict)
    noise: Sequence[float] = ()
    top_k: tuple[int, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def objective(self) -> Objective:
        """The loss and the metrics."""
        chosen_by: Literal["loss", "accuracy"] = "accuracy" if self.protocol.chosen_on_test else "loss"
        return Objective(self.kind, self.samples.n_outputs, top_k=self.top_k, chosen_by=chosen_by)

    @property
    def trainings(self) -> int:
        """How many networks are trained: two a modality and one a method, for each fold and seed."""
        rows = 2 * len(self.samples.modalities) + len(self.methods)
        return len(self.protocol.folds) * len(self.seeds) * rows

    def check(self) -> None:
        """Find what would fail later: leaks, unknown networks, options that a method does not take.

        Every network and method runs once, on two samples of zeros, without a trace in torch's random state.

        Raises:
            DataError: the target does not fit the kind of task; something is given for a modality that is not there.
            ProtocolError: a fold leaks.
            FusionInputError: a network or a method cannot be built, or cannot run.
        """
        if (self.kind != "classification") != self.samples.regression:
            what = "numbers" if self.samples.regression else "classes"
            raise DataError(f"{self.samples.name}: the target holds {what}, which does not fit {self.kind}")
        given = {"network": self.networks, "pretrained weights": self.pretrained, "augmentation": self.augment}
        for what, names in given.items():
            if unknown := sorted(set(names) - set(self.samples.modalities)):
                raise DataError(
                    f"{what} given for {unknown[0]!r}; the modalities are {', '.join(self.samples.modalities)}"
                )
        if bare := sorted(set(self.network_options) - set(self.networks)):
            raise DataError(f"network options given for {bare[0]!r}, whose network is chosen by rank and takes none")
        if wrong := [level for level in self.noise if not level >= 0 or math.isinf(level)]:
            raise DataError(f"noise of {wrong[0]}; numbers of 0 or more are needed")
        if not self.seeds:
            raise DataError("no seeds; one or more are needed")
        for fold in self.protocol.folds:
            check_fold(fold, self.samples, chosen_on_test=self.protocol.chosen_on_test)
            self._check_presence(fold)
        with torch.random.fork_rng(devices=[]):  # the check draws no number that a training would have drawn
            self._check_networks()

    def _check_networks(self) -> None:
        outputs, regression = self.samples.n_outputs, self.samples.regression
        networks = {
            name: network_for(
                value.shape[1:], outputs, class_path=self.networks.get(name), options=self.network_options.get(name)
            )
            for name, value in self.samples.features.items()
        }
        for name, path in self.pretrained.items():
            load_pretrained(networks[name], path, name, options=self.network_options.get(name, {}))
            self._check_seen(path)
        large = max(x.shape[1:].numel() for x in self.samples.features.values()) > MOST_VALUES
        device = "meta" if large else "cpu"  # shapes alone, where values would take long
        networks = {name: net.to(device) for name, net in networks.items()}
        for name, net in networks.items():
            path = self.networks.get(name, f"{type(net).__module__}.{type(net).__qualname__}")
            with _naming(f"network of modality {name!r} ({path})"), torch.device(device):
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
                with torch.device(device):
                    self._run(FusedNetwork(networks, choice.name, **arguments), self.samples.modalities)

    @torch.no_grad()
    def _run(self, network: FusedNetwork, modalities: Sequence[str]) -> None:
        """Predict two samples of zeros, and their loss, on torch's default device."""
        network.eval()
        fused = network([torch.zeros(2, *self.samples.features[name].shape[1:]) for name in modalities])
        _check_shape("the prediction", fused.prediction, (2, network.outputs))
        target = torch.zeros(2, dtype=self.samples.target.dtype)
        network.training_loss(fused, target, None, self.objective.loss)

    def _check_seen(self, path: str) -> None:
        """Pretrained weights have not seen anybody who tests."""
        spec = read_spec(path)
        if self.protocol.chosen_on_test and "released" in spec.about:
            return  # as the published code begins
        seen, groups = set(spec.seen.get(self.samples.name, ())), self.samples.groups or ("",) * len(self.samples)
        for fold in self.protocol.folds:
            both = seen & {groups[row] for row in fold.test}
            if both:
                raise ProtocolError(
                    f"{path} was trained, or its epoch chosen, on {', '.join(natural_sorted(both)[:5])}, which test in fold "
                    f"{fold.index}: use weights that have not seen them"
                )

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
                **({"chosen_on_test": True} if protocol.chosen_on_test else {}),
            },
            "objective": {
                "kind": objective.kind,
                "score": objective.score,
                "higher_is_better": objective.higher_is_better,
                "epoch_chosen_by": {
                    "loss": "smallest validation loss of the task",
                    "accuracy": "largest accuracy on the test samples",
                }[objective.chosen_by],
            },
            "methods": [asdict(choice) for choice in self.methods],
            "networks": dict(self.networks),
            **{name: value for name, value in self._further() if value},
            "seeds": list(self.seeds),
            "recipe": asdict(self.recipe),
            "tuning": "none: defaults of the methods, or the options said here, and the same recipe",
        }

    def _further(self) -> Iterator[tuple[str, Any]]:
        """Settings that many comparisons do not have."""
        yield "network_options", {name: dict(options) for name, options in self.network_options.items()}
        yield "pretrained", {name: _digest(path) for name, path in self.pretrained.items()}
        yield "augment", {name: repr(change) for name, change in self.augment.items()}
        yield "noise", list(self.noise)
        yield "top_k", list(self.top_k)
        yield "about", dict(self.about)


def compare(
    comparison: Comparison,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int | None = None,
    threads: int = 1,
    accelerator: str = "cpu",
) -> Table:
    """Run a comparison, or the rest of it, and write its table.

    Folds and seeds run side by side. A killed run leaves a folder that ``resume`` goes on with.

    Args:
        comparison: what to compare.
        out: the result folder.
        resume: go on with what is there.
        jobs: processes; None = as many as there are cores to use.
        threads: of each process. More than one pays for large networks alone, and with as many jobs as the cores allow:
            small operations are many times slower when threads of several processes share the cores.
        accelerator: of Lightning, "cpu", "gpu" or "auto".

    Raises:
        TorchmsafError: everything in :meth:`Comparison.check` before any training; ResultError when the folder cannot be
            used, or when a training failed.
    """
    for name, number in (("jobs", jobs), ("threads", threads)):
        if number is not None and number < 1:
            raise DataError(f"{name} is {number}; 1 or more is needed")
    if accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise DataError("accelerator is gpu, and torch finds none; cpu or auto is needed")
    comparison.check()
    splits = {str(fold.index): fold_ids(fold, comparison.samples) for fold in comparison.protocol.folds}
    folder = ResultFolder.create(out, comparison.config(), splits, _versions(accelerator), resume=resume)
    setting = Setting(
        methods=comparison.methods,
        objective=comparison.objective,
        recipe=comparison.recipe,
        networks=comparison.networks,
        network_options=comparison.network_options,
        pretrained=comparison.pretrained,
        augment=comparison.augment,
        noise=comparison.noise,
        about=comparison.about,
        threads=threads,
        accelerator=accelerator,
    )
    units = [
        Unit(
            folder=folder.path,
            samples=comparison.samples,
            fold=fold,
            seed=seed,
            setting=setting,
        )
        for seed in comparison.seeds
        for fold in comparison.protocol.folds
    ]
    with progress(folder.count, comparison.trainings):
        run_units(units, jobs)
    return write_tables(folder)


def _digest(path: str) -> str:
    """What a file holds, whatever it is called."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@torch.no_grad()
def _check_shapes(net: StagedNetwork, x: torch.Tensor, outputs: int) -> None:
    """What a network says of itself (``channels``, ``width``) is what comes out of its parts."""
    net.eval()
    stages: list[Callable[[torch.Tensor], torch.Tensor]] = list(net.stages)
    for number, (stage, count) in enumerate(zip(stages, net.channels, strict=True)):
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
        said = in_one_line(error)
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
