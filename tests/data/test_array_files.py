"""Protects reading arrays: broken files are named, what is missing is suggested, and nothing is ever unpickled."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from torchmsaf.data.array_files import open_arrays
from torchmsaf.errors import DataError


class Trap:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def save_folder(path: Path) -> Path:
    path.mkdir()
    np.save(path / "b.npy", np.ones((3, 2)))
    np.save(path / "a.npy", np.arange(3))
    return path


def save_npz(path: Path) -> Path:
    np.savez(path, b=np.ones((3, 2)), a=np.arange(3))
    return path


def save_safetensors(path: Path) -> Path:
    save_file({"b": torch.ones(3, 2), "a": torch.arange(3)}, path)
    return path


def test_npz_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    file = open_arrays(save_npz(tmp_path / "x.npz"))
    assert file.keys == ("b", "a")
    assert file.read("a", "target").tolist() == [0, 1, 2]


@pytest.mark.parametrize("save", [save_folder, save_safetensors])
def test_folders_and_safetensors_are_in_alphabetical_order(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    file = open_arrays(save(tmp_path / "x.safetensors"))
    assert file.keys == ("a", "b")
    assert file.read("a", "target").tolist() == [0, 1, 2]
    assert file.read("b", "modality").shape == (3, 2)


def test_compressed_npz_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.arange(1000))
    assert open_arrays(tmp_path / "x.npz").read("a", "target").sum() == 499500


def test_bfloat16_and_half_safetensors_become_float32(tmp_path: Path) -> None:
    save_file(
        {"a": torch.ones(2, 2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.half)}, tmp_path / "x.safetensors"
    )
    file = open_arrays(tmp_path / "x.safetensors")
    assert file.read("a", "modality").dtype == file.read("b", "modality").dtype == np.float32


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    save_npz(tmp_path / "ravdess.npz")
    with pytest.raises(DataError, match=r"ravdes.npz does not exist \(did you mean 'ravdess.npz'\?\).*folder of .npy"):
        open_arrays(tmp_path / "ravdes.npz")
    with pytest.raises(DataError, match=r"does not exist; a .npz file"):
        open_arrays(tmp_path / "nowhere" / "x.npz")


def test_a_missing_key_lists_the_keys_and_suggests_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", emotion=np.arange(3), mfcc=np.ones((3, 2)))
    with pytest.raises(
        DataError, match=r"has no target 'emotions' \(did you mean 'emotion'\?\); its keys are emotion, m"
    ):
        open_arrays(tmp_path / "x.npz").read("emotions", "target")


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pt", "pth", "ckpt", "joblib"])
def test_pickle_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=f"x.{suffix} is refused: .{suffix} files are pickles, which can run code"):
        open_arrays(path)


@pytest.mark.parametrize("suffix", ["csv", "npy", "mat"])
def test_other_files_say_what_can_be_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(b"1,2")
    with pytest.raises(DataError, match=f"the suffix is '.{suffix}'; a .npz file, a .safetensors file or a folder"):
        open_arrays(tmp_path / f"x.{suffix}")


def test_object_arrays_are_refused_by_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", meta=np.array([Trap(), 1], dtype=object), a=np.arange(3))
    file = open_arrays(tmp_path / "x.npz")
    assert len(file.read("a", "target")) == 3
    with pytest.raises(DataError, match="key 'meta' is refused: an object array is a pickle, which can run code"):
        file.read("meta", "modality")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_named_npy_is_refused(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Trap(), protocol=protocol))
    words = "is refused: its bytes are a pickle" if protocol else "is truncated or corrupt"
    with pytest.raises(DataError, match=f"a.npy {words}"):
        open_arrays(tmp_path).read("a", "target")


def test_a_pickle_inside_an_npz_is_refused(tmp_path: Path) -> None:
    save_npz(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("data.pkl", pickle.dumps(Trap()))
        archive.writestr("c.npy", pickle.dumps(Trap()))
    file = open_arrays(tmp_path / "x.npz")
    with pytest.raises(DataError, match=r"the member 'data.pkl' is refused: it is no .npy array"):
        file.read("data.pkl", "modality")
    with pytest.raises(DataError, match="key 'c' is refused: its bytes are a pickle"):
        file.read("c", "modality")


def test_a_file_without_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz")
    for path in (tmp_path / "x.npz", tmp_path):
        with pytest.raises(DataError, match=r"holds no arrays; a .npz file"):
            open_arrays(path)


@pytest.mark.parametrize("keep", [0, 10, 60, -1, -40])
@pytest.mark.parametrize(("suffix", "save"), [("npz", save_npz), ("safetensors", save_safetensors)])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, save: Callable[[Path], Path], keep: int) -> None:
    path = save(tmp_path / f"x.{suffix}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"x.{suffix} is truncated or no {suffix} file"):
        open_arrays(path)


@pytest.mark.parametrize("keep", [0, 1, 8, 100, -1])
def test_truncated_npy_files_are_named(tmp_path: Path, keep: int) -> None:
    path = save_folder(tmp_path / "x") / "b.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"b.npy is truncated or corrupt"):
        open_arrays(tmp_path / "x").read("b", "modality")


def test_more_bytes_than_the_header_says_are_refused(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "x") / "b.npy"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DataError, match=r"b.npy is corrupt: more bytes follow the array"):
        open_arrays(tmp_path / "x").read("b", "modality")


def test_a_header_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**15, 10)})
    (tmp_path / "b.npy").write_bytes(stream.getvalue() + b"0" * 80)
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("b.npy", stream.getvalue() + b"0" * 80)
    for path in (tmp_path, tmp_path / "x.npz"):
        with pytest.raises(DataError, match=r"b.* is truncated or corrupt"):
            open_arrays(path).read("b", "modality")


def test_a_header_that_python_cannot_parse_is_refused(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "x") / "b.npy"
    path.write_bytes(path.read_bytes().replace(b"}", b" "))
    with pytest.raises(DataError, match=r"b.npy is truncated or corrupt"):
        open_arrays(tmp_path / "x").read("b", "modality")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    position=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    name=st.sampled_from(["x.npz", "x.safetensors", "folder/b.npy"]),
)
def test_a_wrong_byte_anywhere_reads_or_is_a_data_error(tmp_path: Path, position: float, byte: int, name: str) -> None:
    rmtree(tmp_path / "folder", ignore_errors=True)
    save = {".npz": save_npz, ".safetensors": save_safetensors, ".npy": save_folder}[Path(name).suffix]
    path = save(tmp_path / name.removesuffix("/b.npy"))
    raw = bytearray((tmp_path / name).read_bytes())
    raw[int(position * len(raw))] = byte
    (tmp_path / name).write_bytes(bytes(raw))
    message = str(path)
    try:
        file = open_arrays(path)
        assert all(isinstance(file.read(key, "modality"), np.ndarray) for key in file.keys)
    except DataError as error:
        message = str(error)
    assert str(path) in message
