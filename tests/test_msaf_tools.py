"""MSAF under PyTorch's tools: autograd, compile, export, torch.func, copies, checkpoints, several processes."""

import copy
import io
import math
import pickle
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from torchmsaf import MSAF

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def randomize(module):
    for p in module.parameters():
        nn.init.normal_(p)
    return module


def make(channels=(6, 4), **options):
    return randomize(MSAF(channels, **{"block_channels": 2, "reduction": 1, "segments": 2} | options))


def some(batch=3, dtype=torch.float32, steps=5):
    return [torch.randn(batch, 6, steps, 2, dtype=dtype), torch.randn(batch, 4, steps + 2, dtype=dtype)]


def some_masks(features):
    masks = [torch.rand(x.shape[0], *x.shape[2:]) < 0.6 for x in features]
    masks[0][0] = False
    return masks


# ---- autograd


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("mode", ["all", "masks", "present"])
@pytest.mark.parametrize("identity_start", [True, False])
def test_gradcheck_and_gradgradcheck(training, segments, mode, identity_start):
    module = make(segments=segments, identity_start=identity_start, min_attention=0.2).double().train(training)
    features = [torch.randn(3, 6, 3, 2).double(), torch.randn(3, 4, 4).double()]
    arguments = {}
    if mode == "masks":
        arguments = {"masks": [torch.rand(3, 3, 2) < 0.7, torch.rand(3, 4) < 0.7]}
    elif mode == "present":
        arguments = {"present": torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()}
    names = [k for k, _ in module.named_parameters()]
    inputs = [t.detach().clone().requires_grad_() for t in (*features, *module.parameters())]
    buffers = {k: b.clone() for k, b in module.named_buffers()}

    def call(*tensors):
        state = dict(zip(names, tensors[2:], strict=True)) | {k: b.clone() for k, b in buffers.items()}
        return tuple(torch.func.functional_call(module, state, (list(tensors[:2]),), arguments))

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_vectors_pass_gradcheck():
    module = make(segments=1, norm="layer").double()
    inputs = [torch.randn(3, 6).double().requires_grad_(), torch.randn(3, 4).double().requires_grad_()]
    assert torch.autograd.gradcheck(lambda *f: tuple(module(f)), inputs)
    assert torch.autograd.gradgradcheck(lambda *f: tuple(module(f)), inputs)


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False), (True, True)])
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_are_the_same_whatever_else_needs_them(wanted, frozen):
    module, features = make(), some()
    cotangents = [torch.randn_like(x) for x in features]
    everything = [x.clone().requires_grad_() for x in features]
    full = torch.autograd.grad(module(everything), [*everything, *module.parameters()], cotangents)
    module.requires_grad_(not frozen)
    leaves = [x.clone().requires_grad_(w) for x, w in zip(features, wanted, strict=True)]
    out = module(leaves)
    if frozen and not any(wanted):
        assert not any(y.requires_grad for y in out)
        return
    torch.autograd.backward(out, cotangents)
    for leaf, g in zip([*leaves, *module.parameters()], full, strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, g)
        else:
            assert leaf.grad is None


def test_frozen_maps_with_frozen_first_layers_still_train_the_highlight_layers():
    module, features = make(), some()
    for name, p in module.named_parameters():
        p.requires_grad_(name == "highlight.bias")
    torch.autograd.backward(module(features), [torch.ones_like(x) for x in features])
    assert module.highlight.bias.grad.abs().max() > 0
    assert module.join.weight.grad is None


@pytest.mark.parametrize("used", [0, 1])
def test_an_output_that_the_loss_does_not_use(used):
    module, features = make(), some()
    leaves = [x.requires_grad_() for x in features]
    cotangents = [torch.randn_like(x) for x in features]
    cotangents[1 - used].zero_()
    wanted = [*leaves, *module.parameters()]
    expected = torch.autograd.grad(module(leaves), wanted, cotangents)
    got = torch.autograd.grad(module(leaves)[used], wanted, cotangents[used])
    torch.testing.assert_close(got, expected)


def test_backward_twice_gives_the_same_gradients():
    module, leaves = make(), [x.requires_grad_() for x in some()]
    out = module(leaves)
    wanted, cotangents = [*leaves, *module.parameters()], [torch.randn_like(y) for y in out]
    first = torch.autograd.grad(out, wanted, cotangents, retain_graph=True)
    second = torch.autograd.grad(out, wanted, cotangents)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_create_graph_changes_no_gradient():
    module, leaves = make().eval(), [x.requires_grad_() for x in some()]
    masks, wanted = some_masks(leaves), [*leaves, *module.parameters()]
    cotangents = [torch.randn_like(y) for y in leaves]
    plain = torch.autograd.grad(module(leaves, masks=masks), wanted, cotangents)
    graph = torch.autograd.grad(module(leaves, masks=masks), wanted, cotangents, create_graph=True)
    torch.testing.assert_close(graph, plain)
    assert graph[0].requires_grad


def test_one_tensor_for_two_modalities_gets_the_sum_of_both_gradients():
    module = make((4, 4)).eval()
    x = torch.randn(3, 4, 5, requires_grad=True)
    apart = [x.detach().clone().requires_grad_() for _ in range(2)]
    cotangents = [torch.randn(3, 4, 5) for _ in range(2)]
    got = torch.autograd.grad(module([x, x]), x, cotangents)[0]
    torch.testing.assert_close(got, sum(torch.autograd.grad(module(apart), apart, cotangents)))


def test_outputs_may_be_changed_in_place():
    module = make((6, 4), segments=1)
    for features in (some(), [torch.randn(3, 6), torch.randn(3, 4)]):
        leaves = [x.requires_grad_() for x in features]
        wanted = [*leaves, *module.parameters()]
        expected = torch.autograd.grad(sum(torch.relu(y).square().sum() for y in module(leaves)), wanted)
        got = torch.autograd.grad(sum(torch.relu_(y).square().sum() for y in module(leaves)), wanted)
        torch.testing.assert_close(got, expected)


def test_features_changed_after_the_call_are_noticed_in_the_backward():
    module, features = make(), some()
    out = module(features)
    features[0].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(out, [torch.ones_like(y) for y in out])


# the old batching has no rule for writing into a given tensor, which the segmented backward does
@pytest.mark.parametrize("segments", [1, pytest.param(2, marks=pytest.mark.xfail(raises=RuntimeError))])
def test_batched_gradients(segments):
    """``is_grads_batched``, which vectorized Jacobians use, maps over the backward alone."""
    module, leaves = make(segments=segments).eval(), [x.requires_grad_() for x in some()]
    out = module(leaves)
    cotangents = [torch.randn(3, *y.shape) for y in out]
    got = torch.autograd.grad(out, leaves, cotangents, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        one = torch.autograd.grad(out, leaves, [c[i] for c in cotangents], retain_graph=True)
        torch.testing.assert_close([g[i] for g in got], list(one))


def test_inference_mode_and_no_grad_give_the_outputs_of_grad_mode():
    module, features = make().eval(), some()
    masks = some_masks(features)
    expected = module(features, masks=masks)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(module(features, masks=masks), expected, rtol=0, atol=0)


# ---- empty batches (in a process of their own: a crash must not take the tests along)

EMPTY = """
import itertools, torch
from torchmsaf import MSAF
for segments, norm, masked in itertools.product((1, 2, 4), ("batch", "layer"), (False, True)):
    module = MSAF((6, 4), block_channels=2, reduction=1, segments=segments, norm=norm).train(norm == "layer")
    features = [torch.randn(0, 6, 6, 2, requires_grad=True), torch.randn(0, 4, 6, requires_grad=True)]
    arguments = {"masks": [torch.ones(0, 6, 2).bool(), None], "present": torch.ones(0, 2).bool()} if masked else {}
    with torch.no_grad():
        assert [y.shape for y in module(features, **arguments)] == [x.shape for x in features]
    out = module(features, **arguments)
    torch.autograd.backward(out, [torch.ones_like(y) for y in out])
    assert all(t.grad is None or (t.grad == 0).all() for t in [*features, *module.parameters()])
    assert [a.shape for a in module.attention(features, **arguments)] == [(0, segments, 3, 2), (0, segments, 2, 2)]
"""


def test_an_empty_batch_goes_through_in_evaluation_and_in_the_backward():
    done = subprocess.run([sys.executable, "-c", EMPTY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[-300:]) == (0, "")


# ---- torch.func


def test_vmap_over_samples_is_the_batch():
    module = make(norm="layer").eval()
    features = some(4)
    masks, present = some_masks(features), torch.rand(4, 2) < 0.7

    def one(a, b, mask_a, mask_b, here):
        out = module([a[None], b[None]], masks=[mask_a[None], mask_b[None]], present=here[None])
        return [y[0] for y in out]

    got = torch.func.vmap(one)(*features, *masks, present)
    torch.testing.assert_close(list(got), module(features, masks=masks, present=present))


def test_functional_call_and_vmap_over_an_ensemble():
    modules = [make().eval() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(modules)
    features = some()

    def call(p, b):
        return torch.func.functional_call(modules[0], (p, b), (features,))

    got = torch.func.vmap(call)(parameters, buffers)
    for i, module in enumerate(modules):
        torch.testing.assert_close([y[i] for y in got], module(features))


def test_per_sample_gradients_by_grad_of_vmap_and_vmap_of_grad():
    module, features = make().eval(), some(4)
    parameters = {k: p.detach() for k, p in module.named_parameters()}

    def loss(p, a, b):
        return sum(y.square().sum() for y in torch.func.functional_call(module, p, ([a[None], b[None]],)))

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, *features)
    whole = torch.func.grad(lambda p: torch.func.vmap(loss, in_dims=(None, 0, 0))(p, *features).sum())(parameters)
    sum(y.square().sum() for y in module(features)).backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(whole[name], p.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(each[name].sum(0), p.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit")  # torch.func.jvp's own
def test_forward_derivatives_by_jvp_agree_with_the_backward():
    module, features = make(norm="layer").double(), some(dtype=torch.float64)
    tangents = tuple(torch.randn_like(x) for x in features)

    def call(a, b):
        return sum((y * (1 + torch.arange(y.numel()).view(y.shape))).sum() for y in module([a, b]))

    slope = torch.func.jvp(call, tuple(features), tangents)[1]
    leaves = [x.clone().requires_grad_() for x in features]
    grads = torch.autograd.grad(call(*leaves), leaves)
    torch.testing.assert_close(slope, sum((g * t).sum() for g, t in zip(grads, tangents, strict=True)))


@pytest.mark.parametrize("masked", [True, False])
def test_plain_operations_pool_in_float32_under_autocast(masked):
    """Segments are summed, and their steps counted, in float32 also where compile and torch.func run the operations."""
    module = MSAF((6, 4), block_channels=2, reduction=1, segments=2).eval()
    features = [torch.randn(2, 6, 1203) + 3, torch.randn(2, 4, 901) + 3]
    arguments = {"masks": [torch.rand(2, 1203) < 0.7, torch.rand(2, 901) < 0.7]} if masked else {}
    expected = module(features, **arguments)

    def one(a, b):
        return module([a, b], **arguments)

    with torch.autocast("cpu", torch.bfloat16):
        got = torch.func.vmap(one)(features[0][None], features[1][None])
    torch.testing.assert_close([y[0] for y in got], expected, rtol=1e-5, atol=1e-5)


# ---- copies and files


def test_deepcopy_and_pickle_and_state_dict_give_the_same_module():
    module, features = make(block_dropout=0.2, min_attention=0.1, norm="batch"), some()
    module(features)  # statistics
    module.eval()
    expected = module(features)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = MSAF((6, 4), block_channels=2, reduction=1, segments=2, min_attention=0.1).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert all(torch.equal(a, b) for a, b in zip(other(features), expected, strict=True))
        assert all(p.data_ptr() != q.data_ptr() for p, q in zip(other.parameters(), module.parameters(), strict=True))


def test_deepcopy_after_a_backward():
    module, features = make(), some()
    sum(y.sum() for y in module(features)).backward()
    copy.deepcopy(module)(features)


def test_a_checkpoint_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match=r"size mismatch for highlight\.weight"):
        make((6, 6)).load_state_dict(make((6, 4)).state_dict())


def test_averaged_model_follows_the_module():
    module, features = make(), some()
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
    )
    average.update_parameters(module)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    average.update_parameters(module)
    for p, q in zip(average.module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(p, q - 0.5)
    assert all(torch.isfinite(y).all() for y in average.eval()(features))


def test_print_shows_the_arguments():
    text = repr(make(block_dropout=0.25, min_attention=0.5, identity_start=True))
    for part in ("channels=(6, 4)", "block_channels=2", "reduction=1", "min_attention=0.5", "segments=2", "p=0.25"):
        assert part in text
    assert "identity_start=True" in text


def test_meta_device_gives_shapes():
    module = make().to("meta")
    features = [x.to("meta") for x in some()]
    out = module(features, present=torch.ones(3, 2, dtype=torch.bool, device="meta"))
    assert [y.shape for y in out] == [x.shape for x in features]
    assert all(y.is_meta for y in out)


# ---- training in parts and in several processes


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(use_reentrant):
    module = make(block_dropout=0.3, norm="layer")
    leaves = [x.requires_grad_() for x in some()]
    wanted = [*leaves, *module.parameters()]

    def step(call):
        torch.manual_seed(3)
        for t in wanted:
            t.grad = None
        sum(y.square().sum() for y in call()).backward()
        return [t.grad for t in wanted]

    expected = step(lambda: module(leaves))
    got = step(
        lambda: torch.utils.checkpoint.checkpoint(lambda *f: tuple(module(f)), *leaves, use_reentrant=use_reentrant)
    )
    torch.testing.assert_close(got, expected)


def test_saved_tensors_can_go_through_hooks():
    module, leaves = make(), [x.requires_grad_() for x in some()]
    wanted = [*leaves, *module.parameters()]
    cotangents = [torch.randn_like(x) for x in leaves]
    before = copy.deepcopy(module.state_dict())
    expected = torch.autograd.grad(module(leaves), wanted, cotangents)
    module.load_state_dict(before)
    with torch.autograd.graph.save_on_cpu():
        out = module(leaves)
    torch.testing.assert_close(torch.autograd.grad(out, wanted, cotangents), expected)


def test_conversion_to_synchronized_batch_norm_keeps_state_and_evaluation():
    module, features = make(), some()
    module(features)
    expected = module.eval()(features)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert isinstance(converted.norm, nn.SyncBatchNorm)
    assert list(converted.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in converted.state_dict().items())
    torch.testing.assert_close(converted(features), expected)
    converted.attention([x[:1] for x in features])


@pytest.mark.slow
def test_distributed_training_in_one_process(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        module = make()
        alone = copy.deepcopy(module)
        wrapped = nn.parallel.DistributedDataParallel(module)
        features = some()
        for call in (wrapped, alone):
            for _ in range(2):
                sum(y.square().sum() for y in call(features, present=torch.ones(3, 2).bool())).backward()
        for p, q in zip(module.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
        torch.testing.assert_close(module.state_dict(), alone.state_dict())
    finally:
        torch.distributed.destroy_process_group()


# ---- compile and export


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("case", ["plain", "masks", "segments", "dropout"])
def test_compiled_whole_with_dynamic_batch_and_positions(case):
    torch._dynamo.reset()
    segments = 3 if case == "segments" else 1
    module = make(segments=segments, min_attention=0.1, block_dropout=0.3 if case == "dropout" else 0.0)
    with torch._dynamo.config.patch(error_on_recompile=False):
        compiled = torch.compile(module, fullgraph=True, dynamic=True)
        for batch, steps in ((3, 7), (5, 11), (4, 6)):
            features = some(batch, steps=steps)
            arguments = {}
            if case in ("masks", "segments"):
                arguments = {"masks": some_masks(features), "present": torch.rand(batch, 2) < 0.8}
            if case == "dropout":
                out = compiled(features)
                assert any((y == 0).any() for y in out)
                continue
            state, cotangents = copy.deepcopy(module.state_dict()), [torch.randn_like(x) for x in features]
            results = []
            for call in (module, compiled):
                module.load_state_dict(state)
                leaves = [x.detach().clone().requires_grad_() for x in features]
                out = call(leaves, **arguments)
                grads = torch.autograd.grad(out, [*leaves, *module.parameters()], cotangents)
                results.append([*out, *grads, *[b.clone() for b in module.buffers()]])
            torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@needs_compiler
def test_compiled_gradients_with_many_blocks_are_those_of_eager():
    """The compiler's own code for a softmax that is split afterwards has wrong gradients, from seven blocks on."""
    module = randomize(MSAF((6, 8), block_channels=2, reduction=1)).eval()
    features = [torch.randn(4, 6, 5, requires_grad=True), torch.randn(4, 8, 7, requires_grad=True)]

    def gradients(call):
        outputs = call(features)
        return torch.autograd.grad(sum(y.sin().sum() for y in outputs), [*features, *module.parameters()])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own imports
        found = gradients(torch.compile(module))
    torch.testing.assert_close(found, gradients(module), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_compiled_twice_for_other_sizes_does_not_grow():
    torch._dynamo.reset()
    compiled = torch.compile(make().eval(), fullgraph=True, dynamic=True, backend="eager")
    compiled(some(3, steps=5))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, steps in ((4, 6), (7, 9), (2, 30)):
            compiled(some(batch, steps=steps))


@pytest.mark.filterwarnings("ignore")
def test_compile_keeps_identity_start_and_autocast_precision():
    torch._dynamo.reset()
    module = MSAF((6, 80), block_channels=2, reduction=1, segments=2, identity_start=True).eval()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    features = [torch.randn(2, 6, 700), torch.randn(2, 80, 600)]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(x, y) for x, y in zip(features, compiled(features), strict=True))
    randomize(module)
    expected = module(features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("masked", [True, False])
def test_exported_with_dynamic_batch_and_time(masked):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fusion = make()

        def forward(self, a, b, mask):
            return self.fusion([a, b], masks=[mask, None] if masked else None)

    net = Net().eval()
    batch, time, other = (torch.export.Dim(n, min=2, max=4096) for n in ("batch", "time", "other"))
    a, b = torch.randn(3, 6, 9, 2), torch.randn(3, 4, 8)
    program = torch.export.export(
        net,
        (a, b, torch.rand(3, 9, 2) < 0.6),
        dynamic_shapes={"a": {0: batch, 2: time}, "b": {0: batch, 2: other}, "mask": {0: batch, 1: time}},
    )
    for size, steps, more in ((2, 4, 5), (5, 13, 10), (1000, 2, 3)):
        inputs = (torch.randn(size, 6, steps, 2), torch.randn(size, 4, more), torch.rand(size, steps, 2) < 0.6)
        torch.testing.assert_close(program.module()(*inputs), net(*inputs))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_forward_mode_dual_numbers_work_or_say_that_they_do_not():
    module, features = make().eval(), some()
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)) for x in features]
        try:
            tangent = torch.autograd.forward_ad.unpack_dual(module(duals)[0]).tangent
        except NotImplementedError:
            return
    slope = torch.func.jvp(lambda *f: module(list(f))[0], tuple(features), tuple(map(torch.ones_like, features)))[1]
    torch.testing.assert_close(tangent, slope)
    assert math.isfinite(tangent.sum().item())
