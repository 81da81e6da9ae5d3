"""Folds and seeds of a comparison: what one needs, and running them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchmsaf.data import Fold, Samples
from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.data.stored import StoredFeatures
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.results import ResultFolder
from torchmsaf.tasks.augment import Augmentation
from torchmsaf.tasks.network import Decision
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Setting:
    """What is the same for all folds and seeds of a comparison.

    Attributes:
        methods: what to compare.
        objective: loss and metrics, its target not yet standardized.
        recipe: the budget of each of the two trainings that every row of the table has.
        networks: class path of a modality's network; others are chosen by rank.
        network_options: further arguments of a modality's network.
        pretrained: file of weights that a modality's start begins with, in place of random ones.
        augment: what changes a modality's training samples.
        noise: standard deviations of the noise that test samples get, in those of the training samples.
        about: what files of weights say of the task, as plain data.
        starts: every row begins with the weights of unimodal networks, which are trained first; else with random ones.
        decision: as in :class:`~torchmsaf.tasks.network.FusedNetwork`.
        scale_target: models train on a regression target of zero mean and unit deviation; else on it as it is.
        threads: of the process.
        accelerator: of Lightning.
    """

    methods: Sequence[MethodChoice]
    objective: Objective
    recipe: Recipe
    networks: Mapping[str, str] = field(default_factory=dict)
    network_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pretrained: Mapping[str, str] = field(default_factory=dict)
    augment: Mapping[str, Augmentation] = field(default_factory=dict)
    noise: Sequence[float] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    starts: bool = True
    decision: Decision = "product"
    scale_target: bool = True
    threads: int = 1
    accelerator: str = "cpu"


@dataclass(frozen=True, eq=False)
class Unit:
    """What one fold and seed needs.

    Attributes:
        folder: the result folder.
        samples: the data.
        fold: its rows.
        seed: of this run.
        setting: of the comparison.
    """

    folder: Path
    samples: Samples
    fold: Fold
    seed: int
    setting: Setting


def run_units(units: Sequence[Unit], jobs: int | None) -> None:
    """Run units side by side.

    Args:
        units: what to run.
        jobs: processes; None = as many as there are cores to use. One runs in this process.

    Raises:
        ResultError: a training failed, or a process was killed.
    """
    if jobs == 1 or len(units) == 1:
        for unit in units:
            run_unit(unit)
        return
    tasks = [{**vars(unit), "samples": _as_arrays(unit.samples)} for unit in units]
    run_tasks(_run_apart, tasks, jobs, advice="go on with --resume and fewer --jobs")


def _run_apart(fields: dict[str, Any]) -> None:
    run_unit(Unit(**{**fields, "samples": _as_samples(fields["samples"])}))


def _as_arrays(samples: Samples) -> dict[str, Any]:
    features = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in samples.features.items()}
    lengths = {name: own.numpy() for name, own in samples.lengths.items()}
    plain = {"target": samples.target.numpy(), "present": samples.present.numpy(), "lengths": lengths}
    return {**vars(samples), "features": features, **plain}


def _as_samples(arrays: dict[str, Any]) -> Samples:
    given = arrays["features"].items()
    features = {name: x if isinstance(x, StoredFeatures) else torch.from_numpy(x) for name, x in given}
    target, present = torch.from_numpy(arrays["target"]), torch.from_numpy(arrays["present"])
    lengths = {name: torch.from_numpy(own) for name, own in arrays["lengths"].items()}
    return Samples(**{**arrays, "features": features, "target": target, "present": present, "lengths": lengths})


def run_unit(unit: Unit) -> None:
    """Train what is not on record yet, and put it there.

    With ``starts`` every row of the table gets two trainings with the same budget: the unimodal networks from random
    weights, then the row's own network (a unimodal one again, or all of them with a fusion) from their weights; a published
    system, which has other encoders, gets one. Without, every row gets one, from random weights.
    """
    # Lightning takes seconds to import: a process that only hands out units does not need it
    from torchmsaf.experiments.runner import Runner

    torch.set_num_threads(unit.setting.threads)
    with ResultFolder(unit.folder).unit(unit.fold.index, unit.seed) as file:
        runner = Runner(unit, file)
        for modality in unit.samples.modalities if unit.setting.starts else ():
            runner.start(modality)
        for modality in unit.samples.modalities:
            runner.unimodal(modality)
        for choice in unit.setting.methods:
            runner.method(choice)
