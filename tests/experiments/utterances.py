"""A small set of prepared utterances: widths, steps and parts as a test wants them, sentiment in all modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter

WIDTHS = {"video": 3, "audio": 4, "text": 5}
PARTS = ("train",) * 5 + ("validation",) * 2 + ("test",) * 2  # of the videos
A_VIDEO = 3  # utterances
SAID = ("it", "was", "good", "bad", "and", "so", "very")


def write(
    root: Path,
    *,
    widths: Mapping[str, int] = WIDTHS,
    steps: int = 6,
    longest: int | None = None,
    parts: Sequence[str] = PARTS,
    parameters: Mapping[str, Any] = {},
    facts: Mapping[str, Any] = {},
    name: str = "mosei",
) -> Prepared:
    """Three utterances a video, of uneven lengths; the sentiment is the mean of feature 0.

    Args:
        root: where it is written.
        widths: of the modalities; without text it is words.
        steps: what the preparation says.
        longest: steps of the longest utterance; None = ``steps``.
        parts: of each video.
        parameters: others of the preparation.
        facts: others of every utterance.
        name: of the set.
    """
    longest = longest or steps
    text = "given" if "text" in widths else "words"
    own = {"alignment": "word", "steps": steps, "text": text, "classes": None, "folds": "standard", **parameters}
    writer, random = PreparedWriter(root, name, own), np.random.default_rng(3)
    for k in range(A_VIDEO * len(parts)):
        length = longest if own["alignment"] == "published" else k % longest + 1
        target = float(random.uniform(-3, 3))
        arrays = {}
        for modality, width in widths.items():
            values = random.normal(size=(length, width))
            values[:, 0] = values[:, 0] - values[:, 0].mean() + target
            arrays[modality] = values.astype(np.float32)
        said = {
            "group": f"v{k // A_VIDEO}",
            "part": parts[k // A_VIDEO],
            "target": int(target > 0) if own["classes"] else target,
            "words": [str(word) for word in random.choice(SAID, length)],
            **facts,
        }
        writer.write(f"v{k // A_VIDEO}.{k % A_VIDEO}", arrays, said)
    return writer.finish()
