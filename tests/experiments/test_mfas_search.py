"""Protects the search of MFAS: its schedules, what is unfolded and drawn, that it finds what was planted, and resuming."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchmsaf.errors import DataError, FusionInputError
from torchmsaf.experiments.search import FeaturePart, FusionSpace, SearchSettings, Tried, search
from torchmsaf.experiments.search.candidate import Evaluator
from torchmsaf.experiments.search.space import draw
from torchmsaf.experiments.search.surrogate import Surrogate

CLASSES = 6
QUICK = SearchSettings(
    levels=2, iterations=2, sampled=3, epochs=2, batch_size=32, learning_rate=0.02, dropout=0.0, surrogate_epochs=5
)


def part(count: int, seed: int) -> FeaturePart:
    """The class is 3 times what place 1 of b says, plus what place 2 of a says; all else is noise."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (count,), generator=generator)
    a, b = (
        {f"{name}{k}": torch.randn(count, 5, generator=generator) for k in range(places)}
        for name, places in (("a", 3), ("b", 2))
    )
    a["a2"][:, :3] += 3 * torch.eye(3)[target % 3]
    b["b1"][:, :2] += 3 * torch.eye(2)[target // 3]
    return FeaturePart([a, b], target)


TRAIN, DEV = part(400, 0), part(200, 1)


# the space


def test_the_article_searches_32_to_the_4() -> None:
    space = FusionSpace((4, 4))
    assert len(space.layers()) == 32
    assert space.size(4) == 32**4
    assert set(space.layers()) == {(i, j, k) for i in range(4) for j in range(4) for k in range(2)}


def test_unfolding_puts_a_layer_behind_the_last_or_in_its_place() -> None:
    space = FusionSpace((2, 1), activations=1)
    assert space.unfold([], 0) == [((0, 0, 0),), ((1, 0, 0),)]
    kept = [((0, 0, 0),), ((1, 0, 0),)]
    assert len(space.unfold(kept, 1)) == 4
    assert all(len(one) == 2 for one in space.unfold(kept, 1))
    both = space.unfold([((0, 0, 0), (1, 0, 0)), ((1, 0, 0), (1, 0, 0))], 0)
    assert both == [((0, 0, 0), (1, 0, 0)), ((1, 0, 0), (1, 0, 0))]  # each once


@pytest.mark.parametrize(("places", "activations"), [((4,), 2), ((4, 0), 2), ((4, 4), 0), ((4, 4), 4)])
def test_a_space_that_cannot_be(places: Any, activations: int) -> None:
    with pytest.raises(FusionInputError):
        FusionSpace(places, activations)


# schedules


def test_the_temperature_starts_at_10_and_falls_after_each_step() -> None:
    chosen = SearchSettings()

    def after(t: int) -> float:
        return (10 - 0.2) * math.exp(-((t + 1) ** 2) / 4**2) + 0.2

    found = [chosen.temperature(iteration, level) for iteration in range(3) for level in range(4)]
    # of each step the temperature that the one before has left: t = 3 * iteration + level
    expected = [10.0] + [after(t) for t in (0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8)]
    assert found == pytest.approx(expected)
    assert found[1] == pytest.approx(9.406, abs=1e-3)


def test_the_learning_rate_restarts_after_epoch_1_and_ends_after_epoch_3() -> None:
    chosen = SearchSettings()
    assert [chosen.rate(epoch) for epoch in (0, 1)] == [1e-3, 1e-3]
    assert chosen.rate(0.5) == pytest.approx((1e-3 + 1e-6) / 2)
    assert chosen.rate(2) == pytest.approx((1e-3 + 1e-6) / 2)  # half of the second period, which is twice as long
    assert chosen.rate(0.999999) == pytest.approx(1e-6, rel=1e-3)
    assert chosen.rate(2.999999) == pytest.approx(1e-6, rel=1e-3)
    assert chosen.rate(3) == 1e-3


def test_the_published_settings() -> None:
    chosen = SearchSettings()
    assert (chosen.levels, chosen.iterations, chosen.sampled, chosen.epochs) == (4, 3, 15, 3)
    assert (chosen.inner, chosen.dropout, chosen.surrogate_epochs) == (16, 0.5, 50)


@pytest.mark.parametrize(
    "change",
    [
        *({name: 0} for name in ("levels", "iterations", "sampled", "epochs", "batch_size", "inner", "decay")),
        {"learning_rate": math.nan},
        {"least_rate": 1.0},
        {"dropout": 1.0},
        {"last_temperature": 0.0},
        {"share": "yes"},
        {"seed": -1},
        {"seed": 0.5},
        {"batch_size": 1, "batch_norm": True},
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(FusionInputError, match=next(iter(change))):
        SearchSettings(**change)


# drawing and guessing


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_one_is_drawn_in_proportion_to_its_accuracy_to_the_power_of_1_over_the_temperature(temperature: float) -> None:
    accuracies, random, draws = [0.2, 0.4, 0.8], np.random.default_rng(0), 20_000
    counts = np.bincount([draw(accuracies, 1, temperature, random)[0] for _ in range(draws)], minlength=3)
    powers = np.asarray(accuracies) ** (1 / temperature)
    np.testing.assert_allclose(counts / draws, powers / powers.sum(), atol=0.01)


def test_nothing_is_drawn_twice_and_all_if_there_are_no_more() -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 3, 9):
        drawn = draw([0.0, 0.5, 1.0], count, 0.2, random)
        assert len(drawn) == len(set(drawn)) == min(count, 3)
    assert all(draw([0.5, 0.9, 0.1], 1, 0.01, random) == [1] for _ in range(50))


def test_a_surrogate_learns_an_order_over_lengths() -> None:
    torch.manual_seed(0)
    surrogate, layers = Surrogate(3, learning_rate=1e-2), FusionSpace((4, 4)).layers()
    assert torch.equal(surrogate.embed.bias, torch.full((100,), 1.8))
    assert surrogate.embed.weight.abs().max() <= 0.1
    short = {(one,): 0.2 + 0.2 * one[0] for one in layers}
    long = {(one, layers[-1]): 0.1 + 0.1 * one[1] for one in layers}
    first = surrogate.learn({**short, **long}, 1)
    last = surrogate.learn({**short, **long}, 200)
    assert last < 0.05 * first
    for tried in (short, long):
        guessed = surrogate.predict(list(tried))
        assert np.corrcoef(guessed, list(tried.values()))[0, 1] > 0.95
    mixed = [*list(short)[:2], *list(long)[:2], list(short)[5]]
    assert surrogate.predict(mixed) == pytest.approx([surrogate.predict([one])[0] for one in mixed], abs=1e-6)


# the search


def test_it_finds_what_was_planted_and_the_same_for_the_same_seed() -> None:
    seen: list[Tried] = []
    found = search(TRAIN, DEV, classes=CLASSES, settings=QUICK, report=seen.append)
    for _, step in itertools.groupby(seen, key=lambda one: (one.iteration, one.level)):
        numbers = [(one.number, one.of) for one in step]
        assert numbers == [(k + 1, len(numbers)) for k in range(len(numbers))]
    assert tuple(seen) == found.tried
    assert found.best[0][:2] == (2, 1)
    assert found.ranked()[0][1] > 0.9
    worst = found.ranked()[-1][1]
    assert worst < 0.5
    # all 12 layers at first, then so many a step, each once
    assert [len([one for one in seen if (one.iteration, one.level) == at]) for at in ((0, 0), (0, 1), (1, 0))] == [
        12,
        3,
        3,
    ]
    assert [one.predicted is None for one in seen] == [True] * 12 + [False] * 9
    assert {len(one.architecture) for one in seen if one.iteration == 1} == {2}
    assert search(TRAIN, DEV, classes=CLASSES, settings=QUICK) == found
    assert search(TRAIN, DEV, classes=CLASSES, settings=replace(QUICK, seed=1)).tried != found.tried


def test_a_search_draws_nothing_that_others_draw() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    search(TRAIN, DEV, classes=CLASSES, settings=replace(QUICK, levels=1, iterations=1))
    assert torch.equal(torch.rand(3), expected)


def test_the_result_is_plain_data() -> None:
    found = search(TRAIN, DEV, classes=CLASSES, settings=replace(QUICK, levels=1, iterations=1))
    plain = json.loads(json.dumps(found.plain()))
    assert plain["best"] in ("2-1-0", "2-1-1")
    assert plain["places"] == [["a0", "a1", "a2"], ["b0", "b1"]]
    assert plain["settings"]["sampled"] == 3
    assert [one["accuracy"] for one in plain["tried"]] == [one.accuracy for one in found.tried]


def test_of_equals_the_one_with_fewer_layers_is_the_best() -> None:
    found = search(TRAIN, DEV, classes=CLASSES, settings=replace(QUICK, levels=1, iterations=1))
    long, short = (Tried(((0, 0, 0),) * n, 0.5, None, 0, 0, 1, 1) for n in (2, 1))
    assert replace(found, tried=(long, short)).best == short.architecture


def test_shared_layers_start_from_where_they_were_left() -> None:
    evaluator = Evaluator(TRAIN, DEV, CLASSES, replace(QUICK, share=True, epochs=1))
    one, other = ((2, 1, 0),), ((2, 1, 0), (2, 1, 0))
    first, again = evaluator.accuracy(one), evaluator.accuracy(one)
    assert again > first
    assert set(evaluator.shared) == {(0, 10, 0)}
    evaluator.accuracy(other)
    assert set(evaluator.shared) == {(0, 10, 0), (1, 26, 0)}
    alone = Evaluator(TRAIN, DEV, CLASSES, replace(QUICK, epochs=1))
    assert alone.accuracy(one) == alone.accuracy(one) == first
    assert not alone.shared


def test_a_last_batch_of_one_is_left_out_with_batch_norm() -> None:
    short = FeaturePart([{name: x[:33] for name, x in own.items()} for own in TRAIN.features], TRAIN.target[:33])
    accuracy = Evaluator(short, DEV, CLASSES, replace(QUICK, batch_norm=True)).accuracy(((2, 1, 0),))
    assert 0 <= accuracy <= 1


def test_a_search_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = tmp_path / "search.json", search(TRAIN, DEV, classes=CLASSES, settings=QUICK)
    trained: list[Any] = []
    accuracy = Evaluator.accuracy

    def counting(self: Evaluator, architecture: Any) -> float:
        if len(trained) == 14:
            raise KeyboardInterrupt
        trained.append(architecture)
        return accuracy(self, architecture)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "accuracy", counting)
        with pytest.raises(KeyboardInterrupt):
            search(TRAIN, DEV, classes=CLASSES, settings=QUICK, record=path)
        trained.clear()
        assert search(TRAIN, DEV, classes=CLASSES, settings=QUICK, record=path) == whole
        assert len(trained) == len({one.architecture for one in whole.tried}) - 14
        trained.clear()
        assert search(TRAIN, DEV, classes=CLASSES, settings=QUICK, record=path) == whole
        assert not trained
    assert [file.name for file in tmp_path.iterdir()] == ["search.json"]
    for change, said in ((replace(QUICK, seed=1), r"of another search \(settings\.seed: 0 there, 1 now\)"),):
        with pytest.raises(DataError, match=said):
            search(TRAIN, DEV, classes=CLASSES, settings=change, record=path)
    with pytest.raises(DataError, match=r"of another search \(data\.dev"):
        search(TRAIN, part(200, 2), classes=CLASSES, settings=QUICK, record=path)
    with pytest.raises(FusionInputError, match="leave out record, or share"):
        search(TRAIN, DEV, classes=CLASSES, settings=replace(QUICK, share=True), record=path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "cannot be read as JSON"), ("[]", "not the file of a search"), ("{}", "it has no 'search'")],
)
def test_a_file_that_is_no_record(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"other\.json: {said}|{said}"):
        search(TRAIN, DEV, classes=CLASSES, settings=QUICK, record=path)
    assert path.read_text() == text


def changed(place: str, value: torch.Tensor) -> FeaturePart:
    return FeaturePart([{**TRAIN.features[0], place: value}, TRAIN.features[1]], TRAIN.target)


WRONG: dict[str, tuple[FeaturePart, FeaturePart, str]] = {
    "one modality less": (TRAIN, FeaturePart(DEV.features[:1], DEV.target), "train has 2 modalities and dev 1"),
    "another width": (
        changed("a1", torch.zeros(400, 4)),
        DEV,
        r"modality 0: train has .*a1 \(4,\).* and dev .*a1 \(5,\)",
    ),
    "another order": (
        FeaturePart([dict(reversed(TRAIN.features[0].items())), TRAIN.features[1]], TRAIN.target),
        DEV,
        "modality 0: train has a2",
    ),
    "fewer rows": (changed("a1", torch.zeros(399, 5)), DEV, r"train: 'a1' of modality 0: expected float32 \(400, C\)"),
    "float64": (changed("a1", torch.zeros(400, 5).double()), DEV, "train: 'a1' of modality 0: expected float32"),
    "NaN": (changed("a1", torch.full((400, 5), math.nan)), DEV, "train: 'a1' of modality 0 holds values that are not"),
    "a class too far": (TRAIN, FeaturePart(DEV.features, DEV.target + 1), "dev: class indices go from 0 to 5, got 6"),
    "classes of another type": (TRAIN, FeaturePart(DEV.features, DEV.target.float()), "dev: expected class indices"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_parts_that_do_not_fit(wrong: str) -> None:
    train, dev, said = WRONG[wrong]
    with pytest.raises(DataError, match=said):
        search(train, dev, classes=CLASSES, settings=QUICK)
