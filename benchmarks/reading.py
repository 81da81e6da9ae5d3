"""Prepared clips beside folders of JPEGs, as the authors' code stores and reads them: the same frames, read in turn.

A clip is 30 frames of 224 × 224. JPEGs have quality 95 and are decoded with OpenCV. All clips are read in a shuffled
order, in batches, up to what a network takes: float32, scaled to [0, 1] and normalised, ``(n, 3, 30, 224, 224)``; or only
as far as uint8 of that shape. The two are the same to the last bit, which is checked first. Both write into memory that
is used again where no worker processes read; those hand their batches on, through shared memory. Files are in memory (page
cache) after the first pass; the rows ``disk`` ask the system to drop each file before it is read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.timing import Rounds
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.errors import require

FRAMES, SIDE, BATCH, QUALITY = 30, 224, 8, 95
FACE = "clips/facenet_pytorch_face_video.mp4"
# of the channels, as the authors normalise: mean and standard deviation of [0, 1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Run = Callable[[Mapping[str, Callable[[], object]]], Rounds]


class Jpegs:
    """A folder a clip, a JPEG a frame.

    Args:
        folders: of the clips.
        floats: read up to normalised float32, not only uint8.
        again: write every batch into the same memory.
        cold: ask the system to forget each file before it is read.
    """

    def __init__(self, folders: list[Path], floats: bool, again: bool = False, cold: bool = False) -> None:
        self.folders, self.cold = folders, cold
        self.memory = _Memory(floats, again)

    def __getitem__(self, rows: list[int]) -> Tensor:
        cv2 = require("cv2", "faces")
        batch = self.memory.batch(len(rows))
        for place, row in zip(batch, rows, strict=True):
            files = [self.folders[row] / f"{frame:02}.jpg" for frame in range(FRAMES)]
            if self.cold:
                _forget(files)
            frames = np.stack([cv2.imread(str(file)) for file in files])
            for channel in range(3):  # T H W C, BGR -> C T H W, RGB
                place[channel].copy_(torch.from_numpy(frames[..., 2 - channel]))
        return _normalise(batch)


class Shards:
    """Prepared clips; the arguments are those of :class:`Jpegs`."""

    def __init__(self, prepared: Prepared, floats: bool, again: bool = False, cold: bool = False) -> None:
        self.prepared, self.cold = prepared, cold
        self.memory = _Memory(floats, again)

    def __getitem__(self, rows: list[int]) -> Tensor:
        if self.cold:
            _forget([self.prepared.path / "clips" / f"{self.prepared.entries[row].id}.safetensors" for row in rows])
        return _normalise(self.prepared.read_many(rows, "video", out=self.memory.batch(len(rows))))


class _Memory:
    """Where a batch goes: the same place every time, or a new one."""

    def __init__(self, floats: bool, again: bool) -> None:
        self.dtype, self.again = torch.float32 if floats else torch.uint8, again
        self.kept = torch.empty(0, dtype=self.dtype)

    def batch(self, clips: int) -> Tensor:
        shape = (clips, 3, FRAMES, SIDE, SIDE)
        if not self.again:
            return torch.empty(shape, dtype=self.dtype)
        if len(self.kept) < clips:
            self.kept = torch.empty(shape, dtype=self.dtype)
        return self.kept[:clips]


def rows(clips: int, timed: Run, workers: tuple[int, ...] = (0, 2)) -> Iterator[dict[str, Any]]:
    """Write both forms in a temporary folder and time them.

    Args:
        clips: how many.
        timed: times the candidates side by side.
        workers: processes that read; 0 = the process that is measured.

    Raises:
        RuntimeError: the two do not give the same.
    """
    with tempfile.TemporaryDirectory(prefix="torchmsaf-reading-") as folder:
        folders, prepared, source = write(Path(folder), clips)
        shuffled = np.random.default_rng(0).permutation(clips).tolist()
        batches = [shuffled[start : start + BATCH] for start in range(0, clips, BATCH)]
        _check(folders, prepared, batches[0])
        sizes = {
            "jpeg MB": sum(file.stat().st_size for file in Path(folder).rglob("*.jpg")) / clips / 1e6,
            "prepared MB": sum(clip.bytes for clip in prepared.entries) / clips / 1e6,
        }
        for floats, cold, processes in _settings(workers):
            how = {"floats": floats, "again": processes == 0, "cold": cold}
            both = {"jpeg": Jpegs(folders, **how), "prepared": Shards(prepared, **how)}
            with _readers(both, batches, processes) as calls:
                rounds = timed(calls)
            yield {
                "frames": source,
                "up to": "float32" if floats else "uint8",
                "files in": "disk" if cold else "memory",
                "workers": processes,
                **{f"{name} clips/s": 1e3 * clips / rounds.milliseconds(name) for name in both},
                "ratio": asdict(rounds.ratio("jpeg", "prepared")),
                **sizes,
                # our own workers would count as others
                "quiet": None if processes else f"{rounds.quiet}/{len(rounds.used)} of {rounds.total}",
                "others": None if processes else rounds.foreign,
            }


def write(folder: Path, clips: int) -> tuple[list[Path], Prepared, str]:
    """Write the clips both ways; the prepared ones hold what the JPEGs decode to.

    Returns:
        The JPEGs' folders, the prepared clips, and where the frames are from.
    """
    cv2 = require("cv2", "faces")
    writer = PreparedWriter(folder / "prepared", "reading", {"sampling": "consecutive", "frames": FRAMES, "size": SIDE})
    folders = []
    source, frames_of = _frames(clips)
    for number in range(clips):
        here = folder / "jpeg" / f"{number:04}"
        here.mkdir(parents=True)
        for index, frame in enumerate(frames_of(number)):
            cv2.imwrite(str(here / f"{index:02}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        folders.append(here)
        video = Jpegs([here], floats=False)[[0]][0].numpy()
        writer.write(f"{number:04}", {"video": video, "audio": np.zeros((13, 212), np.float32)}, {})
    if hasattr(os, "sync"):
        os.sync()  # what is not yet on the disk cannot be dropped from memory
    return folders, writer.finish(), source


def _settings(workers: tuple[int, ...]) -> Iterator[tuple[bool, bool, int]]:
    for processes in workers:
        yield False, False, processes
        yield True, False, processes
    if hasattr(os, "posix_fadvise"):
        for processes in workers:
            yield True, True, processes


@contextmanager
def _readers(both: Mapping[str, Any], batches: list[list[int]], workers: int) -> Iterator[dict[str, Callable[[], int]]]:
    """Name -> one call that reads all batches. Worker processes start before and stay."""
    loaders = {
        name: DataLoader(data, batch_size=None, sampler=batches, num_workers=workers, persistent_workers=workers > 0)
        for name, data in both.items()
    }
    yield {name: lambda loader=loader: sum(len(batch) for batch in loader) for name, loader in loaders.items()}


def _check(folders: list[Path], prepared: Prepared, batch: list[int]) -> None:
    for floats in (False, True):
        if not torch.equal(Jpegs(folders, floats)[batch], Shards(prepared, floats)[batch]):
            raise RuntimeError("the JPEGs and the prepared clips differ")


def _normalise(batch: Tensor) -> Tensor:
    """Floats from [0, 255] to what networks take, in place; uint8 as it is."""
    if batch.is_floating_point():
        for clip in batch:
            for channel, mean, std in zip(clip, MEAN, STD, strict=True):
                channel.sub_(255 * mean).mul_(1 / (255 * std))
    return batch


def _forget(files: list[Path]) -> None:
    for file in files:
        number = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)


def _frames(clips: int) -> tuple[str, Callable[[int], NDArray[np.uint8]]]:
    """Where frames are from, and the frames ``(30, 224, 224, 3)``, BGR, of a clip."""
    shared = os.environ.get("TORCHMSAF_SHARED_DATA")
    if shared is None or not (Path(shared) / FACE).exists():
        return "made", _made
    film = _film(Path(shared) / FACE)
    spare = max(1, len(film) - FRAMES)
    return "of a film", lambda number: film[(number * 7) % spare :][:FRAMES]


def _film(file: Path) -> NDArray[np.uint8]:
    """The middle square of every frame of a film."""
    cv2 = require("cv2", "faces")
    frames = []
    with require("av", "video").open(str(file)) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="bgr24")
            top, left = ((size - min(image.shape[:2])) // 2 for size in image.shape[:2])
            square = image[top : top + min(image.shape[:2]), left : left + min(image.shape[:2])]
            frames.append(cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def _made(number: int) -> NDArray[np.uint8]:
    """Soft shapes that move, with some noise."""
    random = np.random.default_rng(number)
    at, phase = np.linspace(0, 6, SIDE), random.uniform(0, 6, 3)
    shift = np.linspace(0, 1, FRAMES)[:, None, None, None]
    waves = np.sin(at[:, None, None] + phase + shift) * np.cos(2 * at[None, :, None] - phase - shift)
    noisy = 128 + 90 * waves + random.normal(0, 4, (FRAMES, SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8)
