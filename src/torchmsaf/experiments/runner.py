"""The trainings of one fold and seed: the unimodal networks, then every method from the same weights on the same batches."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchmsaf.analysis.cost import count_flops, count_parameters
from torchmsaf.backbones.by_rank import network_for
from torchmsaf.data import Samples, Standardizer
from torchmsaf.errors import ResultError, TorchmsafError
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.results import UnitFile
from torchmsaf.experiments.unit import Unit
from torchmsaf.tasks.batches import Part
from torchmsaf.tasks.network import FusedNetwork, module_name
from torchmsaf.tasks.training import Trained, evaluate, train


class Runner:
    """The trainings of one unit.

    Args:
        unit: what to train.
        file: where it is put on record.
    """

    def __init__(self, unit: Unit, file: UnitFile) -> None:
        self.unit, self.file = unit, file
        standardizer = Standardizer.fit(unit.samples, unit.fold.train)
        features = tuple(standardizer.transform(unit.samples).values())
        rows = (unit.fold.train, unit.fold.validation, unit.fold.test)
        self.train, self.validation, self.test = (_part(unit.samples, features, part) for part in rows)
        prior = None
        if not unit.samples.regression:
            counts = torch.bincount(self.train.target, minlength=unit.objective.outputs)
            prior = tuple((counts / len(self.train)).tolist())
        self.objective = replace(
            unit.objective, mean=standardizer.target_mean, std=standardizer.target_std, prior=prior
        )
        self.starts: dict[str, dict[str, Tensor]] = {}

    def start(self, modality: str) -> None:
        """Train a unimodal network from random weights: where every row of the table starts."""
        key = f"start.{modality}"
        network = self._network({modality}, None, {}, key)
        state = self.file.weights(key)
        if state is None:
            m = self._index(modality)
            trained = self._train(network, self.train.only(m), self.validation.only(m), key)
            record = self._record(modality, "start", network, trained) | {"modality": modality}
            state = network.state_dict()
            self.file.save(key, record, state)
        self.starts[modality] = {name: value.clone() for name, value in state.items()}

    def unimodal(self, modality: str) -> None:
        """A row of the table: one modality alone."""
        key = f"unimodal.{modality}"
        if key in self.file.done:
            return
        m = self._index(modality)
        network = self._network({modality}, None, {}, key)
        trained = self._train(network, self.train.only(m), self.validation.only(m), key)
        record = self._record(modality, "unimodal", network, trained) | {"modality": modality}
        # all samples, as every row has: its epoch was chosen on those that have the modality
        record["validation"] = evaluate(network, self.validation.alone(m), self.objective)
        record["test"] = test = evaluate(network, self.test.alone(m), self.objective)
        # without its own modality there is nothing to say; without another nothing changes
        record["test_missing"] = {name: None if name == modality else test for name in self.unit.samples.modalities}
        self.file.save(key, record, network.state_dict())

    def method(self, choice: MethodChoice) -> None:
        """A row of the table: all modalities and a fusion."""
        if choice.key in self.file.done:
            return
        names = self.unit.samples.modalities
        network = self._network(set(names), choice.name, choice.options, choice.key)
        added = sum(p.numel() for p in network.fusion_parameters())
        trained = self._train(network, self.train, self.validation, choice.key)
        record = self._record(choice.name, choice.stage, network, trained)
        record |= {"options": choice.options, "added_parameters": added}
        record["test"] = evaluate(network, self.test, self.objective)
        record["test_missing"] = {
            name: evaluate(network, self.test.without(m), self.objective) for m, name in enumerate(names)
        }
        self.file.save(choice.key, record, network.state_dict())

    def _index(self, modality: str) -> int:
        return self.unit.samples.modalities.index(modality)

    def _network(self, names: set[str], method: str | None, options: Mapping[str, Any], key: str) -> FusedNetwork:
        """A network with the unimodal weights of this fold and seed, once they are there."""
        unit = self.unit
        torch.manual_seed(_seed(unit.seed, unit.fold.index, key))
        networks = {
            name: network_for(value.shape[1:], unit.objective.outputs, class_path=unit.networks.get(name))
            for name, value in unit.samples.features.items()
            if name in names
        }
        regression = unit.objective.regression
        network = FusedNetwork(networks, method, outputs=unit.objective.outputs, options=options, regression=regression)
        for name in names & self.starts.keys():
            prefix = f"networks.{module_name(name)}."
            own = {key.removeprefix(prefix): value for key, value in self.starts[name].items()}
            network.networks[module_name(name)].load_state_dict(own)
        return network

    def _train(self, network: FusedNetwork, part: Part, validation: Part, key: str) -> Trained:
        unit = self.unit
        try:
            return train(
                network,
                part,
                validation,
                self.objective,
                unit.recipe,
                order_seed=_seed(unit.seed, unit.fold.index, "order"),
                accelerator=unit.accelerator,
            )
        except TorchmsafError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            raise ResultError(
                f"training {key!r} failed in fold {unit.fold.index}, seed {unit.seed}: {error}. What is done is kept; "
                "--resume goes on from here"
            ) from error

    def _record(self, method: str, stage: str, network: FusedNetwork, trained: Trained) -> dict[str, Any]:
        names = [modality for modality in self.unit.samples.modalities if module_name(modality) in network.networks]
        one = [torch.zeros(1, *self.unit.samples.features[name].shape[1:]) for name in names]
        return {
            "fold": self.unit.fold.index,
            "seed": self.unit.seed,
            "method": method,
            "stage": stage,
            "modality": None,
            "options": {},
            "validation": trained.validation,
            "parameters": count_parameters(network),
            "added_parameters": 0,
            "flops": count_flops(network, one),
            "seconds": round(trained.seconds, 4),
            "epochs": trained.epochs,
            "best_epoch": trained.best_epoch,
            "diverged": trained.diverged,
            "train_size": len(self.train),
            "validation_size": len(self.validation),
            "test_size": len(self.test),
        }


def _part(samples: Samples, features: Sequence[Tensor], rows: np.ndarray[Any, np.dtype[np.int64]]) -> Part:
    index = torch.from_numpy(rows)
    return Part(tuple(x[index] for x in features), samples.target[index], samples.present[index])


def _seed(seed: int, fold: int, purpose: str) -> int:
    """A seed of its own for each purpose, the same in every process."""
    return int(np.random.SeedSequence([seed, fold, zlib.crc32(purpose.encode())]).generate_state(1, np.uint64)[0] >> 1)
