"""What the pages say is so: their Python blocks run, their links lead somewhere, and the tests they name exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page):
    """(first line, code) of each Python block."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in BLOCK.finditer(text)]


def anchors(page):
    """The fragments that a link into the page may have, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    from torchmsaf.fusion import METHODS

    before = dict(METHODS)
    namespace = {"__name__": "docs"}
    try:
        for line, code in blocks(page):
            # the page's own line numbers, for the traceback
            exec(compile("\n" * (line - 1) + code, str(page), "exec", dont_inherit=True), namespace)
    finally:
        METHODS.clear()
        METHODS.update(before)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_a_file_and_to_a_heading_in_it(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        assert ROOT in [file, *file.parents], f"{name_of(page)} links out of the repository: {target}"
        if fragment:
            assert fragment in anchors(file), f"{name_of(page)} links to {target}"


def test_every_test_that_fidelity_names_exists():
    named = TEST.findall((ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8"))
    assert named
    for file, function in named:
        assert (ROOT / file).is_file(), file
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in functions, f"{file}::{function}"


def test_every_row_of_the_fidelity_table_has_a_test_or_says_with_what_it_comes():
    text = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| [A-D]\d+ ", line)]
    ids = [re.match(r"\| ([A-D]\d+) ", line)[1] for line in rows]
    counts = {"A": 15, "B": 17, "C": 9, "D": 10}
    assert ids == [f"{letter}{number}" for letter, count in counts.items() for number in range(1, count + 1)]
    for line in rows:
        assert TEST.search(line) or "with the task" in line or "no test" in line, line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_have_no_trailing_blanks_and_end_in_one_newline(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/benchmarks.md"])
def test_every_place_for_a_measured_table_has_one(page):
    text = (ROOT / page).read_text()
    names = re.findall(r"<!-- (\w+) -->", text)
    assert names
    for name in names:
        inside = text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
        assert f"<!-- /{name} -->" in text, f"{page}: {name} is not filled in"
        assert "|" in inside, f"{page}: no table for {name}"
