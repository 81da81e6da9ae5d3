"""Folds x seeds x methods, and the folder that holds what came of them."""

from torchmsaf.experiments.compare import Comparison as Comparison
from torchmsaf.experiments.compare import compare as compare
from torchmsaf.experiments.methods import MethodChoice as MethodChoice
from torchmsaf.experiments.methods import choose_methods as choose_methods
from torchmsaf.experiments.methods import parse_method as parse_method
from torchmsaf.experiments.results import ResultFolder as ResultFolder
from torchmsaf.experiments.results import write_tables as write_tables
