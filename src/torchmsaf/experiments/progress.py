"""A progress bar of a comparison, fed by the files that its processes write."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torchmsaf.errors import require


@contextmanager
def progress(count: Callable[[], int], total: int) -> Iterator[None]:
    """Show how many trainings are done until the block ends: a bar on a terminal, a line each tenth elsewhere.

    Args:
        count: gives the number done so far.
        total: number of trainings.
    """
    stop = threading.Event()
    shown = _bar if sys.stderr.isatty() else _lines
    watcher = threading.Thread(target=shown, args=(count, total, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _bar(count: Callable[[], int], total: int, stop: threading.Event) -> None:
    rich = require("rich.progress", "compare")
    console = require("rich.console", "compare").Console(stderr=True)
    columns = (
        "[progress.description]{task.description}",
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        "left",
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console) as bars:
        task = bars.add_task("training", total=total)
        while not stop.wait(0.2):
            bars.update(task, completed=count())
        bars.update(task, completed=count())


def _lines(count: Callable[[], int], total: int, stop: threading.Event) -> None:
    start, told = time.monotonic(), -1
    while True:
        ended = stop.wait(0.5)
        done = count()
        tenth = 10 * done // max(total, 1)
        if tenth > told:
            told = tenth
            print(f"{done} of {total} trainings, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        if ended:
            return
