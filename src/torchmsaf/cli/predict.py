"""``torchmsaf predict``: what a trained model says of files."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torchmsaf.errors import DataError, TorchmsafError

if TYPE_CHECKING:
    from torchmsaf.data.prepare.raw import RawFile
    from torchmsaf.tasks.action_prediction import ClipAction
    from torchmsaf.tasks.emotion_prediction import ClipEmotion

T = TypeVar("T")
_FIRST = 3  # actions that a table has of a clip


def add_predict(predict: argparse.ArgumentParser) -> None:
    """The options of ``torchmsaf predict``."""
    told = "model.safetensors, or any file of weights of a comparison of emotions or of clips of actions"
    predict.add_argument("model", type=Path, help=told)
    told = "of emotions: video files with sound; of actions: videos and .skeleton files, paired by name, or folders of them"
    predict.add_argument("clips", type=Path, nargs="+", help=told, metavar="CLIP")
    told = (
        "emotions: OpenFace's csv files, or folders of them (default: CLIP.csv beside the clip; else a face detector)"
    )
    predict.add_argument("--landmarks", type=Path, nargs="+", default=[], help=told, metavar="CSV")
    predict.add_argument("--format", choices=("table", "json"), default="table", help="(default: table)")
    predict.set_defaults(run=_predict, interrupted="nothing was written")


def _predict(options: argparse.Namespace) -> None:
    from torchmsaf.tasks.clip_model import read_about

    about = read_about(options.model)
    task = about.get("task")
    if task == "action":
        _actions(options)
    elif task == "emotion" or "released" in about:
        _emotions(options)
    else:
        named = f"of {task}" if isinstance(task, str) else "of arrays"
        raise DataError(
            f"{options.model} is a model {named}, and predict takes those of emotions and of clips of actions: read it with "
            "torchmsaf.tasks.model_file.load_model, and give it arrays"
        )


def _emotions(options: argparse.Namespace) -> None:
    from torchmsaf.tasks.emotion_prediction import EmotionModel, match_landmarks

    model = EmotionModel.load(options.model)
    landmarks = match_landmarks(options.clips, options.landmarks)
    pairs = list(zip(options.clips, landmarks, strict=True))
    _tell(pairs, lambda pair: model.predict(*pair), _lines_of_emotions, options.format, model.notes)


def _actions(options: argparse.Namespace) -> None:
    from torchmsaf.tasks.action_prediction import ActionModel, find_clips

    if options.landmarks:
        raise DataError("--landmarks are for a model of emotions, and this is one of actions")
    model = ActionModel.load(options.model)
    clips, refused = find_clips(options.clips)

    def predict(item: tuple[str, dict[str, RawFile]]) -> ClipAction:
        return model.predict(item[1], item[0])

    _tell(list(clips.items()), predict, _lines_of_actions, options.format, model.notes, refused)


def _tell(
    clips: Sequence[T],
    predict: Callable[[T], Any],
    lines: Callable[[Sequence[Any]], list[str]],
    wanted: str,
    notes: Sequence[str],
    refused: Sequence[str] = (),
) -> None:
    """Predict one clip after the other and print what came, with what is to be known of the model, then what failed."""
    from torchmsaf.data.counted import counted

    done, failed = [], list(refused)
    for clip in clips:
        try:
            done.append(predict(clip))
        except TorchmsafError as error:
            failed.append(str(error))
    if wanted == "json":
        print(json.dumps([vars(one) for one in done], indent=1))
    else:
        print("".join(f"{line}\n" for line in [*lines(done), *notes] if done), end="")
    if failed:
        told = "".join(f"\n  {line}" for line in failed)
        raise DataError(f"{len(failed)} of {counted(len(clips) + len(refused), 'clip')} could not be read:{told}")


def _lines_of_emotions(predictions: Sequence[ClipEmotion]) -> list[str]:
    if not predictions:
        return []
    first = predictions[0]
    rows = [["clip", "emotion", *first.probabilities]]
    rows[0] += [f"{name} alone" for name in first.alone]
    rows[0] += _attended(first.even_attention)
    for one in predictions:
        row = [one.clip, one.emotion, *(_percent(p) for p in one.probabilities.values())]
        row += [_likeliest(part) for part in one.alone.values()]
        rows.append([*row, *(_percent(share) for point in one.attention for share in point.values())])
    notes = []
    if any(one.box == "detector" for one in predictions):
        notes.append("Faces were found by a detector, which frames them otherwise than the landmarks of training.")
    if short := [one.clip for one in predictions if one.audio_seconds < 1]:
        notes.append(f"Less than a second of sound was heard in: {', '.join(short)}.")
    return [*_columns(rows), *_notes(first.made_up_model, notes)]


def _lines_of_actions(predictions: Sequence[ClipAction]) -> list[str]:
    from torchmsaf.data.counted import counted

    if not predictions:
        return []
    first = predictions[0]
    shown = min(_FIRST, len(first.probabilities))
    names = sorted({name for one in predictions for name in one.alone})
    rows = [["clip", "action", "%"]]
    rows[0] += [text for k in range(1, shown) for text in (f"{('second', 'third')[k - 1]}", "%")]
    rows[0] += [*(f"{name} alone" for name in names), *_attended(first.even_attention)]
    for one in predictions:
        best = sorted(one.probabilities.items(), key=lambda item: -item[1])[:shown]
        row = [one.clip, *(text for name, p in best for text in (name, _percent(p)))]
        row += [_likeliest(one.alone[name]) if name in one.alone else "absent" for name in names]
        rows.append([*row, *(_percent(share) for point in one.attention for share in point.values())])
    lacking = Counter(name for one in predictions for name in one.absent)
    notes = [f"{counted(count, 'clip')} without {name}, which the model knows." for name, count in lacking.items()]
    return [*_columns(rows), *_notes(first.made_up_model, notes)]


def _attended(even: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """The heads of the columns of attention."""
    for k, point in enumerate(even, start=1):
        yield from (f"attention {k}: {name} (even: {_percent(share)})" for name, share in point.items())


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _notes(made_up: bool, notes: Sequence[str]) -> list[str]:
    warned = ["The model was trained on MADE-UP clips: what it says means nothing."] if made_up else []
    return ["Probabilities and shares of attention are in percent.", *warned, *notes]


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
