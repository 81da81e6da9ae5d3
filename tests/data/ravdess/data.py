"""A small RAVDESS in its true formats and names, with files that cannot be used among it.

``python -m tests.data.ravdess.data FOLDER`` writes it. The clips are those of ``torchmsaf synth ravdess``, in small.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from torchmsaf.data.synth import synth_ravdess

# what is wrong with a file of the corpus, by its name in the folder
SPOILED = {
    "Actor_03/01-01-02-01-01-01-03.mp4": "is not a video file, or is truncated",
    "Actor_05/01-01-04-01-01-01-05.mp4": "no landmark file 01-01-04-01-01-01-05.csv",
    "Actor_07/01-01-09-01-01-01-07.mp4": "emotion is 09; 01 to 08 is needed",
}


def write_corpus(root: Path, *, jobs: int | None = None) -> None:
    """Write 192 clips of 24 actors and 8 emotions, 256 x 144 pixels."""
    synth_ravdess(root, width=256, height=144, seconds=3.0, jobs=jobs)


def spoil(root: Path) -> None:
    """Make the files of ``SPOILED`` what they are said to be, and add one that is left alone."""
    (root / "Actor_03/01-01-02-01-01-01-03.mp4").write_bytes(b"no video")
    (root / "FacialTracking/01-01-04-01-01-01-05.csv").unlink()
    good = root / "Actor_07/01-01-01-01-01-01-07.mp4"
    shutil.copy(good, root / "Actor_07/01-01-09-01-01-01-07.mp4")
    shutil.copy(good, root / "Actor_07/02-01-01-01-01-01-07.mp4")  # video only


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]))
    spoil(Path(sys.argv[1]))
