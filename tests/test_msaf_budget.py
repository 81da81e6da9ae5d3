"""What a call of MSAF may cost, counted and not timed: bytes touched, kernels, bytes kept for the backward, peak memory.

N is the bytes of the input maps. Maps are those of the paper's networks, smaller where N stays what rules.
"""

import pytest
import torch

from torchmsaf import MSAF
from torchmsaf.analysis.cost import measure, peak_memory, saved_bytes

MAPS = {
    "RAVDESS point 1": (((4, 1024, 4, 14, 14), (4, 32, 208)), {"block_channels": 16, "block_dropout": 0.2}),
    "RAVDESS point 2": (((4, 2048, 2, 7, 7), (4, 64, 26)), {"block_channels": 32, "block_dropout": 0.2}),
    "NTU point 1": (
        ((4, 832, 4, 7, 7), (4, 128, 4, 4), (4, 128, 4, 4)),
        {"block_channels": 64, "reduction": 4, "min_attention": 0.5},
    ),
    "NTU point 1, larger": (
        ((1, 832, 16, 14, 14), (1, 128, 4, 4), (1, 128, 4, 4)),
        {"block_channels": 64, "reduction": 4, "min_attention": 0.5, "norm": "layer"},
    ),
    "Fig. 5": (((4, 64, 3, 32, 32), (4, 64, 3, 32, 32)), {}),
}


def map_case(name, batch=None):
    shapes, options = MAPS[name]
    shapes = [shape if batch is None else (batch, *shape[1:]) for shape in shapes]
    return MSAF([s[1] for s in shapes], **options), [torch.randn(s) for s in shapes]


def mosei(segments, batch=16):
    """Maps as nn.LSTM(batch_first=True) and a transpose leave them: strides (C, 1, B C)."""
    maps = [torch.randn(50, batch, c).permute(1, 2, 0) for c in (32, 64, 128)]
    return MSAF((32, 64, 128), block_channels=16, block_dropout=0.2, segments=segments), maps


def step(module, features):
    """A forward and a backward, as a function without arguments; what a network around it would hand over exists."""
    leaves = [x.detach().requires_grad_() for x in features]
    cotangents = [torch.empty_like(x).normal_() for x in features]
    for p in module.parameters():
        p.grad = torch.zeros_like(p)

    def run():
        outputs = module(leaves)
        return outputs, torch.autograd.grad(outputs, [*leaves, *module.parameters()], cotangents)

    return run


def size(features):
    return sum(x.numel() * x.element_size() for x in features)


LARGE = ["RAVDESS point 1", "NTU point 1, larger", "Fig. 5"]
SMALL = [
    "RAVDESS point 2",
    "NTU point 1",
]  # 98 and 196 positions a channel: gates and weights are not small beside them


def small_terms(module, features):
    """Bytes of one gate a sample and channel, and of the weights."""
    gates = sum(x.shape[0] * x.shape[1] * x.element_size() for x in features)
    return gates, sum(p.numel() * p.element_size() for p in module.parameters())


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_bytes_touched_in_a_forward(name, training, grad):
    module, features = map_case(name)
    module.train(training)
    leaves = [x.requires_grad_(grad) for x in features]
    with torch.set_grad_enabled(grad):
        assert measure(module, leaves).bytes_touched <= 3.05 * size(features)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("training", [True, False])
def test_bytes_touched_in_forward_and_backward(name, training):
    module, features = map_case(name)
    assert measure(step(module.train(training), features)).bytes_touched <= 7.2 * size(features)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_bytes_touched_by_small_maps_beside_their_gates_and_weights(name, training):
    module, features = map_case(name)
    module.train(training)
    gates, weights = small_terms(module, features)
    n = size(features)
    assert measure(module, features).bytes_touched <= 3.05 * n + 10 * gates + weights
    assert measure(step(module, features)).bytes_touched <= 7.2 * n + 25 * gates + 3 * weights


@pytest.mark.xfail(
    reason="gates and weights are 3 % of these maps, and are read and written several times", strict=True
)
@pytest.mark.parametrize("name", SMALL)
def test_bytes_touched_by_small_maps_to_the_letter(name):
    module, features = map_case(name)
    assert measure(module, features).bytes_touched <= 3.05 * size(features)
    assert measure(step(module, features)).bytes_touched <= 7.2 * size(features)


@pytest.mark.parametrize("case", ["RAVDESS point 1", "RAVDESS point 2", "NTU point 1", 1, 5, 10, 25], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_kernels_in_forward_and_backward_whatever_the_blocks_and_segments(case, training):
    module, features = map_case(case) if isinstance(case, str) else mosei(case)
    assert measure(step(module.train(training), features)).kernels <= 60


def test_kernels_do_not_grow_with_blocks_or_segments():
    few = MSAF((64, 64), block_channels=32)
    many = MSAF((64, 64), block_channels=2, reduction=1)
    features = [torch.randn(4, 64, 10), torch.randn(4, 64, 20)]
    assert measure(step(few, features)).kernels == measure(step(many, features)).kernels
    assert measure(step(*mosei(5))).kernels == measure(step(*mosei(25))).kernels


@pytest.mark.parametrize(
    ("case", "limit"),
    # two gates are kept under dropout, 0.0208 N of the maps of RAVDESS point 2
    [*[(name, 0.022 if name == "RAVDESS point 2" else 0.02) for name in MAPS], (1, 0.25), (5, 0.25)],
)
def test_bytes_saved_for_the_backward(case, limit):
    module, features = map_case(case) if isinstance(case, str) else mosei(case)
    leaves = [x.detach().requires_grad_() for x in features]
    assert saved_bytes(module, leaves) <= limit * size(features)


# one gate of MOSEI with q segments is q / 50 N
@pytest.mark.parametrize(("case", "limit"), [*[(name, 1.05) for name in MAPS], (1, 1.1), (5, 1.45)])
def test_peak_memory_in_evaluation(case, limit):
    module, features = map_case(case) if isinstance(case, str) else mosei(case)
    with torch.no_grad():
        assert peak_memory(module.eval(), features) <= limit * size(features)


@pytest.mark.parametrize(("case", "limit"), [*[(name, 2.2) for name in MAPS], (1, 2.5), (5, 2.5)])
def test_peak_memory_in_training(case, limit):
    module, features = map_case(case) if isinstance(case, str) else mosei(case)
    assert peak_memory(step(module, features)) <= limit * size(features)


def test_attention_writes_no_map():
    module, features = map_case("RAVDESS point 1")
    with torch.no_grad():
        assert measure(module.attention, features).bytes_touched <= 1.05 * size(features)


if __name__ == "__main__":
    for case in [*MAPS, 1, 5, 10, 25]:
        module, features = map_case(case) if isinstance(case, str) else mosei(case)
        n = size(features)
        parameters = sum(p.numel() * p.element_size() for p in module.parameters())
        full = measure(step(module, features))
        row = {"train f+b N": full.bytes_touched / n, "kernels f+b": full.kernels}
        leaves = [x.detach().requires_grad_() for x in features]
        row["train fwd N"] = measure(module, leaves).bytes_touched / n
        row["saved N"] = saved_bytes(module, leaves) / n
        row["peak train N"], row["params N"] = peak_memory(step(module, features)) / n, parameters / n
        module.eval()
        full = measure(step(module, features))
        row["eval f+b N"], row["eval kernels f+b"] = full.bytes_touched / n, full.kernels
        with torch.no_grad():
            row["eval fwd N"], row["eval kernels"] = (
                measure(module, features).bytes_touched / n,
                measure(module, features).kernels,
            )
            row["peak eval N"] = peak_memory(module, features) / n
        print(case, {k: round(v, 4) for k, v in row.items()})
