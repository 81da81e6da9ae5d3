"""Protects what all published models share: how inputs are read, what comes out of that, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems import System

SHAPES = {"video": (3, 4), "audio": (2,), "text": (1, 5)}


class Reading(System):
    """Keeps what it is given."""

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        self.got = steps, masks, present
        return Fused(steps["audio"].sum((1, 2))[:, None], own_loss=torch.tensor(2.0))


class Any2(Reading):
    needs = ()


class Absolute(Reading):
    absolute_error = True


def read(system: Reading) -> tuple[list[Tensor], Tensor, list[Tensor | None]]:
    inputs = [torch.randn(3, 3, 4), torch.randn(3, 2), torch.tensor([[[4.0, 2, 1, 7, 7]]] * 3)]
    present = torch.tensor([[True, True, True], [False, True, True], [True, False, True]])
    lengths: list[Tensor | None] = [torch.tensor([2, 3, 4]), None, torch.tensor([3, 5, 0])]
    system(inputs, present, lengths)
    return inputs, present, lengths


def test_steps_are_batch_time_width_with_zeros_where_nothing_is() -> None:
    system = Reading(SHAPES, 1, tokens={"text": 8})
    with torch.no_grad():
        system.words[0].vectors.weight[0] = 5.0  # padding is zeros whatever its number stands for
    inputs, _, _ = read(system)
    steps, masks, present = system.got
    assert {name: tuple(x.shape) for name, x in steps.items()} == {
        "video": (3, 4, 3),
        "audio": (3, 1, 2),
        "text": (3, 5, 300),
    }
    assert torch.equal(steps["video"][0, :2], inputs[0][0, :, :2].T)
    assert not steps["video"][0, 2:].any()
    assert not steps["video"][1].any()
    assert torch.equal(steps["video"][2], inputs[0][2].T)
    assert torch.equal(steps["audio"][:2, 0], inputs[1][:2])
    assert not steps["audio"][2].any()
    assert torch.equal(steps["text"][0, :3], system.words[0].vectors.weight[[4, 2, 1]])
    assert not steps["text"][0, 3:].any()
    assert masks["video"].tolist() == [[True, True, False, False], [False] * 4, [True] * 4]
    assert masks["audio"].tolist() == [[True], [True], [False]]
    assert {name: x.tolist() for name, x in present.items()} == {
        "video": [True, False, True],
        "audio": [True, True, False],
        "text": [True, True, False],  # a length of 0
    }


def test_the_default_loss_is_the_tasks_and_the_models_own() -> None:
    target, prediction = torch.tensor([1.0, -2.0]), torch.tensor([[0.5], [3.0]])
    system, absolute = Reading(SHAPES, 1, tokens={"text": 8}), Absolute(SHAPES, 1, tokens={"text": 8})
    own = torch.tensor(0.25)

    def squared(y: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(y[:, 0], t)

    assert system.training_loss(Fused(prediction), target, None, squared).item() == (0.5**2 + 5**2) / 2
    assert system.training_loss(Fused(prediction, own_loss=own), target, None, squared).item() == 12.625 + 0.25
    assert absolute.training_loss(Fused(prediction, own_loss=own), target, None, squared).item() == 5.5 / 2 + 0.25
    classes = Absolute(SHAPES, 2, kind="classification", tokens={"text": 8})
    logits, labels = torch.randn(2, 2), torch.tensor([0, 1])
    assert classes.training_loss(Fused(logits), labels, None, F.cross_entropy) == F.cross_entropy(logits, labels)


def test_a_model_of_any_modalities_takes_two_or_more() -> None:
    assert Any2({"a.b": (3, 2), "keys": (4,)}, 1, tokens={}).modalities == ("a.b", "keys")
    assert Any2({"a.b": (1, 2), "keys": (4,)}, 1, tokens={"a.b": 9}).widths == {"a.b": 300, "keys": 4}
    with pytest.raises(FusionInputError, match="it fuses two modalities or more, got 'a'"):
        Any2({"a": (3, 2)}, 1)


@pytest.mark.parametrize(
    ("shapes", "options", "said"),
    [
        (
            {"video": (3, 4), "text": (5, 4)},
            {},
            "made of the modalities 'text', 'audio', 'video', by these names, got 'vi",
        ),
        ({**SHAPES, "depth": (3,)}, {}, "by these names, got 'video', 'audio', 'text', 'depth'"),
        (
            {**SHAPES, "video": (3, 4, 5)},
            {},
            r"modality 'video': expected a vector .* or a sequence .*, got \(3, 4, 5\)",
        ),
        ({**SHAPES, "video": (3, 0)}, {}, r"modality 'video': expected a vector"),
        (
            {**SHAPES, "text": (2, 4)},
            {"tokens": {"text": 9}},
            r"'text': word numbers are \(1, T\) a sample, got \(2, 4\)",
        ),
        (SHAPES, {"tokens": {"words": 9}}, "tokens: 'words' is none of the modalities 'video', 'audio', 'text'"),
        (SHAPES, {"kind": "ranking"}, "kind is 'classification', 'regression' or 'sentiment', got 'ranking'"),
        (SHAPES, {"outputs": 0}, "outputs: expected an integer of at least 1, got 0; the number of classes"),
    ],
)
def test_says_what_it_cannot_be_built_of(shapes: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        Reading(shapes, options.pop("outputs", 1), **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({0: None}, "modality 'video': expected a tensor, got NoneType"),
        (
            {0: torch.zeros(2, 4, 3)},
            r"modality 'video': expected \(2, 3\) or \(2, 3, T\), got \(2, 4, 3\); channels come",
        ),
        ({1: torch.zeros(3, 2)}, r"modality 'audio': expected \(2, 2\) or \(2, 2, T\), got \(3, 2\)"),
        ({2: torch.zeros(2, 1, 0)}, r"modality 'text': expected .*, got \(2, 1, 0\)"),
    ],
)
def test_says_which_input_is_wrong(change: dict[int, Any], said: str) -> None:
    inputs: list[Any] = [torch.zeros(2, 3, 4), torch.zeros(2, 2), torch.zeros(2, 1, 5)]
    for m, value in change.items():
        inputs[m] = value
    with pytest.raises(FusionInputError, match=said):
        Reading(SHAPES, 1)(inputs)


def test_says_what_is_wrong_with_counts_presence_and_lengths() -> None:
    system = Reading(SHAPES, 1)
    inputs = [torch.zeros(2, 3, 4), torch.zeros(2, 2), torch.zeros(2, 1, 5)]
    with pytest.raises(FusionInputError, match="expected the inputs of video, audio, text, in that order, got 2"):
        system(inputs[:2])
    with pytest.raises(FusionInputError, match=r"present: expected booleans \(B, M\) = \(2, 3\)"):
        system(inputs, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(FusionInputError, match="lengths: expected one entry a modality, 3 in all, got 1"):
        system(inputs, None, [None])
    with pytest.raises(
        FusionInputError, match=r"lengths of 'text': expected whole numbers \(2,\), 0 to 5, got torch.float"
    ):
        system(inputs, None, [None, None, torch.tensor([1.0, 2.0])])
    with pytest.raises(
        FusionInputError, match=r"lengths of 'video': expected whole numbers \(2,\), 0 to 4, got torch.int"
    ):
        system(inputs, None, [torch.tensor([1]), None, None])
