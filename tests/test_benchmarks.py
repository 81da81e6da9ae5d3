"""What benchmarks compare with gives the same: MSAF step by step, and a grafted model written out by hand."""

import dataclasses
import json
import os

import pytest
import torch

import benchmarks.__main__
from benchmarks import action_step, actions, grafts, sentiment
from benchmarks.shapes import SHAPES, Shape
from benchmarks.straightforward import StraightforwardMSAF
from tests.bf16 import needs_bf16
from torchmsaf import MSAF

SMALL = [
    Shape("two maps", ((16, 3, 4, 4), (8, 11)), 3, 8),
    Shape("vector beside map", ((12, 5), (6,)), 3, 6, reduction=2, min_attention=0.5),
    Shape("uneven channels", ((13, 5), (6, 2, 2)), 3, 4, reduction=2),
    Shape("segments", ((8, 12), (16, 12)), 3, 8, reduction=2, segments=3, time_major=True),
    Shape("uneven segments", ((8, 13), (16, 17)), 3, 8, segments=4),
]
BIG = [SHAPES[name] for name in ("rav1", "rav2", "mosei16", "ntu1", "ntu2")]


@pytest.mark.parametrize("shape", [*SMALL, *BIG], ids=lambda shape: shape.name)
def test_agrees_with_msaf(shape):
    torch.manual_seed(0)
    slow = StraightforwardMSAF(shape.channels, **shape.arguments)
    for block in slow.blocks:  # statistics and affine of a network that has been trained
        norm = block.joint_features[1]
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
            torch.nn.init.normal_(tensor)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    fast = MSAF.from_published(slow.state_dict(), shape.channels, min_attention=shape.min_attention)
    slow.eval()
    fast.eval()
    ours, theirs = (
        [x.requires_grad_() for x in dataclasses.replace(shape, batch=min(shape.batch, 4)).features()] for _ in range(2)
    )
    fused, expected = fast(ours), slow(theirs)
    for y, z in zip(fused, expected, strict=True):
        torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-5)
    gradients = [torch.randn_like(y) for y in expected]
    wanted = torch.autograd.grad(expected, theirs, gradients)
    for found, gradient in zip(torch.autograd.grad(fused, ours, gradients), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", ["identity", "msaf"])
@pytest.mark.parametrize("mode", grafts.MODES)
def test_the_hand_written_model_is_the_grafted_one(mode, fusion):
    made = grafts.calls(grafts.PAIRS["tiny2"], fusion, mode)
    assert set(made) == {"hand-written", "grafted"}


def test_the_hand_written_model_shares_all_but_hooks():
    grafted, written, _ = grafts.build(grafts.PAIRS["tiny2"], "msaf")
    assert {id(p) for p in written.parameters()} == {id(p) for p in grafted.parameters()}
    assert not any(layer._forward_hooks for layer in written.modules())


def test_a_difference_is_noticed(monkeypatch):
    monkeypatch.setattr(grafts.HandWritten, "forward", lambda self, inputs: torch.zeros(2, 8))
    with pytest.raises(RuntimeError, match="tiny1, identity, eval fwd: the grafted and the hand-written model differ"):
        grafts.calls(grafts.PAIRS["tiny1"], "identity", "eval fwd")


def test_the_table_of_grafts(monkeypatch, capsys, tmp_path):
    command = ["benchmarks", "--parts", "grafts", "--quick", "--threads", "1", "--modes"]
    monkeypatch.setattr("sys.argv", [*command, "eval fwd", "--out", str(tmp_path)])
    benchmarks.__main__.main()
    out = capsys.readouterr().out
    for column in ("hand-written ms", "grafted ms", "overhead %", "us a point", "threads", "quiet", "others", "load"):
        assert column in out
    (rows,) = json.loads((tmp_path / "results.json").read_text())["tables"].values()
    assert [(row["networks"], row["fusion"], row["mode"]) for row in rows] == [("tiny1", "identity", "eval fwd")]


@pytest.mark.parametrize("kind", sentiment.LENGTHS)
@pytest.mark.parametrize("count", [16, 40])
def test_the_straightforward_sentiment_network_is_ours(kind, count):
    far = sentiment.agreement(kind, count=count)
    assert max(far.values()) < 1e-4


def test_a_different_sentiment_network_is_noticed(monkeypatch):
    monkeypatch.setattr(sentiment.MaskedBlock, "forward", lambda self, features, mask: [2 * x for x in features])
    with pytest.raises(RuntimeError, match="as MOSEI's: the straightforward network and torchmsaf's differ"):
        sentiment.agreement("as MOSEI's", **{name: sentiment.QUICK[name] for name in ("inputs", "steps")})


def test_lengths_are_those_of_mosei():
    maps, lengths, _ = sentiment.draw(1000, {"one": 3}, 50, "as MOSEI's")
    assert 17 < lengths.float().mean() < 21
    assert lengths.max() == 50
    for row, length in enumerate(lengths.tolist()):
        assert not maps[0][row, :, length:].any()


@needs_bf16
def test_the_table_of_the_sentiment_network(monkeypatch, capsys, tmp_path):
    command = ["benchmarks", "--parts", "sentiment", "--quick", "--threads", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    benchmarks.__main__.main()
    assert "load" in capsys.readouterr().out
    (rows,) = json.loads((tmp_path / "results.json").read_text())["tables"].values()
    found = [(row["threads"], row["lengths"], row["batch"], row["precision"]) for row in rows]
    assert found == [(1, kind, 4, precision) for kind in sentiment.LENGTHS for precision in ("float32", "bf16")]
    assert all(row["tokens/s"] > row["utterances/s"] > 0 for row in rows)


def test_the_table_of_films(monkeypatch, capsys, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    command = ["benchmarks", "--parts", "actions", "--quick", "--threads", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    benchmarks.__main__.main()
    assert "ours clips/s" in capsys.readouterr().out
    (rows,) = json.loads((tmp_path / "results.json").read_text())["tables"].values()
    assert [row["film"] for row in rows] == list(actions.QUICK)
    assert all(row["ours clips/s"] > 0 for row in rows)


def test_frames_that_differ_are_noticed(monkeypatch, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    monkeypatch.setattr(actions.rgb, "KERNEL", "POINT")
    exact = actions.decode_all

    def bicubic(path, lowres=0):
        with monkeypatch.context() as patch:
            patch.setattr(actions.rgb, "KERNEL", "BICUBIC")
            return exact(path, lowres)

    monkeypatch.setattr(actions, "decode_all", bicubic)
    with pytest.raises(RuntimeError, match="mpeg4 192x108: the frames are not those of full decoding"):
        list(actions.rows(None, film=None, films={"mpeg4 192x108": actions.QUICK["mpeg4 192x108"]}, count=8))


@pytest.mark.parametrize("kind", action_step.NAMES)
@pytest.mark.parametrize("label", [label for label, option in action_step.OPTIONS.items() if not option.compiled])
def test_a_step_of_the_action_networks(label, kind):
    fused, plain = action_step.build(action_step.QUICK[kind], action_step.OPTIONS[label])
    network = fused.network
    assert network is plain.network
    assert len(network.places) == len(network.points) == 2
    losses = [step() for step in (plain, fused)]
    assert torch.tensor(losses).isfinite().all()
    assert len(network.places) == 2
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert plain.inside == [0]
    assert 0 < fused.inside[0] < fused.wall[0]


def test_the_step_without_fusion_leaves_it_out():
    _, plain = action_step.build(action_step.QUICK["i3d"], action_step.OPTIONS["float32"])
    plain()
    assert all(parameter.grad is None for parameter in plain.network.points.parameters())
    assert all(parameter.grad is not None for parameter in plain.network.networks.parameters())


def test_the_table_of_the_step_of_the_action_networks(monkeypatch, capsys, tmp_path):
    monkeypatch.delitem(action_step.OPTIONS, "bf16 channels_last")  # a process less
    command = ["benchmarks", "--parts", "action-step", "--quick", "--threads", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    benchmarks.__main__.main()
    assert "% of 24 GiB" in capsys.readouterr().out
    (rows,) = json.loads((tmp_path / "results.json").read_text())["tables"].values()
    (row,) = rows
    assert row["option"] == "float32"
    assert row["in all GiB"] > row["step GiB"] > 0
    assert row["clips/s"] == pytest.approx(2 / row["s a step"])
    assert row["frames/s"] == pytest.approx(8 * row["clips/s"])


def test_an_option_that_takes_too_long_is_stopped():
    (row,) = action_step.rows(action_step.QUICK["i3d"], ["float32"], [1], rounds=1, limit=0.01)
    assert row["note"] == "stopped after 0.01 s"
    assert row["clips/s"] is None


def test_an_option_that_fails_says_so(monkeypatch, capfd):
    monkeypatch.setattr(action_step, "_measure", os.fspath)  # which does not take its arguments
    (row,) = action_step.rows(action_step.QUICK["i3d"], ["float32"], [1], rounds=1)
    assert row["note"] == "the process failed"
    assert "TypeError" in capfd.readouterr().err


def test_without_a_compiler_it_is_left_out(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (row,) = action_step.rows(action_step.QUICK["i3d"], ["compile"], [1], rounds=1)
    assert row["note"] == "skipped: there is no C++ compiler 'no-such-compiler', which CXX can name"
