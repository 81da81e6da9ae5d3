"""MFM, the multimodal factorization model.

Tsai, Liang, Zadeh, Morency and Salakhutdinov, "Learning Factorized Multimodal Representations", ICLR 2019, arXiv
1806.06176.
"""

# B batch, C channels of one modality, T steps, Z size of a latent, F of a factor, K outputs (1 in regression)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from torchmsaf.backbones.recurrent import run_lstm
from torchmsaf.errors import FusionInputError
from torchmsaf.ops.checks import check_integer, check_number, check_share, check_widths
from torchmsaf.ops.modes import evaluating
from torchmsaf.ops.steps import last_step, step_mask
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.systems.base import Kind, System
from torchmsaf.tasks.systems.discrepancy import gaussian_discrepancy
from torchmsaf.tasks.systems.memory_fusion import MemoryFusion, unroll


@dataclass(frozen=True)
class _Latents:
    """What is inferred of a batch: by modality ``(B, Z_m)``, and ``joint`` ``(B, Z_y)``."""

    own: dict[str, Tensor]
    joint: Tensor


class MFM(System):
    """A latent of each modality that generates it, and one of all that predicts and generates.

    From the released code (github.com/pliang279/factorized, and MMSA's): ``z_m`` is the last state of an LSTM through one
    linear layer; ``z_y`` is a linear layer of what :class:`MemoryFusion` comes to; factors f are two layers with ReLU of
    each z; a decoder, an LSTM that is given ``[f_y; f_m]`` first and then its own hidden state, makes each modality anew;
    two layers make the prediction of f_y. Loss: the absolute error of values, or the task's; the mean squared errors of
    what is made anew, over real steps; and the discrepancy of each z to a normal distribution
    (:func:`gaussian_discrepancy`). The code draws no latents. Sizes and weights are those of MMSA's settings for CMU-MOSEI;
    their 1278 for the attention is so there. It has a weight decay of 5e-4, which is left to the optimizer.

    The article infers latents of a sample that lacks a modality by a surrogate network of the others, and predicts from
    the surrogate's z_y; that is a recollection, and the released code has none. Ours is one layer with ReLU and a linear
    layer for each latent, of all present z_m and which are present. It learns by its squared error to the true latents of
    samples of which modalities are hidden at random, without a gradient to the rest of the model, so that a model of
    complete samples is as published; the article has the likelihood of the modality there. Samples that lack a modality in
    training predict, and are made anew, by the surrogate.

    Sizes of three are in the order of :attr:`needs`: text, audio, video.

    Args:
        shapes: modality -> ``(C,)`` or ``(C, T)``, in declared order.
        outputs: K.
        kind: of the task.
        tokens: modality -> vocabulary size, of modalities that are word numbers; their learned vectors are made anew.
        hidden: states of the memory fusion's LSTMs.
        latents: sizes of z_m.
        factors: sizes of f_m.
        joint: sizes of z_y and f_y.
        memory: size of the memory.
        layers: hidden widths of the memory fusion's attention, proposal and two gates.
        layer_dropouts: their probabilities.
        dropouts: between the layers of f_y, of the f_m, and of the prediction.
        reconstruction: weights of each modality's squared error.
        discrepancy: weight of the discrepancies.
        surrogate: hidden width of the surrogate networks.
    """

    absolute_error = True
    batch_size = 64
    learning_rate = 1e-3

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        *,
        kind: Kind = "sentiment",
        tokens: Mapping[str, int] | None = None,
        hidden: Sequence[int] = (256, 32, 256),
        latents: Sequence[int] = (256, 80, 80),
        factors: Sequence[int] = (32, 80, 32),
        joint: Sequence[int] = (32, 16),
        memory: int = 64,
        layers: Sequence[int] = (1278, 32, 64, 128),
        layer_dropouts: Sequence[float] = (0.5, 0.7, 0.5, 0.2),
        dropouts: Sequence[float] = (0.2, 0.7, 0.2),
        reconstruction: Sequence[float] = (5.0, 2.0, 5.0),
        discrepancy: float = 10.0,
        surrogate: int = 128,
    ) -> None:
        super().__init__(shapes, outputs, kind=kind, tokens=tokens)
        by_name = {"hidden": hidden, "latents": latents, "factors": factors}
        sizes = {k: dict(zip(self.needs, _widths(k, v, 3), strict=True)) for k, v in by_name.items()}
        size, factor = _widths("joint", joint, 2)
        between = _shares("dropouts", dropouts, 3)
        self.reconstruction = dict(zip(self.needs, _weights("reconstruction", reconstruction, 3), strict=True))
        self.discrepancy = _weights("discrepancy", [discrepancy], 1)[0]
        check_integer("memory", memory, advice="64")
        check_integer("surrogate", surrogate, advice="128")

        self.fusion = MemoryFusion(
            self.widths,
            sizes["hidden"],
            memory,
            _widths("layers", layers, 4),
            _shares("layer_dropouts", layer_dropouts, 4),
        )
        self.joint = nn.Linear(self.fusion.width, size)
        own = sizes["latents"]
        self.encoders = nn.ModuleDict({m: nn.LSTM(self.widths[m], own[m], batch_first=True) for m in self.needs})
        self.latents = nn.ModuleDict({m: nn.Linear(own[m], own[m]) for m in self.needs})
        made = sizes["factors"]
        self.joint_factor = _two_layers(size, factor, factor, between[0])
        self.factors = nn.ModuleDict({m: _two_layers(own[m], made[m], made[m], between[1]) for m in self.needs})
        self.decoders = nn.ModuleDict({m: Decoder(factor + made[m], self.widths[m]) for m in self.needs})
        self.head = nn.Sequential(
            nn.Linear(factor, factor), nn.ReLU(), nn.Dropout(between[2]), nn.Linear(factor, self.outputs)
        )
        seen = sum(own.values()) + len(own)
        self.surrogates = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(seen, surrogate), nn.ReLU(), nn.Linear(surrogate, z))
                for name, z in {**own, "joint": size}.items()
            }
        )

    def run(self, steps: dict[str, Tensor], masks: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """Predict, see :meth:`System.run`; in training the own loss is that of the latents and of what is made anew."""
        exact = self._encode(steps, masks)
        latents = self._complete(exact, present)
        factor = self.joint_factor(latents.joint)
        prediction: Tensor = self.head(factor)
        if not self.training:
            return Fused(prediction)
        loss = self._surrogate_loss(exact, present)
        for m in self.needs:
            loss = loss + self.reconstruction[m] * self._reconstruction_loss(m, factor, latents, steps[m], masks[m])
            loss = loss + self.discrepancy * gaussian_discrepancy(exact.own[m][present[m]])
        some = _stacked(present, self.needs).any(1)
        loss = loss + self.discrepancy * gaussian_discrepancy(latents.joint[some])
        return Fused(prediction, own_loss=loss)

    @torch.no_grad()
    def reconstruct(
        self,
        inputs: Sequence[Tensor],
        present: Tensor | None = None,
        lengths: Sequence[Tensor | None] | None = None,
    ) -> dict[str, Tensor]:
        """Every modality made anew from the latents, in evaluation mode; an absent one from those of the others.

        Args:
            inputs: as of :meth:`System.forward`.
            present: as of it.
            lengths: as of it.

        Returns:
            Modality -> ``(B, T, C)``, in declared order; C is the width of a learned vector for word numbers. Zeros are
            behind a sequence's end; an absent one is as long as the longest of the sample's others, T at most, and
            zeros where a sample has none.
        """
        with evaluating(self):
            steps, masks, here = self.read(inputs, present, lengths)
            latents = self._complete(self._encode(steps, masks), here)
            factor = self.joint_factor(latents.joint)
            longest = torch.stack([mask.sum(1) for mask in masks.values()]).amax(0)
            found = {}
            for m in self.modalities:
                total = masks[m].shape[1]
                real = torch.where(here[m][:, None], masks[m], step_mask(longest, total))
                states = self._decoder(m)(self._seed(m, factor, latents), total)
                found[m] = torch.where(real.unsqueeze(2), self._decoder(m).read(states), 0)
            return found

    def _encode(self, steps: dict[str, Tensor], masks: dict[str, Tensor]) -> _Latents:
        """The latents of what is there; those of an absent modality, and z_y without one, are not to be used."""
        own = {}
        for m in self.needs:
            lengths = masks[m].sum(1)
            states = run_lstm(cast(nn.LSTM, self.encoders[m]), steps[m], lengths)
            own[m] = self.latents[m](last_step(states, lengths))
        return _Latents(own, self.joint(self.fusion(steps, masks)))

    def _infer(self, own: dict[str, Tensor], present: dict[str, Tensor]) -> _Latents:
        """All latents by the surrogate, from those of present modalities."""
        flags = _stacked(present, self.needs).to(own[self.needs[0]].dtype)
        seen = torch.cat([*(torch.where(present[m][:, None], own[m], 0) for m in self.needs), flags], 1)
        return _Latents({m: self.surrogates[m](seen) for m in self.needs}, self.surrogates["joint"](seen))

    def _complete(self, exact: _Latents, present: dict[str, Tensor]) -> _Latents:
        """The latents, with the surrogate's where a sample lacks a modality."""
        whole = _stacked(present, self.needs).all(1)
        if bool(whole.all()):
            return exact
        other = self._infer(exact.own, present)
        own = {m: torch.where(present[m][:, None], exact.own[m], other.own[m]) for m in self.needs}
        return _Latents(own, torch.where(whole[:, None], exact.joint, other.joint))

    def _surrogate_loss(self, exact: _Latents, present: dict[str, Tensor]) -> Tensor:
        """Squared errors of the surrogate on samples of which modalities are hidden at random."""
        here = _stacked(present, self.needs)
        kept = here & keep_some(here)
        own = {m: z.detach() for m, z in exact.own.items()}
        guess = self._infer(own, dict(zip(self.needs, kept.unbind(1), strict=True)))
        asked = kept.any(1)
        loss = _mean_squares(guess.joint - exact.joint.detach(), asked & here.all(1))
        for m, was, left in zip(self.needs, here.unbind(1), kept.unbind(1), strict=True):
            loss = loss + _mean_squares(guess.own[m] - own[m], asked & was & ~left)
        return loss

    def _reconstruction_loss(self, m: str, factor: Tensor, latents: _Latents, x: Tensor, mask: Tensor) -> Tensor:
        """The mean squared error over the real steps of one modality; 0 without any."""
        longest = max(1, int(mask.sum(1).max()))
        real = mask[:, :longest]
        states = self._decoder(m)(self._seed(m, factor, latents), longest)
        made = self._decoder(m).read(states[real])  # (real steps, C)
        wrong: Tensor = (
            made - x[:, :longest][real].detach()
        )  # learned vectors of words do not move towards what is made
        return wrong.square().sum() / max(1, wrong.numel())

    def _seed(self, m: str, factor: Tensor, latents: _Latents) -> Tensor:
        return torch.cat([factor, self.factors[m](latents.own[m])], 1)  # [f_y; f_m]

    def _decoder(self, m: str) -> Decoder:
        return cast(Decoder, self.decoders[m])


class Decoder(nn.Module):
    """An LSTM that is given a vector at first and then its own hidden state, and a linear layer to a sequence.

    Args:
        size: of the vector, and of the states.
        width: C.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(size, size)
        self.read = nn.Linear(size, width)

    def forward(self, seed: Tensor, steps: int) -> Tensor:
        """``(B, size)`` to states ``(B, T, size)``, of which :attr:`read` makes the sequence."""
        cell = self.cell
        bias = cell.bias_ih + cell.bias_hh
        # the input and the hidden state are one and the same but at the first step, so their weights add up
        inputs = [torch.addmm(bias, seed, (cell.weight_ih).T)] + [bias.expand(len(seed), -1)] * (steps - 1)
        first, c = unroll(inputs[:1], cell.weight_hh.T, torch.zeros_like(seed))
        if steps == 1:
            return first
        rest, _ = unroll(inputs[1:], (cell.weight_ih + cell.weight_hh).T, first[:, 0], c[:, 0])
        return torch.cat([first, rest], 1)


def keep_some(here: Tensor) -> Tensor:
    """Booleans ``(B, M)`` with at least one True and one False a row, M at least 2: first how many, then which, evenly."""
    batch, count = here.shape
    most = torch.randint(1, count, (batch, 1), device=here.device)
    return torch.rand(batch, count, device=here.device).argsort(1).argsort(1) < most


def _stacked(present: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([present[name] for name in names], 1)


def _mean_squares(wrong: Tensor, rows: Tensor) -> Tensor:
    """The mean square of ``(B, Z)`` over some rows; 0 without any."""
    some = wrong[rows]
    return some.square().sum() / max(1, some.numel())


def _two_layers(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs), nn.ReLU()
    )


def _widths(name: str, values: Sequence[int], count: int) -> list[int]:
    found = check_widths(name, values, example=str([32] * count))
    return cast(list[int], _count(name, found, count))


def _shares(name: str, values: Sequence[float], count: int) -> list[float]:
    for value in _count(name, values, count):
        check_share(name, value, said="probabilities in [0, 1)", below_one=True)
    return list(values)


def _weights(name: str, values: Sequence[float], count: int) -> list[float]:
    for value in _count(name, values, count):
        if check_number(name, value) < 0:
            raise FusionInputError(f"{name}: a weight is not negative, got {value!r}")
    return list(values)


def _count(name: str, values: Sequence[float], count: int) -> Sequence[float]:
    if not isinstance(values, list | tuple) or len(values) != count:
        raise FusionInputError(f"{name} is a list of {count} numbers, got {values!r}")
    return values
