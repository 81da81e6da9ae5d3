"""The protocols of NTU RGB+D: who, or which camera or setup, trains, validates and tests.

Training and test parts are those of the data sets' articles (:mod:`torchmsaf.data.ntu`). Subjects of the training part
validate, in every protocol: 2, 5, 9 and 14, as in the code of MFAS (github.com/juanmanpr/mfas), and in NTU RGB+D 120 four
more, which are a choice of ours. The code published with MSAF trains on all twenty subjects of the training part, and
chooses its epoch on four of the test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from torchmsaf.data.counted import counted
from torchmsaf.data.folds import Fold, Protocol, check_fold
from torchmsaf.data.ntu import (
    FIRST_ACTIONS,
    MFAS_DEV,
    PUBLISHED_DEV,
    TRAIN_CAMERAS,
    TRAIN_SUBJECTS_60,
    TRAIN_SUBJECTS_120,
    NtuName,
)
from torchmsaf.data.samples import Samples
from torchmsaf.errors import ProtocolError

NtuProtocol = Literal["cross-subject", "cross-view", "cross-setup", "published"]
PROTOCOLS: tuple[str, ...] = get_args(NtuProtocol)

# that validate, beside those of MFAS, where the second data set is used; a choice of ours
_MORE_DEV = (45, 46, 47, 49)
# where a corpus has not all four that validate by the published code
_FEWER = {1: ", of whom one is here", 2: ", of whom two are here", 3: ", of whom three are here"}
_FIRST = "split: Shahroudy et al., CVPR 2016"
_SECOND = "split: Liu et al., TPAMI 2020"


def ntu_groups(ids: Sequence[str], protocol: str) -> tuple[str, ...]:
    """What must not be in two parts of a fold: the subject; across views or setups, the subject as seen there.

    Args:
        ids: names such as ``S001C002P003R002A013``.
        protocol: one of ``PROTOCOLS``.
    """
    names = [NtuName.parse(one) for one in ids]
    if protocol == "cross-view":
        return tuple(f"C{name.camera:03}P{name.person:03}" for name in names)
    if protocol == "cross-setup":
        return tuple(f"S{name.setup:03}P{name.person:03}" for name in names)
    return tuple(f"P{name.person:03}" for name in names)


def ntu_protocol(samples: Samples, name: str = "cross-subject") -> Protocol:
    """One fold, checked by :func:`check_fold`.

    ``cross-subject``: 20 subjects test, of 40 (53 of 106 in NTU RGB+D 120). ``cross-view``: camera 1 tests. ``cross-setup``,
    of NTU RGB+D 120: odd setups test. In each, the samples of a few training subjects validate in place of training.

    ``published``: cross-subject, and subjects 3, 6, 7 and 10, who test, validate too, as in the code published with MSAF.
    The epoch is chosen on them by their loss, and ``chosen_on_test`` of the protocol is True.

    Args:
        samples: their ids are NTU's, their groups those of :func:`ntu_groups`.
        name: one of ``PROTOCOLS``.

    Raises:
        ProtocolError: there is no such protocol, or one for the other data set; a part of the fold has no samples; a fold
            that :func:`check_fold` refuses.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"there is no protocol {name!r} of NTU RGB+D: choose {', '.join(PROTOCOLS)}")
    names = [NtuName.parse(one) for one in samples.ids]
    subjects = np.array([one.person for one in names])
    second = any(one.action > FIRST_ACTIONS for one in names)
    if name == "cross-setup" and not second:
        raise ProtocolError("cross-setup is for NTU RGB+D 120, and there are actions 1 to 60 alone: use cross-subject")
    if name in ("cross-view", "published") and second:
        raise ProtocolError(f"{name} is for the 60 actions of NTU RGB+D, and there are others: use cross-subject")
    trained = TRAIN_SUBJECTS_120 if second else TRAIN_SUBJECTS_60
    dev = (*MFAS_DEV, *_MORE_DEV) if second else MFAS_DEV
    if name == "cross-view":
        inside = np.isin([one.camera for one in names], TRAIN_CAMERAS)
        what = "Camera 1 tests, 2 and 3 train"
    elif name == "cross-setup":
        inside = np.array([one.setup % 2 == 0 for one in names])
        what = "Odd setups test, even ones train"
    else:
        inside = np.isin(subjects, trained)
        what = f"{counted(len(set(subjects[~inside].tolist())), 'subject')} of the test list"
    if name == "published":
        held = np.isin(subjects, PUBLISHED_DEV)
        here = len(set(subjects[held].tolist()))
        what = (
            f"PUBLISHED PROTOCOL: the best epoch is chosen on four of the test subjects{_FEWER.get(here, '')}, so scores "
            f"are optimistic; {what}, {_list(subjects[held])} of them validate{'s' * (here == 1)}"
        )
        fold = Fold(0, *(np.flatnonzero(rows) for rows in (inside, held & ~inside, ~inside)))
    else:
        held = inside & np.isin(subjects, dev)
        what = f"{what}; validation: {_list(subjects[held])} of the training part"
        fold = Fold(0, *(np.flatnonzero(rows) for rows in (inside & ~held, held, ~inside)))
    held_out = PUBLISHED_DEV if name == "published" else dev
    needed = {
        "training": f"subjects {_numbers(sorted(set(trained) - set(held_out)))}",
        "validation": f"subjects {_numbers(held_out)}",
        "test": "all other subjects",
    }
    if name == "cross-view":
        needed |= {"test": "camera 1", "training": f"{needed['training']}, or others, seen by cameras 2 and 3"}
    elif name == "cross-setup":
        needed |= {"test": "odd setups", "training": "even setups"}
    for part, rows in (("training", fold.train), ("validation", fold.validation), ("test", fold.test)):
        if not len(rows):
            raise ProtocolError(
                f"{samples.name}, {name}: the {part} part is empty; it is of {needed[part]}, and these clips are of "
                f"{_list(subjects)}: prepare others too"
            )
    published = name == "published"
    check_fold(fold, samples, chosen_on_test=published)
    about = f"ntu-{'120-' if second else ''}{name}"
    return Protocol(about, what, _SECOND if second else _FIRST, (fold,), chosen_on_test=published, chosen_by="loss")


def _list(subjects: np.ndarray) -> str:
    numbers = sorted(set(subjects.tolist()))
    return f"subject{'s' * (len(numbers) != 1)} {_numbers(numbers) or 'none'}"


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
