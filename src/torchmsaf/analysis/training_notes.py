"""The notes under a comparison table that tell of its trainings: how they began, learned and drew, and which diverged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torchmsaf.analysis.table import Record, label
from torchmsaf.data.counted import counted

_PERSONS = 2  # of a scene, by default


def notes_on_training(config: Mapping[str, Any]) -> list[str]:
    """Say how trainings began, learned and drew, where it is not as by default.

    Args:
        config: the ``config.json`` of a comparison. What an older one does not have is as by default.
    """
    about, notes = config.get("about") or {}, []
    if given := config.get("pretrained"):
        names = ", ".join(given)
        notes.append(
            f"The networks of one modality, which are trained first, begin with given weights (--pretrained): {names}."
        )
    if (config.get("recipe") or {}).get("alternate"):
        notes.append(
            "Networks learned in turn, each from its own loss (--alternate), in intermediate rows that predict from the "
            "networks' own predictions. All other rows learned as without it, so rows are not trained alike."
        )
    drawn = {
        "none": "Nothing was drawn anew in training (--draw none).",
        "published": "Training clips were drawn as the published code does (--draw published).",
    }
    if about.get("protocol") == "published":
        drawn["random"] = "Training clips were drawn at random (--draw random), not as the published code does."
    if about.get("draw") in drawn:
        notes.append(drawn[about["draw"]])
    shape = ((config.get("data") or {}).get("modalities") or {}).get("skeleton")
    if "draw" in about and shape and shape[-1] != _PERSONS:  # of clips, where the number is a setting
        notes.append(f"Skeletons are of {counted(shape[-1], 'person')} of a scene (--persons {shape[-1]}).")
    return notes


def note_on_divergence(records: Sequence[Record]) -> list[str]:
    """Name the rows, and the starts, that had trainings whose loss became no finite number."""
    counts = Counter(label(record) for record in records if record["diverged"] and record["stage"] != "start")
    starts = Counter(record["modality"] for record in records if record["diverged"] and record["stage"] == "start")
    told = [f"{name} ({number})" for name, number in counts.items()]
    told += [f"the start of every row from {name} ({number})" for name, number in starts.items()]
    advice = "The best epoch before that was kept. A smaller --learning-rate may help."
    return [f"Trainings whose loss became no finite number: {', '.join(told)}. {advice}"] if told else []
