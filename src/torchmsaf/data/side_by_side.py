"""Tasks side by side on the cores there are."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from torchmsaf.errors import DataError, ResultError, require

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int | None,
    done: Callable[[Result], None] = lambda _: None,
    *,
    advice: str = "run it again with fewer jobs",
) -> None:
    """Work on every task, one thread a process. Large arrays in tasks are written once, and every process maps them.

    Args:
        work: a function of a module, which can be pickled with its tasks and results; what it raises ends all.
        tasks: in the order in which they are begun.
        jobs: processes, from 1; None = as many as there are cores to use. One works in this process.
        done: called in this process with each result as it comes; what it raises ends all.
        advice: what to do when a process was killed.

    Raises:
        DataError: ``jobs`` is less than 1.
        ResultError: a process was killed.
    """
    if jobs is not None and jobs < 1:
        raise DataError(f"jobs is {jobs}; at least 1 is needed")
    if jobs is None:
        jobs = require("joblib", "compare").cpu_count()
    workers = min(jobs, len(tasks))
    if workers <= 1:
        for task in tasks:
            done(work(task))
        return
    joblib = require("joblib", "compare")
    terminated = require("joblib.externals.loky.process_executor", "compare").TerminatedWorkerError
    delayed = [joblib.delayed(_work_apart)(work, task, os.getpid()) for task in tasks]
    # one thread a process: more are many times slower when processes share the cores
    results: Any = ()
    with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1, mmap_mode="c"):
        try:
            with _interrupts_later():
                results = joblib.Parallel(return_as="generator_unordered", batch_size=1)(delayed)
            for result in results:
                done(result)
        except terminated as error:
            raise ResultError(
                f"a process was killed, most often because memory ran out: what is done is kept; {advice}"
            ) from error
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # joblib warns of the tasks that this ends
                if results:
                    results.close()


def _work_apart(work: Callable[[Task], Result], task: Task, parent: int) -> Result:
    """Work on a task in a process of its own, which ends with its parent."""
    _watch(parent)
    return work(task)


@cache
def _watch(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Processes started in here never hear Ctrl-C, which a terminal sends to all: this process does, and ends them.

    An interrupt that comes while they start reaches this process when the block ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
    elif hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes and threads inherit
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
