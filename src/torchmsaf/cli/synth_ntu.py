"""``torchmsaf synth ntu``: a made-up corpus of actions."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_synth_ntu(sets: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``torchmsaf synth ntu``.

    Args:
        sets: the data sets of ``torchmsaf synth``.
    """
    ntu = sets.add_parser(
        "ntu",
        allow_abbrev=False,
        help="drawn people and made-up skeletons, in the formats and under the names of NTU RGB+D",
        description="A made-up corpus to try the chain with. Scores on it say nothing about actions.",
    )
    add = ntu.add_argument
    add("--out", type=Path, required=True, help="folder of the raw files")
    add("--subjects", type=int, default=8, help="3 to 39 (default: 8)")
    add("--cameras", type=int, default=3, help="that see each performance, 1 to 3 (default: 3)")
    told = "numbers of actions, of 1 2 3 23 24 50 51 (default: all but 51)"
    add("--actions", type=int, nargs="+", default=[1, 2, 3, 23, 24, 50], metavar="ACTION", help=told)
    add("--frames", type=int, default=40, help="of a clip, within a fifth (default: 40)")
    add("--size", type=_size, default=(128, 72), metavar="WxH", help="of the video in pixels (default: 128x72)")
    add("--frame-rate", type=int, default=30, help="frames a second (default: 30, as in NTU RGB+D)")
    add("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    add("--jobs", type=int, help="processes (default: the cores there are)")
    ntu.set_defaults(run=_synth, interrupted="what is done is kept, and the same command goes on with it")


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is no size in pixels such as 128x72")
    return int(width), int(height)


def _synth(options: argparse.Namespace) -> None:
    from torchmsaf.data.counted import counted
    from torchmsaf.data.synth.ntu import NtuCorpus, write_ntu
    from torchmsaf.experiments.progress import told_progress

    corpus = NtuCorpus(
        subjects=options.subjects,
        cameras=options.cameras,
        actions=tuple(options.actions),
        frames=options.frames,
        size=options.size,
        frame_rate=options.frame_rate,
        seed=options.seed,
    )
    with told_progress("clips") as told:
        made = write_ntu(options.out, corpus, jobs=options.jobs, told=told)
    print(
        f"{counted(made.clips + len(made.missing), 'made-up clip')}, one of them without skeletons: {options.out}. "
        "Scores on them say nothing about actions."
    )
