"""The numbers that the MSAF paper prints for CMU-MOSEI, beside those of a comparison.

Su et al., arXiv 2012.07175, Table 2. The paper was not at hand: every row says how its numbers came here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torchmsaf.analysis.statistics import Estimate
from torchmsaf.analysis.table import Metric, Row, Table
from torchmsaf.errors import ResultError

Status = Literal["repeated", "released", "recalled"]

# The stage of a row that the comparison does not have.
NOT_COMPARED = "not compared"

_METRICS = (
    Metric("mae", False, False),
    Metric("pearson", False, True),
    Metric("acc2", True, True),
    Metric("f1", True, True),
    Metric("acc7", True, True),
)
_LI = "Li and Li, t-HNE, Table 3, after Han et al., arXiv 2109.00412"
_CAI = "Cai et al., Scientific Reports 15:2126, 2025, Table 4"


@dataclass(frozen=True, kw_only=True)
class PublishedSystem:
    """One row of a published table. Numbers are text with the decimals of their source.

    Args:
        system: as the paper calls it.
        methods: the names of our rows that it may be.
        provenance: whose numbers the paper prints.
        status: ``"repeated"``: read in a later article that repeats the row. ``"released"``: read in the name of a released
            file of weights. ``"recalled"``: from memory; nobody looked it up.
        seen: where it was read; empty when it was recalled.
    """

    system: str
    methods: tuple[str, ...]
    provenance: str
    status: Status
    seen: str = ""

    @property
    def numbers(self) -> dict[str, str]:
        """The numbers by the names that our metrics have."""
        raise NotImplementedError

    @property
    def marked(self) -> dict[str, str]:
        """The numbers as they are printed: with a question mark when they were recalled."""
        mark = "?" if self.status == "recalled" else ""
        return {name: number + mark for name, number in self.numbers.items()}


@dataclass(frozen=True, kw_only=True)
class PublishedRow(PublishedSystem):
    """One row of Table 2. The last three numbers are in percent.

    Args:
        mae: mean absolute error of sentiment in [-3, 3].
        pearson: Pearson's correlation; r or Corr in the literature.
        acc2: accuracy of the sign, without samples whose sentiment is 0.
        f1: of the sign, weighted by class.
        acc7: accuracy of the rounded sentiment.
    """

    mae: str
    pearson: str
    acc2: str
    f1: str
    acc7: str

    @property
    def numbers(self) -> dict[str, str]:
        """The numbers by the names that our metrics have."""
        return {"mae": self.mae, "pearson": self.pearson, "acc2": self.acc2, "f1": self.f1, "acc7": self.acc7}


TABLE_2 = (
    PublishedRow(
        system="DCCA",
        methods=("dcca_one_step", "dcca_two_step"),  # which of the two is not known
        mae="0.579",
        pearson="0.707",
        acc2="83.62",
        f1="83.75",
        acc7="50.12",
        provenance="quoted from ICCN",
        status="recalled",
    ),
    PublishedRow(
        system="TFN",
        methods=("tfn_network",),
        mae="0.593",
        pearson="0.700",
        acc2="82.5",
        f1="82.1",
        acc7="50.2",
        provenance="quoted from ICCN",
        status="repeated",
        seen=f"{_LI}; {_CAI}",
    ),
    PublishedRow(
        system="LMF",
        methods=("lmf_network",),
        mae="0.623",
        pearson="0.677",
        acc2="82.0",
        f1="82.1",
        acc7="48.0",
        provenance="quoted from ICCN",
        status="repeated",
        seen=f"{_LI}; {_CAI}",
    ),
    PublishedRow(
        system="MFM",
        methods=("mfm",),
        mae="0.568",
        pearson="0.717",
        acc2="84.4",
        f1="84.3",
        acc7="51.3",
        provenance="quoted from ICCN",
        status="repeated",
        seen=_LI,
    ),
    PublishedRow(
        system="ICCN",
        methods=("iccn",),
        mae="0.565",
        pearson="0.713",
        acc2="84.2",
        f1="84.2",
        acc7="51.6",
        provenance="from its own authors",
        status="repeated",
        seen=_LI,
    ),
    PublishedRow(
        system="MISA",
        methods=("misa",),
        mae="0.555",
        pearson="0.756",
        acc2="85.5",
        f1="85.3",
        acc7="52.2",
        provenance="from its own authors",
        status="repeated",
        seen=_CAI,
    ),
    PublishedRow(
        system="MSAF",
        methods=("msaf",),
        mae="0.559",
        pearson="0.738",
        acc2="85.5",
        f1="85.5",
        acc7="52.4",
        provenance="the MSAF authors' run",
        status="recalled",
    ),
)


@dataclass(frozen=True)
class PublishedLine:
    """A published row beside one of ours.

    Args:
        method: the name of our row; that of the system in the paper where the comparison has none.
        stage: of our row, or ``NOT_COMPARED``.
        published: what the paper has.
        ours: metric -> our score, as recorded and not in percent; None where it was not measured.
    """

    method: str
    stage: str
    published: PublishedSystem
    ours: Mapping[str, Estimate | None]


@dataclass(frozen=True)
class Published:
    """A published table beside a comparison, ready to be printed.

    Args:
        title: of the comparison.
        metrics: those of the published table, in its order.
        rows: in the order of the comparison, then the published rows that it does not have.
        notes: what a reader must know to read the numbers, a sentence or two each.
        place: where the published table is, and of which data set.
    """

    title: str
    metrics: tuple[Metric, ...]
    rows: tuple[PublishedLine, ...]
    notes: tuple[str, ...]
    place: str

    @property
    def caption(self) -> str:
        """Title, and what the numbers are and are not."""
        return (
            f"{self.title}: beside {self.place}. Inputs, folds, systems and training differ, so the numbers stand beside "
            "each other and do not compare."
        )


def build_published(table: Table) -> Published | None:
    """Put the rows of Table 2 beside those of a comparison on CMU-MOSEI. That it is one, the caller knows.

    A row of ours is found by its name without options: ``"msaf (identity_start=True)"`` stands beside MSAF. Rows that
    the paper does not have are left out; the unimodal ones are such.

    Args:
        table: from ``build_table``, of test scores.

    Returns:
        The table; None when none of its rows is in the paper, or no metric is.

    Raises:
        ResultError: the table is of validation scores.
    """
    place = "Table 2 of the MSAF paper (Su et al., arXiv 2012.07175), CMU-MOSEI"
    published = put_beside(table, TABLE_2, _METRICS, place)
    return None if published is None else replace(published, notes=tuple(_notes(published)))


def put_beside(
    table: Table, published: Sequence[PublishedSystem], metrics: tuple[Metric, ...], place: str
) -> Published | None:
    """Put the rows of a published table beside those of a comparison, by their names, without notes.

    Args:
        table: from ``build_table``, of test scores.
        published: rows; a name of ours is in one of them at most.
        metrics: of the published table.
        place: where it is, and of which data set.

    Returns:
        The table; None when none of its rows is among the published ones, or no metric is.

    Raises:
        ResultError: the table is of validation scores.
    """
    if table.part != "test":
        raise ResultError(
            f"published scores are of test samples, and this table is of {table.part} scores: build it of part 'test'"
        )
    measured = {metric.name for metric in (table.score, *table.others)}
    if not measured & {metric.name for metric in metrics}:
        return None
    known = {method: row for row in published for method in row.methods}
    lines = [
        PublishedLine(row.method, row.stage, known[_name(row)], _ours(row, table, metrics))
        for row in table.rows
        if _name(row) in known
    ]
    if not lines:
        return None
    had = {line.published.system for line in lines}
    nothing = dict.fromkeys((metric.name for metric in metrics), None)
    lines += [PublishedLine(row.system, NOT_COMPARED, row, nothing) for row in published if row.system not in had]
    return Published(table.title, metrics, tuple(lines), (), place)


def notes_on_places(rows: Sequence[PublishedSystem]) -> list[str]:
    """A sentence for each place where numbers were read."""
    notes = []
    for place in dict.fromkeys(row.seen for row in rows if row.seen):
        systems = dict.fromkeys(row.system for row in rows if row.seen == place)
        notes.append(f"{', '.join(systems)}: read in {place}.")
    return notes


def _name(row: Row) -> str:
    return row.method.partition(" (")[0]


def _ours(row: Row, table: Table, metrics: Sequence[Metric]) -> dict[str, Estimate | None]:
    scores: dict[str, Estimate | None] = {**row.others, table.score.name: row.score}
    return {metric.name: scores.get(metric.name) for metric in metrics}


def _notes(published: Published) -> list[str]:
    rows = [line.published for line in published.rows]
    notes = [
        "Only the MSAF row was run by the authors of that paper. They quote the others: DCCA, TFN, LMF and MFM from the "
        "ICCN article (arXiv 1911.05544), ICCN and MISA from their own articles. The standard errors that the paper has "
        "for MSAF are not known here.",
        "status: no number was read in the paper itself. repeated: read in a later article that repeats the row, to one "
        "decimal; the paper may print another. recalled, and ? after a number: from memory, not looked up; it may be wrong.",
        *notes_on_places(rows),
    ]
    if any("DCCA" in (line.method, line.published.system) for line in published.rows):
        notes.append("DCCA: whether the paper's row is of one step or of two is not known; it stands beside either.")
    notes.append("Accuracies and f1 are in percent. mae: lower is better. Elsewhere higher is better.")
    return notes
