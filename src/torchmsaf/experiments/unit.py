"""One fold and seed of a comparison: what it needs, and running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from torchmsaf.data import Fold, Samples
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.results import ResultFolder
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Unit:
    """What one fold and seed needs.

    Attributes:
        folder: the result folder.
        samples: the data.
        fold: its rows.
        seed: of this run.
        methods: what to compare.
        objective: loss and metrics, its target not yet standardized.
        recipe: the budget of each of the two trainings that every row of the table has.
        networks: class path of a modality's network; others are chosen by rank.
        accelerator: of Lightning.
    """

    folder: Path
    samples: Samples
    fold: Fold
    seed: int
    methods: Sequence[MethodChoice]
    objective: Objective
    recipe: Recipe
    networks: Mapping[str, str]
    accelerator: str = "cpu"


def run_unit(unit: Unit) -> None:
    """Train what is not on record yet, and put it there.

    Every row of the table gets two trainings with the same budget: the unimodal networks from random weights, then the
    row's own network (a unimodal one again, or all of them with a fusion) from their weights.
    """
    # Lightning takes seconds to import: a process that only hands out units does not need it
    from torchmsaf.experiments.runner import Runner

    torch.set_num_threads(1)
    with ResultFolder(unit.folder).unit(unit.fold.index, unit.seed) as file:
        runner = Runner(unit, file)
        for modality in unit.samples.modalities:
            runner.start(modality)
        for modality in unit.samples.modalities:
            runner.unimodal(modality)
        for choice in unit.methods:
            runner.method(choice)
