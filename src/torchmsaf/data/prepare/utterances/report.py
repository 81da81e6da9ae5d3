"""What a preparation of sentiment did, and why there are fewer utterances than the paper has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchmsaf.data.counted import counted
from torchmsaf.data.prepare.utterances.utterance import Lost
from torchmsaf.data.prepared import Entry
from torchmsaf.data.standard_folds import PARTS

MOST_REASONS = 12
MOST_LINES = 20  # of refusals


@dataclass(frozen=True)
class Values:
    """Values that were no finite numbers, and are 0 now.

    Attributes:
        infinite: how many were infinite.
        nan: how many were no number.
        utterances: that have such.
    """

    infinite: int
    nan: int
    utterances: int


@dataclass(frozen=True, eq=False)
class Report:
    """What a preparation did.

    Attributes:
        path: the version's folder.
        prepared: utterances that were prepared now.
        already: utterances that an earlier run had prepared from the same files.
        utterances: part -> how many are there.
        videos: part -> how many videos they are of.
        expected: part -> utterances by the paper; empty where that is not known, or the folds are others.
        expected_videos: part -> videos of the folds; likewise.
        refused: what cannot be used; it is in the index, too.
        set_aside: kind of file -> how many are left alone.
        notes: how the files were understood.
        cut: utterances whose end was cut off.
        values: modality -> what was no finite number.
        empty: modality -> steps that nothing overlaps.
    """

    path: Path
    prepared: int
    already: int
    utterances: Mapping[str, int]
    videos: Mapping[str, int]
    expected: Mapping[str, int]
    expected_videos: Mapping[str, int]
    refused: tuple[Lost, ...]
    set_aside: Mapping[str, int]
    notes: tuple[str, ...]
    cut: int
    values: Mapping[str, Values]
    empty: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """The report for reading, line by line."""
        yield f"{counted(self.prepared, 'utterance')} prepared, {self.already} there already: {self.path}"
        for note in self.notes:
            yield f"  {note}"
        for part in PARTS:
            if self.utterances.get(part) or self.expected.get(part):
                yield f"  {part}: {self._part(part)}"
            elif part != "validation":  # which may be drawn from those who train
                yield f"  {part}: not one utterance, and a comparison needs some: do the folds name these videos?"
        yield from self._why()
        for name, values in self.values.items():
            yield (
                f"{name}: {counted(values.infinite, 'infinite value')} and {values.nan} that are no number, in "
                f"{counted(values.utterances, 'utterance')}, are 0 now"
            )
        for name, steps in self.empty.items():
            if steps:
                yield f"{name}: {counted(steps, 'step')} that no {name} frame overlaps {'is' if steps == 1 else 'are'} 0"
        if self.cut:
            yield f"{counted(self.cut, 'utterance')} with more words than steps: cut at the end"
        if aside := ", ".join(f"{count} {kind}" for kind, count in self.set_aside.items() if count):
            yield f"Left alone: {aside}."
        if self.refused:
            yield f"{len(self.refused)} refused (all in index.json):"
            for lost in self.refused[:MOST_LINES]:
                yield f"  {lost}"
            if len(self.refused) > MOST_LINES:
                yield f"  and {len(self.refused) - MOST_LINES} more"

    def _part(self, part: str) -> str:
        here = f"{counted(self.utterances.get(part, 0), 'utterance')} of {counted(self.videos.get(part, 0), 'video')}"
        if part not in self.expected:
            return here
        return f"{here}; {self.expected[part]} of {self.expected_videos.get(part, '?')} are expected"

    def _why(self) -> Iterator[str]:
        """What the refused utterances lack, by part; and what is not explained by them."""
        reasons: Counter[tuple[str, str]] = Counter()
        unknown: Counter[str] = Counter()
        for lost in self.refused:
            if lost.part is not None:
                reasons[lost.part, lost.reason] += lost.utterances
                unknown[lost.part] += lost.utterances == 0
        for part in PARTS:
            some = [(reason, count) for (of, reason), count in reasons.most_common() if of == part and count]
            for reason, count in some[:MOST_REASONS]:
                yield f"  {part}: {counted(count, 'utterance')} refused: {reason}"
            if rest := sum(count for _, count in some[MOST_REASONS:]):
                yield f"  {part}: {counted(rest, 'utterance')} refused for other reasons"
            if unknown[part]:
                yield f"  {part}: {counted(unknown[part], 'video')} refused whose labels cannot be read"
            if part in self.expected:
                left = self.expected[part] - self.utterances.get(part, 0) - sum(count for _, count in some)
                if left:
                    said = "fewer" if left > 0 else "more"
                    yield f"  {part}: the files have {counted(abs(left), 'labelled utterance')} {said} than are expected"


@dataclass(frozen=True)
class Counts:
    """``utterances``, ``videos``, ``cut``, ``values`` and ``empty`` of a report."""

    utterances: dict[str, int]
    videos: dict[str, int]
    cut: int
    values: dict[str, Values]
    empty: dict[str, int]


def count_entries(entries: Iterable[Entry]) -> Counts:
    """Count what is prepared, by its facts."""
    facts = [entry.facts for entry in entries]
    parts = Counter(str(one["part"]) for one in facts)
    videos = Counter(part for part, _ in {(str(one["part"]), str(one["group"])) for one in facts})
    values = {}
    for name in sorted({name for one in facts for key in ("infinite", "nan") for name in one[key]}):
        infinite, nan = (sum(sum(one[key].get(name, {}).values()) for one in facts) for key in ("infinite", "nan"))
        values[name] = Values(infinite, nan, sum(name in one["infinite"] or name in one["nan"] for one in facts))
    empty: Counter[str] = Counter()
    for one in facts:
        empty.update(one["empty"])
    return Counts(dict(parts), dict(videos), sum(one["cut"] > 0 for one in facts), values, dict(empty))
