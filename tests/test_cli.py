"""Protects the command line: it answers at once, every bad input is one clear line before any training, YAML runs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import yaml

from torchmsaf.cli import main
from torchmsaf.fusion import METHODS
from torchmsaf.tasks.systems.registry import SYSTEMS

# "torchmsaf.experiments.compare" is a function and a module
comparing = importlib.import_module("torchmsaf.experiments.compare")

N = 48


def arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    y = np.arange(N) % 3
    return {
        "a": (draw.normal(size=(N, 4)) + y[:, None]).astype("f4"),
        "b": (draw.normal(size=(N, 2, 6)) + y[:, None, None]).astype("f4"),
        "y": y,
        "g": np.arange(N) // 6,
        "s": np.array(["train", "train", "val", "test"])[np.arange(N) % 4],
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data.npz, which is the current one."""
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", **arrays())
    return tmp_path


QUICK = ("--epochs", "1", "--seeds", "1", "--folds", "2", "--jobs", "1", "--methods", "averaging")


def arguments(*more: str, data: str = "data.npz") -> list[str]:
    return ["compare", "arrays", data, "--target", "y", "--modalities", "a", "b", *QUICK, *more]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("words", [["--help"], ["compare", "digits", "--help"], ["compare", "arrays", "--help"]])
def test_help_answers_within_a_second(words: list[str]) -> None:
    """Of the processor's time, which other processes do not change."""
    best = 9.0
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "torchmsaf.cli", *words], capture_output=True, check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, spent)
    assert best < 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom torchmsaf.cli import main\n"
        "try: main(['compare', 'arrays', '--help'])\nexcept SystemExit: pass\n"
        "print('heavy:', {'torch', 'numpy', 'lightning', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    assert python(code).endswith("heavy: set()")


def test_import_loads_nothing_and_the_names_load_torch_alone() -> None:
    heavy = "{'torch', 'numpy', 'lightning', 'torchmetrics', 'sklearn', 'scipy', 'yaml', 'joblib'} & set(sys.modules)"
    assert python(f"import sys, torchmsaf\nprint({heavy})") == "set()"
    assert python(f"import sys\nfrom torchmsaf import MSAF\nprint(sorted({heavy}))") == "['numpy', 'torch']"


def test_a_process_that_hands_out_work_does_not_load_lightning() -> None:
    assert python("import sys, torchmsaf.experiments\nprint('lightning' in sys.modules)") == "False"


def test_help_says_the_defaults_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("digits", "arrays"):
        with pytest.raises(SystemExit, match="0"):
            main(["compare", name, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        shipped = yaml.safe_load(resources.files("torchmsaf.configs").joinpath(f"{name}.yaml").read_text())
        words = {key: " ".join(value) if isinstance(value, list) else value for key, value in shipped.items()}
        assert all(f"(default: {value})" in said for value in words.values())
        assert said.count("(default: all)") == ("methods" not in shipped)


@pytest.mark.parametrize("name", ["digits", "arrays"])
def test_shipped_configurations_run(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    small = ["--epochs", "1", "--seeds", "1", "--folds", "2", "--jobs", "1", "--batch-size", "1000", "--out", "r"]
    where = ["digits", "--methods", "msaf"] if name == "digits" else ["arrays", "data.npz", "--target", "y"]
    assert main(["compare", *where, *small]) == 0
    assert "msaf" in capsys.readouterr().out


def test_the_table_is_on_stdout_and_the_rest_on_stderr(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("--out", "r")) == 0
    said = capsys.readouterr()
    assert said.out == (here / "r/table.txt").read_text() == said.out.strip() + "\n"
    assert "10 of 10 trainings" in said.err
    assert "Results: r" in said.err
    for style, file in (("text", "table.txt"), ("markdown", "table.md"), ("html", "table.html")):
        assert main(["table", "r", "--format", style]) == 0
        assert capsys.readouterr().out.rstrip("\n") == (here / "r" / file).read_text().rstrip("\n")


def test_another_reference_and_validation_scores_are_printed_only(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("--out", "r")) == 0
    capsys.readouterr()
    before = {file.name: file.read_bytes() for file in (here / "r").glob("table.*")}
    assert len(before) == 3
    said = {}
    for words in (
        (),
        ("--reference", "averaging:"),  # as --methods takes it
        ("--part", "validation"),
        ("--part", "validation", "--reference", "a", "--format", "markdown"),
        ("--part", "test", "--reference", "b", "--format", "html"),
        ("--part", "test"),
    ):
        assert main(["table", "r", *words]) == 0
        said[words] = " ".join(capsys.readouterr().out.split())
        assert {file.name: file.read_bytes() for file in (here / "r").glob("table.*")} == before
    default, named, validation, both, page, test = said.values()
    assert default == test
    assert "difference: to 'averaging' (ref.), the row that was asked for" in named
    assert "without a" in named
    assert "VALIDATION scores, which also chose the epochs." in validation
    assert "without a" not in validation
    assert "These are VALIDATION scores." in both
    assert "difference: to 'a' (ref.), the row that was asked for" in both
    assert "p corrected" in page
    assert page.startswith("<!DOCTYPE html>")
    assert "VALIDATION" not in default + named + page


def test_a_reference_that_is_no_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("--out", "r")) == 0
    capsys.readouterr()
    refused(
        capsys,
        ["table", "r", "--reference", "mssaf"],
        "torchmsaf: no row is named 'mssaf': choose the reference from 'a', 'b', 'averaging'$",
    )
    with pytest.raises(SystemExit, match="2"):
        main(["table", "r", "--part", "train"])
    assert "argument --part: invalid choice: 'train'" in capsys.readouterr().err


def test_a_free_folder_is_found(here: Path) -> None:
    for name in ("arrays", "arrays-2"):
        assert main(arguments()) == 0
        assert (here / "runs" / name / "config.json").is_file()


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["method", "stage", "year", "modalities", "tasks", "paper"]
    assert [line.split()[0] for line in lines] == [*METHODS, *SYSTEMS]
    for line, method in zip(lines, METHODS.values(), strict=False):
        assert line[head.index("stage") :].startswith(f"{method.stage} ")
        assert line[head.index("year") :].startswith(f"{method.year}  {method.modalities} ")
        assert line[head.index("paper") :] == method.paper


def test_the_command_line_wins_over_a_file_and_a_file_over_the_shipped(here: Path) -> None:
    (here / "my.yaml").write_text("target: y\nepochs: 7\npatience: 2\nmethods: [msaf:block_dropout=0.2, averaging]\n")
    words = ["compare", "arrays", "data.npz", "--config", "my.yaml", "--epochs=1", "--seeds=1", "--folds=2", "--jobs=1"]
    assert main([*words, "--out", "r"]) == 0
    config = yaml.safe_load((here / "r/config.json").read_text())
    assert (config["recipe"]["epochs"], config["recipe"]["patience"], config["recipe"]["batch_size"]) == (1, 2, 64)
    assert [method["name"] for method in config["methods"]] == ["msaf", "averaging"]


def test_resume_from_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("--out", "r")) == 0
    assert main(arguments("--out", "r")) == 1
    assert "add --resume" in capsys.readouterr().err
    assert main(arguments("--out", "r", "--resume")) == 0


def test_an_interrupt(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_units", interrupted)
    assert main(arguments("--out", "r")) == 130
    assert capsys.readouterr().err.endswith(
        "torchmsaf: interrupted; what is done is kept, and --resume goes on with it\n"
    )


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(comparing, "run_units", fail)


OPTIONS = {
    "folds 1": (["--folds", "1"], "folds must be 2 or more"),
    "folds 0": (["--folds", "0"], "folds must be 2 or more"),
    "more folds than groups": (["--group", "g", "--folds", "9"], "9 folds need 9 groups or more, and there are 8"),
    "a group in two parts": (["--group", "g", "--split", "s"], "groups are in both train and validation"),
    "no validation": (["--validation", "0"], "validation between 0 and 1"),
    "validation 1": (["--validation", "1"], "validation between 0 and 1"),
    "validation nan": (["--validation", "nan"], "validation between 0 and 1"),
    "split seed": (["--split-seed", "-1"], r"seed from 0 to 2\*\*32"),
    "seeds": (["--seeds", "0"], "no seeds"),
    "epochs": (["--epochs", "0"], "epochs is 0; 1 or more"),
    "patience": (["--patience", "0"], "patience is 0"),
    "batch size": (["--batch-size", "1"], "batch_size is 1; 2 or more"),
    "learning rate 0": (["--learning-rate", "0"], "learning_rate is 0.0; a number greater than 0"),
    "learning rate -1": (["--learning-rate", "-1"], "learning_rate is -1.0"),
    "weight decay": (["--weight-decay", "-1"], "weight_decay is -1.0"),
    "jobs": (["--jobs", "0"], "jobs is 0; 1 or more"),
    "unknown method": (["--methods", "mssaf"], r"no fusion method 'mssaf' \(did you mean 'msaf'\?\); there are"),
    "option of a method": (["--methods", "msaf:blok=1"], "msaf: .*'blok'"),
    "value of an option": (["--methods", "msaf:block_channels=two"], "expected an integer of at least 1, got 'two'"),
    "option without value": (["--methods", "msaf:norm"], "expected name:option=value"),
    "absurd size": (["--methods", "msaf:block_channels=99999"], "parameters: check its options"),
    "segments of vectors": (["--methods", "msaf:segments=2"], r"method 'msaf \(segments=2\)': .*modality 0"),
    "mmtm gate": (["--methods", "mmtm:gate_scale=abc"], "mmtm: gate_scale is a finite number, got 'abc'"),
    "mmtm ratio": (["--methods", "mmtm:ratio=abc"], "mmtm: ratio is a finite number, got 'abc'"),
    "mmtm ratio 0": (["--methods", "mmtm:ratio=0"], ": mmtm: ratio=0 leaves no channel"),
    "mmtm ratio inf": (["--methods", "mmtm:ratio=.inf"], "mmtm: ratio is a finite number, got inf"),
    "multiplicative beta": (["--methods", "multiplicative:beta=abc"], ": multiplicative: beta is in .*, got 'abc'"),
    "concat hidden -1": (
        ["--methods", "concat:hidden=[-1]"],
        r"concat: hidden is a list of positive widths.*got \[-1\]",
    ),
    "concat hidden 12": (["--methods", "concat:hidden=12"], "concat: hidden is a list of positive widths.*got 12"),
    "concat hidden abc": (["--methods", "concat:hidden=abc"], "concat: hidden is a list of positive widths.*got 'abc'"),
    "concat hidden 1e30": (["--methods", f"concat:hidden=[{10**30}]"], "concat: .*Overflow"),
    "concat project": (
        ["--methods", "concat:project=-3"],
        "concat: project: expected an integer of at least 1, got -3",
    ),
    "concat dropout": (["--methods", "concat:dropout=abc"], "concat: dropout is a probability"),
    **{
        f"reserved {option}": (["--methods", f"{method}:{option}=3"], f"{method}: '{option}' is set by the comparison")
        for method, option in (
            ("msaf", "channels"),
            ("concat", "widths"),
            ("concat", "out_features"),
            ("averaging", "modalities"),
            ("multiplicative", "regression"),
            ("msaf", "regression"),
        )
    },
    "name as an option": (["--methods", "msaf:name=x"], "msaf: .*'name'"),
    "method twice": (["--methods", "msaf", "msaf"], "'msaf' is given twice"),
    "network without class": (["--network", "a"], r"expected KEY=package\.module\.Class"),
    "network of nothing": (["--network", "q=torch.nn.Linear"], "network given for 'q'; the modalities are a, b"),
    "network not found": (["--network", "a=nowhere.Net"], "'nowhere.Net' cannot be imported"),
    "network of dots": (["--network", "a=..x"], r"'\.\.x': expected package\.module\.Class"),
    "network of a dot": (["--network", "a=.x"], r"'\.x': expected package\.module\.Class"),
    **{
        f"network {name}": (
            ["--network", f"a=broken_networks.{name}"],
            rf"network of modality 'a' \(.*{name}\): {said}",
        )
        for name, said in (
            ("Wide", r"of 2 samples feature\(\).* makes \(2, 64\), and \(2, 65\) is needed"),
            ("OneMore", r"of 2 samples the head makes \(2, 4\), and \(2, 3\) is needed"),
            ("Miscounted", r"channels\[1\] is 32, and of 2 samples stage 1 makes maps \(2, 64\)"),
            ("Raises", "KeyError: 'two lines'"),
        )
    },
    "network without stages": (
        ["--network", "a=broken_networks.Flat", "--methods", "msaf"],
        ": msaf: it stands between stages, and the network of 'a' has none",
    ),
    "network that is none": (["--network", "a=torch.nn.Linear"], "'torch.nn.Linear' cannot be built"),
    "no config": (["--config", "none.yaml"], "none.yaml cannot be read as YAML: .*No such file"),
    "out is a file": (["--out", "data.npz"], "data.npz cannot be written|data.npz is not"),
    "out below a file": (["--out", "data.npz/r"], "data.npz/r cannot be written"),
    "out has other things": (["--out", "."], "is not empty and is no result folder"),
    "resume without out": (["--resume"], "--resume needs --out FOLDER"),
    "missing target": (["--target", "z"], "has no target 'z'; its keys are"),
    "missing modality": (["--modalities", "a", "q"], "has no modality 'q'"),
    "missing group": (["--group", "q"], "has no group 'q'"),
    "pattern alone": (["--group-pattern", "x"], "group_pattern needs group"),
    "values as classes": (["--task", "regression", "--methods", "multiplication"], "is for classification"),
}


NETWORKS = """
from torch import nn
from torchmsaf.backbones import VectorNet

class Wide(VectorNet):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.width += 1

class OneMore(VectorNet):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs + 1)

class Miscounted(VectorNet):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.channels = (64, 32)

class Raises(VectorNet):
    def feature(self, maps):
        raise KeyError("two lines")

class Flat(VectorNet):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.stages, self.channels, self.width = nn.ModuleList(), (), shape[0]
        self.head = nn.Linear(shape[0], outputs)
"""


@pytest.fixture
def networks(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module of networks that do not do, in the current folder."""
    (here / "broken_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "broken_networks", raising=False)
    return here


@pytest.mark.usefixtures("no_training", "networks")
@pytest.mark.parametrize(("words", "message"), OPTIONS.values(), ids=OPTIONS)
def test_bad_options(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    refused(capsys, arguments(*words), message)


def refused(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """One line on stderr, nothing on stdout, and 1."""
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("torchmsaf: ")
    assert said.err.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(said.err)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", "'raising.Net' cannot be imported: ZeroDivisionError: division by zero"),
        ("raise OSError('two\\nlines')", "cannot be imported: OSError: two lines"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("def (", "cannot be imported: SyntaxError"),
    ],
)
def test_a_users_module_that_raises(
    networks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (networks / "raising.py").write_text(content)
    monkeypatch.delitem(sys.modules, "raising", raising=False)
    refused(capsys, arguments("--network", "a=raising.Net"), message)


@pytest.mark.usefixtures("networks")
def test_a_network_without_stages_can_be_fused_late(here: Path) -> None:
    assert main(arguments("--network", "a=broken_networks.Flat", "--out", "r")) == 0


def test_broken_folders(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("--out", "r")) == 0
    monkeypatch.setattr(comparing, "run_units", lambda *_: pytest.fail("training began"))
    capsys.readouterr()
    resume = arguments("--out", "r", "--resume")
    for content, message in (
        ("[]", r"config.json is no configuration of a comparison: it is \[\]"),
        ("{}", "config.json is no configuration of a comparison: it has no 'title'"),
        ("{", r"config.json cannot be read \("),
    ):
        config = (here / "r/config.json").read_text()
        (here / "r/config.json").write_text(content)
        refused(capsys, ["table", "r"], message)
        refused(capsys, resume, message)
        (here / "r/config.json").write_text(config)
    splits = (here / "r/splits.json").read_text()
    (here / "r/splits.json").write_text(splits[:50])
    refused(capsys, resume, r"splits.json cannot be read \(.*put it back, or use another --out")
    (here / "r/splits.json").write_text(splits)
    file = here / "r/metrics/fold-1.seed-0.jsonl"
    lines = file.read_text()
    for line, message in (
        ("{}", "it has no 'key'"),
        ("[]", r"it is \[\]"),
        ('{"key": 3}', "'key' is 3"),
        (lines.splitlines()[-1].replace('"test":', '"text":'), "it has no 'test'"),
    ):
        file.write_text(lines + line + "\n")
        for words in (["table", "r"], resume):
            refused(capsys, words, rf"fold-1\.seed-0\.jsonl, line 6 is no record of a training: {message}")
    file.write_text(lines)
    for name in ("fold-x.seed-0.jsonl", "fold-0.seed-0.copy.jsonl", "fold-0.seed-.jsonl"):
        (here / "r/metrics" / name).write_text("{}\n")
    assert main(["table", "r"]) == 0
    assert capsys.readouterr().out == (here / "r/table.txt").read_text()


def changed(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {**arrays(), **changes}


def nan(key: str, *index: int) -> np.ndarray:
    values = arrays()[key]
    values[index] = np.nan
    return values


DATA = {
    "lengths": (changed(b=arrays()["b"][:40]), r"the arrays differ in length; .*a 48, b 40"),
    "nan": (
        changed(a=nan("a", 5, 2)),
        r"modality 'a' has 1 NaN or infinite values, the first in row 5 at index \[5, 2\]",
    ),
    "infinite": (changed(b=np.full((N, 2, 6), np.inf)), "modality 'b' has 576 NaN or infinite values"),
    "objects": (changed(b=np.array([None] * N)), "key 'b' is refused: an object array is a pickle"),
    "one class": (changed(y=np.zeros(N, int)), "'y' has one class only"),
    "nan target": (
        changed(y=nan("a", 5, 0)[:, 0]),
        r"target 'y' has 1 NaN or infinite values, the first in rows \[5\]",
    ),
    "rank": (changed(a=np.zeros((N, 1, 1, 1, 1, 1))), r"modality 'a' has shape \(48, 1, 1, 1, 1, 1\)"),
    "rare class": (changed(y=np.array([7] + [8] * (N - 1))), "class '7' has 1 samples, fewer than the 2 folds"),
}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(("content", "message"), DATA.values(), ids=DATA)
def test_bad_data(here: Path, capsys: pytest.CaptureFixture[str], content: dict[str, np.ndarray], message: str) -> None:
    np.savez("bad.npz", **content)
    refused(capsys, arguments(data="bad.npz"), message)


@pytest.mark.usefixtures("no_training")
def test_files_that_are_no_arrays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, arguments(data="dat.npz"), r"dat.npz does not exist \(did you mean 'data.npz'\?\)")
    (here / "x.pkl").write_bytes(b"\x80\x04N.")
    refused(capsys, arguments(data="x.pkl"), "x.pkl is refused: .pkl files are pickles")
    (here / "x.npz").write_bytes((here / "data.npz").read_bytes()[:200])
    refused(capsys, arguments(data="x.npz"), "is truncated or no npz file")
    refused(capsys, ["compare", "arrays", "data.npz"], "needs --target KEY")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", r"no option is named 'epoch' \(did you mean 'epochs'\?\)"),
        ("- 1", "holds no options: lines like 'epochs: 10'"),
        ("epochs: many", "argument --epochs: invalid int value: 'many'"),
        ("epochs: 1.5", "argument --epochs: invalid int value: '1.5'"),
        ("epochs: [1, 2]", "unrecognized arguments: 2"),
        ("resume: 3", "argument --resume: ignored explicit argument '3'"),
        ("accelerator: tpu", "argument --accelerator: invalid choice"),
        ("a: [1", "cannot be read as YAML"),
        ("config: other.yaml", "no option is named 'config'"),
        ("run: 3", "no option is named 'run'"),
    ],
)
def test_bad_configurations(here: Path, capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    (here / "my.yaml").write_text(content)
    refused(capsys, ["compare", "arrays", "data.npz", "--target", "y", "--config", "my.yaml"], message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--folds", "x"], "argument --folds: invalid int value: 'x'"),
        (["--accelerator", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_a_wrong_word_ends_with_2_and_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments(*words))
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("form", ["safetensors", "npy"])
def test_other_files(here: Path, form: str) -> None:
    if form == "npy":
        (here / "data").mkdir()
        for key, value in arrays().items():
            np.save(f"data/{key}.npy", value)
    else:
        from safetensors.numpy import save_file

        save_file({key: value for key, value in arrays().items() if key != "s"}, "data.safetensors")
    assert main(arguments("--out", "r", data="data" if form == "npy" else "data.safetensors")) == 0


def test_missing_rows_regression_and_a_shipped_split(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("odd.npz", **changed(a=nan("a", 5, 2), y=arrays()["a"][:, 0] * 2))
    more = ["--missing", "nan", "--task", "sentiment", "--split", "s", "--out", "r"]
    assert main(arguments(*more, data="odd.npz")) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("mae", "pearson", "acc2", "acc7", "f1", "single values"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_two_processes_on_the_command_line(here: Path) -> None:
    words = [*arguments("--out", "r"), "--jobs", "2", "--methods", "msaf"]
    done = subprocess.run([sys.executable, "-m", "torchmsaf.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (here / "r/table.txt").read_text()
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
