"""The command line. Commands import what they need when they run, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from torchmsaf import __version__
from torchmsaf.cli import arrays, predict, preparation, search, tables, train
from torchmsaf.errors import TorchmsafError


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
        print(f"torchmsaf: interrupted; {options.interrupted}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="torchmsaf", description="Multimodal fusion for networks you already have, and fair comparisons of it."
    )
    parser.add_argument("--version", action="version", version=f"torchmsaf {__version__}")
    parser.set_defaults(interrupted="what is done is kept, and --resume goes on with it")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text, command in (
        ("compare", "compare fusion methods on the same networks, data and folds", arrays.add_compare),
        ("train", "train one fusion method on one fold of a task", train.add_train),
        ("search", "search for the architecture of a fusion", search.add_search),
        ("predict", "predict with a trained model", predict.add_predict),
        ("prepare", "make raw files ready for training", preparation.add_prepare),
        ("synth", "write a made-up data set in the true formats", preparation.add_synth),
        ("download", "fetch a data set's raw files", preparation.add_download),
        ("convert", "read weights that others released", preparation.add_convert),
        ("table", "rebuild the table of a result folder, without training", tables.add_table),
        ("methods", "the fusion methods", tables.add_methods),
    ):
        command(commands.add_parser(name, allow_abbrev=False, help=text))
    return parser


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage of a command is a screen long."""

    def error(self, message: str) -> NoReturn:
        """End the process with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")
