"""Folds and seeds side by side on the cores there are."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchmsaf.data import Samples
from torchmsaf.data.stored import StoredFeatures
from torchmsaf.errors import ResultError, require
from torchmsaf.experiments.unit import Unit, run_unit


def run_units(units: Sequence[Unit], jobs: int | None) -> None:
    """Run units of one data set, one thread each.

    Args:
        units: all with the same samples.
        jobs: processes; None = as many as there are cores to use. One runs in this process.

    Raises:
        ResultError: a training failed, or a process was killed.
    """
    joblib = require("joblib", "compare")
    workers = min(joblib.cpu_count() if jobs is None else jobs, len(units))
    if workers <= 1:
        for unit in units:
            run_unit(unit)
        return
    terminated = require("joblib.externals.loky.process_executor", "compare").TerminatedWorkerError
    arrays = _as_arrays(units[0].samples)  # joblib writes large ones once, and every process maps them
    tasks = [joblib.delayed(_run_apart)({**vars(unit), "samples": arrays}, os.getpid()) for unit in units]
    # one thread a process: more are many times slower when processes share the cores
    with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1, mmap_mode="c"):
        try:
            with _interrupts_ignored():
                results = joblib.Parallel(return_as="generator_unordered", batch_size=1)(tasks)
            for _ in results:
                pass
        except terminated as error:
            raise ResultError(
                "a process was killed, most often because memory ran out: what is done is kept; go on with --resume and "
                "fewer --jobs"
            ) from error


def _run_apart(fields: dict[str, Any], parent: int) -> None:
    """Run a unit in a process of its own, which ends with its parent."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    run_unit(Unit(**{**fields, "samples": _as_samples(fields["samples"])}))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _as_arrays(samples: Samples) -> dict[str, Any]:
    features = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in samples.features.items()}
    return {**vars(samples), "features": features, "target": samples.target.numpy(), "present": samples.present.numpy()}


def _as_samples(arrays: dict[str, Any]) -> Samples:
    given = arrays["features"].items()
    features = {name: x if isinstance(x, StoredFeatures) else torch.from_numpy(x) for name, x in given}
    target, present = torch.from_numpy(arrays["target"]), torch.from_numpy(arrays["present"])
    return Samples(**{**arrays, "features": features, "target": target, "present": present})


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started in here ignore Ctrl-C, which a terminal sends to all: this process hears it and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
