"""Compare fusion methods on the same networks, data and folds."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from torchmsaf.analysis.table import Table
from torchmsaf.data import Fold, Protocol, Samples, check_fold, fold_ids
from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.errors import DataError, ProtocolError
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.progress import progress
from torchmsaf.experiments.results import ResultFolder, write_tables
from torchmsaf.experiments.trial import check_networks
from torchmsaf.experiments.unit import Setting, Unit, run_units
from torchmsaf.tasks.augment import Augmentation
from torchmsaf.tasks.model_file import read_spec
from torchmsaf.tasks.network import Decision
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe


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
        starts: every row begins with the weights of unimodal networks, which are trained first; else with random ones.
        decision: how intermediate methods predict, as in :class:`~torchmsaf.tasks.network.FusedNetwork`.
        scale_target: models train on a regression target of zero mean and unit deviation; else on it as it is.
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
    starts: bool = True
    decision: Decision = "product"
    scale_target: bool = True

    @property
    def objective(self) -> Objective:
        """The loss and the metrics."""
        usual: Literal["loss", "accuracy"] = "accuracy" if self.protocol.chosen_on_test else "loss"
        chosen_by = self.protocol.chosen_by or usual
        return Objective(self.kind, self.samples.n_outputs, top_k=self.top_k, chosen_by=chosen_by)

    @property
    def trainings(self) -> int:
        """How many networks are trained: one or two a modality and one a method, for each fold and seed."""
        rows = (1 + self.starts) * len(self.samples.modalities) + len(self.methods)
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
        if self.pretrained and not self.starts:
            raise DataError("pretrained weights are given, and this comparison begins with random ones")
        if not self.seeds:
            raise DataError("no seeds; one or more are needed")
        for fold in self.protocol.folds:
            check_fold(fold, self.samples, chosen_on_test=self.protocol.chosen_on_test)
            self._check_presence(fold)
        with torch.random.fork_rng(devices=[]):  # the check draws no number that a training would have drawn
            check_networks(self)
            for path in self.pretrained.values():
                self._check_seen(path)

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
                "epoch_chosen_by": _chosen_by(objective.chosen_by, protocol.chosen_on_test),
            },
            "methods": [asdict(choice) for choice in self.methods],
            "networks": dict(self.networks),
            **{name: value for name, value in self._further() if value},
            "seeds": list(self.seeds),
            "recipe": asdict(self.recipe),
            "tuning": "none: defaults of the methods, or the options said here, and the same recipe, but for the batch size "
            "and learning rate of systems that have their own",
        }

    def _further(self) -> Iterator[tuple[str, Any]]:
        """Settings that many comparisons do not have."""
        yield "network_options", {name: dict(options) for name, options in self.network_options.items()}
        yield "pretrained", {name: _digest(path) for name, path in self.pretrained.items()}
        yield "augment", {name: repr(change) for name, change in self.augment.items()}
        yield "noise", list(self.noise)
        yield "top_k", list(self.top_k)
        yield "about", dict(self.about)
        yield "random_start", not self.starts
        yield "decision", "" if self.decision == "product" else self.decision
        yield "target_as_it_is", not self.scale_target


def _chosen_by(measure: str, on_test: bool) -> str:
    if not on_test:
        return {"loss": "smallest validation loss of the task", "accuracy": "largest validation accuracy"}[measure]
    return {"loss": "smallest loss on test samples", "accuracy": "largest accuracy on the test samples"}[measure]


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
        starts=comparison.starts,
        decision=comparison.decision,
        scale_target=comparison.scale_target,
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
