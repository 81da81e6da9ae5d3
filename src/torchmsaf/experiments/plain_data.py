"""Plain data, as JSON has it: what is missing in it, and where two of them differ."""

from __future__ import annotations

import json
import math
from typing import Any


def what_is_wrong(value: Any, needed: Any, name: str = "") -> str | None:
    """What is missing or of another type in plain data; None when nothing is."""
    if not isinstance(needed, dict):
        return None if isinstance(value, needed) else f"{name!r} is {_short(value)}"
    if not isinstance(value, dict):
        return f"{name!r} is {_short(value)}" if name else f"it is {_short(value)}"
    for key, kind in needed.items():
        path = f"{name}.{key}" if name else key
        if key not in value:
            return f"it has no {path!r}"
        found = what_is_wrong(value[key], kind, path)
        if found is not None:
            return found
    return None


def without_nan(value: Any) -> Any:
    """Numbers that JSON does not have, NaN and infinity, as null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_same(old: Any, new: Any) -> bool:
    """Whether two values of a configuration are the same; a setting that an older version did not have is null."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(is_same(old.get(key), new.get(key)) for key in {*old, *new})
    return bool(old == new)


def difference(old: Any, new: Any) -> str:
    """Where two values of a configuration differ: ``.epochs: 3 there, 4 now``."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in [*old, *new] if not is_same(old.get(key), new.get(key)))
        return f".{key}{difference(old.get(key), new.get(key))}"
    return f": {_short(old)} there, {_short(new)} now"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
