"""Data sets of utterances from raw files to what networks take: a step a word, in video, audio and text."""

# L steps, D features

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from torchmsaf.data.natural_order import natural_key
from torchmsaf.data.prepare.text.cache import cached_published, cached_words
from torchmsaf.data.prepare.text.encoder import TextEncoder
from torchmsaf.data.prepare.utterances.report import MOST_LINES, Report, count_entries
from torchmsaf.data.prepare.utterances.sources import open_source
from torchmsaf.data.prepare.utterances.utterance import Item, Lost, Settings, Source
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.sets.base import DataSet
from torchmsaf.data.shards import ID
from torchmsaf.data.standard_folds import STANDARD_VIDEOS
from torchmsaf.errors import DataError, MissingDependencyError, require

RECIPE = 1  # to be raised when the same settings give other bytes
TEXT_FOLDER = "text-vectors"  # in the folder of versions, with a version an encoder

Told = Callable[[int, int], object]


def prepare_sentiment(
    data_set: DataSet | str,
    raw: Path,
    out: Path,
    settings: Settings,
    *,
    folds: Path | None = None,
    strict: bool = False,
    told: Told | None = None,
) -> Report:
    """Prepare the utterances of a data set, those that are not prepared yet.

    An utterance that cannot be prepared stops no other; it is refused with its reason, and tried again in the next run. An
    interrupted preparation goes on where it was: what is there is of the same files by their names, sizes and times of
    change. Vectors of words are kept apart, by encoder, so that other settings need not encode again.

    Args:
        data_set: a set of :mod:`torchmsaf.data.sets`, or its name.
        raw: the folder with its files, or one file.
        out: where the version's folder is made, see :mod:`torchmsaf.data.prepared`.
        settings: the rules.
        folds: a JSON file with lists of videos, or ``standard``, in place of the set's own parts; see
            :func:`torchmsaf.data.standard_folds.read_folds`.
        strict: whether a refusal is an error, after everything was tried.
        told: called with what is done and all there is to do, encoding and aligning an utterance counted each.

    Raises:
        DataError: there is nothing to prepare; nothing could be prepared; the files do not have what the settings ask
            for; ``out`` cannot be written; or utterances were refused and ``strict`` is on: then no index is written.
        MissingDependencyError: an optional package is not installed.
    """
    from torchmsaf.data.sets import find_set  # whose readers are of this package

    require("safetensors", "sentiment")
    data_set = find_set(data_set) if isinstance(data_set, str) else data_set
    source = open_source(data_set, Path(raw), settings, folds)
    try:
        return _prepare(data_set, Path(raw), Path(out), settings, source, strict, told)
    finally:
        source.close()


def _prepare(
    data_set: DataSet, raw: Path, out: Path, settings: Settings, source: Source, strict: bool, told: Told | None
) -> Report:
    lost = [*source.lost, *(_unnamed(item) for item in source.items if not ID.fullmatch(item.id))]
    items = [item for item in source.items if ID.fullmatch(item.id)]
    if not items:
        _check(raw, lost, 0, strict)
    encoder = None
    if settings.text_model is not None:
        encoder = TextEncoder(settings.text_model, device=settings.device, batch_size=settings.batch_size)
    writer = PreparedWriter(out, data_set.name, _parameters(data_set, settings, source, encoder))
    stamps = writer.stamps()
    to_do = [item for item in items if stamps.get(item.id) != _stamp(source, item)]
    already = len(items) - len(to_do)
    if to_do:
        writer.forget_index()  # of an earlier run, which this one may not come to the end of
    progress = _Progress(told, len(items), encoder is not None, already)
    vectors = _encoded(encoder, to_do, settings, out, progress) if encoder is not None else None
    for item in to_do:
        reason = _write(item, source, vectors, writer, data_set.limits)
        if reason is not None:
            lost.append(Lost(item.id, item.id, reason, item.part))
        progress.aligned()
    # errors name files by their whole path; in an index it says nothing
    short = [replace(one, reason=one.reason.replace(f"{raw}/", "")) for one in lost]
    refused = tuple(sorted(short, key=lambda one: natural_key(one.where)))
    good = {item.id for item in items} - {one.name for one in lost}
    _check(raw, refused, len(good), strict)
    made = writer.finish([asdict(one) for one in refused], ids=good)
    counts = count_entries(made.entries)
    compared = source.folds == "standard" or (source.folds == "given" and source.kind == "aligned")
    return Report(
        path=writer.path,
        prepared=len(good) - already,
        already=already,
        expected=data_set.utterances if compared else {},
        expected_videos=STANDARD_VIDEOS.get(data_set.name, {}) if compared else {},
        refused=refused,
        set_aside=source.set_aside,
        notes=source.notes,
        utterances=counts.utterances,
        videos=counts.videos,
        cut=counts.cut,
        values=counts.values,
        empty=counts.empty,
    )


def _parameters(data_set: DataSet, settings: Settings, source: Source, encoder: TextEncoder | None) -> dict[str, Any]:
    text: Any = None if source.text == "none" else source.text
    return {
        "recipe": RECIPE,
        "set": data_set.name,
        "alignment": source.alignment,
        "steps": 1 if source.alignment == "utterance" else settings.steps,
        "text": text if encoder is None else encoder.describe(),
        "classes": None if data_set.classes is None else list(data_set.classes),
        "folds": source.folds,
        "source": source.kind,
        "features": dict(source.features),
        **({"resplit": True} if source.resplit else {}),
    }


def _stamp(source: Source, item: Item) -> str:
    return f"{source.stamp} {item.part}"


def _encoded(
    encoder: TextEncoder, items: Sequence[Item], settings: Settings, out: Path, progress: _Progress
) -> Mapping[str, NDArray[Any]]:
    """The vectors of what was said in each utterance; one whose words cannot be read is left out, and refused later."""
    said: dict[str, tuple[tuple[str, ...], str]] = {}
    for item in items:
        try:
            words, sentence = item.say()
        except DataError:
            continue
        if words or settings.alignment == "published":
            said[item.id] = words, sentence
    if not said:
        return {}
    folder = out / TEXT_FOLDER
    if settings.alignment == "published":
        sentences = {id: sentence for id, (_, sentence) in said.items()}
        return cached_published(encoder, sentences, folder, steps=settings.steps, on_done=progress.encoded)
    return cached_words(encoder, {id: words for id, (words, _) in said.items()}, folder, on_done=progress.encoded)


def _write(
    item: Item,
    source: Source,
    vectors: Mapping[str, NDArray[Any]] | None,
    writer: PreparedWriter,
    limits: tuple[float, float] | None,
) -> str | None:
    """Prepare an utterance and write it, or say why it cannot be used. What stops the writing stops everything."""
    try:
        utterance = item.make()
    except MissingDependencyError:
        raise
    except DataError as error:
        return str(error)
    if limits is not None and not limits[0] <= utterance.target <= limits[1]:
        return f"its sentiment is {utterance.target:g}; {limits[0]:g} to {limits[1]:g} is needed"
    arrays = dict(utterance.arrays)
    if source.text != "given":
        arrays.pop("text", None)
    if vectors is not None:
        if item.id not in vectors:
            return "its words are not known"
        arrays["text"] = vectors[item.id]
    if source.text == "words" and not utterance.words:
        return "its words are not known"
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        return "has other numbers of steps: " + ", ".join(f"{n} in {name}" for name, n in lengths.items())
    facts = {"group": item.video, "part": item.part, **utterance.facts(), "made_up": source.made_up}
    writer.write(item.id, arrays, facts, _stamp(source, item))
    return None


class _Progress:
    """Counts what is encoded and aligned as one work."""

    def __init__(self, told: Told | None, items: int, encodes: bool, already: int) -> None:
        self._told, self._items, self._total = told, items, 2 * items if encodes else items
        self._aligned, self._encoded = already, already if encodes else 0

    def encoded(self, done: int, total: int) -> None:
        """``done`` of the ``total`` utterances that were to be encoded are."""
        self._encoded = self._items - total + done
        self._say()

    def aligned(self) -> None:
        """One more utterance is done with."""
        self._aligned += 1
        self._say()

    def _say(self) -> None:
        if self._told is not None:
            self._told(self._aligned + self._encoded, self._total)


def _unnamed(item: Item) -> Lost:
    reason = "its id cannot be the name of a file; letters, digits, '_', '-' and '.' are needed"
    return Lost(item.id, item.id, reason, item.part)


def _check(raw: Path, refused: Sequence[Lost], usable: int, strict: bool) -> None:
    lines = "".join(f"\n  {one}" for one in refused[:MOST_LINES])
    if len(refused) > MOST_LINES:
        lines += f"\n  and {len(refused) - MOST_LINES} more"
    if not usable:
        raise DataError(f"{raw}: not one utterance could be prepared; refused are{lines}")
    if strict and refused:
        raise DataError(
            f"{raw}: {len(refused)} of the utterances and videos are refused, so the index is not written; what is prepared "
            f"stays for a run without strict:{lines}"
        )
