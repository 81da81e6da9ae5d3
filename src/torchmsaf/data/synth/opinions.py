"""What a made-up speaker says, how, and with what face: the opinions behind a made-up corpus of sentiment.

An utterance's sentiment is the sum of three parts. Its words say one: good and bad words, stronger after "very",
turned after "not". The tone of the voice is another, and rises over the utterance. The face is the third, for a moment.
The three agree partly. A word of opinion may also be meant ironically: the voice says so during that word alone, and
then it counts the other way round. So words and voice have to be seen together, at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

GOOD: Final = ("good", "great", "love", "wonderful", "nice", "best", "beautiful", "enjoyed")
BAD: Final = ("bad", "awful", "hate", "terrible", "boring", "worst", "stupid", "wasted")
VERY: Final = ("very", "really", "so")
NOT: Final = ("not", "never")
PAUSE: Final = "sp"  # as in the word sequences of CMU-MOSI and CMU-MOSEI
_COMMON: Final = (
    *("the", "and", "to", "a", "of", "i", "it", "that", "is", "in", "this", "you", "was", "they", "we", "for", "but"),
    *("movie", "have", "on", "with", "what", "just", "about", "there", "at", "all", "one", "people", "think", "can"),
)
_SYLLABLES: Final = ("ba", "di", "ko", "lu", "me", "na", "po", "ri", "su", "ta", "ve", "zo")
NEUTRAL: Final = (
    *_COMMON,
    *(first + second + third for first in _SYLLABLES for second in _SYLLABLES for third in ("n", "r", "l")),
)
_LONGEST = 90  # words of an utterance


@dataclass(frozen=True, eq=False)
class Opinion:
    """One utterance: its words in time, and what voice and face do.

    Attributes:
        words: what is said, pauses among it.
        ends: when each word ends, in seconds from the start of the utterance; each begins where the one before ends.
        ironic: numbers of the words that the voice turns round.
        tone: of the voice, about -2 to 2.
        face: the same.
        moment: (start, end) in parts of the utterance, when the face shows it.
        sentiment: -3 to 3 in steps of a third.
    """

    words: tuple[str, ...]
    ends: NDArray[np.float64]
    ironic: tuple[int, ...]
    tone: float
    face: float
    moment: tuple[float, float]
    sentiment: float

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return float(self.ends[-1])


def draw_opinion(random: np.random.Generator, seconds: float, *, silent: bool = False) -> Opinion:
    """One utterance.

    Args:
        random: what it is drawn from.
        seconds: how long utterances are in the mean.
        silent: pauses only.
    """
    count = int(np.clip(2.0 * seconds * random.lognormal(-0.12, 0.5), 3, _LONGEST))
    neutral = random.random() < 0.12
    mood = random.normal(0.2, 0.8)
    tone, face = (0.0, 0.0) if neutral else (0.7 * mood + random.normal(0, 0.5, 2)).tolist()
    phrases = 0 if neutral or silent else 1 + random.binomial(2, min(1.0, count / 25))
    words, at, values = _say(random, count, phrases, mood)
    turned = random.random(phrases) < 0.25
    said = float(np.where(turned, -1, 1) @ values) / np.sqrt(max(phrases, 1))
    if silent:
        words = [PAUSE] * len(words)
    ironic = tuple(place for place, irony in zip(at, turned, strict=True) if irony)
    sentiment = said + 0.6 * tone + 0.6 * face + (0 if neutral else random.normal(0, 0.3))
    start = random.uniform(0.1, 0.6)
    return Opinion(
        words=tuple(words),
        ends=np.cumsum(_durations(random, words)),
        ironic=ironic,
        tone=tone,
        face=face,
        moment=(start, start + 0.35),
        sentiment=float(np.clip(np.rint(3 * sentiment), -9, 9)) / 3,
    )


def draw_chatter(random: np.random.Generator, count: int) -> tuple[list[str], NDArray[np.float64]]:
    """Neutral words that belong to no utterance, and when each ends.

    Args:
        random: what they are drawn from.
        count: how many, at least 1.
    """
    words = [PAUSE, *_neutral_words(random, count - 1)]
    return words, np.cumsum(_durations(random, words))


def _say(
    random: np.random.Generator, count: int, phrases: int, mood: float
) -> tuple[list[str], list[int], NDArray[np.float64]]:
    """Words, the places of the words of opinion among them, and what each says."""
    neutral = _neutral_words(random, count)
    for place in np.flatnonzero(random.random(count) < 0.1)[::-1]:
        neutral.insert(int(place), PAUSE)
    chance = 1 / (1 + np.exp(-1.5 * mood))
    cuts = sorted(random.integers(0, len(neutral) + 1, phrases).tolist())
    words: list[str] = []
    at: list[int] = []
    values = np.zeros(phrases)
    for number, (start, end) in enumerate(zip([0, *cuts], cuts, strict=False)):
        good, strong, negated = random.random(3) < (chance, 0.35, 0.2)
        words += neutral[start:end]
        if negated:
            words.append(str(random.choice(NOT)))
        if strong:
            words.append(str(random.choice(VERY)))
        words.append(str(random.choice(GOOD if good else BAD)))
        at.append(len(words) - 1)
        values[number] = (1 if good else -1) * (1.6 if strong else 1.0) * (-0.8 if negated else 1.0)
    words += neutral[cuts[-1] if cuts else 0 :]
    return words, at, values


def _neutral_words(random: np.random.Generator, count: int) -> list[str]:
    return [NEUTRAL[rank] for rank in np.searchsorted(_ZIPF, random.random(count), side="right")]


def _durations(random: np.random.Generator, words: list[str]) -> NDArray[np.float64]:
    """Seconds, in whole hundredths, as the forced aligner gives them."""
    pause = np.array([word == PAUSE for word in words])
    letters = np.array([len(word) for word in words])
    spoken = (0.15 + 0.055 * letters) * random.lognormal(0, 0.25, len(words))
    hundredths: NDArray[np.float64] = np.rint(100 * np.where(pause, random.uniform(0.1, 0.9, len(words)), spoken))
    return hundredths.clip(min=3) / 100


_ZIPF = np.cumsum(1 / np.arange(1, len(NEUTRAL) + 1))
_ZIPF = _ZIPF / _ZIPF[-1]
_ZIPF[-1] = 1.0
