"""Protects the sketch module: hashes that are drawn once and saved, its precision, and what is absent."""

from __future__ import annotations

import pytest
import torch

from torchmsaf.fusion.outer_sketch import OuterSketch


def test_hashes_are_buffers_and_differ_from_modality_to_modality() -> None:
    sketch = OuterSketch((50, 50), 64)
    assert set(sketch.state_dict()) == {"bins", "signs"}
    assert not list(sketch.parameters())
    assert sketch.signs.unique().tolist() == [-1, 1]
    assert sketch.bins.min() >= 0
    assert sketch.bins.max() < 64
    assert not sketch.bins[:50].equal(sketch.bins[50:])
    assert not sketch.signs[:50].equal(sketch.signs[50:])


def test_hashes_are_drawn_from_the_global_generator() -> None:
    torch.manual_seed(5)
    first, second = OuterSketch((9, 4), 16), OuterSketch((9, 4), 16)
    torch.manual_seed(5)
    again = OuterSketch((9, 4), 16)
    assert first.bins.equal(again.bins)
    assert first.signs.equal(again.signs)
    assert not first.bins.equal(second.bins)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_type_of_the_vectors_and_the_precision_of_float32(dtype: torch.dtype) -> None:
    sketch = OuterSketch((30, 20), 32)
    vectors = [torch.randn(4, n).to(dtype) for n in (30, 20)]
    found, exact = sketch(vectors, None), sketch([x.double() for x in vectors], None)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_autocast_leaves_it_in_full_precision() -> None:
    sketch, vectors = OuterSketch((30, 20), 32), [torch.randn(4, 30), torch.randn(4, 20)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sketch(vectors, None)
    assert torch.equal(found, sketch(vectors, None))


def test_it_can_be_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        sketch = OuterSketch((30, 20), 32)
    assert sketch.bins.is_meta
    assert sketch.bins.shape == sketch.signs.shape == (50,)
