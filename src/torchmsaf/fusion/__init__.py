"""One fusion method a file, all under the contracts of :mod:`torchmsaf.fusion.base`, by name in the registry."""

from torchmsaf.fusion.base import EarlyFusion as EarlyFusion
from torchmsaf.fusion.base import LateFusion as LateFusion
from torchmsaf.fusion.registry import METHODS as METHODS
from torchmsaf.fusion.registry import Method as Method
from torchmsaf.fusion.registry import create_fusion as create_fusion
from torchmsaf.fusion.registry import find_method as find_method
from torchmsaf.fusion.registry import list_fusions as list_fusions
