"""The row that differences are to, by what was typed to make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchmsaf.analysis.table import Record, label
from torchmsaf.errors import ResultError


def row_made_by(records: Sequence[Record], method: str, options: Mapping[str, Any]) -> str | None:
    """The name of the row of a method with these options, as :func:`~torchmsaf.analysis.table.label` has it.

    A row fits when it has all options that are given; it may have others, as a task's own defaults. The one with
    the fewest others goes first.

    Args:
        records: of the table.
        method: its name.
        options: all or some of its options.

    Returns:
        The name; None where no row fits.

    Raises:
        ResultError: several rows fit. The message lists them.
    """
    fitting: dict[str, Mapping[str, Any]] = {}
    for record in records:
        own = record.get("options") or {}
        # a unimodal row has the name of its modality, which may be that of a method
        same = record["stage"] not in ("unimodal", "start") and record["method"] == method
        if same and all(key in own and own[key] == value for key, value in options.items()):
            fitting[label(record)] = own
    fewest = min(map(len, fitting.values()), default=0)
    nearest = [name for name, own in fitting.items() if len(own) == fewest]
    names = nearest if len(nearest) == 1 else list(fitting)
    if len(names) > 1:
        given = "".join(f", {key}={value}" for key, value in options.items())
        raise ResultError(
            f"{len(names)} rows are of {method}{given}: choose the reference from {', '.join(map(repr, names))}"
        )
    return names[0] if names else None
