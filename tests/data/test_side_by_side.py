"""Protects work side by side: a killed process is an error that says what to do."""

from __future__ import annotations

import os

import pytest

from torchmsaf.data.side_by_side import run_tasks
from torchmsaf.errors import DataError, ResultError


@pytest.mark.slow
def test_a_killed_process_is_an_error() -> None:
    pytest.importorskip("joblib")
    with pytest.raises(ResultError, match=r"a process was killed.*what is done is kept; run it again with fewer jobs"):
        run_tasks(os._exit, [1, 1], 2, lambda _: None)


def test_one_job_works_in_this_process_and_in_order() -> None:
    done: list[tuple[int, int]] = []
    run_tasks(lambda task: (task, os.getpid()), [3, 1, 2], 1, done.append)
    assert done == [(task, os.getpid()) for task in (3, 1, 2)]


def test_jobs_below_one_are_refused() -> None:
    with pytest.raises(DataError, match="jobs is 0; at least 1 is needed"):
        run_tasks(abs, [1], 0, lambda _: None)
