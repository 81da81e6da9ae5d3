"""What a grafted model makes of the networks' outputs."""

# B batch, M networks, K outputs

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmsaf.errors import GraftError
from torchmsaf.ops.support import over_samples


class _Head(nn.Module):
    """Outputs of all networks, in order, to one.

    ``present`` is ``(B, M)`` booleans or None = all; what is absent is left out, whatever is there.
    """

    said = ""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def total(self, outputs: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """The sum over the networks that are present, of outputs of one shape."""
        for name, z in zip(self.names, outputs, strict=True):
            if z.shape != outputs[0].shape:
                raise GraftError(
                    f"head {self.said!r}: network {name!r} gives {tuple(z.shape)} and {self.names[0]!r} gives "
                    f"{tuple(outputs[0].shape)}; use head='concat', a module, or head=None"
                )
        kept = _without_absent(outputs, present)
        total = kept[0]
        for z in kept[1:]:
            total = total + z
        return total


class Sum(_Head):
    """The sum of the outputs: of logits, the product of the networks' probabilities, as the paper has it."""

    said = "sum"

    def forward(self, outputs: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """The sum over the networks that are present."""
        return self.total(outputs, present)


class Mean(_Head):
    """The mean of the outputs."""

    said = "mean"

    def forward(self, outputs: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """The mean over the networks that are present; zero where none is."""
        total = self.total(outputs, present)
        if present is None:
            return total / len(outputs)
        return total / over_samples(present.sum(1).clamp(min=1), total).to(total.dtype)


class Concat(_Head):
    """The outputs one after the other along axis 1; zeros where absent."""

    said = "concat"

    def forward(self, outputs: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """``(B, K_1 + K_2 + ...)``."""
        for name, z in zip(self.names, outputs, strict=True):
            if z.dim() != outputs[0].dim() or z.dim() < 2:
                raise GraftError(
                    f"head 'concat': network {name!r} gives {tuple(z.shape)}; expected (B, K), of one rank for all"
                )
        return torch.cat(_without_absent(outputs, present), 1)


class Branch(nn.Module):
    """The prediction from the branch that fusions grow beside the networks, such as CentralNet's.

    Args:
        layer: from the branch, ``(B, width)``, to the prediction.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, outputs: Sequence[Tensor], *, branch: Tensor, present: Tensor | None = None) -> Tensor:
        """``(B, K)``; the networks' own outputs are not in it."""
        prediction: Tensor = self.layer(branch)
        return prediction


HEADS: dict[str, type[_Head]] = {"sum": Sum, "mean": Mean, "concat": Concat}


def _without_absent(outputs: Sequence[Tensor], present: Tensor | None) -> list[Tensor]:
    if present is None:
        return list(outputs)
    return [torch.where(over_samples(present[:, m], z), z, 0) for m, z in enumerate(outputs)]
