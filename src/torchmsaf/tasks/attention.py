"""How the attention of MSAF falls on the modalities (Figs. 6 and 7 of the MSAF paper look at it)."""

# B batch, M modalities, N_m blocks of modality m, C channels of a block

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchmsaf.msaf import MSAF
from torchmsaf.ops.modes import evaluating
from torchmsaf.tasks.network import FusedNetwork


@torch.no_grad()
def modality_attention(
    network: FusedNetwork,
    inputs: Sequence[Tensor],
    present: Tensor | None = None,
    lengths: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """The share of each modality in the attention of each MSAF in a network, in evaluation mode.

    At one point the attention of all blocks of all modalities sums to one in each channel. A share is the sum over the
    modality's blocks, averaged over channels and segments: the shares of a sample sum to one. A modality with more blocks
    has a larger share if attention is even.

    Args:
        network: its mode, and that of each of its layers, is left as it is.
        inputs: ``(B, *shape)`` of each modality.
        present: ``(B, M)`` booleans; None = all. What is absent has no share.
        lengths: as in :meth:`FusedNetwork.forward`.

    Returns:
        ``(B, M)`` for each MSAF, in the order of the points; empty for another method.
    """
    met: dict[nn.Module, tuple[Any, dict[str, Any]]] = {}

    def remember(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        met[module] = (args, kwargs)

    points = [point for point in network.points if isinstance(point, MSAF)]
    if not points:
        return []
    handles = [point.register_forward_pre_hook(remember, with_kwargs=True) for point in points]
    try:
        with evaluating(network):
            network(inputs, present, lengths)
        shares = []
        for point, owners in zip(points, network.owners, strict=True):
            args, kwargs = met[point]
            of_blocks = point.attention(*args, **kwargs)  # (B, q, N_m, C) each
            of_inputs = torch.stack([one.sum(2).mean((1, 2)) for one in of_blocks], dim=1)
            shares.append(of_inputs @ of_inputs.new_tensor(_belongs(owners, len(network.networks))))
        return shares
    finally:
        for handle in handles:
            handle.remove()


def even_attention(network: FusedNetwork) -> list[Tensor]:
    """The shares ``(M,)`` that even attention would have where nothing is absent, for each MSAF."""
    shares = []
    for point, owners in zip(network.points, network.owners, strict=False):
        if isinstance(point, MSAF):
            blocks = torch.tensor(point.blocks, dtype=torch.float32)
            shares.append(blocks / blocks.sum() @ torch.tensor(_belongs(owners, len(network.networks))))
    return shares


def _belongs(owners: Sequence[int], modalities: int) -> list[list[float]]:
    """One where an input of a point is of a modality, ``(inputs, M)``: the persons of a scene are of one."""
    return [[float(owner == m) for m in range(modalities)] for owner in owners]
