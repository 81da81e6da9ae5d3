"""Table 1 of the MSAF paper as a comparison: prepared RAVDESS clips, their networks, protocol and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torchmsaf.data.clips import emotion_samples
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.protocols import ProtocolName, ravdess_protocol
from torchmsaf.errors import DataError
from torchmsaf.experiments.compare import Comparison
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.tasks.emotion import AUGMENT, NETWORKS, PRESETS, TOP_K, preset_of
from torchmsaf.tasks.recipe import Recipe


def emotion_comparison(
    prepared: Prepared,
    methods: Sequence[MethodChoice],
    *,
    preset: str | None = None,
    protocol: ProtocolName = "leak-free",
    folds: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    recipe: Recipe | None = None,
    checkpointing: bool = False,
    pretrained: Mapping[str, str] | None = None,
    noise: Sequence[float] = (),
) -> Comparison:
    """A comparison on prepared RAVDESS clips.

    Args:
        prepared: as ``torchmsaf prepare ravdess`` makes it.
        methods: what to compare.
        preset: whose networks to train; None = that of the clips' sizes.
        protocol: ``leak-free``, or ``published``, which chooses epochs on test actors.
        folds: numbers of the folds to run, 0 to 5; None = all.
        seeds: one run a fold and seed.
        recipe: the budget; None = the defaults.
        checkpointing: of the video network: less memory, more time.
        pretrained: files of weights that networks begin with, by modality.
        noise: levels of noise to test with.

    Raises:
        DataError: not RAVDESS, a preset or folds that are not there.
        ProtocolError: a fold lacks its actors.
    """
    preset = preset_of(prepared.parameters) if preset is None else preset
    if preset not in PRESETS:
        raise DataError(f"there is no preset {preset!r}: choose {' or '.join(PRESETS)}")
    samples = emotion_samples(prepared)
    split = ravdess_protocol(samples, protocol)
    if folds is not None:
        if unknown := [number for number in folds if not 0 <= number < len(split.folds)]:
            raise DataError(f"there is no fold {unknown[0]}: 0 to {len(split.folds) - 1} are there")
        if len(set(folds)) != len(folds) or not folds:
            raise DataError(f"folds are {', '.join(map(str, folds)) or 'none'}: one or more are needed, each once")
        chosen = sorted(folds)
        if len(chosen) < len(split.folds):
            described = f"{split.description}; of the folds only {', '.join(map(str, chosen))}"
            split = replace(split, description=described, folds=tuple(split.folds[number] for number in chosen))
    video = {**PRESETS[preset].video, **({"checkpointing": True} if checkpointing else {})}
    made_up = "MADE-UP clips, " if any(entry.facts.get("made_up") for entry in prepared.entries) else ""
    size = "" if preset == "full" else f", preset {preset}"
    return Comparison(
        title=f"Emotions of RAVDESS, {made_up}video and audio{size}, protocol {protocol}",
        samples=samples,
        protocol=split,
        methods=methods,
        seeds=seeds,
        recipe=recipe or Recipe(),
        networks=NETWORKS,
        network_options={"video": video} if video else {},
        pretrained=pretrained or {},
        augment=AUGMENT,
        noise=noise,
        top_k=TOP_K,
        about={"task": "emotion", "parameters": dict(prepared.parameters)},
    )
