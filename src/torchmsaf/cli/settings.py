"""Options of a comparison: from the command line, from a file, or as shipped."""

from __future__ import annotations

import argparse
import difflib
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from torchmsaf.errors import DataError, require


def add_training(parser: argparse.ArgumentParser, name: str) -> None:
    """What every training has. An option that is not given is not in the result; defaults are in ``configs/``."""
    add = _Adder(parser.add_argument_group("training"), name)
    add("--config", "YAML with any of these options by name; the command line wins", type=Path)
    add("--out", f"result folder (default: runs/{name}, or the first free runs/{name}-2, …)", type=Path)
    add("--resume", "go on with what was interrupted in --out", action="store_true")
    add("--epochs", "budget of each training", type=int)
    add("--patience", "epochs without a better validation loss before it stops", type=int)
    add("--batch-size", "samples a batch", type=int)
    add("--learning-rate", "of Adam", type=float)
    add("--fusion-learning-rate", "of what the fusion adds (default: the same)", type=float)
    add("--weight-decay", "of Adam", type=float)
    add("--precision", "bf16: train in bfloat16 where that is safe (default: float32)", choices=("bf16",))
    add("--memory-format", "channels_last: faster for 3D networks on some machines", choices=("channels_last",))
    add("--jobs", "processes (default: the cores there are)", type=int)
    add("--threads", "threads a process (default: 1)", type=int)
    add("--accelerator", "cpu, gpu or auto", choices=("cpu", "gpu", "auto"))


def add_rows(parser: argparse.ArgumentParser, name: str) -> None:
    """What every comparison has beside that: methods and seeds."""
    add = _Adder(parser.add_argument_group("comparison"), name)
    every = "all is every one that fits the data" + ("" if "methods" in shipped(name) else " (default: all)")
    add("--methods", f"name or name:option=value,…; {every}", nargs="+", metavar="METHOD")
    add("--seeds", "number of runs a fold", type=int)
    told = "test with noise on one modality after the other, in standard deviations of its training samples"
    add("--noise", told, type=float, nargs="+", metavar="LEVEL")


def add_split(parser: argparse.ArgumentParser, name: str) -> None:
    """How the data are split, where no protocol says it."""
    add = _Adder(parser.add_argument_group("split"), name)
    add("--folds", "folds, by whole groups where there are groups", type=int)
    add("--validation", "share of the training part that validates", type=float)
    add("--split-seed", "of the draw of folds and validation", type=int)


class _Adder:
    """Adds options that say their shipped default, and leave no trace when they are not given."""

    def __init__(self, group: argparse._ArgumentGroup, name: str) -> None:
        self.group, self.shipped = group, shipped(name)

    def __call__(self, option: str, text: str, **settings: Any) -> None:
        default = self.shipped.get(option.removeprefix("--").replace("-", "_"))
        said = " ".join(map(str, default)) if isinstance(default, list) else default
        text = text if default is None else f"{text} (default: {said})"
        self.group.add_argument(option, help=text, default=argparse.SUPPRESS, **settings)


def shipped(name: str) -> dict[str, Any]:
    """The options in ``configs/NAME.yaml``; none when YAML cannot be read, which :func:`read_settings` says."""
    try:
        import yaml
    except ImportError:
        return {}
    text = resources.files("torchmsaf.configs").joinpath(f"{name}.yaml").read_text()
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def read_settings(parser: ConfigParser, options: argparse.Namespace, name: str) -> dict[str, Any]:
    """All options: from the command line, else from ``--config``, else as shipped under a name, else None.

    Args:
        parser: has all options of the command that a file may have.
        options: from the command line.
        name: of the shipped file.
    """
    require("yaml", "compare")
    nothing = {action.dest: None for action in parser._actions}
    config = getattr(options, "config", None)
    given = {} if config is None else parser.read(config)
    return {**nothing, "resume": False, **shipped(name), **given, **vars(options)}


class ConfigParser(argparse.ArgumentParser):
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
