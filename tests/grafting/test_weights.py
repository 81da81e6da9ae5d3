"""What the graft added, as a state and as a file."""

import pytest
import torch
from torch import nn

from torchmsaf import FusionPoint, GraftError, graft


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv1d(3, width, 3)
        self.conv2 = nn.Conv1d(width, width, 3)
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        return self.out(self.conv2(self.conv1(x).relu()).mean(2))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 2)

    def forward(self, outputs):
        return self.out(torch.cat(outputs, 1))


INPUTS = {"a": torch.randn(4, 3, 9), "b": torch.randn(4, 3, 7)}


def make(layer="conv2", seed=0, width=12, networks=None):
    torch.manual_seed(seed)
    networks = networks or {"a": Net(8), "b": Net(width)}
    return graft(networks, [FusionPoint({"a": layer, "b": "conv1"})], head=Head(), example=INPUTS)


def test_what_is_new_and_the_networks_are_all_there_is_and_share_nothing():
    model = make()
    new = {id(p) for p in model.fusion_parameters()}
    old = {id(p) for p in model.networks.parameters()}
    assert not new & old
    assert new | old == {id(p) for p in model.parameters()}
    names = set(model.fusion_state_dict())
    assert names == {name for name in model.state_dict() if not name.startswith("networks.")}
    assert {name.split(".")[0] for name in names} == {"fusions", "head"}


def test_the_state_of_the_fusion_makes_another_model_on_the_same_networks_the_same():
    model = make()
    twin = make(seed=1, networks={name: model.networks[name] for name in model.networks})
    assert not torch.equal(model.eval()(INPUTS), twin.eval()(INPUTS))
    twin.load_fusion_state_dict(model.fusion_state_dict())
    assert torch.equal(model(INPUTS), twin(INPUTS))


def test_a_state_that_does_not_fit_changes_nothing_and_says_what_is_wrong():
    model, other = make(), make(width=20)
    before = {name: t.clone() for name, t in model.fusion_state_dict().items()}
    with pytest.raises(GraftError, match=r"this state: 'fusions.0.*' is \(.*\) and should be \("):
        model.load_fusion_state_dict(other.fusion_state_dict())
    with pytest.raises(GraftError, match=r"'fusions.0.join.weight' is missing"):
        model.load_fusion_state_dict({k: v for k, v in before.items() if k != "fusions.0.join.weight"})
    with pytest.raises(GraftError, match="'x' is not of this model"):
        model.load_fusion_state_dict({**before, "x": torch.zeros(1)})
    assert all(torch.equal(before[name], t) for name, t in model.fusion_state_dict().items())


def test_a_file_has_the_fusion_alone_and_brings_it_back(tmp_path):
    pytest.importorskip("safetensors")
    model, path = make(), tmp_path / "fusion.safetensors"
    model.save_fusion(path)
    new = sum(t.numel() * t.element_size() for t in model.fusion_state_dict().values())
    assert path.stat().st_size < new + 4096
    twin = make(seed=1, networks={name: model.networks[name] for name in model.networks})
    twin.load_fusion(str(path))
    assert torch.equal(model.eval()(INPUTS), twin.eval()(INPUTS))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_files_that_do_not_fit_are_named(tmp_path):
    pytest.importorskip("safetensors")
    model, path = make(), tmp_path / "fusion.safetensors"
    with pytest.raises(GraftError, match=r"fusion.safetensors: there is no such file"):
        model.load_fusion(path)
    path.write_bytes(b"not tensors")
    with pytest.raises(GraftError, match=r"fusion.safetensors: not a safetensors file"):
        model.load_fusion(path)
    make(layer="conv1").save_fusion(path)
    with pytest.raises(GraftError, match=r"its fusions stand at \[\[\"a.conv1\", \"b.conv1\"\]\], and this model's at"):
        model.load_fusion(path)
    with pytest.raises(GraftError, match="cannot be written"):
        model.save_fusion(tmp_path / "missing" / "fusion.safetensors")
