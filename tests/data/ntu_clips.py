"""Prepared clips of actions for tests: small ones, with noise that tells the action."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchmsaf.data.ntu import NtuName
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter

# trains, validates and tests in the cross-subject protocol
SUBJECTS = (1, 4, 8, 2, 5, 3, 6)
ACTIONS = (1, 23, 50)


def write_clips(
    root: Path,
    *,
    subjects: Sequence[int] = SUBJECTS,
    actions: Sequence[int] = ACTIONS,
    cameras: Sequence[int] = (1,),
    setups: Sequence[int] = (1,),
    frames: int = 6,
    size: int = 64,
    steps: int = 40,
    joints: int = 25,
    modalities: Sequence[str] = ("rgb", "skeleton"),
) -> Prepared:
    """One clip a setup, camera, subject and action; action 50 has two persons, and 24 three."""
    parameters = {"sampling": "inside", "frames": frames, "size": size, "bodies": "all", "modalities": list(modalities)}
    writer = PreparedWriter(root, "ntu", parameters)
    for setup in setups:
        for camera in cameras:
            for person in subjects:
                for action in actions:
                    name = NtuName(setup, camera, person, 1, action)
                    random = np.random.default_rng([setup, camera, person, action])
                    persons = {50: 2, 24: 3}.get(action, 1)
                    skeleton = random.normal(size=(3, steps, joints, persons)) * 0.1 + 0.3 * action / 50
                    skeleton += np.linspace(0, action / 20, steps)[:, None, None] * np.linspace(0, 1, joints)[:, None]
                    rgb = random.integers(0, 60, (3, frames, size, size)) + action * 3
                    arrays = {"rgb": rgb.astype(np.uint8), "skeleton": skeleton.astype(np.float32)}
                    facts = {
                        "label": action - 1,
                        "action": action,
                        "subject": person,
                        "camera": camera,
                        "setup": setup,
                        "replication": 1,
                        "persons": persons,
                        "frames": steps,
                        "made_up": True,
                    }
                    writer.write(name.stem, {key: arrays[key] for key in modalities}, facts)
    return writer.finish()
