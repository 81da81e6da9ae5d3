"""``torchmsaf table`` and ``torchmsaf methods``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_table(table: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf table``."""
    table.add_argument("folder", type=Path)
    table.add_argument("--format", choices=("text", "markdown", "html"), default="text", help="(default: text)")
    told = (
        "the row that differences are to, by its name in the table, or as --methods takes it: name:option=value,... "
        "(default: the best unimodal row by validation)"
    )
    table.add_argument("--reference", help=told, metavar="ROW")
    told = "validation: scores to look for reasons in, which also chose the epochs (default: test)"
    table.add_argument("--part", choices=("test", "validation"), default="test", help=told)
    table.set_defaults(run=_table, interrupted="the same command builds the table again")


def add_methods(methods: argparse.ArgumentParser) -> None:
    """``torchmsaf methods`` has no options."""
    methods.set_defaults(run=_methods, interrupted="nothing was written")


def _table(options: argparse.Namespace) -> None:
    from torchmsaf.analysis.report import render_html, render_markdown, render_text
    from torchmsaf.experiments.results import ResultFolder, make_published, make_robustness, make_table, write_tables

    folder = ResultFolder(options.folder)
    if options.reference is None and options.part == "test":
        table = write_tables(folder)
    else:  # the files in the folder stay those of the table by default
        table = make_table(folder, reference=options.reference, part=options.part)
    render = {"text": render_text, "markdown": render_markdown, "html": render_html}[options.format]
    tested = options.part == "test"
    robustness = make_robustness(folder) if tested else None
    published = make_published(folder, table) if tested else None
    print(render(table, robustness=robustness, published=published), end="")


def _methods(options: argparse.Namespace) -> None:
    from torchmsaf.fusion import list_fusions
    from torchmsaf.tasks.systems.registry import list_systems

    lines = [("method", "stage", "year", "modalities", "tasks", "paper")]
    for method in list_fusions():
        tasks = "classification, regression" if method.regression else "classification"
        lines.append((method.name, method.stage, str(method.year), method.modalities, tasks, method.paper))
    for system in list_systems():
        able = {"classification": system.classification, "regression": system.regression}
        tasks = ", ".join(name for name, can in able.items() if can)
        taken = ", ".join(system.needs) or "2 or more"
        lines.append((system.name, "system", str(system.year), taken, tasks, system.paper))
    widths = [max(len(line[k]) for line in lines) + 2 for k in range(5)]
    for *cells, paper in lines:
        print("".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)) + paper)
