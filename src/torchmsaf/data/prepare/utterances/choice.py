"""Which computational sequence is what in a data set, and whether all that is needed is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torchmsaf.data.prepare.utterances.csd import ComputationalSequence
from torchmsaf.data.prepare.utterances.utterance import Settings
from torchmsaf.data.sets.base import DataSet
from torchmsaf.errors import DataError

FEATURES = ("video", "audio")
_KINDS = {"labels": "labels", "words": "words", "video": "features", "audio": "features", "text": "features"}

Chosen = dict[str, ComputationalSequence]


def choose_sequences(
    data_set: DataSet, sequences: Sequence[ComputationalSequence]
) -> tuple[Chosen, list[ComputationalSequence]]:
    """Which computational sequence is what, by kind, by the names of root and file, and by the videos of the labels.

    Args:
        data_set: says the names, those it prefers first.
        sequences: those that are there.

    Returns:
        ``words``, ``labels``, ``video``, ``audio`` and ``text`` -> its sequence, as far as they are there; and the others.

    Raises:
        DataError: two files would be the same thing, by the same name.
    """
    chosen: Chosen = {}
    names = {one.path: re.sub(r"[^a-z0-9]", "", f"{one.root} {one.path.stem}".lower()) for one in sequences}
    for role, kind in _KINDS.items():
        some = [one for one in sequences if one.kind == kind]
        if "labels" in chosen:  # another set may lie in the folder, too
            labelled = set(chosen["labels"].videos)
            some = [one for one in some if not labelled.isdisjoint(one.videos)]
        for wanted in data_set.sequences[role]:
            found = [one for one in some if wanted in names[one.path]]
            if len(found) > 1:
                files = " and ".join(str(one.path) for one in found)
                raise DataError(f"{files} are both {role} of {data_set.title} by their names: leave one of them there")
            if found:
                chosen[role] = found[0]
                break
    used = {one.path for one in chosen.values()}
    return chosen, [one for one in sequences if one.path not in used]


def check_sequences(data_set: DataSet, raw: Path, chosen: Chosen, settings: Settings, vectors: object) -> None:
    """Check that what is needed is there.

    Args:
        data_set: the set.
        raw: where the files are, for messages.
        chosen: as :func:`choose_sequences` gives them.
        settings: the rules.
        vectors: None = there are no vectors in place of sequences of video and audio.

    Raises:
        DataError: something is missing.
    """
    for role in ("labels", "words"):
        if role not in chosen:
            raise DataError(
                f"{raw} holds no {role} of {data_set.title}; put the .csd file of {role} there ({data_set.url})"
            )
    missing = [role for role in FEATURES if role not in chosen]
    if missing and (vectors is None or len(missing) < len(FEATURES)):
        names = " or ".join(data_set.sequences[missing[0]][:2])
        raise DataError(
            f"{raw} holds no {' and no '.join(missing)} features of {data_set.title}; put the .csd file there, for "
            f"{missing[0]} one that is named by {names} ({data_set.url})"
        )
    if missing and settings.alignment == "published":
        raise DataError(
            f"{raw} has vectors of whole utterances; --alignment published needs the frames: give the .csd files"
        )
    if missing and settings.text == "given" and "text" not in chosen:
        raise DataError(
            f"{raw}: the text vectors are not used with other folds than their own: they were fitted on the training part "
            "that the file shipped with, whose videos are tested here. Give the .npz file alone, or choose another text: "
            "--text words or --text-model NAME"
        )
