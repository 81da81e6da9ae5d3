"""``torchmsaf prepare``, ``synth``, ``download`` and ``convert``: what comes before training."""

from __future__ import annotations

import argparse
from pathlib import Path

from torchmsaf.cli.prepare_actions import add_ntu
from torchmsaf.cli.prepare_sentiment import add_sentiment
from torchmsaf.cli.synth_mosei import add_synth_mosei
from torchmsaf.cli.synth_ntu import add_synth_ntu
from torchmsaf.errors import DataError

_AGAIN = "what is done is kept, and the same command goes on with it"


def add_prepare(prepare: argparse.ArgumentParser) -> None:
    """The data sets of ``torchmsaf prepare``, and their options."""
    sets = prepare.add_subparsers(title="data sets", metavar="SET", required=True)
    ravdess = sets.add_parser(
        "ravdess",
        allow_abbrev=False,
        help="videos and landmarks of RAVDESS to clips of faces and MFCCs",
        description="Reads Actor_XX folders or the archives as Zenodo gives them, and OpenFace's landmarks.",
    )
    add = ravdess.add_argument
    add("--raw", type=Path, required=True, help="folder of the raw files, or one archive")
    add(
        "--out",
        type=Path,
        required=True,
        help="folder of the prepared clips; other settings make another version in it",
    )
    add(
        "--preset",
        choices=("full", "small"),
        default="full",
        help="30 frames of 224 x 224, or 8 of 112 (default: full)",
    )
    add("--frames", type=int, help="of a clip (default: the preset's)")
    add("--size", type=int, help="of a frame, in pixels (default: the preset's)")
    told = (
        "consecutive, as in the paper, from the clip's middle; uniform, as in its published code (default: consecutive)"
    )
    add("--sampling", choices=("consecutive", "uniform"), default="consecutive", help=told)
    add("--pad-mode", choices=("reflect", "constant"), default="reflect", help="of the MFCCs' edges (default: reflect)")
    add("--landmark-slack", type=int, default=0, help="rows that landmarks may differ from frames by (default: 0)")
    add("--strict", action="store_true", help="a file that cannot be used is an error")
    add("--jobs", type=int, help="processes (default: the cores there are)")
    ravdess.set_defaults(run=_prepare, interrupted=_AGAIN)
    add_sentiment(sets)
    add_ntu(sets)


def add_synth(synth: argparse.ArgumentParser) -> None:
    """The data sets of ``torchmsaf synth``, and their options."""
    sets = synth.add_subparsers(title="data sets", metavar="SET", required=True)
    ravdess = sets.add_parser(
        "ravdess",
        allow_abbrev=False,
        help="drawn faces and made-up voices, in the formats and under the names of RAVDESS",
        description="A made-up corpus to try the chain with. Scores on it say nothing about emotions.",
    )
    add = ravdess.add_argument
    add("--out", type=Path, required=True, help="folder of the raw files")
    add("--clips", type=int, default=8, help="of each of the 24 actors, 60 as in RAVDESS (default: 8)")
    add("--height", type=int, default=720, help="of the video in pixels; 16/9 of it wide (default: 720)")
    add("--seconds", type=float, default=3.4, help="of each clip (default: 3.4)")
    add("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    add("--zipped", action="store_true", help="archives, as Zenodo gives them")
    add("--jobs", type=int, help="processes (default: the cores there are)")
    ravdess.set_defaults(run=_synth, interrupted=_AGAIN)
    add_synth_mosei(sets)
    add_synth_ntu(sets)


def add_download(download: argparse.ArgumentParser) -> None:
    """The data sets of ``torchmsaf download``, and their options."""
    sets = download.add_subparsers(title="data sets", metavar="SET", required=True)
    ravdess = sets.add_parser(
        "ravdess",
        allow_abbrev=False,
        help="RAVDESS's speech videos and their landmarks, from Zenodo",
        description="Goes on where it was interrupted, and checks every file. CC BY-NC-SA 4.0.",
    )
    add = ravdess.add_argument
    add("--out", type=Path, required=True, help="folder of the raw files")
    add("--actors", type=int, nargs="+", metavar="ACTOR", help="1 to 24 (default: all)")
    add("--mirror", help="base URL in place of https://zenodo.org", metavar="URL")
    ravdess.set_defaults(run=_download, interrupted=_AGAIN)


def add_convert(convert: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf convert``."""
    add = convert.add_argument
    add(
        "file",
        type=Path,
        help="weights as released: Kinetics ResNeXt and I3D, torchvision's ResNet-50, MSAF's networks of RAVDESS, CMU-MOSEI "
        "and NTU RGB+D, and those they began with",
    )
    add("--out", type=Path, help="(default: FILE with .safetensors)")
    kinds = (
        "kinetics", "ravdess-video", "ravdess-audio", "ravdess-fused", "mosei-fused", "i3d", "ntu-i3d", "ntu-rgb",
        "ntu-skeleton", "ntu-fused-i3d", "ntu-fused-resnet50", "ntu-mmtm", "torchvision-resnet50",
    )  # fmt: skip
    add("--kind", choices=kinds, help="(default: recognized by its keys)")
    add("--all", action="store_true", help="list every tensor that is not used, not five")
    convert.set_defaults(run=_convert, interrupted="nothing was written")


def _prepare(options: argparse.Namespace) -> None:
    from torchmsaf.data.counted import counted
    from torchmsaf.data.prepare.ravdess import Settings, prepare_ravdess
    from torchmsaf.experiments.progress import told_progress
    from torchmsaf.tasks.emotion import PRESETS

    preset = PRESETS[options.preset]
    settings = Settings(
        preset=options.preset,
        frames=preset.frames if options.frames is None else options.frames,
        size=preset.size if options.size is None else options.size,
        sampling=options.sampling,
        pad_mode=options.pad_mode,
        landmark_slack=options.landmark_slack,
    )
    with told_progress("clips") as told:
        report = prepare_ravdess(
            options.raw, options.out, settings, jobs=options.jobs, strict=options.strict, told=told
        )
    aside = ", ".join(f"{count} {kind}" for kind, count in report.set_aside.items() if count)
    earlier = f"; {report.earlier} more whose raw files are gone" if report.earlier else ""
    print(f"{counted(report.prepared, 'clip')} prepared, {report.already} there already{earlier}: {report.path}")
    if aside:
        print(f"Left alone: {aside}.")
    if report.doubtful:
        print(f"{counted(len(report.doubtful), 'clip')} to look at:")
        for line in report.doubtful:
            print(f"  {line}")
    if report.refused:
        print(f"{counted(len(report.refused), 'file')} cannot be used (also in index.json):")
        for refusal in report.refused:
            print(f"  {refusal}")


def _synth(options: argparse.Namespace) -> None:
    from torchmsaf.data.counted import counted
    from torchmsaf.data.synth.ravdess import synth_ravdess
    from torchmsaf.experiments.progress import told_progress

    with told_progress("clips") as told:
        count = synth_ravdess(
            options.out,
            clips=options.clips,
            width=2 * round(options.height * 8 / 9),
            height=options.height,
            seconds=options.seconds,
            seed=options.seed,
            zipped=options.zipped,
            jobs=options.jobs,
            told=told,
        )
    print(f"{counted(count, 'made-up clip')}: {options.out}. Scores on them say nothing about emotions.")


def _download(options: argparse.Namespace) -> None:
    from torchmsaf.data.download import download, list_files
    from torchmsaf.data.ravdess import ACTORS, LANDMARK_RECORD, VIDEO_RECORD
    from torchmsaf.experiments.progress import told_progress

    videos: list[str] | None = None
    if options.actors is not None:
        if wrong := [actor for actor in options.actors if not 1 <= actor <= ACTORS]:
            raise DataError(f"there is no actor {wrong[0]}: 1 to {ACTORS} are there")
        videos = [f"Video_Speech_Actor_{actor:02}.zip" for actor in sorted(set(options.actors))]
    patterns = [(VIDEO_RECORD, videos), (LANDMARK_RECORD, None)]
    listed = [list_files(record, pattern=pattern, mirror=options.mirror) for record, pattern in patterns]
    total = sum(file.size for files in listed for file in files)
    here: dict[str, int] = {}
    with told_progress("MB") as told:

        def tell(name: str, done: int, size: int) -> None:
            here[name] = done
            told(sum(here.values()) >> 20, total >> 20)

        results = [
            download(record, options.out, pattern=pattern, mirror=options.mirror, told=tell)
            for record, pattern in patterns
        ]
    fetched, already = (sum(len(getattr(one, kind)) for one in results) for kind in ("fetched", "already"))
    print(f"{fetched} files came, {already} were there: {options.out}")


def _convert(options: argparse.Namespace) -> None:
    from torchmsaf.backbones.released import read_released
    from torchmsaf.data.whole_files import whole_file
    from torchmsaf.tasks.model_file import model_bytes
    from torchmsaf.tasks.released_models import model_of

    out = options.out or options.file.with_suffix(".safetensors")
    if options.file.suffix == ".safetensors":
        raise DataError(
            f"{options.file} is a .safetensors file already; what others released is .pth, .pt or .checkpoint"
        )
    if out.suffix != ".safetensors":
        raise DataError(f"{out}: a name that ends in .safetensors is needed")
    converted = read_released(options.file, options.kind)
    if out.exists():
        raise DataError(f"{out} is there already: choose another --out, or delete it")
    state, spec = model_of(converted)
    try:
        with whole_file(out) as beside:
            beside.write_bytes(model_bytes(state, spec))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}") from error
    print(f"{options.file}: {converted.kind}, {converted.matched} tensors: {out}")
    for note in spec.about["notes"]:
        print(f"  {note}")
    if converted.points and spec.about["task"] == "emotion":
        print("  torchmsaf predict builds and feeds it so.")
    for title, names in (
        ("not used", converted.unmatched_file),
        ("not in the file, and random when it is used", converted.unmatched_network),
    ):
        if names:
            print(f"{len(names)} {title}:")
            for name in names if options.all else names[:5]:
                print(f"  {name}")
            if len(names) > 5 and not options.all:
                print("  … (--all lists them)")
