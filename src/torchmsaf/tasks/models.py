"""What is trained, compared and saved."""

from __future__ import annotations

from typing import TypeAlias

from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.systems.base import System

Model: TypeAlias = FusedNetwork | System
