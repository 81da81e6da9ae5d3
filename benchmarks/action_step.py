"""One training step of the action networks, by option, each option in a process of its own.

The networks are what ``torchmsaf train action --method msaf`` trains in full: I3D, or an inflated ResNet-50, on frames, and
HCN on skeletons of two persons, both there, with MSAF at the intermediate and the late point, lambda 0.5, reduction 4, 60
classes. A step is forward, loss, backward and Adam, on the same random batch every time. Memory is the largest resident set
of a step before whose start Adam has its state. Steps with and without the points take turns then; what goes without them is
the fusion's share, their part of Adam included. Time inside the points, forward and backward, is taken in the step itself
too: that share suffers less from other processes.

Options: ``bf16`` is torch's autocast, as Lightning's ``bf16-mixed``; ``channels_last`` keeps the weights of convolutions so,
and their outputs follow; ``checkpointing`` is that of the network of frames; ``compile`` gives its stages to
``torch.compile``, which works before anything is measured.
"""

# B batch, T frames, S size of a frame

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.emotion import forget_peak, peak
from benchmarks.timing import Spread, run_rounds
from torchmsaf.tasks.action import MSAF, PRESETS, STEPS, network_options, rgb_network, skeleton_network
from torchmsaf.tasks.memory_format import to_channels_last
from torchmsaf.tasks.network import FusedNetwork

CLASSES, JOINTS, PERSONS = 60, 25, 2
# a step of the full networks takes long
MOST_ROUNDS = 3
# of the graphics card that a step should fit on
LIMIT_GIB = 24
NAMES = {"i3d": "I3D + HCN", "resnet50": "ResNet-50 + HCN"}


@dataclass(frozen=True)
class Option:
    """How a step is taken."""

    bf16: bool = False
    channels_last: bool = False
    checkpointing: bool = False
    compiled: bool = False


OPTIONS = {
    "float32": Option(),
    "channels_last": Option(channels_last=True),
    "bf16": Option(bf16=True),
    "bf16 channels_last": Option(bf16=True, channels_last=True),
    "checkpointing": Option(checkpointing=True),
    "compile": Option(compiled=True),
}


@dataclass(frozen=True)
class Setting:
    """What a step is taken on.

    Attributes:
        rgb: kind of the network of frames, one of :data:`torchmsaf.tasks.action.KINDS`.
        preset: of :data:`torchmsaf.tasks.action.PRESETS`, for the widths of both networks.
        batch: B.
        frames: T; None = as the preset says.
        size: S; None = as the preset says.
    """

    rgb: str = "i3d"
    preset: str = "full"
    batch: int = 4
    frames: int | None = None
    size: int | None = None

    @property
    def clip(self) -> tuple[int, int, int, int]:
        """``(3, T, S, S)``."""
        preset = PRESETS[self.preset]
        size = self.size or preset.size
        return (3, self.frames or preset.frames[self.rgb], size, size)


QUICK = {kind: Setting(kind, "small", 2, 8, 32) for kind in NAMES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command what :func:`rows_of` takes."""
    group = parser.add_argument_group("action-step")
    group.add_argument("--batch", type=int, default=4, metavar="B", help="clips in a step (default: 4)")
    group.add_argument("--size", type=int, metavar="S", help="of the frames (default: 224)")
    group.add_argument("--frames", type=int, metavar="T", help="of a clip (default: 32, for ResNet-50 8)")
    group.add_argument("--resnet50", action="store_true", help="an inflated ResNet-50 in I3D's place")
    told = "stop an option after S seconds (default: 600)"
    group.add_argument("--limit", type=float, default=600.0, metavar="S", help=told)


def rows_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows that the command asks for; with ``--quick`` those of the small networks on tiny clips."""
    kind = "resnet50" if options.resnet50 else "i3d"
    setting = QUICK[kind] if options.quick else Setting(kind, "full", options.batch, options.frames, options.size)
    labels = [label for label in options.options or OPTIONS if label in OPTIONS]
    how = {"rounds": options.rounds, "wait": options.wait, "limit": options.limit}
    yield from rows(setting, labels, options.threads, **how)


class Mark(torch.autograd.Function):
    """Tensors as they are; says when all of their gradients are there."""

    @staticmethod
    def forward(ctx: Any, say: Callable[[], None], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Nothing is done."""
        ctx.say = say
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Say it."""
        ctx.say()
        return None, *gradients


class Clock:
    """Seconds that fusions take, forward and backward, one after the other."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0

    def start(self) -> None:
        """A fusion begins its forward or its backward."""
        self._began = time.perf_counter()

    def stop(self) -> None:
        """And ends it."""
        self.seconds += time.perf_counter() - self._began

    def watch(self, fusion: nn.Module) -> None:
        """Count the time of a fusion, whose first argument and whose output are lists of maps."""

        def before(_: nn.Module, arguments: Any) -> Any:
            maps = Mark.apply(self.stop, *arguments[0])
            self.start()
            return (list(maps), *arguments[1:])

        def after(_: nn.Module, arguments: Any, output: Any) -> Any:
            self.stop()
            return list(Mark.apply(self.start, *output))

        fusion.register_forward_pre_hook(before)
        fusion.register_forward_hook(after)


@dataclass
class Step:
    """Training steps.

    Args:
        network: of which all parameters are trained, as far as the loss depends on them.
        optimizer: of these parameters.
        batch: inputs and target.
        bf16: whether autocast computes in bfloat16.
        fused: whether the fusion's points are there.
    """

    network: FusedNetwork
    optimizer: torch.optim.Optimizer
    batch: tuple[list[torch.Tensor], torch.Tensor]
    bf16: bool
    fused: bool = True
    #: of each call: seconds, those of processors, of all threads, and those in the fusion's points
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        if self.fused:
            for point in self.network.points:
                self.clock.watch(point)

    def __call__(self) -> float:
        """Take a step, and return its loss."""
        start, began, self.clock.seconds = time.process_time(), time.perf_counter(), 0.0
        places, (inputs, target) = self.network.places, self.batch
        self.optimizer.zero_grad()
        try:
            if not self.fused:
                self.network.places = ()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                loss = self.network.training_loss(self.network(inputs), target, None, F.cross_entropy)
        finally:
            self.network.places = places
        loss.backward()
        self.optimizer.step()
        self.cpu.append(time.process_time() - start)
        self.wall.append(time.perf_counter() - began)
        self.inside.append(self.clock.seconds)
        return float(loss.detach())


def build(setting: Setting, option: Option) -> tuple[Step, Step]:
    """Steps with the fusion and without, of the same networks; Adam has its state, as after a first step."""
    torch.manual_seed(0)
    options = network_options(setting.preset, setting.rgb, checkpointing=option.checkpointing)
    shapes = (setting.clip, (3, STEPS, JOINTS, PERSONS))
    video = rgb_network(shapes[0], CLASSES, **options["rgb"])
    networks = {"rgb": video, "skeleton": skeleton_network(shapes[1], CLASSES, **options["skeleton"])}
    network = FusedNetwork(networks, "msaf", outputs=CLASSES, options=MSAF).train()
    if option.channels_last:
        to_channels_last(network)
    if option.compiled:
        video.stages = tuple(torch.compile(stage) for stage in video.stages)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    inputs = [torch.randn(setting.batch, *shape) for shape in shapes]
    batch = (inputs, torch.arange(setting.batch).remainder(CLASSES))
    return Step(network, optimizer, batch, option.bf16), Step(network, optimizer, batch, option.bf16, fused=False)


def rows(
    setting: Setting,
    labels: Sequence[str],
    threads: Sequence[int],
    *,
    rounds: int,
    wait: float = 0.0,
    limit: float = 600.0,
) -> Iterator[dict[str, Any]]:
    """A row an option, and a number of threads.

    Args:
        setting: networks and batch.
        labels: of options.
        threads: numbers of threads.
        rounds: wanted, of a step with the fusion and one without; at most ``MOST_ROUNDS`` are run.
        wait: seconds that may be spent waiting for a quiet machine, a row.
        limit: seconds after which an option is stopped, its start counted in; what it has told by then is in its row.
    """
    _, frames, size, _ = setting.clip
    for number in threads:
        for label in labels:
            row: dict[str, Any] = {
                "networks": NAMES[setting.rgb],
                "clips": f"{setting.batch} x {frames}x{size}x{size}",
                "threads": number,
                "option": label,
            }
            if OPTIONS[label].compiled and (reason := _why_not_compiled()):
                yield row | {"note": reason}
                continue
            row |= _in_own_process(limit, setting, OPTIONS[label], number, min(rounds, MOST_ROUNDS), wait)
            seconds = row.get("s a step", math.nan)
            row["clips/s"] = None if math.isnan(seconds) else setting.batch / seconds
            row["frames/s"] = None if math.isnan(seconds) else setting.batch * frames / seconds
            yield row


def _in_own_process(limit: float, *arguments: Any) -> dict[str, Any]:
    """What the process tells, and why it does not tell more."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(its, *arguments))
    end = time.monotonic() + limit
    process.start()
    its.close()
    found: dict[str, Any] = {}
    with ours:
        try:
            while ours.poll(max(0.0, end - time.monotonic())):
                found |= ours.recv()
            process.kill()
            found["note"] = f"stopped after {limit:g} s"
        except EOFError:
            pass
    process.join()
    if process.exitcode and "note" not in found:
        found["note"] = "the process was killed: did it fit?" if process.exitcode < 0 else "the process failed"
    return found


def _measure(pipe: Connection, setting: Setting, option: Option, threads: int, rounds: int, wait: float) -> None:
    """Tell memory first, then times."""
    torch.set_num_threads(threads)
    fused, plain = build(setting, option)
    if option.compiled:
        start = time.perf_counter()
        try:
            fused()
            plain()
        except Exception as error:  # of torch's compiler, of many kinds
            pipe.send({"note": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"})
            return
        pipe.send({"compiled in s": time.perf_counter() - start})
    forget_peak()
    before = peak()
    fused()
    most = peak()
    gib = {"step GiB": (most - before) / 2**30, "in all GiB": most / 2**30}
    pipe.send({**gib, f"% of {LIMIT_GIB} GiB": 100 * gib["in all GiB"] / LIMIT_GIB})
    done = len(fused.wall)
    timed = run_rounds({"fused": fused, "plain": plain}, rounds=rounds, seconds=0, threads=threads, wait=wait, tries=1)
    share = timed.ratio("plain", "fused")
    inside = [part / whole for part, whole in zip(fused.inside[done:], fused.wall[done:], strict=True)]
    pipe.send(
        {
            "s a step": timed.milliseconds("fused") / 1e3,
            "cpu s": statistics.median(fused.cpu[done:]),
            "fusion %": asdict(Spread(*(100 * (1 - value) for value in (share.median, share.high, share.low)))),
            "in its points %": 100 * statistics.median(inside),
            "quiet": f"{timed.quiet}/{len(timed.used)} of {timed.total}",
            "others": timed.foreign,
        }
    )


def _why_not_compiled() -> str | None:
    """What is missing for ``torch.compile`` on a CPU; None = nothing."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(compiler) else f"skipped: there is no C++ compiler {compiler!r}, which CXX can name"
