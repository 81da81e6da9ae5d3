"""The command line. Commands import what they need when they run, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import os
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torchmsaf import __version__
from torchmsaf.errors import DataError, TorchmsafError, require

if TYPE_CHECKING:
    from torchmsaf.data import Samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 when it worked, 1 with a message when the input was wrong, 130 when interrupted.

    An option that does not exist, or a value of the wrong type, ends the process with 2, as argparse does.
    """
    options = _parser().parse_args(arguments)
    try:
        run: Any = options.run
        run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough: torchmsaf table ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except TorchmsafError as error:
        print(f"torchmsaf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("torchmsaf: interrupted; what is done is kept, and --resume goes on with it", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="torchmsaf", description="Multimodal fusion for networks you already have, and fair comparisons of it."
    )
    parser.add_argument("--version", action="version", version=f"torchmsaf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    compare = commands.add_parser("compare", help="compare fusion methods on the same networks, data and folds")
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

    table = commands.add_parser(
        "table", allow_abbrev=False, help="rebuild the table of a result folder, without training"
    )
    table.add_argument("folder", type=Path)
    table.add_argument("--format", choices=("text", "markdown", "html"), default="text", help="(default: text)")
    told = "the row that differences are to, by its name in the table (default: the best unimodal row by validation)"
    table.add_argument("--reference", help=told, metavar="ROW")
    told = "validation: scores to look for reasons in, which also chose the epochs (default: test)"
    table.add_argument("--part", choices=("test", "validation"), default="test", help=told)
    table.set_defaults(run=_table)

    methods = commands.add_parser("methods", help="the fusion methods")
    methods.set_defaults(run=_methods)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage of a command is a screen long."""

    def error(self, message: str) -> NoReturn:
        """End the process with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


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
    add("--network", "class path of a modality's network (default: by rank)", nargs="+", metavar="KEY=CLASS")


def _add_comparison(parser: argparse.ArgumentParser, name: str) -> None:
    """What every comparison has. An option that is not given is not in the result; defaults are in ``configs/``."""
    group = parser.add_argument_group("comparison")
    shipped = _shipped(name)

    def add(option: str, text: str, **settings: Any) -> None:
        default = shipped.get(option.removeprefix("--").replace("-", "_"))
        said = " ".join(default) if isinstance(default, list) else default
        text = text if default is None else f"{text} (default: {said})"
        group.add_argument(option, help=text, default=argparse.SUPPRESS, **settings)

    add("--config", "YAML with any of these options by name; the command line wins", type=Path)
    add("--out", f"result folder (default: runs/{name}, or the first free runs/{name}-2, …)", type=Path)
    add("--resume", "go on with an interrupted comparison in --out", action="store_true")
    every = "all is every one that fits the data" + ("" if "methods" in shipped else " (default: all)")
    add("--methods", f"name or name:option=value,…; {every}", nargs="+", metavar="METHOD")
    add("--folds", "folds, by whole groups where there are groups", type=int)
    add("--validation", "share of the training part that validates", type=float)
    add("--split-seed", "of the draw of folds and validation", type=int)
    add("--seeds", "number of runs a fold", type=int)
    add("--epochs", "budget of each training", type=int)
    add("--patience", "epochs without a better validation loss before it stops", type=int)
    add("--batch-size", "samples a batch", type=int)
    add("--learning-rate", "of Adam", type=float)
    add("--fusion-learning-rate", "of what the fusion adds (default: the same)", type=float)
    add("--weight-decay", "of Adam", type=float)
    add("--jobs", "processes (default: the cores there are)", type=int)
    add("--accelerator", "cpu, gpu or auto", choices=("cpu", "gpu", "auto"))


def _shipped(name: str) -> dict[str, Any]:
    """The options in ``configs/NAME.yaml``; none when YAML cannot be read, which :func:`_settings` says."""
    try:
        import yaml
    except ImportError:
        return {}
    text = resources.files("torchmsaf.configs").joinpath(f"{name}.yaml").read_text()
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def _settings(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """All options: from the command line, else from ``--config``, else as shipped, else None."""
    require("yaml", "compare")
    known = _ConfigParser(add_help=False, allow_abbrev=False)
    if name == "arrays":
        _add_arrays(known)
    _add_comparison(known, name)
    nothing = {action.dest: None for action in known._actions}
    config = getattr(options, "config", None)
    given = {} if config is None else known.read(config)
    return {**nothing, "resume": False, **_shipped(name), **given, **vars(options)}


class _ConfigParser(argparse.ArgumentParser):
    """Reads YAML as if its content had been given on the command line."""

    def read(self, path: Path) -> dict[str, Any]:
        """The options in a file."""
        import yaml

        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise DataError(f"{path} holds no options: lines like 'epochs: 10' are needed")
        words: list[str] = []
        for key, value in content.items():
            option = f"--{str(key).replace('_', '-')}"
            if option not in self._option_string_actions or option == "--config":
                near = difflib.get_close_matches(option, self._option_string_actions, n=1)
                hint = f" (did you mean {near[0].removeprefix('--').replace('-', '_')!r}?)" if near else ""
                raise DataError(f"{path}: no option is named {str(key)!r}{hint}")
            if isinstance(value, list):
                words += [option, *map(str, value)]
            elif value is True:
                words.append(option)
            elif value is not False and value is not None:
                words.append(f"{option}={value}")
        try:
            return vars(self.parse_args(words))
        except argparse.ArgumentError as error:
            raise DataError(f"{path}: {error}") from error

    def error(self, message: str) -> NoReturn:
        """As an exception, not as the end of the process."""
        raise argparse.ArgumentError(None, message)


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
    from torchmsaf.analysis.report import render_text
    from torchmsaf.data import make_protocol
    from torchmsaf.experiments import Comparison, choose_methods, compare
    from torchmsaf.tasks.recipe import Recipe

    if settings["resume"] and settings["out"] is None:
        raise DataError("--resume needs --out FOLDER: the comparison to go on with")
    networks = {}
    for text in settings.get("network") or ():
        modality, equals, path = text.partition("=")
        if not equals:
            raise DataError(f"--network {text!r}: expected KEY=package.module.Class")
        networks[modality] = path
    recipe = {one.name: settings[one.name] for one in dataclasses.fields(Recipe)}
    split = {"folds": settings["folds"], "validation": settings["validation"], "seed": settings["split_seed"]}
    comparison = Comparison(
        title=title,
        samples=samples,
        protocol=make_protocol(samples, **split),
        methods=choose_methods(settings["methods"], regression=samples.regression, modalities=len(samples.modalities)),
        seeds=tuple(range(settings["seeds"])),
        recipe=Recipe(**recipe),
        kind=kind,
        networks=networks,
    )
    out = settings["out"] or _free_folder(name)
    table = compare(
        comparison, out, resume=settings["resume"], jobs=settings["jobs"], accelerator=settings["accelerator"]
    )
    print(render_text(table), end="")
    print(f"Results: {out} (table.html, table.md; torchmsaf table {out} prints this again)", file=sys.stderr)


def _free_folder(name: str) -> Path:
    candidates = (Path("runs") / (name if k == 1 else f"{name}-{k}") for k in itertools.count(1))
    return next(path for path in candidates if not path.exists())


def _table(options: argparse.Namespace) -> None:
    from torchmsaf.analysis.report import render_html, render_markdown, render_text
    from torchmsaf.experiments.results import ResultFolder, make_table, write_tables

    folder = ResultFolder(options.folder)
    if options.reference is None and options.part == "test":
        table = write_tables(folder)
    else:  # the files in the folder stay those of the table by default
        table = make_table(folder, reference=options.reference, part=options.part)
    render = {"text": render_text, "markdown": render_markdown, "html": render_html}[options.format]
    print(render(table), end="")


def _methods(options: argparse.Namespace) -> None:
    from torchmsaf.fusion import list_fusions

    lines = [("method", "stage", "year", "modalities", "tasks", "paper")]
    for method in list_fusions():
        tasks = "classification, regression" if method.regression else "classification"
        lines.append((method.name, method.stage, str(method.year), method.modalities, tasks, method.paper))
    widths = [max(len(line[k]) for line in lines) + 2 for k in range(5)]
    for *cells, paper in lines:
        print("".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)) + paper)


if __name__ == "__main__":
    sys.exit(main())
