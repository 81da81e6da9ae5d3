"""Protects grafted models in a LightningModule: the trainer trains, validates and saves them as any other."""

from __future__ import annotations

import warnings
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchmsaf.grafting import FusionPoint, GraftedModel, graft


def grafted() -> GraftedModel:
    torch.manual_seed(0)
    networks = {
        "sound": nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(30, 2)),
        "text": nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)),
    }
    point = FusionPoint({"sound": "1", "text": "0"}, "msaf", block_channels=2, reduction=1)
    return graft(networks, [point], example={"sound": torch.randn(2, 3, 7), "text": torch.randn(2, 5)})


class Task(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = grafted()
        self.losses: list[float] = []

    def loss(self, batch: list[Tensor]) -> Tensor:
        sound, text, target = batch
        return nn.functional.cross_entropy(self.model({"sound": sound, "text": text}), target)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("val", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data() -> DataLoader[Any]:
    target = torch.arange(16) % 2
    text = torch.randn(16, 5) + 2 * target[:, None]
    return DataLoader(TensorDataset(torch.randn(16, 3, 7), text, target), batch_size=8)


def fit(task: Task, **options: Any) -> lightning.Trainer:
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainer's own, about the number of workers and the like
        trainer = lightning.Trainer(**settings | {"enable_checkpointing": False} | options)
        trainer.fit(task, data(), data())
    return trainer


def test_a_dry_run_of_the_trainer_goes_through() -> None:
    """Protects ``fast_dev_run``, the first thing that people try: one step, and networks and fusion have moved."""
    task, start = Task(), grafted()
    fit(task, fast_dev_run=True)
    assert len(task.losses) == 1
    for name, p in start.named_parameters():
        if name.endswith("weight"):  # a bias before batch norm has no gradient
            assert not torch.equal(p, task.model.get_parameter(name)), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_trainer_lowers_the_loss_as_a_loop_by_hand_does(precision: str) -> None:
    """Protects training by the trainer, in mixed precision too: the losses are those of a loop without it."""
    task = Task()
    torch.manual_seed(2)
    fit(task, max_epochs=4, precision=precision, num_sanity_val_steps=0)
    other = Task()
    torch.manual_seed(2)
    batches = list(data())
    optimizer = other.configure_optimizers()
    losses = []
    for _ in range(4):
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
                loss = other.loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    torch.testing.assert_close(task.losses, losses)
    assert task.losses[-1] < task.losses[0]


def test_a_checkpoint_of_the_trainer_brings_the_model_back(tmp_path: Any) -> None:
    """Protects saved tasks: loaded into a new one, the grafted model gives the same."""
    task = Task()
    trainer = fit(task, max_epochs=1)
    path = str(tmp_path / "task.ckpt")
    trainer.save_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = Task.load_from_checkpoint(path, weights_only=True)
    batch = next(iter(data()))
    torch.testing.assert_close(loaded.eval().loss(batch), task.eval().loss(batch), rtol=0, atol=0)
