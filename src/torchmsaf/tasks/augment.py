"""What is drawn anew for each training sample, and noise that tests how robust a network is."""

# B batch, C channels, T frames, H and W size of a frame

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.errors import DataError


class Augmentation(Protocol):
    """Changes training samples of one modality. All that is random comes from the generator."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """``(B, C, *positions)`` to the same shape; the input may be overwritten."""
        ...


@dataclass(frozen=True)
class CropAndFlip:
    """A random crop, resized back, and a horizontal flip, each drawn once a clip: its frames stay one film.

    The share of the area and the aspect ratio of the crop are drawn as in random resized cropping (C. Szegedy et al.,
    Going Deeper with Convolutions, CVPR 2015): uniform share, log-uniform ratio, uniform place. A ratio that would not fit
    is brought to one that does.

    The MSAF paper says "random crop, horizontal flip". The authors' code draws them for each frame, and its
    share goes to 1.4, of which no more than the whole frame can be had; here the largest share is 1.

    Args:
        smallest: share of the area of the smallest crop, in (0, 1].
        ratio: largest ratio of width to height, 1 or more; the smallest is its inverse.
        flip: probability of a flip.
    """

    smallest: float = 0.8
    ratio: float = 4 / 3
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1 or not self.ratio >= 1 or not 0 <= self.flip <= 1:
            raise DataError(f"{self}: smallest in (0, 1], ratio of 1 or more and flip in [0, 1] are needed")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Clips ``(B, C, T, H, W)``."""
        height, width = x.shape[-2:]
        out = torch.empty_like(x)
        for k, clip in enumerate(x):
            share, place, down, along, flip = torch.rand(5, generator=generator).tolist()
            area = self.smallest + (1 - self.smallest) * share
            ratio = self.ratio ** (2 * place - 1)
            # sides as parts of the frame's: their product is the area, and neither is more than 1
            ratio = min(max(ratio, area), 1 / area)
            h = max(1, round(height * (area / ratio) ** 0.5))
            w = max(1, round(width * (area * ratio) ** 0.5))
            top, left = int(down * (height - h + 1)), int(along * (width - w + 1))
            crop = clip[..., top : top + h, left : left + w]
            if flip < self.flip:
                crop = crop.flip(-1)
            # the frames as a batch of images: (T, C, h, w)
            whole = F.interpolate(crop.transpose(0, 1), size=(height, width), mode="bilinear", align_corners=False)
            out[k] = whole.transpose(0, 1)
        return out


@dataclass(frozen=True, eq=False)
class Noise:
    """Gaussian noise on all samples of one modality, the same on a sample whoever reads it and in whatever batch.

    Args:
        modality: its number.
        scale: standard deviation of the noise in each channel, ``(C,)``.
        seed: of the draws; each sample has one of its own made of it.
    """

    modality: int
    scale: Tensor
    seed: int

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Samples ``(B, C, *positions)``, whose row numbers are ``(B,)``, with noise."""
        scale = self.scale.view(-1, *(1 for _ in x.shape[2:]))
        drawn = [
            torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(self.seed + row)) for row in rows.tolist()
        ]
        return x + scale * torch.stack(drawn)
