"""Protects the comparison on prepared utterances: what the paper says of it, one training a row, and runs that repeat."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.experiments.made_up import without_time
from tests.experiments.utterances import A_VIDEO, PARTS, WIDTHS, write
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.errors import DataError, FusionInputError, ProtocolError, ResultError
from torchmsaf.experiments import Comparison, MethodChoice, ResultFolder, compare, runner, unit
from torchmsaf.experiments.sentiment import ablation_methods, sentiment_comparison
from torchmsaf.tasks.model_file import load_model
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.recipe import Recipe
from torchmsaf.tasks.systems import System

# the smallest of the published models, so that a run takes a second
TINY = MethodChoice("lmf_network", {"audio": 4, "video": 4, "text": 4})
METHODS = (MethodChoice("msaf"), MethodChoice("mmtm"), TINY)
FAST = Recipe(epochs=2, patience=2, batch_size=8)
COUNTS = {part: A_VIDEO * PARTS.count(part) for part in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write(tmp_path_factory.mktemp("utterances"))


def comparison(prepared: Prepared, methods: Any = METHODS, **settings: Any) -> Comparison:
    return sentiment_comparison(prepared, methods, **{"seeds": (0,), "recipe": FAST, **settings})


@pytest.fixture(scope="module")
def finished(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "r"
    compare(comparison(prepared), out, jobs=1)
    return out


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The states that trainings begin with from now on."""
    seen: list[dict[str, Tensor]] = []
    real = runner.train

    def watched(network: Any, *others: Any, **more: Any) -> Any:
        seen.append({key: value.clone() for key, value in network.state_dict().items()})
        return real(network, *others, **more)

    monkeypatch.setattr(runner, "train", watched)
    return seen


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {one["key"]: one for one in ResultFolder(folder).records()}


def key_of(methods: Any, name: str) -> str:
    return next(choice.key for choice in methods if choice.name == name)


# what it is about


def test_titles_state_the_set_its_modalities_the_alignment_and_what_is_made_up(
    prepared: Prepared, tmp_path: Path
) -> None:
    assert comparison(prepared).title == "CMU-MOSEI: video, audio, text, alignment word"
    words = {"video": 3, "audio": 4}
    told = write(tmp_path / "a", name="mosi", widths=words, facts={"made_up": True})
    assert comparison(told).title == "CMU-MOSI: MADE-UP utterances, video, audio, text (words learned), alignment word"
    published = write(tmp_path / "b", widths=words, parameters={"alignment": "published", "text": None})
    assert comparison(published, METHODS[:2]).title == "CMU-MOSEI: video, audio, alignment published"


def test_the_standard_folds_are_named_counted_and_cited_and_others_are_not(prepared: Prepared, tmp_path: Path) -> None:
    standard = comparison(prepared).protocol
    assert (standard.name, standard.description) == (
        "standard",
        f"Standard folds, by video ({COUNTS['train']} train, {COUNTS['validation']} validation, {COUNTS['test']} test "
        "utterances)",
    )
    assert standard.citation is not None
    assert "CMU-MultimodalSDK" in standard.citation
    own = comparison(write(tmp_path, parameters={"folds": "file 0123abcd"})).protocol
    assert own.name != "standard"
    assert own.citation is None
    for protocol in (standard, own):
        (fold,) = protocol.folds
        assert not protocol.chosen_on_test
        assert [len(rows) for rows in (fold.train, fold.validation, fold.test)] == list(COUNTS.values())
        groups = [{prepared.entries[row].facts["group"] for row in rows} for rows in (fold.train, fold.test)]
        assert not groups[0] & groups[1]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"part": "train"}, "CMU-MOSEI: the shipped split has no test part; it has train"),
        ({"group": "v"}, "in both train and"),
    ],
    ids=["no test part", "a video in all parts"],
)
def test_parts_that_are_empty_or_share_a_video_are_refused(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        comparison(write(tmp_path, facts=facts)).check()


def test_only_utterances_can_be_compared(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, "ravdess", {"frames": 8})
    writer.write("a", {"audio": np.zeros((2, 2), np.float32)}, {})
    with pytest.raises(DataError, match="is prepared from 'ravdess', which has no utterances"):
        sentiment_comparison(writer.finish(), METHODS)


def test_classes_make_it_a_classification(tmp_path: Path) -> None:
    made = comparison(write(tmp_path, name="ur_funny", parameters={"classes": ["plain", "funny"]}))
    assert made.title.startswith("UR-FUNNY: ")
    assert (made.kind, made.objective.outputs) == ("classification", 2)
    made.check()


# the paper's options


def test_msaf_has_the_papers_options_where_none_are_given_and_other_methods_have_their_own(prepared: Prepared) -> None:
    asked = [
        MethodChoice("msaf"),
        MethodChoice("msaf", {"segments": 2}),
        MethodChoice("msaf", {"block_dropout": 0.0, "block_channels": 8}),
        MethodChoice("mmtm"),
        TINY,
    ]
    assert [choice.options for choice in comparison(prepared, asked).methods] == [
        {"segments": 5, "block_dropout": 0.2},
        {"segments": 2, "block_dropout": 0.2},
        {"segments": 5, "block_dropout": 0.0, "block_channels": 8},
        {},
        TINY.options,
    ]


@pytest.mark.parametrize(("steps", "longest", "segments"), [(50, 1, 1), (4, None, 1), (5, None, 5), (50, 2, 5)])
def test_sequences_shorter_than_the_papers_segments_have_one(
    tmp_path: Path, steps: int, longest: int | None, segments: int
) -> None:
    made = comparison(write(tmp_path, steps=steps, longest=longest), METHODS[:1], ablation=True)
    assert made.methods[0].options == {"segments": segments, "block_dropout": 0.2}
    assert all(choice.options["segments"] <= made.samples.features["text"].shape[2] for choice in made.methods)
    made.check()


def test_the_ablation_changes_one_thing_at_a_time(prepared: Prepared, tmp_path: Path) -> None:
    usual = {"segments": 5, "block_dropout": 0.2}
    rows = ablation_methods(50)
    assert [choice.name for choice in rows] == ["msaf"] * 6
    changes = [dict(choice.options.items() - usual.items()) for choice in rows]
    assert changes == [
        {}, {"block_channels": 8}, {"block_channels": 32}, {"block_dropout": 0.0}, {"segments": 1}, {"segments": 10},
    ]  # fmt: skip
    assert len({choice.key for choice in rows}) == 6
    # of sequences of one step nothing can be said about segments, and no row is there twice
    assert ablation_methods(1)[0].options == {"segments": 1, "block_dropout": 0.2}
    made = comparison(write(tmp_path, steps=1), [MethodChoice("mmtm"), MethodChoice("msaf")], ablation=True)
    assert [len(made.methods), len({choice.key for choice in made.methods})] == [5, 5]
    made = comparison(prepared, [MethodChoice("msaf"), MethodChoice("mmtm")], ablation=True)
    assert [choice.name for choice in made.methods] == ["msaf", "mmtm", "msaf", "msaf", "msaf", "msaf"]


def test_what_is_unlike_other_comparisons_is_in_the_configuration(prepared: Prepared, tmp_path: Path) -> None:
    config = comparison(prepared, noise=(0.5,)).config()
    assert [config[name] for name in ("random_start", "decision", "target_as_it_is")] == [True, "joint", True]
    assert set(config["networks"]) == {"video", "audio", "text"}
    assert config["network_options"] == {"video": {"hidden": 32}, "audio": {"hidden": 64}, "text": {"hidden": 128}}
    assert config["objective"]["kind"] == "sentiment"
    parameters = {"alignment": "word", "steps": 6, "text": "given", "classes": None, "folds": "standard"}
    assert config["about"] == {"task": "sentiment", "set": "mosei", "made_up": False, "parameters": parameters}
    assert (config["noise"], config["data"]["groups"]) == ([0.5], len(PARTS))
    words = comparison(write(tmp_path, widths={"video": 3, "audio": 4})).config()
    assert words["about"]["vocabulary"] == sorted(words["about"]["vocabulary"])
    learned = {"hidden": 128, "vocabulary": len(words["about"]["vocabulary"]) + 2, "embedding": 300}
    assert words["network_options"]["text"] == learned


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ([MethodChoice("msaf", {"segments": 7})], r"method 'msaf \(segments=7.*': "),
        ([MethodChoice("tfn_network", {"hiden": 3})], r"^tfn_network: .*'hiden'"),
        ([MethodChoice("msaf", {"channels": [4]})], "'channels' is set by the comparison"),
    ],
)
def test_what_would_fail_later_fails_before_any_training(
    prepared: Prepared, tmp_path: Path, methods: list[MethodChoice], words: str
) -> None:
    with pytest.raises(FusionInputError, match=words):
        compare(comparison(prepared, methods), tmp_path / "r", jobs=1)
    assert not (tmp_path / "r").exists()


# running it


def test_the_msaf_row_has_the_papers_number_of_parameters(tmp_path: Path) -> None:
    """678,272 of six LSTMs, 10,840 of five segments of MSAF and 225 of the one layer that predicts."""
    prepared = write(tmp_path / "p", widths={"video": 35, "audio": 74, "text": 768}, steps=50, longest=7)
    compare(comparison(prepared, METHODS[:1], recipe=replace(FAST, epochs=1)), tmp_path / "r", jobs=1)
    found = records(tmp_path / "r")
    lstms = [sum(4 * h * (d + h) + 8 * h for d in (width, h)) for width, h in ((35, 32), (74, 64), (768, 128))]
    assert sum(lstms) == 678_272
    msaf = found[key_of(comparison(prepared).methods, "msaf")]
    assert msaf["parameters"] == 689_337 == sum(lstms) + 10_840 + 225
    assert msaf["added_parameters"] == 10_840 + 225
    alone = [found[f"unimodal.{name}"]["parameters"] for name in ("video", "audio", "text")]
    assert alone == [count + h + 1 for count, h in zip(lstms, (32, 64, 128), strict=True)]


@pytest.mark.slow
def test_every_row_is_trained_once_from_random_weights(
    prepared: Prepared, finished: Path, tmp_path: Path, trained: list[dict[str, Tensor]]
) -> None:
    made = comparison(prepared)
    compare(made, tmp_path / "r", jobs=1)
    assert len(trained) == made.trainings == 3 + len(METHODS)
    found = records(tmp_path / "r")
    assert list(found) == [*(f"unimodal.{name}" for name in WIDTHS), *(choice.key for choice in made.methods)]
    assert {one["stage"] for one in found.values()} == {"unimodal", "intermediate", "system"}
    alone, msaf, mmtm = trained[2], trained[3], trained[4]
    weight = "networks.text.lstm1.weight_ih_l0"
    assert not torch.equal(alone[weight], msaf[weight])
    assert not torch.equal(msaf[weight], mmtm[weight])
    # one linear layer predicts from three last states: the networks have no heads, and theirs alone have
    assert "networks.text.head.1.weight" in alone
    assert not [key for key in msaf if ".head." in key]
    heads = [value for value in (msaf[key] for key in msaf if key.startswith("decide.")) if value.dim() == 2]
    assert [tuple(value.shape) for value in heads] == [(1, 32 + 64 + 128)]
    # the same seed gives the same start, to the last bit
    first = list(trained)
    trained.clear()
    compare(comparison(prepared, METHODS[:1]), tmp_path / "fewer", jobs=1)
    for before, again in zip(first[:4], trained, strict=True):
        assert all(torch.equal(before[key], again[key]) for key in before)
    trained.clear()
    compare(comparison(prepared, METHODS[:1], seeds=(1,)), tmp_path / "other", jobs=1)
    assert not torch.equal(trained[3][weight], msaf[weight])
    # and the same results
    assert without_time(list(records(finished).values())) == without_time(list(found.values()))


def test_the_target_is_learned_as_it_is_and_scores_are_those_of_the_saved_weights(
    prepared: Prepared, finished: Path
) -> None:
    made = comparison(prepared)
    rows = torch.from_numpy(made.protocol.folds[0].test)
    truth = made.samples.target[rows].double()
    kept = [np.array([entry.facts["target"] for entry in prepared.entries])[rows]]
    np.testing.assert_allclose(kept[0], truth, rtol=1e-6)
    for key, record in records(finished).items():
        network, spec = load_model(finished / record["weights"])
        assert "" not in spec.about["standardized"]
        names = list(spec.networks)
        inputs = []
        for name in names:
            x = made.samples.features[name][rows]
            mean, std = (torch.tensor(spec.about["standardized"][name][what]) for what in ("mean", "std"))
            real = torch.arange(x.shape[2]) < made.samples.lengths[name][rows][:, None]
            inputs.append(torch.where(real[:, None], (x - mean[:, None]) / std[:, None], 0))
        with torch.no_grad():
            value = (
                network(inputs, None, [made.samples.lengths[name][rows] for name in names]).prediction[:, 0].double()
            )
        assert record["test"]["mae"] == pytest.approx(float((value - truth).abs().mean()), rel=1e-4), key
        assert record["test"]["loss"] == pytest.approx(float((value - truth).square().mean()), rel=1e-4)
        assert isinstance(network, System) == (record["stage"] == "system")
        # published models are told that values lie within three
        assert spec.kind == "sentiment"
        assert spec.decision == "joint"


def test_a_sample_without_anything_is_answered_by_the_mean_of_training(prepared: Prepared, tmp_path: Path) -> None:
    made = comparison(prepared)
    setting = unit.Setting(
        made.methods, made.objective, made.recipe, starts=False, decision="joint", scale_target=False
    )
    folder = ResultFolder.create(tmp_path / "r", made.config(), {}, {}, resume=False)
    one = unit.Unit(folder.path, made.samples, made.protocol.folds[0], 0, setting)
    with folder.unit(0, 0) as file:
        as_it_is = runner.Runner(one, file).objective
        scaled = runner.Runner(replace(one, setting=replace(setting, scale_target=True)), file).objective
    train = made.samples.target[torch.from_numpy(made.protocol.folds[0].train)].double()
    assert (as_it_is.mean, as_it_is.std) == (0.0, 1.0)
    assert as_it_is.answer == pytest.approx(float(train.mean()))
    assert (scaled.mean, scaled.answer) == (pytest.approx(float(train.mean())), 0.0)
    assert scaled.std == pytest.approx(float(train.std(correction=0)))


def test_published_models_bring_their_own_batches_and_rates_on_record(prepared: Prepared, tmp_path: Path) -> None:
    options = {"width": 3, "hidden": [4], "batch_size": 15}
    compare(
        comparison(prepared, [MethodChoice("dcca_one_step", options), MethodChoice("msaf")]), tmp_path / "r", jobs=1
    )
    found = records(tmp_path / "r")
    own = found[key_of([MethodChoice("dcca_one_step", options)], "dcca_one_step")]
    assert own["recipe"] == {"batch_size": 15, "learning_rate": 1e-3}
    assert own["added_parameters"] is None
    assert "recipe" not in found[key_of(comparison(prepared).methods, "msaf")]


def test_the_published_alignment_is_trained_on_as_it_is(tmp_path: Path) -> None:
    """Nothing is scaled, and there are no lengths: zeros in front are a part of what the networks read."""
    prepared = write(tmp_path / "p", parameters={"alignment": "published"})
    made = comparison(prepared, METHODS[:1])
    assert made.samples.lengths == {}
    compare(made, tmp_path / "r", jobs=1)
    record = records(tmp_path / "r")[made.methods[0].key]
    network, spec = load_model(tmp_path / "r" / record["weights"])
    assert "standardized" not in spec.about
    rows = torch.from_numpy(made.protocol.folds[0].test)
    with torch.no_grad():
        value = network([x[rows] for x in made.samples.features.values()]).prediction[:, 0]
    assert record["test"]["mae"] == pytest.approx(float((value - made.samples.target[rows]).abs().mean()), rel=1e-4)


def test_noise_is_on_features_and_not_on_words(tmp_path: Path) -> None:
    prepared = write(tmp_path / "p", widths={"video": 3, "audio": 4})
    compare(comparison(prepared, METHODS[:1], noise=(0.0, 2.0)), tmp_path / "r", jobs=1)
    for record in records(tmp_path / "r").values():
        own = {"video", "audio"} if record["stage"] != "unimodal" else {record["modality"]} - {"text"}
        assert set(record["test_noise"]) == own
        for levels in record["test_noise"].values():
            assert levels["0"]["loss"] == pytest.approx(record["test"]["loss"], rel=1e-5)
            assert levels["2"]["loss"] != record["test"]["loss"]


def test_noise_is_measured_in_deviations_of_the_real_steps(prepared: Prepared, tmp_path: Path) -> None:
    """Features are standardized on these, so each channel's deviation is one, however much padding there is."""
    made = comparison(prepared)
    setting = unit.Setting(made.methods, made.objective, made.recipe, starts=False)
    folder = ResultFolder.create(tmp_path / "r", made.config(), {}, {}, resume=False)
    with folder.unit(0, 0) as file:
        ready = runner.Runner(unit.Unit(folder.path, made.samples, made.protocol.folds[0], 0, setting), file)
    for m, name in enumerate(made.samples.modalities):
        spread = runner._spread(ready.train.only(m))
        torch.testing.assert_close(spread, torch.ones(WIDTHS[name]), atol=0.01, rtol=0)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_results(
    prepared: Prepared, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = runner.train

    def killed(network: Any, *others: Any, **more: Any) -> Any:
        if isinstance(network, FusedNetwork) and network.stage is not None and len(network.points[0].channels) == 3:
            raise KeyboardInterrupt
        return real(network, *others, **more)

    out = tmp_path / "r"
    monkeypatch.setattr(runner, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(comparison(prepared), out, jobs=1)
    (file,) = (out / "metrics").iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    file.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # as if it had been killed while it wrote
    monkeypatch.undo()
    seen: list[str | None] = []

    def counted(network: Any, *others: Any, **more: Any) -> Any:
        seen.append(getattr(network, "stage", "system"))
        return real(network, *others, **more)

    monkeypatch.setattr(runner, "train", counted)
    with pytest.raises(ResultError, match="--resume"):
        compare(comparison(prepared), out, jobs=1)
    with pytest.raises(ResultError, match=r"recipe\.epochs: 2 there, 3 now"):
        compare(comparison(prepared, METHODS, recipe=replace(FAST, epochs=3)), out, jobs=1, resume=True)
    compare(comparison(prepared), out, jobs=1, resume=True)
    assert seen == [None, "intermediate", "intermediate", "system"]
    assert without_time(list(records(out).values())) == without_time(list(records(finished).values()))
    assert (out / "table.txt").read_text().count("\n") == (finished / "table.txt").read_text().count("\n")


@pytest.mark.slow
def test_one_process_and_two_come_to_the_same(tmp_path: Path) -> None:
    """Lengths, words and what is on disk reach the other processes."""
    prepared = write(tmp_path / "p", widths={"video": 3, "audio": 4})
    made = comparison(prepared, seeds=(0, 1))
    for jobs in (1, 2):
        compare(made, tmp_path / str(jobs), jobs=jobs)
    one, two = (without_time(ResultFolder(tmp_path / str(jobs)).records()) for jobs in (1, 2))
    assert len(one) == made.trainings == 2 * 6
    assert one == two
    for path in sorted((tmp_path / "1").glob("weights/*/*")):
        a, b = load_file(path), load_file(tmp_path / "2" / path.relative_to(tmp_path / "1"))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert json.loads((tmp_path / "1/splits.json").read_text()) == json.loads((tmp_path / "2/splits.json").read_text())


def test_a_file_of_folds_is_said_to_be_one(tmp_path: Path) -> None:
    made = comparison(write(tmp_path, parameters={"folds": "file 0123abcd"}))
    assert made.protocol.name == "file 0123abcd"
    assert made.protocol.description == (
        "Folds of a file 0123abcd, not the standard ones, by video (15 train, 6 validation, 6 test utterances)"
    )
    assert made.protocol.citation is None


def test_too_few_samples_for_a_correlation_are_found_before_any_training(tmp_path: Path) -> None:
    made = comparison(write(tmp_path), [MethodChoice("msaf"), MethodChoice("dcca_one_step")])
    said = r"dcca_one_step.*it needs batches of 101 samples that have all modalities; fold 0 has 15 such of 15"
    with pytest.raises(FusionInputError, match=said):
        made.check()
    comparison(write(tmp_path), [MethodChoice("dcca_one_step", {"width": 3, "batch_size": 10})]).check()


def test_the_vocabulary_is_of_those_who_train_where_validation_is_drawn(tmp_path: Path) -> None:
    prepared = write(tmp_path, widths={"video": 3, "audio": 4}, parts=("train",) * 6 + ("test",))
    made = comparison(prepared)
    (fold,) = made.protocol.folds
    words = [entry.facts["words"] for entry in prepared.entries]
    counts = Counter(word for row in fold.train.tolist() for word in words[row])
    assert made.about["vocabulary"] == sorted(word for word, count in counts.items() if count > 1)
    assert "drawn at random" in made.protocol.description


def test_vectors_in_other_parts_than_their_own_are_said_to_be(tmp_path: Path) -> None:
    made = comparison(write(tmp_path, parameters={"resplit": True}))
    said = "VECTORS RE-SPLIT: they may have seen labels that are tested here, and scores be too good. Standard folds"
    assert made.protocol.description.startswith(said)
