"""Protects networks with a fusion: where each stage stands, the names of weights, and that absent samples touch nothing."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchmsaf.backbones import ConvNet, StagedNetwork, VectorNet
from torchmsaf.backbones.lstm_net import LSTMNet
from torchmsaf.errors import FusionInputError
from torchmsaf.fusion import METHODS
from torchmsaf.ops.steps import step_mask
from torchmsaf.tasks.network import FusedNetwork, module_name

B, K = 6, 3
NAMES = list(METHODS)
INTERMEDIATE = [name for name in NAMES if METHODS[name].stage == "intermediate"]


def networks() -> dict[str, StagedNetwork]:
    torch.manual_seed(0)
    return {"zoo": ConvNet((2, 9), K), "art": VectorNet((5,), K)}


def fused(method: str, **options: Any) -> FusedNetwork:
    parts = networks()
    torch.manual_seed(1)
    return FusedNetwork(parts, method, outputs=K, options=options)


def inputs() -> list[Tensor]:
    return [torch.randn(B, 2, 9), torch.randn(B, 5)]


@pytest.mark.parametrize("method", NAMES)
def test_state_dict_keys_keep_the_networks_own(method: str) -> None:
    keys = set(fused(method).state_dict())
    own = {f"networks.{name}.{key}" for name, net in networks().items() for key in net.state_dict()}
    assert own <= keys
    assert {key.split(".")[0] for key in keys - own} <= {"points", "decide"}


@pytest.mark.parametrize("method", NAMES)
def test_a_fused_network_starts_from_the_weights_it_is_given(method: str) -> None:
    network = fused(method)
    for name, net in networks().items():
        for key, value in net.state_dict().items():
            assert torch.equal(network.state_dict()[f"networks.{name}.{key}"], value)


def test_late_fusion_is_of_the_networks_predictions() -> None:
    network, values = fused("multiplication").eval(), inputs()
    alone = [net.eval()(x) for net, x in zip(networks().values(), values, strict=True)]
    said = network(values)
    assert all(torch.equal(a, b) for a, b in zip(said.parts, alone, strict=True))
    torch.testing.assert_close(said.prediction, alone[0] + alone[1])


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("decision", ["product", "mean"])
def test_logits_are_summed_or_averaged_over_the_modalities_that_are_there(decision: Any, regression: bool) -> None:
    """Averaging decides as the sum does and learns otherwise: the loss is that of half the logits."""
    outputs = 1 if regression else K
    nets = {"zoo": ConvNet((2, 9), outputs), "art": VectorNet((5,), outputs)}
    network = FusedNetwork(nets, "msaf", outputs=outputs, regression=regression, decision=decision).eval()
    values, present = inputs(), torch.tensor([[True, True], [True, False], [False, True]] * 2)
    said = network(values, present)
    own, here = torch.stack(said.parts), present.T.unsqueeze(2)
    total = torch.where(here, own, 0).sum(0)
    mean = total / here.sum(0)
    torch.testing.assert_close(said.prediction, mean if regression or decision == "mean" else total)


def test_another_decision_is_refused() -> None:
    with pytest.raises(FusionInputError, match="decision is 'product' or 'mean' or 'joint', got 'sum'"):
        FusedNetwork(networks(), "msaf", outputs=K, decision="sum")  # type: ignore[arg-type]


def test_early_fusion_is_of_the_feature_vectors() -> None:
    network, values = fused("concat").eval(), inputs()
    vectors = []
    for net, x in zip(networks().values(), values, strict=True):
        for stage in net.eval().stages:
            x = stage(x)
        vectors.append(net.feature(x))
    said = network(values)
    torch.testing.assert_close(said.prediction, network.decide(vectors))
    assert said.parts == ()


def test_intermediate_fusion_stands_after_every_shared_stage() -> None:
    network, values = fused("mmtm").eval(), inputs()
    assert [point.channels for point in network.points] == [(16, 64), (32, 64)]
    maps = list(values)
    nets = [net.eval() for net in networks().values()]
    for k in range(2):
        maps = network.points[k]([net.stages[k](x) for net, x in zip(nets, maps, strict=True)])
    logits = [net.head(net.feature(x)) for net, x in zip(nets, maps, strict=True)]
    torch.testing.assert_close(network(values).prediction, logits[0] + logits[1])


def test_networks_of_different_depth_share_their_last_stages() -> None:
    class Deep(VectorNet):
        def __init__(self) -> None:
            super().__init__((5,), K)
            self.stages.insert(0, nn.Linear(5, 5))
            self.channels = (5, *self.channels)

    network = FusedNetwork({"a": Deep(), "b": ConvNet((2, 9), K)}, "mmtm", outputs=K)
    assert [point.channels for point in network.points] == [(64, 16), (64, 32)]
    assert network([torch.randn(B, 5), torch.randn(B, 2, 9)]).prediction.shape == (B, K)


@pytest.mark.parametrize("method", [name for name in INTERMEDIATE if not METHODS[name].tapped])
def test_points_is_the_number_of_stages_a_method_stands_after_from_the_last(method: str) -> None:
    vectors = [(64, 64)] if method == "centralnet" else []  # its branch grows by the feature vectors too
    assert [point.channels for point in fused(method, points=1).points] == [(32, 64), *vectors]
    every = [(16, 64), (32, 64), *vectors]
    for options in ({}, {"points": 2}):
        assert [point.channels for point in fused(method, **options).points] == every
    for wrong in (0, 3, True, 1.0):
        with pytest.raises(FusionInputError, match=rf"^{method}: points is the number of stages .*1 to 2 with these"):
            fused(method, points=wrong)
    with pytest.raises(FusionInputError, match=rf"^{method}: points: 'last' is no placement"):
        fused(method, points="last")


def test_a_method_with_a_branch_predicts_from_what_grew_along_the_points() -> None:
    network, values = fused("centralnet").eval(), inputs()
    maps, branch = list(values), None
    nets = [net.eval() for net in networks().values()]
    for k, point in enumerate(network.points):
        maps = [net.stages[k](x) if k < 2 else net.feature(x) for net, x in zip(nets, maps, strict=True)]
        maps, branch = point.grow(maps, branch)
    said = network(values)
    torch.testing.assert_close(said.prediction, network.decide(branch))
    alone = [net(x) for net, x in zip(nets, values, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(said.parts, alone, strict=True))
    assert sum(p.numel() for p in network.decide.parameters()) == 64 * K + K


def test_a_method_with_a_branch_trains_all_networks_and_the_branch() -> None:
    network, target = fused("centralnet"), torch.tensor([0, 1, 2, 0, 1, 2])
    said = network(inputs())
    loss = network.training_loss(said, target, None, F.cross_entropy)
    expected = sum(F.cross_entropy(z, target) for z in (said.prediction, *said.parts))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_only_the_fusion_counts_as_added() -> None:
    network = fused("concat")
    added = sum(p.numel() for p in network.fusion_parameters())
    total = sum(p.numel() for p in network.parameters())
    assert total - added == sum(p.numel() for net in networks().values() for p in net.parameters())
    assert not list(fused("multiplication").fusion_parameters())


def junk_in_absent_rows(values: list[Tensor], present: Tensor) -> list[Tensor]:
    dirty = [x.clone() for x in values]
    for m, x in enumerate(dirty):
        x[~present[:, m]] = math.nan
    return dirty


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (2,), ()], ids=["four rows", "one row", "no row"])
@pytest.mark.parametrize("method", NAMES)
def test_absent_rows_change_nothing_in_training(method: str, rows: tuple[int, ...]) -> None:
    present = torch.ones(B, 2, dtype=torch.bool)
    present[:, 1] = False
    present[list(rows), 1] = True
    values, target = inputs(), torch.arange(B) % K
    results = []
    for given in (values, junk_in_absent_rows(values, present)):
        network = fused(method).train()
        torch.manual_seed(2)
        said = network(given, present)
        loss = network.training_loss(said, target, present, F.cross_entropy)
        loss.backward()
        assert all(module.training for module in network.modules())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
        results.append([loss, said.prediction, *network.state_dict().values(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(value.isfinite().all() for value in results[0])


def test_batch_norm_sees_the_present_rows_alone() -> None:
    present = torch.ones(B, 2, dtype=torch.bool)
    present[3:, 1] = False
    network, values = fused("multiplication").train(), inputs()
    network(values, present)
    alone = networks()["art"].train()
    alone(values[1][:3])
    found = network.networks["art"].state_dict()
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize("count", [0, 1])
def test_one_row_or_none_moves_no_statistics(count: int) -> None:
    present = torch.ones(B, 2, dtype=torch.bool)
    present[count:, 1] = False
    network = fused("multiplication").train()
    before = copy.deepcopy(network.networks["art"].state_dict())
    network(inputs(), present)
    after = network.networks["art"].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_frozen_module_stays_frozen_after_such_a_batch() -> None:
    network = fused("multiplication").train()
    frozen = network.networks["art"].stages[0]
    frozen.eval()
    present = torch.ones(B, 2, dtype=torch.bool)
    present[1:, 1] = False
    network(inputs(), present)
    assert not frozen.training


@pytest.mark.parametrize("name", ["keys", "a.b", "a b", "../x", "training", "ß", ""])
def test_any_name_can_be_a_modality(name: str) -> None:
    network = FusedNetwork({name: VectorNet((3,), K), "other": VectorNet((3,), K)}, "averaging", outputs=K)
    assert any(key.startswith(f"networks.{module_name(name)}.") for key in network.state_dict())


def test_names_that_are_too_alike() -> None:
    with pytest.raises(FusionInputError, match="too alike"):
        FusedNetwork({"a.b": VectorNet((3,), K), "a_b": VectorNet((3,), K)}, "averaging", outputs=K)


def test_two_networks_without_a_method_and_a_method_that_cannot_do_regression() -> None:
    with pytest.raises(FusionInputError, match="2 networks need a fusion method"):
        FusedNetwork(networks(), None, outputs=K)
    with pytest.raises(FusionInputError, match="multiplication is for classification"):
        FusedNetwork(networks(), "multiplication", outputs=1, regression=True)


@pytest.mark.parametrize("method", INTERMEDIATE)
def test_an_intermediate_method_needs_stages(method: str) -> None:
    parts = networks()
    parts["art"].stages = nn.ModuleList()
    with pytest.raises(
        FusionInputError, match=f"^{method}: it stands between stages, and the network of 'art' has none"
    ):
        FusedNetwork(parts, method, outputs=K)


def test_what_follows_from_the_networks_is_no_option() -> None:
    with pytest.raises(FusionInputError, match=r"^msaf: 'channels' is set by the comparison"):
        fused("msaf", channels=3)


@pytest.mark.parametrize("method", NAMES)
def test_absent_rows_change_nothing_in_evaluation_with_gradients(method: str) -> None:
    present = torch.ones(B, 2, dtype=torch.bool)
    present[0, 1] = present[2, 0] = False
    clean = inputs()
    results = []
    for values in (clean, junk_in_absent_rows(clean, present)):
        network = fused(method).eval()
        said = network(values, present)
        network.training_loss(said, torch.arange(B) % K, present, F.cross_entropy).backward()
        results.append([said.prediction, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(value.isfinite().all() for value in results[0])


def test_inputs_and_presence_that_do_not_fit() -> None:
    with pytest.raises(FusionInputError, match="expected the inputs of 2 networks, got 1"):
        fused("averaging")(inputs()[:1])
    with pytest.raises(FusionInputError, match=r"present: expected booleans \(B, M\) = \(6, 2\)"):
        fused("averaging")(inputs(), torch.ones(B, 1, dtype=torch.bool))
    with pytest.raises(FusionInputError, match="no networks"):
        FusedNetwork({}, "film", outputs=K)


# sequences that are padded at their end

LENGTHS = [torch.tensor([4, 9, 6, 1, 9, 7]), torch.tensor([5, 12, 2, 12, 3, 1])]


def recurrent(method: str | None, **options: Any) -> FusedNetwork:
    torch.manual_seed(0)
    nets: dict[str, StagedNetwork] = {"voice": LSTMNet((3, 9), 1, hidden=8), "text": LSTMNet((2, 12), 1, hidden=10)}
    torch.manual_seed(1)
    return FusedNetwork(nets, method, outputs=1, options=options, regression=True, decision="joint").double()


def padded(filling: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(B, c, t, generator=generator, dtype=torch.float64) for c, t in ((3, 9), (2, 12))]
    return [
        torch.where(step_mask(own, x.shape[2])[:, None], x, filling) for x, own in zip(values, LENGTHS, strict=True)
    ]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", [name for name in NAMES if METHODS[name].regression])
def test_what_is_behind_an_end_reaches_nothing(method: str, training: bool) -> None:
    """Predictions, gradients and statistics of batch norm, with zeros and with garbage in the padding."""
    found = []
    for filling in (0.0, math.nan):
        network = recurrent(method).train(training)
        torch.manual_seed(2)
        said = network(padded(filling), lengths=LENGTHS)
        network.training_loss(said, torch.arange(6.0).double(), None, lambda p, t: F.mse_loss(p[:, 0], t)).backward()
        grads = [torch.zeros(()) if p.grad is None else p.grad for p in network.parameters()]
        found.append([said.prediction, *grads, *network.buffers()])
    for one, other in zip(*found, strict=True):
        assert torch.isfinite(other).all()
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", ["msaf", "concat", "mmtm", "averaging"])
def test_padding_does_not_change_a_prediction(method: str) -> None:
    """A sample's own prediction is the same in a longer batch, but for segments, which are of the whole length."""
    network, values = recurrent(method).eval(), padded(0.0)
    whole = network(values, lengths=LENGTHS).prediction
    short = [x[:2, :, : int(own[:2].max())] for x, own in zip(values, LENGTHS, strict=True)]
    torch.testing.assert_close(network(short, lengths=[own[:2] for own in LENGTHS]).prediction, whole[:2])


def test_masks_reach_a_fusion_between_stages() -> None:
    network, seen = recurrent("msaf"), []
    network.points[0].register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["masks"]), with_kwargs=True)
    network(padded(0.0), lengths=[LENGTHS[0], None])
    assert torch.equal(seen[0][0], step_mask(LENGTHS[0], 9))
    assert seen[0][1] is None


def test_a_joint_prediction_is_one_linear_layer_on_the_last_states() -> None:
    """And the networks are without the heads that nobody uses."""
    network = recurrent("msaf", segments=3).eval()
    assert not [name for name in network.state_dict() if ".head." in name]
    nets, values = list(network.networks.values()), padded(0.0)
    maps = [net.to_lstm1(x, own) for net, x, own in zip(nets, values, LENGTHS, strict=True)]
    maps = network.points[0](maps, masks=[step_mask(own, x.shape[2]) for x, own in zip(maps, LENGTHS, strict=True)])
    states = torch.cat([net.last_state(x, own) for net, x, own in zip(nets, maps, LENGTHS, strict=True)], dim=1)
    layer = network.decide.layers[0]
    said = network(values, lengths=LENGTHS)
    torch.testing.assert_close(said.prediction, states @ layer.weight.T + layer.bias)
    assert said.parts == ()


def test_padded_sequences_of_which_some_are_absent() -> None:
    """Absent rows have length 0; whatever is there reaches nothing, in training too."""
    here = torch.tensor([[True, True], [True, False], [False, True], [True, True], [True, False], [True, True]])
    ends = [torch.where(here[:, m], own, 0) for m, own in enumerate(LENGTHS)]
    found = []
    for filling in (0.0, math.inf):
        network = recurrent("msaf", segments=3).train()
        torch.manual_seed(2)
        x = [torch.where(here[:, m, None, None], v, filling) for m, v in enumerate(padded(0.0))]
        said = network(x, here, ends)
        said.prediction.sum().backward()
        found.append([said.prediction, *(p.grad for p in network.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other)


def test_lengths_are_one_a_network() -> None:
    with pytest.raises(FusionInputError, match="expected the lengths of 2 networks, None or \\(B,\\), got 1"):
        recurrent("msaf")(padded(0.0), lengths=LENGTHS[:1])
