"""The sequential search of MFAS: unfold, guess, draw, train, learn.

Perez-Rua, Vielzeuf, Pateux, Baccouche and Jurie, "MFAS: Multimodal Fusion Architecture Search", CVPR 2019, arXiv 1903.06496,
as github.com/juanmanpr/mfas has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchmsaf.data.whole_files import whole_file
from torchmsaf.errors import DataError, FusionInputError
from torchmsaf.experiments.plain_data import difference, is_same, what_is_wrong
from torchmsaf.experiments.search.candidate import Evaluator, FeaturePart
from torchmsaf.experiments.search.space import Architecture, FusionSpace, SearchSettings, draw
from torchmsaf.experiments.search.surrogate import Surrogate
from torchmsaf.fusion.mfas import write_architecture


@dataclass(frozen=True)
class Tried:
    """One architecture that was trained.

    Attributes:
        architecture: as :class:`torchmsaf.fusion.mfas.MFAS` takes it.
        accuracy: on the part that the search measures on, in [0, 1].
        predicted: what the surrogate had guessed; None in the first step, where nothing is known.
        iteration: counted from 0.
        level: the layer that was unfolded, counted from 0.
        number: of those of its step, counted from 1.
        of: how many its step has.
    """

    architecture: Architecture
    accuracy: float
    predicted: float | None
    iteration: int
    level: int
    number: int
    of: int


@dataclass(frozen=True)
class SearchResult:
    """All that a search tried.

    Attributes:
        tried: in order; one that was drawn again is there again.
        settings: of the search.
        places: names of the places of each modality, which the numbers of an architecture count.
    """

    tried: tuple[Tried, ...]
    settings: SearchSettings
    places: tuple[tuple[str, ...], ...]

    def ranked(self) -> list[tuple[Architecture, float]]:
        """Every architecture once, with its highest accuracy, the best first; of equals, the one with fewer layers."""
        best = _best(self.tried)
        return sorted(best.items(), key=lambda one: (-one[1], len(one[0])))

    @property
    def best(self) -> Architecture:
        """The most accurate architecture. As the best of many on one part, its accuracy there is too high a figure."""
        return self.ranked()[0][0]

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "best": write_architecture(self.best),
            "settings": asdict(self.settings),
            "places": [list(names) for names in self.places],
            "tried": [{**asdict(one), "architecture": write_architecture(one.architecture)} for one in self.tried],
        }


def search(
    train: FeaturePart,
    dev: FeaturePart,
    *,
    classes: int,
    settings: SearchSettings | None = None,
    activations: int = 2,
    record: Path | None = None,
    report: Callable[[Tried], None] | None = None,
) -> SearchResult:
    """Search for the architecture of a fusion.

    In the first step all architectures of one layer are trained. In every other step a layer of each kept architecture is
    unfolded into all that there are: the next layer in the first iteration, each layer anew in the later ones. A surrogate
    guesses their accuracies, ``settings.sampled`` of them are drawn by their guesses, trained and kept, and
    the surrogate learns from them. What is drawn gets closer to the best guesses from step to step.

    The networks are not trained, and the accuracy is that of the fusion's prediction alone.

    Args:
        train: what architectures are trained on.
        dev: what they are measured on; not the samples that are reported on in the end.
        classes: K.
        settings: how; None = the published ones.
        activations: how many are tried, see :class:`FusionSpace`.
        record: a JSON file of what was trained, written after each; a search that was cut off goes on from it. Not with
            ``share``, as the layers are not in the file.
        report: called with each architecture that was tried.

    Returns:
        All that was tried. The same on one machine for the same seed.

    Raises:
        DataError: vectors or classes that do not fit; a file of another search.
        FusionInputError: a file of a search that shares layers.
    """
    chosen = SearchSettings() if settings is None else settings
    places = _check_parts(train, dev, classes)
    space = FusionSpace(tuple(map(len, places)), activations)
    if record is not None and chosen.share:
        raise FusionInputError("a search that shares layers cannot go on from a file: leave out record, or share")
    evaluator = Evaluator(train, dev, classes, chosen)
    known = _Record(record, {} if record is None else _describe(train, dev, classes, chosen, activations))
    random = np.random.default_rng(chosen.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        surrogate = Surrogate(len(places) + 1, learning_rate=chosen.surrogate_rate)
    tried: list[Tried] = []
    kept: list[Architecture] = []
    for iteration in range(chosen.iterations):
        for level in range(chosen.levels):
            candidates = space.unfold(kept, level)
            heat = chosen.temperature(iteration, level)
            guesses = surrogate.predict(candidates) if tried else None
            rows = range(len(candidates)) if guesses is None else draw(guesses, chosen.sampled, heat, random)
            measured = []
            for number, row in enumerate(rows, 1):
                accuracy = known.get(candidates[row], evaluator)
                guess = None if guesses is None else guesses[row]
                measured.append(Tried(candidates[row], accuracy, guess, iteration, level, number, len(rows)))
                if report is not None:
                    report(measured[-1])
            if guesses is None:
                drawn = draw([one.accuracy for one in measured], chosen.sampled, heat, random)
                kept = [measured[row].architecture for row in drawn]
            else:
                kept = [one.architecture for one in measured]
            tried += measured
            surrogate.learn(_best(tried), chosen.surrogate_epochs)
    return SearchResult(tuple(tried), chosen, places)


def _best(tried: Sequence[Tried]) -> dict[Architecture, float]:
    """The highest accuracy of each, in the order in which they were first tried."""
    best: dict[Architecture, float] = {}
    for one in tried:
        best[one.architecture] = max(one.accuracy, best.get(one.architecture, 0.0))
    return best


def _check_parts(train: FeaturePart, dev: FeaturePart, classes: int) -> tuple[tuple[str, ...], ...]:
    if len(train.features) != len(dev.features):
        raise DataError(f"train has {len(train.features)} modalities and dev {len(dev.features)}")
    for m, (own, other) in enumerate(zip(train.features, dev.features, strict=True)):
        here, there = ({name: x.shape[1:] for name, x in part.items()} for part in (own, other))
        if list(here.items()) != list(there.items()):
            raise DataError(f"modality {m}: train has {_widths(here)} and dev {_widths(there)}")
    train.check("train", classes)
    dev.check("dev", classes)
    return tuple(tuple(own) for own in train.features)


def _widths(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()) or "nothing"


def _describe(
    train: FeaturePart, dev: FeaturePart, classes: int, settings: SearchSettings, activations: int
) -> dict[str, Any]:
    """What the accuracies of a search follow from, as plain data."""
    sums = {}
    for what, part in (("train", train), ("dev", dev)):
        total = hashlib.sha256(part.target.cpu().numpy().tobytes())
        for m, own in enumerate(part.features):
            for name, x in own.items():
                total.update(f"{m} {name} {tuple(x.shape)}".encode())
                total.update(np.ascontiguousarray(x.detach().cpu().numpy()).data)
        sums[what] = total.hexdigest()
    return {"data": sums, "classes": classes, "activations": activations, "settings": asdict(settings)}


class _Record:
    """Accuracies that a file has already; each new one is written to it."""

    def __init__(self, path: Path | None, described: dict[str, Any]) -> None:
        self.path, self.described = path, described
        self.trained: dict[str, float] = {}
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as JSON ({error}); delete it, or name another file") from error
        wrong = what_is_wrong(found, {"search": dict, "trained": dict})
        if wrong is not None:
            raise DataError(f"{path}: not the file of a search: {wrong}; name another file")
        if not is_same(found["search"], described):
            raise DataError(
                f"{path}: of another search ({difference(found['search'], described)[1:]}); delete it, or name another file"
            )
        self.trained = {str(key): float(value) for key, value in found["trained"].items()}

    def get(self, architecture: Architecture, evaluator: Evaluator) -> float:
        """The accuracy of an architecture, which is trained if it has to be."""
        key = write_architecture(architecture)
        if key not in self.trained or evaluator.settings.share:
            self.trained[key] = evaluator.accuracy(architecture)
            if self.path is not None:
                with whole_file(self.path) as part:
                    part.write_text(json.dumps({"search": self.described, "trained": self.trained}, indent=1) + "\n")
        return self.trained[key]
