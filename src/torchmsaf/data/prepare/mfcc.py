"""Mel-frequency cepstral coefficients, by the formulas of librosa.

The steps are those of ``librosa.feature.mfcc`` with its defaults (McFee et al., "librosa: Audio and Music Signal Analysis
in Python", SciPy 2015; the mel scale is that of Slaney's Auditory Toolbox, 1998). Only the padding of the first and the
last frames differs between releases of librosa: 0.8 mirrors the wave (``reflect``), 0.10 and later put zeros there
(``constant``). So it has no default here.
"""

# N samples, T frames, F = n_fft // 2 + 1 frequencies, M mel bands, K coefficients

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from torchmsaf.errors import DataError

PadMode = Literal["reflect", "constant"]

# the least power of a band, -100 dB
_LEAST_POWER = 1e-10
# Slaney's scale: linear up to 1 kHz, 15 mel there, then logarithmic with 27 steps to 6.4 kHz
_LINEAR_HZ = 200 / 3
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27


def mfcc(
    wave: NDArray[np.floating[Any]],
    rate: int = 44_100,
    *,
    coefficients: int = 13,
    n_fft: int = 2048,
    hop: int = 512,
    mels: int = 128,
    top_db: float = 80.0,
    pad_mode: PadMode,
) -> NDArray[np.float32]:
    """The first mel-frequency cepstral coefficients of a wave.

    Frames are centred on every ``hop``-th sample and weighted with a periodic Hann window. The power spectrum goes
    through triangular mel bands of equal area from 0 to ``rate / 2``, then to decibels relative to 1, at least
    ``top_db`` below the loudest band of the wave, then through an orthonormal cosine transform (DCT-II).

    Args:
        wave: ``(N,)``, finite.
        rate: samples a second.
        coefficients: rows of the result; at most ``mels``.
        n_fft: samples of a frame, an even number.
        hop: samples from one frame to the next.
        mels: number of mel bands.
        top_db: decibels kept below the loudest band.
        pad_mode: what is before the first and after the last sample: the wave mirrored, or zeros.

    Returns:
        ``(coefficients, 1 + N // hop)``; 13×212 for 108045 samples with the defaults.

    Raises:
        DataError: the wave is not one row of finite numbers, or ``pad_mode`` is neither of the two.
    """
    if wave.ndim != 1 or not wave.size or not np.isfinite(wave).all():
        raise DataError(f"MFCCs need a wave of shape (samples,) of finite numbers; this one has shape {wave.shape}")
    if pad_mode not in get_args(PadMode):
        raise DataError(f"pad_mode is {pad_mode!r}; it can be {' or '.join(map(repr, get_args(PadMode)))}")
    padded = np.pad(wave.astype(np.float64), n_fft // 2, mode=pad_mode)  # (N + n_fft,)
    frames = sliding_window_view(padded, n_fft)[::hop] * _hann(n_fft)  # (T, n_fft)
    spectrum = np.fft.rfft(frames)  # (T, F)
    power = spectrum.real**2 + spectrum.imag**2
    bands = power @ _mel_bands(rate, n_fft, mels).T  # (T, M)
    decibels = 10 * np.log10(np.maximum(bands, _LEAST_POWER))
    decibels = np.maximum(decibels, decibels.max() - top_db)
    return np.ascontiguousarray((_cosines(coefficients, mels) @ decibels.T).astype(np.float32))  # (K, T)


def _fixed(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """The array, which nobody can change any more: it is kept for the next call."""
    array.flags.writeable = False
    return array


@lru_cache(maxsize=8)
def _hann(size: int) -> NDArray[np.float64]:
    """The periodic Hann window, ``(size,)``."""
    return _fixed(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))


@lru_cache(maxsize=8)
def _mel_bands(rate: int, n_fft: int, mels: int) -> NDArray[np.float64]:
    """The weight of each frequency in each mel band, ``(M, F)``: triangles of area 1 in Hz."""
    frequencies = np.arange(n_fft // 2 + 1) * (rate / n_fft)  # (F,)
    corners = _from_mel(np.linspace(0, _to_mel(rate / 2), mels + 2))[:, None]  # (M + 2, 1)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies - low) / (middle - low)  # (M, F)
    falling = (high - frequencies) / (high - middle)
    return _fixed(np.maximum(0, np.minimum(rising, falling)) * (2 / (high - low)))


def _to_mel(hertz: float) -> float:
    """Hz to Slaney's mel."""
    if hertz < _BREAK_HZ:
        return hertz / _LINEAR_HZ
    return float(_BREAK_MEL + np.log(hertz / _BREAK_HZ) / _LOG_STEP)


def _from_mel(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's mel to Hz."""
    above = np.maximum(mel - _BREAK_MEL, 0)
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, _BREAK_HZ * np.exp(above * _LOG_STEP))


@lru_cache(maxsize=8)
def _cosines(coefficients: int, mels: int) -> NDArray[np.float64]:
    """The first rows of the orthonormal DCT-II, ``(K, M)``."""
    angle = np.pi * np.arange(coefficients)[:, None] * (np.arange(mels) + 0.5) / mels
    rows = np.sqrt(2 / mels) * np.cos(angle)
    rows[0] = np.sqrt(1 / mels)
    return _fixed(rows)
