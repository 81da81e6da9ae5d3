"""A small comparison that trains in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchmsaf.analysis.table import Table
from torchmsaf.data import Samples, make_protocol, make_samples
from torchmsaf.experiments import Comparison, MethodChoice, compare
from torchmsaf.tasks.recipe import Recipe

ROWS = 48
METHODS = (MethodChoice("averaging"), MethodChoice("concat", {"hidden": [8]}), MethodChoice("msaf"))


def make(*, n: int = ROWS, groups: int | None = 8, absent: bool = False, noise: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(noise)
    target = torch.arange(n) % 3
    features = {
        "a": torch.randn(n, 4, generator=generator) + target[:, None],
        "b": torch.randn(n, 2, 6, generator=generator) + target[:, None, None],
    }
    present = torch.ones(n, 2, dtype=torch.bool)
    if absent:
        present[::5, 1] = False
        features["b"][::5] = 0
    return make_samples(
        "made-up",
        features,
        target,
        present=present,
        classes=("x", "y", "z"),
        groups=None if groups is None else [f"g{row % groups}" for row in range(n)],
    )


def comparison(samples: Samples | None = None, **changes: Any) -> Comparison:
    samples = samples or make()
    made = Comparison(
        title="Made up",
        samples=samples,
        protocol=make_protocol(samples, folds=2, validation=0.3),
        methods=METHODS,
        seeds=(0, 1),
        recipe=Recipe(epochs=2, patience=2, batch_size=8, learning_rate=1e-2),
    )
    return replace(made, **changes)


def run(out: Path, made: Comparison | None = None, *, resume: bool = False, jobs: int = 1) -> Table:
    return compare(made or comparison(), out, resume=resume, jobs=jobs)


def with_test_rows_of(samples: Samples, fold: int, other: Samples) -> tuple[Samples, Any]:
    """The same samples with the features and labels of one fold's test rows from another set, and the folds of the first."""
    protocol = make_protocol(samples, folds=2, validation=0.3)
    rows = torch.from_numpy(np.asarray(protocol.folds[fold].test))
    features = {name: value.clone() for name, value in samples.features.items()}
    for name, value in features.items():
        value[rows] = other.features[name][rows] * 100
    target = samples.target.clone()
    target[rows] = (target[rows] + 1) % 3
    changed = make_samples(
        samples.name, features, target, ids=samples.ids, classes=samples.classes, groups=samples.groups
    )
    return changed, protocol


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]
