"""The comparison table, the robustness table and published numbers as plain text, Markdown and HTML.

Everything here returns a string; the caller writes it.
"""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from torchmsaf.analysis.published_tables import NOT_COMPARED, Published
from torchmsaf.analysis.robustness import Robustness
from torchmsaf.analysis.statistics import Estimate
from torchmsaf.analysis.table import Metric, Row, Table
from torchmsaf.errors import require

ABSENT = "–"  # not measured, or not defined
_STAGE_NAMES = {
    "unimodal": "unimodal",
    "late": "late fusion",
    "early": "early fusion",
    "intermediate": "intermediate fusion",
    "system": "published models",
    NOT_COMPARED: "not in this comparison",
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


@dataclass(frozen=True)
class _Sheet:
    """A table of any kind as it is printed: all text is on one line, and nothing is escaped."""

    what: str
    caption: str
    rows: tuple[tuple[str, str], ...]  # method and stage
    columns: tuple[_Column, ...]  # without those that no row has
    notes: tuple[str, ...]

    @property
    def stages(self) -> list[tuple[str, list[tuple[str, list[str]]]]]:
        """The stages by name, each with its rows: method and cells."""
        named = dict.fromkeys(stage for _, stage in self.rows)
        cells = [[column.cells[index] for column in self.columns] for index in range(len(self.rows))]
        rows = [(stage, (method, own)) for (method, stage), own in zip(self.rows, cells, strict=True)]
        return [(_STAGE_NAMES[name], [row for stage, row in rows if stage == name]) for name in named]


def render_text(
    table: Table, width: int = 150, *, robustness: Robustness | None = None, published: Published | None = None
) -> str:
    """Render as plain text in aligned columns, the notes below.

    Args:
        table: from ``build_table``.
        width: columns of characters to stay within. What does not fit goes into a further table underneath; a single
            column and the method's name are never cut.
        robustness: from ``build_robustness``; comes after the table.
        published: from ``build_published``; comes last.

    Returns:
        Lines that end in a newline, without colour or control characters.
    """
    return "\n\n".join(_text(sheet, width) for sheet in _sheets(table, robustness, published))


def render_markdown(table: Table, *, robustness: Robustness | None = None, published: Published | None = None) -> str:
    """Render as GitHub-flavoured Markdown tables, the notes as a list below each; names are escaped."""
    return "\n".join(_markdown(sheet) for sheet in _sheets(table, robustness, published))


def render_html(table: Table, *, robustness: Robustness | None = None, published: Published | None = None) -> str:
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
    sheets = _sheets(table, robustness, published)
    page: str = environment.from_string(source).render(title=_clean(table.title), sheets=sheets)
    return page


def _sheets(table: Table, robustness: Robustness | None, published: Published | None) -> list[_Sheet]:
    sheets = [
        _sheet(
            "Comparison", table, _columns(table), "added: parameters beyond the networks'. seconds: mean of the runs."
        )
    ]
    if robustness is not None:
        sheets.append(_sheet("Robustness", robustness, _robustness_columns(robustness), ""))
    if published is not None:
        sheets.append(_sheet("Published numbers", published, _published_columns(published), ""))
    return sheets


def _sheet(what: str, table: Table | Robustness | Published, columns: Sequence[_Column], legend: str) -> _Sheet:
    notes = (*table.notes, f"{ABSENT}: not measured or not defined. {legend}")
    return _Sheet(
        what=what,
        caption=_clean(table.caption),
        rows=tuple((_clean(row.method), row.stage) for row in table.rows),
        columns=tuple(column for column in columns if set(column.cells) - {ABSENT, "ref."}),
        notes=tuple(map(_clean, notes)),
    )


def _text(sheet: _Sheet, width: int) -> str:
    parts = [textwrap.fill(sheet.caption, width)]
    names = [_fold(method, _METHOD_WIDTH) for method, _ in sheet.rows]
    first = len(_INDENT) + max(_width(line) for lines in [["method"], *names] for line in lines)
    parts += ["\n".join(_text_block(sheet, page, names, first)) for page in _pages(sheet.columns, width - first)]
    parts.append(
        "\n".join(textwrap.fill(note, width, initial_indent="- ", subsequent_indent="  ") for note in sheet.notes)
    )
    return "\n\n".join(parts) + "\n"


def _markdown(sheet: _Sheet) -> str:
    head = ["method", "stage", *(column.header for column in sheet.columns)]
    lines = [f"**{_escape_markdown(sheet.caption)}**", "", _markdown_row(head)]
    lines.append("|" + "|".join([":--", ":--", *["--:"] * len(sheet.columns)]) + "|")
    for index, row in enumerate(sheet.rows):
        lines.append(_markdown_row([*row, *(column.cells[index] for column in sheet.columns)]))
    lines += ["", *(f"- {_escape_markdown(note)}" for note in sheet.notes)]
    return "\n".join(lines) + "\n"


def _columns(table: Table) -> list[_Column]:
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
    return columns


def _robustness_columns(table: Robustness) -> list[_Column]:
    rows, score = table.rows, table.score
    columns = [_Column("complete", tuple(_estimate(row.complete, score) for row in rows), "missing")]
    columns += [
        _Column(f"without {_clean(name)}", tuple(_estimate(row.missing[name], score) for row in rows), "missing")
        for name in table.modalities
    ]
    return columns + [
        _Column(
            f"{_clean(name)} + noise {_clean(level)}",
            tuple(_estimate(row.noise[name][level], score) for row in rows),
            f"noise {name}",
        )
        for name in table.modalities
        for level in table.levels
    ]


def _published_columns(table: Published) -> list[_Column]:
    columns = []
    for metric in table.metrics:
        name, block = _header(metric), metric.name
        columns.append(_Column(f"paper {name}", tuple(row.published.marked[block] for row in table.rows), block))
        columns.append(_Column(f"ours {name}", tuple(_estimate(row.ours[block], metric) for row in table.rows), block))
    return [
        *columns,
        _Column("paper's numbers", tuple(row.published.provenance for row in table.rows), "source"),
        _Column("status", tuple(row.published.status for row in table.rows), "source"),
    ]


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


def _text_block(sheet: _Sheet, columns: Sequence[_Column], names: Sequence[list[str]], first: int) -> list[str]:
    headers = [_fold(column.header, _HEADER_WIDTH) for column in columns]
    widths = [_column_width(column) for column in columns]
    depth = max(len(header) for header in headers)
    lines = []
    for level in range(depth):
        cells = [header[level - depth + len(header)] if level >= depth - len(header) else "" for header in headers]
        lines.append(_text_line("method" if level == depth - 1 else "", first, cells, widths))
    lines.append("-" * (first + sum(len(_GAP) + width for width in widths)))
    for index, (_, stage) in enumerate(sheet.rows):
        if index == 0 or stage != sheet.rows[index - 1][1]:
            lines.append(_STAGE_NAMES[stage])
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
