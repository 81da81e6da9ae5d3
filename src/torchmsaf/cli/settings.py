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
    told = "test with noise on one modality after the other, in standard deviations in training; --noise alone: without"
    add("--noise", told, type=float, nargs="*", metavar="LEVEL")
    add("--config", "YAML with any of these options by name; the command line wins", type=Path)
    folder = f"runs/{name}…" if name in ("action", "emotion", "sentiment") else f"runs/{name}"
    add("--out", "result folder", otherwise=f"{folder}, or the first free {folder}-2, …", type=Path)
    add("--resume", "go on with what was interrupted in --out", action="store_true")
    add("--epochs", "budget of each training", type=int)
    add("--patience", "epochs without a better one on validation before it stops", type=int)
    add("--batch-size", "samples a batch; systems may have their own", type=int)
    add("--learning-rate", "of Adam; systems may have their own", type=float)
    add("--fusion-learning-rate", "of what the fusion adds", otherwise="the same", type=float)
    add("--weight-decay", "of Adam", type=float)
    told = "after so many epochs all learning rates are divided by 10; alone: they stay"
    add("--decay-epochs", told, otherwise="they stay", type=int, nargs="*", metavar="N")
    told = "intermediate methods: each network learns from its own prediction, in turn, and the fusion with each"
    add("--alternate", told, action="store_true")
    told = "bf16: train in bfloat16 where that is safe; no: in float32"
    add("--precision", told, otherwise="no", choices=("bf16", "no"))
    told = "channels_last: faster for 3D networks on some machines"
    add("--memory-format", told, otherwise="no", choices=("channels_last", "no"))
    add("--jobs", "processes", otherwise="the cores there are", type=int)
    share = "the cores there are, shared by the jobs" if name == "emotion" else "1"
    add("--threads", "threads a process", otherwise=share, type=int)
    add("--accelerator", "cpu, gpu or auto", choices=("cpu", "gpu", "auto"))


def add_rows(parser: argparse.ArgumentParser, name: str) -> None:
    """What every comparison has beside that: methods and seeds."""
    add = _Adder(parser.add_argument_group("comparison"), name)
    told = "name or name:option=value,…; all is every one that fits the data"
    add("--methods", told, otherwise="all", nargs="+", metavar="METHOD")
    add("--seeds", "number of runs a fold", type=int)
    if name == "emotion":
        add("--folds", "numbers of the folds to run", otherwise="all six", type=int, nargs="+", metavar="FOLD")


def add_split(parser: argparse.ArgumentParser, name: str) -> None:
    """How the data are split, where no protocol says it."""
    add = _Adder(parser.add_argument_group("split"), name)
    add("--folds", "folds, by whole groups where there are groups", type=int)
    add("--validation", "share of the training part that validates", type=float)
    add("--split-seed", "of the draw of folds and validation", type=int)


class _Adder:
    """Adds options that say their shipped default, and leave no trace when they are not given."""

    def __init__(self, group: argparse._ArgumentGroup, name: str) -> None:
        self.group, self.shipped = group, [shipped(name)]
        self.name = name
        if name in ("emotion", "action"):  # whose presets have defaults of their own
            self.shipped.append(shipped(f"{name}-small"))

    def __call__(self, option: str, text: str, *, otherwise: str | None = None, **settings: Any) -> None:
        """Add an option; ``otherwise`` is what happens where nothing is shipped."""
        found = [defaults.get(option.removeprefix("--").replace("-", "_")) for defaults in self.shipped]
        said = [
            " ".join(map(str, one)) if isinstance(one, list) else otherwise if one is None else one for one in found
        ]
        if len({str(one) for one in said}) > 1:
            text = f"{text} (default: {said[0]}; preset small: {said[1]})"
        elif said[0] is not None:
            text = f"{text} (default: {said[0]})"
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

    Under ``given`` are the names of those that the user gave.

    Args:
        parser: has all options of the command that a file may have.
        options: from the command line.
        name: of the shipped file.
    """
    require("yaml", "compare")
    nothing = {action.dest: None for action in parser._actions}
    config = getattr(options, "config", None)
    given = {} if config is None else parser.read(config)
    chosen = {**given, **vars(options)}
    return {**nothing, "resume": False, **shipped(name), **chosen, "given": frozenset(chosen)}


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
