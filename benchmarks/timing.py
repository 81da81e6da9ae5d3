"""Timing on a machine that is not ours alone.

Candidates run in turn, A, B, C, A, B, C, …; only ratios within a round are compared, and their median is reported with
the quartiles. Each round records how many cores other processes used; noisy rounds are set aside when enough quiet ones
are left.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

# /proc/stat: user, nice, system, irq, softirq, steal
_BUSY = (0, 1, 2, 5, 6, 7)


@dataclass(frozen=True)
class Round:
    """Seconds a call of each candidate, and the cores that others used meanwhile (None where nothing says so)."""

    seconds: Mapping[str, float]
    foreign: float | None


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Rounds:
    """The rounds that count.

    Attributes:
        used: the rounds, quiet ones alone where there are enough.
        quiet: how many of them are quiet.
        total: how many were run.
    """

    used: Sequence[Round]
    quiet: int
    total: int

    def milliseconds(self, name: str) -> float:
        """Median time of one call."""
        return 1e3 * statistics.median(r.seconds[name] for r in self.used)

    def ratio(self, above: str, below: str) -> Spread:
        """Time of one candidate over another's, within rounds."""
        return Spread.of([r.seconds[above] / r.seconds[below] for r in self.used])

    def excess(self, above: str, below: str) -> Spread:
        """Milliseconds that a call of one candidate takes longer than another's, within rounds."""
        return Spread.of([1e3 * (r.seconds[above] - r.seconds[below]) for r in self.used])

    def least(self, name: str) -> float:
        """Time of one call in milliseconds, in the fastest round."""
        return 1e3 * min(r.seconds[name] for r in self.used)

    @property
    def foreign(self) -> float | None:
        """Median cores of others."""
        known = [r.foreign for r in self.used if r.foreign is not None]
        return statistics.median(known) if known else None


class ForeignLoad:
    """Cores that other processes, and the host of a virtual machine, use between :meth:`start` and :meth:`cores`."""

    def start(self) -> None:
        """Begin."""
        self._begin = (_busy_seconds(), time.process_time(), time.perf_counter())

    def cores(self) -> float | None:
        """Mean cores since the start; None where there is no ``/proc/stat``."""
        busy, own, wall = self._begin
        now = _busy_seconds()
        if busy is None or now is None:
            return None
        return max(0.0, ((now - busy) - (time.process_time() - own)) / (time.perf_counter() - wall))


def run_rounds(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    threads: int,
    wait: float = 0.0,
    device: str = "cpu",
    tries: int = 3,
) -> Rounds:
    """Time candidates side by side.

    Args:
        candidates: name -> one call.
        rounds: quiet rounds wanted.
        seconds: least length of a round, shared by its candidates; 0 = each is called once a round, and not before.
        threads: threads that torch uses, which says how many cores others may use before a round is noisy.
        wait: seconds that may be spent, in all, waiting for others to be quiet before a round starts.
        device: ``"cpu"`` or ``"cuda"``.
        tries: up to so many times as many rounds are tried.
    """
    loops = {name: _calibrate(call, seconds / len(candidates), device) for name, call in candidates.items()}
    allowed = max(0.25, (os.cpu_count() or 1) - threads - 0.1)
    names = list(candidates)
    done: list[Round] = []
    quiet: list[Round] = []
    load = ForeignLoad()
    while len(quiet) < rounds and len(done) < tries * rounds:
        wait -= _await_quiet(allowed, wait)
        turn = len(done) % len(names)
        load.start()
        times = {name: _time(candidates[name], loops[name], device) for name in names[turn:] + names[:turn]}
        done.append(Round(times, load.cores()))
        if done[-1].foreign is None or done[-1].foreign <= allowed:
            quiet.append(done[-1])
    if len(quiet) >= max(1, rounds // 2):
        return Rounds(quiet, len(quiet), len(done))
    return Rounds(done, len(quiet), len(done))


def _await_quiet(allowed: float, wait: float) -> float:
    """Sleep until others use no more cores than allowed, or ``wait`` is over; return the seconds slept."""
    load, start = ForeignLoad(), time.perf_counter()
    while (slept := time.perf_counter() - start) < wait:
        load.start()
        time.sleep(0.1)
        if (load.cores() or 0.0) <= allowed:
            break
    return slept


def _calibrate(call: Callable[[], object], seconds: float, device: str) -> int:
    if seconds == 0:
        return 1
    call()
    call()
    loops = 1
    while (spent := _time(call, loops, device) * loops) < seconds / 4:
        loops *= 4
    return max(1, round(loops * seconds / spent))


def _time(call: Callable[[], object], loops: int, device: str) -> float:
    """Seconds a call."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        for _ in range(loops):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / loops
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - start) / loops


def _busy_seconds() -> float | None:
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        return sum(int(fields[i]) for i in _BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None
