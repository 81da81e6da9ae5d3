"""The command: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import benchmarks
from benchmarks import action_step, actions, cases, emotion, grafts, reading, report, sentiment, waiting
from benchmarks.shapes import SHAPES, Shape, growth_pairs
from benchmarks.timing import Rounds, run_rounds
from torchmsaf.analysis.cost import measure, peak_memory, saved_bytes

PARTS = (
    "counts",
    "times",
    "overheads",
    "growth",
    "grafts",
    "reading",
    "emotion",
    "waiting",
    "sentiment",
    "actions",
    "action-step",
)
# the least passes over the maps: read to pool, read to scale, write; the backward reads gy twice and x, and writes gx
PASSES = {False: 3, True: 7}


def main() -> None:
    options = _options()
    if options.keepheap and any(os.environ.get(key) != value for key, value in report.KEEPHEAP.items()):
        environment = {**os.environ, **report.KEEPHEAP}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], environment)
    facts = report.machine(options.device)
    print("  ".join(f"{key}: {value}" for key, value in facts.items()), flush=True)
    if options.device == "cuda":
        print("CUDA timings are written but have not been tried: check them before you quote them.")
    jobs = {
        "counts": ("Counted, in units of the input bytes N", _counts),
        "times": ("Times", _times),
        "overheads": ("Overheads, time over the plain module's", _overheads),
        "growth": ("Growth, time of the larger setting over the smaller one's", _growth),
        "grafts": ("Grafted models, beside the same networks and fusions interleaved by hand", _grafts),
        "reading": ("Reading clips: prepared ones beside 30 JPEGs a clip; time of the JPEGs over ours", _reading),
        "emotion": ("A training step of the emotion network, by option", _emotion),
        "waiting": ("Training of the emotion network: how long it waits for batches", _waiting),
        "sentiment": (
            "A training step of the sentiment network; time of the straightforward one over ours",
            _sentiment,
        ),
        "actions": ("32 frames of a film, beside OpenCV reading all of it; time of OpenCV over ours", _actions),
        "action-step": (
            "A training step of the action networks, by option, each in a process of its own",
            _action_step,
        ),
    }
    tables: dict[str, list[dict[str, Any]]] = {}
    for part in options.parts:
        title, rows = jobs[part]
        tables[title] = []
        for row in rows(options):
            tables[title].append(row)
            if options.verbose:
                print(row, flush=True)
        print(f"\n{report.as_text(title, tables[title])}", flush=True)
        if options.out is not None:  # after every part: a long run that is stopped keeps what it has
            report.write(options.out, facts, tables)


def _counts(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for shape in _shapes(options):
        size = sum(x.numel() * x.element_size() for x in shape.features())
        made = {"straightforward": cases.straightforward(shape), "torchmsaf": cases.fast(shape), **_variants(shape)}
        for state, backward in cases.MODES:
            for name, case in made.items():
                call = case.call(state, backward)
                cost = measure(call)
                row: dict[str, Any] = {"shape": shape.name, "mode": _mode(state, backward), "implementation": name}
                row |= {"bytes/N": cost.bytes_touched / size, "kernels": cost.kernels, "flops": cost.flops}
                row |= {"elementwise": cost.elementwise, "peak/N": peak_memory(call) / size, "saved/N": None}
                if state == "train" and not backward:
                    features = [x.detach().requires_grad_() for x in case.features]
                    row["saved/N"] = saved_bytes(case.module, features, **case.arguments) / size
                yield row


def _times(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for threads in _threads(options):
        for shape in _shapes(options):
            size = sum(x.numel() * x.element_size() for x in shape.features())
            for state, backward in _modes(options):
                calls = {
                    "straightforward": cases.straightforward(shape, options.device).call(state, backward),
                    "torchmsaf": cases.fast(shape, options.device).call(state, backward),
                    "copy": cases.copy(shape, options.device),
                }
                if options.cuda_graph and state == "eval" and not backward:
                    calls["graph"] = cases.captured(calls["torchmsaf"])
                rounds = _run(calls, options, threads)
                floor = rounds.ratio("copy", "torchmsaf").median * PASSES[backward] / 2
                yield {
                    "shape": shape.name,
                    "mode": _mode(state, backward),
                    "threads": threads,
                    "straightforward ms": rounds.milliseconds("straightforward"),
                    "torchmsaf ms": rounds.milliseconds("torchmsaf"),
                    **({"graph ms": rounds.milliseconds("graph")} if "graph" in calls else {}),
                    "ratio": asdict(rounds.ratio("straightforward", "torchmsaf")),
                    "copy GB/s": 2 * size / rounds.milliseconds("copy") / 1e6,
                    "floor frac": floor,
                    **_noise(rounds),
                }


def _overheads(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for threads in _threads(options):
        for shape in _shapes(options):
            for state, backward in (("eval", False), ("train", True)):
                made = {"plain": cases.fast(shape, options.device), **_variants(shape, options.device)}
                rounds = _run({name: case.call(state, backward) for name, case in made.items()}, options, threads)
                row: dict[str, Any] = {"shape": shape.name, "mode": _mode(state, backward), "threads": threads}
                row["plain ms"] = rounds.milliseconds("plain")
                row |= {name: asdict(rounds.ratio(name, "plain")) for name in made if name != "plain"}
                yield row | _noise(rounds)


def _variants(shape: Shape, device: str = "cpu") -> dict[str, cases.Case]:
    """What may cost more than the plain module."""
    return {
        "masks": cases.fast(shape, device, masks=cases.some_masks(shape, device)),
        "presence": cases.fast(shape, device, present=cases.some_present(shape, device)),
        "identity_start": cases.fast(shape, device, identity_start=True),
    }


def _growth(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for threads in _threads(options):
        for name, large, small in growth_pairs():
            for state, backward in (("eval", False), ("train", True)):
                calls = {
                    f"{label} {size}": make(shape, options.device).call(state, backward)
                    for label, make in (("straightforward", cases.straightforward), ("torchmsaf", cases.fast))
                    for size, shape in (("large", large), ("small", small))
                }
                rounds = _run(calls, options, threads)
                row: dict[str, Any] = {"growth": name, "mode": _mode(state, backward), "threads": threads}
                for label in ("straightforward", "torchmsaf"):
                    row[label] = asdict(rounds.ratio(f"{label} large", f"{label} small"))
                yield row | _noise(rounds)


def _grafts(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for threads in _threads(options):
        for pair in (grafts.PAIRS[name] for name in options.grafts):
            for fusion, mode in itertools.product(pair.fusions, grafts.MODES):
                if options.modes is not None and mode not in options.modes:
                    continue
                rounds = _run(grafts.calls(pair, fusion, mode, options.device), options, threads)
                ratio, excess = (asdict(of("grafted", "hand-written")) for of in (rounds.ratio, rounds.excess))
                yield {
                    "networks": pair.name,
                    "fusion": fusion,
                    "mode": mode,
                    "threads": threads,
                    "hand-written ms": rounds.milliseconds("hand-written"),
                    "grafted ms": rounds.milliseconds("grafted"),
                    "overhead %": {name: 100 * (value - 1) for name, value in ratio.items()},
                    "fastest %": 100 * (rounds.least("grafted") / rounds.least("hand-written") - 1),
                    "us a point": {name: 1e3 * value / len(pair.taps) for name, value in excess.items()},
                    **_noise(rounds),
                }


def _reading(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for threads in _threads(options):
        for row in reading.rows(options.clips, lambda calls: _run(calls, options, threads)):  # noqa: B023
            yield {"threads": threads, **row}


def _emotion(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    def timed(threads: int, most: int) -> emotion.Run:
        torch.set_num_threads(threads)
        return lambda calls: run_rounds(
            calls,
            rounds=min(options.rounds, most),
            seconds=0,
            threads=threads,
            wait=options.wait,
            device=options.device,
            tries=1,
        )

    before = torch.get_num_threads()
    settings = options.emotion or ("full2", "full4", "small16")
    labels = [label for label in options.options or emotion.OPTIONS if label in emotion.OPTIONS]
    yield from emotion.step_rows(settings, labels, timed, options.threads, options.device)
    torch.set_num_threads(before)


def _waiting(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    settings = options.emotion or ("full2", "small16")
    labels = [label for label in options.options or waiting.LABELS if label in emotion.OPTIONS]
    yield from waiting.rows(settings, labels, _threads(options))


def _sentiment(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for threads in _threads(options):

        def timed(calls: Mapping[str, Callable[[], object]], threads: int = threads) -> Rounds:
            return run_rounds(calls, rounds=options.rounds, seconds=0, threads=threads, wait=options.wait, tries=1)

        for row in sentiment.rows(options.sentiment, timed, **options.sentiment_sizes):
            yield {"threads": threads, **row}


def _actions(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    def timed(calls: Mapping[str, Callable[[], object]]) -> Rounds:
        return run_rounds(calls, rounds=options.rounds, seconds=0, threads=1, wait=options.wait, tries=1)

    yield from actions.rows(timed, film=options.film, **options.films)


def _action_step(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield from action_step.rows_of(options)


def _run(calls: Mapping[str, Callable[[], object]], options: argparse.Namespace, threads: int) -> Rounds:
    return run_rounds(
        calls,
        rounds=options.rounds,
        seconds=options.seconds,
        threads=threads,
        wait=options.wait,
        device=options.device,
    )


def _noise(rounds: Rounds) -> dict[str, Any]:
    return {"quiet": f"{rounds.quiet}/{len(rounds.used)} of {rounds.total}", "others": rounds.foreign}


def _threads(options: argparse.Namespace) -> Iterator[int]:
    before = torch.get_num_threads()
    for threads in options.threads:
        torch.set_num_threads(threads)
        yield threads
    torch.set_num_threads(before)


def _shapes(options: argparse.Namespace) -> list[Shape]:
    return [SHAPES[name] for name in options.shapes]


def _modes(options: argparse.Namespace) -> list[tuple[str, bool]]:
    return [mode for mode in cases.MODES if options.modes is None or _mode(*mode) in options.modes]


def _mode(state: str, backward: bool) -> str:
    return f"{state} fwd+bwd" if backward else f"{state} fwd"


def _options() -> argparse.Namespace:
    modes = [*dict.fromkeys([*(_mode(*mode) for mode in cases.MODES), *grafts.MODES])]
    steps = emotion.OPTIONS | action_step.OPTIONS
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=list(SHAPES),
        default=list(SHAPES),
        metavar="NAME",
        help=f"of {', '.join(SHAPES)}",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which tables")
    parser.add_argument(
        "--modes", nargs="+", choices=modes, default=None, help="which rows of the tables of times and grafts"
    )
    parser.add_argument(
        "--grafts",
        nargs="+",
        choices=list(grafts.PAIRS),
        default=list(grafts.PAIRS),
        metavar="NAME",
        help=f"which networks are grafted, of {', '.join(grafts.PAIRS)}",
    )
    parser.add_argument(
        "--emotion",
        nargs="+",
        choices=list(emotion.SETTINGS),
        metavar="NAME",
        help=f"preset and batch of the emotion network, of {', '.join(emotion.SETTINGS)}",
    )
    parser.add_argument(
        "--options",
        nargs="+",
        choices=list(steps),
        metavar="NAME",
        help=f"how the steps of emotion and action networks are taken, of {', '.join(map(repr, steps))}",
    )
    parser.add_argument(
        "--sentiment",
        nargs="+",
        type=int,
        default=[16, 32, 256],
        metavar="B",
        help="batches of the sentiment network (default: 16, which the paper has, 32 and 256)",
    )
    parser.add_argument("--film", type=Path, metavar="FILE", help="a video of NTU RGB+D, in place of a drawn one")
    action_step.add_arguments(parser)
    parser.add_argument("--clips", type=int, default=64, metavar="N", help="clips that are read (default: 64)")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, min(2, os.cpu_count() or 1)}), metavar="N")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="quiet rounds wanted a row (default: 9)")
    parser.add_argument(
        "--seconds", type=float, default=0.25, metavar="S", help="least length of a round (default: 0.25)"
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="wait up to S s a row for a quiet machine")
    parser.add_argument("--keepheap", action="store_true", help="start again with an allocator that keeps freed memory")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda is untested")
    parser.add_argument("--cuda-graph", action="store_true", help="time the eval forward as a CUDA graph too; untested")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write results.json and results.md there")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs; the numbers mean little"
    )
    parser.add_argument("--verbose", action="store_true", help="print each row as it comes")
    options = parser.parse_args()
    options.sentiment_sizes, options.films = {}, {}
    if options.quick:
        options.shapes, options.grafts = options.shapes[:1], options.grafts[:1]
        options.rounds, options.seconds, options.clips = 2, 0.02, min(options.clips, 8)
        options.emotion, options.options = ["small2"], ["float32", "bf16 channels_last"]
        options.sentiment, options.sentiment_sizes = [4], sentiment.QUICK
        options.films = {"films": actions.QUICK, "count": 40}
    if options.cuda_graph and options.device != "cuda":
        parser.error("--cuda-graph needs --device cuda")
    return options


if __name__ == "__main__":
    main()
