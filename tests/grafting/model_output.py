"""A stand-in for the class of outputs that transformers' networks give."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields
from typing import Any


class ModelOutput(OrderedDict):
    """A mapping whose keys are attributes too, as transformers' ``ModelOutput`` is."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        build, _, *rest = super().__reduce__()
        return build, tuple(getattr(self, field.name) for field in fields(self)), *rest
