"""Protects the comparison on clips of actions: its rows, who trained them, the paper's places, protocols and numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from tests.data.ntu_clips import SUBJECTS, write_clips
from torchmsaf.analysis.table import Table
from torchmsaf.data.ntu import FIRST_ACTIONS, TRAIN_SUBJECTS_60
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.skeleton_arrays import load_skeletons
from torchmsaf.errors import DataError, FusionInputError, ProtocolError
from torchmsaf.experiments import Comparison, MethodChoice, ResultFolder, compare
from torchmsaf.experiments.action import action_comparison, array_actions
from torchmsaf.experiments.results import make_published, make_table
from torchmsaf.tasks.action import NETWORKS, PLACEMENTS
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec, load_model, model_bytes
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.recipe import Recipe

METHODS = (MethodChoice("msaf"), MethodChoice("concat", {"hidden": [8]}))
FAST = Recipe(epochs=1, patience=1, batch_size=4)
PAPER = {"min_attention": 0.5, "reduction": 4}
# four parts in eight of the small clips: who trains, validates, tests
TRAINED, TESTED = ("P001", "P004", "P008", "P002", "P005"), ("P003", "P006")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_clips(tmp_path_factory.mktemp("bodies"), cameras=(1, 2), modalities=("skeleton",))


def comparison(prepared: Prepared, methods: Any = METHODS, **settings: Any) -> Comparison:
    return action_comparison(prepared, methods, **{"recipe": FAST, **settings})


@pytest.fixture(scope="module")
def finished(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "r"
    compare(comparison(prepared, noise=(0.0, 2.0)), out, jobs=1)
    return out


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {one["key"]: one for one in ResultFolder(folder).records()}


def predicted(made: Comparison, file: Path, rows: Any) -> Any:
    """Logits of a model in a file, of some rows."""
    network, spec = load_model(file)
    assert isinstance(network, FusedNetwork)
    index = torch.from_numpy(rows)
    inputs = [made.samples.features[name][index] for name in spec.networks]
    lengths = [made.samples.lengths[name][index] if name in made.samples.lengths else None for name in spec.networks]
    with torch.no_grad():
        return network(inputs, None, lengths).prediction


# what it is about


def test_logits_are_averaged_in_training_too(prepared: Prepared, finished: Path) -> None:
    """In the network that trains, and so in its file: a sum would decide alike and learn otherwise."""
    made = comparison(prepared)
    record = next(one for one in records(finished).values() if one["method"] == "msaf")
    network, spec = load_model(finished / record["weights"])
    assert spec.decision == "mean"
    rows = torch.arange(4)
    inputs = [made.samples.features[name][rows] for name in spec.networks]
    said = network(inputs, None, [None, made.samples.lengths["skeleton"][rows]])
    torch.testing.assert_close(said.prediction, sum(said.parts) / 2)


def test_titles_state_the_networks_the_preset_the_protocol_and_what_is_made_up(
    prepared: Prepared, bodies: Prepared
) -> None:
    said = "Actions of NTU RGB+D, MADE-UP clips, "
    small = f"{said}rgb, skeleton (i3d and hcn, preset small), protocol cross-subject"
    assert comparison(prepared).title == small
    assert comparison(prepared, rgb="resnet50").title == small.replace("i3d", "resnet50")
    assert comparison(bodies, []).title == f"{said}skeleton (hcn), protocol cross-subject"
    assert comparison(bodies, [], protocol="cross-view").title == f"{said}skeleton (hcn), protocol cross-view"


def test_true_clips_are_not_said_to_be_made_up(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, "ntu", {"modalities": ["skeleton"]})
    for person in (1, 2, 3):
        for action in (1, 2):
            body = np.random.default_rng(person).normal(size=(3, 10, 25, 1)).astype(np.float32)
            writer.write(f"S001C001P{person:03}R001A{action:03}", {"skeleton": body}, {"action": action})
    made = comparison(writer.finish(), [])
    assert made.title == "Actions of NTU RGB+D, skeleton (hcn), protocol cross-subject"
    assert made.about["made_up"] is False


def test_sizes_are_those_of_the_preset_and_its_networks(prepared: Prepared, bodies: Prepared) -> None:
    made = comparison(prepared)
    assert made.samples.features["rgb"].shape[1:] == (3, 8, 56, 56)
    assert made.samples.features["skeleton"].shape[1:] == (3, 32, 25, 2)
    assert made.networks == NETWORKS
    assert made.network_options["rgb"]["kind"] == "i3d"
    assert comparison(prepared, checkpointing=True).network_options["rgb"]["checkpointing"] is True
    assert comparison(prepared, persons=3).samples.features["skeleton"].shape[1:] == (3, 32, 25, 3)
    alone = comparison(bodies, [])
    assert alone.networks == {"skeleton": NETWORKS["skeleton"]}
    assert alone.network_options == {}
    assert (made.kind, made.starts, made.decision) == ("classification", True, "mean")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "tiny"}, "there is no preset 'tiny'"),
        ({"rgb": "vgg"}, "there is no RGB network 'vgg'"),
        ({"persons": 0}, "persons is 0"),
        ({"draw": "wild"}, "draw is 'wild'"),
        ({"preset": "full"}, "preset full is for frames of 256 x 256, and those of .* are 64 x 64"),
    ],
)
def test_what_is_not_there_is_said(prepared: Prepared, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        comparison(prepared, **settings)


def test_only_clips_of_actions_with_every_part_can_be_compared(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="the test part is empty"):
        comparison(write_clips(tmp_path / "a", subjects=(1, 2), modalities=("skeleton",)))
    with pytest.raises(ProtocolError, match="cross-setup is for NTU RGB\\+D 120"):
        comparison(prepared, protocol="cross-setup")
    with pytest.raises(ProtocolError, match="there is no protocol 'x'"):
        comparison(prepared, protocol="x")
    other = PreparedWriter(tmp_path / "b", "ravdess", {"size": 64})
    other.write("S001C001P001R001A001", {"skeleton": np.zeros((3, 2, 25, 1), np.float32)}, {})
    with pytest.raises(DataError, match="is prepared from 'ravdess'; 'ntu' is needed"):
        comparison(other.finish())


# methods and places


def test_msaf_has_the_papers_options_where_none_are_given(prepared: Prepared) -> None:
    asked = [MethodChoice("msaf"), MethodChoice("msaf", {"min_attention": 0.0, "points": 1}), MethodChoice("mmtm")]
    options = [choice.options for choice in comparison(prepared, asked).methods]
    assert options == [PAPER, {**PAPER, "min_attention": 0.0, "points": 1}, {}]


def test_placement_adds_the_seven_rows_of_table_5(prepared: Prepared) -> None:
    made = comparison(prepared, [], placement=True)
    assert [choice.options for choice in made.methods] == [{**PAPER, "points": list(places)} for places in PLACEMENTS]
    assert [choice.options["points"] for choice in made.methods] == [
        ["early"],
        ["intermediate"],
        ["late"],
        ["early", "intermediate"],
        ["early", "late"],
        ["intermediate", "late"],
        ["early", "intermediate", "late"],
    ]
    assert len({choice.key for choice in made.methods}) == 7
    assert made.trainings == 2 * 2 + 7
    made.check()
    # one that is asked for too is there once
    asked = [MethodChoice("concat"), MethodChoice("msaf", {"points": ["late"]})]
    both = comparison(prepared, asked, placement=True).methods
    assert [choice.name for choice in both] == ["concat"] + ["msaf"] * 7
    assert [choice.options for choice in both].count({**PAPER, "points": ["late"]}) == 1


@pytest.mark.parametrize("settings", [{"rgb": "resnet50"}, {"persons": 3}, {"persons": 1}, {"draw": "published"}])
def test_other_networks_persons_and_draws_can_be_trained(prepared: Prepared, settings: dict[str, Any]) -> None:
    comparison(prepared, METHODS[:1], **settings).check()


# what comes out


def test_every_network_and_method_has_a_row(finished: Path, prepared: Prepared) -> None:
    made, found = comparison(prepared), records(finished)
    assert list(found) == ["start.rgb", "start.skeleton", "unimodal.rgb", "unimodal.skeleton"] + [
        choice.key for choice in made.methods
    ]
    told = (finished / "table.txt").read_text()
    for text in (made.title, "unimodal", "early fusion", "intermediate fusion", "robustness, test accuracy"):
        assert text in told
    for record in found.values():
        if record["stage"] == "start":
            continue
        assert set(record["test"]) == {"loss", "accuracy", "macro_f1"}
        assert (record["train_size"], record["validation_size"], record["test_size"]) == (9, 6, 6)
        for levels in record["test_noise"].values():
            assert levels["0"]["loss"] == pytest.approx(record["test"]["loss"], rel=1e-5)
            assert levels["2"]["loss"] != record["test"]["loss"]
    splits = json.loads((finished / "splits.json").read_text())["0"]
    assert {name[8:12] for part in ("train", "validation") for name in splits[part]} == set(TRAINED)
    assert {name[8:12] for name in splits["test"]} == set(TESTED)
    assert len(TRAINED) + len(TESTED) == len(SUBJECTS)


def test_weights_say_whom_they_have_seen_and_what_of(finished: Path) -> None:
    for record in records(finished).values():
        spec = load_model(finished / record["weights"])[1]
        assert {name: set(groups) for name, groups in spec.seen.items()} == {"NTU RGB+D": set(TRAINED)}
        about = spec.about
        assert (about["task"], about["protocol"], about["made_up"]) == ("action", "cross-subject", True)
        assert (about["rgb"], about["preset"]) == ("i3d", "small")
        assert about["classes"] == ["A001 drink water", "A023 hand waving", "A050 punching/slapping other person"]
        assert about["parameters"]["sampling"] == "inside"
        assert {name: one.path for name, one in spec.networks.items()} == {
            name: NETWORKS[name] for name in spec.networks
        }


def test_a_model_file_predicts_what_was_tested(finished: Path, prepared: Prepared) -> None:
    """The middle of the clips, all of the time, and absent persons told by lengths."""
    made = comparison(prepared)
    rows = made.protocol.folds[0].test
    target = made.samples.target[torch.from_numpy(rows)]
    for key, record in records(finished).items():
        if record["stage"] == "start":
            continue
        logits = predicted(made, finished / record["weights"], rows)
        loss = float(torch.nn.functional.cross_entropy(logits, target))
        assert record["test"]["loss"] == pytest.approx(loss, rel=1e-4), key
        assert record["test"]["accuracy"] == pytest.approx(float((logits.argmax(1) == target).float().mean()))


def test_skeletons_alone_are_compared_too(bodies: Prepared, tmp_path: Path) -> None:
    made = comparison(bodies, [], preset="small", protocol="cross-view")
    compare(made, tmp_path / "r", jobs=1)
    assert list(records(tmp_path / "r")) == ["start.skeleton", "unimodal.skeleton"]
    spec = load_model(tmp_path / "r" / records(tmp_path / "r")["unimodal.skeleton"]["weights"])[1]
    assert set(spec.seen["NTU RGB+D"]) == {f"C002{group}" for group in (*TRAINED, *TESTED)}


@pytest.mark.slow
def test_the_published_protocol_chooses_on_test_subjects_and_says_so(prepared: Prepared, tmp_path: Path) -> None:
    recipe = replace(FAST, alternate=True, decay_epochs=(1,))
    made = comparison(prepared, METHODS[:1], protocol="published", recipe=recipe)
    assert made.protocol.chosen_on_test
    assert made.title.endswith("protocol published")
    assert made.samples.lengths["skeleton"].tolist() == [2] * len(prepared)
    assert made.objective.chosen_by == "loss"
    compare(made, tmp_path / "r", jobs=1)
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert config["protocol"]["chosen_on_test"] is True
    assert config["objective"]["epoch_chosen_by"] == "smallest loss on test samples"
    told = (tmp_path / "r/table.txt").read_text()
    assert "PUBLISHED PROTOCOL: the best epoch is chosen on four of the test subjects" in " ".join(told.split())
    splits = json.loads((tmp_path / "r/splits.json").read_text())["0"]
    assert {name[8:12] for name in splits["validation"]} == set(TESTED)
    assert set(splits["validation"]) <= set(splits["test"])
    assert {int(name[9:12]) for name in splits["train"]} <= set(TRAIN_SUBJECTS_60)
    spec = load_model(tmp_path / "r" / records(tmp_path / "r")[made.methods[0].key]["weights"])[1]
    assert set(spec.seen["NTU RGB+D"]) == {*TRAINED, *TESTED}


def test_its_draw_is_the_published_one_unless_another_is_asked_for(prepared: Prepared) -> None:
    def draws(**settings: Any) -> set[str]:
        return {x.draw for x in comparison(prepared, [], **settings).samples.features.values()}  # type: ignore[union-attr]

    assert draws() == {"random"}
    assert draws(protocol="published") == {"published"}
    assert draws(protocol="published", draw="none") == {"none"}


# pretrained weights


def weights(path: Path, options: dict[str, Any], **about: Any) -> str:
    """A file of I3D's weights that says what it is given."""
    spec = ModelSpec({"rgb": NetworkSpec((3, 8, 56, 56), NETWORKS["rgb"], options)}, None, 3, about=about)
    path.write_bytes(model_bytes(spec.build().state_dict(), spec))
    return str(path)


def test_weights_of_another_protocol_are_refused(
    finished: Path, prepared: Prepared, bodies: Prepared, tmp_path: Path
) -> None:
    found = records(finished)
    own = {name: str(finished / found[f"unimodal.{name}"]["weights"]) for name in ("rgb", "skeleton")}
    comparison(prepared, METHODS[:1], pretrained=own).check()
    said = "was trained with protocol cross-subject, and may have seen who tests in cross-view: use weights of the same"
    with pytest.raises(DataError, match=said):
        comparison(bodies, [], preset="small", protocol="cross-view", pretrained={"skeleton": own["skeleton"]})
    with pytest.raises(DataError, match=r"gone\.safetensors: there is no such file"):
        comparison(prepared, pretrained={"rgb": str(tmp_path / "gone.safetensors")})


def test_weights_that_have_seen_who_tests_are_refused_under_every_name(prepared: Prepared, tmp_path: Path) -> None:
    options = comparison(prepared).network_options["rgb"]
    fine = weights(tmp_path / "a", dict(options), released="ntu-i3d", seen={"NTU RGB+D": ["P001", "P040"]})
    comparison(prepared, METHODS[:1], pretrained={"rgb": fine}).check()
    leaking = weights(tmp_path / "b", dict(options), released="ntu-i3d", seen={"NTU RGB+D": ["P001", "P003"]})
    made = comparison(prepared, METHODS[:1], pretrained={"rgb": leaking})
    with pytest.raises(ProtocolError, match="was trained, or its epoch chosen, on P003, which test in fold 0"):
        made.check()
    comparison(prepared, METHODS[:1], pretrained={"rgb": leaking}, protocol="published").check()


def test_released_weights_bring_their_padding(prepared: Prepared, tmp_path: Path) -> None:
    options = dict(comparison(prepared).network_options["rgb"])
    same = weights(tmp_path / "same", {**options, "padding": "same"}, released="i3d")
    made = comparison(prepared, METHODS[:1], pretrained={"rgb": same})
    assert made.network_options["rgb"] == {**options, "padding": "same"}
    made.check()
    usual = weights(tmp_path / "usual", options, released="i3d")
    assert comparison(prepared, METHODS[:1], pretrained={"rgb": usual}).network_options["rgb"] == options
    # a ResNet has none
    assert "padding" not in comparison(prepared, rgb="resnet50", pretrained={"rgb": same}).network_options["rgb"]


def test_pretrained_weights_are_begun_with(prepared: Prepared, finished: Path, tmp_path: Path) -> None:
    path = finished / records(finished)["unimodal.skeleton"]["weights"]
    still = replace(FAST, learning_rate=1e-12, weight_decay=0.0)
    made = comparison(prepared, [], pretrained={"skeleton": str(path)}, recipe=still)
    compare(made, tmp_path / "r", jobs=1)
    start, own = (load_model(one)[0] for one in (tmp_path / "r/weights/fold-0.seed-0/start.skeleton.safetensors", path))
    for (name, ours), theirs in zip(start.named_parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0, msg=name)


# the paper's numbers


def altered(finished: Path, out: Path, *, classes: int = FIRST_ACTIONS, **about: Any) -> tuple[ResultFolder, Table]:
    """The folder as it would be of other data."""
    shutil.copytree(finished, out)
    config = json.loads((out / "config.json").read_text())
    config["data"]["classes"] = [f"A{number:03}" for number in range(classes)]
    config["about"] |= {"made_up": False, **about}
    (out / "config.json").write_text(json.dumps(config))
    folder = ResultFolder(out)
    return folder, make_table(folder)


def test_the_papers_numbers_are_beside_60_true_actions_alone(finished: Path, tmp_path: Path) -> None:
    assert make_published(ResultFolder(finished), make_table(ResultFolder(finished))) is None
    assert make_published(*altered(finished, tmp_path / "three", classes=3)) is None
    assert make_published(*altered(finished, tmp_path / "made up", made_up=True)) is None
    assert make_published(*altered(finished, tmp_path / "view", protocol="cross-view")) is None
    assert make_published(*altered(finished, tmp_path / "other", task="emotion")) is None
    for number, protocol in enumerate(("cross-subject", "published")):
        published = make_published(*altered(finished, tmp_path / str(number), protocol=protocol))
        assert published is not None
        ours = {row.published.system: row.ours["accuracy"] for row in published.rows}
        assert ours["MSAF, I3D and HCN"] is not None
        assert ours["I3D"] is not None
        assert ours["HCN"] is not None
        assert ours["MSAF, ResNet50 and HCN"] is None
    published = make_published(*altered(finished, tmp_path / "resnet", rgb="resnet50"))
    assert published is not None
    ours = {row.published.system: row.ours["accuracy"] for row in published.rows}
    assert (ours["MSAF, ResNet50 and HCN"] is None, ours["MSAF, I3D and HCN"] is None) == (False, True)


# other skeletons


def sensors(path: Path, *, persons: int = 2) -> Path:
    random, n = np.random.default_rng(0), 24
    skeleton = random.normal(size=(n, 2, 20, 17, persons)).astype(np.float32)
    skeleton[::3, ..., 0] = 0
    arrays = {"inertial": random.normal(size=(n, 6, 30)), "depth": random.normal(size=(n, 1, 4, 16, 16))}
    label, subject = np.arange(n) % 2, np.repeat(np.arange(6), 4)
    np.savez(path, skeleton=skeleton, label=label, subject=subject, **arrays)
    return path


def test_skeletons_of_other_data_train_with_sensors_and_depth(tmp_path: Path) -> None:
    samples = load_skeletons(sensors(tmp_path / "utd.npz"), group="subject")
    made = array_actions(samples, METHODS[:1], folds=2, recipe=FAST)
    assert made.title == "Actions of utd: skeleton, inertial, depth"
    assert made.methods[0].options == PAPER
    compare(made, tmp_path / "r", jobs=1)
    found = ResultFolder(tmp_path / "r").records()
    assert len(found) == made.trainings == 2 * (2 * 3 + 1)
    for record in found:
        seen = set(load_model(tmp_path / "r" / record["weights"])[1].seen["utd"])
        tested = {(made.samples.groups or ())[row] for row in made.protocol.folds[record["fold"]].test}
        assert len(seen) == len(tested) == 3
        assert not seen & tested
    assert make_published(ResultFolder(tmp_path / "r"), make_table(ResultFolder(tmp_path / "r"))) is None


def test_places_of_skeletons_with_other_networks_are_those_that_all_have(tmp_path: Path) -> None:
    samples = load_skeletons(sensors(tmp_path / "utd.npz"), group="subject")
    array_actions(samples, [MethodChoice("msaf", {"points": ["intermediate", "late"]})], folds=2).check()
    with pytest.raises(FusionInputError, match="'early' is no placement of the network of 'inertial'"):
        array_actions(samples, [MethodChoice("msaf", {"points": ["early"]})], folds=2).check()
    with pytest.raises(ProtocolError, match="7 folds need 7 groups or more, and there are 6"):
        array_actions(samples, [], folds=7)
