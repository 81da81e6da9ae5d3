"""``torchmsaf prepare ntu``: videos and skeletons of actions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torchmsaf.errors import DataError

_AGAIN = "what is done is kept, and the same command goes on with it"


def add_ntu(sets: Any) -> None:
    """NTU RGB+D and NTU RGB+D 120, and their options.

    Args:
        sets: the subparsers of ``torchmsaf prepare``.
    """
    parser = sets.add_parser(
        "ntu",
        allow_abbrev=False,
        help="videos and skeletons of NTU RGB+D to frames and joints",
        description="Reads folders, or archives as they come. Clips on a *missing_skeletons*.txt are left alone.",
    )
    add = parser.add_argument
    add("--raw", type=Path, nargs="+", required=True, help="folders of the raw files, or archives")
    told = "folder of the prepared clips; other settings make another version in it"
    add("--out", type=Path, required=True, help=told)
    add("--frames", type=int, help="of a clip, from its first to its last, 1 to 1024 (default: 32)")
    add(
        "--size",
        type=int,
        default=256,
        help="of a frame in pixels, 16 to 1024, the whole picture squeezed (default: 256)",
    )
    told = "of a clip: the two that move most, or all (default: 2)"
    add("--bodies", choices=("2", "all"), help=told)
    told = "what is prepared (default: both)"
    add("--modalities", nargs="+", choices=("rgb", "skeleton"), default=["rgb", "skeleton"], help=told)
    told = "more lists of clips with missing skeletons, beside those among the raw files"
    add("--missing", type=Path, nargs="+", default=[], metavar="FILE", help=told)
    told = "skeletons out of a pickle of MMAction2 or PYSKL, in place of .skeleton files"
    add("--poses", type=Path, metavar="FILE", help=told)
    told = "as the published code reads: 24 frames, the last one black, in BGR; the first two bodies of each file"
    add("--published", action="store_true", help=told)
    add("--strict", action="store_true", help="a file that cannot be used is an error")
    add("--jobs", type=int, help="processes (default: the cores there are)")
    parser.set_defaults(run=_prepare, interrupted=_AGAIN)


def _prepare(options: argparse.Namespace) -> None:
    from torchmsaf.data.counted import counted
    from torchmsaf.data.prepare.actions.plan import told_aside
    from torchmsaf.data.prepare.actions.preparation import NtuSettings, prepare_ntu
    from torchmsaf.experiments.progress import told_progress

    modalities = tuple(options.modalities)
    if options.published:
        if options.frames is not None or options.bodies is not None:
            raise DataError("--published says how many frames and which bodies; leave --frames and --bodies out")
        settings = NtuSettings.published(size=options.size, modalities=modalities)
    else:
        frames = 32 if options.frames is None else options.frames
        settings = NtuSettings(frames, options.size, bodies=options.bodies or "2", modalities=modalities)
    with told_progress("clips") as told:
        report = prepare_ntu(
            options.raw,
            options.out,
            settings,
            missing=options.missing,
            poses=options.poses,
            jobs=options.jobs,
            strict=options.strict,
            told=told,
        )
    earlier = f"; {report.earlier} more whose raw files are gone" if report.earlier else ""
    print(f"{counted(report.prepared, 'clip')} prepared, {report.already} there already{earlier}: {report.path}")
    if report.set_aside:
        print(f"Left alone: {told_aside(report.set_aside)}.")
    for title, lines in (
        (f"{counted(len(report.doubtful), 'clip')} to look at:", report.doubtful),
        (f"{counted(len(report.refused), 'file')} cannot be used (also in index.json):", report.refused),
    ):
        if lines:
            print(title)
            for line in lines:
                print(f"  {line}")
