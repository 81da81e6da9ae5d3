"""Protects the layers of docs/design.md and the house rules that a machine can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchmsaf

ROOT = Path(torchmsaf.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# low to high; what stands in one row does not import from its neighbours in that row
ROWS = (
    ("errors",),
    ("ops",),
    ("msaf", "backbones"),
    ("fusion", "data"),
    ("grafting",),
    ("tasks",),
    ("analysis",),
    ("experiments",),
    ("cli",),
)
HEIGHT = {name: height for height, row in enumerate(ROWS) for name in row}
HEAVY = {"lightning", "torchmetrics", "sklearn", "scipy", "joblib", "safetensors", "rich", "jinja2", "yaml"}
HEAVY |= {"onnx", "onnxscript", "onnxruntime", "av", "cv2", "h5py", "transformers", "tokenizers"}
# two renderers of one table, and one table of kernels: each reads better in one piece
LONG = {"analysis/table.py": 400, "analysis/cost.py": 400}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.fixture(params=FILES, ids=name)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def test_every_layer_is_in_a_row() -> None:
    found = {layer(path) for path in FILES} - {"__init__", "configs"}
    assert found == set(HEIGHT)


def test_imports_go_down(file: Path, tree: ast.Module) -> None:
    own = layer(file)
    if own == "__init__":
        return
    for module, line in imports(tree):
        if not module.startswith("torchmsaf."):
            continue
        other = module.split(".")[1]
        if other == own or other == "configs":
            continue
        assert HEIGHT[other] < HEIGHT[own], f"{name(file)}:{line} imports {module}"


def test_lightning_is_in_tasks_alone(file: Path, tree: ast.Module) -> None:
    found = [module for module, _ in imports(tree) if module.split(".")[0] in ("lightning", "pytorch_lightning")]
    assert not found or name(file) == "tasks/training.py"


def test_heavy_packages_are_imported_when_they_are_used(file: Path, tree: ast.Module) -> None:
    """At the top of a module only Lightning is, in the one module that trains."""
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    top = {module.split(".")[0] for node in outside for module, _ in imports(node)}
    allowed = {"lightning"} if name(file) == "tasks/training.py" else set()
    assert top & HEAVY <= allowed


def test_nothing_prints_but_what_is_for_reading(file: Path, tree: ast.Module) -> None:
    if layer(file) == "cli" or name(file) in ("experiments/progress.py", "grafting/describe.py"):
        return
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"print", "input", "breakpoint"}


def test_no_pickle(file: Path, tree: ast.Module) -> None:
    modules = {module.split(".")[0] for module, _ in imports(tree)}
    assert not modules & {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            assert node.attr != "save"
            assert node.attr != "load" or name(file) == "backbones/released_files.py"


def test_released_weights_are_read_without_running_code() -> None:
    """The one file that may call torch.load does so once, with the restricted reader named in the call."""
    tree = ast.parse((ROOT / "backbones" / "released_files.py").read_text())
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "load"]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in named]
    assert len(named) == len(calls) == 1, "torch.load is called, once, and not passed on"
    given = [keyword.value for keyword in calls[0].keywords if keyword.arg == "weights_only"]
    assert len(given) == 1
    assert isinstance(given[0], ast.Constant)
    assert given[0].value is True


def test_sizes(file: Path, tree: ast.Module) -> None:
    assert len(file.read_text().splitlines()) <= LONG.get(name(file), 350)
    for function in functions(tree):
        first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
        assert (function.end_lineno or 0) - first.lineno < 60, f"{name(file)}: {function.name}"


def test_no_star_imports_and_no_drawers(file: Path, tree: ast.Module) -> None:
    assert not any(
        alias.name == "*" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    )
    assert file.stem not in ("utils", "util", "common", "helpers", "misc")


def test_a_file_says_what_it_is(tree: ast.Module) -> None:
    assert ast.get_docstring(tree)
