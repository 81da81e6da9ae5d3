"""The exceptions, and what is said when an optional package is missing."""

import sys

import pytest

import torchmsaf
from torchmsaf import errors


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("FusionInputError", ValueError),
        ("DataError", ValueError),
        ("ProtocolError", ValueError),
        ("ResultError", RuntimeError),
        ("MissingDependencyError", ImportError),
    ],
)
def test_every_error_is_of_this_package_and_of_a_builtin_kind(name, builtin):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.TorchmsafError)
    assert issubclass(kind, builtin)


def test_require_returns_the_package():
    assert errors.require("json", "compare") is sys.modules["json"]


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.part"])
def test_require_says_which_extra_brings_the_package(package):
    with pytest.raises(
        errors.MissingDependencyError, match=rf"'{package}' is needed here.*pip install 'torchmsaf\[compare"
    ):
        errors.require(package, "compare")


def test_require_passes_on_what_a_package_itself_misses(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught:
        errors.require("broken_package", "compare")
    assert not isinstance(caught.value, errors.MissingDependencyError)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'torchmsaf' has no attribute 'Msaf'"):
        _ = torchmsaf.Msaf


def test_every_public_name_is_there_and_listed():
    assert set(torchmsaf.__all__) <= set(dir(torchmsaf)) | {"__version__"}
    for name in torchmsaf.__all__:
        assert getattr(torchmsaf, name) is not None
