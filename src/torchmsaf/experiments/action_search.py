"""The search of MFAS on a comparison's own networks: they are trained alone, and stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from torchmsaf.backbones.staged import StagedNetwork
from torchmsaf.data.folds import Fold
from torchmsaf.data.whole_files import whole_file
from torchmsaf.errors import DataError, ProtocolError
from torchmsaf.experiments.compare import Comparison, compare
from torchmsaf.experiments.plain_data import difference, is_same, what_is_wrong
from torchmsaf.experiments.results import ResultFolder
from torchmsaf.experiments.search.candidate import FeaturePart
from torchmsaf.experiments.search.search import SearchResult, Tried, search
from torchmsaf.experiments.search.space import SearchSettings
from torchmsaf.tasks.batches import in_order, part_of
from torchmsaf.tasks.model_file import load_model
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.way import Way


def search_architecture(
    comparison: Comparison,
    out: str | Path,
    *,
    settings: SearchSettings | None = None,
    resume: bool = False,
    report: Callable[[Tried], None] | None = None,
    **running: Any,
) -> SearchResult:
    """Train the networks alone, then search for the best fusion of what they say at all their depths.

    Architectures are trained on the first fold's training samples and measured on its validation samples; test samples are
    not looked at. The folder gets the networks' own results, ``architectures.json`` with each one tried, from which a search
    that was cut off goes on, and ``search.json`` at its end.

    Args:
        comparison: its networks, data and first fold and seed; its methods do not count.
        out: the result folder.
        settings: of the search; None = the published ones.
        resume: go on with what is there. A search that shares layers begins anew, with the networks that are there.
        report: is called with each architecture that was tried.
        **running: ``jobs``, ``threads`` and ``accelerator`` of :func:`~torchmsaf.experiments.compare.compare`.

    Raises:
        ProtocolError: the protocol validates on test samples.
        DataError: a modality is absent from some samples, or is standardized in memory, or there is one modality alone;
            with ``resume``, the folder has another search, or one that would begin anew.
        TorchmsafError: as :func:`~torchmsaf.experiments.compare.compare`.
    """
    samples = comparison.samples
    if comparison.protocol.chosen_on_test:
        raise ProtocolError(
            f"protocol {comparison.protocol.name} validates on test samples, and the search would choose on them: use "
            "another"
        )
    if samples.regression or len(samples.modalities) < 2 or not bool(samples.present.all()):
        raise DataError(
            f"{samples.name}: a search is of two or more modalities that every sample has: prepare rgb and skeleton"
        )
    if any(isinstance(x, Tensor) for x in samples.features.values()):
        raise DataError(f"{samples.name}: a search needs prepared clips, and these are arrays")
    chosen = settings or SearchSettings()
    if resume:
        _check_same(Path(out), chosen)
    fold = comparison.protocol.folds[0]
    alone = replace(
        comparison,
        methods=[],
        seeds=comparison.seeds[:1],
        protocol=replace(comparison.protocol, folds=(fold,)),
        title=f"{comparison.title}: networks of a search",
    )
    compare(alone, out, resume=resume, **running)
    train, dev = _features(alone, ResultFolder(out), fold)
    record = None if chosen.share else Path(out) / "architectures.json"
    if not resume and record is not None:
        record.unlink(missing_ok=True)
    found = search(train, dev, classes=samples.n_outputs, settings=chosen, record=record, report=report)
    with whole_file(Path(out) / "search.json") as part:
        part.write_text(json.dumps(found.plain(), indent=1) + "\n", encoding="utf-8")
    return found


def _check_same(out: Path, settings: SearchSettings) -> None:
    """Refuse to put the result of another search in place of what is there."""
    path = out / "search.json"
    if settings.share:
        if there := [one.name for one in (path, out / "architectures.json") if one.exists()]:
            raise DataError(
                f"{out} has {there[0]} already, and a search that shares layers (--share) does not go on, as its layers "
                "are not kept: choose another --out"
            )
        return
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); delete it, or choose another --out") from error
    if (wrong := what_is_wrong(found, {"settings": dict})) is not None:
        raise DataError(f"{path} is not the result of a search: {wrong}; delete it, or choose another --out")
    if not is_same(found["settings"], asdict(settings)):
        raise DataError(
            f"{path}: of another search ({difference(found['settings'], asdict(settings))[1:]}); choose another --out"
        )


def _features(comparison: Comparison, folder: ResultFolder, fold: Fold) -> tuple[FeaturePart, FeaturePart]:
    """What the trained networks say of training and validation samples."""
    samples = comparison.samples
    read: list[list[dict[str, Tensor]]] = [[], []]
    weights = {one["modality"]: folder.path / one["weights"] for one in folder.records() if one["stage"] == "unimodal"}
    for name in samples.modalities:
        model, _ = load_model(weights[name])
        net = cast(StagedNetwork, next(iter(cast(FusedNetwork, model).networks.values())))
        for part, rows in zip(read, (fold.train, fold.validation), strict=True):
            part.append(_read(net, comparison, name, torch.from_numpy(rows)))
    train, dev = (
        FeaturePart(features, samples.target[torch.from_numpy(rows)])
        for features, rows in zip(read, (fold.train, fold.validation), strict=True)
    )
    return train, dev


@torch.no_grad()
def _read(net: StagedNetwork, comparison: Comparison, name: str, rows: Tensor) -> dict[str, Tensor]:
    samples = comparison.samples
    lengths = samples.lengths.get(name)
    part = part_of([samples.features[name]], samples.target, samples.present[:, :1], rows, [lengths])
    batches: list[dict[str, Tensor]] = []
    for batch in in_order(part):
        (x,), (own,) = batch.inputs, batch.lengths
        batches.append(Way(net, None, own if net.takes_lengths else None, len(x), x.device).read(x))
    return {tap: torch.cat([one[tap] for one in batches]) for tap in batches[0]}
