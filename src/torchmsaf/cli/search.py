"""``torchmsaf search action``: the architecture of a fusion, by MFAS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmsaf.cli import action
from torchmsaf.cli.settings import ConfigParser, add_training
from torchmsaf.errors import DataError

if TYPE_CHECKING:
    from torchmsaf.experiments.search.search import Tried
    from torchmsaf.experiments.search.space import SearchSettings

# options of the search, and what they are in SearchSettings
_SEARCH = ("levels", "iterations", "sampled", "search_epochs", "inner", "share")


def add_search(search: argparse.ArgumentParser) -> None:
    """The tasks of ``torchmsaf search``, and their options."""
    tasks = search.add_subparsers(title="tasks", metavar="TASK", required=True)
    parser = tasks.add_parser(
        "action",
        allow_abbrev=False,
        help="which depths of the networks to fuse, and how, for actions",
        description="The networks are trained alone; then many small fusions of what they say are trained on the training "
        "samples and measured on the validation samples. Test samples are not looked at but for the networks' own rows.",
    )
    _add(parser)
    parser.set_defaults(run=_search)


def _add(parser: argparse.ArgumentParser) -> None:
    action.add_task(parser)
    group = parser.add_argument_group("search (defaults: those of the published code)")

    def add(option: str, text: str, **settings: Any) -> None:
        group.add_argument(option, help=text, default=argparse.SUPPRESS, **settings)

    add("--levels", "layers of the largest architecture (default: 4)", type=int)
    add("--iterations", "rounds through the levels (default: 3)", type=int)
    add("--sampled", "architectures that are trained a step (default: 15)", type=int)
    add("--search-epochs", "of the training of one architecture (default: 3)", type=int)
    add("--inner", "width of its layers (default: 16)", type=int)
    add("--share", "layers start from those of the last architecture that had the same", action="store_true")
    add("--seed", "(default: 0)", type=int)
    add_training(parser, "action")


def _search(options: argparse.Namespace) -> None:
    from torchmsaf.experiments.action_search import search_architecture
    from torchmsaf.experiments.search.space import SearchSettings
    from torchmsaf.fusion.mfas import write_architecture

    known = ConfigParser(add_help=False, allow_abbrev=False)
    _add(known)
    settings = action.read(known, options, arrays=False)
    seed = settings["seed"] or 0
    chosen = {name.removeprefix("search_"): settings[name] for name in _SEARCH if settings[name] is not None}
    for name in _SEARCH:
        value = settings[name]
        if isinstance(value, int) and value < 1 and name != "share":
            raise DataError(f"--{name.replace('_', '-')} is {value}; 1 or more is needed")
    search_settings = SearchSettings(**chosen, seed=seed)
    if settings["resume"] and settings["out"] is None:
        raise DataError("--resume needs --out FOLDER: what to go on with")
    comparison = action.comparison_of({**settings, "given": settings["given"] | {"methods"}}, [], [seed])
    out = Path(settings["out"] or "runs/action-search")
    found = search_architecture(
        comparison,
        out,
        settings=search_settings,
        resume=settings["resume"],
        report=lambda tried: _report(tried, search_settings),
        jobs=settings["jobs"],
        threads=1 if settings["threads"] is None else settings["threads"],
        accelerator=settings["accelerator"],
    )
    print("The best on validation samples, by accuracy; as the best of many their figures are too high:")
    for architecture, accuracy in found.ranked()[:5]:
        print(f"  {100 * accuracy:5.1f} %  {write_architecture(architecture)}")
    places = "; ".join(
        f"{name}: {', '.join(f'{k} {place}' for k, place in enumerate(names))}"
        for name, names in zip(comparison.samples.modalities, found.places, strict=True)
    )
    print(f"Places: {places}; then 0 ReLU, 1 sigmoid")
    print(f"Compare it: --methods mfas:architecture={write_architecture(found.best)}")
    print(f"Results: {out} (search.json)", file=sys.stderr)


def _report(tried: Tried, settings: SearchSettings) -> None:
    from torchmsaf.fusion.mfas import write_architecture

    guess = "" if tried.predicted is None else f", guessed {100 * tried.predicted:.1f} %"
    print(
        f"round {tried.iteration + 1} of {settings.iterations}, level {tried.level + 1} of {settings.levels}, "
        f"{tried.number} of {tried.of}: {write_architecture(tried.architecture)}, "
        f"validation accuracy {100 * tried.accuracy:.1f} %{guess}",
        file=sys.stderr,
    )
