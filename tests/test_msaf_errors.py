"""Every wrong use is a FusionInputError that says which modality, what was expected, what came and what to do."""

import re

import pytest
import torch

from torchmsaf import MSAF, BlockDropout, FusionInputError
from torchmsaf.errors import TorchmsafError

BUILD = {
    "no modality": (((),), {}, r"channels is empty.*one count a modality"),
    "one number": ((64,), {}, r"one count a modality, such as \(1024, 32\), got 64"),
    "a string": (("64",), {}, r"one count a modality.*got '64'"),
    "nothing": ((None,), {}, r"one count a modality.*got None"),
    "zero channels": (((8, 0),), {}, r"channels of modality 1: expected a positive integer, got 0"),
    "negative channels": (((-3, 8),), {}, r"channels of modality 0: .*got -3"),
    "float channels": (((8, 4.0),), {}, r"channels of modality 1: expected a positive integer, got 4.0"),
    "float tensor of channels": (
        (torch.tensor([8.0, 4.0]),),
        {},
        r"channels of modality 0: expected a positive integer",
    ),
    "boolean channels": (((8, True),), {}, r"channels of modality 1: .*got True"),
    "no block channels": (
        ((8, 8),),
        {"block_channels": 0},
        r"block_channels: expected an integer of at least 1, got 0",
    ),
    "negative block channels": (((8, 8),), {"block_channels": -1}, r"block_channels: .*got -1; None is half"),
    "float block channels": (((8, 8),), {"block_channels": 2.0}, r"block_channels: expected an integer.*2\.0"),
    "boolean block channels": (((8, 8),), {"block_channels": True}, r"block_channels: .*got True"),
    "no reduction": (((8, 8),), {"reduction": 0}, r"reduction: expected an integer of at least 1, got 0; None is 4"),
    "float reduction": (((8, 8),), {"reduction": 0.5}, r"reduction: .*got 0\.5"),
    "empty joint": (
        ((8, 8),),
        {"block_channels": 3, "reduction": 4},
        r"floor\(3 / 4\) = 0 channels; choose reduction <= 3",
    ),
    "empty joint by default": (((2, 64),), {}, r"C' = floor\(block_channels / reduction\) = floor\(1 / 4\) = 0"),
    "no segments": (
        ((8, 8),),
        {"segments": 0},
        r"segments: expected an integer of at least 1, got 0; 1 is no segments",
    ),
    "float segments": (((8, 8),), {"segments": 2.0}, r"segments: .*got 2\.0"),
    "segments over the batch": (((8, 8),), {"segment_dim": 0}, r"segment_dim=0 is the batch or the channels.*at 2"),
    "segments over channels": (((8, 8),), {"segment_dim": 1}, r"segment_dim=1 is the batch or the channels"),
    "no segment axis": (((8, 8),), {"segment_dim": None}, r"segment_dim.*integer.*None"),
    "float segment axis": (((8, 8),), {"segment_dim": 2.0}, r"segment_dim.*integer.*2\.0"),
    "string segment axis": (((8, 8),), {"segment_dim": "2"}, r"segment_dim.*integer.*'2'"),
    "attention below zero": (((8, 8),), {"min_attention": -0.1}, r"min_attention is λ in \[0, 1\], got -0\.1"),
    "attention above one": (((8, 8),), {"min_attention": 1.01}, r"min_attention is λ in \[0, 1\], got 1\.01"),
    "attention not a number": (((8, 8),), {"min_attention": float("nan")}, r"min_attention .*got nan"),
    "string attention": (((8, 8),), {"min_attention": "half"}, r"min_attention .*'?half'?"),
    "no attention": (((8, 8),), {"min_attention": None}, r"min_attention .*None"),
    "dropout of one": (((8, 8),), {"block_dropout": 1.0}, r"block_dropout is a probability in \[0, 1\), got 1\.0"),
    "negative dropout": (((8, 8),), {"block_dropout": -0.2}, r"block_dropout .*got -0\.2; use 0 for no dropout"),
    "dropout not a number": (((8, 8),), {"block_dropout": float("nan")}, r"block_dropout .*got nan"),
    "no dropout": (((8, 8),), {"block_dropout": None}, r"block_dropout .*None"),
    "unknown norm": (((8, 8),), {"norm": "group"}, r"norm is 'batch' or 'layer', got 'group'"),
    "no norm": (((8, 8),), {"norm": None}, r"norm is 'batch' or 'layer', got None"),
    "layer norm of one": (
        ((8, 8),),
        {"norm": "layer"},
        r"layer norm over C' = 1 channel is always zero; choose a smaller",
    ),
}


@pytest.mark.parametrize("case", BUILD.values(), ids=BUILD)
def test_building_with_a_wrong_argument_says_what_to_do(case):
    arguments, options, words = case
    with pytest.raises(FusionInputError, match=words):
        MSAF(*arguments, **options)


@pytest.mark.parametrize("p", [1.0, -0.1, 2, float("nan")])
def test_block_dropout_alone_refuses_what_is_no_probability(p):
    with pytest.raises(FusionInputError, match=r"probability in \[0, 1\), got"):
        BlockDropout(p)


def good():
    return [torch.randn(4, 8, 6, 2), torch.randn(4, 6, 5)]


def masks(**change):
    both = [torch.ones(4, 6, 2).bool(), torch.ones(4, 5).bool()]
    for key, value in change.items():
        both[int(key[1:])] = value
    return {"masks": both}


CALL = {
    "one tensor": (lambda f: torch.randn(2, 8, 3), {}, r"list of one tensor a modality, got Tensor"),
    "a dict": (lambda f: {"a": f[0], "b": f[1]}, {}, r"list of one tensor a modality, got dict"),
    "too few": (lambda f: f[:1], {}, r"expected 2 modalities \(channels \(8, 6\)\), got 1"),
    "too many": (lambda f: [*f, f[0]], {}, r"expected 2 modalities .*got 3"),
    "none": (lambda f: [], {}, r"expected 2 modalities .*got 0"),
    "absent as None": (lambda f: [f[0], None], {}, r"modality 1: expected a tensor, got NoneType.*present"),
    "array": (lambda f: [f[0].numpy(), f[1]], {}, r"modality 0: expected a tensor, got ndarray"),
    "too flat": (lambda f: [f[0], torch.randn(4)], {}, r"modality 1: expected \(B, 6, \*positions\), got \(4,\)"),
    "scalar": (lambda f: [torch.tensor(1.0), f[1]], {}, r"modality 0: expected \(B, 8, \*positions\), got \(\)"),
    "channels last": (
        lambda f: [f[0], f[1].transpose(1, 2)], {},
        r"modality 1: expected 6 channels at dim 1, .*got \(4, 5, 6\).*\(B, T, C\) needs \.transpose\(1, 2\)",
    ),
    "wrong channels": (lambda f: f[::-1], {}, r"modality 0: expected 8 channels at dim 1.*got \(4, 6, 5\)"),
    "batch": (lambda f: [f[0], f[1][:3]], {}, r"modality 1: expected a batch of 4 as modality 0, got 3"),
    "no position": (lambda f: [f[0], f[1][..., :0]], {}, r"modality 1: \(4, 6, 0\) has no positions; mark it absent"),
    "integers": (lambda f: [f[0].long(), f[1]], {}, r"modality 0: expected floating-point features, got torch.int64.*float"),
    "booleans": (lambda f: [f[0] > 0, f[1]], {}, r"modality 0: expected floating-point features, got torch.bool"),
    "complex": (lambda f: [f[0], f[1].cfloat()], {}, r"modality 1: expected floating-point features, got torch.complex64"),
    "double": (
        lambda f: [f[0], f[1].double()], {},
        r"modality 1: expected torch.float32, the type of the fusion's parameters, got torch.float64; convert",
    ),
    "device": (
        lambda f: [f[0], f[1].to("meta")], {},
        r"modality 1: expected device cpu, where the fusion's parameters are, got meta; move one of them with \.to",
    ),
    "masks a tensor": (lambda f: f, {"masks": torch.ones(4, 5).bool()}, r"masks is a list of 2.*got Tensor"),
    "one mask": (lambda f: f, {"masks": [None]}, r"masks is a list of 2, one boolean tensor or None a modality, got 1"),
    "float mask": (lambda f: f, masks(m1=torch.ones(4, 5)), r"mask of modality 1: expected booleans.*float32; use mask"),
    "integer mask": (lambda f: f, masks(m0=torch.ones(4, 6, 2).long()), r"mask of modality 0: expected booleans.*int64"),
    "list as mask": (lambda f: f, masks(m0=[True]), r"mask of modality 0: expected booleans, True = real, got list"),
    "mask with channels": (
        lambda f: f, masks(m1=torch.ones(4, 6, 5).bool()),
        r"mask of modality 1: expected \(B, \*positions\) = \(4, 5\) for features \(4, 6, 5\), got \(4, 6, 5\)",
    ),
    "mask of another length": (
        lambda f: f, masks(m0=torch.ones(4, 6, 3).bool()), r"mask of modality 0: .*\(4, 6, 2\).*got \(4, 6, 3\)",
    ),
    "mask to broadcast": (lambda f: f, masks(m0=torch.ones(4, 6, 1).bool()), r"mask of modality 0: .*got \(4, 6, 1\)"),
    "mask elsewhere": (
        lambda f: f, masks(m1=torch.ones(4, 5, device="meta").bool()),
        r"mask of modality 1: expected device cpu, got meta",
    ),
    "present of floats": (
        lambda f: f, {"present": torch.ones(4, 2)}, r"present: expected booleans \(B, M\) = \(4, 2\), got torch.float32",
    ),
    "present a list": (lambda f: f, {"present": [True, True]}, r"present: expected booleans .*got list"),
    "present of one modality": (
        lambda f: f, {"present": torch.ones(4, 1).bool()}, r"present: expected \(B, M\) = \(4, 2\), one flag.*got \(4, 1\)",
    ),
    "present the other way": (lambda f: f, {"present": torch.ones(2, 4).bool()}, r"present: .*\(4, 2\).*got \(2, 4\)"),
    "present elsewhere": (
        lambda f: f, {"present": torch.ones(4, 2, device="meta").bool()}, r"present: expected device cpu, got meta",
    ),
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CALL.values(), ids=CALL)
def test_calling_with_a_wrong_argument_names_the_modality(case, training):
    change, arguments, words = case
    module = MSAF((8, 6), block_channels=2, reduction=1).train(training)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    for call in (module, module.attention):
        with pytest.raises(FusionInputError, match=words):
            call(change(good()), **arguments)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shapes", "segment_dim", "words"),
    [
        (((4, 8, 6, 2), (4, 6, 2)), 2, r"modality 1: 2 steps at axis 2 of \(4, 6, 2\) are fewer than segments=3; pad"),
        (((4, 8, 2, 6), (4, 6, 3)), 2, r"modality 0: 2 steps at axis 2"),
        (((4, 8, 6, 2), (4, 6, 3)), -1, r"modality 0: 2 steps at axis 3"),
        (
            ((4, 8, 6, 3), (4, 6, 3)),
            3,
            r"modality 1: \(4, 6, 3\) has no axis 3 of positions to cut into 3 segments; give",
        ),
        (((4, 8, 6, 3), (4, 6)), 2, r"modality 1: \(4, 6\) has no axis 2"),
        (((4, 8, 6, 3), (4, 6)), -1, r"modality 1: \(4, 6\) has no axis -1"),
        (((4, 8, 6, 3), (4, 6, 3)), -2, r"modality 1: \(4, 6, 3\) has no axis -2"),
        (((4, 8, 6, 3), (4, 6, 3)), -7, r"modality 0: .*no axis -7"),
    ],
)
def test_sequences_shorter_than_the_segments_are_errors_in_training_and_in_evaluation(
    shapes, segment_dim, words, training
):
    module = MSAF((8, 6), block_channels=2, reduction=1, segments=3, segment_dim=segment_dim).train(training)
    features = [torch.randn(s) for s in shapes]
    for call in (module, module.attention):
        with pytest.raises(FusionInputError, match=words):
            call(features)
    assert module.norm.num_batches_tracked == 0


@pytest.mark.parametrize("batch", [0, 1])
def test_batch_norm_that_trains_on_less_than_two_samples_says_what_to_use(batch):
    module = MSAF((8, 6), block_channels=2, reduction=1)
    features = [torch.randn(batch, 8, 6), torch.randn(batch, 6)]
    with pytest.raises(FusionInputError, match=rf"batch of {batch}: use MSAF\(\.\.\., norm='layer'\).*drop_last.*eval"):
        module(features)
    assert module.norm.num_batches_tracked == 0
    module.eval()(features)


def test_module_in_another_type_than_the_features_says_how_to_convert():
    with pytest.raises(FusionInputError, match=re.escape("or the fusion with .to(torch.float32)")):
        MSAF((8, 6), block_channels=2, reduction=1).double()(good())
    with pytest.raises(FusionInputError, match=r"modality 0: expected torch\.bfloat16"):
        MSAF((8, 6), block_channels=2, reduction=1).bfloat16()(good())


def test_the_error_is_a_value_error_and_of_this_package():
    assert issubclass(FusionInputError, ValueError)
    assert issubclass(FusionInputError, TorchmsafError)
