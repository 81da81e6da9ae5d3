"""Published models of several modalities, one a file, under :mod:`torchmsaf.tasks.systems.base`, by name."""

from torchmsaf.tasks.systems.base import Kind as Kind
from torchmsaf.tasks.systems.base import System as System
from torchmsaf.tasks.systems.registry import SYSTEMS as SYSTEMS
from torchmsaf.tasks.systems.registry import SystemEntry as SystemEntry
from torchmsaf.tasks.systems.registry import create_system as create_system
from torchmsaf.tasks.systems.registry import find_system as find_system
from torchmsaf.tasks.systems.registry import list_systems as list_systems
