"""Protects grafted networks as one program: for torch.export, ONNX and torch.compile, each layer once, any batch size."""

import copy
import io
import logging
import shutil
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from torchmsaf import FusionPoint, graft
from torchmsaf.errors import GraftError, MissingDependencyError
from torchmsaf.grafting.export import export_onnx, export_program

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")

# what a network spends its time in
LAYERS = ("conv1d", "conv2d", "conv3d", "linear", "layer_norm", "scaled_dot_product_attention", "batch_norm")
# linear layers of a fusion of two maps
OF_FUSION = {"msaf": 2, "mmtm": 3}


class Audio(nn.Module):
    """A small CNN of sounds, that works in place."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.conv2 = nn.Conv1d(8, 10, 3, stride=2)
        self.fc = nn.Linear(10, 4)

    def forward(self, x):
        x = self.norm(self.conv1(x).relu_()).add_(1)
        return self.fc((self.conv2(x).relu_() * torch.tensor(0.5)).mean(-1))


def resnet18():
    return pytest.importorskip("torchvision").models.resnet18(num_classes=4)


def r3d():
    return pytest.importorskip("torchvision").models.video.r3d_18(num_classes=4)


def swin():
    models = pytest.importorskip("torchvision").models
    return models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=4)


def timm_vit():
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=4)


SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "num_labels": 4}


def bert():
    tr = pytest.importorskip("transformers")
    return tr.BertForSequenceClassification(tr.BertConfig(vocab_size=50, **SMALL))


def llama():
    tr = pytest.importorskip("transformers")
    config = tr.LlamaConfig(vocab_size=50, num_key_value_heads=2, pad_token_id=0, use_cache=False, **SMALL)
    return tr.LlamaForSequenceClassification(config)


def hf_vit():
    tr = pytest.importorskip("transformers")
    return tr.ViTForImageClassification(tr.ViTConfig(image_size=32, patch_size=8, **SMALL))


def image(n):
    return torch.randn(n, 3, 32, 32)


def sound(n):
    return torch.randn(n, 6, 20)


def clip(n):
    return torch.randn(n, 3, 4, 16, 16)


def text(n):
    real = torch.arange(11) < torch.randint(4, 12, (n, 1))
    return {"input_ids": torch.randint(1, 50, (n, 11)) * real, "attention_mask": real.long()}


PAIRS = {
    "convolutions": (
        {"video": (resnet18, image), "audio": (Audio, sound)},
        # both inside of a residual block; what comes after each works in place
        [
            ("msaf", {"video": "layer2.1.bn1", "audio": "conv1"}),
            ("mmtm", {"video": "layer3.0.conv2", "audio": "conv2"}),
        ],
    ),
    "clips": (
        {"video": (r3d, clip), "audio": (Audio, sound)},
        [("msaf", {"video": "layer2", "audio": "conv1"}), ("mmtm", {"video": "layer3.1.conv1", "audio": "conv2"})],
    ),
    "transformers": (
        {"text": (bert, text), "image": (hf_vit, image)},
        [
            ("msaf", {"text": "bert.encoder.layer.0.output.dense", "image": "vit.layers.0.mlp"}),
            ("mmtm", {"text": "bert.encoder.layer.1", "image": "vit.layers.1"}),
        ],
    ),
    "decoder": (
        {"text": (llama, text), "image": (hf_vit, image)},
        [("msaf", {"text": "model.layers.1.mlp.up_proj", "image": "vit.layers.1"})],
    ),
    "channels last": (
        {"left": (timm_vit, image), "right": (swin, image)},
        [
            ("msaf", {"left": "blocks.0.attn", "right": "features.1"}),
            ("mmtm", {"left": "blocks.1", "right": "features.3.0.mlp"}),
        ],
    ),
}


def randomize(model):
    for p in model.fusions.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def make(name, head="sum"):
    """A grafted model in evaluation mode, a function that makes inputs, and layers that its networks have."""
    parts, points = PAIRS[name]
    networks = {k: build().eval() for k, (build, _) in parts.items()}
    expected = sum((layers_alone(networks[k], some(2)) for k, (_, some) in parts.items()), Counter())
    expected["linear"] += sum(OF_FUSION[fusion] for fusion, _ in points)
    # MSAF has one of its own
    expected["batch_norm"] += sum(fusion == "msaf" for fusion, _ in points)

    def inputs(n):
        return {k: some(n) for k, (_, some) in parts.items()}

    model = graft(networks, [FusionPoint(taps, fusion) for fusion, taps in points], head, inputs(2))
    return randomize(model), inputs, +expected


def layers_alone(network, given):
    args, kwargs = ((), given) if isinstance(given, dict) else ((given,), {})
    with torch.no_grad():
        return layers(torch.export.export(network, args, kwargs, strict=False).run_decompositions({}))


def layers(program):
    names = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return Counter(kind for name in names for kind in LAYERS if kind in name)


def run(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs)


def assert_same(got, expected, atol=1e-6):
    got, expected = tree_leaves(got), tree_leaves(expected)
    assert len(got) == len(expected)
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=atol, atol=atol)


def run_onnx(path, arguments):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(x) for x in session.run(None, {k: x.numpy() for k, x in arguments.items()})]


def flat(inputs):
    named = {}
    for name, part in inputs.items():
        named |= {f"{name}.{key}": x for key, x in part.items()} if isinstance(part, dict) else {name: part}
    return named


def onnx_nodes(path):
    return Counter(node.op_type for node in pytest.importorskip("onnx").load(path).graph.node)


# ---- what works


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_the_program_has_each_layer_once_and_takes_any_batch(name):
    model, inputs, expected = make(name)
    program = export_program(model, inputs(3))
    program.validate()
    assert layers(program) == expected
    for n in (3, 5, 1):
        given = inputs(n)
        assert_same(run(program.module(), given), run(model, given))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_the_onnx_file_gives_what_the_model_gives_for_any_batch(name, tmp_path):
    pytest.importorskip("onnxscript")
    model, inputs, expected = make(name)
    path = export_onnx(model, tmp_path / "model.onnx", inputs(2), check=False)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    for n in (2, 5):
        given = inputs(n)
        assert_same(run_onnx(path, flat(given)), run(model, given), 1e-4)
    assert onnx_nodes(path)["Conv"] == sum(expected[f"conv{d}d"] for d in (1, 2, 3))


@pytest.mark.slow
def test_a_program_can_be_kept_and_its_source_is_as_before():
    model, inputs, _ = make("convolutions", head=None)
    before = copy.deepcopy(model.state_dict())
    program = export_program(model, inputs(2))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    given = inputs(4)
    assert_same(run(torch.export.load(file).module(), given), run(model, given))
    assert list(run(program.module(), given)) == ["video", "audio"]
    assert_same(model.state_dict(), before, 0)
    assert all(p.grad_fn is None and p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_masks_and_present_are_inputs_of_what_is_exported(tmp_path):
    networks = {"left": Audio(), "right": Audio()}

    def given(n):
        return {
            "inputs": {"left": sound(n), "right": sound(n)},
            "masks": {"left": torch.rand(n, 20) < 0.7, "right": None},
            "present": torch.arange(2 * n).view(n, 2) % 3 > 0,
        }

    points = [
        FusionPoint({"left": "conv1", "right": "conv1"}),
        FusionPoint({"left": "conv2", "right": "conv2"}, "mmtm"),
    ]
    model = randomize(graft(networks, points, example=given(2)["inputs"]))
    example = given(3)
    program = export_program(model, **example)
    path = export_onnx(model, tmp_path / "m.onnx", **example)
    for n in (3, 4):
        other = given(n)
        inputs, expected = other["inputs"], run(model, **other)
        assert (expected - run(model, inputs)).abs().max() > 1e-3
        assert_same(run(program.module(), other.pop("inputs"), **other), expected)
        named = flat(inputs) | {"masks.left": other["masks"]["left"], "present": other["present"]}
        assert_same(run_onnx(path, named), expected, 1e-4)


@pytest.mark.slow
def test_a_network_without_input_is_not_in_what_is_exported(tmp_path):
    model, inputs, _ = make("convolutions")
    alone = inputs(2) | {"video": None}
    program = export_program(model, alone)
    assert not layers(program)["conv2d"]
    path = export_onnx(model, tmp_path / "m.onnx", alone)
    given = inputs(3) | {"video": None}
    assert_same(run(program.module(), given), run(model, given))
    assert_same(run_onnx(path, {"audio": given["audio"]}), run(model, given), 1e-4)


@pytest.mark.slow
def test_an_onnx_file_has_names_that_can_be_read(tmp_path, caplog, capfd):
    parts = {"text": (bert, text), "image": (hf_vit, image)}
    inputs = {k: some(2) for k, (_, some) in parts.items()} | {"sound": (sound(2),)}
    points = [FusionPoint({"text": "bert.encoder.layer.1", "image": "vit.layers.0", "sound": "conv1"})]
    networks = {k: build() for k, (build, _) in parts.items()} | {"sound": Audio()}
    model = randomize(graft(networks, points, head=None, example=inputs))
    with caplog.at_level(logging.WARNING, "onnxscript"):
        path = export_onnx(model, str(tmp_path / "m.onnx"), inputs)
    assert path == tmp_path / "m.onnx"
    assert not any("valuation failed" in record.message for record in caplog.records)
    assert capfd.readouterr() == ("", "")
    graph = pytest.importorskip("onnx").load(path).graph
    shapes = {x.name: x.type.tensor_type.shape.dim for x in (*graph.input, *graph.output)}
    assert list(shapes) == [
        "text.input_ids", "text.attention_mask", "image", "sound.0",
        "output.text.logits", "output.image.logits", "output.sound",
    ]  # fmt: skip
    assert {shape[0].dim_param for shape in shapes.values()} == {"batch"}


@pytest.mark.slow
def test_one_sample_is_exported_as_one(tmp_path):
    model, inputs, _ = make("convolutions")
    given = inputs(1)
    program = export_program(model, given, dynamic_batch=False)
    path = export_onnx(model, tmp_path / "m.onnx", given, dynamic_batch=False)
    other = inputs(1)
    assert_same(run(program.module(), other), run(model, other))
    assert_same(run_onnx(path, flat(other)), run(model, other), 1e-4)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch 2.13's own compiler
@pytest.mark.parametrize("name", ["convolutions", "transformers"])
def test_compiled_as_one_graph_it_gives_what_it_gave(name):
    model, inputs, _ = make(name)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    given = inputs(2)
    assert_same(run(compiled, given), run(model, given), 1e-5)


# ---- what does not


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    networks = {"left": Audio(), "right": Audio()}
    given = {"left": sound(2), "right": sound(2)}
    return randomize(graft(networks, [FusionPoint({"left": "conv1", "right": "conv1"})], example=given)), given


def test_a_layer_in_training_mode_is_an_error(small, tmp_path):
    model, given = small
    model.networks["right"].norm.train()
    try:
        with pytest.raises(GraftError, match=r"networks.right.norm is in training mode.*model.eval\(\)"):
            export_program(model, given)
        with pytest.raises(GraftError, match="training mode"):
            export_onnx(model, tmp_path / "m.onnx", given)
    finally:
        model.eval()


def test_one_sample_is_an_error_where_the_batch_is_to_be_free(small):
    model, given = small
    with pytest.raises(GraftError, match=r"one sample.*dynamic_batch=False"):
        export_program(model, {k: x[:1] for k, x in given.items()})


def test_a_network_that_fixes_the_batch_is_an_error(small):
    class Two(Audio):
        def forward(self, x):
            return super().forward(x.reshape(2, 6, 20))

    given = small[1]
    model = randomize(graft({"left": Two(), "right": Audio()}, [FusionPoint({"left": "conv1"})], example=given))
    with pytest.raises(GraftError, match=r"torch.export cannot follow this model; with dynamic_batch=False it may"):
        export_program(model, given)
    assert_same(run(export_program(model, given, dynamic_batch=False).module(), given), run(model, given))


@pytest.mark.parametrize(
    ("path", "words"), [("none/m.onnx", "there is no folder"), ("", "it is a folder")], ids=["no folder", "a folder"]
)
def test_a_place_where_no_file_can_be_is_an_error(small, tmp_path, path, words):
    model, given = small
    with pytest.raises(GraftError, match=words):
        export_onnx(model, tmp_path / path, given)
    assert not list(tmp_path.iterdir())


def test_without_the_packages_the_extra_is_named(small, tmp_path, monkeypatch):
    model, given = small
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"torchmsaf\[export\]"):
        export_onnx(model, tmp_path / "m.onnx", given)


@pytest.mark.slow
def test_a_file_that_gives_something_else_is_not_written(tmp_path):
    class Odd(Audio):
        def forward(self, x):
            return super().forward(x + torch.full_like(x, 0 if torch.compiler.is_compiling() else 1))

    given = {"left": sound(2), "right": sound(2)}
    model = randomize(graft({"left": Odd(), "right": Audio()}, [FusionPoint({"left": "conv1"})], example=given))
    path = tmp_path / "m.onnx"
    path.write_text("as before")
    with pytest.raises(GraftError, match="does not give what the model gives: output, 2 samples, largest difference"):
        export_onnx(model, path, given)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["as before"]


@pytest.mark.slow
def test_an_operator_that_onnx_has_not_is_an_error(tmp_path):
    class Odd(Audio):
        def forward(self, x):
            return super().forward(torch.special.bessel_j0(x))

    given = {"left": sound(2), "right": sound(2)}
    model = randomize(graft({"left": Odd(), "right": Audio()}, [FusionPoint({"left": "conv1"})], example=given))
    with pytest.raises(GraftError, match=r"torch.onnx cannot write this model"):
        export_onnx(model, tmp_path / "m.onnx", given)
    assert not list(tmp_path.iterdir())
