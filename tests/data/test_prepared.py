"""Prepared clips: written whole by anyone, found again after a kill, read without copies, refused with words."""

import json
import os
import pickle
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter, version_name
from torchmsaf.errors import DataError

PARAMETERS = {"sampling": "uniform", "frames": 2, "size": 5, "slack": (0, 1)}


def arrays(seed):
    random = np.random.default_rng(seed)
    video = random.integers(0, 256, (3, 2, 5, 5), np.uint8)
    return {"video": video, "audio": random.normal(size=(13, 7)).astype(np.float32)}


def fill(root, names=("c10", "c9", "c2"), **parameters):
    writer = PreparedWriter(root, "ravdess", {**PARAMETERS, **parameters})
    for name in names:
        writer.write(name, arrays(int(name[1:])), {"actor": int(name[1:]), "notes": ["é"]}, stamp=f"of {name}")
    return writer


@pytest.fixture
def prepared(tmp_path):
    return fill(tmp_path / "root").finish([{"name": "x.mp4", "where": "a.zip!x.mp4", "reason": "cut off"}])


def clip(prepared, name):
    return prepared.path / "clips" / f"{name}.safetensors"


def edit(prepared, change):
    file = prepared.path / "index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))


def test_what_is_written_is_read(prepared):
    again = Prepared.open(prepared.path.parent)
    assert [entry.id for entry in again.entries] == ["c2", "c9", "c10"]
    assert again.path == prepared.path
    assert (again.set_name, again.version, len(again)) == ("ravdess", prepared.path.name, 3)
    assert again.parameters == {**PARAMETERS, "slack": [0, 1]}
    assert again.refused == ({"name": "x.mp4", "where": "a.zip!x.mp4", "reason": "cut off"},)
    assert again.made_by["torch"] == torch.__version__.split("+")[0]
    entry = again.entries[2]
    assert entry.facts == {"actor": 10, "notes": ["é"]}
    assert entry.bytes == clip(again, "c10").stat().st_size
    assert (entry.shapes["video"], entry.dtypes["audio"]) == ((3, 2, 5, 5), torch.float32)
    for name, array in arrays(10).items():
        tensor = again.read(2, name)
        assert tensor.dtype == entry.dtypes[name]
        np.testing.assert_array_equal(tensor.numpy(), array)
    assert again.verify() == ()


def test_what_is_done_to_a_tensor_does_not_reach_the_file(prepared):
    tensor = prepared.read(0, "video")
    tensor.zero_()
    assert prepared.read(0, "video").any()
    assert prepared.verify() == ()


def test_a_batch_is_in_the_order_asked_for_and_goes_where_it_is_asked_to(prepared):
    batch = prepared.read_many([2, 0], "video")
    assert batch.dtype == torch.uint8
    np.testing.assert_array_equal(batch.numpy(), np.stack([arrays(10)["video"], arrays(2)["video"]]))
    out = torch.empty(2, 3, 2, 5, 5)
    assert prepared.read_many([2, 0], "video", out=out) is out
    assert torch.equal(out, batch.float())
    with pytest.raises(DataError, match=r"out has shape \(2, 3, 2, 5, 5\); \(1, 3, 2, 5, 5\) is needed for 'video'"):
        prepared.read_many([2], "video", out=out)


def test_clips_of_other_shapes_make_no_batch(tmp_path):
    writer = fill(tmp_path, ["c1"])
    writer.write("c2", {"video": np.zeros((3, 1, 5, 5), np.uint8)}, {})
    with pytest.raises(DataError, match=r"'video' of c2 is torch.uint8 \(3, 1, 5, 5\), and of c1 .* must agree"):
        writer.finish().read_many([0, 1], "video")


def test_a_killed_preparation_goes_on(tmp_path, monkeypatch):
    writer = pickle.loads(pickle.dumps(fill(tmp_path / "root", [])))
    writer.write("c1", arrays(1), {}, stamp="one")

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # nothing tidies up
        with pytest.raises(KeyboardInterrupt):
            writer.write("c2", arrays(2), {}, stamp="two")
    with pytest.raises(
        DataError, match=r"root/uniform-2x5-\w{8} has no index.json, so its preparation was interrupted"
    ):
        Prepared.open(tmp_path / "root")
    (half,) = writer.path.glob("clips/*.part")
    later = fill(tmp_path / "root", [])
    assert later.stamps() == {"c1": "one"}
    later.write("c2", arrays(2), {}, stamp="two")
    assert [entry.id for entry in later.finish().entries] == ["c1", "c2"]
    assert half.exists()  # it may be a living process's
    os.utime(half, (time.time() - 7200,) * 2)
    later.finish()
    assert not half.exists()


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    writer = fill(tmp_path, [])

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match=r"clips/c1.safetensors cannot be written: .*No space left"):
        writer.write("c1", arrays(1), {})
    assert list(writer.path.glob("clips/*")) == []


@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_files_have_the_mode_that_the_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = fill(tmp_path, ["c1"]).finish().path
    finally:
        os.umask(before)
    for file in (path / "clips" / "c1.safetensors", path / "index.json", path / "parameters.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_clip_is_made_again(prepared, keep):
    whole = clip(prepared, "c9").read_bytes()
    clip(prepared, "c9").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"c9.safetensors has \d+ bytes, and its index says \d+ bytes \(1 of 3 clips"):
        Prepared.open(prepared.path)
    with pytest.raises(DataError, match=r"c9.safetensors is cut off or damaged .*: delete it and run the preparation"):
        prepared.read(1, "video")
    writer = fill(prepared.path.parent, [])
    assert writer.stamps() == {"c2": "of c2", "c10": "of c10"}
    with pytest.raises(DataError, match=r"lacks 1 of 2 clips, the first c9: run the preparation again"):
        writer.finish(ids=["c2", "c9"])
    assert fill(prepared.path.parent, ["c9"]).finish().fingerprint == prepared.fingerprint


def test_a_missing_clip_is_named(prepared):
    clip(prepared, "c2").unlink()
    with pytest.raises(DataError, match=r"c2.safetensors is missing, and its index says \d+ bytes \(1 of 3"):
        Prepared.open(prepared.path)
    with pytest.raises(DataError, match=r"c2.safetensors is missing: run the preparation again"):
        prepared.read(0, "video")


def test_a_changed_byte_is_found_by_verify(prepared):
    whole = bytearray(clip(prepared, "c10").read_bytes())
    whole[-1] ^= 1
    clip(prepared, "c10").write_bytes(whole)
    assert Prepared.open(prepared.path).verify() == ("c10",)


def test_the_fingerprint_is_of_the_arrays(prepared, tmp_path):
    same = fill(tmp_path / "elsewhere", ["c2", "c9", "c10"])
    same.write("c9", arrays(9), {"found": "elsewhere"}, stamp="another")
    assert same.finish().fingerprint == prepared.fingerprint
    same.write("c9", arrays(1), {"found": "elsewhere"}, stamp="another")
    assert same.finish().fingerprint != prepared.fingerprint


def test_an_index_does_not_outlive_a_clip_that_it_knows(prepared):
    fill(prepared.path.parent, ["c9"])  # the same once more
    assert Prepared.open(prepared.path).fingerprint == prepared.fingerprint
    fill(prepared.path.parent, []).write("c9", arrays(1), {})
    with pytest.raises(DataError, match="was interrupted"):
        Prepared.open(prepared.path)
    with pytest.raises(DataError, match=r"has no index.json"):
        pickle.loads(pickle.dumps(prepared))


def test_a_pickle_is_small_and_knows_its_content(prepared):
    data = pickle.dumps(prepared)
    assert len(data) < 1000
    assert pickle.loads(data).entries == prepared.entries
    fill(prepared.path.parent, ["c11"]).finish()
    with pytest.raises(DataError, match="was prepared anew while it was in use"):
        pickle.loads(data)


def test_many_may_write_the_same_folder_at_once(tmp_path):
    names = [f"c{number}" for number in range(6)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(lambda: fill(tmp_path, names).finish()) for _ in range(8)]
        fingerprints = {job.result().fingerprint for job in jobs}
    prepared = Prepared.open(tmp_path)
    assert len(prepared) == 6
    assert prepared.fingerprint in fingerprints
    assert prepared.verify() == ()
    assert list(tmp_path.rglob("*.part")) == []


def test_other_parameters_are_another_version(prepared):
    root = prepared.path.parent
    other = fill(root, ["c1"], size=6)
    with pytest.raises(
        DataError, match=r"root holds 2 versions, uniform-2x5-\w+, uniform-2x6-\w+ \(interrupted\): give"
    ):
        Prepared.open(root)
    assert [entry.id for entry in other.finish().entries] == ["c1"]
    assert len(Prepared.open(prepared.path)) == 3
    names = {version_name(*of) for of in (("a", {}), ("a", {"x": 1}), ("a", {"x": 1.0}), ("A", {}), ("é/", {}))}
    assert len(names) == 5
    assert all(name.replace("-", "").isalnum() for name in names)


def test_a_version_without_clips_and_index_does_not_count(prepared):
    fill(prepared.path.parent, [], size=6)
    assert Prepared.open(prepared.path.parent).path == prepared.path
    fill(prepared.path.parent / "other", [])
    with pytest.raises(DataError, match="other holds nothing prepared"):
        Prepared.open(prepared.path.parent / "other")


def test_a_version_is_no_place_for_versions(prepared):
    with pytest.raises(DataError, match=r"uniform-2x5-\w+ is itself a version of prepared clips"):
        fill(prepared.path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/uniform-2x5-\w+ cannot be written: .*choose another folder"):
        fill(tmp_path / "file")
    with pytest.raises(DataError, match=r"file is not there or is no folder"):
        Prepared.open(tmp_path / "file")
    with pytest.raises(DataError, match=r"holds nothing prepared"):
        Prepared.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(format=2), r"index.json is of format 2, and this torchmsaf reads 1"),
        (lambda index: index.pop("format"), r"index.json is no index of prepared clips: it says no format"),
        (lambda index: index.pop("refused"), r"index.json lacks refused: run the preparation again"),
        (lambda index: index["clips"][1].pop("sha256"), r"index.json lacks clips\[1\].sha256"),
        (lambda index: index["clips"][0].update(bytes="1"), r"clips\[0\].bytes is '1'; a int is needed"),
        (lambda index: index["clips"].append(3), r"index.json lacks clips\[3\].id"),
        (lambda index: index["clips"][2].update(id="../x"), r"clips\[2\].id is '../x', which is no clip's"),
        (lambda index: index["clips"][0]["arrays"].update(video={}), r"the arrays of a clip are damaged"),
    ],
)
def test_an_index_that_cannot_be_used(prepared, change, message):
    edit(prepared, change)
    with pytest.raises(DataError, match=message):
        Prepared.open(prepared.path)


def test_an_index_that_is_cut_off(prepared):
    file = prepared.path / "index.json"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"index.json cannot be read \(.*\): run the preparation again"):
        Prepared.open(prepared.path)


def test_arrays_that_are_not_what_the_index_says(prepared):
    with pytest.raises(DataError, match=r"c2.safetensors has no array 'text'; it has audio, video"):
        prepared.read(0, "text")
    edit(prepared, lambda index: index["clips"][0]["arrays"]["video"].update(shape=[3, 2, 25]))
    with pytest.raises(DataError, match=r"'video' is torch.uint8 \(3, 2, 5, 5\), and the index says .*\(3, 2, 25\)"):
        Prepared.open(prepared.path).read(0, "video")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), r"array 'a' is float64 of shape \(2, 3\); uint8, .*float32 with an axis or more"),
        (np.float32(1.0), r"array 'a' is float32 of shape \(\)"),
        (np.zeros((0, 3), np.uint8), r"array 'a' is uint8 of shape \(0, 3\)"),
        (np.array([1, np.nan], np.float32), r"array 'a' has NaN or infinite values"),
    ],
)
def test_arrays_that_are_refused(tmp_path, array, message):
    with pytest.raises(DataError, match=message):
        fill(tmp_path, []).write("c1", {"a": array}, {})


def test_an_id_is_a_file_name(tmp_path):
    for name in ("../c1", "a/b", "", ".hidden", "a\n"):
        with pytest.raises(DataError, match="cannot be the id of a clip"):
            fill(tmp_path, []).write(name, arrays(1), {})
    with pytest.raises(DataError, match=r"c1.safetensors has no arrays"):
        fill(tmp_path, []).write("c1", {}, {})


def test_arrays_in_any_memory_order(tmp_path):
    given = arrays(1)["video"].transpose(3, 1, 2, 0)[::-1]
    writer = fill(tmp_path, [])
    writer.write("c1", {"a": given, "b": np.arange(3, dtype=">i4")}, {})
    prepared = writer.finish()
    np.testing.assert_array_equal(prepared.read(0, "a").numpy(), given)
    assert prepared.read(0, "b").tolist() == [0, 1, 2]
    assert prepared.verify() == ()
