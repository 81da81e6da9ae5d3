"""One training step of the emotion network by option, and how long its training waits for data.

The network is what ``torchmsaf train emotion --method msaf`` trains: the video and the audio network with MSAF after both
stages, block dropout 0.2. A step is forward, loss, backward and Adam. Memory is measured in a process of its own for each
option, which takes a step before whose start Adam has its state. Times are of one process in which options take turns.

Options: ``bf16`` is torch's autocast, as Lightning's ``bf16-mixed``; ``channels_last`` keeps the weights of convolutions so,
and their outputs follow; ``float stem`` keeps ``conv1`` and ``bn1`` of the video network in float32 and channels first.
"""

# B batch, T frames, S size of a frame

from __future__ import annotations

import itertools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import ForeignLoad, Rounds
from torchmsaf.data.clips import emotion_samples
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.tasks.batches import Batch, Batches, Part, Shuffled, part_of, training_batches
from torchmsaf.tasks.emotion import AUGMENT, PRESETS, audio_network, video_network
from torchmsaf.tasks.network import FusedNetwork

AUDIO = (13, 212)
Run = Callable[[Mapping[str, Callable[[], object]]], Rounds]


@dataclass(frozen=True)
class Option:
    """How a step is taken."""

    bf16: bool = False
    channels_last: bool = False
    checkpointing: bool = False
    float_stem: bool = False


OPTIONS = {
    "float32": Option(),
    "channels_last": Option(channels_last=True),
    "bf16": Option(bf16=True),
    "bf16, float stem": Option(bf16=True, float_stem=True),
    "bf16 channels_last": Option(bf16=True, channels_last=True),
    "bf16 channels_last, float stem": Option(bf16=True, channels_last=True, float_stem=True),
    "checkpointing": Option(checkpointing=True),
    "bf16 channels_last checkpointing": Option(bf16=True, channels_last=True, checkpointing=True),
    "bf16 channels_last checkpointing, float stem": Option(True, True, True, True),
}


@dataclass(frozen=True)
class Setting:
    """A preset with a size of batch.

    Attributes:
        preset: of :data:`torchmsaf.tasks.emotion.PRESETS`.
        batch: B.
        steps: of an epoch that is looked at for waiting.
        most_rounds: of times; a step of the full network takes long.
    """

    preset: str
    batch: int
    steps: int
    most_rounds: int


SETTINGS = {
    "full2": Setting("full", 2, 4, 3),
    "full4": Setting("full", 4, 2, 3),
    "small16": Setting("small", 16, 12, 9),
    "small2": Setting("small", 2, 3, 9),
}


class Float32(nn.Module):
    """A module in float32, within autocast too.

    Args:
        module: of which the weights are float32 and channels first.
        after: what the output is brought to, arguments of ``Tensor.to``.
    """

    def __init__(self, module: nn.Module, after: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.module, self.after = module, dict(after or {})

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.module(x.float())
        return y.to(**self.after) if self.after else y


class Step:
    """Training steps of the network with one option.

    Args:
        setting: the preset and the batch.
        option: how.
        device: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, setting: Setting, option: Option, device: str = "cpu") -> None:
        torch.manual_seed(0)
        preset = PRESETS[setting.preset]
        shape = (3, preset.frames, preset.size, preset.size)
        video = video_network(shape, len(EMOTIONS), **preset.video, checkpointing=option.checkpointing)
        self.network = FusedNetwork(
            {"video": video, "audio": audio_network(AUDIO, len(EMOTIONS))},
            "msaf",
            outputs=len(EMOTIONS),
            options={"block_dropout": 0.2},
        )
        self.option, self.device = option, device
        self.network.to(device).train()
        if option.channels_last:
            _to_channels_last(self.network)
        if option.float_stem:
            _keep_stem(video, option)
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)
        self.batch = (
            [torch.randn(setting.batch, *sizes).to(device) for sizes in (shape, AUDIO)],
            torch.arange(setting.batch).remainder(len(EMOTIONS)).to(device),
        )

    def __call__(self) -> None:
        """A step on the same random batch every time."""
        self.on(*self.batch)

    def on(self, inputs: Sequence[Tensor], target: Tensor) -> None:
        """A step on a batch."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.option.bf16):
            loss = self.network.training_loss(self.network(inputs), target, None, F.cross_entropy)
        loss.backward()
        self.optimizer.step()

    def fill_optimizer(self) -> None:
        """Give Adam its state, as after a first step."""
        for parameter in self.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()


def step_rows(
    names: Sequence[str], timed: Callable[[int, int], Run], threads: Sequence[int], device: str
) -> Iterator[dict[str, Any]]:
    """Memory and time of a step.

    Args:
        names: of settings.
        timed: from the number of threads and the most rounds to what times candidates side by side.
        threads: numbers of threads; memory is measured with the last.
        device: ``"cpu"`` or ``"cuda"``.
    """
    for name in names:
        setting = SETTINGS[name]
        memory = {label: _in_own_process(setting, option, threads[-1], device) for label, option in OPTIONS.items()}
        for number in threads:
            steps = {label: Step(setting, option, device) for label, option in OPTIONS.items() if memory[label]}
            rounds = timed(number, setting.most_rounds)(steps)
            for label in OPTIONS:
                row = {"preset": setting.preset, "batch": setting.batch, "threads": number, "option": label}
                if label not in steps:
                    yield row | {"step GiB": "did not fit"}
                    continue
                yield {
                    **row,
                    **(memory[label] or {}),
                    "ms": rounds.milliseconds(label),
                    "fastest ms": rounds.least(label),
                    "over float32's": asdict(rounds.ratio(label, "float32")) if "float32" in steps else None,
                    "quiet": f"{rounds.quiet}/{len(rounds.used)} of {rounds.total}",
                    "others": rounds.foreign,
                }


def _in_own_process(setting: Setting, option: Option, threads: int, device: str) -> dict[str, float] | None:
    """Peaks of memory; None when the process was killed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peaks, setting, option, threads, device).result()
        except BrokenProcessPool:
            return None


def _peaks(setting: Setting, option: Option, threads: int, device: str) -> dict[str, float]:
    """GiB that a step takes beyond the network and Adam's state, and that all takes."""
    torch.set_num_threads(threads)
    step = Step(setting, option, device)
    step.fill_optimizer()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated()
    else:
        _forget_peak()
        before = _peak()
        step()
        peak = _peak()
    return {"step GiB": (peak - before) / 2**30, "in all GiB": peak / 2**30}


def _forget_peak() -> None:
    """Let the peak of the resident set begin anew, where Linux does that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Bytes of the largest resident set so far. Linux's ``ru_maxrss`` begins with that of the process that started this one."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _to_channels_last(network: nn.Module) -> None:
    """Weights of every rank in the form of that rank; ``nn.Module.to`` refuses a network that has both."""
    forms = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in forms:
            parameter.data = parameter.data.contiguous(memory_format=forms[parameter.dim()])


def _keep_stem(video: Any, option: Option) -> None:
    video.conv1.weight.data = video.conv1.weight.data.contiguous()
    form = torch.channels_last_3d if option.channels_last else torch.contiguous_format
    video.conv1 = Float32(video.conv1)
    video.bn1 = Float32(video.bn1, {"dtype": torch.bfloat16, "memory_format": form})


def waiting_rows(names: Sequence[str], labels: Sequence[str], threads: Iterable[int]) -> Iterator[dict[str, Any]]:
    """How long an epoch waits for its batches: read ahead, as training does; in turn; and made before.

    Args:
        names: of settings.
        labels: of options.
        threads: numbers of threads that torch is set to when a row is asked for.
    """
    for number in threads:
        for name, label in itertools.product(names, labels):
            setting = SETTINGS[name]
            with tempfile.TemporaryDirectory(prefix="torchmsaf-waiting-") as folder:
                part = _write(Path(folder), setting)
                step = Step(setting, OPTIONS[label])
                step()
                in_turn = Batches(replace(part, generator=torch.Generator()), Shuffled(len(part), setting.batch, 0))
                ways = {
                    "read ahead": lambda part=part, setting=setting: training_batches(part, setting.batch, 0),
                    "in turn": lambda in_turn=in_turn: in_turn,
                    "made before": lambda in_turn=in_turn: list(in_turn),
                }
                for way, batches in ways.items():
                    yield {
                        "preset": setting.preset,
                        "batch": setting.batch,
                        "threads": number,
                        "option": label,
                        "batches": way,
                        **_epoch(batches(), step),
                    }


def _epoch(batches: Iterable[Batch], step: Step) -> dict[str, Any]:
    load, waits, works = ForeignLoad(), [], []
    load.start()
    going = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(going, None)
        if batch is None:
            break
        waits.append(time.perf_counter() - start)
        start = time.perf_counter()
        step.on(batch[0], batch[1])
        works.append(time.perf_counter() - start)
    total = sum(waits) + sum(works)
    return {
        "steps": len(works),
        "epoch s": total,
        "first wait ms": 1e3 * waits[0],
        "other waits ms": 1e3 * sum(waits[1:]) / max(1, len(waits) - 1),
        "step ms": 1e3 * sum(works) / len(works),
        "waiting %": 100 * sum(waits) / total,
        "but for the first %": 100 * sum(waits[1:]) / (total - waits[0]),
        "others": load.cores(),
    }


def _write(folder: Path, setting: Setting) -> Part:
    """Clips of noise, as many as an epoch takes, with the augmentation of training."""
    preset, random = PRESETS[setting.preset], np.random.default_rng(0)
    writer = PreparedWriter(
        folder, "ravdess", {"sampling": "consecutive", "frames": preset.frames, "size": preset.size}
    )
    for number in range(setting.batch * setting.steps):
        video = random.integers(0, 256, (3, preset.frames, preset.size, preset.size), dtype=np.uint8)
        audio = random.standard_normal(AUDIO, dtype=np.float32)
        facts = {"label": number % len(EMOTIONS), "actor": 1 + number % 24}
        writer.write(f"{number:04}", {"video": video, "audio": audio}, facts)
    samples = emotion_samples(writer.finish())
    features = [samples.features[name] for name in ("video", "audio")]
    part = part_of(features, samples.target, samples.present, torch.arange(len(samples.target)))
    return replace(part, augment=(AUGMENT["video"], None))
