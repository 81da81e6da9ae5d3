"""Protects the result folder: what is in it, that it resumes from any state, and that it mixes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.made_up import METHODS, comparison, make, run, without_time
from torchmsaf.data import make_protocol
from torchmsaf.errors import ResultError
from torchmsaf.experiments import MethodChoice, ResultFolder, runner, write_tables
from torchmsaf.experiments.results import make_table
from torchmsaf.tasks.model_file import ModelSpec


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "r"
    run(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "r"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages of the networks that are trained from now on."""
    seen: list[str] = []
    real = runner.train

    def counted(network: Any, *others: Any, **more: Any) -> Any:
        seen.append(network.stage or "alone")
        return real(network, *others, **more)

    monkeypatch.setattr(runner, "train", counted)
    return seen


def metrics(folder: Path) -> list[dict[str, Any]]:
    return without_time(ResultFolder(folder).records())


def test_what_is_in_it(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        *("config.json", "metrics", "splits.json", "table.html", "table.md", "table.txt", "weights")
    ]
    config = json.loads((finished / "config.json").read_text())
    assert config["methods"] == [{"name": choice.name, "options": choice.options} for choice in METHODS]
    assert config["data"]["fingerprint"] == make().fingerprint
    assert config["seeds"] == [0, 1]
    assert config["recipe"]["epochs"] == 2
    assert {"time", "python", "torch", "lightning", "torchmsaf", "accelerator"} <= config["starts"][0].keys()
    splits = json.loads((finished / "splits.json").read_text())
    assert sorted(splits) == ["0", "1"]
    assert set(splits["0"]) == {"train", "validation", "test"}
    records = ResultFolder(finished).records()
    assert len(records) == comparison().trainings == 2 * 2 * 7
    assert all((finished / record["weights"]).is_file() for record in records)
    assert not list(finished.rglob("*.part"))


def test_the_table_is_rebuilt_without_training(folder: Path, trained: list[str]) -> None:
    names = ("table.txt", "table.md", "table.html")
    before = {name: (folder / name).read_text() for name in names}
    for name in names:
        (folder / name).unlink()
    write_tables(ResultFolder(folder))
    assert {name: (folder / name).read_text() for name in names} == before
    assert trained == []


def test_resuming_what_is_finished_trains_nothing(folder: Path, trained: list[str]) -> None:
    before = metrics(folder)
    run(folder, resume=True)
    assert trained == []
    assert metrics(folder) == before
    assert len(json.loads((folder / "config.json").read_text())["starts"]) == 2


def test_resume_trains_what_is_not_on_record_and_nothing_else(folder: Path, trained: list[str], finished: Path) -> None:
    file = folder / "metrics/fold-1.seed-0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]))
    (folder / "metrics/fold-0.seed-1.jsonl").unlink()
    run(folder, resume=True)
    assert trained == ["early", "intermediate", *["alone"] * 4, "late", "early", "intermediate"]
    assert metrics(folder) == metrics(finished)


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_cut_last_line_is_trained_again(folder: Path, trained: list[str], finished: Path, cut: int) -> None:
    file = folder / "metrics/fold-0.seed-0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
    assert len(ResultFolder(folder).records()) == 27
    run(folder, resume=True)
    assert trained == ["intermediate"]
    assert metrics(folder) == metrics(finished)


def test_a_folder_from_which_a_process_died_at_once(tmp_path: Path) -> None:
    (tmp_path / "r/metrics").mkdir(parents=True)
    (tmp_path / "r/splits.json").write_text("{")
    (tmp_path / "r/config.json.123.part").write_text("{")
    run(tmp_path / "r", comparison(seeds=(0,), methods=METHODS[:1]), resume=True)


def test_a_setting_that_the_folders_version_did_not_have_does_not_stop_a_resume(
    folder: Path, trained: list[str]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"].pop("fusion_learning_rate") is None
    (folder / "config.json").write_text(json.dumps({**config, "tuning": "said in other words"}))
    run(folder, resume=True)
    assert trained == []
    rated = replace(comparison(), recipe=replace(comparison().recipe, fusion_learning_rate=1e-3))
    with pytest.raises(ResultError, match=r"recipe\.fusion_learning_rate: null there, 0\.001 now"):
        run(folder, rated, resume=True)


def test_a_folder_with_results_needs_resume(folder: Path) -> None:
    with pytest.raises(ResultError, match="has results already: add --resume"):
        run(folder)


def test_resume_starts_when_there_is_nothing(tmp_path: Path) -> None:
    run(tmp_path / "deep/r", comparison(seeds=(0,), methods=METHODS[:1]), resume=True)


def other_seed_of_split() -> Any:
    return comparison(protocol=make_protocol(make(), folds=2, validation=0.3, seed=5))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: replace(comparison(), recipe=replace(comparison().recipe, epochs=3)),
            r"recipe\.epochs: 2 there, 3 now",
        ),
        (lambda: comparison(seeds=(0,)), r"seeds: \[0, 1\] there, \[0\] now"),
        (lambda: comparison(methods=[MethodChoice("msaf")]), "methods: "),
        (lambda: comparison(make(noise=1)), r"data\.fingerprint: "),
        (lambda: comparison(protocol=make_protocol(make(), folds=3, validation=0.3)), r"protocol\.name: .*3-fold"),
        (other_seed_of_split, "the ids of the folds, as another --split-seed makes them"),
    ],
    ids=["recipe", "seeds", "methods", "data", "folds", "split seed"],
)
def test_resuming_something_else_is_refused_and_says_what_differs(
    folder: Path, trained: list[str], made: Any, message: str
) -> None:
    with pytest.raises(ResultError, match=f"holds another comparison .*{message}"):
        run(folder, made(), resume=True)
    assert trained == []


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(ResultError, match="is not empty and is no result folder"):
            run(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"file/r cannot be written: .*choose another --out"):
        run(tmp_path / "file/r")


def test_a_missing_or_broken_weights_file_is_named(folder: Path) -> None:
    (folder / "metrics/fold-0.seed-0.jsonl").write_bytes(
        b"".join((folder / "metrics/fold-0.seed-0.jsonl").read_bytes().splitlines(keepends=True)[:2])
    )
    path = folder / "weights/fold-0.seed-0/start.a.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ResultError, match=r"start\.a\.safetensors is broken"):
        run(folder, resume=True)
    path.unlink()
    with pytest.raises(ResultError, match=r"start\.a\.safetensors is missing though its metrics are there"):
        run(folder, resume=True)


def test_a_broken_line_is_named(folder: Path) -> None:
    file = folder / "metrics/fold-0.seed-0.jsonl"
    file.write_bytes(b"{broken\n" + file.read_bytes())
    with pytest.raises(ResultError, match=r"fold-0\.seed-0\.jsonl, line 1 cannot be read"):
        make_table(ResultFolder(folder))


def test_no_table_of_nothing(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ResultError, match=r"is no result folder: there is no config\.json"):
        write_tables(ResultFolder(tmp_path / "none"))
    for file in (folder / "metrics").iterdir():
        file.unlink()
    with pytest.raises(ResultError, match="holds no finished method yet"):
        write_tables(ResultFolder(folder))


@pytest.mark.parametrize("asked", ["concat", "concat:hidden=[8]", "concat (hidden=[8])"])
def test_a_reference_is_a_rows_name_or_what_was_typed_to_make_it(finished: Path, asked: str) -> None:
    table = make_table(ResultFolder(finished), reference=asked)
    assert table.reference is not None
    assert table.rows[table.reference].method == "concat (hidden=[8])"


@pytest.mark.parametrize("asked", ["concat:hidden=[9]", "concat:hidden", "mmtm", "start"])
def test_a_reference_that_no_row_fits_is_refused_with_the_rows(finished: Path, asked: str) -> None:
    rows = "'a', 'b', 'averaging', 'concat (hidden=[8])', 'msaf'"
    with pytest.raises(ResultError) as caught:
        make_table(ResultFolder(finished), reference=asked)
    assert str(caught.value) == f"no row is named {asked!r}: choose the reference from {rows}"


def test_the_table_says_how_its_networks_began_and_learned(folder: Path) -> None:
    file = folder / "config.json"
    plain = make_table(ResultFolder(folder)).notes
    config = json.loads(file.read_text())
    recipe = {**config["recipe"], "alternate": True}
    file.write_text(json.dumps({**config, "pretrained": {"b": "f17"}, "recipe": recipe}))
    further = [note for note in make_table(ResultFolder(folder)).notes if note not in plain]
    assert [note[:23] for note in further] == ["The networks of one mod", "Networks learned in tur"]
    assert further[0].endswith("begin with given weights (--pretrained): b.")
    assert "(--alternate)" not in " ".join(plain)
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in ("recipe", "about", "data")}))
    assert make_table(ResultFolder(folder)).notes == plain, "an older folder"


def test_an_unfinished_table_says_so(folder: Path) -> None:
    (folder / "metrics/fold-0.seed-1.jsonl").unlink()
    assert any("Incomplete" in note for note in make_table(ResultFolder(folder)).notes)


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "keys", "a.b", "n" * 300, "α|β"])
def test_weights_stay_in_the_folder_whatever_a_modality_is_called(tmp_path: Path, name: str) -> None:
    samples = make()
    named = type(samples)(**{**vars(samples), "features": {name: samples.features["a"], "b": samples.features["b"]}})
    run(tmp_path / "r", comparison(named, seeds=(0,), methods=METHODS[2:]))
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert len(list((tmp_path / "r/weights").glob("*/*.safetensors"))) == 2 * 5
    assert not list((tmp_path / "r/weights").glob("*/*/*"))


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    folder = ResultFolder.create(tmp_path / "r", {"a": 1}, {}, {}, resume=False)
    with folder.unit(0, 0) as file:
        file.save("x", {"test": {"pearson": float("nan"), "loss": float("inf")}}, {}, ModelSpec({}, None, 1))
    line = (folder.path / "metrics/fold-0.seed-0.jsonl").read_text()
    assert json.loads(line)["test"] == {"pearson": None, "loss": None}


SCRIPT = """
import signal, sys, torch
from pathlib import Path
from tests.experiments.made_up import run
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    run(Path(sys.argv[1]), resume=True, jobs=2)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_of_two_processes_that_is_stopped_resumes_to_the_same_numbers(
    tmp_path: Path, finished: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "r"
    process = start(folder)
    done = ResultFolder(folder)
    deadline = time.monotonic() + 600
    while done.count() < 1 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert done.count() >= 1
    process.send_signal(how)
    process.communicate()
    assert done.count() < 28
    run(folder, resume=True)
    assert metrics(folder) == metrics(finished)
    rows = [
        [(row.method, row.score, row.missing) for row in make_table(ResultFolder(f)).rows] for f in (folder, finished)
    ]
    assert rows[0] == rows[1]
