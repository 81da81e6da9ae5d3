"""One made-up clip: who is in it, where the cameras see them, and the text of its skeleton file.

The format is that of the files of NTU RGB+D: frames, then for each frame the bodies, then for each body ten values, 25, and
twelve values a joint, with seven digits and lines that end in a carriage return and a line feed. Where a joint is in the
two pictures comes from pinhole cameras fitted to three genuine files, to a pixel of 1920 x 1080.
"""

# T frames

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchmsaf.data.ntu import BONES, JOINTS, MADE_UP, MADE_UP_BODIES, NtuName
from torchmsaf.data.synth.ntu_motion import Array, Build, draw_build, draw_hits, perform, receive, stand

MUTUAL = (50, 51)
MISSING = NtuName(17, 1, 40, 1, 1)  # the clip without a body
COLOUR_SIZE = (1920, 1080)
_AZIMUTHS = {1: 0.0, 2: np.pi / 4, 3: -np.pi / 4}
# middle of the picture, pixels at a metre from a metre, shift at a metre: across and down
_DEPTH = ((258.0, 366.6, 0.0), (208.7, -366.6, 0.0))
_COLOUR = ((956.0, 1057.0, 65.0), (556.0, -1058.0, 3.0))
_UNORIENTED = (3, 15, 19, 21, 22, 23, 24)
_PARENTS = dict(BONES)
_PERFORMANCE, _VIEW, _PLACE, _PERSON, _ODDITY = range(5)


@dataclass(frozen=True)
class Shot:
    """How clips are recorded: the usual number of frames, the video's size in pixels and frames a second, and the seed."""

    frames: int
    width: int
    height: int
    frame_rate: int
    seed: int

    @property
    def note(self) -> str:
        """What each video and the folder's ``README.txt`` say about themselves."""
        return (
            f"{MADE_UP}, no recording of anybody: about {self.frames} frames of {self.width}x{self.height}, "
            f"{self.frame_rate} Hz, seed {self.seed}"
        )


class Oddity(NamedTuple):
    """What a clip has beside those who act: a still body that nobody is, frames without the first body, a bystander."""

    ghost: bool
    gap: bool
    bystander: bool


@dataclass(frozen=True)
class Body:
    """What the sensor says of a body.

    Attributes:
        number: its id, of ``MADE_UP_BODIES``.
        joints: ``(T, 25, 3)`` metres, in the camera's frame: x to the picture's right, y up, z away.
        tracked: ``(T,)`` in which frames it is there.
        inferred: ``(T, 25)`` joints that the sensor guessed.
    """

    number: int
    joints: NDArray[np.float32]
    tracked: NDArray[np.bool_]
    inferred: NDArray[np.bool_]


class NtuClip:
    """What happens in one clip. It depends on the name and the shot, and on nothing else.

    The cameras 1, 2 and 3 see the same performance from the middle and from 45 degrees on each side. In replication 1 who
    acts alone turns to camera 2, in replication 2 to camera 3.

    Args:
        name: the clip's. ``MISSING`` has no body.
        shot: how it is recorded.
    """

    def __init__(self, name: NtuName, shot: Shot) -> None:
        self.name, self.shot = name, shot
        self.oddity = draw_oddity(name, shot.seed)
        random = self._draws(_PERFORMANCE)
        self.frames = max(2, round(shot.frames * random.uniform(0.8, 1.2)))
        place = np.random.default_rng([shot.seed, _PLACE, name.setup])
        self._distance, self._height = place.uniform(2.4, 2.9), place.uniform(0.9, 1.1)
        self.people = [self._seen(joints, yaw, spot) for joints, yaw, spot in self._scene(random)]

    def bodies(self) -> list[Body]:
        """What the sensor finds, in the order of the file."""
        if self.name == MISSING:
            return []
        random = self._draws(_VIEW, self.name.camera)
        number = MADE_UP_BODIES.start + int(random.integers(4000, 30000))
        bodies: list[Body] = []
        for joints in self.people:
            inferred = random.uniform(size=joints.shape[:2]) < 0.03
            spread = np.where(inferred, 0.02, 0.004)[..., None]
            tracked = np.ones(self.frames, dtype=bool)
            noisy = (joints + spread * random.normal(size=joints.shape)).astype(np.float32)
            bodies.append(Body(number + len(bodies), noisy, tracked, inferred))
        if self.oddity.gap and self.frames >= 12:
            first = int(random.integers(self.frames // 4, self.frames // 2))
            bodies[0].tracked[first : first + int(random.integers(2, 5))] = False
        if self.oddity.bystander:
            bodies[-1].tracked[: self.frames // 3] = False
        if self.oddity.ghost:
            ghost = self._ghost(random, number + len(bodies))
            bodies.insert(int(random.integers(2)), ghost)
        return bodies

    def skeleton_text(self) -> str:
        """The text of the skeleton file."""
        found = [(body, _body_lines(body)) for body in self.bodies()]
        lines = [str(self.frames)]
        for frame in range(self.frames):
            there = [told[frame] for body, told in found if body.tracked[frame]]
            lines += [str(len(there)), *there]
        return "\r\n".join(lines) + "\r\n"

    def draws(self, purpose: int) -> np.random.Generator:
        """Draws for this clip's film."""
        return self._draws(100 + purpose, self.name.camera)

    def place_draws(self) -> np.random.Generator:
        """Draws that all clips of a camera in a setup share."""
        return np.random.default_rng([self.shot.seed, _PLACE, self.name.setup, self.name.camera])

    def person_draws(self, number: int, purpose: int) -> np.random.Generator:
        """Draws of who is in the picture: number 0 is the subject, the others are who else is with this subject."""
        return np.random.default_rng([self.shot.seed, _PERSON, self.name.person, number, purpose])

    def _draws(self, purpose: int, *more: int) -> np.random.Generator:
        name = self.name
        return np.random.default_rng([self.shot.seed, purpose, name.person, name.replication, name.action, *more])

    def _build(self, number: int) -> Build:
        return draw_build(self.person_draws(number, 0))

    def _scene(self, random: np.random.Generator) -> list[tuple[Array, float, Array]]:
        """Of each person: joints in the own frame, turn in radians, and place in the room."""
        first = self.name.replication == 1
        yaw = _AZIMUTHS[2 if first else 3]
        spot = np.array([random.uniform(-0.1, 0.1), 0, random.uniform(-0.1, 0.1)])
        hits = draw_hits(random, self.frames)
        scene = []
        acted = perform(random, self.name.action, self._build(0), hits)
        if self.name.action in MUTUAL:
            yaw = np.pi / 2 if first else -np.pi / 2
            apart = 0.5 * random.uniform(0.95, 1.15) * np.array([-np.sin(yaw), 0, -np.cos(yaw)])
            other = receive(random, self._build(1), hits)
            scene += [(acted, yaw, spot - apart), (other, yaw + np.pi, spot + apart)]
        else:
            scene.append((acted, yaw + random.uniform(-0.15, 0.15), spot))
        if self.oddity.bystander:
            where = np.array([random.choice([-1.0, 1.0]) * random.uniform(0.9, 1.1), 0, random.uniform(0.3, 0.6)])
            scene.append((stand(random, self.frames, self._build(2)), random.uniform(-1, 1), where))
        return scene

    def _seen(self, joints: Array, yaw: float, spot: Array) -> Array:
        azimuth = _AZIMUTHS[self.name.camera]
        seen = _turned(_turned(joints, yaw) + spot, -azimuth)
        return np.asarray(seen + np.array([0, -self._height, self._distance]))

    def _ghost(self, random: np.random.Generator, number: int) -> Body:
        """A body seen in a thing: it stands still and has no arms to speak of."""
        still = stand(random, 1, Build(random.uniform(0.7, 1.1), 0.8, 0.5))
        where = np.array([random.choice([-1.0, 1.0]) * random.uniform(0.8, 1.2), 0, random.uniform(0.6, 1.0)])
        seen = np.repeat(self._seen(still, random.uniform(-3, 3), where), self.frames, axis=0)
        noisy = (seen + random.normal(0, 0.001, seen.shape)).astype(np.float32)
        inferred = random.uniform(size=seen.shape[:2]) < 0.5
        return Body(number, noisy, np.ones(self.frames, dtype=bool), inferred)


def to_colour(points: Array) -> Array:
    """Where points are in the colour picture.

    Args:
        points: ``(..., 3)`` metres in the camera's frame.

    Returns:
        ``(..., 2)`` pixels across and down, of 1920 x 1080.
    """
    return _project(points, _COLOUR)


def colour_pixels(metres: float, away: Array) -> Array:
    """How many pixels of 1920 x 1080 a length is at distances in metres."""
    return metres * _COLOUR[0][1] / away


def draw_oddity(name: NtuName, seed: int) -> Oddity:
    """Of a hundred clips 10 have a ghost and 15 a gap; of a hundred performances 6 a bystander, whom all cameras see."""
    shared = np.random.default_rng([seed, _ODDITY, name.person, name.replication, name.action])
    own = np.random.default_rng([seed, _ODDITY, name.person, name.replication, name.action, name.camera])
    ghost, gap = own.uniform(size=2) < (0.10, 0.15)
    return Oddity(bool(ghost), bool(gap), bool(shared.uniform() < 0.06))


def _turned(points: Array, yaw: float) -> Array:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.asarray(points @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]))


def _project(points: Array, camera: tuple[tuple[float, float, float], ...]) -> Array:
    away = points[..., 2]
    return np.stack(
        [at + scale * points[..., axis] / away + near / away for axis, (at, scale, near) in enumerate(camera)], -1
    )


def _body_lines(body: Body) -> list[str]:
    """The lines of each frame: ten values, the number of joints, and the joints."""
    joints = body.joints.astype(np.float64)
    values = np.concatenate(
        [joints, _project(joints, _DEPTH), to_colour(joints), _orientations(joints)], axis=-1
    ).astype(np.float32)
    states = np.where(body.inferred, 1, 2)
    table = np.concatenate([values.astype(np.float64), states[..., None]], axis=-1).reshape(len(joints), -1)
    form = "\r\n".join(["%.7g " * 11 + "%d"] * len(JOINTS))
    lean = (joints[:, 20] - joints[:, 0])[:, [0, 2]].astype(np.float32)
    return [
        f"{body.number} 0 1 1 1 1 0 {x:.7g} {z:.7g} 2\r\n{len(JOINTS)}\r\n" + form % tuple(row)
        for (x, z), row in zip(lean.tolist(), table.tolist(), strict=True)
    ]


def _orientations(joints: Array) -> Array:
    """Unit quaternions w, x, y, z that turn the vertical to each bone: a guess at what the sensor means by them."""
    bones = np.stack([joints[:, joint] - joints[:, _PARENTS.get(joint, joint)] for joint in range(len(JOINTS))], axis=1)
    bones[:, 0] = joints[:, 1] - joints[:, 0]
    bones /= np.linalg.norm(bones, axis=-1, keepdims=True)
    turned = np.stack(
        [np.maximum(1 + bones[..., 1], 1e-3), bones[..., 2], np.zeros(bones.shape[:2]), -bones[..., 0]], axis=-1
    )
    turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
    turned[:, _UNORIENTED] = 0
    return np.asarray(turned)
