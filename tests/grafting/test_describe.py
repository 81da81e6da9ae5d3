"""The table of layers that can be fused."""

import io

import pytest
import torch
from torch import nn

from torchmsaf import MSAF, FusionPoint, GraftError, graft
from torchmsaf.grafting import candidates, describe


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.conv(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.rnn = nn.LSTM(3, 8, batch_first=True)
        self.never = nn.Linear(2, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(block(x))
        return self.rnn(x.flatten(2).transpose(1, 2))[0][:, -1]


EXAMPLE = {"image": torch.randn(2, 3, 4, 6)}


def test_every_layer_that_ran_is_there_with_shape_layout_and_calls():
    found = {one.layer: (one.kind, one.shape, one.layout, one.calls) for one in candidates({"image": Net()}, EXAMPLE)}
    assert found == {
        "blocks.0.conv": ("Conv2d", (2, 3, 4, 6), "BCHW", 2),
        "blocks.0.act": ("ReLU", (2, 3, 4, 6), "BCHW", 2),
        "blocks.0": ("Block", (2, 3, 4, 6), "BCHW", 2),
        "blocks.1.conv": ("Conv2d", (2, 3, 4, 6), "BCHW", 2),
        "blocks.1.act": ("ReLU", (2, 3, 4, 6), "BCHW", 2),
        "blocks.1": ("Block", (2, 3, 4, 6), "BCHW", 2),
        "rnn": ("LSTM", (2, 24, 8), "BTC", 1),
        "": ("Net", (2, 8), "BC", 1),
    }


def test_the_table_is_printed_and_says_what_it_leaves_out(capsys):
    describe({"image": Net()}, EXAMPLE, depth=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image"
    assert lines[1].split() == ["layer", "class", "output", "layout", "calls", "point"]
    assert lines[2].split() == ["blocks.0", "Block", "(2,", "3,", "4,", "6)", "BCHW", "2"]
    assert lines[-1] == "  and 4 layers further in: depth=None shows them"
    describe({"image": Net()}, EXAMPLE, depth=None)
    assert "blocks.1.conv" in capsys.readouterr().out


def test_a_grafted_model_shows_its_points_whatever_the_depth():
    model = graft({"image": Net()}, [FusionPoint({"image": "rnn"})], example=EXAMPLE)
    out = io.StringIO()
    model.describe(depth=0, file=out)
    assert [line.split()[-1] for line in out.getvalue().splitlines() if " LSTM " in line] == ["0"]


def test_without_an_example_there_is_nothing_to_show():
    model = graft({"image": Net()}, [FusionPoint({"image": "rnn"}, MSAF((8,)))])
    with pytest.raises(GraftError, match="no example at graft time"):
        model.describe()
    with pytest.raises(GraftError, match="example is one input for each of image"):
        describe({"image": Net()}, {"video": 1})
