"""Protects concatenation: its formula, and the candidates for Table 1."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion.concat import ConcatFC


@pytest.mark.parametrize(
    ("options", "classifiers", "total"),
    [
        ({"hidden": (256,)}, True, 26_868_664),
        ({"hidden": (256, 128)}, False, 26_870_824),
        ({"project": 256, "hidden": ()}, True, 26_870_968),
        ({"project": 256, "hidden": (64,)}, False, 26_870_504),
    ],
    ids=["A", "B", "C", "D"],
)
def test_concat_builds_every_candidate_for_table_1(options: dict[str, int], classifiers: bool, total: int) -> None:
    networks = 25_882_056 + 34_024  # 3D ResNeXt-50 and the 1D CNN, with their classifiers
    heads = (2048 + 1) * 8 + (1664 + 1) * 8
    with torch.device("meta"):
        fusion = ConcatFC((2048, 1664), 8, **options)
    own = sum(p.numel() for p in fusion.parameters())
    assert networks - (0 if classifiers else heads) + own == total


def test_concat_is_its_formula() -> None:
    fusion = ConcatFC((3, 2), 4, hidden=(5,))
    a, b = torch.randn(6, 3), torch.randn(6, 2)
    first, last = fusion.layers[0], fusion.layers[-1]
    torch.testing.assert_close(fusion([a, b]), last(F.relu(first(torch.cat([a, b], 1)))))


def test_concat_with_dropout_of_one_is_refused() -> None:
    with pytest.raises(FusionInputError, match="dropout"):
        ConcatFC((3, 2), 4, dropout=1.0)
