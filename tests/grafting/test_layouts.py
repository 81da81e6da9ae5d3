"""Protects the axes: layouts there and back, what torch's own layers are known to give, masks at other positions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from torchmsaf.errors import GraftError
from torchmsaf.grafting import FusionPoint, Tap, graft
from torchmsaf.grafting.layouts import (
    channels_last,
    channels_second,
    check_layout,
    fit_mask,
    from_channels_second,
    layout_of,
    layout_of_parts,
    to_channels_second,
)


@st.composite
def layouts(draw: st.DrawFn) -> str:
    positions = draw(st.lists(st.sampled_from("THWXYZ"), max_size=4, unique=True))
    return "".join(draw(st.permutations(["B", "C", *positions])))


@given(layouts(), st.data())
def test_channels_second_and_back_is_the_same_tensor_for_any_layout(layout: str, data: st.DataObject) -> None:
    """The fused map stands in the layer's output with the axes that the network expects."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=len(layout), max_size=len(layout)))
    x = torch.randn(sizes)
    inside = to_channels_second(x, layout)
    assert inside.shape[0] == x.shape[layout.index("B")]
    assert inside.shape[1] == x.shape[layout.index("C")]
    assert torch.equal(from_channels_second(inside, layout), x)
    assert from_channels_second(inside, layout).stride() == x.stride()
    y = torch.randn(inside.shape)
    assert torch.equal(to_channels_second(from_channels_second(y, layout), layout), y)


@given(layouts())
def test_positions_keep_their_order(layout: str) -> None:
    """Time stays before height and width, whatever stands between them: masks and segments count on it."""
    x = torch.empty([10 + axis for axis in range(len(layout))])
    positions = [axis for axis, letter in enumerate(layout) if letter not in "BC"]
    assert list(to_channels_second(x, layout).shape[2:]) == [10 + axis for axis in positions]


@given(layouts())
def test_to_channels_second_is_a_view(layout: str) -> None:
    """No copy of a feature map is made to read it."""
    x = torch.randn([2] * len(layout))
    assert to_channels_second(x, layout).data_ptr() == x.data_ptr()


def test_a_map_that_is_channels_second_is_itself() -> None:
    """A fusion that changes nothing gives back the very tensor, so the network's output is left alone."""
    x = torch.randn(2, 3, 4)
    assert to_channels_second(x, "BCT") is x
    assert from_channels_second(x, "BCT") is x


@pytest.mark.parametrize(
    "layout",
    [
        "",
        "B",
        "C",
        "BT",
        "CT",
        "bct",
        "B C",
        "BCTT",
        "BBC",
        "BC1",
        "BC-",
        "BcT",
        3,
        None,
        ["B", "C"],
        ("B", "C"),
        b"BC",
    ],
    ids=repr,
)
def test_what_is_no_layout_is_an_error_that_says_what_one_is(layout: Any) -> None:
    """A layout that cannot be read is refused where it is said, with the layer and an example."""
    with pytest.raises(GraftError, match=r"layer 'x': a layout has one capital letter an axis.*'BTC'.*got "):
        check_layout(layout, "layer 'x'")


@pytest.mark.parametrize("layout", ["BC", "CB", "BTC", "TBC", "BHWC", "BCTHW", "QBCK"])
def test_a_layout_with_one_letter_an_axis_passes(layout: str) -> None:
    """Any letter is a position, in any place."""
    assert check_layout(layout, "x") == layout


CONVOLUTIONS = [
    (nn.Conv1d(2, 3, 1), (2, 2, 5), "BCT"),
    (nn.Conv2d(2, 3, 1), (2, 2, 5, 4), "BCTH"),
    (nn.Conv3d(2, 3, 1), (2, 2, 5, 4, 3), "BCTHW"),
    (nn.ConvTranspose1d(2, 3, 1), (2, 2, 5), "BCT"),
    (nn.LazyConv1d(3, 1), (2, 2, 5), "BCT"),
    (nn.BatchNorm1d(2), (2, 2), "BC"),
    (nn.BatchNorm1d(2), (2, 2, 5), "BCT"),
    (nn.BatchNorm3d(2), (2, 2, 5, 4, 3), "BCTHW"),
    (nn.InstanceNorm2d(2), (2, 2, 5, 4), "BCTH"),
    (nn.GroupNorm(1, 2), (2, 2, 5, 4), "BCTH"),
    (nn.MaxPool2d(2), (2, 3, 4, 4), "BCTH"),
    (nn.AdaptiveAvgPool1d(2), (2, 3, 4), "BCT"),
]
LAST = [
    (nn.Linear(6, 3), (2, 6), "BC"),
    (nn.Linear(6, 3), (2, 5, 6), "BTC"),
    (nn.Linear(6, 3), (2, 5, 4, 6), "BTHC"),
    (nn.LayerNorm(6), (2, 5, 6), "BTC"),
]
SEQUENCES = [
    (nn.LSTM(6, 4), (5, 2, 6), "TBC"),
    (nn.LSTM(6, 4, batch_first=True), (2, 5, 6), "BTC"),
    (nn.GRU(6, 4, bidirectional=True), (5, 2, 6), "TBC"),
    (nn.RNN(6, 4, batch_first=True), (2, 5, 6), "BTC"),
    (nn.TransformerEncoderLayer(6, 2, 8), (5, 2, 6), "TBC"),
    (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), (2, 5, 6), "BTC"),
    (nn.RNNCell(6, 4), (2, 6), "BC"),
]


def name(case: Any) -> str:
    return type(case).__name__ if isinstance(case, nn.Module) else str(case)


@pytest.mark.parametrize(("layer", "shape", "expected"), CONVOLUTIONS + LAST + SEQUENCES, ids=name)
def test_the_layout_of_torchs_own_layers_is_known(layer: nn.Module, shape: tuple[int, ...], expected: str) -> None:
    """Where a layer of torch has its channels is not for the user to say."""
    output = layer.eval()(torch.randn(shape))
    output = output[0] if isinstance(output, tuple) else output
    found = layout_of(layer, output.dim())
    assert found is not None
    assert [found.index("B"), found.index("C")] == [expected.index("B"), expected.index("C")]
    assert len(found) == output.dim()


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_and_decoder_say_by_batch_first(batch_first: bool) -> None:
    """Layers that are called with several arguments are known too."""
    expected = "BTC" if batch_first else "TBC"
    assert layout_of(nn.MultiheadAttention(6, 2, batch_first=batch_first), 3) == expected
    assert layout_of(nn.TransformerDecoderLayer(6, 2, 8, batch_first=batch_first), 3) == expected


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [(nn.Embedding(9, 3), (2, 5), "BTC"), (nn.EmbeddingBag(9, 3), (2, 5), "BC")],
    ids=name,
)
def test_embeddings_have_their_channels_last(layer: nn.Module, shape: tuple[int, ...], expected: str) -> None:
    """The first layer of most language networks is read right."""
    output = layer(torch.zeros(shape, dtype=torch.long))
    assert layout_of(layer, output.dim()) == expected


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Dropout(), nn.Identity(), nn.Sequential(), nn.Flatten()], ids=name)
def test_a_layer_that_leaves_the_axes_to_others_says_nothing(layer: nn.Module) -> None:
    """An activation is read as what stood before it, not as a guess of its own."""
    assert layout_of(layer, 3) is None
    assert layout_of(layer, 4) is None


@pytest.mark.parametrize("rank", [0, 1, 20])
def test_a_rank_that_no_layout_has_is_none(rank: int) -> None:
    """Scalars, vectors and tensors of very many axes are not guessed."""
    assert layout_of(nn.Linear(2, 2), rank) is None
    assert layout_of(nn.Conv1d(2, 2, 1), rank) is None


@pytest.mark.parametrize("rank", range(2, 8))
def test_named_layouts_are_layouts_of_their_rank(rank: int) -> None:
    """What the library makes itself passes its own check."""
    for layout in (channels_second(rank), channels_last(rank)):
        assert len(check_layout(layout, "x")) == rank


def test_a_norm_over_several_axes_does_not_say_that_channels_are_last() -> None:
    """A layer norm over (C, H, W) of a convolution's map leaves the channels second."""
    assert layout_of(nn.LayerNorm([4, 5, 7]), 4) != "BTHC"
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LayerNorm([4, 5, 7]), nn.ReLU())
    seen = seen_by_fusion(network, "2", torch.randn(2, 1, 5, 7))
    assert seen == (2, 4, 5, 7)


def test_parts_that_agree_say_the_layout_of_a_block_that_was_not_seen() -> None:
    """Without an example a block is read as its layers are, and not at all where they differ."""
    assert layout_of_parts(nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.BatchNorm1d(3)), 3) == "BCT"
    assert layout_of_parts(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), 3) == "BTC"
    assert layout_of_parts(nn.Sequential(nn.Conv1d(2, 3, 1), nn.Linear(2, 3)), 3) is None
    assert layout_of_parts(nn.ReLU(), 3) is None


def seen_by_fusion(network: nn.Module, layer: str | Tap, x: Tensor) -> tuple[int, ...]:
    """The shape of the map that a fusion gets from one layer."""
    shapes = []

    def look(maps: list[Tensor]) -> list[Tensor]:
        shapes.append(tuple(maps[0].shape))
        return maps

    graft({"n": network}, [FusionPoint({"n": layer}, look)], head=None, example={"n": x})({"n": x})
    return shapes[0]


class TimeFirst(nn.Module):
    """A recurrent layer as torch has it by default, and a linear layer after it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 8)
        self.linear = nn.Linear(8, 6)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.linear(self.lstm(x)[0]))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("lstm", (2, 8, 5)), ("linear", (2, 6, 5)), ("relu", (2, 6, 5))],
    ids=["lstm", "linear", "relu"],
)
def test_what_follows_a_time_first_layer_is_time_first(layer: str, expected: tuple[int, ...]) -> None:
    """A linear layer says where the channels are; which of the others is the batch is said by what came before."""
    assert seen_by_fusion(TimeFirst(), layer, torch.randn(5, 2, 3)) == expected


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "with a last norm"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_transformer_encoder_is_read_by_batch_first(batch_first: bool, norm: bool) -> None:
    """The whole encoder is read as its layers are, with a last norm or without."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=batch_first)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(6) if norm else None, enable_nested_tensor=False)
    x = torch.randn(2, 5, 6)
    assert seen_by_fusion(encoder, "", x if batch_first else x.transpose(0, 1)) == (2, 6, 5)


def test_what_no_layer_says_is_channels_second() -> None:
    """A map that comes out of plain tensor operations is read as the most networks have it."""
    assert seen_by_fusion(nn.Identity(), "", torch.randn(2, 3, 5)) == (2, 3, 5)


def test_a_map_of_very_many_axes_is_channels_second_too() -> None:
    """No number of axes ends in an index out of range."""
    assert seen_by_fusion(nn.Identity(), "", torch.randn(2, 3, 1, 1, 1, 2, 1, 1, 1)) == (2, 3, 1, 1, 1, 2, 1, 1, 1)


def test_a_sum_is_read_as_the_layer_before_it_of_that_shape() -> None:
    """A residual block has the axes of what it adds."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.linear(x)

    assert seen_by_fusion(nn.Sequential(Block(), nn.ReLU()), "0", torch.randn(2, 5, 6)) == (2, 6, 5)
    assert seen_by_fusion(nn.Sequential(Block(), nn.ReLU()), "1", torch.randn(2, 5, 6)) == (2, 6, 5)


def test_a_layout_that_is_said_comes_first() -> None:
    """Who knows better than the layer's class is believed."""
    assert seen_by_fusion(nn.Linear(6, 6), Tap("", layout="CTB"), torch.randn(2, 5, 6)) == (6, 2, 5)


# masks


def slow_fit(mask: Tensor, positions: tuple[int, ...], prefix: int = 0) -> Tensor:
    """Position by position: real, if any real position of the input falls into it."""
    lengths = mask.shape[1:]
    inner = [length - (prefix if axis == 0 else 0) for axis, length in enumerate(positions)]
    out = torch.ones(len(mask), *positions, dtype=torch.bool)
    for sample in range(len(mask)):
        for place in itertools.product(*map(range, inner)):
            bins = []
            for axis, length in enumerate(lengths):
                first = place[axis] * length // inner[axis]
                last = -((-(place[axis] + 1) * length) // inner[axis])
                bins.append(range(first, last))
            real = any(bool(mask[(sample, *here)]) for here in itertools.product(*bins))
            moved = (place[0] + prefix, *place[1:]) if place else place
            out[(sample, *moved)] = real
    return out


@st.composite
def fittings(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...], int]:
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    prefix = draw(st.integers(0, 2))
    inner = [draw(st.integers(1, 7)) for _ in lengths]
    more = draw(st.lists(st.integers(1, 3), max_size=3 - len(lengths)))
    batch = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 99))
    mask = torch.rand(batch, *lengths, generator=torch.Generator().manual_seed(seed)) < 0.4
    return mask, (inner[0] + prefix, *inner[1:], *more), prefix


@given(fittings())
def test_a_position_is_real_if_any_real_position_falls_into_it(case: tuple[Tensor, tuple[int, ...], int]) -> None:
    """Masks at uneven lengths, of fewer axes and after prefix tokens are as a slow loop has them."""
    mask, positions, prefix = case
    before = mask.clone()
    found = fit_mask(mask, positions, prefix=prefix, owner="x")
    assert found.dtype == torch.bool
    assert tuple(found.shape) == (len(mask), *positions)
    if tuple(mask.shape[1:]) != positions:
        assert torch.equal(found, slow_fit(mask, positions, prefix))
    assert torch.equal(mask, before)


def test_a_mask_of_the_same_positions_is_itself() -> None:
    """What fits is not copied."""
    mask = torch.rand(2, 5, 3) < 0.5
    assert fit_mask(mask, (5, 3), prefix=0, owner="x") is mask


def test_a_mask_of_time_is_the_same_over_height_and_width() -> None:
    """Frames are missing as a whole."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = fit_mask(mask, (3, 2, 4), prefix=0, owner="x")
    assert torch.equal(found, mask[:, :, None, None].expand(2, 3, 2, 4))


def test_a_halved_sequence_keeps_a_position_that_is_half_real() -> None:
    """An odd number of real steps does not lose the last one in a strided layer."""
    mask = torch.tensor([[True, True, True, False, False, False]])
    assert fit_mask(mask, (3,), prefix=0, owner="x").tolist() == [[True, True, False]]


def test_prefix_tokens_are_real() -> None:
    """A class token takes part in the fusion, whatever the mask of the others."""
    mask = torch.tensor([[True, False, False], [False, False, False]])
    found = fit_mask(mask, (5,), prefix=2, owner="x")
    assert found.tolist() == [[True, True, True, False, False], [True, True, False, False, False]]


@pytest.mark.parametrize(("shape", "positions"), [((2, 3, 4), (5,)), ((2,), (5,)), ((2, 3, 4, 5), (3, 4))], ids=str)
def test_a_mask_with_more_axes_than_the_map_is_an_error(shape: tuple[int, ...], positions: tuple[int, ...]) -> None:
    """It says whose mask, both shapes, and what a mask is."""
    with pytest.raises(
        GraftError, match=r"network 'n', layer 'x': a mask .* does not fit a map with positions .*\(B, "
    ):
        fit_mask(torch.ones(shape, dtype=torch.bool), positions, prefix=0, owner="network 'n', layer 'x'")


@pytest.mark.parametrize("prefix", [3, 4])
def test_more_prefix_tokens_than_positions_are_an_error_with_a_name(prefix: int) -> None:
    """A prefix that is longer than the sequence is the user's slip, not a negative size deep in torch."""
    with pytest.raises(GraftError, match="prefix"):
        fit_mask(torch.ones(2, 7, dtype=torch.bool), (3,), prefix=prefix, owner="network 'n', layer 'x'")
