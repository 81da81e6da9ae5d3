"""The trainings of one fold and seed: the unimodal networks, then every method, on the same batches."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchmsaf.analysis.cost import count_flops, count_parameters
from torchmsaf.data import Standardizer
from torchmsaf.data.natural_order import natural_sorted
from torchmsaf.errors import ResultError, TorchmsafError
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.experiments.results import UnitFile
from torchmsaf.experiments.unit import Unit
from torchmsaf.tasks.batches import Part, part_of
from torchmsaf.tasks.model_file import (
    ModelSpec,
    NetworkSpec,
    channel_order,
    kind_of_systems,
    load_pretrained,
    read_spec,
)
from torchmsaf.tasks.models import Model
from torchmsaf.tasks.network import FusedNetwork, module_name
from torchmsaf.tasks.training import Trained, evaluate, own_recipe, train


class Runner:
    """The trainings of one unit.

    Args:
        unit: what to train.
        file: where it is put on record.
    """

    def __init__(self, unit: Unit, file: UnitFile) -> None:
        self.unit, self.file, self.setting = unit, file, unit.setting
        samples = unit.samples
        standardizer = Standardizer.fit(samples, unit.fold.train)
        features = tuple(standardizer.transform(samples).values())
        lengths = [samples.lengths.get(name) for name in samples.modalities]
        train, self.validation, self.test = (
            part_of(features, samples.target, samples.present, torch.from_numpy(rows), lengths)
            for rows in (unit.fold.train, unit.fold.validation, unit.fold.test)
        )
        # only what is trained on is changed
        self.train = replace(train, augment=tuple(self.setting.augment.get(name) for name in samples.modalities))
        prior = None
        if not samples.regression:
            counts = torch.bincount(train.target, minlength=self.setting.objective.outputs)
            prior = tuple((counts / len(train)).tolist())
        answer = 0.0
        if not self.setting.scale_target:
            answer = standardizer.target_mean
            standardizer = replace(standardizer, target_mean=0.0, target_std=1.0)
        self.objective = replace(
            self.setting.objective,
            mean=standardizer.target_mean,
            std=standardizer.target_std,
            answer=answer,
            prior=prior,
        )
        self.standardized, self.seen = standardizer.as_plain(), self._seen()
        self.spread: dict[str, Tensor] = {}
        self.starts: dict[str, dict[str, Tensor]] = {}

    def start(self, modality: str) -> None:
        """Train a unimodal network from random weights: where every row of the table starts."""
        key = f"start.{modality}"
        state = self.file.weights(key)
        if state is None:
            spec, network = self._network({modality}, None, {}, key)
            if modality in self.setting.pretrained and isinstance(network, FusedNetwork):
                own = network.networks[module_name(modality)]
                path, order = self.setting.pretrained[modality], channel_order(self.setting.about)
                load_pretrained(own, path, modality, order=order)
            m = self._index(modality)
            trained = self._train(network, self.train.only(m), self.validation.only(m), key)
            record = self._record(modality, "start", network, trained) | {"modality": modality}
            state = network.state_dict()
            self.file.save(key, record, state, spec)
        self.starts[modality] = {name: value.detach().cpu().clone() for name, value in state.items()}

    def unimodal(self, modality: str) -> None:
        """A row of the table: one modality alone."""
        key = f"unimodal.{modality}"
        if key in self.file.done:
            return
        m = self._index(modality)
        spec, network = self._network({modality}, None, {}, key)
        trained = self._train(network, self.train.only(m), self.validation.only(m), key)
        record = self._record(modality, "unimodal", network, trained) | {"modality": modality}
        # all samples, as every row has: its epoch was chosen on those that have the modality
        record["validation"] = evaluate(network, self.validation.alone(m), self.objective)
        record["test"] = test = evaluate(network, self.test.alone(m), self.objective)
        # without its own modality there is nothing to say; without another nothing changes
        record["test_missing"] = {name: None if name == modality else test for name in self.unit.samples.modalities}
        record |= self._with_noise(network, self.test.alone(m), {modality: 0})
        self.file.save(key, record, network.state_dict(), spec)

    def method(self, choice: MethodChoice) -> None:
        """A row of the table: all modalities and a fusion."""
        if choice.key in self.file.done:
            return
        names = self.unit.samples.modalities
        spec, network = self._network(set(names), choice.name, choice.options, choice.key)
        added = sum(p.numel() for p in network.fusion_parameters())
        trained = self._train(network, self.train, self.validation, choice.key)
        record = self._record(choice.name, choice.stage, network, trained)
        record |= {"options": choice.options, "added_parameters": added if isinstance(network, FusedNetwork) else None}
        record["test"] = evaluate(network, self.test, self.objective)
        record["test_missing"] = {
            name: evaluate(network, self.test.without(m), self.objective) for m, name in enumerate(names)
        }
        record |= self._with_noise(network, self.test, {name: m for m, name in enumerate(names)})
        self.file.save(choice.key, record, network.state_dict(), spec)

    def _with_noise(self, network: Model, test: Part, where: Mapping[str, int]) -> dict[str, Any]:
        """Test scores with noise on one modality after the other: the same noise for all rows of the table.

        Args:
            network: what is tested.
            test: the samples.
            where: the number that each noisy modality has in them.
        """
        if not self.setting.noise:
            return {}
        scores = {}
        for name, m in where.items():
            if name in self.unit.samples.tokens:
                continue  # a word is no number that could be a little more
            seed = _seed(self.unit.seed, self.unit.fold.index, f"noise {name}")
            if name not in self.spread:
                self.spread[name] = _spread(self.train.only(self._index(name)))
            spread = self.spread[name]
            scores[name] = {
                f"{level:g}": evaluate(network, test.noisy(m, level * spread, seed), self.objective)
                for level in self.setting.noise
            }
        return {"test_noise": scores}

    def _index(self, modality: str) -> int:
        return self.unit.samples.modalities.index(modality)

    def _network(
        self, names: set[str], method: str | None, options: Mapping[str, Any], key: str
    ) -> tuple[ModelSpec, Model]:
        """A network with the unimodal weights of this fold and seed, once they are there."""
        setting, samples = self.setting, self.unit.samples
        torch.manual_seed(_seed(self.unit.seed, self.unit.fold.index, key))
        specs = {
            name: NetworkSpec(tuple(x.shape[1:]), setting.networks.get(name), setting.network_options.get(name, {}))
            for name, x in samples.features.items()
            if name in names
        }
        about = {"classes": samples.classes, **self.seen, **setting.about}
        if self.standardized:
            about["standardized"] = self.standardized
        objective = setting.objective
        fields: dict[str, Any] = {
            "about": about,
            "decision": setting.decision,
            "kind": kind_of_systems(objective.kind, setting.scale_target),
        }
        spec = ModelSpec(specs, method, objective.outputs, options, objective.regression, **fields)
        network = spec.build()
        if isinstance(network, FusedNetwork):  # a system has other encoders
            for name in names & self.starts.keys():
                prefix, own = f"networks.{module_name(name)}.", network.networks[module_name(name)]
                state = {key.removeprefix(prefix): value for key, value in self.starts[name].items()}
                own.load_state_dict({key: state[key] for key in own.state_dict()})  # which may be without its head
        return spec, network

    def _seen(self) -> dict[str, Any]:
        """Whom the weights have seen, by data set: who trains and validates, and whom pretrained weights had seen."""
        samples, fold = self.unit.samples, self.unit.fold
        if samples.groups is None:
            return {}
        seen = {samples.name: {samples.groups[row] for row in (*fold.train, *fold.validation)}}
        for path in self.setting.pretrained.values():
            for name, groups in read_spec(path).seen.items():
                seen.setdefault(name, set()).update(groups)
        return {"seen": {name: natural_sorted(groups) for name, groups in seen.items()}}

    def _train(self, network: Model, part: Part, validation: Part, key: str) -> Trained:
        unit = self.unit
        try:
            return train(
                network,
                part,
                validation,
                self.objective,
                self.setting.recipe,
                order_seed=_seed(unit.seed, unit.fold.index, "order"),
                accelerator=self.setting.accelerator,
            )
        except TorchmsafError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            raise ResultError(
                f"training {key!r} failed in fold {unit.fold.index}, seed {unit.seed}: {error}. What is done is kept; "
                "--resume goes on from here"
            ) from error

    def _record(self, method: str, stage: str, network: Model, trained: Trained) -> dict[str, Any]:
        names = list(self.unit.samples.modalities)
        own: dict[str, Any] = {}
        if isinstance(network, FusedNetwork):
            names = [modality for modality in names if module_name(modality) in network.networks]
        elif (recipe := own_recipe(network, self.setting.recipe)) != self.setting.recipe:
            own["recipe"] = {"batch_size": recipe.batch_size, "learning_rate": recipe.learning_rate}
        device = next(network.parameters()).device
        one = [torch.zeros(1, *self.unit.samples.features[name].shape[1:], device=device) for name in names]
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
            **own,
        }


def _spread(part: Part) -> Tensor:
    """Standard deviation of each channel, ``(C,)``, over what is real of at most 64 samples spread over one modality."""
    rows = torch.linspace(0, len(part) - 1, min(len(part), 64)).round().long().unique()
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for row in rows.tolist():
        x = part.features[0][torch.tensor([row])][0]
        if part.lengths and (own := part.lengths[0]) is not None:
            x = x[..., : int(own[row])]
        x = x.flatten(1).double() if x.dim() > 1 else x[:, None].double()
        count, total, squares = count + x.shape[1], total + x.sum(1), squares + x.square().sum(1)
    mean = total / count
    return (squares / count - mean.square()).clamp(min=0).sqrt().float()


def _seed(seed: int, fold: int, purpose: str) -> int:
    """A seed of its own for each purpose, the same in every process."""
    return int(np.random.SeedSequence([seed, fold, zlib.crc32(purpose.encode())]).generate_state(1, np.uint64)[0] >> 1)
