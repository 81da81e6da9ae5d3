"""Protects the options of a recipe over epochs and in turn: from the command line and from a file."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from torchmsaf.cli.running import recipe_of
from torchmsaf.cli.settings import ConfigParser, add_training, read_settings
from torchmsaf.tasks.recipe import Recipe


def recipe(*words: str) -> Recipe:
    parser, known = argparse.ArgumentParser(), ConfigParser(add_help=False, allow_abbrev=False)
    for one in (parser, known):
        add_training(one, "arrays")
    return recipe_of(read_settings(known, parser.parse_args(words), "arrays"))


def test_both_are_off_by_default_and_on_when_they_are_said() -> None:
    assert (recipe().decay_epochs, recipe().alternate) == (None, None)
    said = recipe("--decay-epochs", "5", "20", "--alternate")
    assert (said.decay_epochs, said.alternate) == ((5, 20), True)


@pytest.mark.parametrize(
    "text", ["decay_epochs: [5, 20]\nalternate: true\n", "decay_epochs: [5, 20]\nalternate: false\n"]
)
def test_a_file_has_them_and_the_command_line_wins(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    said = recipe("--config", str(file))
    assert (said.decay_epochs, bool(said.alternate)) == ((5, 20), "true" in text)
    assert recipe("--config", str(file), "--decay-epochs").decay_epochs is None
