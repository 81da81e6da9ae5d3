"""``torchmsaf train``: its tasks."""

from __future__ import annotations

import argparse

from torchmsaf.cli import action, emotion, sentiment


def add_train(train: argparse.ArgumentParser) -> None:
    """The tasks of ``torchmsaf train``, and their options."""
    tasks = train.add_subparsers(title="tasks", metavar="TASK", required=True)
    emotion.add_train(
        tasks.add_parser(
            "emotion",
            allow_abbrev=False,
            help="emotions of RAVDESS",
            description="The networks of video and audio, then the fused network, on one fold; model.safetensors in --out.",
        )
    )
    action.add_train(
        tasks.add_parser(
            "action",
            allow_abbrev=False,
            help="actions of NTU RGB+D, and of other skeletons",
            description="The networks of frames and skeletons, then the fused network; model.safetensors in --out.",
        )
    )
    sentiment.add_train(
        tasks.add_parser(
            "sentiment",
            allow_abbrev=False,
            help="sentiment of utterances",
            description="The networks of video, audio and text, and the fused network; model.safetensors in --out.",
        )
    )
