"""``torchmsaf compare action`` and ``train action``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmsaf.cli.running import (
    by_modality,
    copy_model,
    one_method,
    open_prepared,
    recipe_of,
    run,
    train_all_epochs,
)
from torchmsaf.cli.settings import ConfigParser, add_rows, add_training, read_settings
from torchmsaf.errors import DataError

if TYPE_CHECKING:
    from torchmsaf.data import Samples
    from torchmsaf.experiments import Comparison

# of clips of NTU RGB+D alone, and of files of arrays alone
_OF_CLIPS = ("rgb", "preset", "protocol", "persons", "draw", "checkpointing", "pretrained", "placement")
_OF_ARRAYS = ("target", "group", "split", "modalities", "missing", "folds", "validation", "split_seed")
# the two optimizers of the published code, their learning rate, and when it is lowered
_PUBLISHED = {
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "decay_epochs": [5, 20],
    "batch_size": 4,
    "epochs": 20,
    "alternate": True,
}


def add_compare(compare: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf compare action``."""
    _add_comparison(compare)
    compare.set_defaults(run=_compare)


def add_train(train: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf train action``."""
    _add_one(train)
    train.set_defaults(run=_train)


def add_task(parser: argparse.ArgumentParser) -> None:
    """What everything on actions has beside what every training has."""
    group = parser.add_argument_group("data and networks")

    def add(option: str, text: str, **settings: Any) -> None:
        group.add_argument(option, help=text, default=argparse.SUPPRESS, **settings)

    told = "what torchmsaf prepare ntu wrote; or other skeletons as one .npz or .safetensors file; needed"
    add("--data", told, type=Path, metavar="FOLDER|FILE")
    add("--rgb", "network of the frames (default: i3d)", choices=("i3d", "resnet50"))
    add("--preset", "whose networks (default: that of the data's frames)", choices=("full", "small"))
    told = "published chooses epochs on test subjects (default: cross-subject)"
    add("--protocol", told, choices=("cross-subject", "cross-view", "cross-setup", "published"))
    add("--persons", "of a scene, each an input of its own to the fusion (default: 2)", type=int)
    told = "what is drawn anew in training: part of the time, crop and flip; the published code's; or nothing"
    add("--draw", f"{told} (default: random)", choices=("random", "published", "none"))
    told = "published: two optimizers on the networks' own losses, its rates and epochs (default: paper)"
    add("--recipe", told, choices=("paper", "published"))
    add("--checkpointing", "RGB network: less memory, more time", action="store_true")
    add("--pretrained", "models that networks begin with", nargs="+", metavar="MODALITY=FILE")
    arrays = parser.add_argument_group("a file of arrays")

    def add_array(option: str, text: str, **settings: Any) -> None:
        arrays.add_argument(option, help=text, default=argparse.SUPPRESS, **settings)

    add_array("--target", "key of the classes (default: label)", metavar="KEY")
    add_array("--group", "key of the subjects: never shared between train and test", metavar="KEY")
    add_array("--split", "key of the shipped split, train, validation, test", metavar="KEY")
    add_array(
        "--modalities", "in order (default: every array of numbers with two or more axes)", nargs="+", metavar="KEY"
    )
    add_array("--missing", "nan: rows with NaN lack the modality (default: error)", choices=("error", "nan"))
    add_array("--folds", "by whole groups where there are groups (default: 5)", type=int)
    add_array("--validation", "share of the training part that validates (default: 0.2)", type=float)
    add_array("--split-seed", "of the draw of folds and validation (default: 0)", type=int)


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    add_rows(parser, "action")
    told = "MSAF early, intermediate and late, alone and together (Table 5)"
    parser.add_argument("--placement", help=told, action="store_true", default=argparse.SUPPRESS)
    add_training(parser, "action")


def _add_one(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    group = parser.add_argument_group("one training")
    told = "name or name:option=value,… (default: msaf, with the paper's lambda)"
    group.add_argument("--method", help=told, default=argparse.SUPPRESS)
    group.add_argument("--seed", help="(default: 0)", type=int, default=argparse.SUPPRESS)
    add_training(parser, "action")


def read(known: ConfigParser, options: argparse.Namespace, *, arrays: bool = True) -> dict[str, Any]:
    """All settings; those shipped depend on the preset, and so on the data.

    Args:
        known: has all options of the command.
        options: from the command line.
        arrays: a file of arrays does too, for messages.
    """
    settings = read_settings(known, options, "action")
    path = settings["data"]
    if path is None:
        told = "a .npz or .safetensors file, or a folder of .npy, with skeletons"
        raise DataError(f"--data FOLDER is needed: what torchmsaf prepare ntu wrote{f'; or {told}' if arrays else ''}")
    if is_arrays(path):
        _refuse(settings, _OF_CLIPS, "clips of NTU RGB+D, and --data is a file of arrays")
        settings = {**read_settings(known, options, "action-small"), "prepared": None}
    else:
        from torchmsaf.tasks.action import preset_of

        _refuse(
            settings, _OF_ARRAYS, "a file of arrays, and --data is a folder of clips, whose split is the --protocol's"
        )
        prepared = open_prepared(path, made_by="torchmsaf prepare ntu", of="clips")
        preset = settings["preset"] or preset_of(prepared.parameters)
        name = "action" if preset == "full" else f"action-{preset}"
        settings = {**read_settings(known, options, name), "prepared": prepared, "preset": preset}
    if settings["recipe"] == "published":
        settings |= {name: value for name, value in _PUBLISHED.items() if name not in settings["given"]}
    if "published" in (settings["recipe"], settings["protocol"]):
        train_all_epochs(settings)
    return settings


def is_arrays(path: Path) -> bool:
    """Whether ``--data`` is arrays and not prepared clips."""
    return path.suffix in (".npz", ".safetensors") or any(path.glob("*.npy"))


def comparison_of(
    settings: dict[str, Any],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    placement: bool = False,
    one_fold: bool = False,
) -> Comparison:
    """The comparison that settings say; of arrays, all their folds or the first."""
    from torchmsaf.data.actions import action_modalities
    from torchmsaf.data.skeleton_arrays import load_skeletons
    from torchmsaf.experiments.action import action_comparison, array_actions
    from torchmsaf.experiments.methods import fitting_methods

    prepared = settings["prepared"]
    samples = None
    if prepared is None:
        keys = ("target", "group", "split", "modalities", "missing")
        given = {key: settings[key] for key in keys if settings[key] is not None}
        samples = load_skeletons(settings["data"], **given)
        _check_split(samples, settings["given"])
        shapes = {name: tuple(x.shape[1:]) for name, x in samples.features.items()}
    else:
        shapes = {name: tuple(prepared.entries[0].shapes[name]) for name in action_modalities(prepared)}
    shipped = not {"methods", "method"} & settings["given"]
    chosen, left_out = fitting_methods(methods, shapes, shipped=shipped)
    for why, names in left_out.items():
        print(f"Left out: {', '.join(names)} ({why})", file=sys.stderr)
    more: dict[str, Any] = {
        "seeds": seeds,
        "recipe": recipe_of(settings),
        "noise": settings["noise"] or (),
    }
    if samples is not None:
        split = {key: settings[key] for key in ("folds", "validation", "split_seed") if settings[key] is not None}
        return array_actions(samples, chosen, one_fold=one_fold, **split, **more)
    return action_comparison(
        prepared,
        chosen,
        rgb=settings["rgb"] or "i3d",
        preset=settings["preset"],
        protocol=settings["protocol"] or "cross-subject",
        persons=2 if settings["persons"] is None else settings["persons"],
        draw=settings["draw"],
        placement=placement,
        checkpointing=bool(settings["checkpointing"]),
        pretrained=by_modality(settings["pretrained"], "--pretrained", "rgb=FILE or skeleton=FILE"),
        **more,
    )


def _refuse(settings: dict[str, Any], names: Sequence[str], why: str) -> None:
    if given := [name for name in names if name in settings["given"]]:
        raise DataError(f"--{given[0].replace('_', '-')} is for {why}")


def _check_split(samples: Samples, given: Collection[str]) -> None:
    """Refuse options of the draw of folds that a shipped split makes idle."""
    if samples.parts is None:
        return
    if "folds" in given:
        raise DataError(
            "--folds is for data without a split, and --split names one, which is one fold: give one of them"
        )
    drawn = [name for name in ("validation", "split_seed") if name in given]
    if drawn and "validation" in samples.parts:
        option = drawn[0].replace("_", "-")
        raise DataError(
            f"--{option} is for splits without a validation part, and that of --split has one: leave it out"
        )


def _compare(options: argparse.Namespace) -> None:
    known = ConfigParser(add_help=False, allow_abbrev=False)
    _add_comparison(known)
    settings = read(known, options)
    placement = bool(settings["placement"])
    # the places alone, unless methods are asked for beside them
    methods = [] if placement and "methods" not in settings["given"] else settings["methods"]
    comparison = comparison_of(settings, methods, range(settings["seeds"]), placement=placement)
    run(comparison, settings, "action-placement" if placement else "action")


def _train(options: argparse.Namespace) -> None:
    known = ConfigParser(add_help=False, allow_abbrev=False)
    _add_one(known)
    settings = read(known, options)
    seed = settings["seed"] or 0
    if seed < 0:
        raise DataError(f"seed is {seed}; 0 or more is needed")
    method = one_method(settings["method"] or "msaf")
    given = settings["given"] | {"method"}
    comparison = comparison_of({**settings, "given": given}, [method], [seed], one_fold=True)
    folder = run(comparison, settings, f"action-{comparison.methods[0].name}-seed-{seed}")
    copy_model(folder, comparison.methods[0])
