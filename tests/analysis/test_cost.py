"""What cost.py counts, against counts by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchmsaf.analysis.cost import (
    Cost,
    count_flops,
    count_parameters,
    measure,
    peak_memory,
    published_flops,
    published_mmtm_flops,
    published_msaf_flops,
    saved_bytes,
)

FLOAT = 4


def test_parameters_shared_and_frozen():
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))
    assert count_parameters(net) == 3 * 5 + 5 + 5 * 3 + 3
    net[1].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    assert count_parameters(net) == 15 + 5 + 3


# flops


def test_flops_of_linear_and_convolution():
    assert count_flops(nn.Linear(3, 5), torch.ones(7, 3)) == 2 * 7 * 3 * 5
    assert count_flops(nn.Linear(3, 5), torch.ones(2, 7, 3)) == 2 * 14 * 3 * 5
    assert count_flops(nn.Conv2d(3, 5, 3, padding=1), torch.ones(2, 3, 8, 9)) == 2 * 2 * 8 * 9 * 3 * 5 * 9
    assert count_flops(nn.Conv1d(6, 4, 2, groups=2), torch.ones(1, 6, 5)) == 2 * 4 * 4 * 3 * 2


def test_flops_of_vector_products():
    matrix, vector, batch = torch.ones(4, 5), torch.ones(5), torch.ones(3, 4, 5)
    assert measure(torch.mv, matrix, vector).flops == 40
    assert measure(torch.dot, vector, vector).flops == 10
    assert measure(torch.addmv, torch.ones(4), matrix, vector).flops == 40
    assert measure(torch.addbmm, torch.ones(4, 4), batch, batch.mT).flops == 2 * 3 * 4 * 5 * 4


RECURRENT = [
    pytest.param(nn.LSTM, 4, 1, False, id="lstm"),
    pytest.param(nn.LSTM, 4, 2, False, id="lstm-2-layers"),
    pytest.param(nn.LSTM, 4, 2, True, id="lstm-bidirectional"),
    pytest.param(nn.GRU, 3, 1, False, id="gru"),
    pytest.param(nn.GRU, 3, 2, True, id="gru-bidirectional"),
    pytest.param(nn.RNN, 1, 2, False, id="rnn"),
]


def recurrent_flops(gates, layers, bidirectional, batch, steps, width, hidden):
    directions = 2 if bidirectional else 1
    return sum(
        2 * batch * steps * directions * gates * hidden * ((width if layer == 0 else directions * hidden) + hidden)
        for layer in range(layers)
    )


@pytest.mark.parametrize(("kind", "gates", "layers", "bidirectional"), RECURRENT)
@pytest.mark.parametrize("batch_first", [False, True])
def test_flops_of_recurrent_layers(kind, gates, layers, bidirectional, batch_first):
    batch, steps, width, hidden = 3, 7, 5, 4
    net = kind(width, hidden, layers, bidirectional=bidirectional, batch_first=batch_first)
    x = torch.ones(batch, steps, width) if batch_first else torch.ones(steps, batch, width)
    expected = recurrent_flops(gates, layers, bidirectional, batch, steps, width, hidden)
    assert count_flops(net, x) == expected
    assert measure(net, x).flops == expected  # with gradients on
    with torch.inference_mode():
        assert measure(net, x).flops == expected


def test_flops_of_recurrent_backward():
    net, x = nn.LSTM(5, 4, 2), torch.ones(7, 3, 5, requires_grad=True)
    expected = recurrent_flops(4, 2, False, 3, 7, 5, 4)
    assert measure(lambda: net(x)[0].sum().backward()).flops == 3 * expected


def test_flops_of_packed_sequence():
    net = nn.LSTM(5, 4)
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(7, 3, 5), torch.tensor([7, 4, 2]))
    assert count_flops(net, packed) == 2 * (7 + 4 + 2) * 16 * (5 + 4)


def test_training_flags_and_gradients_are_left_alone():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count_flops(net, torch.ones(3, 2))
    published_flops(net, torch.ones(3, 2))
    assert [layer.training for layer in net.modules()] == [True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net[0].weight.grad is None
    assert not net[0]._forward_hooks


def test_inference_mode_counts_the_same():
    net, x = nn.Linear(3, 5), torch.ones(7, 3)
    with torch.no_grad():
        plain = measure(net, x)
    with torch.inference_mode():
        assert measure(net, x) == plain
    assert plain.kernels == 1


# elementwise, kernels, bytes


def test_pointwise_and_reduction():
    x = torch.ones(6, 10)
    assert measure(lambda: x * 2 + 1) == Cost(0, 120, 2, 4 * 60 * FLOAT)
    assert measure(x.sum) == Cost(0, 60, 1, 61 * FLOAT)
    assert measure(lambda: x.mean(1)) == Cost(0, 60, 1, 66 * FLOAT)
    assert measure(lambda: x.softmax(1)) == Cost(0, 60, 1, 120 * FLOAT)


def test_views_and_allocations_are_free():
    x = torch.ones(6, 10)
    free = Cost(0, 0, 0, 0)
    assert measure(lambda: x.reshape(3, 20).t()[1:].unsqueeze(0).expand(4, -1, -1).split(2)) == free
    assert measure(lambda: [x.contiguous(), torch.empty(5), torch.empty_like(x), x.new_empty(3), x.detach()]) == free
    assert measure(lambda: torch.empty(3).resize_(2)) == free


def test_moves_count_bytes_but_no_arithmetic():
    x = torch.ones(6, 10)
    assert measure(x.clone) == Cost(0, 0, 1, 120 * FLOAT)
    assert measure(lambda: torch.cat([x, x + 0], 1)) == Cost(0, 60, 2, 120 * FLOAT + 240 * FLOAT)
    assert measure(lambda: torch.zeros(7)) == Cost(0, 0, 1, 7 * FLOAT)
    assert measure(lambda: torch.ones_like(x)) == Cost(0, 0, 1, 60 * FLOAT)
    assert measure(lambda: x.new_zeros(3)) == Cost(0, 0, 1, 3 * FLOAT)


def test_in_place_reads_and_writes():
    x, y = torch.ones(6, 10), torch.ones(6, 10)
    assert measure(lambda: x.mul_(2)).bytes_touched == 120 * FLOAT
    assert measure(lambda: x.add_(y)).bytes_touched == 180 * FLOAT
    assert measure(lambda: x.copy_(y)).bytes_touched == 120 * FLOAT
    assert measure(x.zero_) == Cost(0, 0, 1, 60 * FLOAT)
    assert measure(lambda: x.fill_(3.0)).bytes_touched == 60 * FLOAT
    assert measure(lambda: x.bernoulli_(0.5)).bytes_touched == 60 * FLOAT
    assert measure(lambda: torch.mul(x, y, out=x)).bytes_touched == 180 * FLOAT
    assert measure(lambda: torch._foreach_add_([x, y], 1.0)) == Cost(0, 60, 1, 240 * FLOAT)


def test_expanded_and_repeated_arguments_count_their_storage_once():
    x, row = torch.ones(6, 10), torch.ones(1, 10)
    assert measure(lambda: row.expand(6, 10) * 2).bytes_touched == (10 + 60) * FLOAT
    assert measure(lambda: x * row).bytes_touched == (60 + 10 + 60) * FLOAT
    assert measure(lambda: x * x).bytes_touched == 120 * FLOAT
    assert measure(lambda: x.double()).bytes_touched == 60 * (4 + 8)


def test_item_is_a_kernel_without_a_tensor():
    x = torch.ones(())
    assert measure(x.item) == Cost(0, 0, 1, FLOAT)


class Scale(torch.autograd.Function):
    """Halves a tensor, with a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        return x / 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


def test_backward_inside_the_function_counts():
    x = torch.ones(6, 10, requires_grad=True)
    gradient = torch.ones(6, 10)
    run = lambda: torch.autograd.grad(Scale.apply(x), x, gradient)  # noqa: E731
    assert measure(run) == Cost(0, 120, 2, 240 * FLOAT)
    linear = nn.Linear(10, 4)
    flops = measure(lambda: linear(x).sum().backward()).flops
    assert flops == 3 * 2 * 6 * 10 * 4


# memory


def test_peak_of_a_chain():
    x = torch.ones(1000)
    assert peak_memory(lambda: x * 2 + 1) == 2 * 1000 * FLOAT
    assert peak_memory(lambda: (x * 2).add_(1)) == 1000 * FLOAT
    assert peak_memory(lambda: x.view(10, 100).t()) == 0
    assert peak_memory(lambda: x.clone().mul_(2).sum()) == 1001 * FLOAT


def test_peak_counts_what_was_freed_only_while_it_lived():
    x = torch.ones(1000)

    def loop():
        for _ in range(5):
            torch.cat([x, x])
        return x + 1

    assert peak_memory(loop) == 2000 * FLOAT
    assert peak_memory(loop) == 2000 * FLOAT


def test_peak_of_views_that_outlive_their_tensor():
    x = torch.ones(1000)

    def keep_a_slice():
        piece = (x * 2)[:1]
        return piece, x + 1, x + 2

    assert peak_memory(keep_a_slice) == 3000 * FLOAT


def test_peak_in_the_backward():
    x = torch.ones(1000, requires_grad=True)
    gradient = torch.ones(1000)

    def run():
        y = x * 3
        (out,) = torch.autograd.grad(y, x, gradient)
        return y, out

    assert peak_memory(run) == 2000 * FLOAT
    assert peak_memory(lambda: torch.autograd.grad(Scale.apply(x), x, gradient)) == 2000 * FLOAT


def test_peak_in_inference_mode():
    net, x = nn.Sequential(nn.Linear(8, 100), nn.Linear(100, 1)), torch.ones(10, 8)
    with torch.inference_mode():
        assert peak_memory(net, x) == (1000 + 10) * FLOAT


def test_peak_after_an_error():
    def fail():
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        peak_memory(fail)
    assert peak_memory(torch.ones, 3) == 3 * FLOAT


def test_saved_bytes():
    x = torch.ones(1000, requires_grad=True)
    scale = torch.full((1000,), 2.0, requires_grad=True)
    assert saved_bytes(lambda x: x * 3, x) == 0
    assert saved_bytes(torch.exp, x) == 0  # keeps its own result
    assert saved_bytes(lambda x: x.exp() * 2, x) == 1000 * FLOAT
    assert saved_bytes(lambda x: x * scale, x) == 1000 * FLOAT
    assert saved_bytes(lambda x: x * scale, x, exclude=[scale]) == 0
    assert saved_bytes(lambda tree: tree["x"][0] * scale, {"x": [x]}, exclude=[scale]) == 0
    with torch.no_grad():
        assert saved_bytes(lambda x: x.exp() * 2, x) == 0


def test_saved_bytes_counts_a_storage_once_and_whole():
    x = torch.ones(1000, requires_grad=True)

    def run(x):
        y = x.exp()
        return (y[:10] * y[:10].detach()).sum() + y.cos().sum()

    assert saved_bytes(run, x) == 1000 * FLOAT


def test_saved_bytes_of_a_module_leaves_out_its_parameters():
    net, x = nn.Sequential(nn.Linear(8, 100), nn.ReLU(), nn.Linear(100, 1)), torch.ones(10, 8, requires_grad=True)
    assert saved_bytes(net, x) == 1000 * FLOAT
    assert saved_bytes(lambda x: net(x), x, exclude=[net]) == 1000 * FLOAT


# the published convention


class Published(nn.Module):
    """The layers of MSAF that the published convention counts."""

    def __init__(self, block_channels, reduction, blocks):
        super().__init__()
        joint = block_channels // reduction
        self.joint = nn.Sequential(nn.Linear(block_channels, joint), nn.BatchNorm1d(joint), nn.ReLU())
        self.dense = nn.ModuleList(nn.Linear(joint, block_channels) for _ in range(blocks))

    def forward(self, x):
        z = self.joint(x)
        return torch.stack([layer(z) for layer in self.dense]).softmax(0)


class PublishedMMTM(nn.Module):
    """The layers of MMTM that the published convention counts."""

    def __init__(self, width, joint):
        super().__init__()
        self.squeeze = nn.Linear(width, joint)
        self.gates = nn.ModuleList([nn.Linear(joint, width // 2), nn.Linear(joint, width // 2)])
        self.relu = nn.ReLU()

    def forward(self, x):
        z = self.relu(self.squeeze(x))
        return [F.sigmoid(gate(z)) for gate in self.gates]


@pytest.mark.parametrize(("channels", "flops"), [(64, 10_432), (1024, 2_624_512)])
def test_published_flops_of_msaf(channels, flops):
    assert published_msaf_flops([channels, channels], channels // 2, 4, 4) == flops
    assert published_flops(Published(channels // 2, 4, 4), torch.ones(4, channels // 2)) == flops


@pytest.mark.parametrize(("channels", "flops"), [(64, 131_584), (1024, 33_562_624)])
def test_published_flops_of_mmtm(channels, flops):
    assert published_mmtm_flops([channels, channels], 4, 4) == flops
    assert published_flops(PublishedMMTM(2 * channels, channels), torch.ones(4, 2 * channels)) == flops


def test_published_flops_count_rounded_blocks_and_segments():
    blocks = math.ceil(33 / 16) + math.ceil(16 / 16)
    assert published_msaf_flops([33, 16], 16, 4, 2) == 2 * 2 * (1 + blocks) * 16 * 4 + 6 * 2 * 4
    assert published_msaf_flops([33, 16], 16, 4, 2, segments=5) == 5 * published_msaf_flops([33, 16], 16, 4, 2)


def test_honest_flops_of_msaf_leave_out_what_is_not_a_product():
    net, x = Published(32, 4, 4), torch.ones(4, 32)
    assert count_flops(net, x) == 2 * 4 * (1 + 4) * 32 * 8


@pytest.mark.parametrize("norm_first", [False, True])
def test_flops_of_a_transformer_layer_are_the_same_on_the_fast_path_without_gradients(norm_first):
    layer = torch.nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first).eval()
    x = torch.randn(2, 5, 16)
    slow = measure(layer, x).flops
    tokens = 2 * 5  # and scores and weighted sums, in a kernel of their own
    assert slow == 2 * tokens * (4 * 16 * 16 + 2 * 16 * 24) + 2 * 2 * tokens * 5 * 16
    assert count_flops(layer, x) == slow


def test_flops_of_attention_are_the_same_on_the_fast_path_without_gradients():
    attention = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    assert count_flops(attention, x, x, x) == measure(attention, x, x, x).flops


def test_flops_of_the_gradients_of_attention_are_two_and_a_half_times_its_own():
    q, k, v = (torch.randn(2, 4, n, 8, requires_grad=True) for n in (5, 7, 7))
    forward = measure(torch.nn.functional.scaled_dot_product_attention, q, k, v).flops
    assert forward == 2 * 2 * (2 * 4) * 5 * 7 * 8
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert measure(out.sum().backward).flops == forward * 5 // 2
