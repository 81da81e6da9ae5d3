"""Protects the skeleton-guided fusion: its formula, who guides whom, and that an absent guide changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.sgm import SGM

CHANNELS = (3, 4, 2)
KINDS: list[dict[str, Any]] = [{}, {"normalize": "softmax"}, {"scheme": "concat"}]


def maps(batch: int = 2) -> list[Tensor]:
    shapes = ((2, 3), (), (5,))
    return [torch.randn(batch, c, *s, dtype=torch.float64) for c, s in zip(CHANNELS, shapes, strict=True)]


def linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach(), layer.bias.detach()


def by_loops(fusion: SGM, values: list[Tensor], present: Tensor | None = None) -> list[Tensor]:
    """The formula, position by position; the e of several guides are averaged."""
    out = [x.clone() for x in values]
    for b in range(len(values[0])):
        here = [m for m in range(3) if present is None or present[b, m]]
        for m in range(3):
            if m not in here:
                out[m][b] = 0
        guides = [m for m in fusion.guides if m in here]
        for n, m in enumerate(fusion.guided):
            if m not in here or not guides:
                continue
            rows = values[m][b].reshape(CHANNELS[m], -1)
            e = torch.zeros(rows.shape[1], dtype=torch.float64)
            for x in range(rows.shape[1]):
                p, q0 = linear(fusion.positions[n])
                own = p @ rows[:, x] + q0
                for j in guides:
                    w, bias = linear(fusion.means[fusion.guides.index(j)])
                    of = w @ values[j][b].reshape(CHANNELS[j], -1).mean(1) + bias
                    if fusion.scheme == "dot":
                        score = own @ of / math.sqrt(fusion.width)
                    else:
                        score = fusion.weights[n].detach().flatten() @ torch.cat([own, of])
                    e[x] += score / len(guides)
            a = torch.sigmoid(e) if fusion.normalize == "sigmoid" else torch.softmax(e, 0)
            out[m][b] = (rows + a * rows).view_as(out[m][b])
    return out


@pytest.mark.parametrize("guided", [(0,), (2, 0), [1]])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_formula_by_loops(kind: dict[str, Any], some: bool, guided: Any) -> None:
    fusion, values = SGM(CHANNELS, guided=guided, width=5, **kind).double(), maps(4)
    present = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1]]).bool() if some else None
    for found, expected in zip(fusion(values, present=present), by_loops(fusion, values, present), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_guides_and_what_has_no_guide_keep_all_their_bits(kind: dict[str, Any]) -> None:
    fusion, values = SGM(CHANNELS, **kind), [x.float() for x in maps()]
    alone = torch.tensor([[True, False, False], [True, True, True]])
    first, guides = fusion(values, present=alone)[0], fusion(values)[1:]
    assert torch.equal(first[0], values[0][0])
    assert not torch.equal(first[1], values[0][1])
    assert all(map(torch.equal, guides, values[1:]))


def test_a_second_person_that_is_absent_is_as_if_it_were_not_asked() -> None:
    fusion = SGM((3, 4, 4), width=5)
    x, one, other = torch.randn(2, 3, 2, 2), torch.randn(2, 4, 3), torch.full((2, 4, 3), math.nan)
    pair = SGM((3, 4), width=5)
    pair.load_state_dict({name: value for name, value in fusion.state_dict().items() if not name.startswith("means.1")})
    found = fusion([x, one, other], present=torch.tensor([[True, True, False]] * 2))
    torch.testing.assert_close(found[0], pair([x, one])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_masked_positions_are_in_no_softmax_and_no_mean(kind: dict[str, Any]) -> None:
    fusion, x, y = SGM((3, 4), **kind), torch.randn(2, 3, 7), torch.randn(2, 4, 5)
    masks = [(torch.arange(7) < 4).expand(2, 7), (torch.arange(5) < 2).expand(2, 5)]
    junk = [torch.where(mask[:, None], value, math.nan) for mask, value in zip(masks, (x, y), strict=True)]
    found, short = fusion(junk, masks=masks), fusion([x[:, :, :4], y[:, :, :2]])
    for long, cut, n in zip(found, short, (4, 2), strict=True):
        torch.testing.assert_close(long[:, :, :n], cut)
        assert not long[:, :, n:].any()


def test_number_of_parameters() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in SGM((832, 128, 128), **kind).parameters()) for kind in KINDS]
    assert counts == [833 * 64 + 2 * 129 * 64] * 2 + [833 * 64 + 2 * 129 * 64 + 2 * 64]


@pytest.mark.parametrize("guided", [(), (3,), (-1,), (True,), (0, 0), 1, "0", (0.5,), (0, 1, 2)])
def test_wrong_guided(guided: Any) -> None:
    with pytest.raises(FusionInputError, match="guided"):
        SGM(CHANNELS, guided=guided)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheme": "outer"}, "scheme is 'dot' or 'concat', got 'outer'"),
        ({"normalize": "relu"}, "normalize is 'sigmoid' or 'softmax', got 'relu'"),
        ({"scheme": "concat", "normalize": "softmax"}, "takes out what a guide adds"),
        ({"width": 0}, "width: expected an integer of at least 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        SGM(CHANNELS, **options)


def test_one_modality_has_nothing_that_guides_it() -> None:
    with pytest.raises(FusionInputError, match="give 2 or more modalities"):
        SGM((3,))
