"""Table 1 of the MSAF paper as a comparison: prepared RAVDESS clips, their networks, protocol and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchmsaf.data.clips import emotion_samples
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.protocols import ProtocolName, ravdess_protocol
from torchmsaf.errors import DataError
from torchmsaf.experiments.compare import Comparison
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.tasks.emotion import AUGMENT, NETWORKS, PRESETS, TOP_K, preset_of
from torchmsaf.tasks.model_file import read_spec
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
        DataError: not RAVDESS, or a preset that is not there.
        ProtocolError: there is no such fold, or it lacks its actors.
    """
    preset = preset_of(prepared.parameters) if preset is None else preset
    if preset not in PRESETS:
        raise DataError(f"there is no preset {preset!r}: choose {' or '.join(PRESETS)}")
    samples = emotion_samples(prepared)
    split = ravdess_protocol(samples, protocol, folds=folds)
    video = {**PRESETS[preset].video, **({"checkpointing": True} if checkpointing else {})}
    is_made_up = any(entry.facts.get("made_up") for entry in prepared.entries)
    made_up = "MADE-UP clips, " if is_made_up else ""
    size = "" if preset == "full" else f", preset {preset}"
    begins = "".join(f", {name} pretrained ({_kind(path)})" for name, path in (pretrained or {}).items())
    return Comparison(
        title=f"Emotions of RAVDESS, {made_up}video and audio{size}{begins}, protocol {protocol}",
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
        about={"task": "emotion", "parameters": dict(prepared.parameters), "made_up": is_made_up},
    )


def _kind(path: str) -> str:
    """What pretrained weights are, for a title."""
    return str(read_spec(path).about.get("released", "own"))
