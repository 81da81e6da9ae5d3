"""Protects the MFCCs: librosa's numbers for both paddings, and the written-out formula on a short wave."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from torchmsaf.data.prepare.audio import cut, read_audio
from torchmsaf.data.prepare.mfcc import mfcc
from torchmsaf.errors import DataError

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
needs_shared = pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")


def rising_tone() -> NDArray[np.float32]:
    """2.45 s at 44.1 kHz: a tone that rises and fades in noise of 16-bit steps, then silence."""
    n = np.arange(108_045)
    t = n / 44_100
    noise = (n * n * 7919 + n * 104_729) % 65_536 / 65_536 - 0.5
    wave = (0.3 * np.exp(-t) * np.sin(2 * np.pi * (200 * t + 300 * t**2)) + 0.01 * noise).astype(np.float32)
    wave[90_000:] = 0
    return wave


def slow_hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def slow_mfcc(
    wave: list[float], rate: int, coefficients: int, n_fft: int, hop: int, mels: int, top_db: float, pad_mode: str
) -> list[list[float]]:
    """The definition in loops: nothing is shared with the module, not even the Fourier transform."""
    half, count = n_fft // 2, len(wave)

    def at(i: int) -> float:
        if 0 <= i < count:
            return wave[i]
        if pad_mode == "constant":
            return 0.0
        return wave[-i] if i < 0 else wave[2 * (count - 1) - i]

    top = 15 + 27 * math.log(rate / 2 / 1000, 6.4)  # mel of rate / 2
    corners = [slow_hertz(top * m / (mels + 1)) for m in range(mels + 2)]
    decibels = []
    for centre in range(0, count + 1, hop):
        x = [at(centre - half + i) * math.sin(math.pi * i / n_fft) ** 2 for i in range(n_fft)]
        power = []
        for k in range(half + 1):
            real = sum(x[i] * math.cos(2 * math.pi * k * i / n_fft) for i in range(n_fft))
            imaginary = sum(x[i] * math.sin(2 * math.pi * k * i / n_fft) for i in range(n_fft))
            power.append(real**2 + imaginary**2)
        row = []
        for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
            band = 0.0
            for k in range(half + 1):
                f = k * rate / n_fft
                if low < f <= middle:
                    band += power[k] * (f - low) / (middle - low) * 2 / (high - low)
                elif middle < f < high:
                    band += power[k] * (high - f) / (high - middle) * 2 / (high - low)
            row.append(10 * math.log10(max(band, 1e-10)))
        decibels.append(row)
    floor = max(map(max, decibels)) - top_db
    out = []
    for c in range(coefficients):
        scale = math.sqrt((1 if c == 0 else 2) / mels)
        angles = [math.cos(math.pi * c * (2 * m + 1) / (2 * mels)) for m in range(mels)]
        out.append([scale * sum(max(v, floor) * a for v, a in zip(row, angles, strict=True)) for row in decibels])
    return out


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("top_db", [80.0, 12.0])
def test_the_formula_written_out_gives_the_same(pad_mode: str, top_db: float) -> None:
    wave = np.random.default_rng(5).normal(scale=0.1, size=203)
    sizes = {"coefficients": 5, "n_fft": 64, "hop": 17, "mels": 9, "top_db": top_db}
    fast = mfcc(wave, 9000, pad_mode=pad_mode, **sizes)
    assert fast.shape == (5, 12)
    slow = slow_mfcc(wave.tolist(), 9000, pad_mode=pad_mode, **sizes)
    np.testing.assert_allclose(fast, slow, atol=2e-5)


@pytest.mark.parametrize(
    ("pad_mode", "first"), [("reflect", (-261.943, 156.496, -2.074)), ("constant", (-310.219, 143.639, -3.020))]
)
def test_librosas_numbers_come_out(pad_mode: str, first: tuple[float, float, float]) -> None:
    """The expected numbers are those of librosa 0.11.0's ``feature.mfcc(y, sr=44100, n_mfcc=13, pad_mode=...)``."""
    result = mfcc(rising_tone(), pad_mode=pad_mode)
    assert result.shape == (13, 212)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    got = [result[0, 0], result[1, 0], result[12, 0]]  # here the padding counts
    got += [result[0, 100], result[5, 100], result[12, 175], result[3, 211]]  # and here it does not
    np.testing.assert_allclose(got, [*first, -384.753, -29.410, 11.759, 0.0], atol=2e-3)


def test_silence_is_the_least_power_everywhere() -> None:
    result = mfcc(np.zeros(108_045, np.float32), pad_mode="reflect")
    np.testing.assert_allclose(result[0], -100 * math.sqrt(128), rtol=1e-6)
    np.testing.assert_allclose(result[1:], 0, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 511, 512, 1025])
def test_a_wave_shorter_than_a_frame_has_the_frames_it_should_have(samples: int) -> None:
    for pad_mode in ("reflect", "constant"):
        result = mfcc(np.full(samples, 0.1), pad_mode=pad_mode)
        assert result.shape == (13, 1 + samples // 512)
        assert np.isfinite(result).all()


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros((2, 4000)), np.array([0.0, np.nan])])
def test_what_is_no_wave_is_refused(wave: NDArray[np.float64]) -> None:
    told = r"^MFCCs need a wave of shape \(samples,\) of finite numbers; this one has shape \("
    with pytest.raises(DataError, match=told):
        mfcc(wave, pad_mode="reflect")


def test_another_padding_is_refused() -> None:
    with pytest.raises(DataError, match=r"^pad_mode is 'edge'; it can be 'reflect' or 'constant'$"):
        mfcc(np.zeros(4000), pad_mode="edge")


@needs_shared
def test_recordings_of_ravdess_give_what_librosa_gives() -> None:
    """The numbers are librosa 0.11.0's for 03-01-05-01-01-01-01.wav: first at its own 48 kHz, then resampled by soxr."""
    pytest.importorskip("av")
    for path in sorted((Path(SHARED or "") / "ravdess_wav").glob("*.wav")):
        result = mfcc(cut(read_audio(path, path.name), 44_100), pad_mode="reflect")
        assert result.shape == (13, 212)
        assert np.isfinite(result).all()
        if path.stem.startswith("03-01-05"):
            own = mfcc(cut(read_audio(path, path.name, rate=48_000), 48_000), 48_000, pad_mode="reflect")
            np.testing.assert_allclose([own[0, 60], own[1, 60], own[4, 120]], [-334.689, 83.846, 13.431], atol=2e-3)
            # the filters of FFmpeg and soxr end differently: the mel bands above 18 kHz are up to 5 dB apart
            got = [result[0, 60], result[1, 60], result[4, 120]]
            np.testing.assert_allclose(got, [-370.257, 116.615, -49.911], atol=0.6)
