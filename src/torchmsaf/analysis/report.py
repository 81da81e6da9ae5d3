"""The comparison table as plain text, Markdown and HTML. Everything here returns a string; the caller writes it."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from torchmsaf.analysis.statistics import Estimate
from torchmsaf.analysis.table import Metric, Row, Table
from torchmsaf.errors import require

ABSENT = "–"  # not measured, or not defined
_STAGE_NAMES = {
    "unimodal": "unimodal",
    "late": "late fusion",
    "early": "early fusion",
    "intermediate": "intermediate fusion",
}
_METHOD_WIDTH = 30
_HEADER_WIDTH = 10
_GAP = "  "
_INDENT = "  "


@dataclass(frozen=True)
class _Column:
    """A column of numbers: its header, its cells in row order, and the block of columns it stays with."""

    header: str
    cells: tuple[str, ...]
    block: str


def render_text(table: Table, width: int = 150) -> str:
    """Render as plain text in aligned columns, the notes below.

    Args:
        table: from ``build_table``.
        width: columns of characters to stay within. What does not fit goes into a further table underneath; a single
            column and the method's name are never cut.

    Returns:
        Lines that end in a newline, without colour or control characters.
    """
    parts = [textwrap.fill(_clean(table.caption), width)]
    names = [_fold(_clean(row.method), _METHOD_WIDTH) for row in table.rows]
    first = len(_INDENT) + max(_width(line) for lines in [["method"], *names] for line in lines)
    parts += ["\n".join(_text_block(table, page, names, first)) for page in _pages(_columns(table), width - first)]
    parts.append(
        "\n".join(textwrap.fill(note, width, initial_indent="- ", subsequent_indent="  ") for note in _notes(table))
    )
    return "\n\n".join(parts) + "\n"


def render_markdown(table: Table) -> str:
    """Render as a GitHub-flavoured Markdown table, the notes as a list below; names are escaped."""
    columns = _columns(table)
    head = ["method", "stage", *(column.header for column in columns)]
    lines = [f"**{_escape_markdown(_clean(table.caption))}**", "", _markdown_row(head)]
    lines.append("|" + "|".join([":--", ":--", *["--:"] * len(columns)]) + "|")
    for index, row in enumerate(table.rows):
        lines.append(_markdown_row([row.method, row.stage, *(column.cells[index] for column in columns)]))
    lines += ["", *(f"- {_escape_markdown(note)}" for note in _notes(table))]
    return "\n".join(lines) + "\n"


def render_html(table: Table) -> str:
    """Render as one HTML page that needs nothing else, in light or dark as the reader prefers; names are escaped.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    jinja2 = require("jinja2", "compare")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = resources.files("torchmsaf.analysis").joinpath("report.html.jinja").read_text(encoding="utf-8")
    columns = _columns(table)
    stages = [
        {
            "name": _STAGE_NAMES[stage],
            "rows": [
                {"method": _clean(row.method), "cells": [column.cells[index] for column in columns]}
                for index, row in enumerate(table.rows)
                if row.stage == stage
            ],
        }
        for stage in dict.fromkeys(row.stage for row in table.rows)
    ]
    page: str = environment.from_string(source).render(
        title=_clean(table.title),
        caption=_clean(table.caption),
        columns=columns,
        stages=stages,
        notes=_notes(table),
    )
    return page


def _columns(table: Table) -> list[_Column]:
    """Return the columns of numbers, without those that no row has."""
    rows, score = table.rows, table.score
    columns = [_Column(_header(score), tuple(_estimate(row.score, score) for row in rows), "score")]
    columns += [
        _Column(_header(metric), tuple(_estimate(row.others[metric.name], metric) for row in rows), "score")
        for metric in table.others
    ]
    reference = None if table.reference is None else rows[table.reference]
    columns.append(
        _Column("difference", tuple("ref." if row is reference else _difference(row, score) for row in rows), "score")
    )
    p_values = [row.difference.p_value if row.difference else None for row in rows]
    columns.append(_Column("p", tuple(map(_p_value, p_values)), "score"))
    columns.append(_Column("p corrected", tuple(_p_value(row.corrected_p) for row in rows), "score"))
    columns += [
        _Column(f"without {_clean(name)}", tuple(_estimate(row.missing[name], score) for row in rows), "missing")
        for name in table.modalities
    ]
    columns += [
        _Column("parameters", tuple(_thousands(row.parameters) for row in rows), "cost"),
        _Column("added", tuple(_thousands(row.added_parameters) for row in rows), "cost"),
        _Column("FLOPs", tuple(_engineering(row.flops) for row in rows), "cost"),
        _Column("seconds", tuple(ABSENT if row.seconds is None else f"{row.seconds:,.1f}" for row in rows), "cost"),
        _Column("runs", tuple(f"{row.runs}/{row.expected}" for row in rows), "cost"),
    ]
    return [column for column in columns if set(column.cells) - {ABSENT, "ref."}]


def _header(metric: Metric) -> str:
    return f"{_clean(metric.name)} %" if metric.percent else _clean(metric.name)


def _estimate(estimate: Estimate | None, metric: Metric) -> str:
    if estimate is None:
        return ABSENT
    mean = _number(estimate.mean, metric)
    return mean if math.isnan(estimate.standard_error) else f"{mean} ± {_number(estimate.standard_error, metric)}"


def _difference(row: Row, metric: Metric) -> str:
    if row.difference is None or row.difference.n_pairs == 0:
        return ABSENT
    number = _number(row.difference.difference, metric)
    return number if number[0] == "-" or not number.strip("0.") or number == "nan" else f"+{number}"


def _p_value(p: float | None) -> str:
    if p is None or math.isnan(p):
        return ABSENT
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _number(value: float, metric: Metric) -> str:
    """Format in percent with one decimal, or with three; no minus before a zero."""
    text = f"{100 * value:.1f}" if metric.percent else f"{value:.3f}"
    return text if text.strip("-0.") else text.lstrip("-")


def _thousands(count: int | None) -> str:
    return ABSENT if count is None else f"{count:,}"


def _engineering(count: int | None) -> str:
    """Format with three digits and a unit: 1.23 M."""
    if count is None or count < 1000:
        return ABSENT if count is None else str(count)
    digits, exponent = f"{count:.2e}".split("e")
    group = min(int(exponent) // 3, 5)
    shift = int(exponent) - 3 * group
    return f"{float(digits) * 10**shift:.{max(2 - shift, 0)}f} {' kMGTP'[group]}"


def _clean(text: str) -> str:
    """Put on one line what a user named, without control or direction characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _notes(table: Table) -> list[str]:
    legend = (
        f"{ABSENT}: not measured or not defined. added: parameters beyond the networks'. seconds: mean of the runs."
    )
    return [_clean(note) for note in (*table.notes, legend)]


def _escape_markdown(text: str) -> str:
    """Escape what Markdown would read as its own; underscores inside words are safe and stay readable."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape_markdown(_clean(cell)) for cell in cells) + " |"


def _pages(columns: Sequence[_Column], room: int) -> list[list[_Column]]:
    """Share the columns out over tables of at most ``room``; a block is split only if it is too wide by itself."""
    pages: list[list[_Column]] = []
    for block in dict.fromkeys(column.block for column in columns):
        members = [column for column in columns if column.block == block]
        if pages and _width_of(pages[-1] + members) <= room:
            pages[-1] += members
            continue
        pages.append([])
        for column in members:
            if pages[-1] and _width_of([*pages[-1], column]) > room:
                pages.append([])
            pages[-1].append(column)
    return pages


def _text_block(table: Table, columns: Sequence[_Column], names: Sequence[list[str]], first: int) -> list[str]:
    headers = [_fold(column.header, _HEADER_WIDTH) for column in columns]
    widths = [_column_width(column) for column in columns]
    depth = max(len(header) for header in headers)
    lines = []
    for level in range(depth):
        cells = [header[level - depth + len(header)] if level >= depth - len(header) else "" for header in headers]
        lines.append(_text_line("method" if level == depth - 1 else "", first, cells, widths))
    lines.append("-" * (first + sum(len(_GAP) + width for width in widths)))
    for index, row in enumerate(table.rows):
        if index == 0 or row.stage != table.rows[index - 1].stage:
            lines.append(_STAGE_NAMES[row.stage])
        cells = [column.cells[index] for column in columns]
        for level, name in enumerate(names[index]):
            lines.append(_text_line(_INDENT + name, first, cells if level == 0 else [], widths))
    return lines


def _text_line(name: str, first: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = "".join(_GAP + " " * (width - _width(cell)) + cell for cell, width in zip(cells, widths, strict=False))
    return (name + " " * (first - _width(name)) + numbers).rstrip()


def _column_width(column: _Column) -> int:
    return max(_width(line) for line in [*_fold(column.header, _HEADER_WIDTH), *column.cells])


def _width_of(columns: Sequence[_Column]) -> int:
    return sum(len(_GAP) + _column_width(column) for column in columns)


def _fold(text: str, width: int) -> list[str]:
    """Break a name into lines of at most ``width``: at blanks, after _ , / or -, and else anywhere."""
    lines = [""]
    for piece in re.findall(r"\s+|[^\s_,/-]+[_,/-]*|[_,/-]+", text):
        for part in [piece] if _width(piece) <= width else list(piece):
            if _width(lines[-1] + part) > width:
                lines.append("")
            lines[-1] = (lines[-1] + part).lstrip()
    return [line.rstrip() for line in lines if line.strip()] or [""]


def _width(text: str) -> int:
    """Count terminal cells: two for wide characters, none for combining marks."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )
