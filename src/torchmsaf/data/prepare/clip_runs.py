"""Preparing clips side by side: what stops one stops no other, and what a preparation did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.raw import Refusal
from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.errors import DataError, MissingDependencyError

T = TypeVar("T")
MOST_LINES = 20  # of refusals in one message


@dataclass(frozen=True)
class Report:
    """What a preparation did.

    Attributes:
        path: the version's folder.
        prepared: clips that were prepared now.
        already: clips that an earlier run had prepared from the same files.
        earlier: clips in the index that an earlier run had prepared from files that are not in the folder any more.
        set_aside: files that are left alone, by kind: ``song``, ``other``, …
        refused: files that cannot be used; they are in the index, too.
        doubtful: ``ID: what is doubtful``, of every clip in the index.
    """

    path: Path
    prepared: int
    already: int
    earlier: int
    set_aside: dict[str, int]
    refused: tuple[Refusal, ...]
    doubtful: tuple[str, ...] = ()


def run_clips(
    prepare: Callable[[Any], Refusal | None],
    tasks: Sequence[Any],
    jobs: int | None,
    already: int,
    told: Callable[[int, int], None] | None,
) -> list[Refusal]:
    """Prepare clips, and return the refused ones.

    Args:
        prepare: writes a clip, or says why it cannot; a function that processes can import.
        tasks: what it is called with.
        jobs: processes; None = as many as there are cores to use.
        already: clips that are there from earlier runs.
        told: called after each clip with the clips that are done and all there are.
    """
    failed: list[Refusal] = []
    done = already

    def count(refusal: Refusal | None) -> None:
        nonlocal done
        done += 1
        if refusal is not None:
            failed.append(refusal)
        if told is not None:
            told(done, already + len(tasks))

    run_tasks(prepare, tasks, jobs, count)
    return failed


def or_refusal(read: Callable[[], T], at: Callable[[], tuple[str, str]]) -> T | Refusal:
    """What is read of a clip's files, or why they cannot be used.

    Args:
        read: reads them.
        at: name and place of the file that is to blame; asked when something was raised.
    """
    try:
        return read()
    except MissingDependencyError:
        raise
    except DataError as error:
        name, where = at()
        # a message names the file in either form: "NAME: it is …" and "NAME is …"
        return Refusal(name, where, str(error).removeprefix(where).removeprefix(name).removeprefix(":").strip())
    except Exception as error:  # whatever a damaged file makes a decoder raise, the other clips go on
        return Refusal(*at(), f"{type(error).__name__}: {error}")


def told_refusals(refused: Sequence[Refusal]) -> str:
    """What is refused, each on a line of its own, ``MOST_LINES`` of them; nothing where there is none."""
    lines = "".join(f"\n  {refusal}" for refusal in refused[:MOST_LINES])
    more = len(refused) - MOST_LINES
    return f"{lines}\n  and {more} more" if more > 0 else lines


def check_refusals(raw: str | Path, refused: Sequence[Refusal], usable: int, strict: bool, set_aside: str = "") -> None:
    """Nothing could be prepared, or refusals are errors.

    Args:
        raw: where the files are, for the message.
        refused: of this run.
        usable: clips that are prepared.
        strict: whether one refusal is an error.
        set_aside: what is left alone, in words.

    Raises:
        DataError: so it is.
    """
    lines = told_refusals(refused)
    if not usable:
        alone = f"left alone are {set_aside}; " if set_aside else ""
        raise DataError(f"{raw}: not one clip could be prepared; {alone}refused are{lines or ' none'}")
    if strict and refused:
        raise DataError(
            f"{raw}: {counted(len(refused), 'file')} {'is' if len(refused) == 1 else 'are'} refused, so the index is not "
            "written; what is prepared stays for the next run, when they are mended, taken away, or accepted without "
            f"strict:{lines}"
        )
