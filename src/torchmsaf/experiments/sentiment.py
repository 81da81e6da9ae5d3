"""Table 2 of the MSAF paper as a comparison: prepared utterances, their networks, standard folds and methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torchmsaf.data.folds import Protocol, make_protocol
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.samples import PARTS, Samples
from torchmsaf.data.sequences import sequence_samples
from torchmsaf.data.sets import SETS
from torchmsaf.experiments.compare import Comparison
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.tasks.recipe import Recipe
from torchmsaf.tasks.sentiment import MSAF, NETWORKS, network_options

_FOLDS = "Zadeh et al., CMU-MultimodalSDK, standard folds"


def sentiment_comparison(
    prepared: Prepared,
    methods: Sequence[MethodChoice],
    *,
    ablation: bool = False,
    seeds: Sequence[int] = range(5),
    recipe: Recipe | None = None,
    noise: Sequence[float] = (),
) -> Comparison:
    """A comparison on prepared utterances.

    Every row is trained once, from random weights, on the target as it is, as in the paper. Intermediate methods predict by
    one linear layer on the last states of all networks.

    Args:
        prepared: as ``torchmsaf prepare mosei`` makes it.
        methods: what to compare. MSAF has the paper's five segments and BlockDropout of 0.2 where its options do not say
            otherwise.
        ablation: add the rows of :func:`ablation_methods`.
        seeds: one run a seed.
        recipe: the budget; None = the defaults.
        noise: levels of noise to test with, on features and not on words.

    Raises:
        DataError: it was prepared from other data than utterances.
        ProtocolError: a part is empty, or a video is in two.
    """
    samples, vocabulary = sequence_samples(
        prepared, SETS[prepared.set_name].title if prepared.set_name in SETS else None
    )
    steps = next(iter(samples.features.values())).shape[2]
    chosen = [_of_paper(choice, steps) for choice in [*methods, *(ablation_methods(steps) if ablation else ())]]
    chosen = [choice for number, choice in enumerate(chosen) if choice not in chosen[:number]]
    options = network_options(samples.tokens)
    made_up = any(entry.facts.get("made_up") for entry in prepared.entries)
    alignment = prepared.parameters["alignment"]
    about = {"task": "sentiment", "set": prepared.set_name, "made_up": made_up, "parameters": dict(prepared.parameters)}
    if vocabulary is not None:
        about["vocabulary"] = list(vocabulary)
    said = f"{'MADE-UP utterances, ' if made_up else ''}{', '.join(samples.modalities)}"
    if vocabulary is not None:
        said += " (words learned)"
    return Comparison(
        title=f"{samples.name}: {said}, alignment {alignment}",
        samples=samples,
        protocol=_protocol(samples, prepared),
        methods=chosen,
        seeds=tuple(seeds),
        recipe=recipe or Recipe(),
        kind="sentiment" if samples.regression else "classification",
        networks={name: NETWORKS[name] for name in samples.modalities},
        network_options={name: options[name] for name in samples.modalities},
        noise=noise,
        about=about,
        starts=False,
        decision="joint",
        scale_target=False,
    )


def ablation_methods(steps: int) -> list[MethodChoice]:
    """MSAF with one thing at a time other than the paper's: block channels C, BlockDropout p, and q segments (Table 4).

    Args:
        steps: T, which allows no more segments.
    """
    changes: list[dict[str, Any]] = [
        {},
        {"block_channels": 8},
        {"block_channels": 32},
        {"block_dropout": 0.0},
        {"segments": 1},
        {"segments": 10},
    ]
    return [_of_paper(MethodChoice("msaf", change), steps) for change in changes if change.get("segments", 1) <= steps]


def _of_paper(choice: MethodChoice, steps: int) -> MethodChoice:
    """MSAF with the paper's options where none are given; sequences shorter than its segments have one."""
    if choice.name != "msaf":
        return choice
    usual = {**MSAF, "segments": MSAF["segments"] if steps >= MSAF["segments"] else 1}
    return replace(choice, options={**usual, **choice.options})


def _protocol(samples: Samples, prepared: Prepared) -> Protocol:
    protocol, folds = make_protocol(samples), str(prepared.parameters.get("folds"))
    counts = ", ".join(f"{(samples.parts or ()).count(part)} {part}" for part in PARTS if part in (samples.parts or ()))
    drawn = (
        "" if "validation" in (samples.parts or ()) else "; validation: videos of the training part, drawn at random"
    )
    if folds == "standard":
        said, name, citation = "Standard folds", "standard", _FOLDS
    elif folds.startswith("file"):
        said, name, citation = f"Folds of a {folds}, not the standard ones", folds, None
    else:
        return protocol
    if prepared.parameters.get("resplit"):
        said = f"VECTORS RE-SPLIT: they may have seen labels that are tested here, and scores be too good. {said}"
    return replace(protocol, name=name, description=f"{said}, by video ({counts} utterances){drawn}", citation=citation)
