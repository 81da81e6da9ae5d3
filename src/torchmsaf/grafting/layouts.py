"""Axes of a layer's output: to channels second, and back.

A layout has one letter an axis: ``B`` batch, ``C`` channels, any other letter a position. Fusions see
``(B, C, *positions)`` alone; the positions keep their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.errors import GraftError

# torch's own layers whose channels are last, and second, in a batch
_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag)
_SECOND = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
_SEQUENCES = (nn.RNNBase, nn.MultiheadAttention)
_TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
# letters of the positions, by their number
_POSITIONS = ("", "T", "HW", "THW", *("THWXYZUVPQRS"[:count] for count in range(4, 13)))


def check_layout(layout: str, owner: str) -> str:
    """A layout is letters, one ``B``, one ``C``, none twice."""
    if (
        not isinstance(layout, str)
        or not layout.isalpha()
        or not layout.isupper()
        or len(set(layout)) != len(layout)
        or not {"B", "C"} <= set(layout)
    ):
        raise GraftError(
            f"{owner}: a layout has one capital letter an axis, B and C among them, such as 'BTC' or 'BHWC', got {layout!r}"
        )
    return layout


def to_channels_second(x: Tensor, layout: str) -> Tensor:
    """A map of that layout as ``(B, C, *positions)``, a view; the same tensor where it is so already."""
    return x if layout.startswith("BC") else x.permute(_order(layout))


def from_channels_second(x: Tensor, layout: str) -> Tensor:
    """The inverse of :func:`to_channels_second`."""
    if layout.startswith("BC"):
        return x
    order = _order(layout)
    return x.permute([order.index(axis) for axis in range(len(order))])


def _order(layout: str) -> list[int]:
    batch, channels = layout.index("B"), layout.index("C")
    return [batch, channels, *(axis for axis in range(len(layout)) if axis not in (batch, channels))]


def channels_second(rank: int) -> str:
    """The layout of channels second, of that rank."""
    return "BC" + _POSITIONS[rank - 2]


def channels_last(rank: int) -> str:
    """The layout of channels last, of that rank."""
    return "B" + _POSITIONS[rank - 2] + "C"


def layout_of(layer: nn.Module, rank: int, shape: Sequence[int] | None = None) -> str | None:
    """The layout that a layer of torch is known to give, or None.

    An activation or a dropout says nothing; a recurrent layer, attention and a transformer layer say by ``batch_first``;
    a layer norm with a ``forward`` of its own, which may have its channels second, by its width.
    """
    if rank < 2 or rank - 2 >= len(_POSITIONS):
        return None
    if isinstance(layer, _SECOND):
        return channels_second(rank)
    if rank == 2:
        return "BC"
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) > 1:
        return None
    if isinstance(layer, nn.LayerNorm) and type(layer).forward is not nn.LayerNorm.forward:
        return _of_width(shape, layer.normalized_shape)
    if isinstance(layer, _LAST):
        return channels_last(rank)
    attention = layer.self_attn if isinstance(layer, _TRANSFORMERS) else layer
    if isinstance(attention, _SEQUENCES) and rank == 3:
        return "BTC" if attention.batch_first else "TBC"
    return None


def knows_batch(layer: nn.Module) -> bool:
    """Whether a layer's class says which axis is the batch; a linear layer's says only which one is the channels."""
    return isinstance(layer, (*_SECOND, *_SEQUENCES, *_TRANSFORMERS))


def _of_width(shape: Sequence[int] | None, normalized: Sequence[int]) -> str | None:
    """Channels second or last, whichever alone has the width of a layer norm over one axis."""
    if shape is None or (shape[1] == normalized[0]) == (shape[-1] == normalized[0]):
        return None
    return channels_second(len(shape)) if shape[1] == normalized[0] else channels_last(len(shape))


def layout_of_parts(layer: nn.Module, rank: int) -> str | None:
    """The layout that all known parts of a layer agree on, or None. For a layer that was not seen running."""
    found = {layout for part in layer.modules() if (layout := layout_of(part, rank)) is not None}
    return found.pop() if len(found) == 1 else None


def fit_mask(mask: Tensor, positions: Iterable[int], *, prefix: int, owner: str) -> Tensor:
    """A mask of a network's input at the positions of one of its layers.

    A mask of fewer axes than the map is of the first ones (time, before height and width). A map without positions is real
    where anything of the input is. Where a length differs, a
    position is real if any real position of the input falls into it, as in adaptive max pooling.

    Args:
        mask: ``(B, *some positions)`` booleans, True = real.
        positions: of the map.
        prefix: tokens before the first position, always real.
        owner: whose it is, for messages.

    Raises:
        GraftError: more axes than the map has.
    """
    there = list(positions)
    if list(mask.shape[1:]) == there:
        return mask
    if not there and mask.dim() > 1:
        return mask.flatten(1).any(1)
    if there and there[0] <= prefix:
        raise GraftError(f"{owner}: prefix={prefix}, and its map has {there[0]} tokens")
    if mask.dim() - 1 > len(there) or mask.dim() < 2:
        counted = f", the first {prefix} of them its prefix" if prefix else ""
        raise GraftError(
            f"{owner}: a mask {tuple(mask.shape)} does not fit a map with positions {tuple(there)}{counted}; "
            "a mask is (B, *positions), and may leave out the last positions"
        )
    inner = [length - (prefix if axis == 0 else 0) for axis, length in enumerate(there)]
    fitted = mask
    for axis in range(1, mask.dim()):
        if fitted.shape[axis] != inner[axis - 1]:
            fitted = _any_within(fitted, axis, inner[axis - 1])
    fitted = fitted.reshape(*fitted.shape, *[1] * (len(there) + 1 - mask.dim())).expand(-1, *inner)
    return F.pad(fitted, [0, 0] * (len(there) - 1) + [prefix, 0], value=True) if prefix else fitted


def _any_within(mask: Tensor, axis: int, length: int) -> Tensor:
    """Another length of an axis: position i is of ``[floor(i T / length), ceil((i + 1) T / length))`` of the T there are."""
    there = mask.shape[axis]
    steps = torch.arange(length + 1, device=mask.device) * there
    before = F.pad(mask.movedim(axis, -1).long().cumsum(-1), (1, 0))
    starts, ends = steps[:-1] // length, -(-steps[1:] // length)
    return (before.index_select(-1, ends) > before.index_select(-1, starts)).movedim(-1, axis)
