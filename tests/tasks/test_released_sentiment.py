"""Protects the authors' network for CMU-MOSEI: read from a file in its form, it predicts what their arithmetic gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.backbones.released import read_released
from torchmsaf.cli import main
from torchmsaf.errors import DataError
from torchmsaf.tasks.model_file import load_model, model_bytes
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.released_models import model_of

# as they are joined: inputs and hidden size
SIZES = {"visual": (35, 32), "audio": (74, 64), "text": (768, 128)}
C, JOINT, BLOCKS, SEGMENTS = 16, 8, 14, 5
State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    """The keys and shapes of the file, written out; values of a size that makes every part count."""
    shapes: dict[str, tuple[int, ...]] = {}
    for s in range(SEGMENTS):
        start = f"msaf.0.blocks.{s}"
        shapes[f"{start}.joint_features.0.weight"] = (JOINT, C)
        shapes[f"{start}.joint_features.0.bias"] = (JOINT,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{start}.joint_features.1.{name}"] = (JOINT,)
        for b in range(BLOCKS):
            shapes[f"{start}.dense_group.{b}.weight"] = (C, JOINT)
            shapes[f"{start}.dense_group.{b}.bias"] = (C,)
    for name, (inputs, hidden) in SIZES.items():
        for k, width in enumerate((inputs, hidden)):
            for way, columns in (("ih", width), ("hh", hidden)):
                shapes[f"{name}_model.{k}.weight_{way}_l0"] = (4 * hidden, columns)
                shapes[f"{name}_model.{k}.bias_{way}_l0"] = (4 * hidden,)
    shapes |= {"multimodal_classifier.0.weight": (1, 224), "multimodal_classifier.0.bias": (1,)}
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    made |= {name: value.abs() + 0.5 for name, value in made.items() if name.endswith("running_var")}
    made |= {f"msaf.0.blocks.{s}.joint_features.1.num_batches_tracked": torch.tensor(7) for s in range(SEGMENTS)}
    return made


def lstm(state: State, prefix: str, inputs: int, hidden: int, x: Tensor) -> Tensor:
    layer = nn.LSTM(inputs, hidden, batch_first=True)
    layer.load_state_dict({name: state[f"{prefix}.{name}"] for name, _ in layer.named_parameters()})
    states: Tensor = layer(x)[0]
    return states


def by_hand(state: State, inputs: dict[str, Tensor]) -> Tensor:
    """Their arithmetic in evaluation: ten steps a segment, blocks of 16 in the order visual, audio, text, step 50 read."""
    maps = {name: lstm(state, f"{name}_model.0", *SIZES[name], inputs[name]) for name in SIZES}
    weighted: dict[str, list[Tensor]] = {name: [] for name in SIZES}
    for s in range(SEGMENTS):
        start = f"msaf.0.blocks.{s}"
        blocks = {name: x[:, 10 * s : 10 * s + 10].split(C, dim=2) for name, x in maps.items()}
        pooled = sum(block.mean(1) for group in blocks.values() for block in group)
        z = F.linear(pooled, state[f"{start}.joint_features.0.weight"], state[f"{start}.joint_features.0.bias"])
        norm = [state[f"{start}.joint_features.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        z = F.relu(F.batch_norm(z, *norm))
        logits = [
            F.linear(z, state[f"{start}.dense_group.{b}.weight"], state[f"{start}.dense_group.{b}.bias"])
            for b in range(BLOCKS)
        ]
        attention = iter(torch.stack(logits).softmax(0))
        for name, group in blocks.items():
            weighted[name].append(torch.cat([block * next(attention)[:, None] for block in group], dim=2))
    last = []
    for name, (_, hidden) in SIZES.items():
        last.append(lstm(state, f"{name}_model.1", hidden, hidden, torch.cat(weighted[name], dim=1))[:, -1])
    head = (state["multimodal_classifier.0.weight"], state["multimodal_classifier.0.bias"])
    return F.linear(torch.cat(last, dim=1), *head)


def saved(path: Path, state: State, **more: Any) -> Path:
    content = {"epoch": 6, "model_state_dict": state, "optimizer_state_dict": {"state": {}}, "test_loss": 0.5, **more}
    torch.save(content, path)
    return path


def test_it_predicts_what_the_published_arithmetic_gives(state: State, tmp_path: Path) -> None:
    converted = read_released(saved(tmp_path / "msaf_mosei_epoch6.pth", state))
    assert converted.kind == "mosei-fused"
    assert converted.matched == len(state)
    file = tmp_path / "model.safetensors"
    file.write_bytes(model_bytes(*model_of(converted)))
    network, spec = load_model(file)
    assert isinstance(network, FusedNetwork)
    assert sum(p.numel() for p in network.parameters()) == 689_337
    assert spec.about["parameters"]["alignment"] == "published"
    inputs = {name: torch.randn(3, 50, d, generator=torch.Generator().manual_seed(d)) for name, (d, _) in SIZES.items()}
    ours = network([x.transpose(1, 2) for x in inputs.values()]).prediction
    torch.testing.assert_close(ours, by_hand(state, inputs), rtol=1e-4, atol=1e-5)


def test_the_command_says_what_it_was_trained_on(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "msaf_mosei_epoch6.pth", state)
    assert main(["convert", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"mosei-fused, {len(state)} tensors" in said
    assert "the inputs of --alignment published, not scaled" in said
    assert "torchmsaf predict" not in said
    assert (tmp_path / "msaf_mosei_epoch6.safetensors").exists()


def test_what_is_missing_or_too_much_is_named(state: State, tmp_path: Path) -> None:
    del state["text_model.1.weight_hh_l0"]
    with pytest.raises(
        DataError, match=r"does not fit the fused network for CMU-MOSEI: text_model.1.weight_hh_l0 is miss"
    ):
        read_released(saved(tmp_path / "a.pth", state))
    state["text_model.1.weight_hh_l0"] = torch.zeros(512, 128)
    state["text_model.2.weight"] = torch.zeros(1)
    with pytest.raises(DataError, match=r"text_model.2.weight has no place in it"):
        read_released(saved(tmp_path / "b.pth", state))
