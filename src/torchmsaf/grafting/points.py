"""What a user says about a fusion: which layers it joins, and how their outputs are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from torchmsaf.errors import GraftError
from torchmsaf.grafting.layouts import check_layout

Calls = Literal["each", "first", "last"]
Element = int | str | tuple[int | str, ...]


@dataclass(frozen=True)
class Tap:
    """One layer whose output is fused.

    Args:
        layer: its name in the network, as ``named_modules()`` has it; ``""`` is the network itself.
        layout: the axes of its output, one letter each, ``B`` batch and ``C`` channels, such as ``"BTC"``, ``"BHWC"``,
            ``"TBC"`` or ``"BCHW"``. None: read from the layers that ran in the dry run (a convolution's channels are
            second, a linear layer's last), and channels second where these say nothing.
        element: which part of an output that is not one tensor: an index, a key, or a path of them. None: the first of
            a tuple; ``last_hidden_state``, ``logits`` or else the first tensor of a mapping.
        call: which of several calls in one forward pass: ``"first"``, ``"last"`` or ``"each"``. None: it runs once, and
            more is an error.
        prefix: tokens at the start of a token sequence that stand for no position (class tokens). They are fused as
            any token; a mask is understood to be of the others.
        optional: the network may pass the layer by, as those do that drop layers at random in training (layerdrop); its map
            is absent then. Such a layer runs once at most.
        read_only: the fusion reads the output and the network goes on with its own. For a further layer of a network
            at a point whose layers feed each other.
    """

    layer: str
    layout: str | None = None
    element: Element | None = None
    call: Calls | None = None
    prefix: int = 0
    optional: bool = False
    read_only: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise GraftError(f"a layer is said by its name, such as 'layer3', got {type(self.layer).__name__}")
        if self.layout is not None:
            check_layout(self.layout, f"layer {self.layer!r}")
        if self.call not in (None, "each", "first", "last"):
            raise GraftError(f"layer {self.layer!r}: call is 'each', 'first' or 'last', got {self.call!r}")
        path = self.element if isinstance(self.element, tuple) else (self.element,)
        if self.element is not None and not (path and all(type(step) in (int, str) for step in path)):
            raise GraftError(
                f"layer {self.layer!r}: element is an index, a key, or a tuple of them, got {self.element!r}"
            )
        if isinstance(self.prefix, bool) or not isinstance(self.prefix, int) or self.prefix < 0:
            raise GraftError(f"layer {self.layer!r}: prefix is a number of tokens, got {self.prefix!r}")
        if self.optional and self.call is not None:
            raise GraftError(f"layer {self.layer!r}: an optional layer runs once at most; leave call={self.call!r} out")


class FusionPoint:
    """A fusion, and the layers whose outputs it takes and replaces.

    Args:
        taps: the layers, by the names of their networks: a name, a :class:`Tap`, or several in a list. The fusion gets
            their maps in this order.
        fusion: an intermediate method by name (``torchmsaf methods`` lists them), built from the channels that the dry
            run saw; a module; or any callable. It is called as ``fusion(maps)``, with ``masks`` and ``present`` where it
            has such parameters, and gives maps of the same shapes.
        **options: arguments of a method given by name, such as ``block_dropout=0.2``.

    Raises:
        GraftError: no taps, or something that is none of these.
    """

    def __init__(
        self,
        taps: Mapping[str, str | Tap | Sequence[str | Tap]],
        fusion: str | nn.Module | Callable[..., Any] = "msaf",
        **options: Any,
    ) -> None:
        if not isinstance(taps, Mapping) or not taps:
            raise GraftError('a fusion point is {network: layer}, such as {"video": "layer3", "audio": "conv2"}')
        self.taps: dict[str, tuple[Tap, ...]] = {name: _taps(name, said) for name, said in taps.items()}
        if not isinstance(fusion, str) and not callable(fusion):
            raise GraftError(f"a fusion is a method's name, a module or a callable, got {type(fusion).__name__}")
        if isinstance(fusion, type):
            raise GraftError(f"a fusion is built before it is given: {fusion.__name__}(...), or its name with options")
        if options and not isinstance(fusion, str):
            raise GraftError(f"options {', '.join(options)} are for a method given by name; build them into the module")
        self.fusion = fusion
        self.options = options

    def __repr__(self) -> str:
        said = ", ".join(f"{name}: {' + '.join(tap.layer for tap in taps)}" for name, taps in self.taps.items())
        return f"FusionPoint({said})"


def _taps(name: str, said: object) -> tuple[Tap, ...]:
    several = said if isinstance(said, Sequence) and not isinstance(said, str) else [said]
    taps = [Tap(one) if isinstance(one, str) else one for one in several]
    if not taps or not all(isinstance(tap, Tap) for tap in taps):
        raise GraftError(f"network {name!r}: a tap is a layer's name or a Tap, or a list of them, got {said!r}")
    return tuple(tap for tap in taps if isinstance(tap, Tap))
