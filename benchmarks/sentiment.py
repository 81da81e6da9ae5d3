"""One training step of the sentiment network beside the same network written straightforwardly.

The network is what ``torchmsaf train sentiment --method msaf`` trains: two LSTMs for video (35 inputs), audio (74) and text
(768), MSAF between them with five time segments and block dropout 0.2, one linear layer on the three last states. A step is
forward, squared error, backward and fused Adam. Every batch size takes the same 256 utterances of at most 50 words, so that
a row's time is that of 256 utterances over the number of batches.

Lengths: ``all 50`` has nothing padded and no lengths; ``as MOSEI's`` draws them log-normally, 19 words on average. There
torchmsaf gets the lengths, and the straightforward network packs sequences and masks by hand. With the same weights and
without dropout, outputs and gradients are compared first.
"""

# B batch, T steps, D inputs, C channels of a block, n blocks of a modality

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.straightforward import StraightforwardBlock, StraightforwardMSAF
from benchmarks.timing import Rounds, Spread
from torchmsaf import MSAF
from torchmsaf.backbones.lstm_net import LSTMNet
from torchmsaf.tasks import sentiment
from torchmsaf.tasks.network import FusedNetwork

INPUTS = {"video": 35, "audio": 74, "text": 768}
STEPS = 50
# of CMU-MOSEI's training part, which an epoch goes over
UTTERANCES = 16322
# in a call: every size of batch sees the same ones
AT_ONCE = 256
LENGTHS = ("all 50", "as MOSEI's")
PRECISIONS = {"float32": False, "bf16": True}
BLOCK, REDUCTION = 16, 2
# what `--quick` takes
QUICK = {"inputs": {"video": 3, "audio": 4, "text": 5}, "steps": 10, "at_once": 8}
# largest difference, over the largest value
TOLERANCE = 1e-3
Run = Callable[[Mapping[str, Callable[[], object]]], Rounds]


class MaskedBlock(StraightforwardBlock):
    """MSAF of one segment of maps with zeros behind the end of each sample."""

    def forward(self, features: Sequence[Tensor], mask: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Re-weight one segment of each map, ``(B, C_m, T')``, of which the mask ``(B, T')`` says what is real."""
        groups = [self._split(x, n) for x, n in zip(features, self.counts, strict=True)]  # (B, n, C, T')
        drops = self._masks(features[0])
        if drops is not None:
            groups = [group * drop[..., None] for group, drop in zip(groups, drops, strict=True)]
        count = mask.sum(1, keepdim=True)
        total = torch.stack([group.sum(1).sum(2) / count.clamp(min=1) for group in groups]).sum(0)  # (B, C)
        linear, norm, relu = self.joint_features
        some = linear(total)[mask.any(1)]  # samples that reach this segment
        some = norm(some) if len(some) > 1 or not self.training else some * 0 + norm.bias  # one has no variance
        joint = some.new_zeros(len(mask), some.shape[1])
        joint[mask.any(1)] = relu(some)
        attention = torch.stack([dense(joint) for dense in self.dense_group], 1).softmax(1)  # (B, N, C)
        weights = attention.split_with_sizes(self.counts, 1)
        groups = [group * weight[..., None] for group, weight in zip(groups, weights, strict=True)]
        if drops is not None:
            groups = [group * drop[..., None] for group, drop in zip(groups, drops, strict=True)]
        return [group.flatten(1, 2) for group in groups]


class MaskedMSAF(StraightforwardMSAF):
    """One :class:`MaskedBlock` for each time segment."""

    def __init__(self, channels: Sequence[int], **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        for index, block in enumerate(self.blocks):
            self.blocks[index] = MaskedBlock(
                channels, block.block_channels, REDUCTION, block.min_attention, block.block_dropout
            )

    def forward(self, features: Sequence[Tensor], mask: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Re-weight maps ``(B, C_m, T)`` of which ``(B, T)`` are real."""
        size = -(-mask.shape[1] // len(self.blocks))
        pieces = [
            block([x[:, :, start : start + size] for x in features], mask[:, start : start + size])
            for block, start in zip(self.blocks, range(0, mask.shape[1], size), strict=True)
        ]
        return [torch.cat(parts, 2) for parts in zip(*pieces, strict=True)]


class Unfused(nn.Module):
    """What stands in place of the fusion to see its share: the maps as they are."""

    def forward(self, maps: Sequence[Tensor], *_: object, **__: object) -> list[Tensor]:
        """Nothing is done."""
        return list(maps)


class Straightforward(nn.Module):
    """The paper's network, one module after the other.

    Args:
        inputs: D of each modality.
        masked: sequences come with lengths, are packed for each LSTM and masked in the fusion.
        dropout: p of the fusion's blocks.
    """

    def __init__(self, inputs: Mapping[str, int], *, masked: bool, dropout: float) -> None:
        super().__init__()
        hidden = [sentiment.HIDDEN[name] for name in inputs]
        self.first = nn.ModuleList(
            nn.LSTM(d, h, batch_first=True) for d, h in zip(inputs.values(), hidden, strict=True)
        )
        self.second = nn.ModuleList(nn.LSTM(h, h, batch_first=True) for h in hidden)
        arguments = {"block_channels": BLOCK, "reduction": REDUCTION, "block_dropout": dropout}
        kind = MaskedMSAF if masked else StraightforwardMSAF
        self.fusion: nn.Module = kind(hidden, segments=sentiment.MSAF["segments"], **arguments)
        self.joint = nn.Linear(sum(hidden), 1)

    def forward(self, inputs: Sequence[Tensor], lengths: Tensor | None) -> Tensor:
        """``(B, D, T)`` of each modality, and ``(B,)`` real steps, to ``(B, 1)``."""
        steps = [x.transpose(1, 2) for x in inputs]
        if lengths is None:
            maps = [lstm(x)[0].transpose(1, 2) for lstm, x in zip(self.first, steps, strict=True)]
            states = [x.transpose(1, 2) for x in self.fusion(maps)]
            last = [lstm(x)[0][:, -1] for lstm, x in zip(self.second, states, strict=True)]
            return self.joint(torch.cat(last, 1))
        total = steps[0].shape[1]
        mask = torch.arange(total) < lengths[:, None]
        maps = []
        for lstm, x in zip(self.first, steps, strict=True):
            y = pad_packed_sequence(lstm(_packed(x, lengths))[0], batch_first=True, total_length=total)[0]
            maps.append(y.transpose(1, 2))
        states = [x.transpose(1, 2) for x in self.fusion(maps, mask)]
        last = [lstm(_packed(x, lengths))[1][0][-1] for lstm, x in zip(self.second, states, strict=True)]
        return self.joint(torch.cat(last, 1))


def ours(inputs: Mapping[str, int], steps: int, *, dropout: float) -> FusedNetwork:
    """The network that torchmsaf trains."""
    networks = {name: LSTMNet((d, steps), 1, hidden=sentiment.HIDDEN[name]) for name, d in inputs.items()}
    options = {**sentiment.MSAF, "block_dropout": dropout}
    return FusedNetwork(networks, "msaf", outputs=1, options=options, regression=True, decision="joint")


def draw(count: int, inputs: Mapping[str, int], steps: int, kind: str) -> tuple[list[Tensor], Tensor | None, Tensor]:
    """Utterances: inputs ``(n, D, T)``, views of ``(n, T, D)`` with zeros behind the end; lengths; targets ``(n, 1)``."""
    generator = torch.Generator().manual_seed(0)
    lengths = None
    if kind == LENGTHS[1]:
        drawn = (2.79 + 0.62 * torch.randn(count, generator=generator)).exp() * steps / STEPS
        lengths = drawn.round().clamp(1, steps).long()
    maps = []
    for size in inputs.values():
        x = torch.randn(count, steps, size, generator=generator)
        if lengths is not None:
            x.masked_fill_((torch.arange(steps) >= lengths[:, None]).unsqueeze(2), 0)
        maps.append(x.transpose(1, 2))
    return maps, lengths, torch.randn(count, 1, generator=generator)


class Epoch:
    """Training steps over all utterances, batch by batch; the batches are the same each time.

    Args:
        network: from inputs and lengths to predictions.
        batches: inputs, lengths and targets.
        bf16: whether autocast computes in bfloat16.

    Attributes:
        cpu: seconds of processors, of all threads, that each call took: less than wall time does it depend on others.
    """

    def __init__(self, network: nn.Module, batches: Sequence[Any], *, bf16: bool) -> None:
        self.network, self.batches, self.bf16 = network.train(), batches, bf16
        self.optimizer = torch.optim.Adam(network.parameters(), fused=True)
        self.cpu: list[float] = []

    def __call__(self) -> None:
        """A step on each batch."""
        start = time.process_time()
        for inputs, lengths, target in self.batches:
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                prediction = _predict(self.network, inputs, lengths)
            F.mse_loss(prediction.float(), target).backward()
            self.optimizer.step()
        self.cpu.append(time.process_time() - start)


def agreement(kind: str, inputs: Mapping[str, int] = INPUTS, steps: int = STEPS, count: int = 16) -> dict[str, float]:
    """Largest difference of outputs and of gradients, over the largest value, with the same weights and no dropout.

    Raises:
        RuntimeError: the networks differ.
    """
    torch.manual_seed(0)
    slow = Straightforward(inputs, masked=kind == LENGTHS[1], dropout=0.0).train()
    fast = ours(inputs, steps, dropout=0.0).train()
    fast.load_state_dict(_as_ours(slow, fast, slow.state_dict()))
    maps, lengths, target = draw(count, inputs, steps, kind)
    outputs = [_predict(network, maps, lengths) for network in (slow, fast)]
    for output in outputs:
        F.mse_loss(output, target).backward()
    wanted = _as_ours(slow, fast, {name: _gradient(p) for name, p in slow.named_parameters()})
    found = {name: _gradient(p) for name, p in fast.named_parameters()}
    # a bias in front of batch norm has no gradient but rounding
    least = 1e-4 * max(float(gradient.abs().max()) for gradient in found.values())
    far = {
        "outputs differ": _difference(outputs[1].detach(), outputs[0].detach()),
        "gradients differ": max(_difference(gradient, wanted[name], least) for name, gradient in found.items()),
    }
    if max(far.values()) > TOLERANCE:
        raise RuntimeError(f"{kind}: the straightforward network and torchmsaf's differ: {far}")
    return far


def rows(
    batches: Sequence[int],
    timed: Run,
    *,
    inputs: Mapping[str, int] = INPUTS,
    steps: int = STEPS,
    at_once: int = AT_ONCE,
) -> Iterator[dict[str, Any]]:
    """Times of a step, with and without the fusion.

    Args:
        batches: sizes.
        timed: times candidates side by side.
        inputs: D of each modality.
        steps: T.
        at_once: utterances in a call.
    """
    for kind in LENGTHS:
        far = agreement(kind, inputs, steps)
        maps, lengths, target = draw(at_once, inputs, steps, kind)
        tokens = len(inputs) * (at_once * steps if lengths is None else int(lengths.sum()))
        for batch in batches:
            own = None if lengths is None else lengths.split(batch)
            count = -(-at_once // batch)
            split = list(
                zip(
                    zip(*(x.split(batch) for x in maps), strict=True),
                    own or [None] * count,
                    target.split(batch),
                    strict=True,
                )
            )
            calls: dict[str, Epoch] = {}
            for precision, bf16 in PRECISIONS.items():
                for name, network in _networks(inputs, steps, masked=lengths is not None).items():
                    calls[f"{name}, {precision}"] = Epoch(network, split, bf16=bf16)
            for call in calls.values():
                call()
                call.cpu.clear()
            rounds = timed(calls)
            for precision in PRECISIONS:
                slow, fast = f"straightforward, {precision}", f"torchmsaf, {precision}"
                share = rounds.ratio(f"torchmsaf, no fusion, {precision}", fast)
                slow_share = rounds.ratio(f"straightforward, no fusion, {precision}", slow)
                seconds = rounds.milliseconds(fast) / 1e3
                yield {
                    "lengths": kind,
                    "batch": batch,
                    "precision": precision,
                    "straightforward ms": rounds.milliseconds(slow) / count,
                    "torchmsaf ms": rounds.milliseconds(fast) / count,
                    "fastest ms": rounds.least(fast) / count,
                    "ratio": asdict(rounds.ratio(slow, fast)),
                    "cpu ms": 1e3 * statistics.median(calls[fast].cpu) / count,
                    "cpu ratio": statistics.median(
                        a / b for a, b in zip(calls[slow].cpu, calls[fast].cpu, strict=True)
                    ),
                    "over float32's": asdict(rounds.ratio(fast, "torchmsaf, float32")),
                    "fusion %": asdict(Spread(*(100 * (1 - value) for value in (share.median, share.high, share.low)))),
                    "straightforward fusion %": 100 * (1 - slow_share.median),
                    "tokens/s": tokens / seconds,
                    "utterances/s": at_once / seconds,
                    "epochs/min": 60 * at_once / seconds / UTTERANCES,
                    **far,
                    "quiet": f"{rounds.quiet}/{len(rounds.used)} of {rounds.total}",
                    "others": rounds.foreign,
                }


def _networks(inputs: Mapping[str, int], steps: int, *, masked: bool) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for more in ("", ", no fusion"):
        torch.manual_seed(0)
        slow = Straightforward(inputs, masked=masked, dropout=sentiment.MSAF["block_dropout"])
        fast = ours(inputs, steps, dropout=sentiment.MSAF["block_dropout"])
        if more:
            slow.fusion, fast.points[0] = Unfused(), Unfused()
        made |= {f"straightforward{more}": slow, f"torchmsaf{more}": fast}
    return made


def _predict(network: nn.Module, inputs: Sequence[Tensor], lengths: Tensor | None) -> Tensor:
    if isinstance(network, FusedNetwork):
        fused = network(inputs, None, None if lengths is None else [lengths] * len(inputs))
        prediction: Tensor = fused.prediction
    else:
        prediction = network(inputs, lengths)
    return prediction


def _packed(x: Tensor, lengths: Tensor) -> Any:
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def _as_ours(slow: Straightforward, fast: FusedNetwork, values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Values of the straightforward network's parameters by the names that torchmsaf's have."""
    moved: dict[str, Tensor] = {}
    for index, name in enumerate(fast.networks):
        for number, part in ((1, "first"), (2, "second")):
            lead = f"{part}.{index}."
            for key in values:
                if key.startswith(lead):
                    moved[f"networks.{name}.lstm{number}.{key.removeprefix(lead)}"] = values[key]
    fusion = slow.fusion.state_dict()
    fusion |= {key.removeprefix("fusion."): value for key, value in values.items() if key.startswith("fusion.")}
    widths = [network.width for network in fast.networks.values()]
    read = MSAF.from_published(fusion, widths).state_dict()
    moved |= {f"points.0.{key}": value for key, value in read.items()}
    (lead,) = {key.rpartition(".")[0] for key in fast.state_dict() if key.startswith("decide.")}
    return moved | {f"{lead}.{key}": values[f"joint.{key}"] for key in ("weight", "bias")}


def _gradient(parameter: Tensor) -> Tensor:
    """Its gradient; zeros where nothing reached it: a segment into which no utterance reaches."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _difference(found: Tensor, wanted: Tensor, least: float = 0.0) -> float:
    return float((found - wanted).abs().max()) / max(least, float(wanted.abs().max()))
