"""The command line. Commands import what they need when they run, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmsaf import __version__
from torchmsaf.errors import TorchmsafError, require

if TYPE_CHECKING:
    from torchmsaf.data import Samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it worked, 1 with a message when the input was wrong, 130 when interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _use_config(parser, options, arguments)
        run: Any = options.run
        run(options)
    except TorchmsafError as error:
        print(f"torchmsaf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("torchmsaf: interrupted; what is done is kept, and --resume goes on with it", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchmsaf", description="Multimodal fusion for networks you already have, and fair comparisons of it."
    )
    parser.add_argument("--version", action="version", version=f"torchmsaf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    compare = commands.add_parser("compare", help="compare fusion methods on the same networks, data and folds")
    kinds = compare.add_subparsers(title="data", metavar="DATA", required=True)

    digits = kinds.add_parser(
        "digits",
        help="scikit-learn's handwritten digits, the left and the right half as two modalities",
        description="Real data that comes with scikit-learn: 1797 handwritten digits, the halves as two modalities.",
    )
    _add_comparison(digits)
    digits.set_defaults(run=_compare_digits, shipped="digits.yaml", name="digits")

    arrays = kinds.add_parser(
        "arrays",
        help="your own arrays: .npz, .safetensors, or a folder of .npy",
        description="Arrays (n, C), (n, C, T), (n, C, H, W) or (n, C, T, H, W), one a modality, channels second.",
    )
    arrays.add_argument("path", type=Path, help=".npz or .safetensors file, or a folder of .npy files")
    arrays.add_argument(
        "--target", required=True, metavar="KEY", help="labels (whole numbers, text) or values (floats)"
    )
    arrays.add_argument(
        "--modalities", nargs="+", metavar="KEY", help="in order (default: every array of the right length)"
    )
    arrays.add_argument("--group", metavar="KEY", help="actor, speaker, video: never shared between train and test")
    arrays.add_argument("--group-pattern", metavar="REGEX", help="the part of each group value that is the group")
    arrays.add_argument("--ids", metavar="KEY", help="unique names of the samples (default: row numbers)")
    arrays.add_argument(
        "--split", metavar="KEY", help="shipped split (train/validation/test), or a template '{key}_{part}'"
    )
    arrays.add_argument(
        "--task", choices=("classification", "regression", "sentiment"), help="default: by the target's type"
    )
    arrays.add_argument(
        "--missing", choices=("error", "nan"), default="error", help="nan: rows with NaN lack the modality"
    )
    arrays.add_argument(
        "--network", nargs="+", default=[], metavar="KEY=CLASS", help="class path of a modality's network"
    )
    _add_comparison(arrays)
    arrays.set_defaults(run=_compare_arrays, shipped="arrays.yaml", name="arrays")

    table = commands.add_parser("table", help="rebuild the table of a result folder, without training")
    table.add_argument("folder", type=Path)
    table.add_argument("--format", choices=("text", "markdown", "html"), default="text")
    table.set_defaults(run=_table)

    methods = commands.add_parser("methods", help="the fusion methods")
    methods.set_defaults(run=_methods)
    return parser


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    """The options that every comparison has; defaults are in ``configs/``."""
    group = parser.add_argument_group("comparison")
    group.add_argument("--config", type=Path, help="YAML with any of these options by name; the command line wins")
    group.add_argument("--out", type=Path, help="result folder (default: runs/NAME, or the first free runs/NAME-2, …)")
    group.add_argument("--resume", action="store_true", help="go on with an interrupted comparison in --out")
    group.add_argument("--methods", nargs="+", metavar="METHOD", help="name or name:option=value,… (default: all)")
    group.add_argument("--folds", type=_positive, help="folds, by whole groups where there are groups")
    group.add_argument("--validation", type=float, help="share of the training part that validates")
    group.add_argument("--seeds", type=_positive, help="number of runs a fold")
    group.add_argument("--split-seed", type=int, default=0, help="of the draw of folds and validation")
    group.add_argument("--epochs", type=_positive, help="budget of each training")
    group.add_argument("--patience", type=_positive, help="epochs without a better validation loss before it stops")
    group.add_argument("--batch-size", type=_positive)
    group.add_argument("--learning-rate", type=float)
    group.add_argument("--weight-decay", type=float, default=1e-4)
    group.add_argument("--jobs", type=_positive, help="processes (default: the cores there are)")
    group.add_argument("--accelerator", default="cpu", help="cpu, gpu or auto")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _use_config(parser: argparse.ArgumentParser, options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    """Fill in what the command line left out: from ``--config``, then from the command's own configuration."""
    if not hasattr(options, "shipped"):
        return
    yaml = require("yaml", "compare")
    from torchmsaf.errors import DataError

    text = resources.files("torchmsaf.configs").joinpath(options.shipped).read_text()
    settings: dict[str, Any] = yaml.safe_load(text)
    given: dict[str, Any] = {}
    if options.config is not None:
        if not options.config.is_file():
            raise DataError(f"{options.config}: no such configuration file")
        try:
            given = yaml.safe_load(options.config.read_text()) or {}
        except yaml.YAMLError as error:
            raise DataError(f"{options.config} is not YAML: {error}") from error
        unknown = sorted(set(given) - set(vars(options))) if isinstance(given, dict) else [str(given)]
        if unknown:
            raise DataError(f"{options.config}: no option is named {unknown[0]!r}")
    explicit = _given_on(parser, arguments)
    for name, value in {**settings, **given}.items():
        if name not in explicit:
            setattr(options, name, value)


def _given_on(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> set[str]:
    words = [word.split("=")[0] for word in (sys.argv[1:] if arguments is None else arguments)]
    return {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}


def _compare_digits(options: argparse.Namespace) -> None:
    from torchmsaf.data import load_digits

    _compare(options, load_digits(), "Handwritten digits, left and right halves", "classification", {})


def _compare_arrays(options: argparse.Namespace) -> None:
    from torchmsaf.data import load_arrays
    from torchmsaf.errors import DataError

    regression = None if options.task is None else options.task != "classification"
    samples = load_arrays(
        options.path,
        target=options.target,
        modalities=options.modalities,
        group=options.group,
        group_pattern=options.group_pattern,
        ids=options.ids,
        split=options.split,
        regression=regression,
        missing=options.missing,
    )
    networks = {}
    for text in options.network:
        name, equals, path = text.partition("=")
        if not equals:
            raise DataError(f"--network {text!r}: expected KEY=package.module.Class")
        networks[name] = path
    kind = options.task or ("regression" if samples.regression else "classification")
    _compare(options, samples, f"{samples.name}: {', '.join(samples.modalities)}", kind, networks)


def _compare(options: argparse.Namespace, samples: Samples, title: str, kind: Any, networks: dict[str, str]) -> None:
    from torchmsaf.analysis.report import render_text
    from torchmsaf.data import make_protocol
    from torchmsaf.experiments import Comparison, compare
    from torchmsaf.experiments.methods import choose_methods
    from torchmsaf.tasks.training import Recipe

    comparison = Comparison(
        title=title,
        samples=samples,
        protocol=make_protocol(samples, folds=options.folds, validation=options.validation, seed=options.split_seed),
        methods=choose_methods(options.methods, regression=samples.regression),
        seeds=tuple(range(options.seeds)),
        recipe=Recipe(
            epochs=options.epochs,
            patience=options.patience,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
        ),
        kind=kind,
        networks=networks,
    )
    out = options.out or _free_folder(options.name)
    table = compare(comparison, out, resume=options.resume, jobs=options.jobs, accelerator=options.accelerator)
    print(render_text(table))
    print(f"\nResults: {out} (table.html, table.md; torchmsaf table {out} prints this again)")


def _free_folder(name: str) -> Path:
    first = Path("runs") / name
    candidates = [first, *(Path("runs") / f"{name}-{k}" for k in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def _table(options: argparse.Namespace) -> None:
    from torchmsaf.analysis.report import render_html, render_markdown, render_text
    from torchmsaf.experiments.results import ResultFolder, write_tables

    table = write_tables(ResultFolder(options.folder))
    print({"text": render_text, "markdown": render_markdown, "html": render_html}[options.format](table))


def _methods(options: argparse.Namespace) -> None:
    from torchmsaf.fusion import list_fusions

    for method in list_fusions():
        tasks = "classification, regression" if method.regression else "classification"
        print(f"{method.name:<16}{method.stage:<14}{method.year or '':<6}{tasks:<28}{method.paper}")


if __name__ == "__main__":
    sys.exit(main())
