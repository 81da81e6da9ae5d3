"""NTU RGB+D and NTU RGB+D 120: what is in the names of their files, and their constants.

Shahroudy, Liu, Ng and Wang, "NTU RGB+D: A Large Scale Dataset for 3D Human Activity Analysis", CVPR 2016 (actions 1 to 60,
setups 1 to 17, subjects 1 to 40); Liu, Shahroudy, Perez, Wang, Duan and Kot, "NTU RGB+D 120: A Large-Scale Benchmark for
3D Human Activity Understanding", TPAMI 2020 (all of them); the actions' names are those of https://github.com/shahroudy/NTURGB-D.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from torchmsaf.errors import DataError

# how the comment of a made-up video begins
MADE_UP = "made up by torchmsaf"
# ids of the bodies of a made-up skeleton file; those of the sensor are about 2**56
MADE_UP_BODIES = range(10**9, 10**9 + 10**5)
# of NTU RGB+D, the first of the two data sets
FIRST_ACTIONS, FIRST_SETUPS, FIRST_SUBJECTS = 60, 17, 40
# each field's largest number
_MOST = {"setup": 32, "camera": 3, "person": 106, "replication": 2, "action": 120}
_LETTERS = {"setup": "S", "camera": "C", "person": "P", "replication": "R", "action": "A"}
_NAME = re.compile(
    "".join(f"{letter}(?P<{field}>[0-9]{{3}})" for field, letter in _LETTERS.items()) + "(?:_rgb)?",
    re.ASCII | re.IGNORECASE,
)

# subjects of the training part, cross-subject protocol; all others are tested
TRAIN_SUBJECTS_60 = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
TRAIN_SUBJECTS_120 = (
    *TRAIN_SUBJECTS_60, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89,
    91, 92, 93, 94, 95, 97, 98, 100, 103,
)  # fmt: skip
# of the cross-view protocol of the first data set; camera 1 is tested
TRAIN_CAMERAS = (2, 3)
# the subjects that the published code of MSAF selects its network by: test subjects, all of them
PUBLISHED_DEV = (3, 6, 7, 10)
# Pérez-Rúa et al., "MFAS: Multimodal Fusion Architecture Search", CVPR 2019, by its code: training subjects
MFAS_DEV = (2, 5, 9, 14)

# of the Kinect v2, in the order of the files
JOINTS = (
    "base of the spine", "middle of the spine", "neck", "head", "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand", "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot", "spine", "tip of the left hand", "left thumb",
    "tip of the right hand", "right thumb",
)  # fmt: skip
# (joint, the next one towards the base of the spine), from 0; the connections of the data set's own show_skeleton.m
BONES = (
    (1, 0), (20, 1), (2, 20), (3, 2), (4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10), (12, 0), (13, 12),
    (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18), (21, 7), (22, 7), (23, 11), (24, 11),
)  # fmt: skip
# actions of two persons, from 1
MUTUAL = (*range(50, 61), *range(106, 121))

ACTIONS = (
    "drink water", "eat meal/snack", "brushing teeth", "brushing hair", "drop", "pickup", "throw", "sitting down",
    "standing up (from sitting position)", "clapping", "reading", "writing", "tear up paper", "wear jacket",
    "take off jacket", "wear a shoe", "take off a shoe", "wear on glasses", "take off glasses", "put on a hat/cap",
    "take off a hat/cap", "cheer up", "hand waving", "kicking something",
    "put something inside pocket / take out something from pocket", "hopping (one foot jumping)", "jump up",
    "make a phone call/answer phone", "playing with phone/tablet", "typing on a keyboard",
    "pointing to something with finger", "taking a selfie", "check time (from watch)", "rub two hands together",
    "nod head/bow", "shake head", "wipe face", "salute", "put the palms together", "cross hands in front (say stop)",
    "sneeze/cough", "staggering", "falling", "touch head (headache)", "touch chest (stomachache/heart pain)",
    "touch back (backache)", "touch neck (neckache)", "nausea or vomiting condition",
    "use a fan (with hand or paper)/feeling warm", "punching/slapping other person", "kicking other person",
    "pushing other person", "pat on back of other person", "point finger at the other person", "hugging other person",
    "giving something to other person", "touch other person's pocket", "handshaking", "walking towards each other",
    "walking apart from each other", "put on headphone", "take off headphone", "shoot at the basket", "bounce ball",
    "tennis bat swing", "juggling table tennis balls", "hush (quite)", "flick hair", "thumb up", "thumb down",
    "make ok sign", "make victory sign", "staple book", "counting money", "cutting nails",
    "cutting paper (using scissors)", "snapping fingers", "open bottle", "sniff (smell)", "squat down", "toss a coin",
    "fold paper", "ball up paper", "play magic cube", "apply cream on face", "apply cream on hand back", "put on bag",
    "take off bag", "put something into a bag", "take something out of a bag", "open a box", "move heavy objects",
    "shake fist", "throw up cap/hat", "hands up (both hands)", "cross arms", "arm circles", "arm swings",
    "running on the spot", "butt kicks (kick backward)", "cross toe touch", "side kick", "yawn", "stretch oneself",
    "blow nose", "hit other person with something", "wield knife towards other person",
    "knock over other person (hit with body)", "grab other person's stuff", "shoot at other person with a gun",
    "step on foot", "high-five", "cheers and drink", "carry something with other person",
    "take a photo of other person", "follow other person", "whisper in other person's ear",
    "exchange things with other person", "support somebody with one's hand (someone is sick, help him to walk)",
    "finger-guessing game (playing rock-paper-scissors)",
)  # fmt: skip


@dataclass(frozen=True)
class NtuName:
    """The five numbers of a file's name, each from 1.

    Attributes:
        setup: 1 to 32: the place, and the cameras' height and distance.
        camera: 1 to 3; all three record the same performance.
        person: 1 to 106: the subject.
        replication: 1 or 2.
        action: 1 to 120; 1 to 60 are in the first data set.
    """

    setup: int
    camera: int
    person: int
    replication: int
    action: int

    @classmethod
    def parse(cls, file: str | PurePath) -> NtuName:
        """Read the name of a file, with or without folder, ``_rgb`` and suffix, in capitals or small letters.

        Raises:
            DataError: not five letters with three digits each, or a number out of its range.
        """
        path = PurePath(file)
        found = _NAME.fullmatch(path.stem)
        if found is None:
            raise DataError(
                f"{path.name}: five letters with three digits each are needed, setup, camera, person, replication and "
                "action, as in S001C002P003R002A013.skeleton or S001C002P003R002A013_rgb.avi"
            )
        fields = {field: int(value) for field, value in found.groupdict().items()}
        for field, value in fields.items():
            if not 1 <= value <= _MOST[field]:
                raise DataError(f"{path.name}: {field} is {value:03}; 001 to {_MOST[field]:03} is needed")
        return cls(**fields)

    @property
    def stem(self) -> str:
        """The name without ``_rgb`` and suffix, in the official capitals: the clip's id."""
        return "".join(f"{letter}{getattr(self, field):03}" for field, letter in _LETTERS.items())

    @property
    def label(self) -> int:
        """The index of the action in ``ACTIONS``, from 0."""
        return self.action - 1

    @property
    def action_name(self) -> str:
        """The action's name in ``ACTIONS``."""
        return ACTIONS[self.label]


def train_setup(setup: int) -> bool:
    """Whether the cross-setup protocol of NTU RGB+D 120 trains on a setup: on the even ones, and tests the odd ones."""
    return setup % 2 == 0
