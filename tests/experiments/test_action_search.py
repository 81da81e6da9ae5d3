"""Protects the search on clips of actions: it repeats, goes on, and sees nothing of test samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("lightning")

from tests.data.ntu_clips import write_clips
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.skeleton_arrays import load_skeletons
from torchmsaf.errors import DataError, ResultError, TorchmsafError
from torchmsaf.experiments import Comparison, MethodChoice, ResultFolder, action_search
from torchmsaf.experiments.action import action_comparison, array_actions
from torchmsaf.experiments.action_search import search_architecture
from torchmsaf.experiments.search.candidate import Evaluator
from torchmsaf.experiments.search.search import SearchResult, Tried
from torchmsaf.experiments.search.space import SearchSettings
from torchmsaf.tasks.model_file import load_model
from torchmsaf.tasks.recipe import Recipe

FAST = Recipe(epochs=1, patience=1, batch_size=4)
TINY = SearchSettings(levels=2, iterations=1, sampled=3, epochs=1, inner=4, surrogate_epochs=2)
SUBJECTS = (1, 4, 2, 3, 6)
TESTED = ("P003", "P006")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_clips(tmp_path_factory.mktemp("clips"), subjects=SUBJECTS)


def comparison(prepared: Prepared, **settings: Any) -> Comparison:
    return action_comparison(prepared, [MethodChoice("concat")], **{"recipe": FAST, "seeds": (0, 1), **settings})


def searched(prepared: Prepared, out: Path, settings: SearchSettings = TINY, **more: Any) -> SearchResult:
    return search_architecture(comparison(prepared), out, settings=settings, jobs=1, **more)


@pytest.fixture(scope="module")
def first(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Path]:
    out = tmp_path_factory.mktemp("search") / "s"
    return searched(prepared, out), out


def test_the_networks_are_trained_alone_and_every_depth_of_them_is_a_place(first: tuple[SearchResult, Path]) -> None:
    found, out = first
    assert found.places == (("mixed_4f", "mixed_5b", "mixed_5c", "feature"), ("conv5", "conv6", "flat6", "fc7"))
    # all of one layer, then a few of two
    assert [one.level for one in found.tried] == [0] * 32 + [1] * 3
    rows = ResultFolder(out).records()
    assert [(one["key"], one["seed"]) for one in rows if one["stage"] != "start"] == [
        ("unimodal.rgb", 0),
        ("unimodal.skeleton", 0),
    ]
    assert json.loads((out / "search.json").read_text()) == json.loads(json.dumps(found.plain()))
    kept = json.loads((out / "architectures.json").read_text())["trained"]
    assert len(kept) == len({one.architecture for one in found.tried})
    assert "networks of a search" in (out / "table.txt").read_text()


def test_the_same_seed_finds_the_same(prepared: Prepared, first: tuple[SearchResult, Path], tmp_path: Path) -> None:
    again = searched(prepared, tmp_path / "s")
    assert again.tried == first[0].tried
    assert again.best == first[0].best


class CutError(Exception):
    """What ends a search in these tests."""


@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on(
    prepared: Prepared, first: tuple[SearchResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []
    real: Callable[..., float] = Evaluator.accuracy

    def counted(self: Evaluator, architecture: Any) -> float:
        trained.append(architecture)
        return real(self, architecture)

    monkeypatch.setattr(Evaluator, "accuracy", counted)

    def cut(tried: Tried) -> None:
        if len(trained) == 20:
            raise CutError

    with pytest.raises(CutError):
        searched(prepared, tmp_path / "s", report=cut)
    assert not (tmp_path / "s/search.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s/weights").rglob("*.safetensors")}
    assert before
    with pytest.raises(ResultError, match="--resume"):
        searched(prepared, tmp_path / "s")
    reported: list[Tried] = []
    found = searched(prepared, tmp_path / "s", resume=True, report=reported.append)
    assert found.tried == first[0].tried == tuple(reported)
    # nothing was trained twice, networks neither
    assert len(trained) == len(set(trained)) == len({one.architecture for one in found.tried})
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(DataError, match="of another search"):
        searched(prepared, tmp_path / "s", replace(TINY, inner=5), resume=True)


def poisoned(prepared: Prepared, root: Path) -> Prepared:
    """The same clips, but that those who test show something else."""
    writer = PreparedWriter(root, "ntu", prepared.parameters)
    for row, entry in enumerate(prepared.entries):
        arrays = {name: prepared.read(row, name).numpy() for name in entry.shapes}
        if entry.id[8:12] in TESTED:
            arrays = {"rgb": 255 - arrays["rgb"], "skeleton": arrays["skeleton"][:, ::-1] * np.float32(50)}
        writer.write(entry.id, arrays, entry.facts)
    return writer.finish()


@pytest.mark.slow
def test_what_test_samples_show_changes_nothing(
    prepared: Prepared, first: tuple[SearchResult, Path], tmp_path: Path
) -> None:
    other = poisoned(prepared, tmp_path / "p")
    assert other.fingerprint != prepared.fingerprint
    found, out = searched(other, tmp_path / "s"), first[1]
    assert found.tried == first[0].tried
    data = [json.loads((path / "architectures.json").read_text())["search"]["data"] for path in (out, tmp_path / "s")]
    assert data[0] == data[1]
    files = sorted(out.glob("weights/*/*"))
    assert files
    for path in files:
        one, two = load_file(path), load_file(tmp_path / "s" / path.relative_to(out))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_rows_that_are_read_train_or_validate(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = comparison(prepared)
    (fold,) = made.protocol.folds
    read: list[set[int]] = []
    real = action_search.part_of

    def watched(features: Any, target: Any, present: Any, rows: Any, lengths: Any) -> Any:
        read.append(set(rows.tolist()))
        return real(features, target, present, rows, lengths)

    monkeypatch.setattr(action_search, "part_of", watched)
    seen: list[Any] = []
    real_search = action_search.search

    def given(train: Any, dev: Any, **more: Any) -> Any:
        seen.extend((train, dev))
        return real_search(train, dev, **more)

    monkeypatch.setattr(action_search, "search", given)
    search_architecture(made, tmp_path / "s", settings=replace(TINY, levels=1), jobs=1)
    assert read == [set(fold.train.tolist()), set(fold.validation.tolist())] * 2
    # and it is what the networks on record say, of whole clips
    train, dev = seen
    for part, rows in ((train, fold.train), (dev, fold.validation)):
        index = torch.from_numpy(rows)
        assert torch.equal(part.target, made.samples.target[index])
        for m, name in enumerate(made.samples.modalities):
            network = load_model(tmp_path / f"s/weights/fold-0.seed-0/unimodal.{name}.safetensors")[0]
            lengths = made.samples.lengths.get(name)
            with torch.no_grad():
                logits = network(  # type: ignore[call-arg]
                    [made.samples.features[name][index]], None, [None if lengths is None else lengths[index]]
                ).prediction
                own = network.networks[name].head(part.features[m]["feature" if name == "rgb" else "fc7"])  # type: ignore
            torch.testing.assert_close(own, logits, atol=1e-5, rtol=1e-4)


def test_shared_layers_leave_no_file_to_go_on_from(prepared: Prepared, tmp_path: Path) -> None:
    found = searched(prepared, tmp_path / "s", replace(TINY, share=True, levels=1))
    assert len(found.tried) == 32
    assert not (tmp_path / "s/architectures.json").exists()
    assert (tmp_path / "s/search.json").exists()


def test_no_result_of_a_search_is_put_in_place_of_anothers(
    first: tuple[SearchResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Prepared
) -> None:
    def unrefused(*_: Any, **more: Any) -> None:
        raise CutError

    monkeypatch.setattr(action_search, "compare", unrefused)
    shared, cut = replace(TINY, share=True), tmp_path / "cut"
    cut.mkdir()
    for name in ("search.json", "architectures.json"):
        shutil.copy(first[1] / name, cut / name)
        with pytest.raises(DataError, match=rf"has {name} already, and a search that shares layers \(--share\)"):
            searched(prepared, cut, shared, resume=True)
        (cut / name).unlink()
    # one that shared its layers was here, and ended; or wrote nothing yet, and begins anew
    with pytest.raises(CutError):
        searched(prepared, cut, shared, resume=True)
    content = replace(first[0], settings=shared).plain()
    (cut / "search.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"search.json: of another search \(share: true there, false now\)"):
        searched(prepared, cut, resume=True)
    assert json.loads((cut / "search.json").read_text()) == json.loads(json.dumps(content))
    for text, said in (("{", "cannot be read as JSON"), ("{}", "is not the result of a search: it has no 'settings'")):
        (cut / "search.json").write_text(text)
        with pytest.raises(DataError, match=said):
            searched(prepared, cut, resume=True)


def test_data_that_cannot_be_searched_are_refused_before_any_training(tmp_path: Path) -> None:
    alone = action_comparison(write_clips(tmp_path / "p", modalities=("skeleton",)), [], recipe=FAST)
    with pytest.raises(DataError, match="a search is of two or more modalities that every sample has"):
        search_architecture(alone, tmp_path / "s")
    n = 8
    random = np.random.default_rng(0)
    arrays = {"skeleton": random.normal(size=(n, 3, 8, 5)), "inertial": random.normal(size=(n, 6, 12))}
    np.savez(tmp_path / "s.npz", label=np.arange(n) % 2, **arrays)
    with pytest.raises(DataError, match="a search needs prepared clips, and these are arrays"):
        search_architecture(array_actions(load_skeletons(tmp_path / "s.npz"), [], folds=2), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_protocol_that_validates_on_test_samples_is_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unrefused(*_: Any, **more: Any) -> None:
        raise CutError

    monkeypatch.setattr(action_search, "compare", unrefused)
    with pytest.raises(TorchmsafError, match="test"):
        search_architecture(comparison(prepared, protocol="published"), tmp_path / "s", settings=TINY, jobs=1)
