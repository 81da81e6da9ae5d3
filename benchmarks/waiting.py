"""How long the training of the emotion network waits for its batches.

Epochs of a few steps are timed in three ways that take turns: with batches read ahead in a thread, as training does it; read
in turn; and made before, which is what the steps take when nothing is read. Clips are noise, prepared in a temporary folder,
and their files are in memory (page cache); frames are cropped and flipped as in training.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.emotion import AUDIO, OPTIONS, SETTINGS, Setting, Step
from benchmarks.timing import ForeignLoad, Spread
from torchmsaf.data.clips import emotion_samples
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.tasks.batches import Batch, Batches, Part, Shuffled, part_of, training_batches
from torchmsaf.tasks.emotion import AUGMENT, PRESETS

# the slowest steps, and the fastest, for which reading has the least time
LABELS = ("float32", "bf16 channels_last")


def rows(names: Sequence[str], labels: Sequence[str], threads: Iterable[int]) -> Iterator[dict[str, Any]]:
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
                ways: dict[str, Iterable[Batch]] = {
                    "read ahead": training_batches(part, setting.batch, 0),
                    "in turn": in_turn,
                    "made before": list(in_turn),
                }
                said = {"preset": setting.preset, "batch": setting.batch, "threads": number, "option": label}
                for way, row in _in_turns(ways, step, setting.epochs).items():
                    yield {**said, "batches": way, **row}


def _in_turns(ways: Mapping[str, Iterable[Batch]], step: Step, epochs: int) -> dict[str, dict[str, Any]]:
    """Medians of each way's epochs, which take turns."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for turn in range(epochs):
        names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for way in names:
            found[way].append(_epoch(ways[way], step))
    rows: dict[str, dict[str, Any]] = {}
    for way, each in found.items():
        over = [one["epoch s"] / least["epoch s"] for one, least in zip(each, found["made before"], strict=True)]
        rows[way] = {
            "steps": f"{epochs} x {int(each[0]['steps'])}",
            **{key: statistics.median(one[key] for one in each) for key in each[0] if key != "steps"},
            "epoch over made before's": asdict(Spread.of(over)),
        }
    return rows


def _epoch(batches: Iterable[Batch], step: Step) -> dict[str, float]:
    waits: list[float] = []
    works: list[float] = []
    load = ForeignLoad()
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
        "others": load.cores() or 0.0,
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
