"""Made-up voices: a saw with a wandering pitch, three resonances, syllables, breath."""

# S samples, n syllables

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SYLLABLES = 7
# what the four groups do: gain of the upper resonances, pitch over the speaker's own, depth of the tremor, breath
GROUPS = ((0.20, 1.0, 0.0, 0.0), (0.75, 1.1, 0.0, 0.0), (0.25, 1.2, 0.6, 0.5), (0.85, 1.3, 0.6, 0.5))


@dataclass(frozen=True)
class Voice:
    """An actor's voice: usual pitch in Hz, and over what is usual: resonances, the gains of the upper ones."""

    pitch: float
    tract: float
    gains: Array


def draw_voice(random: np.random.Generator, female: bool) -> Voice:
    """Draw an actor's voice."""
    pitch = random.uniform(175, 230) if female else random.uniform(95, 135)
    return Voice(pitch, random.uniform(0.95, 1.05) * (1.12 if female else 1.0), np.exp(random.normal(0, 0.15, 2)))


def draw_syllables(random: np.random.Generator, seconds: float) -> Array:
    """When the syllables come, ``(n, 3)``: middle and half length in seconds, loudness. Silence before and after."""
    first, last = min(0.6, 0.2 * seconds), seconds - min(0.5, 0.15 * seconds)
    first += random.uniform(-0.05, 0.05) * min(seconds, 1.0)
    step = (last - first) / SYLLABLES
    middles = first + step * (np.arange(SYLLABLES) + 0.5 + random.uniform(-0.12, 0.12, SYLLABLES))
    return np.stack([middles, step * random.uniform(0.5, 0.6, SYLLABLES), random.uniform(0.6, 1.0, SYLLABLES)], axis=1)


def loudness(times: Array, syllables: Array) -> Array:
    """The speech's loudness in [0, 1] at each time in seconds."""
    near = np.clip(np.abs(times[:, None] - syllables[:, 0]) / syllables[:, 1], 0, 1)
    return np.asarray((syllables[:, 2] * np.cos(near * np.pi / 2) ** 2).max(axis=1))


def speak(
    random: np.random.Generator, voice: Voice, group: int, syllables: Array, seconds: float, rate: int
) -> NDArray[np.float32]:
    """Say the syllables.

    Args:
        random: the clip's draws.
        voice: who speaks.
        group: how, a row of ``GROUPS``.
        syllables: from ``draw_syllables``.
        seconds: length.
        rate: samples a second, Hz.

    Returns:
        ``(S,)`` in [-1, 1], ``S = round(seconds * rate)``.
    """
    samples = round(seconds * rate)
    length = -(-samples // 4800) * 4800  # a length that Fourier transforms are quick for
    bright, lift, tremor, breath = np.array(GROUPS[group]) * np.exp(random.normal(0, 0.1, 4))
    slow = np.arange(0, length / rate + 0.01, 0.002)
    fine = np.arange(length) / rate

    knots = np.arange(0, seconds + 0.3, 0.15)
    wander = np.interp(slow, knots, random.normal(0, 0.025, len(knots)))
    shake = np.sin(2 * np.pi * (random.uniform(6, 8) * slow + random.uniform()))
    pitch = voice.pitch * lift * (1.08 - 0.05 * slow + wander + 0.05 * tremor * shake)
    turns = np.cumsum(np.interp(fine, slow, pitch)) / rate
    source = 1 - 2 * (turns % 1) + breath * random.normal(0, 0.35, length)

    level = loudness(slow, syllables) * (1 - tremor * (0.5 + 0.5 * shake))
    vowel = np.interp(slow, syllables[:, 0], random.uniform(0, 1, len(syllables)))
    spectrum, hertz = np.fft.rfft(source), np.linspace(0, rate / 2, length // 2 + 1, dtype=np.float64)
    wave = np.zeros(length)
    for formants, share in (((720, 1200, 2500), 1 - vowel), ((420, 1900, 2700), vowel)):
        shaped = np.fft.irfft(
            spectrum * _resonances(hertz, np.array(formants) * voice.tract, bright * voice.gains), length
        )
        wave += np.interp(fine, slow, share * level) * shaped
    wave *= 0.08 * np.exp(random.normal(0, 0.15)) / np.sqrt(np.mean(wave**2))
    wave += random.normal(0, 2e-4, length)  # the room
    return np.clip(wave[:samples], -1, 1).astype(np.float32)


def _resonances(hertz: Array, formants: Array, gains: Array) -> Array:
    """The gain at each frequency, of three resonances in parallel; ``gains`` are of the upper two."""
    width = np.array([90.0, 130.0, 200.0])
    off = (hertz[:, None] - formants) / (width / 2)
    gain = (np.array([1.0, *gains]) / np.sqrt(1 + off**2)).sum(axis=1)
    return np.asarray(gain * np.minimum(hertz / 80, 1.0))
