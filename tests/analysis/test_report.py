"""The comparison table as text, Markdown and HTML: what is printed, and that no name breaks out of it."""

import html.parser
import importlib
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmsaf.analysis import report
from torchmsaf.analysis.report import render_html, render_markdown, render_text
from torchmsaf.analysis.statistics import Estimate, PairedTest
from torchmsaf.analysis.table import Metric, Row, Table
from torchmsaf.errors import MissingDependencyError

ACCURACY = Metric("accuracy", True, True)
MAE = Metric("mae", False, False)


def estimate(mean, error=0.01):
    return Estimate(mean, error, 3, 2, 6)


def difference(value, p):
    return PairedTest(value, 0.01, p, 2, "corrected resampled t-test over folds", 6)


def make_row(method="msaf", stage="intermediate", modalities=("left", "right"), **changes):
    values = {
        "method": method,
        "stage": stage,
        "score": estimate(0.9123),
        "others": {"macro_f1": estimate(0.9)},
        "difference": difference(0.0311, 0.012),
        "corrected_p": 0.024,
        "missing": {name: estimate(0.5) for name in modalities},
        "parameters": 12345,
        "added_parameters": 123,
        "flops": 1234567,
        "seconds": 1.23,
        "runs": 6,
        "expected": 6,
    }
    return Row(**(values | changes))


def make_table(rows=None, modalities=("left", "right"), **changes):
    if rows is None:
        rows = (
            make_row("left", "unimodal", modalities, difference=difference(-0.02, 0.0001), corrected_p=0.0003),
            make_row("right", "unimodal", modalities, difference=None, corrected_p=None),
            make_row("average", "late", modalities),
            make_row("msaf (identity_start=True)", "intermediate", modalities),
        )
    values = {
        "title": "Digits",
        "protocol": "Five folds (Who, 2020)",
        "score": ACCURACY,
        "others": (Metric("macro_f1", True, True),),
        "modalities": modalities,
        "rows": tuple(rows),
        "reference": 1 if len(rows) > 1 else None,
        "n_folds": 3,
        "n_seeds": 2,
        "notes": ("First note.", "Second note."),
    }
    return Table(**(values | changes))


TEXT = """\
Digits. Five folds (Who, 2020).

                                                                                  p     without     without
method                        accuracy %  macro_f1 %  difference       p  corrected        left       right
-----------------------------------------------------------------------------------------------------------
unimodal
  left                        91.2 ± 1.0  90.0 ± 1.0        -2.0  <0.001     <0.001  50.0 ± 1.0  50.0 ± 1.0
  right                       91.2 ± 1.0  90.0 ± 1.0        ref.       –          –  50.0 ± 1.0  50.0 ± 1.0
late fusion
  average                     91.2 ± 1.0  90.0 ± 1.0        +3.1   0.012      0.024  50.0 ± 1.0  50.0 ± 1.0
intermediate fusion
  msaf (identity_start=True)  91.2 ± 1.0  90.0 ± 1.0        +3.1   0.012      0.024  50.0 ± 1.0  50.0 ± 1.0

method                        parameters  added   FLOPs  seconds  runs
----------------------------------------------------------------------
unimodal
  left                            12,345    123  1.23 M      1.2   6/6
  right                           12,345    123  1.23 M      1.2   6/6
late fusion
  average                         12,345    123  1.23 M      1.2   6/6
intermediate fusion
  msaf (identity_start=True)      12,345    123  1.23 M      1.2   6/6

- First note.
- Second note.
- –: not measured or not defined. added: parameters beyond the networks'. seconds: mean of the runs.
"""

MARKDOWN = """\
**Digits. Five folds (Who, 2020).**

| method | stage | accuracy % | difference | p | p corrected | without left | parameters | added | FLOPs | seconds | runs |
|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| left | unimodal | 91.2 ± 1.0 | ref. | – | – | – | 12,345 | 123 | 1.23 M | 1.2 | 6/6 |
| msaf | intermediate | 91.2 ± 1.0 | +3.1 | 0.012 | 0.024 | 50.0 ± 1.0 | 12,345 | 123 | 1.23 M | 1.2 | 6/6 |

- First note.
- Second note.
- –: not measured or not defined. added: parameters beyond the networks'. seconds: mean of the runs.
"""


class Page(html.parser.HTMLParser):
    """Collects the tags, their attributes and the text of table cells."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.cells, self.inside = [], [], [], False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = tag in ("td", "th")
        if self.inside:
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside or self.tags[-1:] == ["span"]:
            self.cells[-1:] = [self.cells[-1] + data] if self.cells else []


def test_text_is_these_lines():
    assert render_text(make_table(), width=120) == TEXT


def test_two_modalities_fit_one_table_in_the_default_width():
    text = render_text(make_table())
    assert text.count("method ") == 1
    assert max(map(len, text.splitlines())) <= 150


def test_markdown_is_these_lines():
    rows = (
        make_row("left", "unimodal", ("left",), difference=None, corrected_p=None, missing={"left": None}),
        make_row("msaf", "intermediate", ("left",)),
    )
    assert render_markdown(make_table(rows, ("left",), others=(), reference=0)) == MARKDOWN


def test_html_has_the_same_numbers_in_order_and_needs_nothing_else():
    page = render_html(make_table())
    parsed = Page(page)
    at = parsed.cells.index("average")
    numbers = "91.2 ± 1.0|90.0 ± 1.0|+3.1|0.012|0.024|50.0 ± 1.0|50.0 ± 1.0|12,345|123|1.23 M|1.2|6/6"
    assert parsed.cells[at + 1 : at + 13] == numbers.split("|")
    assert "<caption><span>Digits. Five folds (Who, 2020).</span></caption>" in page
    assert "<li>Second note.</li>" in page
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "onload"}
    assert "url(" not in page
    assert "@import" not in page
    assert "color-scheme: light dark" in page
    assert page.endswith("</html>\n")


def test_html_escapes_names():
    evil = "<script>alert('1')</script>\" onclick=\"x"
    table = make_table(
        [make_row(f"{evil}&amp;", modalities=(evil,))],
        (evil,),
        title=evil,
        protocol=evil,
        notes=(evil,),
        reference=None,
    )
    page = render_html(table)
    assert "<script" not in page
    assert f"{evil}&amp;" in Page(page).cells  # shown as typed
    assert not [name for name, _ in Page(page).attributes if name.startswith("on")]


def test_markdown_escapes_names():
    text = render_markdown(make_table([make_row("a|b <img src=x> *c* `d` [e](f) _g_ h_i \\ ~j~ &lt;")], reference=None))
    row = text.splitlines()[4]
    assert row.startswith(
        r"| a\|b &lt;img src=x> \*c\* \`d\` \[e\](f) \_g\_ h_i \\ \~j\~ &amp;lt; | intermediate | 91.2 ± 1.0 |"
    )
    assert row.count("|") - row.count(r"\|") == text.splitlines()[2].count("|")


@pytest.mark.parametrize("render", [render_text, render_markdown, render_html])
def test_control_and_direction_characters_are_not_printed(render):
    name = "a\nb\x1b[31mc\u202ed\te"
    out = render(make_table([make_row(name)], reference=None, title=name, notes=(name,)))
    assert not set(out) & {"\x1b", "\u202e", "\t", "\r"}
    assert f"a b {'[' if render is not render_markdown else chr(92) + '['}31mc d e" in out


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("width", [80, 150])
def test_any_number_of_long_modalities_fits(count, width):
    modalities = tuple(f"{'very_' * 6}long_modality_{number}" for number in range(count))
    metrics = tuple(Metric(name, False, None) for name in ("mae", "pearson", "acc2", "f1", "acc7"))
    others = {metric.name: estimate(0.5) for metric in metrics}
    rows = [make_row(m, "unimodal", modalities, others=others) for m in modalities]
    text = render_text(make_table(rows, modalities, others=metrics, reference=0), width=width)
    assert max(map(len, text.splitlines())) <= width
    numbers = re.findall(r"\S+ ± \S+", text)
    assert len(numbers) == count * (1 + 5 + count)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=4), st.integers(60, 160))
def test_every_name_keeps_the_columns_aligned(names, width):
    text = render_text(make_table([make_row(name) for name in names], reference=None), width=width)
    blocks = text.split("\n\n")[1:-1]
    for block in blocks:
        lines = block.splitlines()
        rule = next(line for line in lines if set(line) == {"-"})
        assert len(rule) <= width
        assert all(report._width(line) <= max(len(rule), len("intermediate fusion")) for line in lines)
        # the header and the first line of every row end where the rule does
        assert sum(report._width(line) == len(rule) for line in lines) >= len(names) + 2


def test_wide_characters_and_combining_marks_are_counted_as_cells():
    assert report._width("音声") == 4
    assert report._width("e\u0301") == 1


@pytest.mark.parametrize("render", [render_text, render_markdown, render_html])
def test_nan_everywhere_does_not_crash(render):
    nan = Estimate(math.nan, math.nan, 1, 1, 1)
    row = make_row(
        score=nan,
        others={"macro_f1": None},
        difference=PairedTest(math.nan, math.nan, math.nan, 0, "none", 1),
        corrected_p=None,
        missing={"left": nan, "right": None},
        parameters=None,
        added_parameters=None,
        flops=None,
        seconds=None,
    )
    out = render(make_table([make_row("left", "unimodal"), row], reference=0))
    assert "nan" in out
    assert "None" not in out


def test_columns_that_no_row_has_are_left_out():
    row = make_row(
        others={"macro_f1": None}, missing={"left": None, "right": None}, flops=None, difference=None, corrected_p=None
    )
    head = render_markdown(make_table([row], reference=None)).splitlines()[2]
    assert head == "| method | stage | accuracy % | parameters | added | seconds | runs |"


def test_a_table_with_only_its_reference_has_no_difference():
    head = render_markdown(make_table([make_row(difference=None, corrected_p=None)], reference=0)).splitlines()[2]
    assert "difference" not in head


@pytest.mark.parametrize("render", [render_text, render_markdown, render_html])
def test_a_table_of_validation_scores_has_no_columns_of_test_and_says_what_it_is(render):
    rows = [make_row("left", "unimodal", (), difference=None, corrected_p=None), make_row(modalities=())]
    out = render(make_table(rows, (), reference=0, part="validation"))
    assert "Digits. VALIDATION scores, which also chose the epochs. Five folds" in out
    assert "without" not in out
    assert "0.024" in out


def test_without_common_runs_there_is_no_difference():
    nothing = PairedTest(math.nan, math.nan, math.nan, 0, "none", 0)
    rows = [
        make_row("left", "unimodal", difference=None, corrected_p=None),
        make_row(difference=nothing, corrected_p=None),
        make_row("mmtm"),
    ]
    line = render_markdown(make_table(rows, reference=0)).splitlines()[5]
    assert line.startswith("| msaf | intermediate | 91.2 ± 1.0 | 90.0 ± 1.0 | – | – | – | 50.0")


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.9123, ACCURACY, "91.2"),
        (1.0, ACCURACY, "100.0"),
        (-0.0004, ACCURACY, "0.0"),
        (-0.0016, ACCURACY, "-0.2"),
        (0.98765, MAE, "0.988"),
        (-0.0001, MAE, "0.000"),
        (math.nan, MAE, "nan"),
        (-math.inf, MAE, "-inf"),
    ],
)
def test_numbers(value, metric, text):
    assert report._number(value, metric) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0131, "+1.3"), (-0.0131, "-1.3"), (0.0, "0.0"), (-1e-9, "0.0"), (math.nan, "nan"), (0.1, "+10.0")],
)
def test_differences_have_a_sign(value, text):
    assert report._difference(make_row(difference=difference(value, 0.5)), ACCURACY) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0123, "0.012"),
        (0.00099, "<0.001"),
        (0.0, "<0.001"),
        (0.001, "0.001"),
        (1.0, "1.000"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_p_values(p, text):
    assert report._p_value(p) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (45678, "45.7 k"),
        (1_234_567, "1.23 M"),
        (999_499, "999 k"),
        (999_999, "1.00 M"),
        (123_456_789_012, "123 G"),
        (5 * 10**13, "50.0 T"),
        (10**19, "10000 P"),
    ],
)
def test_flops(count, text):
    assert report._engineering(count) == text


@settings(deadline=None)
@given(st.integers(1000, 10**18 - 10**16))
def test_flops_keep_three_digits(count):
    digits, unit = report._engineering(count).split()
    assert float(digits) * 10 ** (3 * " kMGTP".index(unit)) == pytest.approx(count, rel=0.00501)
    assert 1 <= float(digits) < 1000
    assert len(digits.replace(".", "")) == 3


def test_large_counts_have_separators():
    line = render_markdown(make_table([make_row(parameters=12_345_678, seconds=1234.56)], reference=None))
    assert "| 12,345,678 | 123 | 1.23 M | 1,234.6 |" in line


@settings(deadline=None)
@given(st.text(max_size=80), st.integers(4, 30))
def test_folding_keeps_every_visible_character_within_the_width(text, width):
    text = report._clean(text)
    lines = report._fold(text, width)
    assert all(report._width(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_html_without_jinja_says_what_to_install(monkeypatch):
    real = importlib.import_module

    def missing(name, *rest):
        if name == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real(name, *rest)

    monkeypatch.setattr("torchmsaf.errors.importlib.import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"'jinja2' is needed here .* pip install 'torchmsaf\[compare\]'"):
        render_html(make_table())
