"""Train a fused network with Lightning; the best epoch on validation is kept."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from torchmsaf.errors import DataError
from torchmsaf.fusion.base import TrainingRule
from torchmsaf.ops.modes import evaluating
from torchmsaf.tasks.batches import Batch, Part, in_order, training_batches
from torchmsaf.tasks.fused import Fused
from torchmsaf.tasks.memory_format import to_channels_last
from torchmsaf.tasks.models import Model
from torchmsaf.tasks.network import FusedNetwork
from torchmsaf.tasks.objective import Objective
from torchmsaf.tasks.recipe import Recipe
from torchmsaf.tasks.systems.base import Inputs, System


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        validation: metrics of the kept epoch on validation.
        epochs: epochs trained.
        best_epoch: the kept epoch; 0 = before training.
        seconds: wall time.
        diverged: the loss was not finite at some point, and training stopped there.
    """

    validation: dict[str, float]
    epochs: int
    best_epoch: int
    seconds: float
    diverged: bool


class FusionTask(lightning.LightningModule):
    """A fused network, its loss and its optimizer, or the optimizers of networks that learn in turn.

    Args:
        network: what is trained.
        objective: the loss.
        recipe: the optimizer's settings.
    """

    def __init__(self, network: Model, objective: Objective, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe, self.objective = network, recipe, objective
        # of a target that is scaled already: some networks have losses of their own on it
        self.criterion = replace(objective, mean=0.0, std=1.0).loss
        self.automatic_optimization = not (recipe.alternate and learns_in_turn(network))

    def training_step(self, batch: Batch, index: int) -> Tensor | None:
        """The loss of one batch; None where the networks learned in turn."""
        if not self.automatic_optimization:
            self._learn_in_turn(batch)
            return None
        here = None if bool(batch.present.all()) else batch.present
        fused = self.network(batch.inputs, here, lengths_of(batch))
        return self.network.training_loss(fused, self.objective.scaled(batch.target), here, self.criterion)

    def _learn_in_turn(self, batch: Batch) -> None:
        """A step of each network, from the samples that have its modality, and of the fusion with it."""
        here = None if bool(batch.present.all()) else batch.present
        target = self.objective.scaled(batch.target)
        for optimizer in cast(list[LightningOptimizer], self.optimizers(use_pl_optimizer=True)):
            m = optimizer.param_groups[0]["modality"]
            rows = batch.present[:, m]
            if not bool(rows.any()):
                continue
            self.toggle_optimizer(optimizer)  # the other networks need no gradients of their own
            own = self.network(batch.inputs, here, lengths_of(batch)).parts[m]
            loss = self.criterion(own[rows], target[rows])
            optimizer.zero_grad()
            if loss.requires_grad:  # a frozen network that the fusion passes by has nothing to learn
                self.manual_backward(loss)
                optimizer.step()
            self.untoggle_optimizer(optimizer)

    def on_train_epoch_start(self) -> None:
        """Learning rates as the recipe has them in this epoch."""
        if self.recipe.decay_epochs is not None:
            for optimizer in self.trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] / self.recipe.decay(self.current_epoch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients entry by entry, for a network that asks for it; Lightning's own does not go with a fused Adam."""
        if self.network.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self.network.parameters(), self.network.clip_value)

    def configure_optimizers(self) -> torch.optim.Optimizer | list[torch.optim.Optimizer]:
        """Adam on everything that is not frozen; where networks learn in turn, one on each and the fusion."""
        if self.automatic_optimization:
            return self._adam(list(self.network.parameters()))
        network = cast(FusedNetwork, self.network)
        shared = list(network.fusion_parameters())
        adams: list[torch.optim.Optimizer] = []
        for m, net in enumerate(network.networks.values()):
            own = [*net.parameters(), *shared]
            if any(p.requires_grad for p in own):
                adams.append(self._adam(own, modality=m))
        return adams

    def _adam(self, parameters: Sequence[nn.Parameter], **said: Any) -> torch.optim.Optimizer:
        recipe = own_recipe(self.network, self.recipe)
        added = {id(p) for p in self.network.fusion_parameters()}
        groups: list[dict[str, Any]] = []
        for new, rate in ((False, recipe.learning_rate), (True, recipe.fusion_learning_rate or recipe.learning_rate)):
            mine = [p for p in parameters if p.requires_grad and (id(p) in added) == new]
            groups += [{"params": mine, "lr": rate, "initial_lr": rate, **said}] if mine else []
        # fused: one kernel for all parameters, a quarter of the time of the step on a CPU
        return torch.optim.Adam(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def learns_in_turn(network: Model) -> bool:
    """Whether its networks can learn in turn, each from its own prediction.

    Only with an intermediate method, and not with one that has a branch, a training rule or a last layer of its own.
    """
    if not isinstance(network, FusedNetwork) or network.stage != "intermediate" or len(network.networks) < 2:
        return False
    own_rule = network.rule is not None and type(network.rule).training_loss is not TrainingRule.training_loss
    return not (own_rule or network.has_branch or network.joint)


def own_recipe(network: Model, recipe: Recipe) -> Recipe:
    """The recipe with what a published system has of its own: batches that its loss needs, its learning rate."""
    if not isinstance(network, System):
        return recipe
    size, rate = network.batch_size or recipe.batch_size, network.learning_rate or recipe.learning_rate
    return replace(recipe, batch_size=size, learning_rate=rate)


@torch.no_grad()
def refit(network: Model, training: Part, objective: Objective) -> bool:
    """Solve for what a system learns in closed form, on all training samples; of other networks nothing.

    Returns:
        Whether it could be solved for: what the network makes of the samples is finite.
    """
    if not isinstance(network, System) or not network.closed_form:
        return True
    device = next(network.parameters()).device

    def given() -> Iterator[Inputs]:
        for one in in_order(training):
            yield [x.to(device) for x in one.inputs], one.present.to(device), lengths_of(one, device)

    with evaluating(network):
        network.calibrate(given())
        embeddings = torch.cat([network.embed(*some) for some in given()])
    if not bool(torch.isfinite(embeddings).all()):
        return False
    network.refit(embeddings, objective.scaled(training.target).to(device))
    return True


class KeepBest(lightning.Callback):
    """Measure validation before training and after each epoch, keep the best state, stop when patience is over.

    Training stops too when the validation loss is no finite number: nothing better comes after that.

    Args:
        training: samples that a system's closed form is solved on, before each measurement.
        validation: samples that choose the epoch.
        objective: which says what is better.
        patience: epochs without a better one.
    """

    def __init__(self, training: Part, validation: Part, objective: Objective, patience: int) -> None:
        self.training, self.validation, self.objective, self.patience = training, validation, objective, patience
        self.metrics: dict[str, float] = {}
        self.state: dict[str, Tensor] = {}
        self.best_epoch = self.epochs = 0
        self.diverged = False

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Epoch 0: what the network can do before training."""
        self._measure(trainer, module, 0)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """After each epoch."""
        self._measure(trainer, module, trainer.current_epoch + 1)

    def _measure(self, trainer: lightning.Trainer, module: lightning.LightningModule, epoch: int) -> None:
        self.epochs = epoch
        network: Any = module.network
        solved = refit(network, self.training, self.objective)
        metrics = evaluate(network, self.validation, self.objective)
        self.diverged = not solved or not math.isfinite(metrics["loss"])
        if not self.state or (solved and self.objective.better(metrics, self.metrics)):
            self.metrics, self.best_epoch = metrics, epoch
            self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if self.diverged or epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True


def train(
    network: Model,
    training: Part,
    validation: Part,
    objective: Objective,
    recipe: Recipe,
    *,
    order_seed: int,
    accelerator: str = "cpu",
) -> Trained:
    """Train, and leave the network in its best epoch on validation, by what the objective says is better.

    The network stays where it was trained.

    Args:
        network: is modified.
        training: samples to learn from.
        validation: samples that choose the epoch.
        objective: the loss and the metrics.
        recipe: the budget, the same for all that are compared.
        order_seed: of the batches' order.
        accelerator: of Lightning, "cpu", "gpu" or "auto".

    Raises:
        DataError: fewer samples train than the network needs in a batch; an LSTM in bfloat16 that this CPU cannot run.
    """
    start = time.perf_counter()
    best = KeepBest(training, validation, objective, recipe.patience)
    size, least = own_recipe(network, recipe).batch_size, network.least_batch
    loader = training_batches(training, size, order_seed, least=least)
    if len(training) < least:
        raise DataError(
            f"batches of {least} samples or more are needed, and {len(training)} train: take a smaller network, or more data"
        )
    _check_precision(network, recipe, accelerator)
    if recipe.memory_format is not None:
        to_channels_last(network)
    with warnings.catch_warnings():
        # batches are made in memory, or read ahead by a thread: worker processes would only cost time
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6 with torch 2.15: a name of torch's that Lightning still uses
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        quiet = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        level = quiet.level
        quiet.setLevel(logging.ERROR)
        try:
            trainer = lightning.Trainer(
                max_epochs=recipe.epochs,
                accelerator=accelerator,
                devices=1,
                precision="32-true" if recipe.precision is None else "bf16-mixed",
                barebones=True,
                callbacks=[best],
            )
            trainer.fit(FusionTask(network, objective, recipe), loader)
            network.to(trainer.strategy.root_device)  # which the trainer moves it from at its end
        finally:
            quiet.setLevel(level)
    network.load_state_dict(best.state)
    network.eval()
    metrics = best.metrics
    if network.rule is not None and network.rule.fits_on_validation:
        here = None if bool(validation.present.all()) else validation.present
        network.rule.fit(outputs_of(network, validation).parts, validation.target, here, objective.loss)
        metrics = evaluate(network, validation, objective)
    return Trained(metrics, best.epochs, best.best_epoch, time.perf_counter() - start, best.diverged)


def _check_precision(network: Model, recipe: Recipe, accelerator: str) -> None:
    """Refuse what torch cannot run: its LSTM in bfloat16 on a CPU without the instructions (torch 2.13 and 2.15)."""
    recurrent = any(isinstance(module, nn.LSTM) for module in network.modules())
    other = accelerator == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available())
    on_cpu = accelerator in ("cpu", "auto") and not other
    if recipe.precision is not None and on_cpu and recurrent and not runs_lstm_in_bf16():
        raise DataError("precision is 'bf16', in which this CPU runs no LSTM: train without it, or on a GPU")


def runs_lstm_in_bf16() -> bool:
    """Whether torch can run an LSTM in bfloat16 on this CPU."""
    return not torch.backends.mkldnn.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def lengths_of(batch: Batch, device: torch.device | None = None) -> list[Tensor | None] | None:
    """The lengths of a batch, on a device; None where no modality has padding."""
    if all(own is None for own in batch.lengths):
        return None
    return [None if own is None else own.to(device) for own in batch.lengths]


def predict(network: Model, part: Part) -> Tensor:
    """Predictions of all samples, ``(n, K)``, in evaluation mode; the mode is put back."""
    return outputs_of(network, part).prediction


@torch.no_grad()
def outputs_of(network: Model, part: Part) -> Fused:
    """What a network says of all samples, in evaluation mode; the mode is put back."""
    mode = network.training
    device = next(network.parameters()).device
    network.eval()
    outputs = []
    for batch in in_order(part):
        here = None if bool(batch.present.all()) else batch.present.to(device)
        outputs.append(network([x.to(device) for x in batch.inputs], here, lengths_of(batch, device)))
    network.train(mode)
    parts = zip(*(fused.parts for fused in outputs), strict=True)
    return Fused(torch.cat([fused.prediction.cpu() for fused in outputs]), tuple(torch.cat(z).cpu() for z in parts))


def evaluate(network: Model, part: Part, objective: Objective) -> dict[str, float]:
    """All metrics of a part; a sample without any modality gets the training part's own answer."""
    return objective.measure(objective.without_input(predict(network, part), part.present), part.target)
