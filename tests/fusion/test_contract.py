"""Protects the contract of every fusion method: shapes, gradients, state, determinism, counts, types, absent modalities."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.fusion import METHODS, create_fusion
from torchmsaf.fusion.base import BranchFusion, TappedFusion, TrainingRule

B, K = 4, 3
NAMES = list(METHODS)
OWN_RULE = {"multiplicative", "voting", "weighted", "mulmix", "centralnet", "mfas"}
# MSAF is below the rules: whoever trains it takes the default
DEFAULT_RULE = [name for name in NAMES if name not in OWN_RULE and name != "msaf"]
# where they are in the contract: tapped methods are intermediate ones that give a prediction
STAGE = {name: "tapped" if method.tapped else method.stage for name, method in METHODS.items()}
INTERMEDIATE = [name for name in NAMES if STAGE[name] == "intermediate"]
POSITIONS = ((5,), (), (2, 3), (1,), (2, 1, 2))
# the gradient leaves out a part on purpose, which the tests of their formulas show
STOPS_GRADIENTS = {"multiplicative", "mulmix"}


def build(name: str, modalities: int, channels: tuple[int, ...] | None = None) -> nn.Module:
    counts = (channels or (9, 12, 7, 8, 10))[:modalities]
    arguments: dict[str, Any] = {
        "late": {"modalities": modalities},
        "early": {"widths": counts, "out_features": K},
        "intermediate": {"channels": counts},
        "tapped": {"taps": [{"place": count} for count in counts], "out_features": K},
    }[STAGE[name]]
    return create_fusion(name, **arguments)


def inputs(name: str, modalities: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    counts = (9, 12, 7, 8, 10)[:modalities]
    stage = STAGE[name]
    if stage == "late":
        return [torch.randn(B, K, dtype=dtype) for _ in counts]
    if stage in ("early", "tapped"):
        return [torch.randn(B, c, dtype=dtype) for c in counts]
    return [torch.randn(B, c, *shape, dtype=dtype) for c, shape in zip(counts, POSITIONS, strict=False)]


def call(fusion: nn.Module, values: list[Tensor], **arguments: Any) -> list[Tensor]:
    """All that comes out: the prediction, or the maps, with the branch if there is one."""
    if isinstance(fusion, BranchFusion):
        maps, branch = fusion.grow(values, None, **arguments)
        return [*maps, branch]
    if isinstance(fusion, TappedFusion) and isinstance(values, list):
        out = fusion([{"place": x} for x in values], **arguments)
    else:
        out = fusion(values, **arguments)
    return [out] if isinstance(out, Tensor) else out


@pytest.mark.parametrize("modalities", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_a_gradient_to_every_input_and_parameter(name: str, modalities: int) -> None:
    if modalities < METHODS[name].fewest:
        with pytest.raises(FusionInputError, match=f"{METHODS[name].fewest} or more"):
            build(name, modalities)
        return
    fusion, values = build(name, modalities), [x.requires_grad_() for x in inputs(name, modalities)]
    outputs = call(fusion, values)
    if STAGE[name] == "intermediate":
        assert [y.shape for y in fusion(values)] == [x.shape for x in values]
        assert [y.shape for y in outputs[:modalities]] == [x.shape for x in values]
    else:
        assert [y.shape for y in outputs] == [(B, K)]
    sum((y * torch.randn_like(y)).sum() for y in outputs).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.any() for x in values)
    assert all(p.grad is not None for p in fusion.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_changed_and_evaluation_is_deterministic(name: str) -> None:
    fusion, values = build(name, 3).eval(), inputs(name, 3)
    before = copy.deepcopy(values)
    first, second = call(fusion, values), call(fusion, values)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(values, before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name: str) -> None:
    torch.manual_seed(1)
    fusion, values = build(name, 2), inputs(name, 2)
    call(fusion, values)  # running statistics move
    other = build(name, 2)
    other.load_state_dict(fusion.state_dict())
    fusion.eval()
    other.eval()
    assert all(torch.equal(a, b) for a, b in zip(call(fusion, values), call(other, values), strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STOPS_GRADIENTS])
def test_gradients_in_float64(name: str) -> None:
    fusion = build(name, 2).double().eval()
    values = tuple(x.requires_grad_() for x in inputs(name, 2, torch.float64))
    assert torch.autograd.gradcheck(lambda *x: tuple(call(fusion, list(x))), values)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name: str) -> None:
    fusion, values = build(name, 2), inputs(name, 2)
    exact = call(copy.deepcopy(fusion).eval(), values)
    found = call(fusion.bfloat16().eval(), [x.bfloat16() for x in values])
    assert all(y.dtype == torch.bfloat16 for y in found)
    assert all((y.float() - z).abs().max() < 0.1 * (1 + z.abs().max()) for y, z in zip(found, exact, strict=True))


@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_there_of_an_absent_modality_changes_nothing(name: str, junk: float) -> None:
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    clean = inputs(name, 2)
    dirty = [x.clone() for x in clean]
    for m, x in enumerate(dirty):
        x[~present[:, m]] = junk
    results = []
    for values in (clean, dirty):
        torch.manual_seed(3)
        fusion = build(name, 2)
        values = [x.clone().requires_grad_() for x in values]
        outputs = call(fusion, values, present=present)
        sum((y * y.detach().cos()).sum() for y in outputs).backward()
        for m, x in enumerate(values):
            assert x.grad is not None
            assert not x.grad[~present[:, m]].any()
        state = [*fusion.state_dict().values(), *(p.grad for p in fusion.parameters()), *(x.grad for x in values)]
        results.append([*outputs, *state])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(y.isfinite().all() for y in results[0])
    if STAGE[name] == "intermediate":
        assert not results[0][0][2].any()
        assert not results[0][1][1].any()


@pytest.mark.parametrize("name", NAMES)
def test_all_present_is_as_saying_nothing_and_none_present_is_finite(name: str) -> None:
    fusion, values = build(name, 2).eval(), inputs(name, 2)
    everything = call(fusion, values, present=torch.ones(B, 2, dtype=torch.bool))
    for a, b in zip(call(fusion, values), everything, strict=True):
        torch.testing.assert_close(a, b)
    nothing = call(fusion, values, present=torch.zeros(B, 2, dtype=torch.bool))
    assert all(y.isfinite().all() for y in nothing)


@pytest.mark.parametrize("name", INTERMEDIATE)
def test_masked_positions_change_nothing_and_come_out_as_zeros(name: str) -> None:
    fusion = build(name, 2).eval()
    x, y = torch.randn(B, 9, 6), torch.randn(B, 12, 2, 3)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 4])[:, None]
    junk = torch.where(mask[:, None], x, math.nan)
    clean, dirty = (fusion([value, y], masks=[mask, None]) for value in (x, junk))
    gradients = []
    for value in (x, junk):
        leaf = value.clone().requires_grad_()
        fusion.zero_grad()
        sum((out * out.detach().cos()).sum() for out in call(fusion, [leaf, y], masks=[mask, None])).backward()
        assert leaf.grad is not None
        assert not leaf.grad[~mask[:, None].expand_as(x)].any()
        gradients.append([leaf.grad, *(p.grad for p in fusion.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    assert not clean[0][~mask[:, None].expand_as(x)].any()
    short = fusion([x[1:2, :, :3], y[1:2]])
    torch.testing.assert_close(clean[0][1:2, :, :3], short[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_number_of_modalities_is_an_error_that_counts_them(name: str) -> None:
    with pytest.raises(FusionInputError, match="2"):
        call(build(name, 2), inputs(name, 3))


@pytest.mark.parametrize("name", [name for name in NAMES if STAGE[name] != "intermediate"])
def test_presence_of_another_shape_is_an_error(name: str) -> None:
    with pytest.raises(FusionInputError, match=r"present: expected booleans \(B, M\) = \(4, 2\), got"):
        call(build(name, 2), inputs(name, 2), present=torch.ones(B, 3, dtype=torch.bool))


@pytest.mark.parametrize("name", DEFAULT_RULE)
def test_the_default_training_rule_is_the_loss_of_the_fused_prediction(name: str) -> None:
    fusion = build(name, 2)
    assert isinstance(fusion, TrainingRule)
    prediction, target = torch.randn(B, K), torch.tensor([0, 1, 2, 0])
    loss = fusion.training_loss(prediction, (), target, None, nn.functional.cross_entropy)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(prediction, target))


WRONG = {
    "nothing": (lambda x: None, "list"),
    "a None": (lambda x: [x[0], None], "modality 1: expected a tensor"),
    "an array": (lambda x: [x[0], x[1].numpy()], "modality 1: expected a tensor"),
    "another batch": (lambda x: [x[0], x[1][:1]], "modality 1: .*batch of 4"),
    "the batch of the first": (lambda x: [x[0][:1], x[1]], "modality 1: .*batch of 1"),
    "another rank": (lambda x: [x[0], x[1][0]], "modality 1: "),
    "whole numbers": (lambda x: [x[0], x[1].long()], "modality 1: expected floating-point"),
    "complex numbers": (lambda x: [x[0], x[1].to(torch.complex64)], "modality 1: expected floating-point"),
    "another type": (lambda x: [x[0], x[1].double()], "modality 1: expected torch.float32"),
    "another device": (lambda x: [x[0], x[1].to("meta")], "modality 1: expected device cpu"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_inputs_are_errors_that_name_the_modality(name: str, wrong: str) -> None:
    spoil, words = WRONG[wrong]
    fusion, values = build(name, 2).eval(), inputs(name, 2)
    with pytest.raises(FusionInputError, match=words):
        call(fusion, spoil(values))


@pytest.mark.parametrize(
    "present", [[[True, True]] * B, torch.ones(B, 2), torch.ones(B, 2, dtype=torch.bool).to("meta")]
)
@pytest.mark.parametrize("name", NAMES)
def test_presence_that_is_no_booleans_here_is_an_error(name: str, present: Any) -> None:
    with pytest.raises(FusionInputError, match=r"present: expected (booleans|device)"):
        call(build(name, 2).eval(), inputs(name, 2), present=present)


SIZES = {"late": "modalities", "early": "widths", "intermediate": "channels", "tapped": "taps"}


@pytest.mark.parametrize("size", [None, 0, -1, 1.5, math.nan, "ab", (), (4.0, 5), (True, 5), (4, 0)])
@pytest.mark.parametrize("name", NAMES)
def test_wrong_sizes_are_errors_that_begin_with_the_method(name: str, size: Any) -> None:
    stage = STAGE[name]
    more = {"out_features": K} if stage in ("early", "tapped") else {}
    with pytest.raises(FusionInputError, match=f"^{name}: "):
        create_fusion(name, **{SIZES[stage]: size}, **more)


@pytest.mark.parametrize("outputs", [0, -1, 1.5, None, True, 10**13])
@pytest.mark.parametrize("name", [name for name in NAMES if STAGE[name] in ("early", "tapped")])
def test_wrong_outputs_are_errors_that_begin_with_the_method(name: str, outputs: Any) -> None:
    sizes: Any = (4, 5) if STAGE[name] == "early" else ({"place": 4}, {"place": 5})
    with pytest.raises(FusionInputError, match=f"^{name}: "):
        create_fusion(name, out_features=outputs, **{SIZES[STAGE[name]]: sizes})


SWITCHES = [
    (name, key)
    for name, method in METHODS.items()
    for key, parameter in inspect.signature(method.build).parameters.items()
    if isinstance(parameter.default, bool)
]


@pytest.mark.parametrize("said", ["false", None, 0, 1])
@pytest.mark.parametrize(("name", "switch"), SWITCHES)
def test_what_is_true_or_false_is_said_so(name: str, switch: str, said: Any) -> None:
    sizes: dict[str, Any] = {
        "late": {"modalities": 2},
        "early": {"widths": (4, 5), "out_features": K},
        "intermediate": {"channels": (9, 12)},
        "tapped": {"taps": [{"place": 9}, {"place": 12}], "out_features": K},
    }[STAGE[name]]
    with pytest.raises(FusionInputError, match=f"^{name}: {switch} is True or False, got"):
        create_fusion(name, **sizes, **{switch: said})


@pytest.mark.parametrize("name", [name for name in NAMES if STAGE[name] in ("early", "intermediate")])
def test_sizes_of_any_kind_of_sequence(name: str) -> None:
    for kind in (iter, np.array, list):
        sizes = kind((9, 12))  # type: ignore[operator]
        stage = STAGE[name]
        fusion = create_fusion(name, **{SIZES[stage]: sizes}, **({"out_features": K} if stage == "early" else {}))
        assert call(fusion.eval(), inputs(name, 2))[0].isfinite().all()
