"""Protects model files: they bring back the network to the last bit, run nothing, and say what is wrong with them."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchmsaf.backbones import VectorNet
from torchmsaf.errors import DataError
from torchmsaf.tasks import sentiment
from torchmsaf.tasks.model_file import (
    ModelSpec,
    NetworkSpec,
    kind_of_systems,
    load_model,
    load_pretrained,
    model_bytes,
    read_spec,
)
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.systems import SYSTEMS, System

K = 3
# a name with a dot: its network is called otherwise in the state dict
NETWORKS = {
    "zoo.a": NetworkSpec((2, 9)),
    "art": NetworkSpec((5,), "torchmsaf.backbones.VectorNet", {"width": 12, "dropout": 0.5}),
}
ABOUT = {"task": "toy", "classes": ["x", "y", "ü"], "parameters": {"frames": 3}}
METHODS: list[tuple[str | None, dict[str, Any]]] = [
    ("msaf", {"block_dropout": 0.2, "points": 1}), ("centralnet", {}), ("concat", {"hidden": [7]}), ("weighted", {}),
]  # fmt: skip


def spec(method: str | None = "msaf", options: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    return ModelSpec(
        **{"networks": NETWORKS, "method": method, "outputs": K, "options": options or {}, "about": ABOUT, **changes}
    )


def randomized(network: nn.Module) -> nn.Module:
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.9)
    return network


def written(path: Path, made: ModelSpec) -> FusedNetwork:
    network = made.build()
    randomized(network)
    path.write_bytes(model_bytes(network.state_dict(), made))
    return network.eval()


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """What the file says of itself, changed."""
    said = json.loads(made_of(path)["torchmsaf"])
    said = change(said) or said
    save_file(load_file(path), path, metadata={"torchmsaf": said if isinstance(said, str) else json.dumps(said)})


def made_of(path: Path) -> dict[str, str]:
    head = path.read_bytes()
    return json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]


def inputs() -> list[Tensor]:
    return [torch.randn(4, 2, 9), torch.randn(4, 5)]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_fused_network_comes_back_to_the_last_bit(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    path, made, values = tmp_path / "m.safetensors", spec(method, options), inputs()
    network = written(path, made)
    again, said = load_model(path)
    assert said == made
    assert not again.training
    one, other = network(values), again(values)
    assert torch.equal(one.prediction, other.prediction)
    assert all(torch.equal(a, b) for a, b in zip(one.parts, other.parts, strict=True))


def test_a_network_alone_and_a_regression_come_back(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    made = spec(None, networks={"art": NETWORKS["art"]}, outputs=1, regression=True)
    network, x = written(path, made), [inputs()[1]]
    again, said = load_model(str(path))
    assert said == read_spec(path) == made
    assert torch.equal(network(x).prediction, again(x).prediction)


def test_a_file_holds_tensors_of_their_own_in_plain_order_whatever_memory_they_had() -> None:
    made = spec()
    network = made.build().to(memory_format=torch.channels_last)
    state = dict(network.state_dict())
    state["points.0.norm.weight"] = state["points.0.norm.bias"]  # one memory for two
    assert b"points.0.norm.weight" in model_bytes(state, made)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.target,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, target = tmp_path / "m.safetensors", tmp_path / "was run"
    path.write_bytes(pickle.dumps({"x": Bomb(target)}))
    for call in (load_model, lambda where: load_pretrained(VectorNet((5,), K), where, "art")):
        with pytest.raises(DataError, match=r"m\.safetensors is no \.safetensors file, or it is broken: "):
            call(path)
    assert not target.exists()


def foreign(path: str, **options: Any) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        said["networks"]["art"] |= {"path": path, "options": options, "shape": [5]}

    return change


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("subprocess.call", {}),
        ("torchmsaf_evil.Network", {}),
        # torchmsaf's own, which would call whatever it is told to
        ("torchmsaf.backbones.by_rank.network_for", {"class_path": "subprocess.call"}),
        ("torchmsaf.errors.require", {}),
        ("torchmsaf.cli.main", {}),
    ],
)
def test_a_file_cannot_name_what_is_called(tmp_path: Path, path: str, options: dict[str, Any]) -> None:
    file, target = tmp_path / "m.safetensors", tmp_path / "was run"
    written(file, spec("concat"))
    edited(file, foreign(path, **options))
    # what subprocess.call would be given: the shape as the command
    edited(file, lambda said: said["networks"]["art"].update(shape=["touch", str(target)]) if options else None)
    words = (
        "what it says of itself cannot be read: the network of 'art'"
        if options
        else rf"of 'art' is {re.escape(path)}, "
    )
    with pytest.raises(DataError, match=words):
        load_model(file)
    edited(file, lambda said: said["networks"]["art"].update(shape=[5]))
    with pytest.raises(
        DataError, match=rf"{re.escape(path)}, which is none of torchmsaf's networks; build the FusedNe"
    ):
        load_model(file)
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: "{", "what it says of itself cannot be read: Expecting property name"),
        (lambda said: "[]", "what it says of itself cannot be read"),
        (lambda said: said.pop("format") and None, "cannot be read: 'format'"),
        (
            lambda said: said.update(format=4),
            "its format is 4, and this torchmsaf knows up to 3; use a newer one",
        ),
        (lambda said: said.pop("networks") and None, "cannot be read: 'networks'"),
        (lambda said: said.pop("outputs") and None, "cannot be read: .*'outputs'"),
        (lambda said: said.update(more=1), "cannot be read: .*unexpected keyword argument 'more'"),
        (lambda said: said.update(outputs="8"), "cannot be read: method 'concat' with '8' outputs"),
        (lambda said: said.update(about=[]), r"cannot be read: \[\] in place of names and values"),
        (lambda said: said["networks"]["art"].update(shape=[5.5]), r"the network of 'art' is .* for \(5\.5,\)"),
        (lambda said: said.update(method="witchcraft"), "do not fit what it says of itself: .*witchcraft"),
        (lambda said: said.update(method="msaf"), r"Missing key\(s\) in state_dict: .points\.0"),
        (lambda said: said.update(outputs=4), r"size mismatch for networks\.zoo_a\.head\.1\.weight"),
        (lambda said: said.update(options={"hidden": "many"}), "do not fit what it says of itself"),
        (lambda said: said["networks"]["art"].update(options={"depth": 3}), "unexpected keyword argument 'depth'"),
        (lambda said: said["networks"].pop("art") and None, "do not fit what it says of itself"),
        (lambda said: said.update(networks={}), "do not fit what it says of itself: no networks"),
    ],
)
def test_what_a_file_says_of_itself_is_not_believed(tmp_path: Path, change: Callable[..., Any], words: str) -> None:
    path = tmp_path / "m.safetensors"
    written(path, spec("concat"))
    edited(path, change)
    with pytest.raises(DataError, match=words) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(DataError, match=r"m\.safetensors: there is no such file"):
        load_model(path)
    with pytest.raises(DataError, match="there is no such file"):
        load_model(tmp_path)
    written(path, spec())
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:100], whole[:5], b"", b"\xff" * 64, whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is no \.safetensors file, or it is broken: "):
            load_model(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="does not say what network it is of; models are what torchmsaf train, compare"):
        load_model(path)


# weights to begin with


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, FusedNetwork]:
    path = tmp_path / "m.safetensors"
    return path, written(path, spec())


def art(outputs: int = K, width: int = 12) -> VectorNet:
    return VectorNet((5,), outputs, width=width)


ART = NETWORKS["art"].options


def test_a_network_of_as_many_classes_takes_everything(model: tuple[Path, FusedNetwork]) -> None:
    path, source = model
    network = art()
    assert load_pretrained(network, path, "art", options=ART) == ()
    own = source.networks["art"].state_dict()
    assert all(torch.equal(value, own[key]) for key, value in network.state_dict().items())
    zoo = NETWORKS["zoo.a"]
    other = ModelSpec({"zoo.a": zoo}, None, K).build().networks["zoo_a"]
    assert load_pretrained(other, path, "zoo.a") == ()
    assert torch.equal(other.state_dict()["head.1.weight"], source.networks["zoo_a"].state_dict()["head.1.weight"])


def test_the_last_layer_is_kept_whole_when_the_classes_are_others(model: tuple[Path, FusedNetwork]) -> None:
    path, source = model
    network = art(outputs=4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    kept = load_pretrained(network, path, "art", options=ART)
    assert kept == ("head.1.weight", "head.1.bias")
    own = source.networks["art"].state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key] if key in kept else own[key]), key


def test_a_last_layer_that_the_file_lacks_is_kept_and_another_is_not(model: tuple[Path, FusedNetwork]) -> None:
    path, _ = model
    state, about = load_file(path), made_of(path)
    del state["networks.art.head.1.weight"]
    save_file(state, path, metadata=about)
    assert load_pretrained(art(), path, "art", options=ART) == ("head.1.weight", "head.1.bias")
    del state["networks.art.stages.0.0.weight"]
    save_file(state, path, metadata=about)
    with pytest.raises(
        DataError, match=r"does not fit VectorNet in 1 tensors: stages\.0\.0\.weight is missing, \(12, 5\)"
    ):
        load_pretrained(art(), path, "art", options=ART)


def test_what_does_not_fit_is_named_and_nothing_is_changed(model: tuple[Path, FusedNetwork]) -> None:
    path, _ = model
    network = art(width=13)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    words = (
        r"m\.safetensors does not fit VectorNet in 12 tensors: stages\.0\.0\.weight \(12, 5\), \(13, 5\) is needed; "
    )
    with pytest.raises(DataError, match=words):
        load_pretrained(network, path, "art", options=ART)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(DataError, match=r"has no network of 'video'; it has zoo\.a, art"):
        load_pretrained(network, path, "video")
    state = load_file(path) | {"networks.art.stages.2.0.weight": torch.zeros(2)}
    save_file(state, path, metadata=made_of(path))
    with pytest.raises(DataError, match=r"in 1 tensors: stages\.2\.0\.weight has no place in it"):
        load_pretrained(art(), path, "art", options=ART)


def test_networks_that_were_built_otherwise_do_not_fit(model: tuple[Path, FusedNetwork]) -> None:
    path, _ = model
    words = r"m\.safetensors: its network of 'art' has dropout=0\.5, and the one to train dropout=as usual"
    with pytest.raises(DataError, match=words):
        load_pretrained(art(), path, "art", options={"width": 12})
    with pytest.raises(DataError, match=r"of 'zoo\.a' has width=as usual, and the one to train width=9"):
        load_pretrained(art(), path, "zoo.a", options={"width": 9})
    assert load_pretrained(art(), path, "art", options={**ART, "checkpointing": True}) == ()


def test_a_network_without_a_linear_layer_takes_everything(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    network = nn.Sequential(nn.Conv1d(2, 3, 1))
    state = {f"networks.art.{key}": value for key, value in network.state_dict().items()}
    path.write_bytes(model_bytes(state, spec(None, networks={"art": NETWORKS["art"]})))
    other = nn.Sequential(nn.Conv1d(2, 3, 1))
    assert load_pretrained(other, path, "art", options=ART) == ()
    assert torch.equal(other[0].weight, network[0].weight)


# sequences: networks that predict together, published models, and words

VOCABULARY = 7
# small layers, as these tests are of the file and not of the sizes
SMALL: dict[str, dict[str, Any]] = {
    "tfn_network": {"audio": 4, "video": 5, "text": 6, "text_out": 4, "hidden": [8, 7]},
    "lmf_network": {"audio": 4, "video": 5, "text": 6},
    "misa": {"hidden": 8, "feed_forward": 16},
    "mfm": {
        "hidden": [6, 4, 5],
        "latents": [6, 4, 5],
        "factors": [8, 9, 7],
        "joint": [5, 4],
        "memory": 6,
        "layers": [9, 8, 6, 5],
    },
    "dcca_one_step": {"width": 3, "hidden": [8]},
    "dcca_two_step": {"width": 3, "hidden": [8], "end_to_end": True},
    "iccn": {"width": 3, "audio": 8, "video": 6},
}  # fmt: skip


def of_sequences(method: str | None, options: dict[str, Any], *, words: bool, **changes: Any) -> ModelSpec:
    shapes = {"video": (3, 6), "audio": (4, 6), "text": (1 if words else 5, 6)}
    own = sentiment.network_options({"text": VOCABULARY} if words else {})
    networks = {name: NetworkSpec(shape, sentiment.NETWORKS[name], own[name]) for name, shape in shapes.items()}
    about = {"task": "sentiment", "vocabulary": ["bad", "é", "good", "it", "was"]}
    arguments: dict[str, Any] = {
        "regression": True,
        "decision": "joint",
        "kind": "sentiment",
        "about": about,
        **changes,
    }
    return ModelSpec(networks, method, changes.pop("outputs", 1), options, **arguments)


def some_sequences(*, words: bool) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(4)
    lengths = torch.tensor([6, 1, 4, 3])
    inputs = [torch.randn(4, c, 6, generator=generator) for c in (3, 4, 5)]
    if words:
        inputs[2] = torch.randint(1, VOCABULARY, (4, 1, 6), generator=generator).float()
    present = torch.ones(4, 3, dtype=torch.bool)
    present[2, 0] = False
    return inputs, present, [lengths] * 3


@pytest.mark.parametrize("words", [False, True], ids=["features", "words"])
@pytest.mark.parametrize("name", [name for name, one in SYSTEMS.items() if one.takes(("text", "audio", "video"))])
def test_a_published_model_comes_back_to_the_last_bit(tmp_path: Path, name: str, words: bool) -> None:
    path, made = tmp_path / "m.safetensors", of_sequences(name, SMALL[name], words=words)
    network = written(path, made)
    again, said = load_model(path)
    assert said == made
    assert type(again) is SYSTEMS[name].build
    assert isinstance(again, System)
    assert (again.kind, again.training) == ("sentiment", False)
    values = some_sequences(words=words)
    one, other = network(*values).prediction, again(*values).prediction
    assert torch.equal(one, other)
    assert one.any()  # what is solved for is in the file too
    if words:
        assert any(tuple(value.shape) == (VOCABULARY, 300) for value in load_file(path).values())


@pytest.mark.parametrize("words", [False, True], ids=["features", "words"])
@pytest.mark.parametrize("method", ["msaf", "mmtm", "centralnet", "concat", "averaging"])
def test_networks_of_sequences_come_back_to_the_last_bit(tmp_path: Path, method: str, words: bool) -> None:
    options = {"segments": 5, "block_dropout": 0.2} if method == "msaf" else {}
    path, made = tmp_path / "m.safetensors", of_sequences(method, options, words=words)
    network = written(path, made)
    again, said = load_model(path)
    assert said == read_spec(path) == made
    assert (said.decision, said.about["vocabulary"]) == ("joint", ["bad", "é", "good", "it", "was"])
    values = some_sequences(words=words)
    assert torch.equal(network(*values).prediction, again(*values).prediction)
    # an intermediate method has one layer for all, the others have what they have without it
    together = method in ("msaf", "mmtm")
    assert isinstance(again, FusedNetwork)
    assert again.joint == (again.stage == "intermediate")
    assert any(".head.1." in key for key in load_file(path)) == (not together)
    alone = of_sequences(method, options, words=words, decision="product")
    same = alone.build().state_dict().keys() == network.state_dict().keys()
    assert same == (not together)


def test_a_file_without_what_came_later_is_as_it_was(tmp_path: Path) -> None:
    """Files of earlier versions say nothing of ``decision`` and ``kind``; the second format says whether it is joint."""
    path = tmp_path / "m.safetensors"
    network, values = written(path, spec("msaf")), inputs()
    edited(path, lambda said: said.pop("decision") and None)
    edited(path, lambda said: said.pop("kind") and None)
    again, said = load_model(path)
    assert (said.decision, said.kind) == ("product", None)
    assert torch.equal(network(values).prediction, again(values).prediction)
    for joint, decision in ((False, "product"), (True, "joint")):
        edited(path, lambda said, joint=joint: said.update(format=2, joint=joint))
        assert read_spec(path).decision == decision
    edited(path, lambda said: said.update(joint=False, decision="loudest"))
    with pytest.raises(DataError, match="decision 'loudest'"):
        read_spec(path)


@pytest.mark.parametrize(
    ("kind", "scaled", "told"),
    [
        ("sentiment", False, "sentiment"),
        ("sentiment", True, "regression"),
        ("regression", False, "regression"),
        ("regression", True, "regression"),
        ("classification", True, "classification"),
    ],
)
def test_published_models_are_told_of_values_within_three_where_these_are(kind: Any, scaled: bool, told: str) -> None:
    assert kind_of_systems(kind, scaled) == told
    system = of_sequences("lmf_network", SMALL["lmf_network"], words=False, kind=told).build()
    assert isinstance(system, System)
    assert system.kind == told


@pytest.mark.parametrize(("regression", "kind"), [(True, "regression"), (False, "classification")])
def test_without_a_kind_a_published_model_is_told_what_predictions_are(regression: bool, kind: str) -> None:
    made = of_sequences("lmf_network", SMALL["lmf_network"], words=False, kind=None, regression=regression)
    system = made.build()
    assert isinstance(system, System)
    assert system.kind == kind


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said.update(method="missa"), "do not fit what it says of itself: .*no fusion method 'missa'"),
        (lambda said: said.update(method="misa"), "do not fit what it says of itself: "),
        (lambda said: said.update(kind="rating"), "lmf_network: kind is 'classification', 'regression' or 'sentiment'"),
        (lambda said: said.update(options={"rank": "many"}), "do not fit what it says of itself: lmf_network: rank"),
        (lambda said: said.update(options={"shapes": {}}), "do not fit what it says of itself: "),
        (lambda said: said["networks"]["text"]["options"].update(vocabulary="x"), "do not fit what it says of itself"),
        (lambda said: said["networks"]["text"]["options"].update(vocabulary=8), "size mismatch for words.0"),
        (lambda said: said["networks"].pop("text") and None, "lmf_network: it is made of the modalities 'text'"),
    ],
)
def test_what_a_file_says_of_a_published_model_is_not_believed(
    tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    path = tmp_path / "m.safetensors"
    written(path, of_sequences("lmf_network", SMALL["lmf_network"], words=True))
    edited(path, change)
    with pytest.raises(DataError, match=words) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
