"""The search of MFAS for an architecture of fusion, on vectors of networks that stay as they are."""

from torchmsaf.experiments.search.candidate import FeaturePart as FeaturePart
from torchmsaf.experiments.search.search import SearchResult as SearchResult
from torchmsaf.experiments.search.search import Tried as Tried
from torchmsaf.experiments.search.search import search as search
from torchmsaf.experiments.search.space import FusionSpace as FusionSpace
from torchmsaf.experiments.search.space import SearchSettings as SearchSettings
