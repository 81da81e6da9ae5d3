"""MSAF: multimodal split attention fusion.

Su, Hu, Li and Cao, "MSAF: Multimodal Split Attention Fusion", arXiv 2012.07175, 2020. Read :meth:`MSAF.forward` with
Sec. 3 of the paper open; ``ops/reference.py`` has the same equations one a line.
"""

# B batch, C block channels, C' joint channels, N blocks of all modalities, q segments, M modalities

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.ops.blocks import block_attention, block_counts, merge_blocks, relative_attention, split_blocks
from torchmsaf.ops.checks import check_boolean, check_channels, check_integer, check_share, is_integer
from torchmsaf.ops.gating import pool_maps
from torchmsaf.ops.normalize import make_norm, normalize_joint
from torchmsaf.ops.precision import full_precision
from torchmsaf.ops.published import read_published
from torchmsaf.ops.recalibrate import Rescale


class BlockDropout(nn.Module):
    """Drop whole blocks of features in training (Sec. 3.1).

    A keep mask is drawn for every sample and block from torch's generator, on the blocks' device and in their type, and
    scaled by 1 / (1 - p), so that its mean is one. In evaluation nothing is dropped. Inside MSAF the blocks are pooled ones,
    in float32 for half-precision maps.

    Args:
        p: probability of dropping a block, in [0, 1).

    Raises:
        FusionInputError: p is not in [0, 1).
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = check_share("block_dropout", p, said="a probability in [0, 1)", below_one=True)

    def mask(self, like: Tensor) -> Tensor | None:
        """The scaled keep mask, one value a block of ``like`` ``(..., C)``: ``(..., 1)``; None when nothing is dropped."""
        if not self.training or self.p == 0.0:
            return None
        # in float32 at least: a draw in half precision falls on few values, and drops more than p
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        drawn = torch.rand(*like.shape[:-1], 1, device=like.device, dtype=kind)
        return ((drawn >= self.p) / (1.0 - self.p)).to(like.dtype)

    def forward(self, blocks: Tensor) -> Tensor:
        """Drop blocks of ``(..., C)``, each with one draw."""
        mask = self.mask(blocks)
        return blocks if mask is None else blocks * mask

    def extra_repr(self) -> str:
        """The probability, for ``print(module)``."""
        return f"p={self.p}"


class SegmentLinear(nn.Module):
    """One linear layer a segment (and block), with weights in one tensor and torch's default start.

    Args:
        in_features: width of the input.
        *out_shape: segments first, then the shape of one segment's output.
        zero: start at zero.
    """

    def __init__(self, in_features: int, *out_shape: int, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*out_shape, in_features))
        self.bias = nn.Parameter(torch.empty(*out_shape))
        bound = 0.0 if zero else 1.0 / math.sqrt(in_features)  # kaiming_uniform with a = sqrt(5), as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in)`` to ``(B, *out)``, or with several segments ``(q, B, in)`` to ``(q, B, *out)``."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if weight.dtype != x.dtype:
            weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        out = bias.shape[1:]
        if len(bias) == 1:
            y = F.linear(x, weight.view(-1, x.shape[-1]), bias.view(-1))
        else:
            y = torch.baddbmm(bias.view(len(bias), 1, -1), x, weight.view(len(bias), -1, x.shape[-1]).transpose(1, 2))
        return y if len(out) == 1 else y.view(*y.shape[:-1], *out)


class MSAF(nn.Module):
    """Multimodal split attention fusion: maps of several modalities in, re-weighted maps of the same shapes out.

    Every map is split into blocks of C channels; all blocks are summed and pooled to one joint representation; a softmax
    over all blocks of all modalities gives every channel of every block its attention A, and the output is
    ``[λ + (1 - λ) A] * block`` (Su et al. 2020, Eqs. 1-6).

    Args:
        channels: channel count of each modality, one or more, any counts.
        block_channels: C. None = half the smallest count (the rule of Sec. 5.4).
        reduction: r; the joint representation has C' = floor(C / r) channels. None = 4 for one or two modalities, 2 for
            three or more (Sec. 3).
        min_attention: λ in [0, 1].
        block_dropout: p in [0, 1), see :class:`BlockDropout`. The join sees mask * blocks; the output is
            mask * gate * block, of the original block.
        segments: q >= 1 time segments with parameters of their own (Sec. 3.2). A segment has floor(S / q) steps; the last
            one has the remainder too.
        segment_dim: the axis that is segmented, 2 or more, or negative to count from the end.
        norm: "batch" as in the paper, or "layer" for small batches and batches of one.
        identity_start: the highlight layers start at zero and the gate is λ + (1 - λ) n A, with n the number of blocks in
            the softmax, so that a new module changes nothing until it has learned something. With the paper's own start
            (False) features shrink to about 1/n.

    Attributes:
        blocks: the number of blocks of each modality.

    Raises:
        FusionInputError: an argument out of range, or C' = 0.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        block_channels: int | None = None,
        reduction: int | None = None,
        min_attention: float = 0.0,
        block_dropout: float = 0.0,
        segments: int = 1,
        segment_dim: int = 2,
        norm: Literal["batch", "layer"] = "batch",
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        half = max(1, min(self.channels) // 2)
        self.block_channels = check_integer(
            "block_channels",
            half if block_channels is None else block_channels,
            advice="None is half the smallest count",
        )
        usual = 4 if len(self.channels) <= 2 else 2
        self.reduction = check_integer(
            "reduction", usual if reduction is None else reduction, advice="None is 4 for up to two modalities, else 2"
        )
        self.segments = check_integer("segments", segments, advice="1 is no segments")
        if not is_integer(segment_dim):
            raise FusionInputError(f"segment_dim is the integer of an axis, 2 or more or negative, got {segment_dim!r}")
        if segment_dim in (0, 1):
            raise FusionInputError(f"segment_dim={segment_dim} is the batch or the channels; positions start at 2")
        self.min_attention = check_share("min_attention", min_attention, said="λ in [0, 1]")
        joint = self.block_channels // self.reduction
        if joint == 0:
            raise FusionInputError(
                f"the joint representation has C' = floor(block_channels / reduction) = floor({self.block_channels} / "
                f"{self.reduction}) = 0 channels; choose reduction <= {self.block_channels}, or larger block_channels"
            )
        self.segment_dim = segment_dim
        self.identity_start = check_boolean("identity_start", identity_start)
        self.blocks = block_counts(self.channels, self.block_channels)
        self.block_dropout = BlockDropout(block_dropout)
        self.join = SegmentLinear(self.block_channels, self.segments, joint)
        self.norm = make_norm(norm, self.segments, joint)
        self.highlight = SegmentLinear(joint, self.segments, sum(self.blocks), self.block_channels, zero=identity_start)

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """Fuse one map of each modality.

        Args:
            features: ``(B, C_m, *positions)`` of each modality, any number of positions, none included. They are not
                modified.
            masks: ``(B, *positions)`` booleans or None a modality, True = real.
            present: ``(B, M)`` booleans, True = the sample has the modality.

        Returns:
            Maps of the same shapes, types and memory formats. Masked positions and absent modalities are zeros, and no
            value there reaches anything else.

        Raises:
            FusionInputError: features, masks or presence do not fit this module or each other; a sequence is shorter
                than ``segments``; batch norm is to train on a batch of one.
        """
        descriptors, alive, rescale = self._pool(features, masks, present)
        batch = descriptors[0].shape[-2]
        if self.norm.training and batch < 2 and isinstance(self.norm, nn.BatchNorm1d):
            raise FusionInputError(
                f"batch norm cannot train on a batch of {batch}: use MSAF(..., norm='layer'), or batches of two and more "
                "(drop_last=True in the loader), or .eval()"
            )
        gates = self._gates(descriptors, alive)
        return rescale(gates)  # Eq. 6

    def attention(
        self,
        features: Sequence[Tensor],
        *,
        masks: Sequence[Tensor | None] | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """The attention A of each modality, ``(B, q, N_m, C)``.

        As in evaluation, whatever the mode: no block is dropped; batch norm uses its running statistics and keeps them.
        At each channel A sums to 1 over all blocks of all present modalities, and is 0 for blocks of an absent one.

        Args:
            features: as in :meth:`forward`.
            masks: as in :meth:`forward`.
            present: as in :meth:`forward`.
        """
        descriptors, alive, _ = self._pool(features, masks, present)
        with full_precision(descriptors[0]):
            joint = self._join(split_blocks(descriptors, self.block_channels), alive, training=False)
            attention = block_attention(self.highlight(joint), self._of_blocks(alive))
        attention = attention.unsqueeze(1) if self.segments == 1 else attention.transpose(0, 1)
        return list(attention.split(self.blocks, dim=2))

    @classmethod
    def from_published(
        cls,
        state_dict: Mapping[str, Tensor],
        channels: Sequence[int],
        *,
        prefix: str | None = None,
        min_attention: float = 0.0,
        block_dropout: float = 0.0,
        segment_dim: int = 2,
    ) -> MSAF:
        """Read a module of the authors' published code (github.com/anita-hu/MSAF); in evaluation it gives their outputs.

        C, C', q and the number of blocks are read from the shapes. λ and p are not in a state dict: give them (λ was 0.5
        for NTU RGB+D and 0 otherwise).

        Args:
            state_dict: of a module or of a whole network, keys ``<prefix>blocks.<s>.joint_features.0.weight`` and so on.
            channels: channel count of each modality.
            prefix: what stands before ``blocks.``; None = found, when there is one.
            min_attention: λ.
            block_dropout: p.
            segment_dim: the axis that is segmented.

        Raises:
            FusionInputError: keys are missing or unknown, several modules are in the file and no prefix says which, or
                the shapes do not fit the channels.
        """
        state, block_channels, joint, segments = read_published(state_dict, check_channels(channels), prefix)
        reductions = [r for r in range(1, block_channels + 1) if block_channels // r == joint]
        if not reductions:
            raise FusionInputError(f"no reduction r gives C' = floor({block_channels} / r) = {joint}")
        module = cls(
            channels,
            block_channels=block_channels,
            reduction=reductions[0],
            min_attention=min_attention,
            block_dropout=block_dropout,
            segments=segments,
            segment_dim=segment_dim,
        )
        module.to(device=state["join.weight"].device, dtype=state["join.weight"].dtype)
        module.load_state_dict(state)
        return module

    def extra_repr(self) -> str:
        """The arguments, for ``print(module)``."""
        return (
            f"channels={self.channels}, block_channels={self.block_channels}, reduction={self.reduction}, "
            f"min_attention={self.min_attention}, segments={self.segments}, segment_dim={self.segment_dim}, "
            f"identity_start={self.identity_start}"
        )

    # Inside, tensors are (B, …) for one segment and (q, B, …) for several: a batched product needs q first.

    def _pool(
        self, features: Sequence[Tensor], masks: Sequence[Tensor | None] | None, present: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None, Rescale]:
        """Check everything, and pool: descriptors ``(…, B, C_m)``, which are alive ``(…, B, M)``, and the scaling."""
        return pool_maps(
            features,
            masks,
            present,
            channels=self.channels,
            parameter=self.join.weight,
            segments=self.segments,
            segment_dim=self.segment_dim,
        )

    def _gates(self, descriptors: Sequence[Tensor], alive: Tensor | None) -> list[Tensor]:
        """The three phases of Sec. 3 on the descriptors: one gate a channel, ``(…, B, C_m)`` a modality."""
        with full_precision(descriptors[0]):
            # Split (Fig. 2a). The maps are pooled first and summed after: Eqs. 1 and 2 are both sums.
            blocks = split_blocks(descriptors, self.block_channels)  # (…, B, N, C)
            keep = self.block_dropout.mask(blocks)
            # Join
            joint = self._join(blocks if keep is None else blocks * keep, alive, training=self.norm.training)
            # Highlight
            gate = self._soften(self.highlight(joint), alive)  # Eqs. 4 and 5
            return merge_blocks(gate if keep is None else gate * keep, self.channels)

    def _join(self, blocks: Tensor, alive: Tensor | None, *, training: bool) -> Tensor:
        """Eqs. 1-3: G, the sum of all blocks, then Z = ReLU(BN(W_Z G + b_Z)); ``(…, B, C')``."""
        joint = self.join(blocks.sum(-2))
        rows = None if alive is None else alive.any(-1)
        if self.segments == 1:
            rows = None if rows is None else rows.unsqueeze(1)
            return F.relu(normalize_joint(self.norm, joint, rows, training=training))
        rows = None if rows is None else rows.T
        q, batch, width = joint.shape
        flat = joint.transpose(0, 1).reshape(batch, q * width)
        flat = normalize_joint(self.norm, flat, rows, training=training)
        return F.relu(flat).view(batch, q, width).transpose(0, 1)

    def _soften(self, logits: Tensor, alive: Tensor | None) -> Tensor:
        """The gate λ + (1 - λ) A, or λ + (1 - λ) n A with the identity start; ``(…, B, N, C)``."""
        attend = relative_attention if self.identity_start else block_attention
        attention = attend(logits, self._of_blocks(alive))
        if self.min_attention == 0.0:
            return attention
        return torch.lerp(attention, attention.new_ones(()), self.min_attention)

    def _of_blocks(self, alive: Tensor | None) -> Tensor | None:
        """``(…, B, M)`` of the modalities as ``(…, B, N, 1)`` of their blocks."""
        if alive is None:
            return None
        return torch.cat([alive[..., m, None].expand(*alive.shape[:-1], n) for m, n in enumerate(self.blocks)], -1)[
            ..., None
        ]
