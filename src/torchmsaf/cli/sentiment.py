"""``torchmsaf compare sentiment`` and ``train sentiment``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmsaf.cli.running import copy_model, one_method, open_prepared, recipe_of, run
from torchmsaf.cli.settings import ConfigParser, add_rows, add_training, read_settings
from torchmsaf.errors import DataError

if TYPE_CHECKING:
    from torchmsaf.experiments import Comparison


def add_compare(compare: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf compare sentiment``."""
    _add_comparison(compare)
    compare.set_defaults(run=_compare)


def add_train(train: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf train sentiment``."""
    _add_one(train)
    train.set_defaults(run=_train)


def _add_data(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("data")
    told = "what torchmsaf prepare mosei, mosi, … wrote; needed"
    group.add_argument("--data", help=told, type=Path, metavar="FOLDER", default=argparse.SUPPRESS)
    return group


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    add_rows(parser, "sentiment")
    told = "MSAF with other block channels, BlockDropout and segments, one at a time; the values are our guesses"
    parser.add_argument("--ablation", help=told, action="store_true", default=argparse.SUPPRESS)
    add_training(parser, "sentiment")


def _add_one(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    group = parser.add_argument_group("one training")
    told = "name or name:option=value,… (default: msaf, with the paper's segments and BlockDropout)"
    group.add_argument("--method", help=told, default=argparse.SUPPRESS)
    group.add_argument("--seed", help="(default: 0)", type=int, default=argparse.SUPPRESS)
    add_training(parser, "sentiment")


def _read(options: argparse.Namespace, *, one: bool) -> dict[str, Any]:
    known = ConfigParser(add_help=False, allow_abbrev=False)
    (_add_one if one else _add_comparison)(known)
    settings = read_settings(known, options, "sentiment")
    prepared = open_prepared(settings["data"], made_by="torchmsaf prepare mosei", of="utterances")
    return {**settings, "prepared": prepared}


def _comparison(
    settings: dict[str, Any], methods: Sequence[str], seeds: Sequence[int], *, ablation: bool = False
) -> Comparison:
    from torchmsaf.data.sequences import modalities_of
    from torchmsaf.experiments import choose_methods
    from torchmsaf.experiments.sentiment import sentiment_comparison
    from torchmsaf.tasks.systems.registry import SYSTEMS

    prepared = settings["prepared"]
    regression = prepared.parameters.get("classes") is None
    named = modalities_of(prepared)
    if "methods" not in settings["given"]:  # those shipped are for three modalities
        methods = [text for text in methods if text not in SYSTEMS or SYSTEMS[text].takes(named)]
    return sentiment_comparison(
        prepared,
        choose_methods(methods, regression=regression, modalities=len(named), named=named),
        ablation=ablation,
        seeds=seeds,
        recipe=recipe_of(settings),
        noise=settings["noise"] or (),
    )


def _compare(options: argparse.Namespace) -> None:
    settings = _read(options, one=False)
    ablation = bool(settings["ablation"])
    # the ablation alone, unless methods are asked for beside it
    methods = [] if ablation and "methods" not in settings["given"] else settings["methods"]
    comparison = _comparison(settings, methods, range(settings["seeds"]), ablation=ablation)
    run(comparison, settings, "sentiment-ablation" if ablation else "sentiment")


def _train(options: argparse.Namespace) -> None:
    settings = _read(options, one=True)
    seed = settings["seed"] or 0
    if seed < 0:
        raise DataError(f"seed is {seed}; 0 or more is needed")
    comparison = _comparison(settings, [one_method(settings["method"] or "msaf")], [seed])
    folder = run(comparison, settings, f"sentiment-{comparison.methods[0].name}-seed-{seed}")
    copy_model(folder, comparison.methods[0])
