"""The numbers that the MSAF paper prints for NTU RGB+D, beside those of a comparison.

Su et al., arXiv 2012.07175, Table 3: accuracy of 60 actions, cross-subject. The paper was not at hand: every row says how
its number came here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torchmsaf.analysis.published_tables import Published, PublishedSystem, notes_on_places, put_beside
from torchmsaf.analysis.table import Metric, Table
from torchmsaf.errors import ResultError

VideoNetwork = Literal["i3d", "resnet50"]

_METRICS = (Metric("accuracy", True, True),)
_FILE = "the name of a file of weights that the MSAF authors released"


@dataclass(frozen=True, kw_only=True)
class ActionRow(PublishedSystem):
    """One row of Table 3.

    Args:
        accuracy: in percent.
        video: the network of the RGB frames; None = another, or none.
    """

    accuracy: str
    video: VideoNetwork | None = None

    @property
    def numbers(self) -> dict[str, str]:
        """The number by the name that our metric has."""
        return {"accuracy": self.accuracy}


_OWN = "from its own authors"
_RUN = "the MSAF authors' run"

TABLE_3 = (
    ActionRow(
        system="Inflated ResNet50",
        methods=("rgb",),
        accuracy="83.91",
        video="resnet50",
        provenance="weights of the MFAS authors",
        status="released",
        seen="the name of a file of weights that the MFAS authors released, rgb_8frames_83.91",
    ),
    ActionRow(
        system="I3D",
        methods=("rgb",),
        accuracy="85.63",
        video="i3d",
        provenance=_RUN,
        status="released",
        seen=f"{_FILE}, i3d_32frames_85.63",
    ),
    ActionRow(
        system="HCN",
        methods=("skeleton",),
        accuracy="85.24",
        provenance="weights of the MFAS authors",
        status="released",
        seen="the name of a file of weights that the MFAS authors released, skeleton_32frames_85.24",
    ),
    ActionRow(
        system="SGM-Net",
        methods=("sgm",),
        accuracy="89.10",
        provenance=_OWN,
        status="recalled",
    ),
    ActionRow(
        system="CentralNet",
        methods=("centralnet",),
        accuracy="89.36",
        provenance="quoted from MMTM",
        status="recalled",
    ),
    ActionRow(
        system="MFAS",
        methods=("mfas",),
        accuracy="90.04",
        provenance=_OWN,
        status="recalled",
    ),
    ActionRow(
        system="MMTM, ResNet50 and HCN",
        methods=("mmtm",),
        accuracy="90.11",
        video="resnet50",
        provenance=_OWN,
        status="recalled",
    ),
    ActionRow(
        system="PoseMap",
        methods=("pose_image",),
        accuracy="91.71",
        provenance=_OWN,
        status="recalled",
    ),
    ActionRow(
        system="MMTM, I3D and HCN",
        methods=("mmtm",),
        accuracy="91.99",
        video="i3d",
        provenance=_OWN,
        status="recalled",
    ),
    ActionRow(
        system="MSAF, ResNet50 and HCN",
        methods=("msaf",),
        accuracy="90.63",
        video="resnet50",
        provenance=_RUN,
        status="released",
        seen=f"{_FILE}, msaf_ntu_resnet_hcn_epoch10_90.63",
    ),
    ActionRow(
        system="MSAF, I3D and HCN",
        methods=("msaf",),
        accuracy="92.24",
        video="i3d",
        provenance=_RUN,
        status="released",
        seen=f"{_FILE}, msaf_ntu_epoch12_92.24",
    ),
)


def build_published_actions(table: Table, *, video: VideoNetwork = "i3d") -> Published | None:
    """Put the rows of Table 3 beside those of a comparison on NTU RGB+D. That it is one, the caller knows.

    A row of ours is found by its name without options, as in :func:`~torchmsaf.analysis.published_tables.build_published`;
    the networks alone are called by their modalities, ``rgb`` and ``skeleton``.

    Args:
        table: from ``build_table``, of test scores.
        video: our network of the RGB frames. Rows of the paper with the other one are listed as not in the comparison.

    Returns:
        The table; None when none of its rows is in the paper, or it has no accuracy.

    Raises:
        ResultError: the table is of validation scores; another network than the two.
    """
    if video not in ("i3d", "resnet50"):
        raise ResultError(f"video is 'i3d' or 'resnet50', the networks of the paper, got {video!r}")
    # a row with the other network stands beside none of ours
    rows = [row if row.video in (None, video) else replace(row, methods=()) for row in TABLE_3]
    place = "Table 3 of the MSAF paper (Su et al., arXiv 2012.07175), NTU RGB+D, 60 actions, cross-subject"
    published = put_beside(table, rows, _METRICS, place)
    return None if published is None else replace(published, notes=tuple(_notes(published)))


def _notes(published: Published) -> list[str]:
    rows = [line.published for line in published.rows]
    compared = {line.published.system for line in published.rows if line.ours["accuracy"] is not None}
    notes = [
        "status: no number was read in the paper itself. released: read in the name of a released file of weights; that the "
        "paper prints the same is a guess for those that are not of MSAF. recalled, and ? after a number: from memory, not "
        "looked up; it may be wrong.",
        "The MSAF numbers are of an epoch that was chosen on four of the twenty test subjects (3, 6, 7 and 10), as the "
        "released code does it. So they are optimistic.",
        "CentralNet's number is of the MMTM authors' run. The others but MSAF's and the networks' are of their own authors.",
        *notes_on_places(rows),
    ]
    if "SGM-Net" in compared:
        notes.append("SGM-Net: ours is a stand-in, as the article's equations are not known here.")
    if "PoseMap" in compared:
        notes.append(
            "PoseMap: ours is its pose image alone, from skeletons. The number is of both its images, from poses that were "
            "estimated in the frames, and a network of skeletons; that it is so is recalled."
        )
    notes.append("Accuracies are in percent.")
    return notes
