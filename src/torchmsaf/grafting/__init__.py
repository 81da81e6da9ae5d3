"""Fusions between named layers of networks that nobody edited."""

from torchmsaf.grafting.build import graft as graft
from torchmsaf.grafting.describe import Candidate as Candidate
from torchmsaf.grafting.describe import candidates as candidates
from torchmsaf.grafting.describe import describe as describe
from torchmsaf.grafting.model import GraftedModel as GraftedModel
from torchmsaf.grafting.points import FusionPoint as FusionPoint
from torchmsaf.grafting.points import Tap as Tap
