"""RAVDESS: what is in the names of its files, and its constants.

Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)", PLOS ONE 13(5), 2018;
files: https://zenodo.org/records/1188976, facial landmarks: https://zenodo.org/records/3255102.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from torchmsaf.errors import DataError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
MODALITIES = ("full AV", "video only", "audio only")
CHANNELS = ("speech", "song")
INTENSITIES = ("normal", "strong")
ACTORS = 24
# of Zenodo
VIDEO_RECORD, LANDMARK_RECORD = "1188976", "3255102"
# how the comment of a made-up video begins
MADE_UP = "made up by torchmsaf"
# each field's largest number: modality, channel, emotion, intensity, statement, repetition, actor
_MOST = {"modality": 3, "channel": 2, "emotion": 8, "intensity": 2, "statement": 2, "repetition": 2, "actor": ACTORS}
_NAME = re.compile("-".join(f"(?P<{field}>[0-9]{{2}})" for field in _MOST))


@dataclass(frozen=True)
class RavdessName:
    """The seven numbers of a file's name, each from 1.

    Attributes:
        modality: 1 full AV, 2 video only, 3 audio only.
        channel: 1 speech, 2 song.
        emotion: 1 to 8, in the order of ``EMOTIONS``.
        intensity: 1 normal, 2 strong; neutral is always normal.
        statement: 1 or 2.
        repetition: 1 or 2.
        actor: 1 to 24.
    """

    modality: int
    channel: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int

    @classmethod
    def parse(cls, file: str | PurePath) -> RavdessName:
        """Read the name of a file, with or without folder and suffix.

        Raises:
            DataError: not seven numbers of two digits, or one out of its range.
        """
        path = PurePath(file)
        found = _NAME.fullmatch(path.stem)
        if found is None:
            raise DataError(
                f"{path.name}: seven numbers of two digits are needed, modality-channel-emotion-intensity-statement-"
                "repetition-actor, as in 01-01-03-02-01-02-17.mp4"
            )
        fields = {field: int(value) for field, value in found.groupdict().items()}
        for field, value in fields.items():
            if not 1 <= value <= _MOST[field]:
                raise DataError(f"{path.name}: {field} is {value:02}; 01 to {_MOST[field]:02} is needed")
        name = cls(**fields)
        if name.emotion == 1 and name.intensity == 2:
            raise DataError(f"{path.name}: neutral has no strong intensity; intensity 01 is needed")
        return name

    @property
    def stem(self) -> str:
        """The name without suffix: the clip's id."""
        return "-".join(f"{getattr(self, field):02}" for field in _MOST)

    @property
    def label(self) -> int:
        """The index of the emotion in ``EMOTIONS``, from 0."""
        return self.emotion - 1

    @property
    def gender(self) -> str:
        """``male`` for odd actors, ``female`` for even ones."""
        return "male" if self.actor % 2 else "female"
