"""The machine in words, and the rows as aligned text, Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

KEEPHEAP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
Row = Mapping[str, Any]


def machine(device: str) -> dict[str, Any]:
    """What a timing depends on."""
    settings = {
        key: os.environ[key] for key in sorted(os.environ) if key.startswith(("MALLOC_", "LD_PRELOAD", "THP_MEM"))
    }
    if all(settings.get(key) == value for key, value in KEEPHEAP.items()):
        allocator = "keepheap (glibc that keeps freed memory)"
    else:
        allocator = f"as started, {settings}" if settings else f"default {' '.join(platform.libc_ver()) or 'libc'}"
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "allocator": allocator,
        "load": None if load is None else [round(value, 2) for value in load],
    }


def as_text(title: str, rows: Sequence[Row], *, markdown: bool = False) -> str:
    """Return a table; an empty string without rows."""
    if not rows:
        return ""
    head = list(dict.fromkeys(key for row in rows for key in row))
    cells = [head, *([_cell(row.get(key)) for key in head] for row in rows)]
    if markdown:
        lines = ["| " + " | ".join(line) + " |" for line in cells]
        return "\n".join([f"## {title}", "", lines[0], "|" + "---|" * len(head), *lines[1:], ""])
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:], ""])


def write(folder: Path, facts: Mapping[str, Any], tables: Mapping[str, Sequence[Row]]) -> None:
    """Write ``results.json`` and ``results.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"machine": facts, "tables": tables}, indent=1) + "\n")
    about = "\n".join(f"* {key}: {value}" for key, value in facts.items())
    body = "\n".join(as_text(title, rows, markdown=True) for title, rows in tables.items() if rows)
    (folder / "results.md").write_text(f"# Benchmark\n\n{about}\n\n{body}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):  # median with quartiles
        return f"{value['median']:.2f} [{value['low']:.2f}-{value['high']:.2f}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
