"""Protects predictions of actions: what prepared clips of the same files give, and files that are paired and named right."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchmsaf.data.actions import action_samples
from torchmsaf.data.prepare.actions.preparation import NtuSettings, prepare_ntu
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.synth.ntu import NtuCorpus, write_ntu
from torchmsaf.errors import DataError
from torchmsaf.tasks.action import NETWORKS, PRESETS
from torchmsaf.tasks.action_prediction import ActionModel, find_clips
from torchmsaf.tasks.attention import even_attention, modality_attention
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec, model_bytes

pytest.importorskip("av")
ACTIONS = (1, 50)
CLASSES = ["A001 drink water", "A050 punching/slapping other person"]
SETTINGS = NtuSettings(frames=5, size=40, bodies="all")
SIZES = {"frames": 8, "size": 32, "steps": 32, "persons": 2}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of one person and of two, and what else such a folder has."""
    root = tmp_path_factory.mktemp("corpus") / "raw"
    write_ntu(root, NtuCorpus(subjects=3, cameras=1, actions=ACTIONS, frames=12), jobs=1)
    return root


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    out = tmp_path_factory.mktemp("prepared")
    each = {"random": SETTINGS, "published": NtuSettings.published(size=40)}
    return {name: Prepared.open(prepare_ntu([raw], out, one, jobs=1).path) for name, one in each.items()}


def made(
    prepared: Prepared,
    method: str | None = "msaf",
    *,
    names: tuple[str, ...] = ("rgb", "skeleton"),
    **about: Any,
) -> tuple[nn.Module, ModelSpec]:
    small = PRESETS["small"]
    specs = {
        "rgb": NetworkSpec((3, 8, 32, 32), NETWORKS["rgb"], {"kind": "i3d", **small.rgb["i3d"]}),
        "skeleton": NetworkSpec((3, 32, 25, 2), NETWORKS["skeleton"], small.skeleton),
    }
    said = {"task": "action", "classes": CLASSES, "parameters": dict(prepared.parameters), "draw": "random", **about}
    spec = ModelSpec({name: specs[name] for name in names}, method, len(CLASSES), about=said)
    torch.manual_seed(0)
    network = spec.build()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.bias.data.normal_(0, 0.3)
    return network, spec


def names_of(prepared: Prepared) -> list[str]:
    return [entry.id for entry in prepared.entries]


def in_evaluation(prepared: Prepared, draw: str) -> tuple[list[torch.Tensor], Any, Any]:
    samples = action_samples(prepared, groups=tuple(names_of(prepared)), draw=draw, **SIZES)  # type: ignore[arg-type]
    rows = torch.arange(len(prepared))
    inputs = [samples.features[name][rows] for name in samples.modalities]
    return inputs, samples.present, [samples.lengths.get(name) for name in samples.modalities]


@pytest.mark.parametrize("draw", ["random", "published"])
def test_a_clip_is_what_its_prepared_clip_is_in_evaluation(raw: Path, prepared: dict[str, Prepared], draw: str) -> None:
    """For one, two and three persons; as published, the absent person counts and frames are BGR with the last one black."""
    some = prepared[draw]
    network, spec = made(some, draw=draw)
    model = ActionModel(network.train(), spec)
    clips, _ = find_clips([raw])
    with torch.no_grad():
        inputs, present, lengths = in_evaluation(some, draw)
        fused = network.eval()(inputs, present, lengths)
        shares = modality_attention(network, inputs, present, lengths)  # type: ignore[arg-type]
    assert {entry.facts["persons"] for entry in some.entries} == {1, 2, 3}
    for row, name in enumerate(names_of(some)):
        said = model.predict(clips[name], name)
        assert (said.clip, said.absent) == (name, ())
        assert said.persons == some.entries[row].facts["persons"]
        assert list(said.probabilities) == CLASSES
        assert list(said.probabilities.values()) == pytest.approx(fused.prediction[row].softmax(0).tolist(), abs=1e-4)
        for part, own in zip(said.alone.values(), fused.parts, strict=True):
            assert list(part.values()) == pytest.approx(own[row].softmax(0).tolist(), abs=1e-4)
        for point, share in zip(said.attention, shares, strict=True):
            assert list(point.values()) == pytest.approx(share[row].tolist(), abs=1e-4)
        assert said.action == max(said.probabilities, key=said.probabilities.__getitem__)
    even = [share.tolist() for share in even_attention(network)]  # type: ignore[arg-type]
    assert [list(point.values()) for point in said.even_attention] == [pytest.approx(one) for one in even]


def test_a_file_of_others_is_read_as_the_published_code_reads(raw: Path, prepared: dict[str, Prepared]) -> None:
    """Converted weights say how clips were prepared and not what training drew."""
    network, spec = made(prepared["published"])
    del spec.about["draw"]  # type: ignore[attr-defined]
    assert ActionModel(network, spec).draw == "published"
    network, spec = made(prepared["random"])
    del spec.about["draw"]  # type: ignore[attr-defined]
    assert ActionModel(network, spec).draw == "random"


def test_without_a_modality_it_is_absent_to_the_fusion(raw: Path, prepared: dict[str, Prepared]) -> None:
    network, spec = made(prepared["random"])
    model = ActionModel(network, spec)
    inputs, present, lengths = in_evaluation(prepared["random"], "random")
    for number, name in enumerate(("rgb", "skeleton")):
        present = torch.zeros(len(inputs[0]), 2, dtype=torch.bool)
        present[:, number] = True
        with torch.no_grad():
            fused = network.eval()(inputs, present, lengths)
        files = {
            key: file for key, file in find_clips([raw])[0][names_of(prepared["random"])[1]].items() if key == name
        }
        said = model.predict(files)
        assert said.absent == ({"rgb": "skeleton", "skeleton": "rgb"}[name],)
        assert list(said.alone) == list(said.files) == [name]
        assert list(said.probabilities.values()) == pytest.approx(fused.prediction[1].softmax(0).tolist(), abs=1e-4)
        assert [point[name] for point in said.attention] == pytest.approx([1, 1])


def test_a_network_alone_reads_its_own_file_and_says_what_is_lacking(raw: Path, prepared: dict[str, Prepared]) -> None:
    files = next(iter(find_clips([raw])[0].values()))
    model = ActionModel(*made(prepared["random"], None, names=("skeleton",)))
    said = model.predict({**files, "rgb": Path(__file__)})  # which is not read
    assert list(said.files) == ["skeleton"]
    assert said.attention == []
    assert said.alone == {}  # which would be the prediction again
    assert said.absent == ()
    with pytest.raises(DataError, match="S001C001P001R001A001: there is rgb of it, and the model takes skeleton"):
        model.predict({"rgb": files["rgb"]})


def test_a_system_of_poses_reads_skeletons_alone(raw: Path, prepared: dict[str, Prepared]) -> None:
    files = next(iter(find_clips([raw])[0].values()))
    model = ActionModel(*made(prepared["random"], "pose_image"))
    said = model.predict(files)
    assert list(said.files) == ["skeleton"]
    assert said.absent == ()
    assert said.alone == {}
    assert said.attention == []
    with pytest.raises(DataError, match="the model takes skeleton"):
        model.predict({"rgb": files["rgb"]})


def test_a_file_goes_through_load(raw: Path, prepared: dict[str, Prepared], tmp_path: Path) -> None:
    network, spec = made(prepared["random"], made_up=True)
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(network.state_dict(), spec))
    files = {key: file.path for key, file in next(iter(find_clips([raw])[0].values())).items()}
    said = ActionModel.load(path).predict(files)
    assert said.made_up_model
    assert said == ActionModel(network, spec).predict(files)
    with pytest.raises(DataError, match=r"\.pth is no \.safetensors file; torchmsaf convert makes one"):
        ActionModel.load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"task": "emotion"}, "the model's task is 'emotion'; 'action' is needed"),
        ({"classes": ["A001 drink water"]}, "the model has 2 outputs and names 1 classes"),
        ({"classes": 5}, "the model's classes are 5; a list of different names is needed"),
        ({"classes": ["same", "same"]}, "a list of different names is needed"),
        ({"parameters": []}, "is no list of names and values"),
        ({"draw": "x"}, "trained with draw 'x'; random, published, none are known"),
        ({"parameters": {"frames": 5, "size": 16}}, "frames larger than the 16 pixels"),
        ({"parameters": {"skeletons": "poses", "bodies": "2"}}, "trained on poses out of a pickle"),
        ({"parameters": {"recipe": 99, "frames": 5, "size": 40}}, "prepared with recipe = 99"),
    ],
)
def test_models_that_files_cannot_be_given(prepared: dict[str, Prepared], about: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        ActionModel(*made(prepared["random"], **about))


def test_a_model_of_arrays_takes_no_files(prepared: dict[str, Prepared]) -> None:
    network, spec = made(prepared["random"])
    del spec.about["parameters"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="trained on arrays, and takes no files"):
        ActionModel(network, spec)


@pytest.mark.parametrize("name", ["rgb", "skeleton"])
def test_a_damaged_file_is_named(raw: Path, prepared: dict[str, Prepared], tmp_path: Path, name: str) -> None:
    model = ActionModel(*made(prepared["random"]))
    suffix = {"rgb": ".avi", "skeleton": ".skeleton"}[name]
    broken = tmp_path / f"own{suffix}"
    broken.write_text("3\nno file\n")
    with pytest.raises(DataError) as caught:
        model.predict({name: broken})
    assert str(caught.value).startswith(f"{broken}: ")
    assert str(caught.value).count("own") == 1


# ---- which files are a clip


def copied(raw: Path, to: Path, *names: str) -> None:
    sources = {path.suffix: path for path in raw.rglob("*A001*") if path.is_file()}
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sources[Path(name).suffix.lower()], to / name)


def test_files_are_paired_by_name_wherever_they_lie(raw: Path, tmp_path: Path) -> None:
    copied(raw, tmp_path, "b/10.skeleton", "a/2_rgb.AVI", "a/10.avi", "b/2.skeleton", "a/10.txt.skeleton")
    (tmp_path / "a" / "notes.txt").write_text("left alone")
    found, refused = find_clips([tmp_path, tmp_path / "a" / "10.avi"])
    assert not refused
    assert list(found) == ["2", "10", "10.txt"]
    assert {name: sorted(files) for name, files in found.items()} == {
        "2": ["rgb", "skeleton"],
        "10": ["rgb", "skeleton"],
        "10.txt": ["skeleton"],
    }
    assert [file.path.name for file in found["2"].values()].count("2_rgb.AVI") == 1
    assert find_clips([tmp_path / "b" / "10.skeleton"])[0]["10"]["skeleton"].path == tmp_path / "b" / "10.skeleton"


def test_files_of_one_name_in_several_folders_are_paired_by_folder(raw: Path, tmp_path: Path) -> None:
    copied(raw, tmp_path, "walk/1.avi", "walk/1.skeleton", "run/1.avi", "run/1.skeleton", "run/2.avi")
    found, refused = find_clips([tmp_path])
    assert not refused
    assert list(found) == ["2", "run/1", "walk/1"]
    assert {file.path.parent.name for file in found["run/1"].values()} == {"run"}
    copied(raw, tmp_path, "run/1_rgb.avi")
    found, (refused,) = find_clips([tmp_path])
    assert list(found) == ["2", "walk/1"]  # which one is stopped, no other
    assert re.search(r"run/1(_rgb)?\.avi and .*run/1(_rgb)?\.avi are both the rgb of one clip: give one", refused)


def test_folders_of_one_name_are_not_one_folder(raw: Path, tmp_path: Path) -> None:
    copied(raw, tmp_path, "a/d/x.avi", "b/d/x.skeleton", "c/e/x.avi")
    found, refused = find_clips([tmp_path])
    assert not refused
    assert {name: list(files) for name, files in found.items()} == {
        "a/d/x": ["rgb"],
        "b/d/x": ["skeleton"],
        "c/e/x": ["rgb"],
    }
    copied(raw, tmp_path / "more", "s1/skel/x.skeleton", "s2/skel/x.skeleton")
    found, refused = find_clips([tmp_path / "more" / "s1", tmp_path / "more" / "s2"])
    assert (list(found), refused) == (["s1/skel/x", "s2/skel/x"], [])


def test_archives_are_read(raw: Path, prepared: dict[str, Prepared], tmp_path: Path) -> None:
    files = next(iter(find_clips([raw])[0].values()))
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        for file in files.values():
            archive.write(file.path, file.name)
    model = ActionModel(*made(prepared["random"]))
    ((name, packed),) = find_clips([tmp_path / "clips.zip"])[0].items()
    said = model.predict(packed, name)
    assert said.probabilities == model.predict(files).probabilities
    assert set(said.files.values()) == {f"clips.zip!{file.name}" for file in files.values()}


def test_what_is_no_clip_is_said_and_stops_no_other(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.txt").write_text("text")
    (tmp_path / "broken.zip").write_text("no archive")
    copied(raw, tmp_path, "good/a.avi")
    (tmp_path / "good" / "b.avi").symlink_to("nothing")
    (tmp_path / "good" / "c.zip").write_text("no archive")
    names = ["nothing.avi", "model.txt", "empty", "nothing", "broken.zip", "good"]
    found, refused = find_clips([tmp_path / name for name in names])
    assert list(found) == ["a"]
    for said, reason in zip(
        refused,
        [
            "nothing.avi: there is no such file",
            "model.txt is no clip: they end in .skeleton, .avi, .mp4, .mkv, .mov or .webm",
            "empty has no clips, which end in",
            "nothing is no clip",
            "broken.zip is no zip archive",
            "good: b.avi: cannot be read",
            "good: c.zip: the archive is broken",
        ],
        strict=True,
    ):
        assert reason in said
