"""Protects the example that pairs spoken with handwritten digits: real file formats in, arrays for the comparison out."""

import gzip
import struct
import sys
import wave

import numpy as np
import pytest

from examples import avmnist


def write_idx(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_wav(path, seconds, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        tone = 8000 * np.sin(np.arange(int(seconds * rate)) * 0.5)
        file.writeframes(tone.astype("<i2").tobytes())


@pytest.fixture
def files(tmp_path, monkeypatch):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for digit in range(10):
        for speaker, seconds in (("ann", 0.4), ("bob", 1.3)):
            write_wav(recordings / f"{digit}_{speaker}_0.wav", seconds)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 3)
    images = np.arange(30, dtype=np.uint8)[:, None, None] * np.ones((30, 28, 28), np.uint8)
    write_idx(tmp_path / "images.gz", images)
    write_idx(tmp_path / "labels.gz", labels)
    out = tmp_path / "avmnist.npz"
    arguments = ["--recordings", str(recordings), "--images", str(tmp_path / "images.gz")]
    arguments += ["--labels", str(tmp_path / "labels.gz"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["avmnist.py", *arguments])
    return recordings, out


def test_every_recording_gets_its_own_image_of_the_same_digit(files):
    _, out = files
    avmnist.main()
    with np.load(out) as arrays:
        assert arrays["image"].shape == (20, 1, 28, 28)
        assert arrays["audio"].shape == (20, 32, 63)
        assert np.isfinite(arrays["audio"]).all()
        number = np.rint(arrays["image"][:, 0, 0, 0] * 255).astype(int)  # each made-up image carries its own number
        assert (number // 3 == arrays["digit"]).all()
        assert len(set(number)) == 20
        assert sorted(set(arrays["speaker"])) == ["ann", "bob"]


def test_a_recording_at_another_rate_is_named(files):
    recordings, _ = files
    write_wav(recordings / "0_ann_0.wav", 0.4, rate=16000)
    with pytest.raises(SystemExit, match=r"0_ann_0\.wav: expected 16-bit mono at 8000 Hz"):
        avmnist.main()
