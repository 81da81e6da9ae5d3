"""Samples: every modality of every sample, its target, its group and its part."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchmsaf.data.stored import Features, StoredFeatures
from torchmsaf.errors import DataError
from torchmsaf.ops.steps import entry_mask

# n samples, M modalities, C channels of one modality

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Samples:
    """A data set. Features are finite, and zeros where a sample lacks the modality.

    Attributes:
        name: what tables call the data set.
        features: modality name -> ``(n, C, *positions)``, in declared order: float32 in memory, or on disk.
        target: ``(n,)`` int64 class index in ``[0, len(classes))``, or ``(n,)`` float32 value.
        present: ``(n, M)`` bool; False = this sample lacks this modality.
        ids: n unique names.
        classes: class names by index; None = regression.
        groups: the group of each sample (actor, speaker, video), or None.
        parts: the shipped split, ``train``, ``validation`` or ``test`` of each sample, or None.
        fingerprint: sha256 of the content, see :func:`fingerprint`.
        lengths: modality name -> ``(n,)`` int64, how many entries of the last axis are real, for what is padded at its end:
            steps of sequences ``(n, C, T)``, persons of skeletons ``(n, C, T, V, S)``; 0 where a sample lacks the modality.
            A modality that is not in it has no padding.
        tokens: modality name -> size of its vocabulary, for ``(n, 1, T)`` sequences of word numbers: 0 is padding, 1 a word
            that the vocabulary does not have. Nobody scales these.

    Raises:
        DataError: the fields do not fit together; the message names the field and what came.
    """

    name: str
    features: Mapping[str, Features]
    target: Tensor
    present: Tensor
    ids: tuple[str, ...]
    classes: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    parts: tuple[str, ...] | None
    fingerprint: str
    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_features(self)
        _check_target(self)
        _check_present(self)
        _check_names(self)
        _check_lengths(self)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modality names in declared order."""
        return tuple(self.features)

    @property
    def regression(self) -> bool:
        """Whether the target is a value and not a class."""
        return self.classes is None

    @property
    def n_outputs(self) -> int:
        """Outputs a model needs: the number of classes, or 1 for regression."""
        return 1 if self.classes is None else len(self.classes)


def make_samples(
    name: str,
    features: Mapping[str, Tensor],
    target: Tensor,
    *,
    present: Tensor | None = None,
    ids: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    lengths: Mapping[str, Tensor] | None = None,
    tokens: Mapping[str, int] | None = None,
) -> Samples:
    """Samples from tensors that are already in memory.

    Args:
        name: what tables call the data set.
        features: modality name -> ``(n, C, *positions)`` float32, in declared order.
        target: ``(n,)`` int64 class index, or ``(n,)`` float32 value.
        present: ``(n, M)`` bool; None = every sample has every modality.
        ids: n unique names; None = the row numbers.
        classes: class names by index; None = regression.
        groups: the group of each sample, or None.
        parts: ``train``, ``validation`` or ``test`` of each sample, or None.
        lengths: as in :class:`Samples`; None = no modality has padding.
        tokens: as in :class:`Samples`; None = no modality is of words.

    Returns:
        The samples with their fingerprint.

    Raises:
        DataError: something does not fit; the message names the field and what came.
    """
    if present is None:
        present = torch.ones(len(target), len(features), dtype=torch.bool)
    ids = tuple(str(row) for row in range(len(target))) if ids is None else tuple(ids)
    names: dict[str, Sequence[str] | None] = {"ids": ids, "classes": classes, "groups": groups, "parts": parts}
    if lengths:
        names["lengths"] = [f"{name} {value.tolist()}" for name, value in lengths.items()]
    if tokens:
        names["tokens"] = [f"{name} {size}" for name, size in tokens.items()]
    return Samples(
        name=name,
        features=dict(features),
        target=target,
        present=present,
        ids=ids,
        classes=None if classes is None else tuple(classes),
        groups=None if groups is None else tuple(groups),
        parts=None if parts is None else tuple(parts),
        fingerprint=fingerprint(features, target, present, names),
        lengths=dict(lengths or {}),
        tokens=dict(tokens or {}),
    )


def fingerprint(
    features: Mapping[str, Tensor], target: Tensor, present: Tensor, names: Mapping[str, Sequence[str] | None]
) -> str:
    """The sha256 of a data set: the same in every process, another when anything changes.

    Args:
        features: modality name -> tensor; names, order, shapes, dtypes and bytes all count.
        target: ``(n,)``.
        present: ``(n, M)``.
        names: the lists of names that belong to the samples: ids, classes, groups, parts.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    tensors = [("feature", name, value) for name, value in features.items()]
    for kind, name, value in [*tensors, ("target", "", target), ("present", "", present)]:
        digest.update(json.dumps([kind, name, str(value.dtype), list(value.shape)]).encode() + b"\n")
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for kind, values in names.items():
        digest.update(json.dumps([kind, None if values is None else list(values)]).encode() + b"\n")
    return digest.hexdigest()


def _check_features(samples: Samples) -> None:
    n = len(samples.ids)
    if n == 0:
        raise DataError(f"{samples.name}: no samples; at least one is needed")
    if not samples.features:
        raise DataError(f"{samples.name}: no modalities; at least one is needed")
    for name, value in samples.features.items():
        if not name:
            raise DataError(f"{samples.name}: a modality has an empty name")
        if len(value.shape) < 2 or len(value) != n or value.shape.numel() == 0:
            raise DataError(
                f"{samples.name}: modality {name!r} has shape {tuple(value.shape)}; "
                f"(n, C, *positions) with n = {n} and no size 0 is needed"
            )
        if isinstance(value, StoredFeatures):
            continue  # who prepared it has looked at its values
        if value.dtype != torch.float32:
            raise DataError(f"{samples.name}: modality {name!r} is {value.dtype}; torch.float32 is needed")
        if not bool(torch.isfinite(value).all()):
            raise DataError(
                f"{samples.name}: modality {name!r} has NaN or infinite values; mark such samples as absent"
            )


def _check_target(samples: Samples) -> None:
    n, target, classes = len(samples.ids), samples.target, samples.classes
    dtype = torch.float32 if classes is None else torch.int64
    if target.shape != (n,) or target.dtype != dtype:
        raise DataError(
            f"{samples.name}: the target is {target.dtype} of shape {tuple(target.shape)}; "
            f"{dtype} of shape ({n},) is needed for {'regression' if classes is None else 'classes'}"
        )
    if classes is None:
        if not bool(torch.isfinite(target).all()):
            raise DataError(f"{samples.name}: the target has NaN or infinite values")
        return
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise DataError(f"{samples.name}: the classes are {list(classes)}; two or more different names are needed")
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= len(classes):
        raise DataError(
            f"{samples.name}: class indices go from {low} to {high}; 0 to {len(classes) - 1} is needed "
            f"for {len(classes)} classes"
        )


def _check_present(samples: Samples) -> None:
    present, shape = samples.present, (len(samples.ids), len(samples.features))
    if present.shape != shape or present.dtype != torch.bool:
        raise DataError(
            f"{samples.name}: present is {present.dtype} of shape {tuple(present.shape)}; "
            f"torch.bool of shape {shape} is needed, one column a modality"
        )
    for column, (name, value) in enumerate(samples.features.items()):
        if isinstance(value, StoredFeatures):
            if not bool(present[:, column].all()):
                raise DataError(f"{samples.name}: modality {name!r} is on disk, and some samples lack it")
            continue
        if bool(value[~present[:, column]].any()):
            raise DataError(f"{samples.name}: modality {name!r} is not zero in samples that lack it")
    empty = [samples.ids[row] for row in (~present.any(dim=1)).nonzero().flatten().tolist()]
    if empty:
        raise DataError(
            f"{samples.name}: {len(empty)} samples have no modality at all, the first ids {empty[:5]}; remove them"
        )


def _check_names(samples: Samples) -> None:
    n = len(samples.ids)
    for what, values in (("groups", samples.groups), ("parts", samples.parts)):
        if values is not None and len(values) != n:
            raise DataError(f"{samples.name}: {len(values)} {what} for {n} samples; one a sample is needed")
    twice = [name for name, count in Counter(samples.ids).items() if count > 1]
    if twice:
        raise DataError(f"{samples.name}: {len(twice)} ids are given to more than one sample, among them {twice[:5]}")
    wrong = sorted(set(samples.parts or ()) - set(PARTS))
    if wrong:
        raise DataError(f"{samples.name}: parts {wrong} are none of {', '.join(PARTS)}")


def _check_lengths(samples: Samples) -> None:
    n = len(samples.ids)
    for what, known in (("lengths", samples.lengths), ("tokens", samples.tokens)):
        if unknown := set(known) - set(samples.features):
            raise DataError(
                f"{samples.name}: {what} of {min(unknown)!r}; the modalities are {', '.join(samples.modalities)}"
            )
    for name, lengths in samples.lengths.items():
        value, present = samples.features[name], samples.present[:, samples.modalities.index(name)]
        if len(value.shape) < 3 or lengths.shape != (n,) or lengths.dtype != torch.int64:
            raise DataError(
                f"{samples.name}: lengths of {name!r} are {lengths.dtype} {tuple(lengths.shape)} for features "
                f"{tuple(value.shape)}; torch.int64 ({n},) for sequences ({n}, C, T), or more axes, is needed"
            )
        steps = value.shape[-1]
        if bool((lengths < 0).any()) or bool((lengths > steps).any()) or not torch.equal(lengths > 0, present):
            raise DataError(
                f"{samples.name}: lengths of {name!r} go from {int(lengths.min())} to {int(lengths.max())}; 1 to {steps} is "
                "needed, and 0 where a sample lacks the modality"
            )
        if isinstance(value, Tensor) and bool(torch.where(entry_mask(lengths, value), 0, value).any()):
            raise DataError(f"{samples.name}: modality {name!r} is not zero behind the end of its sequences")
    for name, size in samples.tokens.items():
        value = samples.features[name]
        if len(value.shape) != 3 or value.shape[1] != 1:
            raise DataError(f"{samples.name}: words of {name!r} have shape {tuple(value.shape)}; (n, 1, T) is needed")
        if isinstance(value, Tensor):
            low, high, whole = float(value.min()), float(value.max()), bool((value == value.round()).all())
            if low < 0 or high >= size or not whole:
                raise DataError(f"{samples.name}: words of {name!r} are not whole numbers from 0 to {size - 1}")
