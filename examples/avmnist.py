"""Pair spoken digits with handwritten ones, as arrays for ``torchmsaf compare arrays``.

Every recording of the Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset, files
``{digit}_{speaker}_{index}.wav``) gets an MNIST image of the same digit (LeCun et al.); no image is used twice.

    python examples/avmnist.py --recordings FSDD/ --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz
    torchmsaf compare arrays avmnist.npz --target digit --modalities image audio --group speaker --ids ids --folds 6
"""

from __future__ import annotations

import argparse
import gzip
import wave
from pathlib import Path

import numpy as np
import torch

RATE, SAMPLES, BINS = 8000, 8000, 32  # one second at 8 kHz, mel bands


def read_idx(path: Path) -> np.ndarray:
    """An array of the idx format, ``(n, 28, 28)`` images or ``(n,)`` labels."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    axes = raw[3]
    shape = np.frombuffer(raw, ">u4", count=axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_wav(path: Path) -> torch.Tensor:
    """One second of a recording in [-1, 1]: cut, or completed with silence."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (RATE, 2, 1):
            raise SystemExit(f"{path}: expected 16-bit mono at {RATE} Hz")
        sound = np.frombuffer(file.readframes(SAMPLES), "<i2").astype(np.float32) / 32768
    return torch.from_numpy(np.pad(sound, (0, SAMPLES - len(sound))))


def mel_bands(bins: int, frequencies: int) -> torch.Tensor:
    """Triangular bands, even on the mel scale 2595 log10(1 + f / 700), ``(bins, frequencies)``."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), bins + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    f = np.linspace(0, RATE / 2, frequencies)
    rise = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    return torch.from_numpy(np.clip(np.minimum(rise, fall), 0, None).astype(np.float32))


def main() -> None:
    """Write the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--recordings", "--images", "--labels"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("avmnist.npz"))
    options = parser.parse_args()
    images, labels = read_idx(options.images), read_idx(options.labels)
    files = sorted(options.recordings.glob("*.wav"))
    draw = np.random.default_rng(0)
    pools = {digit: list(draw.permutation(np.flatnonzero(labels == digit))) for digit in range(10)}
    digits = np.array([int(file.stem.split("_")[0]) for file in files])
    speakers = np.array([file.stem.split("_")[1] for file in files])
    chosen = np.array([pools[digit].pop() for digit in digits])
    window = torch.hann_window(256)
    bands = mel_bands(BINS, 129)
    sounds = torch.stack([read_wav(file) for file in files])
    power = torch.stft(sounds, 256, 128, window=window, return_complex=True).abs().square()  # (n, 129, 63)
    audio = (bands @ power).clamp(min=1e-8).log().numpy()  # (n, 32, 63)
    image = images[chosen][:, None].astype(np.float32) / 255
    ids = np.array([file.stem for file in files])
    np.savez(options.out, image=image, audio=audio, digit=digits, speaker=speakers, ids=ids)
    print(f"{options.out}: {len(files)} pairs, {len(set(speakers))} speakers")


if __name__ == "__main__":
    main()
