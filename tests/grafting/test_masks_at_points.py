"""Protects masks: of the networks' inputs, brought to the maps at each point, and handed to the fusion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from torchmsaf.errors import GraftError, TorchmsafError
from torchmsaf.grafting import FusionPoint, Tap, graft
from torchmsaf.msaf import MSAF

ROWS = 3


def real(*lengths: int, steps: int) -> Tensor:
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


class Strided(nn.Module):
    """Halves the steps twice: ``(B, 2, T)`` to T, T / 2 and T / 4."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, width, 3, padding=1)
        self.two = nn.Conv1d(width, width, 2, stride=2)
        self.four = nn.Conv1d(width, width, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.four(self.two(self.conv(x)))


class Noting:
    """A fusion that takes masks, notes them, and changes nothing."""

    def __init__(self) -> None:
        self.masks: list[Any] = []

    def __call__(self, maps: list[Tensor], masks: Any = None) -> list[Tensor]:
        self.masks.append(masks)
        return maps


def test_msaf_gets_the_mask_at_the_positions_of_each_map() -> None:
    """At each point as a call of the same modules by hand, with masks made by hand."""
    a, b = Strided(), Strided()
    points = [FusionPoint(dict.fromkeys("ab", layer), MSAF((8, 8))) for layer in ("conv", "two", "four")]
    x = {"a": torch.randn(ROWS, 2, 13), "b": torch.randn(ROWS, 2, 8)}
    masks = {"a": real(13, 5, 2, steps=13), "b": real(8, 8, 3, steps=8)}
    model = graft({"a": a, "b": b}, points, head=None, example=x).eval()
    found = model(x, masks=masks)
    by_hand = [
        [masks["a"], masks["b"]],
        [
            real(6, 3, 1, steps=6),
            real(4, 4, 2, steps=4),
        ],  # 13 to 6: steps 4 and 5 of the second sample meet in the third
        [real(3, 2, 1, steps=3), real(2, 2, 1, steps=2)],
    ]
    maps = [x["a"], x["b"]]
    for fusion, layer, there in zip(model.fusions, ("conv", "two", "four"), by_hand, strict=True):
        maps = [net.get_submodule(layer)(z) for net, z in zip((a, b), maps, strict=True)]
        maps = fusion(maps, masks=there)
    torch.testing.assert_close(found["a"], maps[0])
    torch.testing.assert_close(found["b"], maps[1])


def test_padding_changes_nothing_that_is_real() -> None:
    """What stands at masked steps, and how many there are, does not reach real ones through the fusion."""
    a, b = nn.Conv1d(2, 8, 1), nn.Conv1d(2, 8, 1)
    x = {"a": torch.randn(ROWS, 2, 6), "b": torch.randn(ROWS, 2, 5)}
    model = graft({"a": a, "b": b}, [FusionPoint({"a": "", "b": ""}, "msaf")], head=None, example=x).eval()
    mask = real(4, 4, 4, steps=6)
    junk = {**x, "a": torch.where(mask[:, None], x["a"], 1e6)}
    found, dirty = (model(values, masks={"a": mask}) for values in (x, junk))
    short = model({**x, "a": x["a"][..., :4]})
    assert torch.equal(found["a"], dirty["a"])
    assert torch.equal(found["b"], dirty["b"])
    torch.testing.assert_close(found["a"][..., :4], short["a"])
    torch.testing.assert_close(found["b"], short["b"])


def seen(tap: str | Tap, network: nn.Module, x: Any, mask: Tensor | None, *, example: bool = True) -> Any:
    """The mask that a fusion gets at one tap."""
    fusion = Noting()
    model = graft({"n": network}, [FusionPoint({"n": tap}, fusion)], head=None, example={"n": x} if example else None)
    model({"n": x}, masks=None if mask is None else {"n": mask})
    return fusion.masks[0]


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("layout", ["BCT", "BTC", "TBC"])
def test_the_positions_of_a_mask_are_those_of_the_layout(layout: str, example: bool) -> None:
    """Whatever the order of the axes, a mask is ``(B, T)``."""
    x, mask = torch.randn([{"B": ROWS, "C": 4, "T": 5}[axis] for axis in layout]), real(5, 2, 1, steps=5)
    found = seen(Tap("", layout=layout), nn.Identity(), x, mask, example=example)
    assert torch.equal(found[0], mask)


def test_a_mask_of_an_image_with_channels_last() -> None:
    """Height and width in their order."""
    x, mask = torch.randn(ROWS, 4, 6, 5), torch.rand(ROWS, 4, 6) < 0.5
    assert torch.equal(seen(Tap("", layout="BHWC"), nn.Identity(), x, mask)[0], mask)
    halved = seen(Tap("", layout="BHWC"), nn.Identity(), x[:, ::2, ::2], mask)[0]
    assert torch.equal(halved, mask.unflatten(1, (2, 2)).unflatten(3, (3, 2)).any(4).any(2))


def test_a_mask_of_time_alone_fits_a_map_of_frames() -> None:
    """``(B, T)`` on ``(B, C, T, H, W)`` is the same for all of a frame, also where the frames are fewer."""
    mask = real(8, 3, 1, steps=8)
    x = torch.randn(ROWS, 1, 8, 4, 4)
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 2, stride=2))
    whole, halved = (seen(layer, network, x, mask)[0] for layer in ("0", "1"))
    assert torch.equal(whole, mask[:, :, None, None].expand(ROWS, 8, 4, 4))
    assert torch.equal(halved, real(4, 2, 1, steps=4)[:, :, None, None].expand(ROWS, 4, 2, 2))


def test_a_mask_of_tokens_leaves_class_tokens_out() -> None:
    """``prefix`` tokens are real, and the mask is of the others."""
    network = nn.ConstantPad1d((2, 0), 0.0)
    found = seen(Tap("", prefix=2), network, torch.randn(ROWS, 4, 5), real(5, 2, 0, steps=5))
    assert torch.equal(found[0], real(7, 4, 2, steps=7))


@pytest.mark.parametrize("lengths", [(5, 3, 1), (1, 5, 3), (2, 2, 2)], ids=str)
def test_the_lengths_of_a_packed_sequence_are_a_mask(lengths: tuple[int, ...]) -> None:
    """In the user's order, without being said."""
    packed = pack_sequence([torch.randn(n, 2) for n in lengths], enforce_sorted=False)
    found = seen("", nn.GRU(2, 4), packed, None)
    assert torch.equal(found[0], real(*lengths, steps=max(lengths)))


def test_msaf_on_packed_sequences_is_msaf_with_masks() -> None:
    """As a call by hand on the padded sequences."""
    lengths = {"a": (2, 5, 3), "b": (4, 1, 4)}
    packed = {
        name: pack_sequence([torch.randn(n, 2) for n in counts], enforce_sorted=False)
        for name, counts in lengths.items()
    }
    networks = {"a": nn.GRU(2, 8), "b": nn.LSTM(2, 8, batch_first=True)}
    model = graft(networks, [FusionPoint({"a": "", "b": ""}, "msaf")], head=None, example=packed).eval()
    padded = {
        name: nn.utils.rnn.pad_packed_sequence(networks[name](packed[name])[0], batch_first=True)[0] for name in "ab"
    }
    masks = [real(*counts, steps=max(counts)) for counts in lengths.values()]
    expected = model.fusions[0]([padded[name].transpose(1, 2) for name in "ab"], masks=masks)
    found = model(packed)
    for name, z in zip("ab", expected, strict=True):
        got = nn.utils.rnn.pad_packed_sequence(found[name][0], batch_first=True)[0]
        torch.testing.assert_close(got, z.transpose(1, 2))


def test_a_mask_that_is_said_comes_before_the_lengths() -> None:
    """Who masks steps inside of a packed sequence is believed."""
    packed = pack_sequence([torch.randn(4, 2), torch.randn(3, 2)])
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    assert torch.equal(seen("", nn.GRU(2, 4), packed, mask)[0], mask)


def test_a_network_without_a_mask_has_none_beside_one_that_has() -> None:
    """One entry a map, in the order of the taps."""
    fusion = Noting()
    x = {name: torch.randn(ROWS, 4, 5) for name in "abc"}
    networks = {name: nn.Identity() for name in "abc"}
    model = graft(networks, [FusionPoint({"c": "", "b": "", "a": ""}, fusion)], head=None, example=x)
    mask = real(5, 2, 1, steps=5)
    model(x, masks={"b": mask, "a": None})
    assert [m is None for m in fusion.masks[0]] == [True, False, True]
    assert torch.equal(fusion.masks[0][1], mask)


def test_without_masks_the_fusion_is_not_given_any() -> None:
    """A fusion that takes them has its own default."""
    assert seen("", nn.Identity(), torch.randn(ROWS, 4, 5), None) is None


def test_the_mask_of_a_missing_network_is_left_out() -> None:
    """It says nothing where nothing is."""
    x = {name: torch.randn(ROWS, 8, 5) for name in "ab"}
    networks = {"a": nn.Identity(), "b": nn.Identity()}
    model = graft(networks, [FusionPoint({"a": "", "b": ""}, "msaf")], head=None, example=x).eval()
    found = model({"a": x["a"], "b": None}, masks={"b": real(5, 2, 1, steps=5)})["a"]
    assert torch.equal(found, model({"a": x["a"], "b": None})["a"])


def test_masks_and_present_together() -> None:
    """As the module has them."""
    x = {"a": torch.randn(ROWS, 8, 5), "b": torch.randn(ROWS, 8, 6)}
    networks = {"a": nn.Identity(), "b": nn.Identity()}
    model = graft(networks, [FusionPoint({"a": "", "b": ""}, "msaf")], head=None, example=x).eval()
    mask, present = real(5, 2, 1, steps=5), torch.tensor([[True, True], [True, False], [False, True]])
    expected = model.fusions[0](list(x.values()), masks=[mask, None], present=present)
    found = model(x, masks={"a": mask}, present=present)
    assert all(torch.equal(found[name], z) for name, z in zip("ab", expected, strict=True))


def test_a_fusion_without_masks_is_an_error_where_one_reaches_it() -> None:
    """It would take padding for content. A packed sequence's own mask is for the fusions that take one."""

    def mix(maps: list[Tensor]) -> list[Tensor]:
        return maps

    x = torch.randn(ROWS, 4, 5)
    words = r"point 0: .*mix has no parameter 'masks', and a mask reaches it; all methods of torchmsaf have it"
    model = graft({"n": nn.Identity()}, [FusionPoint({"n": ""}, mix)], head=None, example={"n": x})
    with pytest.raises(GraftError, match=words):
        model({"n": x}, masks={"n": real(5, 2, 1, steps=5)})
    assert model({"n": x})["n"].shape == x.shape
    assert model({"n": x}, masks={"n": None})["n"].shape == x.shape
    packed = pack_sequence([torch.randn(3, 2)])
    steps = graft({"n": nn.GRU(2, 4)}, [FusionPoint({"n": ""}, mix)], head=None)({"n": packed})["n"][0]
    assert steps.data.shape == (3, 4)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(ROWS, 5), r"booleans.*torch\.float32"),
        (torch.ones(ROWS, 9), r"booleans.*torch\.float32"),
        (torch.ones(ROWS, 5).long(), r"booleans.*torch\.int64"),
        (torch.ones(ROWS, 9).long(), r"booleans.*torch\.int64"),
        (torch.zeros(ROWS, 9).fill_(float("-inf")), r"booleans.*torch\.float32"),
        ([[True] * 5] * ROWS, r"booleans.*list"),
        (True, r"booleans.*bool"),
        (torch.ones(2, 5).bool(), r"\(3, 5\).*\(2, 5\)"),
        (torch.ones(1, 9).bool(), r"(\(3, 5\)|3).*\(1, "),
        (torch.ones(ROWS).bool(), r"network 'n', layer '': a mask \(3,\) does not fit a map with positions \(5,\)"),
        (torch.ones(ROWS, 5, 2).bool(), r"network 'n', layer '': a mask \(3, 5, 2\) does not fit a map with positions"),
    ],
    ids=[
        "floats", "floats resampled", "integers", "integers resampled", "added to scores", "list", "bool", "samples",
        "one sample", "no positions", "too many axes",
    ],
)  # fmt: skip
def test_what_is_no_mask_of_the_input_is_an_error_wherever_it_is_used(mask: Any, words: str) -> None:
    """The type of a mask is not guessed, and whether it is resampled makes no difference; the network is named."""
    x = torch.randn(ROWS, 8, 5)
    model = graft({"n": nn.Identity()}, [FusionPoint({"n": ""}, "msaf")], head=None, example={"n": x}).eval()
    with pytest.raises(TorchmsafError, match=words) as raised:
        model({"n": x}, masks={"n": mask})
    assert "'n'" in str(raised.value)


@pytest.mark.parametrize(
    "masks", [torch.ones(ROWS, 5).bool(), [torch.ones(ROWS, 5).bool()], "n", 3], ids=["tensor", "list", "string", "int"]
)
def test_masks_that_are_no_dict_are_an_error_that_says_what_they_are(masks: Any) -> None:
    """Masks are by network, as inputs are; the message is short and has no numbers of a tensor."""
    x = torch.randn(ROWS, 8, 5)
    model = graft({"n": nn.Identity()}, [FusionPoint({"n": ""}, "msaf")], head=None, example={"n": x}).eval()
    with pytest.raises(GraftError, match=rf"^masks is a dict by network.*got {type(masks).__name__}"):
        model({"n": x}, masks=masks)


def test_a_mask_of_an_unknown_network_is_an_error() -> None:
    """A typo does not switch masking off."""
    x = torch.randn(ROWS, 8, 5)
    model = graft({"n": nn.Identity()}, [FusionPoint({"n": ""}, "msaf")], head=None, example={"n": x})
    with pytest.raises(GraftError, match=r"masks: no network 'm'; there are: 'n'"):
        model({"n": x}, masks={"m": real(5, 2, 1, steps=5)})


def test_the_masks_that_are_given_are_not_changed() -> None:
    """The same tensors serve the loss afterwards."""
    x, mask = torch.randn(ROWS, 8, 5), real(9, 4, 1, steps=9)
    before = mask.clone()
    seen("", nn.Identity(), x, mask)
    assert torch.equal(mask, before)
