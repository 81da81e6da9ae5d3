"""Protects the bottleneck transformer: its formula, the one way between modalities, masks, and both paths of PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.mbt import MBT

PRESENT = torch.tensor([[True, True], [True, False], [False, True]])


def maps(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(3, 8, 5, dtype=dtype), torch.randn(3, 12, 2, 2, dtype=dtype)]


def masks() -> list[Tensor | None]:
    return [torch.arange(5) < torch.tensor([5, 2, 3])[:, None], None]


def linear(layer: Any, x: Tensor) -> Tensor:
    return x if isinstance(layer, nn.Identity) else x @ layer.weight.T + layer.bias


def one_layer(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
    """A pre-norm layer on the tokens of one sample, ``(T, C)``, from its weights."""
    width, heads = x.shape[1], layer.self_attn.num_heads
    y = F.layer_norm(x, (width,), layer.norm1.weight, layer.norm1.bias)
    queries, keys, values = (y @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, dim=1)
    parts = []
    for h in range(heads):
        own = slice(h * width // heads, (h + 1) * width // heads)
        scores = queries[:, own] @ keys[:, own].T / math.sqrt(width // heads)
        parts.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ values[:, own])
    x = x + linear(layer.self_attn.out_proj, torch.cat(parts, dim=1))
    y = F.layer_norm(x, (width,), layer.norm2.weight, layer.norm2.bias)
    y = linear(layer.linear1, y)
    return x + linear(layer.linear2, y * (1 + torch.erf(y / math.sqrt(2))) / 2)


def by_loops(fusion: MBT, values: list[Tensor], real: list[Tensor | None], present: Tensor) -> list[Tensor]:
    """Sample by sample, on the tokens that are real alone."""
    out = [torch.zeros_like(x).flatten(2) for x in values]
    for b in range(3):
        here = [m for m in range(2) if present[b, m]]
        kept = {m: torch.ones(values[m][b, 0].numel()).bool() if real[m] is None else real[m][b] for m in here}
        tokens, z = {m: values[m][b].flatten(1).T[kept[m]] for m in here}, fusion.bottleneck
        for row in fusion.layers:
            results = []
            for m in here:
                both = one_layer(row[m].transformer, torch.cat([tokens[m], linear(row[m].inward, z)]))
                tokens[m] = both[: len(tokens[m])]
                results.append(linear(row[m].outward, both[len(tokens[m]) :]) if row is not fusion.layers[-1] else z)
            z = sum(results) / len(here)
        for m in here:
            out[m][b][:, kept[m]] = tokens[m].T
    return [y.view_as(x) for x, y in zip(values, out, strict=True)]


@pytest.mark.parametrize("options", [{"layers": 1}, {}, {"layers": 3, "width": 6, "tokens": 2, "heads": 2}])
@pytest.mark.parametrize("some", [False, True])
@torch.no_grad()
def test_it_is_its_formula_by_explicit_attention(options: dict[str, int], some: bool) -> None:
    fusion, values = MBT((8, 12), **options).double(), maps(torch.float64)
    real, present = (masks(), PRESENT) if some else ([None, None], torch.ones(3, 2).bool())
    found = fusion(values, masks=real, present=present) if some else fusion(values)
    for y, expected in zip(found, by_loops(fusion, values, real, present), strict=True):
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_one_modality_reaches_another_in_the_second_layer(layers: int) -> None:
    fusion, (a, b) = MBT((8, 12), layers=layers), maps()
    first, second = fusion([a, b])[0], fusion([a, torch.randn_like(b)])[0]
    assert torch.equal(first, second) is (layers == 1)


def test_all_that_is_exchanged_is_in_the_bottlenecks() -> None:
    """With the second layer blind to them, nothing comes over."""
    fusion, (a, b) = MBT((8, 12)), maps()
    for layer in fusion.layers[1]:
        layer.inward = nn.Linear(12, layer.transformer.linear1.in_features)
        nn.init.zeros_(layer.inward.weight)
    assert torch.equal(fusion([a, b])[0], fusion([a, torch.randn_like(b)])[0])


def test_absent_modalities_are_left_out_of_the_mean() -> None:
    """A sample with one modality is as that modality met nobody."""
    fusion, values = MBT((8, 12)).eval(), maps()
    alone = MBT((8,), width=12).eval()
    alone.bottleneck = fusion.bottleneck
    for own, row in zip(alone.layers, fusion.layers, strict=True):
        own[0] = row[0]
    torch.testing.assert_close(fusion(values, present=PRESENT)[0][1:2], alone([values[0][1:2]])[0])


def transformer_size(width: int) -> int:
    return (3 * width + 3) * width + (width + 1) * width + (4 * width + 4 * width) * width + 5 * width + 4 * width


@pytest.mark.parametrize(
    ("channels", "options", "count"),
    [
        ((8, 8), {}, 4 * 8 + 4 * transformer_size(8)),
        # inward twice and outward once, for the narrower one
        ((8, 12), {}, 4 * 12 + 2 * (transformer_size(8) + transformer_size(12)) + 2 * (12 + 1) * 8 + (8 + 1) * 12),
        ((8,), {"layers": 1, "tokens": 2, "width": 6}, 2 * 6 + transformer_size(8) + (6 + 1) * 8),
        ((768, 768), {"layers": 4}, 4 * 768 + 8 * 7_087_872),  # a layer of ViT-B
    ],
)
def test_number_of_parameters(channels: tuple[int, ...], options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        fusion = MBT(channels, **options)
    assert sum(p.numel() for p in fusion.parameters()) == count


def test_tokens_start_as_in_the_article_and_heads_divide() -> None:
    fusion = MBT((64, 12, 9), tokens=200)
    assert float(fusion.bottleneck.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert [layer.transformer.self_attn.num_heads for layer in fusion.layers[0]] == [8, 4, 1]


@pytest.mark.parametrize("grad", [True, False])
def test_identity_start_gives_the_bits_of_the_input(grad: bool) -> None:
    values = [torch.randn(2, 8, 5), torch.randn(2, 12, 2, 2), torch.randn(2, 9)]
    fusion = MBT((8, 12, 9), identity_start=True).eval()
    with torch.set_grad_enabled(grad):
        assert all(torch.equal(x, y) for x, y in zip(values, fusion(values), strict=True))
        half = [x.bfloat16() for x in values]
        assert all(torch.equal(x, y) for x, y in zip(half, fusion(half), strict=True))


@pytest.mark.parametrize("present", [None, PRESENT])
@pytest.mark.parametrize("masked", [False, True])
def test_without_gradients_it_is_the_same(masked: bool, present: Tensor | None) -> None:
    """PyTorch has another path for that, which even numbers of heads take."""
    fusion, values = MBT((8, 12)).eval(), maps()
    arguments: dict[str, Any] = {"masks": masks() if masked else None, "present": present}
    expected = fusion(values, **arguments)
    with torch.no_grad():
        found = fusion(values, **arguments)
    for y, z in zip(found, expected, strict=True):
        torch.testing.assert_close(y, z.detach())


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
def test_what_is_not_real_changes_no_bit(junk: float, grad: bool) -> None:
    clean = maps()
    real = masks()[0]
    dirty = [torch.where(real[:, None] & PRESENT[:, 0, None, None], clean[0], junk), clean[1].clone()]
    dirty[1][1] = junk
    results = []
    fusion = MBT((8, 12)).eval()
    for values in (clean, dirty):
        fusion.zero_grad()
        with torch.set_grad_enabled(grad):
            found = fusion(values, masks=masks(), present=PRESENT)
        if grad:
            sum((y * y.detach().cos()).sum() for y in found).backward()
        results.append([*found, *(p.grad for p in fusion.parameters() if grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(x.isfinite().all() for x in results[0])
    assert not results[0][0][2].any()
    assert not results[0][1][1].any()


@pytest.mark.parametrize("grad", [True, False])
def test_a_mask_is_as_the_cut_off_sequence(grad: bool) -> None:
    fusion, (x, y) = MBT((8, 12)).eval(), maps()
    mask = (torch.arange(5) < 3).expand(3, 5)
    with torch.set_grad_enabled(grad):
        found, short = fusion([x, y], masks=[mask, None]), fusion([x[:, :, :3], y])
    torch.testing.assert_close(found[0][:, :, :3], short[0])
    torch.testing.assert_close(found[1], short[1])
    assert not found[0][:, :, 3:].any()


def test_half_precision_maps_with_parameters_in_full() -> None:
    fusion, values = MBT((8, 12)).eval(), maps()
    found = fusion([x.bfloat16() for x in values])
    assert all(y.dtype == torch.bfloat16 for y in found)
    for y, z in zip(found, fusion(values), strict=True):
        torch.testing.assert_close(y.float(), z, atol=0.05, rtol=0.05)


def test_dropout_is_of_training_alone() -> None:
    fusion, values = MBT((8, 12), dropout=0.5), maps()
    assert not torch.equal(fusion(values)[0], fusion(values)[0])
    fusion.eval()
    assert torch.equal(fusion(values)[0], fusion(values)[0])


def test_it_can_be_exported_with_masks() -> None:
    fusion, values = MBT((8, 12)).eval(), maps()
    arguments = {"masks": masks(), "present": PRESENT}
    exported = torch.export.export(fusion, (values,), arguments).module()
    for y, z in zip(exported(values, **arguments), fusion(values, **arguments), strict=True):
        torch.testing.assert_close(y, z)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": 0}, "tokens: expected an integer of at least 1, got 0"),
        ({"layers": 0}, "layers: expected an integer of at least 1, got 0"),
        ({"heads": 1.5}, "heads: expected an integer of at least 1, got 1.5"),
        ({"width": 0}, "width: expected an integer of at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0; use 0 for no dropout"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(FusionInputError, match=words):
        MBT((8, 12), **options)
