"""A comparison from Python: two folds of the digits, one seed, few epochs. Run it: python compare_python.py [FOLDER].

It is short on purpose; its numbers mean little. `torchmsaf compare digits` is the same with more methods and more runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from torchmsaf.analysis.report import render_text
from torchmsaf.data import load_digits, make_protocol
from torchmsaf.experiments import Comparison, ResultFolder, compare, parse_method
from torchmsaf.tasks.recipe import Recipe


def main(folder: Path) -> None:
    """Compare three ways to fuse, print the table, and read the records."""
    samples = load_digits()
    comparison = Comparison(
        title="Digits, a short run",
        samples=samples,
        protocol=make_protocol(samples, folds=2, validation=0.2, seed=0),
        methods=[parse_method(text) for text in ("averaging", "msaf", "msaf:identity_start=true")],
        seeds=(0,),
        recipe=Recipe(epochs=3, batch_size=64, learning_rate=2e-3),
    )
    # one process: starting others takes longer than these trainings; resume=True starts the folder or goes on with it
    table = compare(comparison, folder, resume=True, jobs=1)
    print(render_text(table))
    for record in ResultFolder(folder).records():
        if record["stage"] == "intermediate":
            print(
                f"fold {record['fold']}, {record['method']} {record['options']}: best epoch {record['best_epoch']}, "
                f"validation {record['validation']['accuracy']:.3f}, test {record['test']['accuracy']:.3f}"
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary) / "digits")
