"""Made-up corpora in the formats of real ones, to try a whole chain without the data. Scores on them mean nothing."""

from torchmsaf.data.synth.ravdess import plan_clips as plan_clips
from torchmsaf.data.synth.ravdess import synth_ravdess as synth_ravdess

__all__ = ["plan_clips", "synth_ravdess"]
