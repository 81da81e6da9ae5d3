"""Table 3 of the MSAF paper as a comparison: prepared clips of NTU RGB+D, their networks, protocols and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torchmsaf.data.actions import Draw, action_modalities, action_samples
from torchmsaf.data.folds import make_protocol
from torchmsaf.data.ntu_protocols import ntu_groups, ntu_protocol
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.samples import Samples
from torchmsaf.errors import DataError
from torchmsaf.experiments.compare import Comparison
from torchmsaf.experiments.methods import MethodChoice
from torchmsaf.tasks.action import MSAF, NETWORKS, PLACEMENTS, PRESETS, STEPS, network_options, preset_of
from torchmsaf.tasks.model_file import read_spec
from torchmsaf.tasks.recipe import Recipe


def action_comparison(
    prepared: Prepared,
    methods: Sequence[MethodChoice],
    *,
    rgb: str = "i3d",
    preset: str | None = None,
    protocol: str = "cross-subject",
    persons: int = 2,
    draw: Draw | None = None,
    placement: bool = False,
    seeds: Sequence[int] = (0,),
    recipe: Recipe | None = None,
    checkpointing: bool = False,
    pretrained: Mapping[str, str] | None = None,
    noise: Sequence[float] = (),
) -> Comparison:
    """A comparison on prepared clips of NTU RGB+D.

    Args:
        prepared: as ``torchmsaf prepare ntu`` makes it.
        methods: what to compare. MSAF has the paper's lambda of 0.5 where its options do not say otherwise.
        rgb: the RGB network, ``i3d`` or ``resnet50``.
        preset: whose sizes; None = those of the prepared frames.
        protocol: of :func:`~torchmsaf.data.ntu_protocols.ntu_protocol`.
        persons: of a scene, each an input of its own to a fusion between the networks.
        draw: what training changes; None = ``random``, or ``published`` under the published protocol.
        placement: add MSAF at the places of the paper's Table 5, alone and together.
        seeds: one run a seed.
        recipe: the budget; None = the defaults.
        checkpointing: of the RGB network: less memory, more time.
        pretrained: files of weights that networks begin with, by modality.
        noise: levels of noise to test with.

    Raises:
        DataError: not NTU RGB+D; a preset, network or number of persons that is not there; pretrained weights of another
            protocol.
        ProtocolError: a part of the fold has no clips.
    """
    preset = preset_of(prepared.parameters) if preset is None else preset
    options = network_options(preset, rgb, checkpointing=checkpointing)
    sizes = PRESETS[preset]
    stored = prepared.parameters.get("size")
    if "rgb" in action_modalities(prepared) and stored != sizes.stored:
        raise DataError(
            f"preset {preset} is for frames of {sizes.stored} x {sizes.stored}, and those of {prepared.path} are {stored} x "
            f"{stored}: prepare with --size {sizes.stored}, or choose another preset"
        )
    draw = draw or ("published" if protocol == "published" else "random")
    samples = action_samples(
        prepared,
        groups=ntu_groups([entry.id for entry in prepared.entries], protocol),
        frames=sizes.frames[rgb],
        size=sizes.size,
        steps=STEPS,
        persons=persons,
        draw=draw,
    )
    for path in (pretrained or {}).values():
        about = read_spec(path).about
        if "released" not in about and about.get("protocol", protocol) != protocol:
            raise DataError(
                f"{path} was trained with protocol {about['protocol']}, and may have seen who tests in {protocol}: use "
                "weights of the same protocol"
            )
    weights = (pretrained or {}).get("rgb")
    if rgb == "i3d" and weights is not None and "rgb" in (own := read_spec(weights).networks):
        # released weights exist for both kinds of padding
        options["rgb"] |= {key: value for key, value in own["rgb"].options.items() if key == "padding"}
    made_up = any(entry.facts.get("made_up") for entry in prepared.entries)
    named = [{"rgb": rgb, "skeleton": "hcn"}[name] for name in samples.modalities]
    return _comparison(
        samples,
        methods,
        title=f"Actions of {samples.name}, {'MADE-UP clips, ' if made_up else ''}{', '.join(samples.modalities)} "
        f"({' and '.join(named)}{'' if preset == 'full' else f', preset {preset}'}), protocol {protocol}",
        protocol=ntu_protocol(samples, protocol),
        networks={name: NETWORKS[name] for name in samples.modalities},
        network_options={name: options[name] for name in samples.modalities if options[name]},
        placement=placement,
        seeds=seeds,
        recipe=recipe,
        pretrained=pretrained,
        noise=noise,
        about={
            "protocol": protocol,
            "made_up": made_up,
            "rgb": rgb,
            "preset": preset,
            "draw": draw,
            "parameters": dict(prepared.parameters),
        },
    )


def array_actions(
    samples: Samples,
    methods: Sequence[MethodChoice],
    *,
    folds: int = 5,
    validation: float = 0.2,
    split_seed: int = 0,
    one_fold: bool = False,
    seeds: Sequence[int] = (0,),
    recipe: Recipe | None = None,
    noise: Sequence[float] = (),
) -> Comparison:
    """A comparison on other skeletons than those of NTU RGB+D, with whatever modalities there are beside them.

    Args:
        samples: as :func:`~torchmsaf.data.skeleton_arrays.load_skeletons` makes them. The modality ``skeleton`` gets HCN,
            others the network for the rank of their samples.
        methods: what to compare.
        folds: where the file ships no split.
        validation: part of the training groups that validates.
        split_seed: of the draw of folds and validation.
        one_fold: run the first alone.
        seeds: one run a fold and seed.
        recipe: the budget; None = the defaults.
        noise: levels of noise to test with.

    Raises:
        ProtocolError: too few groups or samples.
    """
    small = PRESETS["small"].skeleton
    protocol = make_protocol(samples, folds=folds, validation=validation, seed=split_seed)
    if one_fold:
        protocol = replace(protocol, folds=protocol.folds[:1])
    return _comparison(
        samples,
        methods,
        title=f"Actions of {samples.name}: {', '.join(samples.modalities)}",
        protocol=protocol,
        networks={"skeleton": NETWORKS["skeleton"]},
        network_options={"skeleton": dict(small)},
        seeds=seeds,
        recipe=recipe,
        noise=noise,
        about={},
    )


def _comparison(
    samples: Samples,
    methods: Sequence[MethodChoice],
    *,
    placement: bool = False,
    seeds: Sequence[int],
    recipe: Recipe | None,
    about: Mapping[str, Any],
    pretrained: Mapping[str, str] | None = None,
    **more: Any,
) -> Comparison:
    chosen = [_of_paper(choice) for choice in methods]
    if placement:
        chosen += [_of_paper(MethodChoice("msaf", {"points": list(points)})) for points in PLACEMENTS]
    return Comparison(
        samples=samples,
        methods=[choice for number, choice in enumerate(chosen) if choice not in chosen[:number]],
        seeds=tuple(seeds),
        recipe=recipe or Recipe(),
        pretrained=pretrained or {},
        about={"task": "action", **about},
        decision="mean",
        **more,
    )


def _of_paper(choice: MethodChoice) -> MethodChoice:
    """MSAF with the paper's lambda where none is given."""
    return replace(choice, options={**MSAF, **choice.options}) if choice.name == "msaf" else choice
