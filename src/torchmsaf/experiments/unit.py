"""One fold and seed of a comparison: what it needs, and running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from torchmsaf.data import Fold, Samples
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.results import ResultFolder
from torchmsaf.tasks.augment import Augmentation
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


def run_unit(unit: Unit) -> None:
    """Train what is not on record yet, and put it there.

    Every row of the table gets two trainings with the same budget: the unimodal networks from random weights, then the
    row's own network (a unimodal one again, or all of them with a fusion) from their weights.
    """
    # Lightning takes seconds to import: a process that only hands out units does not need it
    from torchmsaf.experiments.runner import Runner

    torch.set_num_threads(unit.setting.threads)
    with ResultFolder(unit.folder).unit(unit.fold.index, unit.seed) as file:
        runner = Runner(unit, file)
        for modality in unit.samples.modalities:
            runner.start(modality)
        for modality in unit.samples.modalities:
            runner.unimodal(modality)
        for choice in unit.setting.methods:
            runner.method(choice)
