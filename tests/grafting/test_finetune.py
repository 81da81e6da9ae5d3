"""What learns: freezing, batch norms of frozen networks, groups for an optimizer."""

import copy

import pytest
import torch
from torch import nn

from torchmsaf import FusionPoint, GraftError, graft


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv1d(3, width, 3)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3)
        self.bn2 = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.out(self.drop(x.mean(2)))


@pytest.fixture
def inputs():
    return {"a": torch.randn(4, 3, 9), "b": torch.randn(4, 3, 7)}


@pytest.fixture
def model(inputs):
    return graft({"a": Net(8), "b": Net(12)}, [FusionPoint({"a": "conv2", "b": "conv1"})], example=inputs)


def learn(model, inputs):
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=0.1)
    model(inputs).square().sum().backward()
    optimizer.step()


def test_a_frozen_network_does_not_change_in_training_and_the_rest_does(model, inputs):
    model.freeze("a").train()
    before = copy.deepcopy(model.state_dict())
    learn(model, inputs)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if name.startswith("networks.a.")}
    assert {"networks.b.conv1.weight", "networks.b.bn1.running_mean", "fusions.0.join.weight"} <= changed


def test_train_leaves_frozen_batch_norms_in_evaluation_and_nothing_else(model):
    model.freeze("a")
    for _ in range(2):
        model.eval().train()
        assert not model.networks["a"].bn1.training
        assert not model.networks["a"].bn2.training
        assert model.networks["a"].drop.training
        assert model.networks["b"].bn1.training


def test_layers_are_frozen_by_name_with_what_is_in_them(model):
    model.freeze("a", layers=["conv1", "bn1"]).train()
    frozen = {name for name, p in model.networks["a"].named_parameters() if not p.requires_grad}
    assert frozen == {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"}
    assert not model.networks["a"].bn1.training
    assert model.networks["a"].bn2.training
    model.freeze("a", layers="conv2")
    assert not model.networks["a"].conv2.weight.requires_grad
    assert not model.networks["a"].conv1.weight.requires_grad


def test_unfreeze_gives_back_what_learned_before_and_no_more(model):
    model.networks["a"].out.bias.requires_grad_(False)
    model.train().freeze().unfreeze()
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"networks.a.out.bias"}
    assert model.networks["a"].bn1.training


def test_freeze_without_a_name_is_all_networks_and_leaves_the_fusion(model):
    model.freeze()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"fusions"}


def test_frozen_survives_a_copy(model):
    twin = copy.deepcopy(model.freeze("a")).train()
    assert not twin.networks["a"].bn1.training
    assert twin.unfreeze().networks["a"].conv1.weight.requires_grad


def test_parameter_groups_have_their_rates_and_each_parameter_once(model):
    groups = model.parameter_groups(fusion={"lr": 1e-3, "weight_decay": 0.0}, networks={"a": 1e-5})
    assert [(g["name"], g.get("lr"), g.get("weight_decay")) for g in groups] == [
        ("fusion", 1e-3, 0.0),
        ("a", 1e-5, None),
        ("b", None, None),
    ]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert torch.optim.AdamW(groups, lr=0.5).param_groups[2]["lr"] == 0.5
    assert [g["lr"] for g in model.parameter_groups(networks=1e-4) if "lr" in g] == [1e-4, 1e-4]


def test_a_frozen_network_has_no_group(model):
    assert [g["name"] for g in model.freeze("b").parameter_groups()] == ["fusion", "a"]


def test_a_parameter_of_two_networks_is_in_one_group(inputs):
    net = Net(8)
    model = graft({"a": net, "b": net}, [FusionPoint({"a": "conv2", "b": "conv2"})], example=inputs)
    groups = model.parameter_groups()
    torch.optim.SGD(groups, lr=0.1)
    assert [g["name"] for g in groups] == ["fusion", "a"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.freeze("c"), "no network 'c'; there are: a, b"),
        (lambda m: m.unfreeze("c"), "no network 'c'"),
        (lambda m: m.freeze("a", layers=["conv9"]), "network 'a'.* has no layer 'conv9'; did you mean 'conv"),
        (lambda m: m.parameter_groups(networks={"c": 1.0}), "no network 'c'"),
        (lambda m: m.parameter_groups(fusion={"params": []}), "parameter group 'fusion': 'params' and 'name'"),
    ],
)
def test_wrong_names_say_what_there_is(model, call, said):
    with pytest.raises(GraftError, match=said):
        call(model)
    assert all(p.requires_grad for p in model.parameters())
