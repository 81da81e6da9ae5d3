"""``torchmsaf compare``, and its data sets in memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmsaf.cli import action, emotion, sentiment
from torchmsaf.cli.running import by_modality, recipe_of, run, train_all_epochs
from torchmsaf.cli.settings import ConfigParser, add_rows, add_split, add_training, read_settings
from torchmsaf.errors import DataError

if TYPE_CHECKING:
    from torchmsaf.data import Samples
    from torchmsaf.data.protocols import ProtocolName

# the protocols that other data of RAVDESS's actors can have
_RAVDESS: dict[str, ProtocolName] = {"ravdess-leak-free": "leak-free", "ravdess-published": "published"}


def add_compare(compare: argparse.ArgumentParser) -> None:
    """The data sets of ``torchmsaf compare``, and their options."""
    kinds = compare.add_subparsers(title="data", metavar="DATA", required=True)
    digits = kinds.add_parser(
        "digits",
        allow_abbrev=False,
        help="scikit-learn's handwritten digits, the left and the right half as two modalities",
        description="Real data that comes with scikit-learn: 1797 handwritten digits, the halves as two modalities.",
    )
    _add_comparison(digits, "digits")
    digits.set_defaults(run=_compare_digits)

    arrays = kinds.add_parser(
        "arrays",
        allow_abbrev=False,
        help="your own arrays: .npz, .safetensors, or a folder of .npy",
        description="Arrays (n, C), (n, C, T), (n, C, H, W) or (n, C, T, H, W), one a modality, channels second.",
    )
    arrays.add_argument("path", type=Path, help=".npz or .safetensors file, or a folder of .npy files")
    _add_arrays(arrays)
    _add_comparison(arrays, "arrays")
    arrays.set_defaults(run=_compare_arrays)

    emotion.add_compare(
        kinds.add_parser(
            "emotion",
            allow_abbrev=False,
            help="RAVDESS, the first application of the MSAF paper (Table 1)",
            description="Emotion recognition on prepared RAVDESS clips: 3D ResNeXt-50 for video, a 1D CNN for audio.",
        )
    )
    action.add_compare(
        kinds.add_parser(
            "action",
            allow_abbrev=False,
            help="NTU RGB+D, the third application of the MSAF paper (Table 3), and other skeletons",
            description="Actions of prepared clips: I3D or an inflated ResNet-50 for frames, HCN for skeletons, and MSAF "
            "between them with each person as an input of its own.",
        )
    )
    sentiment.add_compare(
        kinds.add_parser(
            "sentiment",
            allow_abbrev=False,
            help="CMU-MOSEI, the second application of the MSAF paper (Table 2), and sets like it",
            description="Sentiment of prepared utterances: two LSTMs a modality, MSAF between them, and published systems.",
        )
    )


def _add_arrays(parser: argparse.ArgumentParser) -> None:
    """What is in the arrays. An option that is not given is not in the result."""

    def add(name: str, text: str, **settings: Any) -> None:
        parser.add_argument(name, help=text, default=argparse.SUPPRESS, **settings)

    add("--target", "labels (whole numbers, text) or values (floats); needed", metavar="KEY")
    add("--modalities", "in order (default: every array of numbers with two or more axes)", nargs="+", metavar="KEY")
    add("--group", "actor, speaker, video: never shared between train and test", metavar="KEY")
    add("--group-pattern", "the part of each group value that is the group", metavar="REGEX")
    add("--ids", "unique names of the samples (default: row numbers)", metavar="KEY")
    add("--split", "shipped split (train/validation/test), or a template '{key}_{part}'", metavar="KEY")
    kinds = ("classification", "regression", "sentiment")
    add("--task", "(default: by the target's type); sentiment: values in [-3, 3]", choices=kinds)
    add("--missing", "nan: rows with NaN lack the modality (default: error)", choices=("error", "nan"))
    add("--protocol", "of RAVDESS, for groups that are its actors (default: --folds, drawn)", choices=tuple(_RAVDESS))
    add("--network", "class path of a modality's network (default: by rank)", nargs="+", metavar="KEY=CLASS")


def _add_comparison(parser: argparse.ArgumentParser, name: str) -> None:
    add_rows(parser, name)
    add_split(parser, name)
    add_training(parser, name)


def _settings(options: argparse.Namespace, name: str) -> dict[str, Any]:
    known = ConfigParser(add_help=False, allow_abbrev=False)
    if name == "arrays":
        _add_arrays(known)
    _add_comparison(known, name)
    return read_settings(known, options, name)


def _compare_digits(options: argparse.Namespace) -> None:
    from torchmsaf.data import load_digits

    settings = _settings(options, "digits")
    _compare(settings, "digits", load_digits(), "Handwritten digits, left and right halves", "classification")


def _compare_arrays(options: argparse.Namespace) -> None:
    from torchmsaf.data import load_arrays

    settings = _settings(options, "arrays")
    if settings["target"] is None:
        raise DataError("compare arrays needs --target KEY: the labels or the values")
    names = ("target", "modalities", "group", "group_pattern", "ids", "split", "missing")
    kind = settings["task"]
    regression = None if kind is None else kind != "classification"
    samples = load_arrays(settings["path"], regression=regression, **{name: settings[name] for name in names})
    kind = kind or ("regression" if samples.regression else "classification")
    _compare(settings, "arrays", samples, f"{samples.name}: {', '.join(samples.modalities)}", kind)


def _compare(settings: dict[str, Any], name: str, samples: Samples, title: str, kind: Any) -> None:
    from torchmsaf.data import make_protocol
    from torchmsaf.data.protocols import ravdess_protocol
    from torchmsaf.experiments import Comparison, choose_methods

    split = {"folds": settings["folds"], "validation": settings["validation"], "seed": settings["split_seed"]}
    protocol = settings.get("protocol")
    if protocol and (
        given := [key for key in ("folds", "validation", "split_seed", "split") if key in settings["given"]]
    ):
        raise DataError(f"--protocol says how to split, and so does --{given[0].replace('_', '-')}: give one of them")
    if protocol == "ravdess-published":
        train_all_epochs(settings)
    comparison = Comparison(
        title=f"{title}, protocol {protocol}" if protocol else title,
        samples=samples,
        protocol=ravdess_protocol(samples, _RAVDESS[protocol]) if protocol else make_protocol(samples, **split),
        methods=choose_methods(settings["methods"], regression=samples.regression, modalities=len(samples.modalities)),
        seeds=tuple(range(settings["seeds"])),
        recipe=recipe_of(settings),
        kind=kind,
        networks=by_modality(settings.get("network"), "--network", "KEY=package.module.Class"),
        noise=settings["noise"] or (),
    )
    run(comparison, settings, name)
