"""Segments: views and their inverse, sums, and what is real in each."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmsaf.ops.reference import segment_bounds
from torchmsaf.ops.support import (
    Support,
    blank,
    blank_,
    blank_fast,
    make_supports,
    segment_of_steps,
    segment_runs,
    segment_views,
    sum_segments,
)


@st.composite
def cuts(draw):
    segments = draw(st.integers(1, 5))
    positions = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    axis = draw(st.integers(0, len(positions) - 1))
    positions[axis] = draw(st.integers(segments, 3 * segments + 2))
    return (draw(st.integers(0, 3)), draw(st.integers(1, 4)), *positions), segments, axis + 2


@given(cuts())
@settings(max_examples=80)
def test_segment_views_put_together_are_the_map_and_copy_nothing(cut):
    shape, segments, dim = cut
    x = torch.randn(shape)
    views = segment_views(x, segments, dim)
    assert torch.equal(torch.cat([view.flatten(0, 1) for view in views]).movedim(0, dim), x)
    assert sum(view.shape[0] for view in views) == segments
    for view in views:
        view.zero_()
    assert (x == 0).all()


@given(cuts())
@settings(max_examples=80)
def test_runs_steps_and_sums_follow_the_bounds_of_the_paper(cut):
    shape, segments, dim = cut
    length = shape[dim]
    bounds = segment_bounds(length, segments)
    runs = [
        (first + i * (steps // k), first + (i + 1) * (steps // k))
        for k, first, steps in segment_runs(length, segments)
        for i in range(k)
    ]
    assert runs == bounds
    index = segment_of_steps(length, segments, torch.device("cpu"))
    assert index.tolist() == [s for s, (a, z) in enumerate(bounds) for _ in range(a, z)]
    x = torch.randn(shape).double()
    expected = torch.stack([x.narrow(dim, a, z - a).flatten(2).sum(2) for a, z in bounds])
    torch.testing.assert_close(sum_segments(x, segments, dim), expected[0] if segments == 1 else expected)


@given(cuts(), st.booleans())
@settings(max_examples=50)
def test_support_counts_real_positions_of_each_segment(cut, with_presence):
    shape, segments, dim = cut
    mask = torch.rand(shape[0], *shape[2:]) < 0.4
    present = torch.rand(shape[0]) < 0.6 if with_presence else None
    (support,), alive = make_supports(
        [torch.empty(shape)],
        [mask],
        None if present is None else present[:, None],
        segments=segments,
        segment_dims=[dim],
        dtype=torch.float32,
    )
    real = mask if present is None else mask & present.reshape(-1, *[1] * (mask.dim() - 1))
    bounds = segment_bounds(shape[dim], segments)
    count = torch.stack([real.narrow(dim - 1, a, z - a).flatten(1).sum(1) for a, z in bounds])[..., None]
    count = count[0] if segments == 1 else count
    assert torch.equal(support.count, count.clamp(min=1).float())
    assert torch.equal(alive, count > 0)
    assert torch.equal(support.keep[:, 0], real)


def test_blank_and_blank_in_place_write_zeros_over_everything():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.tensor([float("nan"), float("inf"), -0.0, 1.5, -2.0], dtype=dtype)
        keep = torch.tensor([False, False, False, True, True])
        expected = torch.tensor([0, 0, 0, 1.5, -2], dtype=dtype)
        assert torch.equal(blank(x, keep), expected)
        support = Support(keep)
        assert torch.equal(blank_fast(x, support), expected)
        assert torch.equal(blank_(x.clone(), support), expected)
