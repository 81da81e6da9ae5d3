"""One made-up clip: who is seen and heard, and its bytes as H.264 and AAC in an mp4 file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.ravdess import MADE_UP, RavdessName
from torchmsaf.data.synth import faces, voices
from torchmsaf.data.synth.drawing import draw_frames
from torchmsaf.data.synth.tracking import landmark_text
from torchmsaf.errors import require

AUDIO_RATE = 48_000


@dataclass(frozen=True)
class Recording:
    """How clips are recorded: frame size in pixels, frames a second, length in seconds, and what they are drawn from."""

    width: int
    height: int
    frame_rate: Fraction
    seconds: float
    seed: int

    @property
    def note(self) -> str:
        """What each file says about itself. A file that says otherwise is made anew."""
        return (
            f"{MADE_UP}, no recording of anybody: {self.width}x{self.height}, {self.frame_rate} Hz, "
            f"{self.seconds:g} s, seed {self.seed}"
        )


class Clip:
    """What happens in one clip. It depends on the name and the recording, and on nothing else.

    Args:
        name: the clip's; the emotion's group of expressions is ``label // 2``, of voices ``label % 4``.
        recording: how it is recorded.
    """

    def __init__(self, name: RavdessName, recording: Recording) -> None:
        self.name, self.recording = name, recording
        random = self._draws(0)
        self.look = faces.draw_look(self._actor_draws(0), recording.width, recording.height)
        self.syllables = voices.draw_syllables(random, recording.seconds)
        times = np.arange(max(1, round(recording.seconds * recording.frame_rate))) / float(recording.frame_rate)
        self.motion = faces.move(random, name.label // 2, times, voices.loudness(times, self.syllables))

    def _draws(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.recording.seed, purpose, *map(int, self.name.stem.split("-"))])

    def _actor_draws(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.recording.seed, purpose, self.name.actor])

    def landmarks(self) -> str:
        """The text of the landmark file."""
        return landmark_text(faces.face_points(self.look, self.motion), self.recording.frame_rate)

    def sound(self) -> NDArray[np.float32]:
        """What is heard, ``(S,)`` in [-1, 1] at ``AUDIO_RATE``."""
        voice = voices.draw_voice(self._actor_draws(1), self.name.gender == "female")
        group, seconds = self.name.label % 4, self.recording.seconds
        return voices.speak(self._draws(1), voice, group, self.syllables, seconds, AUDIO_RATE)

    def film(self) -> bytes:
        """The bytes of the video file.

        Raises:
            MissingDependencyError: PyAV is not installed.
        """
        av, how, sound = require("av", "video"), self.recording, self.sound()
        buffer = BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            container.metadata["comment"] = how.note
            video = container.add_stream("libx264", rate=how.frame_rate, options={"preset": "ultrafast", "crf": "23"})
            video.width, video.height, video.pix_fmt = how.width, how.height, "yuv420p"
            video.codec_context.thread_count = 1
            audio = container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
            for number, planes in enumerate(draw_frames(self.look, self.motion, how.width, how.height)):
                frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode())
            both = av.AudioFrame.from_ndarray(np.stack([sound, sound]), format="fltp", layout="stereo")
            both.sample_rate = AUDIO_RATE
            container.mux(audio.encode(both))
            container.mux(audio.encode())
        return buffer.getvalue()
