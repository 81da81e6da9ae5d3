"""The layers of networks that can be fused, as a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from torch import nn

from torchmsaf.errors import GraftError
from torchmsaf.grafting.dry_run import Sight, observe


@dataclass(frozen=True)
class Candidate:
    """One layer that ran.

    Attributes:
        network: name of its network.
        layer: its name, for :class:`~torchmsaf.Tap`.
        kind: its class.
        shape: of the tensor that would be fused; None = it gave no tensor.
        layout: of that tensor, one letter an axis; None = not known, channels second are assumed.
        calls: how often it ran.
        output: what it gave, in words.
    """

    network: str
    layer: str
    kind: str
    shape: tuple[int, ...] | None
    layout: str | None
    calls: int
    output: str


def candidates(networks: Mapping[str, nn.Module], example: Mapping[str, Any]) -> list[Candidate]:
    """All layers that run on an example, in the order in which they end.

    Args:
        networks: by name.
        example: an input of each, as for :func:`torchmsaf.graft`.

    Raises:
        GraftError: an example that does not have one input for each network.
    """
    if not isinstance(example, Mapping) or set(example) != set(networks):
        raise GraftError(f"example is one input for each of {', '.join(networks)}, by name")
    return [
        one
        for name, network in networks.items()
        for one in from_sight(name, network, observe(name, network, example[name]))
    ]


def from_sight(name: str, network: nn.Module, sight: Sight) -> list[Candidate]:
    """The layers that were seen running."""
    names = {layer: layer_name for layer_name, layer in network.named_modules()}
    found = []
    for layer, calls in sight.calls.items():
        seen = calls[0]
        path = seen.default
        shape = None if path is None else seen.shapes[path]
        layout = None if path is None else seen.layouts.get(path)
        found.append(Candidate(name, names[layer], seen.kind, shape, layout, len(calls), seen.output))
    return found


def describe(
    networks: Mapping[str, nn.Module], example: Mapping[str, Any], *, depth: int | None = 3, file: TextIO | None = None
) -> None:
    """Print the layers that can be fused, with the shapes that they give on an example.

    Args:
        networks: by name.
        example: an input of each, as for :func:`torchmsaf.graft`.
        depth: names of at most so many parts (``layer3.0.conv1`` has 3); None = all.
        file: where to; None = standard output.

    Raises:
        GraftError: an example that does not have one input for each network.
    """
    print_table(candidates(networks, example), {}, depth=depth, file=file)


def print_table(
    rows: Sequence[Candidate],
    points: Mapping[tuple[str, str], Sequence[int]],
    *,
    depth: int | None,
    file: TextIO | None,
) -> None:
    """Print candidates, one a line, and at which points they are fused."""
    out = sys.stdout if file is None else file
    head = ("layer", "class", "output", "layout", "calls", "point")
    for name in dict.fromkeys(row.network for row in rows):
        own = [row for row in rows if row.network == name]
        shown = [row for row in own if depth is None or row.layer.count(".") < depth or (name, row.layer) in points]
        lines = [head]
        for row in shown:
            at = ", ".join(map(str, points.get((name, row.layer), ())))
            shape = row.output if row.shape is None else str(row.shape)
            lines.append((row.layer or '""', row.kind, shape, row.layout or "?", str(row.calls), at))
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        print(f"{name}", file=out)
        for line in lines:
            print(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=out
            )
        if len(shown) < len(own):
            print(f"  and {len(own) - len(shown)} layers further in: depth=None shows them", file=out)
