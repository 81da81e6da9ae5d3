"""The equations checked against numbers worked out by hand, and their own pieces."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from torchmsaf.ops.reference import Parameters, merge, msaf_reference, segment_bounds, split


@given(channels=st.integers(1, 12), block=st.integers(1, 14), positions=st.lists(st.integers(1, 3), max_size=2))
def test_merge_is_the_inverse_of_split(channels, block, positions):
    x = torch.randn(2, channels, *positions)
    blocks = split(x, block)
    assert len(blocks) == -(-channels // block)
    assert all(b.shape == (2, block, *positions) for b in blocks)
    assert torch.equal(merge(blocks, channels), x)


@given(length=st.integers(1, 60), data=st.data())
def test_segments_have_equal_steps_and_the_last_takes_the_remainder(length, data):
    segments = data.draw(st.integers(1, length))
    bounds = segment_bounds(length, segments)
    assert [a for a, _ in bounds] == [s * (length // segments) for s in range(segments)]
    assert bounds[-1][1] == length
    assert all(z - a == length // segments for a, z in bounds[:-1])


def test_two_blocks_of_one_channel_by_hand():
    """C = C' = 1: G = 2 + 6 = 8, Z = ReLU(0.5 * 8 - 1) = 3, U = (0.1 Z, 0.3 Z), A = softmax."""
    features = [torch.tensor([[[1.0, 3.0]]]), torch.tensor([[6.0]])]
    parameters = Parameters(
        torch.tensor([[[0.5]]]), torch.tensor([[-1.0]]), torch.tensor([[[[0.1]], [[0.3]]]]), torch.zeros(1, 2, 1)
    )
    maps, attention = msaf_reference(
        features, parameters, lambda z, rows, segment: z, block_channels=1, min_attention=0.5
    )
    a = torch.softmax(torch.tensor([0.3, 0.9]), 0)
    torch.testing.assert_close(torch.cat([x.flatten() for x in attention]), a)
    torch.testing.assert_close(maps[0].flatten(), (0.5 + 0.5 * a[0]) * torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(maps[1].flatten(), (0.5 + 0.5 * a[1]) * torch.tensor([6.0]))


def test_a_negative_segment_axis_counts_from_the_end():
    x = torch.randn(2, 2, 3, 4)
    q = Parameters(torch.randn(2, 1, 2), torch.randn(2, 1), torch.randn(2, 1, 2, 1), torch.randn(2, 1, 2))
    options = {"normalize": lambda z, rows, segment: z, "block_channels": 2}
    got = msaf_reference([x], q, segment_dim=-1, **options)
    expected = msaf_reference([x], q, segment_dim=3, **options)
    torch.testing.assert_close(got, expected)
