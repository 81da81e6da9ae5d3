"""Masks and presence: what is masked or absent reaches nothing, and the rest is as if it were not there."""

import itertools
import math

import pytest
import torch

from torchmsaf import MSAF

GARBAGE = [math.nan, math.inf, -math.inf, 1e38]


def randomize(module):
    for p in module.parameters():
        torch.nn.init.normal_(p)
    return module


def example(mode, dtype=torch.float32, layout="contiguous", segments=2):
    """Features with three modalities, what is passed for them, and where they are real, ``(B, 1, *positions)``."""
    steps = 6 if segments == 2 else 7
    features = [torch.randn(5, 6, steps, 3, dtype=dtype), torch.randn(5, 3, 4, dtype=dtype), torch.randn(5, 7, 5, 2, 2)]
    features[2] = features[2].to(dtype)
    if layout == "channels last":
        features = [x.movedim(1, -1).contiguous().movedim(-1, 1) for x in features]
    masks = [torch.rand(x.shape[0], *x.shape[2:]) < 0.5 for x in features]
    masks[0][1] = masks[0][2, :3] = False  # nothing real in a sample, and in a segment
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]]).bool()
    if mode == "some masks":
        masks[1] = None
    arguments = {}
    if mode != "present":
        arguments["masks"] = masks
    if mode != "masks":
        arguments["present"] = present
    real = []
    for m, x in enumerate(features):
        keep = torch.ones(x.shape[0], 1, *x.shape[2:], dtype=torch.bool)
        if mode != "present" and masks[m] is not None:
            keep = keep & masks[m].unsqueeze(1)
        if mode != "masks":
            keep = keep & present[:, m].reshape(-1, *[1] * (x.dim() - 1))
        real.append(keep)
    return features, arguments, real


def run(module, features, cotangents, arguments, *, create_graph=False):
    """Everything that a training step gives: outputs, gradients, statistics."""
    torch.manual_seed(1)
    leaves = [x.detach().requires_grad_() for x in features]
    outputs = module(leaves, **arguments)
    wanted = [*leaves, *module.parameters()]
    grads = torch.autograd.grad(outputs, wanted, cotangents, create_graph=create_graph)
    return [*outputs, *grads, *module.buffers()]


@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
@pytest.mark.parametrize("mode", ["masks", "present", "both", "some masks"])
@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_no_masked_or_absent_value_reaches_anything(garbage, mode, segments, training, layout):
    features, arguments, real = example(mode, layout=layout, segments=segments)
    cotangents = [torch.randn_like(x) for x in features]
    for norm in ("batch", "layer"):
        results = []
        for value in (0.0, garbage):
            torch.manual_seed(0)
            module = MSAF(
                (6, 3, 7),
                block_channels=2,
                reduction=1,
                segments=segments,
                norm=norm,
                block_dropout=0.3,
                min_attention=0.2,
            )
            randomize(module).train(training)
            filled = [torch.where(keep, x, value) for x, keep in zip(features, real, strict=True)]
            back = [torch.where(keep, x, value) for x, keep in zip(cotangents, real, strict=True)]
            results.append(run(module, filled, back, arguments))
        for i, (clean, dirty) in enumerate(zip(*results, strict=True)):
            assert torch.equal(clean, dirty), i
            assert torch.isfinite(dirty).all()
        for y, g, keep in zip(results[1][:3], results[1][3:6], real, strict=True):
            assert (y.masked_select(~keep) == 0).all()
            assert (g.masked_select(~keep) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("garbage", [math.nan, math.inf])
@pytest.mark.parametrize("identity_start", [True, False])
def test_no_masked_value_reaches_anything_in_other_precisions(dtype, garbage, identity_start):
    features, arguments, real = example("both", dtype)
    results = []
    for value in (0.0, garbage):
        torch.manual_seed(0)
        module = MSAF((6, 3, 7), block_channels=2, reduction=1, segments=2, identity_start=identity_start)
        module.to(dtype if dtype == torch.float64 else torch.float32)
        filled = [torch.where(keep, x, value) for x, keep in zip(features, real, strict=True)]
        results.append(run(module, filled, filled, arguments))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
        assert torch.isfinite(dirty).all()


@pytest.mark.parametrize("mode", ["masks", "present", "both"])
@pytest.mark.parametrize("segments", [1, 2])
def test_no_masked_value_reaches_a_gradient_of_a_gradient(mode, segments):
    features, arguments, real = example(mode, torch.float64, segments=segments)
    results = []
    for value in (0.0, math.nan):
        torch.manual_seed(0)
        module = randomize(MSAF((6, 3, 7), block_channels=2, reduction=1, segments=segments).double().eval())
        leaves = [torch.where(k, x, value).requires_grad_() for x, k in zip(features, real, strict=True)]
        wanted = [*leaves, *module.parameters()]
        first = torch.autograd.grad(
            sum(y.square().sum() for y in module(leaves, **arguments)), wanted, create_graph=True
        )
        results.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)])
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(clean, dirty, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("garbage", "mode", "segments", "how"),
    [
        *itertools.product([math.nan, math.inf, 1e38], ["masks", "present", "both"], [1, 2], ["torch.func"]),
        (math.nan, "both", 2, "aot_eager"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_no_masked_value_reaches_anything_in_plain_operations(garbage, mode, segments, how):
    """The operations that compile, export and torch.func run; their backward is not ours."""
    features, arguments, real = example(mode, segments=segments)
    cotangents = [torch.randn_like(x) for x in features]
    results = []
    for value in (0.0, garbage):
        torch.manual_seed(0)
        module = randomize(MSAF((6, 3, 7), block_channels=2, reduction=1, segments=segments)).eval()
        filled = [torch.where(keep, x, value) for x, keep in zip(features, real, strict=True)]
        back = [torch.where(keep, x, value) for x, keep in zip(cotangents, real, strict=True)]
        if how == "aot_eager":
            results.append(run(torch.compile(module, backend="aot_eager", fullgraph=True), filled, back, arguments))
            continue
        parameters = {k: p.detach() for k, p in module.named_parameters()}

        def call(parameters, filled, module=module):
            return torch.func.functional_call(module, parameters, (filled,), arguments)

        outputs, pull = torch.func.vjp(call, parameters, filled)
        grads, inputs = pull(back)
        results.append([*outputs, *grads.values(), *inputs])
    for i, (clean, dirty) in enumerate(zip(*results, strict=True)):
        assert torch.equal(clean, dirty), i
        assert torch.isfinite(dirty).all()


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("identity_start", [True, False])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_nothing_present_gives_zeros_and_zero_gradients(segments, training, identity_start, norm):
    module = MSAF(
        (6, 4),
        block_channels=2,
        reduction=1,
        segments=segments,
        norm=norm,
        identity_start=identity_start,
        min_attention=0.5,
    ).train(training)
    features = [torch.full((3, 6, 5), math.nan, requires_grad=True), torch.randn(3, 4, 4, requires_grad=True)]
    absent = torch.zeros(3, 2, dtype=torch.bool)
    before = [b.clone() for b in module.buffers() if b.dim()]
    for arguments in ({"present": absent}, {"masks": [torch.zeros(3, 5).bool(), torch.zeros(3, 4).bool()]}):
        out = module(features, **arguments)
        grads = torch.autograd.grad(out, [*features, *module.parameters()], [torch.ones_like(y) for y in out])
        assert all((t == 0).all() for t in [*out, *grads])
        assert all((a == 0).all() for a in module.attention(features, **arguments))
    assert all(torch.equal(a, b) for a, b in zip(before, [b for b in module.buffers() if b.dim()], strict=True))


def test_attention_of_absent_modalities_is_zero_and_the_rest_sums_to_one():
    module = randomize(MSAF((6, 3, 7), block_channels=2, reduction=1, segments=2))
    features, arguments, real = example("both")
    parts = module.attention(features, **arguments)
    halves = []
    for keep in real:
        steps = keep.flatten(3).any(3)[:, 0] if keep.dim() > 3 else keep[:, 0]
        cut = steps.shape[1] // 2
        halves.append(torch.stack([steps[:, :cut].any(1), steps[:, cut:].any(1)], 1))  # (B, q)
    for a, alive in zip(parts, halves, strict=True):
        assert (a[~alive] == 0).all()
        assert (a[alive] > 0).all()
    total = torch.cat(parts, 2).sum(2)
    expected = torch.stack(halves).any(0).float()[..., None].expand(total.shape)
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("training", [True, False])
def test_masked_tails_are_as_if_they_had_been_cut_off(training):
    module = randomize(MSAF((6, 4), block_channels=2, reduction=1)).train(training)
    other = MSAF((6, 4), block_channels=2, reduction=1).train(training)
    other.load_state_dict(module.state_dict())
    a, b = torch.randn(4, 6, 9), torch.randn(4, 4, 7, 2)
    masks = [torch.arange(9).expand(4, 9) < 5, (torch.arange(7) < 3)[:, None].expand(4, 7, 2)]
    padded, cut = module([a, b], masks=masks), other([a[..., :5], b[:, :, :3]])
    torch.testing.assert_close([padded[0][..., :5], padded[1][:, :, :3]], cut)
    torch.testing.assert_close(module.state_dict(), other.state_dict())


@pytest.mark.parametrize("identity_start", [True, False])
def test_an_absent_modality_is_as_if_the_module_had_been_built_without_it(identity_start):
    module = randomize(MSAF((6, 3, 4), block_channels=2, reduction=1, identity_start=identity_start)).eval()
    smaller = MSAF((6, 4), block_channels=2, reduction=1, identity_start=identity_start).eval()
    state = module.state_dict()
    rows = [0, 1, 2, 5, 6]  # blocks of the first and the last
    smaller.load_state_dict(state | {k: state[k][:, rows] for k in ("highlight.weight", "highlight.bias")})
    features = [torch.randn(4, 6, 5), torch.randn(4, 3), torch.randn(4, 4, 2, 2)]
    out = module(features, present=torch.tensor([True, False, True]).expand(4, 3))
    torch.testing.assert_close([out[0], out[2]], smaller([features[0], features[2]]))


@pytest.mark.parametrize("training", [True, False])
def test_everything_real_is_as_no_mask(training):
    features = [torch.randn(4, 6, 5), torch.randn(4, 4, 3, 2)]
    masks = [torch.ones(4, 5).bool(), torch.ones(4, 3, 2).bool()]
    results = []
    for arguments in ({}, {"masks": masks}, {"present": torch.ones(4, 2).bool()}, {"masks": [None, None]}):
        torch.manual_seed(0)
        module = randomize(MSAF((6, 4), block_channels=2, reduction=1, segments=2)).train(training)
        results.append([*module(features, **arguments), *module.buffers()])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("segments", [1, 2])
def test_running_statistics_are_of_the_samples_that_hold_data_and_unbiased(segments):
    module = randomize(MSAF((6, 4), block_channels=2, reduction=1, segments=segments))
    alone = MSAF((6, 4), block_channels=2, reduction=1, segments=segments)
    alone.load_state_dict(module.state_dict())
    features = [torch.randn(6, 6, 4), torch.randn(6, 4, 4)]
    present = torch.tensor([[1, 1], [0, 0], [1, 1], [0, 0], [1, 1], [1, 1]]).bool()
    alive = present.any(1)
    out, expected = module(features, present=present), alone([x[alive] for x in features])
    torch.testing.assert_close([y[alive] for y in out], expected)
    torch.testing.assert_close(module.state_dict(), alone.state_dict())


def test_one_sample_with_data_leaves_the_statistics_as_they_are_and_is_finite():
    module = randomize(MSAF((6, 4), block_channels=2, reduction=1))
    mean, variance = module.norm.running_mean.clone(), module.norm.running_var.clone()
    present = torch.tensor([[True, True], [False, False]])
    features = [torch.randn(2, 6, 4, requires_grad=True), torch.randn(2, 4)]
    out = module(features, present=present)
    torch.autograd.backward(out, [torch.ones_like(y) for y in out])
    assert torch.isfinite(out[0]).all()
    assert torch.isfinite(features[0].grad).all()
    assert torch.equal(module.norm.running_mean, mean)
    assert torch.equal(module.norm.running_var, variance)


def test_statistics_with_absent_samples_follow_the_norms_own_momentum():
    for momentum in (0.5, None):
        module = MSAF((6, 4), block_channels=2, reduction=1)
        alone = MSAF((6, 4), block_channels=2, reduction=1)
        alone.load_state_dict(module.state_dict())
        module.norm.momentum = alone.norm.momentum = momentum
        for _ in range(3):
            features = [torch.randn(5, 6, 4), torch.randn(5, 4)]
            present = torch.tensor([[True] * 2, [False] * 2, [True] * 2, [True] * 2, [True] * 2])
            module(features, present=present)
            alone([x[present[:, 0]] for x in features])
        torch.testing.assert_close(module.state_dict(), alone.state_dict())


def test_a_norm_without_running_statistics_uses_those_of_the_batch_that_hold_data():
    module = MSAF((6, 4), block_channels=2, reduction=1)
    module.norm = torch.nn.BatchNorm1d(2, track_running_stats=False)
    features = [torch.randn(5, 6, 4), torch.randn(5, 4)]
    present = torch.tensor([[True] * 2, [False] * 2, [True] * 2, [True] * 2, [True] * 2])
    alive = present[:, 0]
    for mode in (True, False):
        module.train(mode)
        out = module(features, present=present)
        torch.testing.assert_close([y[alive] for y in out], module([x[alive] for x in features]))


@pytest.mark.parametrize("identity_start", [True, False])
def test_one_present_block_has_all_the_attention_and_moves_nothing(identity_start):
    """With one block A = 1 whatever the logits are, so the highlight layers get no gradient."""
    module = randomize(MSAF((2, 4), block_channels=2, reduction=1, identity_start=identity_start)).eval()
    present = torch.tensor([[True, False]] * 3)
    x = torch.randn(3, 2, 5, requires_grad=True)
    out = module([x, torch.randn(3, 4)], present=present)
    torch.testing.assert_close(out[0], x)
    grads = torch.autograd.grad(out[0].square().sum(), [x, *module.parameters()])
    torch.testing.assert_close(grads[0], 2 * x.detach())
    assert all(g.abs().max() < 1e-6 for g in grads[1:])


def test_a_mask_that_changes_before_the_backward_is_noticed_or_harmless():
    module = MSAF((6, 4), block_channels=2, reduction=1).eval()
    x, mask = torch.randn(3, 6, 5, requires_grad=True), torch.rand(3, 5) < 0.7
    cotangent = torch.randn(3, 6, 5)
    other = torch.randn(3, 4)
    expected = torch.autograd.grad(module([x, other], masks=[mask.clone(), None])[0], x, cotangent)[0]
    out = module([x, other], masks=[mask, None])[0]
    mask.zero_()  # a loader that uses its buffer again
    try:
        got = torch.autograd.grad(out, x, cotangent)[0]
    except RuntimeError:
        return
    torch.testing.assert_close(got, expected)
