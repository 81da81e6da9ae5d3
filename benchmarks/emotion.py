"""One training step of the emotion network, by option.

The network is what ``torchmsaf train emotion --method msaf`` trains: the video and the audio network with MSAF after both
stages, block dropout 0.2. A step is forward, loss, backward and Adam. Memory is measured in a process of its own for each
option, which takes a step before whose start Adam has its state. Times are of one process in which options take turns.

Options: ``bf16`` is torch's autocast, as Lightning's ``bf16-mixed``; ``channels_last`` keeps the weights of convolutions so,
and their outputs follow; ``float stem`` keeps ``conv1`` and ``bn1`` of the video network in float32 and channels first.
"""

# B batch, T frames, S size of a frame

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Rounds
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.tasks.emotion import PRESETS, audio_network, video_network
from torchmsaf.tasks.memory_format import to_channels_last
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
        epochs: of each way of getting batches, there.
        most_rounds: of times; a step of the full network takes long.
    """

    preset: str
    batch: int
    steps: int
    epochs: int
    most_rounds: int


SETTINGS = {
    "full2": Setting("full", 2, 4, 1, 3),
    "full4": Setting("full", 4, 2, 1, 3),
    "small16": Setting("small", 16, 12, 5, 9),
    "small2": Setting("small", 2, 3, 2, 9),
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

    Attributes:
        cpu: seconds of processors, of all threads, that each call took.
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
            to_channels_last(self.network)
        if option.float_stem:
            _keep_stem(video, option)
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)
        self.cpu: list[float] = []
        self.batch = (
            [torch.randn(setting.batch, *sizes).to(device) for sizes in (shape, AUDIO)],
            torch.arange(setting.batch).remainder(len(EMOTIONS)).to(device),
        )

    def __call__(self) -> None:
        """A step on the same random batch every time."""
        start = time.process_time()
        self.on(*self.batch)
        self.cpu.append(time.process_time() - start)

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
    names: Sequence[str],
    labels: Sequence[str],
    timed: Callable[[int, int], Run],
    threads: Sequence[int],
    device: str,
) -> Iterator[dict[str, Any]]:
    """Memory and time of a step.

    Args:
        names: of settings.
        labels: of options.
        timed: from the number of threads and the most rounds to what times candidates side by side.
        threads: numbers of threads; memory is measured with the last.
        device: ``"cpu"`` or ``"cuda"``.
    """
    for name in names:
        setting = SETTINGS[name]
        memory = {label: _in_own_process(setting, OPTIONS[label], threads[-1], device) for label in labels}
        for number in threads:
            steps = {label: Step(setting, OPTIONS[label], device) for label in labels if memory[label]}
            rounds = timed(number, setting.most_rounds)(steps)
            for label in labels:
                row: dict[str, Any] = {
                    "preset": setting.preset,
                    "batch": setting.batch,
                    "threads": number,
                    "option": label,
                }
                if label not in steps:
                    yield row | {"step GiB": "did not fit"}
                    continue
                yield {
                    **row,
                    **(memory[label] or {}),
                    "ms": rounds.milliseconds(label),
                    "fastest ms": rounds.least(label),
                    "cpu ms": 1e3 * statistics.median(steps[label].cpu),
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
        most = torch.cuda.max_memory_allocated()
    else:
        forget_peak()
        before = peak()
        step()
        most = peak()
    return {"step GiB": (most - before) / 2**30, "in all GiB": most / 2**30}


def forget_peak() -> None:
    """Let the peak of the resident set begin anew, where Linux does that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of the largest resident set so far. Linux's ``ru_maxrss`` begins with that of whoever started the process."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _keep_stem(video: Any, option: Option) -> None:
    video.conv1.weight.data = video.conv1.weight.data.contiguous()
    form = torch.channels_last_3d if option.channels_last else torch.contiguous_format
    video.conv1 = Float32(video.conv1)
    video.bn1 = Float32(video.bn1, {"dtype": torch.bfloat16, "memory_format": form})
