"""Weights of modules in the published arrangement: the same outputs in evaluation, and errors where they do not fit."""

import pytest
import torch
from torch import nn

from torchmsaf import MSAF, FusionInputError


class PublishedSegment(nn.Module):
    """The layers of one segment, named as in the published state dicts, for channels that C divides."""

    def __init__(self, channels, block, joint, min_attention):
        super().__init__()
        self.counts, self.block, self.min_attention = [c // block for c in channels], block, min_attention
        self.joint_features = nn.Sequential(nn.Linear(block, joint), nn.BatchNorm1d(joint), nn.ReLU())
        self.dense_group = nn.ModuleList(nn.Linear(joint, block) for _ in range(sum(self.counts)))

    def forward(self, features):
        blocks = [list(x.split(self.block, 1)) for x in features]
        joint = self.joint_features(sum(sum(bs).reshape(*bs[0].shape[:2], -1).mean(2) for bs in blocks))
        attention = torch.stack([dense(joint) for dense in self.dense_group]).softmax(0)
        gates = iter(self.min_attention + (1 - self.min_attention) * attention)
        scaled = [[b * next(gates)[(...,) + (None,) * (b.dim() - 2)] for b in bs] for bs in blocks]
        return [torch.cat(bs, 1) for bs in scaled]


class Published(nn.Module):
    def __init__(self, channels, block, joint, segments=1, min_attention=0.0):
        super().__init__()
        self.blocks = nn.ModuleList(PublishedSegment(channels, block, joint, min_attention) for _ in range(segments))
        for segment in self.blocks:
            norm = segment.joint_features[1]
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            for dense in segment.dense_group:
                nn.init.normal_(dense.weight)

    def forward(self, features):
        q = len(self.blocks)
        if q == 1:
            return self.blocks[0](features)
        parts = []
        for s, segment in enumerate(self.blocks):
            steps = [x.shape[2] // q for x in features]
            ends = [x.shape[2] if s == q - 1 else (s + 1) * n for x, n in zip(features, steps, strict=True)]
            parts.append(segment([x[:, :, s * n : z] for x, n, z in zip(features, steps, ends, strict=True)]))
        return [torch.cat(pieces, 2) for pieces in zip(*parts, strict=True)]


@pytest.mark.parametrize("min_attention", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("channels", "block", "joint", "segments", "shapes"),
    [
        ((12, 8), 4, 1, 1, [(3, 12, 4, 3, 2), (3, 8, 7)]),
        ((12, 8), 4, 4, 1, [(3, 12), (3, 8, 1)]),
        ((8, 12, 4), 4, 2, 5, [(3, 8, 50), (3, 12, 13), (3, 4, 9, 2)]),
    ],
)
def test_published_weights_give_their_outputs_in_evaluation(
    channels, block, joint, segments, shapes, min_attention, dtype
):
    published = Published(channels, block, joint, segments, min_attention).to(dtype).eval()
    module = MSAF.from_published(published.state_dict(), channels, min_attention=min_attention).eval()
    assert (module.block_channels, module.segments, module.join.bias.shape[1]) == (block, segments, joint)
    assert module.join.weight.dtype == dtype
    features = [torch.randn(s, dtype=dtype) for s in shapes]
    torch.testing.assert_close(module(features), published(features))


def network():
    net = nn.Module()
    net.stem = nn.Conv1d(3, 4, 1)
    net.msaf1, net.msaf2 = Published((8, 4), 4, 2), Published((8, 8), 4, 1, segments=2)
    return net.eval()


def test_a_module_is_found_in_a_network_by_itself_or_by_its_prefix():
    net = network()
    features = [torch.randn(3, 8, 5), torch.randn(3, 8, 4)]
    module = MSAF.from_published(net.state_dict(), (8, 8), prefix="msaf2.").eval()
    torch.testing.assert_close(module(features), net.msaf2(features))
    first = MSAF.from_published(net.state_dict(), (8, 4), prefix="msaf1.", block_dropout=0.2)
    assert first.block_dropout.p == 0.2
    del net.msaf1
    torch.testing.assert_close(MSAF.from_published(net.state_dict(), (8, 8)).eval()(features), net.msaf2(features))
    wrapped = {f"module.{k}": v for k, v in net.state_dict().items()}
    torch.testing.assert_close(MSAF.from_published(wrapped, (8, 8)).eval()(features), net.msaf2(features))


def test_files_without_counters_of_batches_are_read():
    published = Published((8, 4), 4, 2, segments=2).eval()
    state = {k: v for k, v in published.state_dict().items() if not k.endswith("num_batches_tracked")}
    module = MSAF.from_published(state, (8, 4)).eval()
    assert module.norm.num_batches_tracked == 0
    features = [torch.randn(3, 8, 5), torch.randn(3, 4, 4)]
    torch.testing.assert_close(module(features), published(features))


def test_the_loaded_module_shares_no_memory_with_the_file():
    state = Published((8, 4), 4, 2).state_dict()
    module = MSAF.from_published(state, (8, 4))
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.zero_()
    assert state["blocks.0.joint_features.0.weight"].abs().min() > 0


def change(**edits):
    state = Published((8, 4), 4, 2, segments=2).state_dict()
    for key, value in edits.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("state", "channels", "words"),
    [
        ({}, (8, 4), r"prefixes of published MSAF modules.*none; expected one"),
        ({"state_dict": change()}, (8, 4), r"none; expected one"),
        (network().state_dict(), (8, 4), r"'msaf1\.', 'msaf2\.'; expected one, or prefix="),
        (change(), (8, 8), r"segment 0: key blocks\.0\.dense_group\.3\.weight is missing; do the channels fit"),
        (
            change(),
            (8,),
            r"segment 0: 2 keys that channels \(8,\) with C = 4 \(2 blocks\) do not have, such as 'dense_group",
        ),
        (change(blocks__1__joint_features__0__bias=None), (8, 4), r"blocks\.1\.joint_features\.0\.bias is missing"),
        (change(blocks__0__joint_features__0__weight=None), (8, 4), r"blocks\.0\.joint_features\.0\.weight is missing"),
        (change(blocks__1__joint_features__1__running_var=None), (8, 4), r"segment 1: .*running_var is missing"),
        (change(blocks__0__dense_group__1__bias=torch.zeros(5)), (8, 4), r"bias has shape \(5,\), expected \(4,\)"),
        (change(blocks__0__joint_features__0__weight=torch.zeros(4)), (8, 4), r"is \(C', C\), got \(4,\)"),
        (change(blocks__0__joint_features__1__extra=torch.zeros(2)), (8, 4), r"1 keys .*joint_features\.1\.extra"),
        (change(blocks__3__joint_features__0__weight=torch.zeros(2, 4)), (8, 4), r"segments \[0, 1, 3\].*without gaps"),
        (
            {f"blocks.0.{k}": v for k, v in PublishedSegment((8,), 4, 3, 0).state_dict().items()},
            (),
            r"channels is empty",
        ),
    ],
)
def test_files_that_do_not_fit_say_why(state, channels, words):
    with pytest.raises(FusionInputError, match=words):
        MSAF.from_published(state, channels)


def test_a_prefix_that_is_not_there_lists_those_that_are():
    with pytest.raises(
        FusionInputError, match=r"no published MSAF module at prefix 'msaf3\.'.*\['msaf1\.', 'msaf2\.'\]"
    ):
        MSAF.from_published(network().state_dict(), (8, 4), prefix="msaf3.")


def test_a_joint_width_that_no_reduction_gives_is_an_error():
    with pytest.raises(FusionInputError, match=r"no reduction r gives C' = floor\(4 / r\) = 3"):
        MSAF.from_published(Published((8, 4), 4, 3).state_dict(), (8, 4))
