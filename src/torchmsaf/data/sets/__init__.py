"""Data sets of utterances with words, sound and pictures: one file a set, and all of them by name."""

from torchmsaf.data.sets.base import DataSet as DataSet
from torchmsaf.data.sets.mosei import MOSEI as MOSEI
from torchmsaf.data.sets.mosi import MOSI as MOSI
from torchmsaf.data.sets.ur_funny import UR_FUNNY as UR_FUNNY
from torchmsaf.errors import DataError

SETS: dict[str, DataSet] = {one.name: one for one in (MOSEI, MOSI, UR_FUNNY)}


def find_set(name: str) -> DataSet:
    """The data set of a name.

    Raises:
        DataError: there is none.
    """
    if name not in SETS:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(SETS)}")
    return SETS[name]


__all__ = ["MOSEI", "MOSI", "SETS", "UR_FUNNY", "DataSet", "find_set"]
