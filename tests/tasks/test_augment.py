"""Protects augmentation: one draw a clip, from the generator alone, within its bounds; and noise that is a sample's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchmsaf.errors import DataError
from torchmsaf.tasks.augment import CropAndFlip, Noise

SIZE = 40


def ramps(n: int, frames: int = 3) -> Tensor:
    """Clips whose two channels are the row and the column of each pixel: what is left of them says where a crop was."""
    down, along = torch.meshgrid(torch.arange(float(SIZE)), torch.arange(float(SIZE)), indexing="ij")
    return torch.stack([down, along])[None, :, None].expand(n, 2, frames, SIZE, SIZE).clone()


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(change: CropAndFlip, n: int = 400) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Share of the area, ratio, place of the middle ``(n, 2)`` and whether it is flipped, of n crops."""
    x = change(ramps(n, frames=1), draws())[:, :, 0]
    # the slope of a ramp is the crop's side as part of the frame's; away from the border, where resizing repeats values
    lines = x[:, 0, :, SIZE // 2], x[:, 1, SIZE // 2, :]
    slopes = [(line[:, 29] - line[:, 10]) / 19 for line in lines]
    middle = torch.stack([(line[:, 19] + line[:, 20]) / 2 for line in lines], dim=1)
    h, w = slopes[0], slopes[1].abs()
    return h * w, w / h, middle, slopes[1] < 0


def test_a_clip_gets_one_crop_and_one_flip_for_all_its_frames_and_its_neighbour_others() -> None:
    """Row B6 of docs/fidelity.md: the published code draws for each frame."""
    out = CropAndFlip()(ramps(8, frames=5), draws())
    assert torch.equal(out, out[:, :, :1].expand_as(out))
    assert len({tuple(clip[:, 0, SIZE // 2, SIZE // 2].tolist()) for clip in out}) > 4


def test_frames_keep_their_order_and_channels_their_values() -> None:
    x = torch.arange(12.0).view(1, 3, 4, 1, 1).expand(2, 3, 4, 9, 11)
    torch.testing.assert_close(CropAndFlip()(x, draws()), x)


def test_it_is_repeatable_from_the_generator_and_draws_from_nothing_else() -> None:
    state = torch.get_rng_state()
    generator = draws(3)
    first, second = (CropAndFlip()(ramps(2), generator) for _ in range(2))
    assert torch.equal(first, CropAndFlip()(ramps(2), draws(3)))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_clip_is_changed_the_same_in_whatever_batch() -> None:
    one = draws()
    apart = torch.cat([CropAndFlip()(ramps(2), one), CropAndFlip()(ramps(1), one)])
    assert torch.equal(apart, CropAndFlip()(ramps(3), draws()))


@pytest.mark.parametrize("size", [(9, 14), (1, 1), (2, 7)])
def test_shapes_are_kept(size: tuple[int, int]) -> None:
    x = torch.randn(3, 2, 4, *size)
    out = CropAndFlip(smallest=0.01, ratio=9)(x, draws())
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_the_whole_frame_without_a_flip_is_the_identity_and_with_one_its_mirror() -> None:
    x = torch.randn(3, 2, 4, 7, 10)
    assert torch.equal(CropAndFlip(1, 1, 0)(x.clone(), draws()), x)
    assert torch.equal(CropAndFlip(1, 1, 1)(x.clone(), draws()), x.flip(-1))


def test_crops_are_drawn_as_they_are_described() -> None:
    share, ratio, middle, flipped = crops(CropAndFlip(smallest=0.5, ratio=1.5))
    rounding = 0.05
    assert 0.5 - rounding < share.min() < 0.55
    assert 0.95 < share.max() < 1 + rounding
    assert share.mean() == pytest.approx(0.75, abs=0.03)  # uniform
    assert 1 / 1.5 - 0.07 < ratio.min() < 0.75
    assert 1.35 < ratio.max() < 1.5 + 0.1
    assert ratio.log().mean() == pytest.approx(0, abs=0.05)  # log-uniform
    whole = (SIZE - 1) / 2
    assert middle.mean(0).tolist() == pytest.approx([whole, whole], abs=0.5)
    assert (middle.amin(0) < whole - 3).all()
    assert (middle.amax(0) > whole + 3).all()
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.08)


def test_every_place_is_as_likely_as_another() -> None:
    """Crops of 39 rows of 40 have two places, and crops of 40 one between them."""
    _, _, middle, _ = crops(CropAndFlip(smallest=(SIZE - 1.5) ** 2 / SIZE**2, ratio=1, flip=0))
    places = middle[:, 0].unique(return_counts=True)
    assert sorted(places[0].tolist()) == [19, 19.5, 20]
    first, _, last = places[1].tolist()
    assert first == pytest.approx(last, rel=0.3)


@pytest.mark.parametrize(
    "wrong",
    [{"smallest": 0}, {"smallest": 1.4}, {"ratio": 0.5}, {"flip": -0.1}, {"flip": 2}, {"smallest": float("nan")}],
)
def test_numbers_out_of_their_range(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match=r"smallest in \(0, 1\], ratio of 1 or more and flip in \[0, 1\] are needed"):
        CropAndFlip(**wrong)


def test_noise_is_a_samples_own_whoever_reads_it_and_in_whatever_batch() -> None:
    x, noise = torch.randn(5, 2, 300), Noise(0, torch.tensor([0.5, 3]), seed=7)
    whole = noise(x, torch.arange(5))
    apart = torch.cat([noise(x[rows], torch.tensor(rows)) for rows in ([4, 2], [0], [3, 1])])
    assert torch.equal(apart, whole[[4, 2, 0, 3, 1]])
    added = whole - x
    assert added.std(dim=2).mean(0).tolist() == pytest.approx([0.5, 3], rel=0.1)
    assert abs(float(torch.corrcoef(added[:2, 0])[0, 1])) < 0.2
    assert not torch.equal(Noise(0, noise.scale, seed=8)(x, torch.arange(5)), whole)
    assert torch.equal(Noise(0, torch.zeros(2), seed=7)(x, torch.arange(5)), x)
