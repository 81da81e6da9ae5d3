"""The scripts in examples/ run as they are, and are short enough to be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run(name, *arguments):
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=850,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_examples_have_at_most_80_lines(script):
    assert len(script.read_text().splitlines()) <= 80


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_example_is_run_by_a_test(script):
    tests = [Path(__file__), Path(__file__).with_name(f"test_example_{script.stem}.py")]
    assert any(f'run("{script.name}"' in test.read_text() or test != tests[0] for test in tests if test.exists())


@pytest.mark.slow
def test_quickstart_learns_from_both_modalities_and_answers_without_one():
    lines = dict(line.split(": ", 1) for line in run("quickstart.py").splitlines())
    accuracy = {name: float(lines[name].split()[1]) for name in ("both", "without sound")}
    assert accuracy["both"] > 0.9
    assert 0.3 < accuracy["without sound"] < accuracy["both"]


@pytest.mark.slow
def test_compare_python_prints_the_table_and_leaves_a_folder(tmp_path):
    pytest.importorskip("lightning")
    printed = run("compare_python.py", str(tmp_path / "digits"))
    for row in ("left", "right", "averaging", "msaf (identity_start=True)"):
        assert f"\n  {row} " in printed
    assert (tmp_path / "digits" / "table.html").is_file()
    assert printed.count("best epoch") == 4
