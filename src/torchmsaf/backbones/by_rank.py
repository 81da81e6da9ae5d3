"""The network for a modality: by the rank of its samples, or by class path."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torchmsaf.backbones.staged import ConvNet, StagedNetwork, VectorNet
from torchmsaf.errors import FusionInputError, in_one_line


def network_for(
    shape: Sequence[int], outputs: int, *, class_path: str | None = None, options: Mapping[str, Any] | None = None
) -> StagedNetwork:
    """Build the network of one modality.

    Args:
        shape: shape of one sample: ``(C,)`` vector, ``(C, T)`` sequence, ``(C, H, W)`` image, ``(C, T, H, W)`` volume.
        outputs: number of classes, or 1.
        class_path: ``"package.module.Class"``, called with ``(shape, outputs)``; it has the parts of
            :class:`StagedNetwork`. None = :class:`VectorNet` for vectors, :class:`ConvNet` for the others.
        options: further arguments of the class that ``class_path`` names.

    Raises:
        FusionInputError: the class cannot be imported or built, or what it builds lacks a part.
    """
    if class_path is None:
        return VectorNet(shape, outputs) if len(shape) == 1 else ConvNet(shape, outputs)
    module, _, name = class_path.rpartition(".")
    if not all(class_path.split(".")) or not module:
        raise FusionInputError(f"network {class_path!r}: expected package.module.Class")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FusionInputError(f"network {class_path!r} cannot be imported: {in_one_line(error)}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        said = f"{type(error).__name__}: {in_one_line(error)}"
        raise FusionInputError(f"network {class_path!r} cannot be imported: {said}") from error
    try:
        network = build(tuple(shape), outputs, **(options or {}))
    except Exception as error:  # whatever a user's class raises
        raise FusionInputError(
            f"network {class_path!r} cannot be built with (shape, outputs) = ({tuple(shape)}, {outputs}): "
            f"{in_one_line(error)}"
        ) from error
    missing = [part for part in ("stages", "feature", "head", "channels", "width") if not hasattr(network, part)]
    if missing:
        raise FusionInputError(
            f"network {class_path!r} lacks {', '.join(missing)}: see torchmsaf.backbones.StagedNetwork for what a network "
            "between whose stages a fusion stands has"
        )
    if len(network.stages) != len(network.channels):
        raise FusionInputError(
            f"network {class_path!r}: channels {tuple(network.channels)} has one count for each of its "
            f"{len(network.stages)} stages"
        )
    built: StagedNetwork = network
    return built
