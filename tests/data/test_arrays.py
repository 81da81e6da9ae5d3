"""Protects load_arrays: what a user's arrays become, and a message that helps for everything that they cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from torchmsaf.data import Samples, load_arrays, make_protocol
from torchmsaf.errors import DataError

SHARED = os.environ.get("TORCHMSAF_SHARED_DATA")
needs_shared = pytest.mark.skipif(not SHARED, reason="TORCHMSAF_SHARED_DATA names no folder")


def content() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "video": generator.normal(size=(6, 3, 4)),
        "audio": generator.normal(size=(6, 2)).astype(np.float32),
        "label": np.array([10, 2, 9, 2, 10, 9]),
        "value": np.array([0.5, 1, -2, 3, 4, 5]),
        "actor": np.array([1, 1, 2, 2, 3, 3]),
        "name": np.array(list("fedcba")),
        "part": np.array(["Train", "train", "dev", "VAL", "test", "TEST"]),
    }


def load(tmp_path: Path, *, target: str = "label", arrays: dict[str, Any] | None = None, **options: Any) -> Samples:
    np.savez(tmp_path / "set.npz", **{**content(), **(arrays or {})})
    return load_arrays(tmp_path / "set.npz", target=target, **options)


def refused(tmp_path: Path, words: str, **options: Any) -> None:
    with pytest.raises(DataError, match=words):
        load(tmp_path, **options)


def test_everything_that_is_named_arrives(tmp_path: Path) -> None:
    samples = load(tmp_path, modalities=["video", "audio"], group="actor", ids="name", split="part")
    assert samples.name == "set"
    assert samples.modalities == ("video", "audio")
    assert torch.equal(samples.features["video"], torch.from_numpy(content()["video"]).float())
    assert samples.classes == ("2", "9", "10")
    assert samples.target.tolist() == [2, 0, 1, 0, 2, 1]
    assert samples.groups == ("1", "1", "2", "2", "3", "3")
    assert samples.ids == tuple("fedcba")
    assert samples.parts == ("train", "train", "validation", "validation", "test", "test")
    assert samples.present.all()


def test_the_three_formats_give_the_same_samples(tmp_path: Path) -> None:
    arrays = {key: value for key, value in content().items() if key in ("audio", "video", "label")}
    (tmp_path / "set").mkdir()
    for key, value in arrays.items():
        np.save(tmp_path / "set" / f"{key}.npy", value)
    np.savez(tmp_path / "set.npz", **arrays)
    save_file(arrays, tmp_path / "set.safetensors")
    for modalities in (["audio", "video"], ["video", "audio"]):
        loaded = [
            load_arrays(tmp_path / name, target="label", modalities=modalities)
            for name in ("set", "set.npz", "set.safetensors")
        ]
        assert len({samples.fingerprint for samples in loaded}) == 1
        assert loaded[0].modalities == tuple(modalities)


def test_unnamed_modalities_are_the_numeric_arrays_in_file_order(tmp_path: Path) -> None:
    more = {"text": np.ones((6, 2), dtype=np.uint8), "words": np.full((6, 2), "x")}
    assert load(tmp_path, arrays=more).modalities == ("video", "audio", "text")


def test_an_array_of_another_length_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    more = {"short": np.ones((5, 2))}
    with pytest.raises(DataError, match=r"differ in length.*video 6.*short 5.*leave one out, name the modalities"):
        load(tmp_path, arrays=more)
    assert load(tmp_path, arrays=more, modalities=["video", "audio"]).modalities == ("video", "audio")


def test_unnamed_modalities_leave_out_arrays_with_a_role(tmp_path: Path) -> None:
    more = {"label": content()["label"][:, None], "actor": content()["actor"][:, None]}
    assert load(tmp_path, arrays=more, group="actor").modalities == ("video", "audio")


def test_no_modality_at_all_lists_what_there_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", label=np.arange(3), other=np.ones(3))
    with pytest.raises(
        DataError, match=r"no array is a modality of 3 samples.*beside the target: other float64 \(3,\)"
    ):
        load_arrays(tmp_path / "x.npz", target="label")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64", ">f4", "bool"])
def test_numbers_of_every_type_become_float32(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1]] * 6).astype(dtype)
    value = load(tmp_path, arrays={"audio": array}, modalities=["audio"]).features["audio"]
    assert value.dtype == torch.float32
    assert value.tolist() == [[0, 1]] * 6


def test_arrays_in_fortran_order_are_read_right(tmp_path: Path) -> None:
    array = np.asfortranarray(content()["video"])
    value = load(tmp_path, arrays={"video": array}, modalities=["video"]).features["video"]
    assert torch.equal(value, torch.from_numpy(content()["video"]).float())


@pytest.mark.parametrize("dtype", ["complex64", "U3", "S3"])
def test_other_types_are_no_modality(tmp_path: Path, dtype: str) -> None:
    array = np.ones((6, 2)).astype(dtype)
    refused(tmp_path, "modality 'audio' is .*; integers or floats", arrays={"audio": array}, modalities=["audio"])


@pytest.mark.parametrize("shape", [(6,), (6, 1, 1, 1, 1, 1), (6, 0)])
def test_other_ranks_are_told_the_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    words = r"modality 'audio' has shape .*; needed is \(n, C\) vectors, \(n, C, T\) sequences, \(n, C, H, W\) images"
    refused(tmp_path, words, arrays={"audio": np.ones(shape)}, modalities=["audio"])


def test_one_axis_is_told_to_add_the_channel(tmp_path: Path) -> None:
    refused(tmp_path, r"add the channel axis: array\[:, None\]", modalities=["value"])


@pytest.mark.parametrize("shape", [(6, 2), (6, 2, 3), (6, 2, 3, 4), (6, 2, 3, 4, 5)])
def test_ranks_two_to_five_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert load(tmp_path, arrays={"audio": np.ones(shape)}, modalities=["audio"]).features["audio"].shape == shape


def test_float64_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    array = content()["video"]
    array[4, 1, 2] = 1e39
    words = r"modality 'video' has values too large for float32, the first at index \[4, 1, 2\]; rescale"
    for missing in ("error", "nan"):
        refused(tmp_path, words, arrays={"video": array}, modalities=["video"], missing=missing)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_located(tmp_path: Path, bad: float) -> None:
    array = content()["video"]
    array[2, 1, 3] = array[5, 0, 0] = bad
    words = r"'video' has 2 NaN or infinite values, the first in row 2 at index \[2, 1, 3\]; .*missing=\"nan\""
    refused(tmp_path, words, arrays={"video": array}, modalities=["video"])


def test_missing_nan_makes_the_sample_lack_the_modality(tmp_path: Path) -> None:
    array = content()["video"]
    array[2, 1, 3], array[5] = np.nan, np.inf
    samples = load(tmp_path, arrays={"video": array}, modalities=["audio", "video"], missing="nan")
    assert samples.present.tolist() == [[True, row not in (2, 5)] for row in range(6)]
    assert not samples.features["video"][[2, 5]].any()
    assert torch.equal(samples.features["video"][3], torch.from_numpy(content()["video"][3]).float())


def test_a_sample_that_lacks_everything_is_named(tmp_path: Path) -> None:
    video, audio = content()["video"], content()["audio"]
    video[4, 0, 0] = audio[4, 0] = np.nan
    arrays = {"video": video, "audio": audio}
    refused(tmp_path, r"1 samples have no modality at all: 'b' \(row 4\)", arrays=arrays, ids="name", missing="nan")


def test_options_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "missing is 'drop'; 'error' or 'nan' is needed", missing="drop")
    refused(tmp_path, "group_pattern needs group", group_pattern="x")


def test_floats_are_regression_and_integers_are_classes(tmp_path: Path) -> None:
    values = load(tmp_path, target="value")
    assert values.regression
    assert values.target.tolist() == content()["value"].tolist()
    assert load(tmp_path, target="label", regression=True).target.tolist() == [10, 2, 9, 2, 10, 9]
    whole = load(tmp_path, arrays={"label": content()["label"].astype(float)}, regression=False)
    assert whole.classes == ("2", "9", "10")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a10", "a9", "b", "a10", "a9"], ("a9", "a10", "b")),
        ([b"y", b"x", b"y", b"x", b"y", b"x"], ("x", "y")),
        ([True, False] * 3, ("False", "True")),
        ([-1, 3, -1, 3, 0, 0], ("-1", "0", "3")),
        ([[1], [0], [1], [0], [1], [0]], ("0", "1")),
    ],
)
def test_class_names_are_in_natural_order(tmp_path: Path, labels: list[Any], classes: tuple[str, ...]) -> None:
    samples = load(tmp_path, arrays={"label": np.array(labels)})
    assert samples.classes == classes
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in np.array(labels).ravel().tolist()]
    assert [classes[index] for index in samples.target.tolist()] == names


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (np.full(6, 3), {}, "target 'label' has one class only, '3'"),
        (
            np.array([0, np.nan, 1, 2, np.inf, 3]),
            {},
            r"'label' has 2 NaN or infinite values, the first in rows \[1, 4\]",
        ),
        (
            np.array([0, np.nan, 1, 2, 2, 3]),
            {"regression": False},
            r"1 NaN or infinite values, the first in rows \[1\]",
        ),
        (np.arange(6) / 2, {"regression": False}, r"3 values that are no whole numbers, the first in rows \[1, 3, 5\]"),
        (np.array(list("ababab")), {"regression": True}, "target 'label' is <U1; numbers are needed for regression"),
        (np.array([0, 1e300, 1, 2, 2, 3]), {}, r"too large for float32 in rows \[1\]"),
        (np.ones((6, 2)), {}, r"'label' has shape \(6, 2\); one value a sample, shape \(n,\)"),
        (np.arange(6) * 1j, {}, "'label' is complex128; integers or strings are needed"),
        (np.arange(6).astype("datetime64[D]"), {}, r"'label' is datetime64\[D\]; integers or strings"),
        (np.array([b"\xff", b"a"] * 3), {}, "'label' holds bytes that are not UTF-8"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(
    tmp_path: Path, labels: Any, options: dict[str, Any], words: str
) -> None:
    refused(tmp_path, words, arrays={"label": labels}, modalities=["audio"], **options)


def test_groups_may_be_strings_or_whole_floats(tmp_path: Path) -> None:
    assert load(tmp_path, group="name").groups == tuple("fedcba")
    floats = {"actor": np.array([1.0, 1, 2, 2, 3, 3])}
    assert load(tmp_path, arrays=floats, group="actor").groups == ("1", "1", "2", "2", "3", "3")
    refused(tmp_path, "'value' must name things: it has 1 values that are no whole numbers", group="value")


def test_a_pattern_takes_the_group_out_of_a_name(tmp_path: Path) -> None:
    arrays = {"name": np.array(["a_b_1", "a_b_2", "c_1", "c_22", "-d_1", "e_1"])}
    options = {"group": "name", "ids": "name"}
    groups = ("a_b", "a_b", "c", "c", "-d", "e")
    assert load(tmp_path, arrays=arrays, group_pattern=r"(.+)_[0-9]+$", **options).groups == groups
    assert load(tmp_path, arrays=arrays, group_pattern=r"^.+(?=_[0-9]+$)", **options).groups == groups
    words = r"group_pattern '\(q\)' finds no group in 'a_b_1' \('name', row 0\)"
    refused(tmp_path, words, arrays=arrays, group_pattern="(q)", **options)
    refused(tmp_path, r"group_pattern '\(' is no regular expression", arrays=arrays, group_pattern="(", **options)


def test_ids_that_are_not_unique_are_named(tmp_path: Path) -> None:
    refused(tmp_path, r"3 ids are given to more than one sample, among them \['1', '2', '3'\]", ids="actor")


def test_other_words_in_a_split_are_listed(tmp_path: Path) -> None:
    words = r"the split 'part' has the values \['fit', 'holdout'\]; each sample needs one of train, valid, val, dev"
    arrays = {"part": np.array(["train", "fit", "holdout", "fit", "test", "test"])}
    refused(tmp_path, words, arrays=arrays, split="part")


def test_a_split_of_bytes_is_read(tmp_path: Path) -> None:
    arrays = {"part": np.array([b"train", b"train", b"valid", b"validation", b"test", b"test"])}
    parts = ("train", "train", "validation", "validation", "test", "test")
    assert load(tmp_path, arrays=arrays, split="part").parts == parts


def test_arrays_of_different_length_are_listed(tmp_path: Path) -> None:
    words = "the arrays differ in length.*: label 6, actor 6, video 6, audio 5"
    options = {"modalities": ["video", "audio"], "group": "actor"}
    refused(tmp_path, words, arrays={"audio": np.ones((5, 2))}, **options)
    # naming modalities leaves out no labels
    words = "label 5, actor 6, video 6, audio 6. label must have 6 too$"
    refused(tmp_path, words, arrays={"label": np.arange(5) % 2}, **options)


def test_empty_arrays_are_refused(tmp_path: Path) -> None:
    arrays = {"label": np.zeros(0, dtype=int), "audio": np.zeros((0, 2))}
    refused(tmp_path, "label, audio are empty: 0 rows", arrays=arrays, modalities=["audio"])
    refused(tmp_path, "label is empty: 0 rows", arrays={"label": np.zeros(0, dtype=int)})
    refused(tmp_path, "audio is empty: 0 rows", arrays={"audio": np.array(3)}, modalities=["audio"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "labels"}, r"has no target 'labels' \(did you mean 'label'\?\); its keys are video, audio, label"),
        ({"group": "actors"}, r"has no group 'actors' \(did you mean 'actor'\?\)"),
        ({"ids": "nam"}, r"has no ids 'nam' \(did you mean 'name'\?\)"),
        ({"split": "parts"}, r"has no split 'parts' \(did you mean 'part'\?\)"),
        ({"modalities": ["vidio"]}, r"has no modality 'vidio' \(did you mean 'video'"),
        ({"modalities": "video"}, r"modalities is the string 'video'; a list of keys is needed"),
        ({"modalities": []}, r"modalities are \[\]; one or more different keys"),
        ({"modalities": ["video", "video"]}, "one or more different keys"),
        ({"modalities": ["video", "label"]}, "'label' is the target and cannot be a modality too"),
        ({"modalities": ["video", "actor"], "group": "actor"}, "'actor' is the group and cannot be a modality too"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    refused(tmp_path, words, **options)


def test_an_object_array_stops_only_who_needs_it(tmp_path: Path) -> None:
    arrays = {"meta": np.array([{}] * 6, dtype=object)}
    assert len(load(tmp_path, arrays=arrays, modalities=["audio"])) == 6
    refused(tmp_path, "key 'meta' is refused: an object array is a pickle.*name the modalities", arrays=arrays)


def test_the_fingerprint_follows_the_declared_order(tmp_path: Path) -> None:
    first = load(tmp_path, modalities=["audio", "video"])
    assert first.fingerprint == load(tmp_path, modalities=["audio", "video"]).fingerprint
    assert first.fingerprint != load(tmp_path, modalities=["video", "audio"]).fingerprint
    assert first.fingerprint != load(tmp_path, modalities=["audio", "video"], group="actor").fingerprint


@needs_shared
def test_ravdess_loads_with_the_folds_of_the_paper() -> None:
    path = Path(str(SHARED)) / "ravdess_au_mfcc" / "ravdess_bimodal.npz"
    samples = load_arrays(path, target="emotion", modalities=["au_mean", "mfcc"], group="actor", ids="ids")
    assert {name: tuple(value.shape) for name, value in samples.features.items()} == {
        "au_mean": (1440, 35),
        "mfcc": (1440, 13, 243),
    }
    assert samples.classes == tuple("01234567")
    assert samples.groups is not None
    for fold in make_protocol(samples, folds=6).folds:
        tested = {int(samples.groups[row]) for row in fold.test}
        assert tested == {4 * fold.index + 1, 4 * fold.index + 2, 4 * fold.index + 3, 4 * fold.index + 4}


@needs_shared
def test_cmu_mosi_loads_with_its_shipped_split_and_its_videos() -> None:
    samples = load_arrays(
        Path(str(SHARED)) / "cmu_mosi" / "mosi_utterance_trimodal.npz",
        target="y",
        modalities=["text", "audio", "video"],
        group="id",
        group_pattern=r"(.+)_[0-9]+$",
        ids="id",
        split="{key}_{part}",
    )
    assert len(samples) == 2199
    assert samples.regression
    assert samples.groups is not None
    assert samples.parts == ("train",) * 1447 + ("test",) * 752
    assert samples.ids[0] == "1DmNV9C1hbY_10"
    assert len(set(samples.groups[:1447])) == 62
    (fold,) = make_protocol(samples).folds
    assert len(fold.train) + len(fold.validation) == 1447
    assert len({samples.groups[row] for row in fold.validation}) == 12
