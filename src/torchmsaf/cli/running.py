"""From options to a comparison that runs, and its table on the screen."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmsaf.errors import DataError

if TYPE_CHECKING:
    from torchmsaf.data.prepared import Prepared
    from torchmsaf.experiments import Comparison
    from torchmsaf.experiments.methods import MethodChoice
    from torchmsaf.tasks.recipe import Recipe


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """The recipe that options say."""
    from torchmsaf.tasks.recipe import Recipe

    chosen: dict[str, Any] = {one.name: settings[one.name] for one in dataclasses.fields(Recipe)}
    for name in ("precision", "memory_format"):
        chosen[name] = None if chosen[name] == "no" else chosen[name]
    return Recipe(**chosen)


def train_all_epochs(settings: dict[str, Any]) -> None:
    """Stop no training early, as the published code does, unless the user said when."""
    if "patience" not in settings["given"]:
        settings["patience"] = settings["epochs"]


def by_modality(texts: Sequence[str] | None, option: str, needed: str) -> dict[str, str]:
    """``KEY=VALUE`` texts of an option as a dict."""
    found = {}
    for text in texts or ():
        modality, equals, value = text.partition("=")
        if not equals:
            raise DataError(f"{option} {text!r}: expected {needed}")
        if not (modality and value):
            side = "behind" if modality else "before"
            raise DataError(f"{option} {text!r}: nothing stands {side} the =; expected {needed}")
        if modality in found:
            raise DataError(f"{option} is given twice for {modality!r}")
        found[modality] = value
    return found


def run(comparison: Comparison, settings: Mapping[str, Any], name: str) -> Path:
    """Run a comparison as options say, and print its table.

    Returns:
        The result folder.
    """
    from torchmsaf.analysis.report import render_text
    from torchmsaf.experiments import ResultFolder, compare
    from torchmsaf.experiments.results import make_published, make_robustness

    if settings["resume"] and settings["out"] is None:
        raise DataError("--resume needs --out FOLDER: what to go on with")
    if comparison.protocol.chosen_on_test:
        name = f"{name}-published"
    out = Path(settings["out"] or _free_folder(name))
    table = compare(
        comparison,
        out,
        resume=settings["resume"],
        jobs=settings["jobs"],
        threads=1 if settings["threads"] is None else settings["threads"],
        accelerator=settings["accelerator"],
    )
    folder = ResultFolder(out)
    print(render_text(table, robustness=make_robustness(folder), published=make_published(folder, table)), end="")
    print(f"Results: {out} (table.html, table.md; torchmsaf table {out} prints this again)", file=sys.stderr)
    return out


def open_prepared(path: Path | None, *, made_by: str, of: str) -> Prepared:
    """What was prepared, every file of it checked.

    Args:
        path: as the user gave it.
        made_by: the command that prepares it, for messages.
        of: what it is of, for messages: ``clips``.

    Raises:
        DataError: no path was given, it cannot be opened, or files are damaged.
    """
    from torchmsaf.data.prepared import Prepared

    if path is None:
        raise DataError(f"--data FOLDER is needed: what {made_by} wrote")
    prepared = Prepared.open(path)
    if damaged := prepared.verify():
        raise DataError(
            f"{prepared.path}: of {len(prepared)} {of} {len(damaged)} are damaged ({', '.join(damaged[:5])}): delete their "
            "files in clips/ and run the preparation again"
        )
    return prepared


def one_method(text: str) -> str:
    """The method of a training of one.

    Raises:
        DataError: several are asked for.
    """
    if text.strip() == "all":
        raise DataError("--method takes one method; compare takes several")
    return text


def copy_model(folder: Path, method: MethodChoice) -> None:
    """Put the weights of a method's one training beside the table, as ``model.safetensors``."""
    from torchmsaf.data.whole_files import whole_file
    from torchmsaf.experiments import ResultFolder

    weights = next(one["weights"] for one in ResultFolder(folder).records() if one["key"] == method.key)
    model = folder / "model.safetensors"
    try:
        with whole_file(model) as beside:
            shutil.copyfile(folder / weights, beside)
    except OSError as error:
        raise DataError(f"{model} cannot be written: {error}; the same is in {weights}") from error
    print(f"Model: {model}", file=sys.stderr)


def _free_folder(name: str) -> Path:
    candidates = (Path("runs") / (name if k == 1 else f"{name}-{k}") for k in itertools.count(1))
    return next(path for path in candidates if not path.exists())
