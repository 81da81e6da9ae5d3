"""Protects the registry of data sets: found by name, each with what a preparation needs."""

from __future__ import annotations

import pytest

from torchmsaf.data.sets import SETS, find_set
from torchmsaf.data.standard_folds import PARTS, STANDARD_VIDEOS
from torchmsaf.errors import DataError


def test_sets_are_found_by_name() -> None:
    assert list(SETS) == ["mosei", "mosi", "ur_funny"]
    assert all(find_set(name).name == name for name in SETS)
    with pytest.raises(DataError, match="there is no data set 'mosie'; there are mosei, mosi, ur_funny"):
        find_set("mosie")


@pytest.mark.parametrize("name", SETS)
def test_a_set_says_where_it_is_from_and_how_its_files_are_known(name: str) -> None:
    one = SETS[name]
    assert one.url.startswith("http")
    assert one.citation
    if one.reader is None:
        assert set(one.sequences) == {"words", "labels", "video", "audio", "text"}
        assert all(wanted.isalnum() and wanted.islower() for some in one.sequences.values() for wanted in some)
        assert set(one.utterances) == set(PARTS)
        assert name in STANDARD_VIDEOS


def test_the_counts_are_those_of_the_papers() -> None:
    assert SETS["mosei"].utterances == {"train": 16322, "validation": 1871, "test": 4659}
    assert sum(SETS["mosi"].utterances.values()) == 2199
