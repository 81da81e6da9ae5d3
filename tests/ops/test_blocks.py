"""Split and merge are inverses; attention over blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmsaf.ops.blocks import block_attention, block_counts, merge_blocks, relative_attention, split_blocks


@given(
    channels=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    block=st.integers(1, 14),
    before=st.lists(st.integers(0, 3), max_size=3),
)
@settings(max_examples=60)
def test_merge_is_the_inverse_of_split_and_the_padding_is_zeros(channels, block, before):
    vectors = [torch.rand(*before, c) + 1 for c in channels]
    blocks = split_blocks(vectors, block)
    counts = block_counts(channels, block)
    assert blocks.shape == (*before, sum(counts), block)
    assert (blocks == 0).sum() == blocks.numel() - sum(v.numel() for v in vectors)
    for v, w in zip(vectors, merge_blocks(blocks, channels), strict=True):
        assert torch.equal(v, w)
    again = split_blocks(merge_blocks(blocks, channels), block)
    assert torch.equal(again, blocks)


@given(n=st.integers(1, 400), channels=st.integers(1, 3), value=st.sampled_from([0.0, 1.0, -30.0, 3e4]))
@settings(max_examples=60)
def test_relative_attention_of_equal_logits_is_one_to_the_last_bit(n, channels, value):
    for dtype in (torch.float32, torch.float64):
        logits = torch.full((2, n, channels), value, dtype=dtype)
        assert (relative_attention(logits, None) == 1).all()
        alive = torch.rand(2, n, 1) < 0.6
        assert torch.equal(relative_attention(logits, alive), alive.to(dtype).expand(2, n, channels))


@pytest.mark.parametrize("alive", [None, torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()[..., None]])
def test_relative_attention_is_n_times_attention_with_its_gradient(alive):
    logits = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    number = 4 if alive is None else alive.sum(1, keepdim=True)
    a, b = relative_attention(logits, alive), number * block_attention(logits, alive)
    torch.testing.assert_close(a, b)
    weight = torch.randn_like(a)
    torch.testing.assert_close(*(torch.autograd.grad(y, logits, weight)[0] for y in (a, b)))


def test_attention_of_huge_logits_is_finite_with_finite_gradients():
    alive = torch.tensor([True, True, False])[:, None]
    for attention in (block_attention, relative_attention):
        logits = torch.tensor([[1e30], [-1e30], [1e30]], requires_grad=True)
        for mask in (None, alive):
            y = attention(logits, mask)
            assert torch.isfinite(y).all()
            assert torch.isfinite(torch.autograd.grad(y[0].sum(), logits)[0]).all()


def test_attention_sums_to_one_over_living_blocks_and_is_zero_without_any():
    alive = torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()[..., None]
    a = block_attention(torch.randn(2, 3, 5), alive)
    torch.testing.assert_close(a.sum(1), torch.stack([torch.ones(5), torch.zeros(5)]))
    assert (a.masked_select(~alive) == 0).all()
