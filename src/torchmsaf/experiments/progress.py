"""Progress on the screen: of a comparison, fed by the files that its processes write, and of other work, as it is told."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torchmsaf.errors import require


@contextmanager
def progress(count: Callable[[], int], total: int, what: str = "trainings") -> Iterator[None]:
    """Show how many trainings are done until the block ends: a bar on a terminal, a line each tenth elsewhere.

    Args:
        count: gives the number done so far.
        total: number of trainings.
        what: is counted.
    """
    stop = threading.Event()
    shown = _bar if sys.stderr.isatty() and importlib.util.find_spec("rich") else _lines
    watcher = threading.Thread(target=shown, args=(count, total, what, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


@contextmanager
def told_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress that is told: gives a function of the number done and the number of all.

    Args:
        what: is counted.
    """
    with ExitStack() as stack:
        done: int | None = None

        def tell(now: int, total: int) -> None:
            nonlocal done
            first, done = done is None, now
            if first:
                stack.enter_context(progress(lambda: done or 0, total, what))

        yield tell


def _bar(count: Callable[[], int], total: int, what: str, stop: threading.Event) -> None:
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
        task = bars.add_task(what, total=total)
        while not stop.wait(0.2):
            bars.update(task, completed=count())
        bars.update(task, completed=count())


def _lines(count: Callable[[], int], total: int, what: str, stop: threading.Event) -> None:
    start, told = time.monotonic(), -1
    while True:
        ended = stop.wait(0.5)
        done = count()
        tenth = 10 * done // max(total, 1)
        if tenth > told:
            told = tenth
            print(f"{done} of {total} {what}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        if ended:
            return
