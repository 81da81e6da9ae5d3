"""``torchmsaf prepare mosei``, ``mosi`` and ``ur_funny``: utterances with words, sound and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_AGAIN = "what is done is kept, and the same command goes on with it"
# as data.sets has them, which is not imported to show help
_SETS = {
    "mosei": ("CMU-MOSEI", "computational sequences (.csd) or aligned pickles of CMU-MOSEI to steps of words"),
    "mosi": ("CMU-MOSI", "computational sequences (.csd), aligned pickles or vectors of CMU-MOSI to steps of words"),
    "ur_funny": ("UR-FUNNY", "the pickles of UR-FUNNY to steps of words"),
}


def add_sentiment(sets: Any) -> None:
    """The data sets of utterances, and their options.

    Args:
        sets: the subparsers of ``torchmsaf prepare``.
    """
    for name, (title, told) in _SETS.items():
        parser = sets.add_parser(
            name,
            allow_abbrev=False,
            help=told,
            description=f"What the files of {title} are is told by their content. Refused utterances are named at the end.",
        )
        add = parser.add_argument
        add("--raw", type=Path, required=True, help="folder of the raw files, or one file")
        add(
            "--out",
            type=Path,
            required=True,
            help="folder of what is prepared; other settings make another version in it",
        )
        told = "word: a step a word; published: the last raw frames, as the code published with MSAF (default: word)"
        add("--alignment", choices=("word", "published"), default="word", help=told)
        add("--steps", type=int, default=50, help="the most of an utterance (default: 50)")
        told = "a frozen encoder of Hugging Face that makes the text features: name or folder, as bert-base-uncased"
        add("--text-model", metavar="NAME", help=told)
        told = (
            "words: the network learns word vectors; given: features that came with the files, the default where there are "
            "such; none: no text"
        )
        add("--text", choices=("words", "given", "none"), help=told)
        told = "JSON, lists of videos under train, validation and test; or standard (default: the files' own, else standard)"
        add("--folds", type=Path, metavar="FILE", help=told)
        add("--device", help="of the encoder: cpu, cuda, mps, … (default: a GPU where there is one)")
        add("--batch-size", type=int, default=32, help="sentences that the encoder takes at a time (default: 32)")
        add("--strict", action="store_true", help="an utterance that cannot be used is an error")
        parser.set_defaults(run=_prepare, interrupted=_AGAIN, data_set=name)


def _prepare(options: argparse.Namespace) -> None:
    from torchmsaf.data.prepare.utterances.preparation import prepare_sentiment
    from torchmsaf.data.prepare.utterances.utterance import Settings
    from torchmsaf.experiments.progress import told_progress

    settings = Settings(
        alignment=options.alignment,
        steps=options.steps,
        text=options.text,
        text_model=options.text_model,
        device=options.device,
        batch_size=options.batch_size,
    )
    with told_progress("utterances") as told:
        report = prepare_sentiment(
            options.data_set, options.raw, options.out, settings, folds=options.folds, strict=options.strict, told=told
        )
    for line in report.lines():
        print(line)
