"""Protects the fairness of a comparison: no leak from the test part, one start and one order for all, nothing repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.experiments.made_up import METHODS, comparison, make, run, with_test_rows_of, without_time
from torchmsaf.data import Fold, make_samples
from torchmsaf.errors import DataError, FusionInputError, ProtocolError
from torchmsaf.experiments import MethodChoice, ResultFolder, choose_methods, runner, unit
from torchmsaf.tasks.model_file import read_spec
from torchmsaf.tasks.training import Trained


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(folder)): load_file(path) for path in sorted(folder.glob("weights/*/*"))}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_test_rows_influence_nothing_that_is_trained_or_chosen(tmp_path: Path) -> None:
    samples = make()
    changed, protocol = with_test_rows_of(samples, 0, make(noise=7))
    protocol = replace(protocol, folds=protocol.folds[:1])
    for name, data in (("clean", samples), ("changed", changed)):
        run(tmp_path / name, comparison(data, protocol=protocol, seeds=(0,)))
    clean, dirty = weights(tmp_path / "clean"), weights(tmp_path / "changed")
    assert clean.keys() == dirty.keys()
    assert all(same(clean[key], dirty[key]) for key in clean)
    records = [ResultFolder(tmp_path / name).records() for name in ("clean", "changed")]
    for one, other in zip(*records, strict=True):
        assert all(one[key] == other[key] for key in ("validation", "epochs", "best_epoch", "train_size"))
        assert one["stage"] == "start" or one["test"] != other["test"]


def test_every_method_starts_from_the_same_weights_and_sees_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, dict[str, torch.Tensor], int, int]] = []
    real = runner.train

    def watched(network: Any, part: Any, *others: Any, order_seed: int, **more: Any) -> Trained:
        state = {key: value.clone() for key, value in network.state_dict().items()}
        seen.append((network.stage or "alone", state, order_seed, len(part)))
        return real(network, part, *others, order_seed=order_seed, **more)

    monkeypatch.setattr(runner, "train", watched)
    run(
        tmp_path / "r",
        comparison(seeds=(0,), protocol=replace(comparison().protocol, folds=comparison().protocol.folds[:1])),
    )
    assert len(seen) == 2 + 2 + len(METHODS)
    assert len({order for _, _, order, _ in seen}) == 1
    assert len({rows for _, _, _, rows in seen}) == 1
    for name in ("a", "b"):
        start = load_file(tmp_path / f"r/weights/fold-0.seed-0/start.{name}.safetensors")
        for _, state, _, _ in seen[2:]:
            own = {key: value for key, value in state.items() if key.startswith(f"networks.{name}.")}
            assert not own or same(own, start)
    assert sum(f"networks.{name}.head.1.weight" in state for _, state, _, _ in seen[2:] for name in "ab") == 2 + 6


def test_groups_are_never_shared(tmp_path: Path) -> None:
    run(tmp_path / "r", comparison(seeds=(0,), methods=METHODS[:1]))
    samples = make()
    assert samples.groups is not None
    group = dict(zip(samples.ids, samples.groups, strict=True))
    tested: list[str] = []
    for parts in json.loads((tmp_path / "r/splits.json").read_text()).values():
        members = [{group[name] for name in parts[part]} for part in ("train", "validation", "test")]
        assert sum(map(len, members)) == len(set.union(*members)) == 8
        tested += parts["test"]
    assert sorted(tested) == sorted(samples.ids)


def test_a_run_is_repeatable_and_does_not_depend_on_the_other_methods(tmp_path: Path) -> None:
    run(tmp_path / "one", comparison(seeds=(1,)))
    run(tmp_path / "two", comparison(seeds=(1,)))
    run(tmp_path / "less", comparison(seeds=(1,), methods=METHODS[2:]))
    one, two, less = (without_time(ResultFolder(tmp_path / name).records()) for name in ("one", "two", "less"))
    assert one == two
    assert [record for record in one if record["method"] not in ("averaging", "concat")] == less


def test_samples_that_lack_a_modality(tmp_path: Path) -> None:
    run(tmp_path / "r", comparison(make(absent=True), seeds=(0,)))
    for record in ResultFolder(tmp_path / "r").records():
        if record["stage"] != "start":
            assert record["test_size"] == len(
                json.loads((tmp_path / "r/splits.json").read_text())[str(record["fold"])]["test"]
            )
            assert 0 <= record["test"]["accuracy"] <= 1


def test_the_record(tmp_path: Path) -> None:
    run(tmp_path / "r", comparison(seeds=(0,)))
    records = {record["key"]: record for record in ResultFolder(tmp_path / "r").records() if record["fold"] == 0}
    assert list(records) == ["start.a", "start.b", "unimodal.a", "unimodal.b", "averaging", "concat_hidden=_8_", "msaf"]
    msaf, left = records["msaf"], records["unimodal.a"]
    assert msaf["parameters"] == msaf["added_parameters"] + left["parameters"] + records["unimodal.b"]["parameters"]
    assert msaf["train_size"] + msaf["validation_size"] + msaf["test_size"] == 48
    assert left["test_missing"] == {"a": None, "b": left["test"]}
    assert set(msaf["test_missing"]) == {"a", "b"}
    assert msaf["seconds"] > 0
    assert 0 <= msaf["best_epoch"] <= msaf["epochs"] <= 2
    assert records["concat_hidden=_8_"]["options"] == {"hidden": [8]}


def test_a_diverged_training_is_said_under_the_table(tmp_path: Path) -> None:
    made = comparison(seeds=(0,), methods=METHODS[:1])
    table = run(tmp_path / "r", replace(made, recipe=replace(made.recipe, learning_rate=1e30)))
    assert any("became no finite number" in note for note in table.notes)


def test_a_failed_training_names_itself_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmsaf.errors import ResultError

    real = runner.train

    def fails(network: Any, *others: Any, **more: Any) -> Trained:
        if network.stage == "early":
            raise RuntimeError("no memory")
        return real(network, *others, **more)

    monkeypatch.setattr(runner, "train", fails)
    with pytest.raises(
        ResultError, match=r"training 'concat_hidden=_8_' failed in fold 0, seed 0: no memory.*--resume"
    ):
        run(tmp_path / "r")
    monkeypatch.undo()
    assert [record["method"] for record in ResultFolder(tmp_path / "r").records()] == ["a", "b", "a", "b", "averaging"]
    run(tmp_path / "r", resume=True)
    run(tmp_path / "s")
    assert without_time(ResultFolder(tmp_path / "r").records()) == without_time(ResultFolder(tmp_path / "s").records())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kind": "regression"}, DataError, "the target holds classes, which does not fit regression"),
        ({"networks": {"c": "x.Y"}}, DataError, "network given for 'c'; the modalities are a, b"),
        ({"networks": {"a": "nowhere.Y"}}, FusionInputError, "cannot be imported"),
        ({"methods": [MethodChoice("msaf", {"blok": 1})]}, FusionInputError, "msaf: .*'blok'"),
        ({"methods": [MethodChoice("msaf", {"block_channels": 10**6})]}, FusionInputError, "parameters: check its"),
        ({"methods": [MethodChoice("msaf", {"segments": 2})]}, FusionInputError, r"method 'msaf \(segments=2\)': "),
        (
            {"methods": [MethodChoice("msaf", {"channels": [4]})]},
            FusionInputError,
            "'channels' is set by the comparison",
        ),
        ({"seeds": ()}, DataError, "no seeds"),
    ],
)
def test_what_would_fail_later_fails_before_any_training(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "r", comparison(**changes))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_check_leaves_the_random_state_and_runs_every_method(kind: Any) -> None:
    samples = make()
    if kind == "regression":
        samples = make_samples("made-up", samples.features, samples.target.float())
    made = comparison(samples, kind=kind, methods=choose_methods(None, regression=kind == "regression"))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made.check()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fold_that_leaks_is_refused_whoever_made_it(tmp_path: Path) -> None:
    made = comparison()
    first = made.protocol.folds[0]
    leaky = Fold(0, first.train, first.test, first.test)
    with pytest.raises(ProtocolError, match="in both validation and test"):
        run(tmp_path / "r", replace(made, protocol=replace(made.protocol, folds=(leaky,))))


def test_a_modality_that_training_hardly_has(tmp_path: Path) -> None:
    samples = make()
    samples.present[1:, 1] = False
    samples.features["b"][1:] = 0
    with pytest.raises(ProtocolError, match="training samples have modality 'b'; 2 or more are needed"):
        run(tmp_path / "r", comparison(samples))


def test_jobs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="jobs is 0"):
        run(tmp_path / "r", jobs=0)


def test_samples_travel_to_other_processes_unchanged() -> None:
    samples = make(absent=True)
    back = unit._as_samples(unit._as_arrays(samples))
    assert back.fingerprint == samples.fingerprint
    assert torch.equal(back.present, samples.present)
    assert list(back.features) == list(samples.features)


def test_noise_is_measured_in_deviations_of_the_training_samples_that_have_the_modality(tmp_path: Path) -> None:
    samples = make(absent=True)
    whole = comparison(samples, seeds=(0,))
    whole = replace(whole, protocol=replace(whole.protocol, folds=whole.protocol.folds[:1]), noise=(0.0, 3.0))
    run(tmp_path / "r", whole)
    records = [one for one in ResultFolder(tmp_path / "r").records() if one["stage"] != "start"]
    for record in records:
        own = {record["modality"]} if record["modality"] else {"a", "b"}
        assert set(record["test_noise"]) == own
        for levels in record["test_noise"].values():
            assert list(levels) == ["0", "3"]
            assert levels["0"] == pytest.approx(record["test"], rel=1e-5)
    text = (tmp_path / "r" / "table.txt").read_text()
    assert "robustness" in text
    # standardized on the samples that have it: their deviation is one, whatever is absent
    part = runner._spread
    fold = whole.protocol.folds[0]
    with ResultFolder(tmp_path / "r").unit(0, 0) as file:
        made = runner.Runner(
            unit.Unit(tmp_path / "r", samples, fold, 0, unit.Setting((), whole.objective, whole.recipe)), file
        )
    for m in range(2):
        torch.testing.assert_close(
            part(made.train.only(m)), torch.ones(samples.features["ab"[m]].shape[1]), atol=0.01, rtol=0
        )


def test_weights_that_have_seen_who_tests_are_refused(tmp_path: Path) -> None:
    whole = comparison(seeds=(0,))
    first, second = (
        replace(whole, protocol=replace(whole.protocol, folds=(fold,))) for fold in whole.protocol.folds[:2]
    )
    run(tmp_path / "first", first)
    model = str(next((tmp_path / "first").glob("weights/*/msaf.safetensors")))
    seen = {
        whole.samples.groups[row] for part in ("train", "validation") for row in getattr(first.protocol.folds[0], part)
    }
    assert set(read_spec(model).seen["made-up"]) == seen
    replace(first, pretrained={"a": model}).check()
    with pytest.raises(
        ProtocolError, match=r"was trained, or its epoch chosen, on g.*, which test in fold 1: use weights"
    ):
        replace(second, pretrained={"a": model}).check()
    other = make_samples(
        "other", whole.samples.features, whole.samples.target, classes=("x", "y", "z"), groups=whole.samples.groups
    )
    replace(second, samples=other, pretrained={"a": model}).check()  # groups of one name, and not the same ones
    # what was seen is handed on
    run(tmp_path / "again", replace(first, pretrained={"a": model}))
    assert set(read_spec(next((tmp_path / "again").glob("weights/*/msaf.safetensors"))).seen["made-up"]) == seen


# random starts


def test_without_starts_every_row_is_trained_once_from_weights_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, torch.Tensor]] = []
    orders: list[int] = []
    real = runner.train

    def watched(network: Any, *others: Any, order_seed: int, **more: Any) -> Trained:
        states.append({key: value.clone() for key, value in network.state_dict().items()})
        orders.append(order_seed)
        return real(network, *others, order_seed=order_seed, **more)

    monkeypatch.setattr(runner, "train", watched)
    whole = comparison(seeds=(0,), starts=False)
    made = replace(whole, protocol=replace(whole.protocol, folds=whole.protocol.folds[:1]))
    assert replace(made, starts=True).trainings == made.trainings + 2
    run(tmp_path / "r", made)
    records = ResultFolder(tmp_path / "r").records()
    assert [one["key"] for one in records] == ["unimodal.a", "unimodal.b", *(choice.key for choice in METHODS)]
    assert len(states) == len(records) == made.trainings
    assert len(set(orders)) == 1
    firsts = [value for state in states for key, value in state.items() if key == "networks.a.stages.0.0.weight"]
    assert len(firsts) == 1 + len(METHODS)
    assert all(not torch.equal(a, b) for k, a in enumerate(firsts) for b in firsts[:k])
    assert json.loads((tmp_path / "r/config.json").read_text())["random_start"] is True
    # the same seed starts the same, whatever else is compared
    before = list(states)
    states.clear()
    run(tmp_path / "less", replace(made, methods=METHODS[2:]))
    assert same(states[2], before[4])
    states.clear()
    run(tmp_path / "other", replace(made, methods=METHODS[2:], seeds=(1,)))
    assert not same(states[2], before[4])


def test_what_other_comparisons_do_not_have_is_not_in_their_configuration(tmp_path: Path) -> None:
    made = comparison()
    assert not {"random_start", "decision", "target_as_it_is"} & made.config().keys()
    changed = replace(made, starts=False, decision="joint", scale_target=False)
    assert changed.config() == {**made.config(), "random_start": True, "decision": "joint", "target_as_it_is": True}
    from torchmsaf.errors import ResultError

    run(tmp_path / "r", replace(made, seeds=(0,), methods=METHODS[:1]))
    for key, change in (
        ("random_start", {"starts": False}),
        ("target_as_it_is", {"scale_target": False}),
    ):
        with pytest.raises(ResultError, match=rf"another comparison \({key}: null there, true now\)"):
            run(tmp_path / "r", replace(made, seeds=(0,), methods=METHODS[:1], **change), resume=True)
    with pytest.raises(ResultError, match=r'another comparison \(decision: null there, "mean" now\)'):
        run(tmp_path / "r", replace(made, seeds=(0,), methods=METHODS[:1], decision="mean"), resume=True)


def test_pretrained_weights_are_refused_where_every_row_begins_with_random_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pretrained weights are given, and this comparison begins with random ones"):
        run(tmp_path / "r", comparison(starts=False, pretrained={"a": "x.safetensors"}))
    assert not (tmp_path / "r").exists()


def test_one_layer_on_all_features_starts_from_the_unimodal_networks_too(tmp_path: Path) -> None:
    """The networks of such a row have no heads, and all else that their unimodal ones have."""
    made = comparison(
        seeds=(0,), decision="joint", methods=[METHODS[2]], recipe=replace(comparison().recipe, learning_rate=1e-12)
    )
    run(tmp_path / "r", replace(made, protocol=replace(made.protocol, folds=made.protocol.folds[:1])))
    states = weights(tmp_path / "r")
    msaf = states["weights/fold-0.seed-0/msaf.safetensors"]
    assert not [key for key in msaf if ".head." in key]
    for name in "ab":
        start = states[f"weights/fold-0.seed-0/start.{name}.safetensors"]
        own = {
            key: value
            for key, value in msaf.items()
            if key.startswith(f"networks.{name}.") and key.endswith((".weight", ".bias"))
        }
        assert own
        for key, value in own.items():
            torch.testing.assert_close(value, start[key], atol=1e-6, rtol=0)


def test_a_target_as_it_is_is_neither_scaled_in_training_nor_in_the_file(tmp_path: Path) -> None:
    samples = make()
    value = samples.target.float() * 40 + 100
    numbers = make_samples("made-up", samples.features, value, groups=samples.groups)
    for scaled in (True, False):
        made = comparison(numbers, kind="regression", seeds=(0,), methods=[METHODS[1]], scale_target=scaled)
        made = replace(made, protocol=replace(made.protocol, folds=made.protocol.folds[:1]))
        run(tmp_path / str(scaled), made)
        records = {one["key"]: one for one in ResultFolder(tmp_path / str(scaled)).records()}
        spec = read_spec(tmp_path / str(scaled) / records["concat_hidden=_8_"]["weights"])
        train = value[torch.from_numpy(made.protocol.folds[0].train)].double()
        assert ("" in spec.about["standardized"]) == scaled
        if scaled:
            kept = spec.about["standardized"][""]
            assert kept["mean"] == [pytest.approx(float(train.mean()))]
            assert kept["std"] == [pytest.approx(float(train.std(correction=0)))]
        # squared errors of values about 140, after two epochs of small steps
        assert (records["concat_hidden=_8_"]["test"]["loss"] > 100) == (not scaled)


def test_lengths_and_words_travel_to_other_processes_unchanged() -> None:
    x = torch.ones(4, 1, 3)
    x[0, 0, 1:] = 0
    lengths = {"said": torch.tensor([1, 3, 3, 3])}
    samples = make_samples("s", {"said": x}, torch.zeros(4), lengths=lengths, tokens={"said": 2})
    back = unit._as_samples(unit._as_arrays(samples))
    assert torch.equal(back.lengths["said"], lengths["said"])
    assert (back.tokens, back.fingerprint) == (samples.tokens, samples.fingerprint)
