"""Protects MFM: its memory fusion, decoders, losses and surrogate against one-by-one formulas, and what is made anew."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchmsaf.errors import FusionInputError
from torchmsaf.tasks.systems.discrepancy import discrepancy, gaussian_discrepancy
from torchmsaf.tasks.systems.memory_fusion import MemoryFusion
from torchmsaf.tasks.systems.mfm import MFM, Decoder, keep_some

SHAPES = {"video": (5, 6), "audio": (4, 6), "text": (7, 6)}
NEEDS = ("text", "audio", "video")
SMALL: dict[str, Any] = {
    "hidden": (4, 3, 2),
    "latents": (5, 4, 3),
    "factors": (3, 4, 2),
    "joint": (6, 3),
    "memory": 5,
    "layers": (7, 4, 5, 6),
    "surrogate": 8,
}
NO_DROPOUT: dict[str, Any] = {"layer_dropouts": (0, 0, 0, 0), "dropouts": (0, 0, 0)}


def small(shapes: dict[str, tuple[int, ...]] = SHAPES, outputs: int = 1, **options: Any) -> MFM:
    return MFM(shapes, outputs, **{**SMALL, **options}).double()


def batch(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, *shape, dtype=torch.float64) for shape in SHAPES.values()]


def lstm_step(w: Tensor, u: Tensor, b: Tensor, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (w @ x + u @ h + b).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def cell_step(cell: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return lstm_step(cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh, x, h, c)


def two(net: nn.Sequential, x: Tensor) -> Tensor:
    """FC, ReLU, FC of one vector; no dropout."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    return layers[1].weight @ (layers[0].weight @ x + layers[0].bias).relu() + layers[1].bias


def fusion_by_loop(net: MemoryFusion, steps: dict[str, Tensor], lengths: dict[str, int]) -> Tensor:
    """One sample ``{modality: (T, C)}``, step after step; a modality whose sequence is over stays as it is."""
    h = {m: net.cells[m].weight_hh.new_zeros(net.cells[m].hidden_size) for m in net.cells}
    c = {m: torch.zeros_like(x) for m, x in h.items()}
    u = torch.zeros(net.memory, dtype=torch.float64)
    for t in range(max(lengths.values())):
        before = [c[m] for m in net.cells]
        for m in net.cells:
            if t < lengths[m]:
                h[m], c[m] = cell_step(net.cells[m], steps[m][t], h[m], c[m])
        star = torch.cat([*before, *(c[m] for m in net.cells)])
        attended = two(net.attention, star).exp() / two(net.attention, star).exp().sum() * star
        both = torch.cat([attended, u])
        u = two(net.keep, both).sigmoid() * u + two(net.add, both).sigmoid() * two(net.proposal, attended).tanh()
    return torch.cat([*(h[m] for m in net.cells), u])


LENGTHS = torch.tensor([[6, 6, 6], [1, 4, 2], [3, 0, 5], [0, 0, 0], [2, 2, 1]])


@pytest.mark.parametrize("audio_steps", [6, 3, 9])
def test_memory_fusion_is_the_loop_over_steps(audio_steps: int) -> None:
    widths = {"text": 7, "audio": 4, "video": 5}
    net = MemoryFusion(widths, dict(zip(NEEDS, (4, 3, 2), strict=True)), 5, (7, 4, 5, 6), (0.5, 0.7, 0.5, 0.2))
    net.double().eval()
    total = {"text": 6, "audio": audio_steps, "video": 6}
    steps, masks, ends = {}, {}, {}
    for m, name in enumerate(NEEDS):
        ends[name] = LENGTHS[:, m].clamp(max=total[name])
        masks[name] = torch.arange(total[name]) < ends[name][:, None]
        steps[name] = torch.randn(5, total[name], widths[name], dtype=torch.float64) * masks[name].unsqueeze(2)
    found = net(steps, masks)
    assert found.shape == (5, net.width)
    for i in range(5):
        expected = fusion_by_loop(net, {m: x[i] for m, x in steps.items()}, {m: int(ends[m][i]) for m in NEEDS})
        torch.testing.assert_close(found[i], expected)


def test_gradients_of_memory_fusion_are_those_of_the_loop() -> None:
    net = MemoryFusion({"a": 3, "b": 2}, {"a": 2, "b": 3}, 4, (5, 4, 3, 2), (0, 0, 0, 0)).double()
    steps = {"a": torch.randn(3, 4, 3).double(), "b": torch.randn(3, 4, 2).double()}
    lengths = torch.tensor([4, 2, 1])
    mask = torch.arange(4) < lengths[:, None]
    weights = torch.randn(3, net.width, dtype=torch.float64)
    (net(steps, {"a": mask, "b": mask}) * weights).sum().backward()
    found = [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]
    net.zero_grad()
    rows = [
        fusion_by_loop(net, {m: x[i] for m, x in steps.items()}, dict.fromkeys("ab", int(n)))
        for i, n in enumerate(lengths)
    ]
    (torch.stack(rows) * weights).sum().backward()
    for one, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_decoder_is_fed_its_own_hidden_state(steps: int) -> None:
    net = Decoder(4, 3).double()
    seed = torch.randn(2, 4, dtype=torch.float64)
    found = net(seed, steps)
    assert found.shape == (2, steps, 4)
    for row, states in zip(seed, found, strict=True):
        h = c = torch.zeros(4, dtype=torch.float64)
        x = row
        for state in states:
            h, c = cell_step(net.cell, x, h, c)
            torch.testing.assert_close(state, h)
            x = h


def test_the_discrepancy_is_that_of_all_pairs() -> None:
    g, z = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64) + 1

    def kernel(a: Tensor, b: Tensor) -> float:
        return sum(math.exp(-float(((x - y) ** 2).mean()) / 3) for x in a for y in b) / (len(a) * len(b))

    expected = kernel(g, g) + kernel(z, z) - 2 * kernel(g, z)
    assert float(discrepancy(g, z)) == pytest.approx(expected, rel=1e-9)
    torch.manual_seed(3)
    drawn = torch.randn(5, 3, dtype=torch.float64)
    torch.manual_seed(3)
    torch.testing.assert_close(gaussian_discrepancy(z), discrepancy(drawn, z))


def test_the_discrepancy_is_small_for_normal_vectors_alone_and_zero_for_none() -> None:
    near, far = torch.randn(400, 4), torch.randn(400, 4) * 3 + 2
    assert float(gaussian_discrepancy(near)) < 0.02 < float(gaussian_discrepancy(far))
    empty = torch.zeros(0, 4, requires_grad=True)
    gaussian_discrepancy(empty).backward()
    assert torch.autograd.gradcheck(
        lambda z: discrepancy(torch.ones_like(z), z), torch.randn(3, 2).double().requires_grad_()
    )


def latents_by_loop(net: MFM, x: Tensor, m: str) -> Tensor:
    """z_m of one sequence ``(T, C)``."""
    lstm = net.encoders[m]
    h = c = x.new_zeros(lstm.hidden_size)
    for step in x:
        h, c = lstm_step(lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0, step, h, c)
    return net.latents[m].weight @ h + net.latents[m].bias


def model_by_loop(net: MFM, x: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Prediction, x made anew, z_y and z_m of one complete sample ``{modality: (T, C)}``."""
    z = {m: latents_by_loop(net, x[m], m) for m in NEEDS}
    joint = net.joint.weight @ fusion_by_loop(net.fusion, x, {m: len(x[m]) for m in NEEDS}) + net.joint.bias
    f = two(net.joint_factor, joint).relu()
    made = {}
    for m in NEEDS:
        given = torch.cat([f, two(net.factors[m], z[m]).relu()])
        h = c = torch.zeros_like(given)
        rows = []
        for _ in x[m]:
            h, c = cell_step(net.decoders[m].cell, given, h, c)
            rows.append(net.decoders[m].read.weight @ h + net.decoders[m].read.bias)
            given = h
        made[m] = torch.stack(rows)
    return two(net.head, f), made, joint, z


def test_the_model_is_the_loop_over_samples() -> None:
    net = small(outputs=3).eval()
    inputs, ends = batch(), [torch.tensor([6, 2, 3, 1]), torch.tensor([4, 2, 6, 5]), torch.tensor([6, 5, 1, 3])]
    found, anew = net(inputs, None, ends), net.reconstruct(inputs, None, ends)
    assert found.own_loss is None
    assert list(anew) == list(SHAPES)
    for i in range(4):
        x = {m: inputs[k][i].T[: int(ends[k][i])] for k, m in enumerate(SHAPES)}
        prediction, made, _, _ = model_by_loop(net, x)
        torch.testing.assert_close(found.prediction[i], prediction)
        for k, m in enumerate(SHAPES):
            end = int(ends[k][i])
            torch.testing.assert_close(anew[m][i, :end], made[m])
            assert not anew[m][i, end:].any()


def test_the_loss_is_the_absolute_error_and_the_losses_of_the_model() -> None:
    net = small(**NO_DROPOUT, reconstruction=(5.0, 2.0, 3.0), discrepancy=7.0).train()
    inputs, target = batch(), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    ends = [torch.tensor([6, 2, 3, 1]), torch.tensor([4, 2, 6, 5]), torch.tensor([6, 5, 1, 3])]
    torch.manual_seed(1)
    fused = net(inputs, None, ends)
    loss = net.training_loss(fused, target, None, lambda p, t: (p[:, 0] - t).square().mean())
    samples = [{m: inputs[k][i].T[: int(ends[k][i])] for k, m in enumerate(SHAPES)} for i in range(4)]
    with torch.no_grad():
        found = [model_by_loop(net, x) for x in samples]
    expected = sum(abs(float(p[0]) - float(t)) for (p, *_), t in zip(found, target, strict=True)) / 4
    torch.manual_seed(1)  # the draws, in the order in which the model makes them
    kept = keep_some(torch.ones(4, 3, dtype=torch.bool))
    for m, weight in zip(NEEDS, (5.0, 2.0, 3.0), strict=True):
        wrong = torch.cat([(made[m] - x[m]).flatten() for (_, made, _, _), x in zip(found, samples, strict=True)])
        expected += weight * float(wrong.square().mean())
        expected += 7.0 * float(gaussian_discrepancy(torch.stack([z[m] for *_, z in found])))
    expected += 7.0 * float(gaussian_discrepancy(torch.stack([joint for _, _, joint, _ in found])))
    guesses: dict[str, list[Tensor]] = {name: [] for name in (*NEEDS, "joint")}
    for (_, _, joint, z), flags in zip(found, kept, strict=True):
        seen = torch.cat([*(z[m] * flag for m, flag in zip(NEEDS, flags, strict=True)), flags.double()])
        guesses["joint"].append(two(net.surrogates["joint"], seen) - joint)
        for m, flag in zip(NEEDS, flags, strict=True):
            if not flag:
                guesses[m].append(two(net.surrogates[m], seen) - z[m])
    expected += sum(float(torch.stack(wrong).detach().square().mean()) for wrong in guesses.values() if wrong)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_what_the_surrogate_learns_does_not_move_the_model() -> None:
    net = small(**NO_DROPOUT, reconstruction=(0, 0, 0), discrepancy=0).train()
    own = net(batch()).own_loss
    assert own is not None
    own.backward()
    for name, p in net.named_parameters():
        moved = p.grad is not None and bool(p.grad.any())
        assert moved == name.startswith("surrogates."), name


def test_a_sample_that_lacks_a_modality_is_predicted_from_the_surrogates_latents() -> None:
    net = small().eval()
    inputs, present = batch(), torch.tensor([[True] * 3, [True, False, True], [False, False, True], [False] * 3])
    found, anew = net(inputs, present).prediction, net.reconstruct(inputs, present)
    torch.testing.assert_close(found[:1], net([x[:1] for x in inputs]).prediction)
    order = [list(SHAPES).index(m) for m in NEEDS]
    for i in range(1, 4):
        flags = present[i, order]
        z = [latents_by_loop(net, inputs[k][i].T, m) for k, m in zip(order, NEEDS, strict=True)]
        seen = torch.cat([*(one * flag for one, flag in zip(z, flags, strict=True)), flags.double()])
        joint = two(net.surrogates["joint"], seen)
        f = two(net.joint_factor, joint).relu()
        torch.testing.assert_close(found[i], two(net.head, f))
        for m, one, flag in zip(NEEDS, z, flags, strict=True):
            latent = one if flag else two(net.surrogates[m], seen)
            given = torch.cat([f, two(net.factors[m], latent).relu()])
            states = net.decoders[m](given[None], 6)
            expected = net.decoders[m].read(states)[0] if flags.any() else torch.zeros_like(anew[m][i])
            torch.testing.assert_close(anew[m][i], expected)


def test_an_absent_modality_is_made_anew_as_long_as_the_longest_other() -> None:
    net = small({**SHAPES, "audio": (4, 9)}).eval()
    inputs = [torch.randn(2, c, t).double() for c, t in ((5, 6), (4, 9), (7, 6))]
    present = torch.tensor([[True, False, True], [False, True, True]])
    anew = net.reconstruct(inputs, present, [torch.tensor([2, 6]), torch.tensor([9, 8]), torch.tensor([4, 1])])
    assert anew["audio"].shape == (2, 9, 4)
    assert anew["audio"][0, :4].all()
    assert not anew["audio"][0, 4:].any()
    assert anew["video"][1].all()  # 8 steps are asked, and there are 6


def test_what_is_hidden_is_some_of_it_and_not_all() -> None:
    kept = keep_some(torch.ones(6000, 3, dtype=torch.bool))
    assert kept.any(1).all()
    assert not kept.all(1).any()
    codes = (kept * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8)[1:7]
    assert codes.min() > 900
    assert codes.max() < 1100


def test_the_surrogate_learns_to_infer_what_is_absent() -> None:
    net = small(**NO_DROPOUT, latents=(4, 4, 4), joint=(8, 16)).float().train()
    same = torch.randn(64, 1, 1) * torch.tensor([1.0, -1.0, 0.5])
    inputs = [same[..., m, None].expand(64, shape[0], shape[1]) for m, shape in enumerate(SHAPES.values())]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        fused = net(inputs)
        net.training_loss(fused, same[:, 0, 0] * 2, None, nn.functional.mse_loss).backward()
        optimizer.step()
    present = torch.ones(64, 3, dtype=torch.bool)
    present[:, 1] = False
    net.eval()
    anew = net.reconstruct(inputs, present)["audio"].transpose(1, 2)
    assert float((anew - inputs[1]).square().mean()) < 0.6 * float(inputs[1].square().mean())
    prediction = net(inputs, present).prediction[:, 0].detach()
    assert float((prediction - same[:, 0, 0] * 2).abs().mean()) < 0.6 * float((same[:, 0, 0] * 2).abs().mean())


def test_more_padding_draws_no_other_dropout() -> None:
    net = small().train()
    inputs, ends = batch(), [torch.tensor([3, 2, 1, 4])] * 3
    results = []
    for x in (inputs, [nn.functional.pad(one, (0, 5)) for one in inputs]):
        torch.manual_seed(0)
        results.append(copy.deepcopy(net)(x, None, ends))
    torch.testing.assert_close(results[0].prediction, results[1].prediction)
    torch.testing.assert_close(results[0].own_loss, results[1].own_loss)


def test_the_defaults_are_mmsas_sizes_for_mosei() -> None:
    with torch.device("meta"):
        net = MFM({"video": (35, 50), "audio": (74, 50), "text": (768, 50)}, 1)
    attention = net.fusion.attention
    assert isinstance(attention[0], nn.Linear)
    assert (attention[0].in_features, attention[0].out_features) == (2 * (256 + 32 + 256), 1278)
    assert net.joint.in_features == 256 + 32 + 256 + 64
    assert {m: net.decoders[m].cell.hidden_size for m in NEEDS} == {"text": 48, "audio": 96, "video": 48}
    assert (net.batch_size, net.learning_rate, net.absolute_error) == (64, 1e-3, True)
    assert sum(p.numel() for p in net.parameters()) == TOTAL


TOTAL = 6_113_212


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hidden": (4, 3)}, "hidden is a list of 3 numbers"),
        ({"latents": (4, 3, 0)}, "latents is a list of positive widths"),
        ({"joint": 32}, "joint is a list of positive widths"),
        ({"layers": (1, 2, 3)}, "layers is a list of 4 numbers"),
        ({"dropouts": (0.1, 0.2, 1.0)}, "dropouts is probabilities in"),
        ({"layer_dropouts": 0.5}, "layer_dropouts is a list of 4 numbers"),
        ({"reconstruction": (1, 1, -1)}, "reconstruction: a weight is not negative"),
        ({"discrepancy": -1}, "discrepancy: a weight is not negative"),
        ({"memory": 0}, "memory: expected an integer"),
        ({"surrogate": 0}, "surrogate: expected an integer"),
    ],
)
def test_wrong_options_of_mfm(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FusionInputError, match=said):
        small(**options)
