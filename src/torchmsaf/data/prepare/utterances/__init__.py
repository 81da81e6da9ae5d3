"""Data sets of utterances, CMU-MOSEI and sets like it, from raw files to prepared sequences."""

from torchmsaf.data.prepare.utterances.preparation import prepare_sentiment as prepare_sentiment
from torchmsaf.data.prepare.utterances.report import Report as Report
from torchmsaf.data.prepare.utterances.utterance import Settings as Settings

__all__ = ["Report", "Settings", "prepare_sentiment"]
