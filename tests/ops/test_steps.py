"""Protects masks, means and last steps of padded sequences: what is behind an end reaches nothing."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.ops.steps import last_step, masked_mean, step_mask


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), width=st.integers(1, 3), seed=st.integers(0, 99))
def test_each_sequence_by_itself(lengths: list[int], width: int, seed: int) -> None:
    """Beside a loop over sequences without padding."""
    x = torch.randn(len(lengths), 6, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ends = torch.tensor(lengths)
    mask = step_mask(ends, 6)
    dirty = torch.where(mask.unsqueeze(2), x, torch.nan)
    means, lasts = masked_mean(dirty, mask), last_step(dirty, ends)
    assert mask.sum(1).tolist() == lengths
    for row, length in enumerate(lengths):
        real = x[row, :length]
        assert mask[row].tolist() == [t < length for t in range(6)]
        torch.testing.assert_close(means[row], real.mean(0) if length else torch.zeros(width, dtype=torch.float64))
        torch.testing.assert_close(lasts[row], real[-1] if length else torch.zeros(width, dtype=torch.float64))


def test_gradients_of_padding_are_zero() -> None:
    x = torch.randn(2, 4, 3)
    x[0, 2:] = torch.inf
    x.requires_grad_()
    lengths = torch.tensor([2, 4])
    (masked_mean(x, step_mask(lengths, 4)).sum() + last_step(x, lengths).sum()).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not x.grad[0, 2:].any()
    torch.testing.assert_close(x.grad[0, 1], torch.full((3,), 1.5))
