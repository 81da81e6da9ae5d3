"""MSAF: parameters, agreement with the equations, attention, BlockDropout, the two starts, layouts and precisions."""

import itertools
import math
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmsaf import MSAF, BlockDropout
from torchmsaf.ops.reference import Parameters, msaf_reference

# ---- parameters and arguments


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ({"channels": (1024, 32), "block_channels": 16}, 5_356),
        ({"channels": (2048, 64), "block_channels": 32}, 19_288),
        ({"channels": (1024, 1024)}, 330_112),
        ({"channels": (32, 64, 128), "block_channels": 16, "segments": 5}, 10_840),
        ({"channels": (64, 64)}, 1_432),
        ({"channels": (128, 128)}, 5_424),
        ({"channels": (256, 256)}, 21_088),
        ({"channels": (512, 512)}, 83_136),
    ],
)
def test_parameter_counts_of_the_paper(arguments, number):
    assert count(MSAF(**arguments)) == number


@given(
    channels=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    block=st.integers(1, 20),
    data=st.data(),
    segments=st.integers(1, 4),
)
@settings(max_examples=40)
def test_parameter_count_formula_and_state_dict_shapes(channels, block, data, segments):
    reduction = data.draw(st.integers(1, block))
    module = MSAF(channels, block_channels=block, reduction=reduction, segments=segments)
    joint, n = block // reduction, sum(math.ceil(c / block) for c in channels)
    assert count(module) == segments * (block * joint + 3 * joint + n * (block * joint + block))
    assert module.blocks == tuple(math.ceil(c / block) for c in channels)
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == {
        "join.weight": (segments, joint, block),
        "join.bias": (segments, joint),
        "norm.weight": (segments * joint,),
        "norm.bias": (segments * joint,),
        "norm.running_mean": (segments * joint,),
        "norm.running_var": (segments * joint,),
        "norm.num_batches_tracked": (),
        "highlight.weight": (segments, n, block, joint),
        "highlight.bias": (segments, n, block),
    }


def test_state_dict_of_layer_norm_has_weight_and_bias_only():
    keys = set(MSAF((8, 6), reduction=1, norm="layer").state_dict())
    assert keys == {
        "join.weight", "join.bias", "norm.weight", "norm.bias", "highlight.weight", "highlight.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "block", "reduction", "joint"),
    [((64,), 32, 4, 8), ((64, 40), 20, 4, 5), ((64, 40, 90), 20, 2, 10), ((9, 50, 70, 11), 4, 2, 2)],
)
def test_default_block_channels_are_half_the_smallest_and_reduction_depends_on_modalities(
    channels, block, reduction, joint
):
    module = MSAF(channels)
    assert (module.block_channels, module.reduction) == (block, reduction)
    assert module.join.weight.shape == (1, joint, block)


def test_default_start_has_the_bounds_of_linear_layers():
    module = MSAF((1024, 512), segments=3)
    for layer, fan_in in ((module.join, 256), (module.highlight, 64)):
        for tensor in (layer.weight, layer.bias):
            bound = 1 / math.sqrt(fan_in)
            assert 0.9 * bound < tensor.detach().abs().max() <= bound
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert torch.all(module.norm.weight == 1)
    assert torch.all(module.norm.bias == 0)


# ---- outputs and gradients against the equations

LAYOUTS = ("contiguous", "channels last", "time major", "slice", "expanded")


def lay_out(x, layout):
    if x.dim() == 2 or layout == "contiguous":
        return x.contiguous()
    if layout == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "time major":
        return x.movedim(2, 0).contiguous().movedim(0, 2)
    if layout == "slice":
        return torch.cat([x, x], dim=-1)[..., : x.shape[-1]]
    return x[..., :1].expand(x.shape)


def randomize(module):
    """Weights and statistics of a network that has learned something."""
    for p in module.parameters():
        torch.nn.init.normal_(p)
    if module.norm._get_name() == "BatchNorm1d":
        torch.nn.init.normal_(module.norm.running_mean)
        torch.nn.init.uniform_(module.norm.running_var, 0.5, 2.0)


def make_normalize(norm, joint, training, *, update):
    """Batch or layer norm of one segment in its own words; batch statistics of the rows that hold data."""

    def normalize(z, rows, *, segment):
        here = slice(segment * joint, (segment + 1) * joint)
        weight, bias = norm.weight[here], norm.bias[here]
        if isinstance(norm, torch.nn.GroupNorm):
            return F.layer_norm(z, (joint,), weight, bias, norm.eps)
        if not training:
            return (z - norm.running_mean[here]) / (norm.running_var[here] + norm.eps).sqrt() * weight + bias
        real = z[rows]
        if len(real) > 1:
            update[segment] = (
                0.9 * norm.running_mean[here] + 0.1 * real.mean(0).detach(),
                0.9 * norm.running_var[here] + 0.1 * real.var(0, unbiased=True).detach(),
            )
        else:
            update[segment] = (norm.running_mean[here].clone(), norm.running_var[here].clone())
        if not len(real):
            return torch.zeros_like(z)
        mean, variance = real.mean(0), real.var(0, unbiased=False)
        return (z - mean) / (variance + norm.eps).sqrt() * weight + bias

    return normalize


@st.composite
def calls(draw):
    """A module and what it is called with."""
    segments = draw(st.sampled_from([1, 1, 2, 3, 4]))
    segment_dim = draw(st.sampled_from([2, 3, -1]))
    least = 0 if segments == 1 else (2 if segment_dim == 3 else 1)
    batch = draw(st.integers(2, 4))
    shapes = []
    for _ in range(draw(st.integers(1, 5))):
        positions = draw(st.lists(st.integers(1, 3), min_size=least, max_size=3))
        if segments > 1:  # this axis is long enough, and need not be a multiple
            axis = segment_dim - 2 if segment_dim > 0 else len(positions) - 1
            positions[axis] = draw(st.integers(segments, 2 * segments + 2))
        shapes.append((batch, draw(st.integers(1, 9)), *positions))
    norm = draw(st.sampled_from(["batch", "layer"]))
    joint = draw(st.integers(1 if norm == "batch" else 2, 3))
    reduction = draw(st.integers(1, 2))
    options = {
        "block_channels": joint * reduction + draw(st.integers(0, reduction - 1)),
        "reduction": reduction,
        "min_attention": draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
        "segments": segments,
        "segment_dim": segment_dim,
        "norm": norm,
        "identity_start": draw(st.booleans()),
    }
    return {
        "shapes": shapes,
        "options": options,
        "training": draw(st.booleans()),
        "dropout": draw(st.booleans()),
        "masks": draw(st.lists(st.sampled_from([None, 0.3, 0.7]), min_size=len(shapes), max_size=len(shapes))),
        "present": draw(st.sampled_from([None, None, 0.5, 0.8])),
        "layouts": draw(st.lists(st.sampled_from(LAYOUTS), min_size=len(shapes), max_size=len(shapes))),
        "same_layout_back": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }


def assert_near(got, expected, tolerance, what):
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    assert got.shape == expected.shape, what
    assert torch.isfinite(got).all(), what
    error = (got - expected).abs().max().item() if expected.numel() else 0.0
    assert error <= tolerance * scale, f"{what}: off by {error:.2e} at scale {scale:.2e}"


def compare_with_reference(call, dtype, tolerance):
    torch.manual_seed(call["seed"])
    shapes, options, training = call["shapes"], call["options"], call["training"]
    batch, segments = shapes[0][0], options["segments"]
    module = MSAF([shape[1] for shape in shapes], **options).to(dtype).train(training)
    randomize(module)
    if dtype == torch.float32:
        module.norm.eps = 0.1  # else two rows by chance near each other magnify rounding 300 times
    features = [
        lay_out(torch.randn(s, dtype=dtype), kind).detach().requires_grad_()
        for s, kind in zip(shapes, call["layouts"], strict=True)
    ]
    cotangents = [
        lay_out(torch.randn(s, dtype=dtype), kind if call["same_layout_back"] else "contiguous")
        for s, kind in zip(shapes, call["layouts"], strict=True)
    ]
    masks = [
        None if rate is None else torch.rand(s[0], *s[2:]) < rate for s, rate in zip(shapes, call["masks"], strict=True)
    ]
    masks = None if all(mask is None for mask in masks) else masks
    present = None if call["present"] is None else torch.rand(batch, len(shapes)) < call["present"]
    keep = None
    if training and call["dropout"]:
        keep = (torch.rand(batch, segments, sum(module.blocks)) < 0.6).to(dtype) / 0.6
    update = {}
    before = {k: v.clone() for k, v in module.state_dict().items()}
    expected, attention = msaf_reference(
        features,
        Parameters(module.join.weight, module.join.bias, module.highlight.weight, module.highlight.bias),
        make_normalize(module.norm, module.join.bias.shape[1], training, update=update),
        block_channels=module.block_channels,
        min_attention=module.min_attention,
        segment_dim=module.segment_dim,
        identity_start=module.identity_start,
        keep=keep,
        masks=masks,
        present=present,
    )
    leaves = {f"input {m}": x for m, x in enumerate(features)} | dict(module.named_parameters())
    wanted = torch.autograd.grad(expected, list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())

    drawn = None if keep is None else keep.permute(1, 0, 2).unsqueeze(3)  # (q, B, N, 1), or (B, N, 1) for one segment

    def mask(like):
        return None if drawn is None else drawn.view(*like.shape[:-1], 1)

    with mock.patch.object(BlockDropout, "mask", side_effect=mask):
        outputs = module(features, masks=masks, present=present)
    grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    for m, (y, r) in enumerate(zip(outputs, expected, strict=True)):
        assert_near(y, r, tolerance, f"output {m}")
    for name, g, w in zip(leaves, grads, wanted, strict=True):
        assert_near(g, w, tolerance, f"gradient of {name}")
    if training and options["norm"] == "batch":
        assert module.norm.num_batches_tracked == 1
        mean, variance = (torch.cat([update[s][i] for s in range(segments)]) for i in range(2))
        assert_near(module.norm.running_mean, mean, tolerance, "running mean")
        assert_near(module.norm.running_var, variance, tolerance, "running variance")
    elif not training:
        with torch.no_grad():
            quiet = module(features, masks=masks, present=present)
        for m, (y, r) in enumerate(zip(quiet, expected, strict=True)):
            assert_near(y, r, tolerance, f"output {m} without gradients")
        for m, (a, r) in enumerate(
            zip(module.attention(features, masks=masks, present=present), attention, strict=True)
        ):
            assert_near(a, r, tolerance, f"attention {m}")


@given(calls())
@settings(max_examples=150)
def test_outputs_gradients_and_statistics_equal_the_equations_in_float64(call):
    compare_with_reference(call, torch.float64, 1e-10)


@given(calls())
@settings(max_examples=60)
def test_outputs_gradients_and_statistics_equal_the_equations_in_float32(call):
    compare_with_reference(call, torch.float32, 1e-5)


@given(calls())
@settings(max_examples=60)
def test_outputs_and_gradients_of_large_maps_equal_the_equations(call):
    """Small maps take the route of large ones, and of absent samples in them, when nothing is small."""
    with mock.patch("torchmsaf.ops.recalibrate._SMALL", 1), mock.patch("torchmsaf.ops.support._SAMPLE_COST", 1):
        compare_with_reference(call, torch.float64, 1e-10)


@given(calls())
@settings(max_examples=40)
def test_plain_operations_equal_the_fast_ones(call):
    """What compile, export and torch.func run gives the outputs and gradients of eager mode."""
    with ExitStack() as stack:
        for name in ("recalibrate", "support"):
            stack.enter_context(mock.patch(f"torchmsaf.ops.{name}.plain_operations_only", return_value=True))
        compare_with_reference(call, torch.float64, 1e-10)


def test_channels_that_do_not_divide_are_completed_with_zeros_and_cropped():
    module = MSAF((5, 3), block_channels=4, reduction=1).eval()
    padded = MSAF((8, 4), block_channels=4, reduction=1).eval()
    padded.load_state_dict(module.state_dict())
    a, b = torch.randn(2, 5, 6), torch.randn(2, 3)
    got = module([a, b])
    wide = padded([F.pad(a, (0, 0, 0, 3)), F.pad(b, (0, 1))])
    assert [tuple(y.shape) for y in got] == [(2, 5, 6), (2, 3)]
    torch.testing.assert_close(got, [wide[0][:, :5], wide[1][:, :3]])


@pytest.mark.parametrize(("steps", "bounds"), [(7, [(0, 2), (2, 4), (4, 7)]), (9, [(0, 3), (3, 6), (6, 9)])])
def test_each_segment_is_a_module_of_its_own_and_the_last_takes_the_remainder(steps, bounds):
    whole = MSAF((4, 6), block_channels=2, reduction=1, segments=3).eval()
    randomize(whole)
    x, z = torch.randn(2, 4, steps, 3), torch.randn(2, 6, 6)
    out = whole([x, z])
    for s, (first, last) in enumerate(bounds):
        one = MSAF((4, 6), block_channels=2, reduction=1).eval()
        state = {k: v[s : s + 1] for k, v in whole.state_dict().items() if k.startswith(("join", "highlight"))}
        state |= {f"norm.{k}": getattr(whole.norm, k)[2 * s : 2 * s + 2] for k in ("weight", "bias")}
        state |= {f"norm.{k}": getattr(whole.norm, k)[2 * s : 2 * s + 2] for k in ("running_mean", "running_var")}
        one.load_state_dict(state, strict=False)
        part = one([x[:, :, first:last], z[:, :, 2 * s : 2 * s + 2]])
        torch.testing.assert_close(out[0][:, :, first:last], part[0])
        torch.testing.assert_close(out[1][:, :, 2 * s : 2 * s + 2], part[1])


# ---- attention


@pytest.mark.parametrize("segments", [1, 3])
def test_attention_sums_to_one_over_all_blocks_of_all_modalities(segments):
    module = MSAF((7, 4, 10), block_channels=3, segments=segments, reduction=1)
    randomize(module)
    parts = module.attention([torch.randn(5, 7, 8), torch.randn(5, 4, 6, 2), torch.randn(5, 10, 5)])
    assert [tuple(a.shape) for a in parts] == [(5, segments, 3, 3), (5, segments, 2, 3), (5, segments, 4, 3)]
    torch.testing.assert_close(torch.cat(parts, 2).sum(2), torch.ones(5, segments, 3))
    assert all((a >= 0).all() for a in parts)


@pytest.mark.parametrize("batch", [1, 4])
def test_attention_in_training_mode_is_that_of_evaluation_and_has_no_side_effect(batch):
    module = MSAF((6, 4), block_channels=2, reduction=1, block_dropout=0.5)
    randomize(module)
    features = [torch.randn(batch, 6, 3), torch.randn(batch, 4)]
    before, rng = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    training = module.train().attention(features)
    assert module.training
    assert module.norm.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    torch.testing.assert_close(training, module.eval().attention(features), rtol=0, atol=0)


def test_attention_can_be_learned_from():
    module = MSAF((6, 4), block_channels=2, reduction=1, norm="layer")
    x = torch.randn(3, 6, 5, requires_grad=True)
    torch.cat(module.attention([x, torch.randn(3, 4)]), 2).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in module.parameters())


def test_min_attention_bounds_the_gate_from_below():
    module = MSAF((6, 4), block_channels=2, reduction=1, min_attention=0.4).eval()
    x = [torch.ones(3, 6, 2), torch.ones(3, 4)]
    attention = module.attention(x)
    for y, a in zip(module(x), attention, strict=True):
        gate = y.flatten(2)[..., 0] if y.dim() > 2 else y
        assert (gate >= 0.4).all()
        torch.testing.assert_close(gate, 0.4 + 0.6 * a[:, 0].flatten(1))


# ---- BlockDropout


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.99])
def test_block_dropout_masks_are_zero_or_scaled_and_their_mean_is_one(p):
    layer = BlockDropout(p).train()
    blocks = torch.randn(3, 40_000, 5, 2)
    mask = layer.mask(blocks)
    if p == 0:
        assert mask is None
        assert layer(blocks) is blocks
        return
    assert mask.shape == (3, 40_000, 5, 1)
    zero = mask == 0
    torch.testing.assert_close(mask[~zero], torch.full_like(mask[~zero], 1 / (1 - p)))
    error = math.sqrt(p / (1 - p) / mask.numel())  # standard error of the mean of a scaled Bernoulli
    assert abs(mask.mean().item() - 1) < 5 * error


def test_block_dropout_drops_whole_blocks_in_training_and_nothing_in_evaluation():
    layer, blocks = BlockDropout(0.5), torch.ones(6, 7, 4)
    out = layer(blocks)
    assert ((out == 0).all(-1) | (out == 2).all(-1)).all()
    assert len(out.unique()) == 2
    assert layer.eval()(blocks) is blocks
    assert layer.mask(blocks) is None


def test_block_dropout_is_drawn_for_each_sample_segment_and_block():
    module = MSAF((8, 8), block_channels=2, reduction=1, block_dropout=0.5, segments=3)
    gates = module([torch.ones(64, 8, 6), torch.ones(64, 8, 6)])
    kept = torch.cat([g.unflatten(1, (4, 2)).unflatten(3, (3, 2)).amax((2, 4)) for g in gates], 1) != 0  # (B, N, q)
    whole = torch.cat([g.unflatten(1, (4, 2)).unflatten(3, (3, 2)).amin((2, 4)) for g in gates], 1) != 0
    assert torch.equal(kept, whole)  # a block of a segment goes as a whole
    flat = kept.double().flatten(1) - 0.5
    assert flat.mean(0).abs().max() < 5 * 0.5 / math.sqrt(64)
    correlation = (flat.T @ flat / 64 / 0.25).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(64)  # blocks and segments drop independently


def test_block_dropout_follows_manual_seed():
    module = MSAF((16, 8), block_channels=2, reduction=1, block_dropout=0.5, norm="layer")
    features = [torch.randn(4, 16, 3), torch.randn(4, 8)]
    torch.manual_seed(7)
    first = module(features)
    second = module(features)
    torch.manual_seed(7)
    again = module(features)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_block_dropout_mask_has_the_type_and_device_of_the_blocks(dtype):
    mask = BlockDropout(0.3).mask(torch.ones(100, 4, 2, dtype=dtype))
    assert mask.dtype == dtype
    assert mask.device.type == "cpu"
    assert BlockDropout(0.3).mask(torch.ones(3, 4, 2, device="meta")).device.type == "meta"


@pytest.mark.parametrize("how", ["bfloat16 module", "autocast", "bfloat16 features"])
def test_block_dropout_works_in_bfloat16(how):
    module = MSAF((16, 8), block_channels=2, reduction=1, block_dropout=0.5)
    features = [torch.ones(8, 16, 3).bfloat16(), torch.ones(8, 8).bfloat16()]
    if how == "bfloat16 module":
        module.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        out = module(features)
    assert all(y.dtype == torch.bfloat16 for y in out)
    assert 0.3 < torch.cat([y.flatten() for y in out]).eq(0).double().mean() < 0.7


def test_block_dropout_mean_of_training_equals_evaluation_on_the_way_to_the_join():
    """The join sees mask * blocks; averaged over draws that is what it sees in evaluation."""
    module = MSAF((6, 4), block_channels=2, reduction=1, block_dropout=0.2)
    seen = []
    module.join.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    module.norm.eval()
    batch = 40_000  # draws
    features = [torch.randn(1, 6, 5).expand(batch, -1, -1), torch.randn(1, 4).expand(batch, -1)]
    with torch.no_grad():
        module(features)
        module.eval()([x[:1] for x in features])
    drawn, quiet = seen[0].reshape(batch, 2), seen[1].reshape(1, 2)
    error = drawn.std(0) / math.sqrt(batch)
    assert (error > 0).all()
    assert ((drawn.mean(0) - quiet[0]).abs() < 5 * error).all()


def test_block_dropout_mean_of_training_equals_evaluation_on_the_way_out():
    """The output is mask * gate * block; with a gate that does not depend on the join its mean is that of evaluation."""
    module = MSAF((6, 4), block_channels=2, reduction=1, block_dropout=0.2, min_attention=0.3)
    randomize(module)
    torch.nn.init.zeros_(module.highlight.weight)
    module.norm.eval()
    batch = 40_000  # draws
    features = [torch.randn(1, 6, 5).expand(batch, -1, -1), torch.randn(1, 4).expand(batch, -1)]
    with torch.no_grad():
        drawn = module(features)
        quiet = module.eval()([x[:1] for x in features])
    for a, b in zip(drawn, quiet, strict=True):
        error = b[0].abs() * math.sqrt(0.2 / 0.8 / batch)
        assert ((a.mean(0) - b[0]).abs() < 5 * error).all()
        kept = a[a != 0].abs()
        assert kept.max() == pytest.approx(b.abs().max().item() / 0.8, rel=1e-5)  # scaled once, not twice


def test_evaluation_draws_nothing():
    module = MSAF((6, 4), block_channels=2, reduction=1, block_dropout=0.9).eval()
    state = torch.get_rng_state()
    module([torch.randn(0, 6), torch.randn(0, 4)])
    assert torch.equal(torch.get_rng_state(), state)


# ---- the two starts


def bits(x):
    return x.contiguous().view({4: torch.int32, 8: torch.int64, 2: torch.int16}[x.element_size()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("min_attention", [0.0, 0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_identity_start_changes_no_bit(dtype, min_attention, training):
    for channels, segments in itertools.product([(3,), (5, 4), (7, 9, 2), (2, 41), (64, 130), (9, 3, 5, 8, 6)], [1, 3]):
        module = MSAF(
            channels, block_channels=2, reduction=1, min_attention=min_attention, segments=segments, identity_start=True
        )
        module.to(dtype).train(training)
        features = [torch.randn(3, c, 5 + m, dtype=dtype) for m, c in enumerate(channels)]
        for x, y in zip(features, module(features), strict=True):
            assert torch.equal(bits(x), bits(y))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("min_attention", [0.0, 0.3, 0.5])
def test_identity_start_changes_no_bit_at_real_positions(training, min_attention):
    module = MSAF(
        (7, 9, 4), block_channels=2, reduction=1, segments=2, identity_start=True, min_attention=min_attention
    ).train(training)
    features = [torch.randn(8, 7, 6), torch.randn(8, 9, 5, 2), torch.randn(8, 4, 3)]
    masks = [torch.rand(8, 6) < 0.5, None, torch.rand(8, 3) < 0.5]
    present = torch.rand(8, 3) < 0.7
    present[0] = False
    out = module(features, masks=masks, present=present)
    for m, (x, y) in enumerate(zip(features, out, strict=True)):
        real = present[:, m].reshape(-1, *[1] * (x.dim() - 1)).expand(x.shape)
        if masks[m] is not None:
            real = real & masks[m].unsqueeze(1)
        assert torch.equal(bits(y), bits(torch.where(real, x, 0.0)))


def test_identity_start_learns_from_the_first_step():
    module = MSAF((8, 6), block_channels=2, reduction=1, identity_start=True)
    features = [torch.randn(4, 8, 3), torch.randn(4, 6)]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    sum(y.square().sum() for y in module(features)).backward()
    assert module.highlight.weight.grad.abs().max() > 0
    assert module.highlight.bias.grad.abs().max() > 0
    optimizer.step()
    sum(y.square().sum() for y in module(features)).backward()
    assert module.join.weight.grad.abs().max() > 0
    assert not torch.equal(module(features)[0], features[0])


@pytest.mark.parametrize("channels", [(16, 8), (64, 32), (256, 16)])
def test_the_papers_start_shrinks_features_to_about_one_nth(channels):
    module = MSAF(channels, block_channels=8, reduction=2).eval()
    features = [torch.randn(16, c, 10) for c in channels]
    n = sum(module.blocks)
    ratio = sum(y.norm() for y in module(features)) / sum(x.norm() for x in features)
    assert ratio.item() == pytest.approx(1 / n, rel=0.5)


# ---- layouts and precisions


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_memory_formats_are_kept(training, segments, masked):
    module = MSAF((8, 8, 8), block_channels=4, reduction=1, segments=segments).train(training)
    lstm = torch.randn(6, 3, 8).permute(1, 2, 0)  # strides (C, 1, B C), as nn.LSTM(batch_first=True) leaves them
    features = [
        torch.randn(3, 8, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(3, 8, 4, 5, 2).to(memory_format=torch.channels_last_3d),
        lstm,
    ]
    masks = [torch.rand(x.shape[0], *x.shape[2:]) < 0.5 for x in features] if masked else None
    leaves = [x.detach().requires_grad_() for x in features]
    for out in (module(features, masks=masks), module(leaves, masks=masks)):
        assert [y.stride() for y in out] == [x.stride() for x in features]
        assert out[0].is_contiguous(memory_format=torch.channels_last)
        assert out[1].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("segments", [1, 3])
def test_every_layout_gives_the_outputs_of_contiguous_maps(layout, segments):
    module = MSAF((5, 8), block_channels=4, reduction=1, segments=segments).eval()
    features = [lay_out(torch.randn(3, 5, 7, 4), layout), lay_out(torch.randn(3, 8, 6), layout)]
    torch.testing.assert_close(module(features), module([x.contiguous() for x in features]))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("segments", [1, 2])
def test_inputs_masks_and_presence_are_never_modified(grad, segments):
    module = MSAF((5, 8), block_channels=4, reduction=1, segments=segments, block_dropout=0.5)
    for layout in LAYOUTS:
        features = [lay_out(torch.randn(3, 5, 7, 4), layout), lay_out(torch.randn(3, 8, 6), layout)]
        masks, present = [torch.rand(3, 7, 4) < 0.5, None], torch.rand(3, 2) < 0.5
        copies = [t.clone() for t in (*features, masks[0], present)]
        versions = [t._version for t in (*features, masks[0], present)]
        leaves = [x.detach().requires_grad_(grad) for x in features]
        for kw in ({}, {"masks": masks}, {"present": present}, {"masks": masks, "present": present}):
            out = module(leaves, **kw)
            if grad:
                cotangents = [torch.randn_like(y) for y in out]
                kept = [c.clone() for c in cotangents]
                torch.autograd.backward(out, cotangents)
                assert all(torch.equal(a, b) for a, b in zip(cotangents, kept, strict=True))
            for y in out:
                y.detach().zero_()  # nor do outputs share memory with inputs
        assert all(torch.equal(a, b) for a, b in zip((*features, masks[0], present), copies, strict=True))
        assert [t._version for t in (*features, masks[0], present)] == versions


def test_vectors_do_not_share_memory_with_their_outputs():
    module = MSAF((4,), block_channels=4, reduction=1, identity_start=True).eval()
    x = torch.randn(2, 4)
    module([x])[0].zero_()
    assert x.abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_autocast_keeps_types_and_joins_in_float32(dtype, segments, masked):
    module = MSAF((6, 8), block_channels=2, reduction=1, segments=segments, min_attention=0.2)
    randomize(module)
    module.eval()
    features = [torch.randn(4, 6, 500), torch.randn(4, 8, 7, 2).to(dtype)]
    masks = [torch.rand(4, 500) < 0.5, None] if masked else None
    wide = [x.float() for x in features]
    expected, attention = module(wide, masks=masks), module.attention(wide, masks=masks)
    leaves = [x.requires_grad_() for x in features]
    with torch.autocast("cpu", dtype):
        assert all(torch.equal(a, b) for a, b in zip(module.attention(features, masks=masks), attention, strict=True))
        got = module(leaves, masks=masks)
    assert [y.dtype for y in got] == [torch.float32, dtype]
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1].float(), expected[1], rtol=3 * torch.finfo(dtype).eps, atol=1e-4)
    torch.autograd.backward(got, [torch.ones_like(y) for y in got])
    assert [x.grad.dtype for x in leaves] == [torch.float32, dtype]
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in module.parameters())


def test_half_features_work_with_float32_parameters_outside_autocast():
    module = MSAF((6, 8), block_channels=2, reduction=1).eval()
    features = [torch.randn(4, 6, 5).half(), torch.randn(4, 8)]
    out = module(features)
    assert [y.dtype for y in out] == [torch.float16, torch.float32]
    torch.testing.assert_close(out[0].float(), module([x.float() for x in features])[0], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_modules_in_another_precision_train(dtype):
    module = MSAF((6, 8), block_channels=2, reduction=1, segments=2).to(dtype)
    features = [torch.randn(4, 6, 5, dtype=dtype), torch.randn(4, 8, 4, 3, dtype=dtype)]
    sum(y.square().sum() for y in module(features, masks=[torch.rand(4, 5) < 0.7, None])).backward()
    assert all(p.grad.dtype == dtype and torch.isfinite(p.grad).all() for p in module.parameters())
    assert module.norm.running_mean.dtype == dtype
    assert module.norm.running_mean.abs().max() > 0


def test_half_precision_sums_of_long_maps_do_not_overflow():
    module = MSAF((2,), block_channels=2, reduction=1).eval()
    x = torch.full((1, 2, 5000), 60.0).half()  # the sum is far above 65504
    assert torch.isfinite(module([x])[0]).all()
    assert torch.isfinite(module([x], masks=[torch.ones(1, 5000, dtype=torch.bool)])[0]).all()


def test_layer_norm_trains_on_a_batch_of_one_and_does_not_see_the_rest_of_the_batch():
    module = MSAF((6, 8), block_channels=4, reduction=1, norm="layer", segments=2)
    features = [torch.randn(3, 6, 5), torch.randn(3, 8, 4)]
    whole = module(features)
    for b in range(3):
        alone = module([x[b : b + 1] for x in features])
        torch.testing.assert_close([y[b : b + 1] for y in whole], alone)


def test_frozen_batch_norm_takes_a_batch_of_one_in_training():
    module = MSAF((6, 8), block_channels=2, reduction=1).train()
    module.norm.eval()
    before = module.norm.running_mean.clone()
    module([torch.randn(1, 6, 5), torch.randn(1, 8)])
    assert torch.equal(module.norm.running_mean, before)


def test_nan_of_one_sample_stays_in_that_sample_in_evaluation():
    module = MSAF((6, 8), block_channels=2, reduction=1, segments=2).eval()
    features = [torch.randn(4, 6, 5), torch.randn(4, 8, 4, 3)]
    clean = module(features)
    features[0][1, 2, 0] = math.nan
    leaves = [x.requires_grad_() for x in features]
    out = module(leaves)
    others = [0, 2, 3]
    for a, b in zip(out, clean, strict=True):
        assert torch.equal(a[others], b[others])
    torch.autograd.backward(out, [torch.ones_like(y) for y in out])
    assert all(torch.isfinite(x.grad[others]).all() for x in leaves)


def test_nan_of_one_segment_stays_in_that_segment_in_eager_mode_and_in_plain_operations():
    module = MSAF((4, 4), block_channels=2, reduction=1, segments=2).eval()
    features = [torch.randn(2, 4, 6), torch.randn(2, 4, 6)]
    features[0][0, 0, 0] = math.nan
    eager = module(features)
    plain = torch.func.vmap(lambda a, b: module([a, b]))(features[0][None], features[1][None])
    for y, z in zip(eager, plain, strict=True):
        assert torch.equal(torch.isnan(y), torch.isnan(z[0]))
        assert torch.isfinite(y[0, :, 3:]).all()
