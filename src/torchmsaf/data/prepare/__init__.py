"""From raw video and audio files to prepared clips, made once."""

from torchmsaf.data.prepare.clip_runs import Report as Report
from torchmsaf.data.prepare.ravdess import Settings as Settings
from torchmsaf.data.prepare.ravdess import prepare_clip as prepare_clip
from torchmsaf.data.prepare.ravdess import prepare_ravdess as prepare_ravdess
from torchmsaf.data.prepare.raw import RawFile as RawFile
from torchmsaf.data.prepare.raw import Refusal as Refusal
from torchmsaf.data.prepare.raw import find_files as find_files

__all__ = ["RawFile", "Refusal", "Report", "Settings", "find_files", "prepare_clip", "prepare_ravdess"]
