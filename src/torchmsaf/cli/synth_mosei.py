"""``torchmsaf synth mosei``: a made-up corpus of sentiment."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_synth_mosei(sets: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``torchmsaf synth mosei``.

    Args:
        sets: the data sets of ``torchmsaf synth``.
    """
    mosei = sets.add_parser(
        "mosei",
        allow_abbrev=False,
        help="made-up opinions, in the format and under the names of CMU-MOSEI",
        description="A made-up corpus to try the chain with. Scores on it say nothing about sentiment.",
    )
    add = mosei.add_argument
    add("--out", type=Path, required=True, help="folder of the .csd files and folds.json")
    add("--videos", type=int, default=60, help="of about 7 utterances each, 3228 as in CMU-MOSEI (default: 60)")
    add("--seconds", type=float, default=6.0, help="of an utterance in the mean (default: 6)")
    add("--audio-rate", type=float, default=100.0, help="rows of COVAREP a second (default: 100, as in CMU-MOSEI)")
    add("--video-rate", type=float, default=30.0, help="rows of FACET a second (default: 30, as in CMU-MOSEI)")
    add("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    mosei.set_defaults(run=_synth, interrupted="nothing was written")


def _synth(options: argparse.Namespace) -> None:
    from torchmsaf.data.counted import counted
    from torchmsaf.data.synth.mosei import synth_mosei
    from torchmsaf.experiments.progress import told_progress

    with told_progress("videos") as told:
        made = synth_mosei(
            options.out,
            videos=options.videos,
            seconds=options.seconds,
            audio_rate=options.audio_rate,
            video_rate=options.video_rate,
            seed=options.seed,
            told=told,
        )
    print(
        f"{counted(made.utterances, 'made-up utterance')} of {counted(made.videos, 'video')}: {options.out}. "
        "Scores on them say nothing about sentiment."
    )
