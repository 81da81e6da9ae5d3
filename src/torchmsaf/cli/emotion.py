"""``torchmsaf compare emotion`` and ``train emotion``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmsaf.cli.running import by_modality, copy_model, one_method, open_prepared, recipe_of, run, train_all_epochs
from torchmsaf.cli.settings import ConfigParser, add_rows, add_training, read_settings
from torchmsaf.errors import DataError, require

if TYPE_CHECKING:
    from torchmsaf.experiments import Comparison


def add_compare(compare: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf compare emotion``."""
    _add_task(compare)
    _add_comparison(compare)
    compare.set_defaults(run=_compare)


def add_train(train: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf train emotion``."""
    _add_task(train)
    _add_one(train)
    train.set_defaults(run=_train)


def _add_task(parser: argparse.ArgumentParser) -> None:
    """What a training of emotions has beside what every training has."""
    group = parser.add_argument_group("data and networks")

    def add(option: str, text: str, **settings: Any) -> None:
        group.add_argument(option, help=text, default=argparse.SUPPRESS, **settings)

    add("--data", "what torchmsaf prepare ravdess wrote; needed", type=Path, metavar="FOLDER")
    add(
        "--protocol", "published chooses epochs on test actors (default: leak-free)", choices=("leak-free", "published")
    )
    add("--preset", "whose networks (default: that of the data's frames)", choices=("full", "small"))
    add("--checkpointing", "video network: less memory, more time", action="store_true")
    add("--pretrained", "models that networks begin with", nargs="+", metavar="MODALITY=FILE")


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    add_rows(parser, "emotion")
    add_training(parser, "emotion")


def _add_one(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("one training")
    said = "name or name:option=value,… (default: msaf:block_dropout=0.2, as in the paper)"
    group.add_argument("--method", help=said, default=argparse.SUPPRESS)
    group.add_argument("--fold", help="0 to 5 (default: 0)", type=int, default=argparse.SUPPRESS)
    group.add_argument("--seed", help="(default: 0)", type=int, default=argparse.SUPPRESS)
    add_training(parser, "emotion")


def _read(options: argparse.Namespace, *, one: bool) -> dict[str, Any]:
    """All settings; those shipped depend on the preset, and so on the data."""
    from torchmsaf.tasks.emotion import preset_of

    known = ConfigParser(add_help=False, allow_abbrev=False)
    _add_task(known)
    (_add_one if one else _add_comparison)(known)
    settings = read_settings(known, options, "emotion")
    prepared = open_prepared(settings["data"], made_by="torchmsaf prepare ravdess", of="clips")
    preset = settings["preset"] or preset_of(prepared.parameters)
    name = "emotion" if preset == "full" else f"emotion-{preset}"
    settings = {**read_settings(known, options, name), "prepared": prepared, "preset": preset}
    if settings["protocol"] == "published":
        train_all_epochs(settings)
    if settings["threads"] is None:
        cores: int = require("joblib", "compare").cpu_count()
        settings["threads"] = max(1, cores // (settings["jobs"] or cores))
    return settings


def _comparison(settings: dict[str, Any], methods: Sequence[str], folds: Sequence[int] | None,
                seeds: Sequence[int]) -> Comparison:  # fmt: skip
    from torchmsaf.experiments import choose_methods
    from torchmsaf.experiments.emotion import emotion_comparison

    return emotion_comparison(
        settings["prepared"],
        choose_methods(methods, regression=False, modalities=2),
        preset=settings["preset"],
        protocol=settings["protocol"] or "leak-free",
        folds=folds,
        seeds=seeds,
        recipe=recipe_of(settings),
        checkpointing=bool(settings["checkpointing"]),
        pretrained=by_modality(settings["pretrained"], "--pretrained", "video=FILE or audio=FILE"),
        noise=settings.get("noise") or (),
    )


def _compare(options: argparse.Namespace) -> None:
    settings = _read(options, one=False)
    comparison = _comparison(settings, settings["methods"], settings["folds"], range(settings["seeds"]))
    run(comparison, settings, "emotion")


def _train(options: argparse.Namespace) -> None:
    settings = _read(options, one=True)
    method = one_method(settings["method"] or "msaf:block_dropout=0.2")
    fold, seed = settings["fold"] or 0, settings["seed"] or 0
    if seed < 0:
        raise DataError(f"seed is {seed}; 0 or more is needed")
    comparison = _comparison(settings, [method], [fold], [seed])
    folder = run(comparison, settings, f"emotion-{comparison.methods[0].name}-fold-{fold}")
    copy_model(folder, comparison.methods[0])
