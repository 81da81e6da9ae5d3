"""Protects the pose image: its walk and its pixels, persons and samples that are absent, and that it learns."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchmsaf.data.ntu import BONES
from torchmsaf.errors import FusionInputError
from torchmsaf.tasks import training
from torchmsaf.tasks.batches import Part
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec, load_model, model_bytes
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe
from torchmsaf.tasks.systems import create_system, find_system
from torchmsaf.tasks.systems.pose_image import PoseImage, tour, walk_weights

SHAPE = (3, 6, 25, 2)
SMALL: dict[str, Any] = {"size": 16, "widths": (4, 6, 8, 8), "dropout": 0.0}


def build(shapes: dict[str, tuple[int, ...]] | None = None, **options: Any) -> PoseImage:
    torch.manual_seed(5)
    system = create_system(
        "pose_image", shapes or {"skeleton": SHAPE}, 4, kind="classification", **{**SMALL, **options}
    )
    assert isinstance(system, PoseImage)
    return system


def test_the_walk_goes_along_every_bone_there_and_back() -> None:
    assert tour(((1, 0), (2, 1), (3, 1)), 4) == (0, 1, 2, 1, 3, 1, 0)
    walk = tour(BONES, 25)
    steps = list(itertools.pairwise(walk))
    assert len(steps) == 48
    assert sorted(steps) == sorted([*BONES, *((b, a) for a, b in BONES)])


def test_points_divide_a_limb_evenly() -> None:
    weights = walk_weights((0, 1, 2), 3, 2)
    assert weights.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]


def test_pixels_are_coordinates_of_points_scaled_by_the_clip() -> None:
    bones, points = ((1, 0), (2, 1)), 2  # 4 limbs of 2 points, and the last joint: 9 rows a person
    system = build({"skeleton": (3, 18, 3, 2)}, bones=bones, points=points, size=18)
    x = torch.randn(2, 3, 18, 3, 2)
    found = system.image(x)
    assert found.shape == (2, 3, 18, 18)
    walk = (0, 1, 2, 1, 0)
    for b in range(2):
        for c in range(3):
            low, high = x[b, c].min(), x[b, c].max()
            for person in range(2):
                rows = []
                for here, there in itertools.pairwise(walk):
                    rows += [x[b, c, :, here, person], (x[b, c, :, here, person] + x[b, c, :, there, person]) / 2]
                rows.append(x[b, c, :, 0, person])
                expected = (torch.stack(rows) - low) / (high - low)
                torch.testing.assert_close(found[b, c, 9 * person : 9 * person + 9], expected, atol=1e-5, rtol=1e-5)


def test_where_a_body_stands_and_how_large_it_is_change_nothing() -> None:
    system, x = build(), torch.randn(2, *SHAPE)
    move = torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(system.image(3 * x + move), system.image(x), atol=1e-5, rtol=1e-4)


def test_an_absent_person_is_black_and_scales_nothing() -> None:
    system = build(bones=BONES, size=48)
    x = torch.randn(2, *SHAPE)
    x[0, ..., 1] = math.nan
    found = system.image(x, torch.tensor([[True, False], [True, True]]))
    alone = x.clone()
    alone[0, ..., 1] = 1e6
    assert torch.equal(found, system.image(alone, torch.tensor([[True, False], [True, True]])))
    assert not found[0, :, 26:].any()
    assert found[0, :, :22].max() > 0.5
    still = system.image(torch.ones(1, *SHAPE))
    assert not still.any()
    assert still.isfinite().all()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
def test_what_is_absent_changes_nothing_and_has_no_gradient(junk: float, train: bool) -> None:
    first = build({"rgb": (3, 4, 8, 8), "skeleton": SHAPE}).train(train)
    x, frames = torch.randn(5, *SHAPE), torch.full((5, 3, 4, 8, 8), junk)
    present = torch.tensor([[True, True]] * 3 + [[True, False], [False, True]])
    lengths = torch.tensor([2, 1, 2, 0, 1])
    real = (torch.arange(2) < lengths[:, None]) & present[:, 1, None]
    results = []
    for value in (0.0, junk):
        system = copy.deepcopy(first)
        leaf = torch.where(real[:, None, None, None], x, value).requires_grad_()
        logits = system([frames, leaf], present, [None, lengths]).prediction
        F.cross_entropy(logits, torch.arange(5) % 4).backward()
        assert leaf.grad is not None
        assert not leaf.grad.permute(0, 4, 1, 2, 3)[~real].any()
        assert not logits[3].any()
        results.append([logits, leaf.grad, *(p.grad for p in system.parameters()), *system.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(y.isfinite().all() for y in results[0])


def test_a_row_is_predicted_as_if_it_were_alone_and_with_its_persons_alone() -> None:
    system = build().double().eval()
    x, lengths = torch.randn(4, *SHAPE, dtype=torch.float64), torch.tensor([1, 2, 1, 2])
    together = system([x], None, [lengths]).prediction
    for i in range(4):
        one = system([x[i : i + 1]], None, [lengths[i : i + 1]]).prediction
        torch.testing.assert_close(one, together[i : i + 1])
    torch.testing.assert_close(system([x], torch.ones(4, 1, dtype=torch.bool)).prediction, system([x]).prediction)


@pytest.mark.parametrize("absent", [1, 2, 3])
def test_few_or_no_rows_with_a_skeleton_train(absent: int) -> None:
    system = build().train()
    present = torch.arange(3)[:, None] >= absent
    loss = F.cross_entropy(system([torch.randn(3, *SHAPE)], present).prediction, torch.arange(3))
    loss.backward()
    assert loss.isfinite()
    assert all(layer.training for layer in system.modules())


def test_two_coordinates_and_other_joints() -> None:
    system = build({"skeleton": (2, 6, 5, 1)}, bones=[[1, 0], [2, 1], [3, 1], [4, 1]])
    assert not system.image(torch.randn(2, 2, 6, 5, 1))[:, 2].any()
    assert system([torch.randn(2, 2, 6, 5, 1)]).prediction.shape == (2, 4)


def test_without_values_for_its_size_alone() -> None:
    with torch.device("meta"):
        assert build()([torch.zeros(2, *SHAPE)]).prediction.shape == (2, 4)


def test_vgg_is_that_of_torchvision() -> None:
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        system = build(network="vgg19", size=224)
        assert system([torch.zeros(2, *SHAPE)]).prediction.shape == (2, 4)
    assert sum(p.numel() for p in system.parameters()) == 143_667_240 - 4097 * 1000 + 4097 * 4


def test_it_learns_which_joint_moves(tmp_path: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(48) % 4
    x = 0.05 * torch.randn(48, *SHAPE, generator=generator) + torch.randn(25, 1, generator=generator)
    for n, label in enumerate(target.tolist()):
        x[n, :, :, (3, 7, 11, 15)[label]] += torch.linspace(-2, 2, 6)[:, None]
    lengths: tuple[Tensor | None, ...] = (torch.ones(48, dtype=torch.int64),)
    samples = Part((x,), target, torch.ones(48, 1, dtype=torch.bool), lengths=lengths)
    system = build(size=32)
    recipe = Recipe(epochs=12, patience=12, batch_size=8, learning_rate=1e-2)
    done = training.train(system, samples, samples, Objective("classification", 4), recipe, order_seed=1)
    assert done.validation["accuracy"] > 0.9
    options = {**SMALL, "size": 32, "widths": [4, 6, 8, 8]}
    spec = ModelSpec({"skeleton": NetworkSpec(SHAPE)}, "pose_image", 4, options=options)
    path = tmp_path / "m.safetensors"
    path.write_bytes(model_bytes(system.state_dict(), spec))
    again, said = load_model(path)
    assert said.method == "pose_image"
    assert torch.equal(training.predict(again, samples), training.predict(system, samples))


def test_it_takes_a_skeleton_whatever_else_is_there() -> None:
    entry = find_system("pose_image")
    assert entry.takes(("rgb", "skeleton"))
    assert entry.takes(("skeleton",))
    assert not entry.takes(("rgb", "audio"))
    assert not entry.takes(())


@pytest.mark.parametrize(
    ("shapes", "options", "said"),
    [
        ({"rgb": (3, 4)}, {}, "it is made of the modality 'skeleton', by this name, got 'rgb'"),
        (
            {"skeleton": (3, 6, 25)},
            {},
            r"'skeleton': expected skeletons \(C, T, V, S\), persons last, a sample, got \(3, 6",
        ),
        ({"skeleton": (3, 6, 17, 2)}, {}, "these skeletons have 17: give bones"),
        ({"skeleton": SHAPE}, {"points": 0}, "points: expected an integer of at least 1"),
        ({"skeleton": SHAPE}, {"size": 8}, "size is 16 or more, got 8"),
        ({"skeleton": SHAPE}, {"persons": 0}, "persons: expected an integer of at least 1"),
        ({"skeleton": SHAPE}, {"network": "vgg"}, "network is 'small' or 'vgg19', got 'vgg'"),
        ({"skeleton": SHAPE}, {"widths": (4, 4)}, "widths are those of four layers"),
        ({"skeleton": SHAPE}, {"bones": [[0, 25]]}, "bones are pairs of two joints from 0 to 24"),
        ({"skeleton": SHAPE}, {"bones": [3]}, "bones are pairs of two joints"),
        ({"skeleton": SHAPE}, {"bones": 5}, "bones are pairs of two joints"),
        ({"skeleton": SHAPE}, {"bones": [[1, 0], [2, 2]]}, "bones are pairs of two joints"),
        ({"skeleton": SHAPE}, {"bones": [[0, 1], [2, 3]]}, "no way leads from joint 1 to joint 2"),
    ],
)
def test_says_what_it_cannot_be_built_of(shapes: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=f"^pose_image: .*{said}"):
        build(shapes, **options)


def test_says_which_input_is_wrong() -> None:
    system, x = build(), torch.zeros(2, *SHAPE)
    with pytest.raises(FusionInputError, match="expected the inputs of skeleton, in that order, got 2"):
        system([x, x])
    with pytest.raises(FusionInputError, match=r"'skeleton': expected \(B, 3, 6, 25, 2\), got \(2, 3, 6, 25, 1\)"):
        system([x[..., :1]])
    with pytest.raises(FusionInputError, match="lengths: expected one entry a modality, 1 in all, got 2"):
        system([x], None, [None, None])
    with pytest.raises(FusionInputError, match=r"lengths of 'skeleton': expected whole numbers \(2,\), 0 to 2"):
        system([x], None, [torch.tensor([3.0, 1])])
    with pytest.raises(FusionInputError, match=r"present: expected booleans \(B, M\) = \(2, 1\)"):
        system([x], torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(FusionInputError, match=r"pose_image: it is not for regression"):
        create_system("pose_image", {"skeleton": SHAPE}, 1, kind="regression")
