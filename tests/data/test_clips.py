"""Protects prepared clips as samples: what is read is what was written, normalized in RGB order, and only when asked."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchmsaf.data.clips import Clips, emotion_samples, normalize
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.prepared_writer import PreparedWriter
from torchmsaf.data.ravdess import EMOTIONS
from torchmsaf.errors import DataError

N = 6


def arrays(row: int) -> dict[str, Any]:
    random = np.random.default_rng(row)
    video = random.integers(0, 256, (3, 2, 4, 5), np.uint8)
    return {"video": video, "audio": random.normal(size=(13, 7)).astype(np.float32)}


def write(root: Path, set_name: str = "ravdess", **changes: Any) -> Prepared:
    writer = PreparedWriter(root, set_name, {"frames": 2})
    for row in range(N):
        facts = {"label": row, "actor": 1 + row, **changes}
        writer.write(f"clip-{row}", arrays(row), {key: value for key, value in facts.items() if value is not None})
    return writer.finish()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write(tmp_path_factory.mktemp("clips"))


def by_formula(rows: list[int]) -> np.ndarray:
    """Float64, one channel after the other."""
    video = np.stack([arrays(row)["video"] for row in rows]).astype(np.float64) / 255
    red, green, blue = (video[:, channel] for channel in range(3))
    return np.stack([(red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225], axis=1)


def test_bytes_are_normalized_by_channel_in_the_order_of_rgb(prepared: Prepared) -> None:
    """Row B7 of docs/fidelity.md: the published code takes the mean of red off blue."""
    rows = [4, 0, 4]
    video = Clips(prepared, "video")[torch.tensor(rows)]
    assert video.dtype == torch.float32
    np.testing.assert_allclose(video.numpy(), by_formula(rows), atol=2e-6)


def test_floats_come_as_they_were_written(prepared: Prepared) -> None:
    audio = Clips(prepared, "audio")
    assert audio.shape == (N, 13, 7)
    assert len(audio) == N
    np.testing.assert_array_equal(audio[torch.tensor([5, 2])], np.stack([arrays(row)["audio"] for row in (5, 2)]))


def test_the_extremes_of_bytes_and_other_means() -> None:
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3)
    torch.testing.assert_close(normalize(x, [0.2], [0.5]), torch.tensor([[[-0.4, 0, 1.6]]]))
    assert x.flatten().tolist() == [0, 51, 255]
    with pytest.raises(DataError, match="bytes of 1 channels came, and there are means of 3"):
        normalize(x)


def test_some_clips_of_some_clips_are_those_clips(prepared: Prepared) -> None:
    some = (
        Clips(prepared, "video", mean=(0, 0, 0), std=(1, 1, 1)).take(torch.tensor([5, 3, 1])).take(torch.tensor([2, 0]))
    )
    assert some.shape == (2, 3, 2, 4, 5)
    expected = np.stack([arrays(row)["video"] for row in (5, 1)]).astype(np.float32) / 255
    np.testing.assert_allclose(some[torch.tensor([1, 0])].numpy(), expected, atol=1e-6)


def test_what_is_read_is_the_readers_own(prepared: Prepared) -> None:
    clips, rows = Clips(prepared, "audio"), torch.tensor([1])
    clips[rows].zero_()
    np.testing.assert_array_equal(clips[rows][0], arrays(1)["audio"])


def test_a_pickle_of_clips_holds_no_values_and_reads_the_same(prepared: Prepared) -> None:
    clips = Clips(prepared, "video").take(torch.tensor([2, 3]))
    content = pickle.dumps(clips)
    assert len(content) < 2000
    assert torch.equal(pickle.loads(content)[torch.tensor([1])], clips[torch.tensor([1])])


def test_clips_that_are_not_of_one_shape_or_lack_a_modality(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"clip clip-0 has no 'face'; it has audio, video"):
        Clips(prepared, "face")
    writer = PreparedWriter(tmp_path / "uneven", "ravdess", {})
    writer.write("a", {"audio": np.zeros((13, 7), np.float32)}, {})
    writer.write("b", {"audio": np.zeros((13, 8), np.float32)}, {})
    with pytest.raises(DataError, match=r"'audio' of clip b is \(13, 8\), and \(13, 7\) of clip a; clips of one shape"):
        Clips(writer.finish(), "audio")
    with pytest.raises(DataError, match="has no clips"):
        Clips(PreparedWriter(tmp_path / "empty", "ravdess", {}).finish(), "audio")


def test_emotion_samples(prepared: Prepared, tmp_path: Path) -> None:
    samples = emotion_samples(prepared)
    assert samples.modalities == ("video", "audio")
    assert samples.target.tolist() == list(range(N))
    assert samples.groups == tuple(str(1 + row) for row in range(N))
    assert samples.ids == tuple(f"clip-{row}" for row in range(N))
    assert samples.classes == EMOTIONS
    assert bool(samples.present.all())
    prints = {one.fingerprint for one in (samples, emotion_samples(prepared, "another name for tables"))}
    prints |= {emotion_samples(write(tmp_path / key, **{key: 3})).fingerprint for key in ("label", "actor")}
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("set_name", "changes", "words"),
    [
        ("digits", {}, r"is prepared from 'digits'; 'ravdess' is needed"),
        (
            "ravdess",
            {"label": "happy"},
            r"clip clip-0: its label is 'happy'; a whole number is needed: prepare it again",
        ),
        ("ravdess", {"actor": None}, r"clip clip-0: its actor is None; a whole number"),
        ("ravdess", {"label": 8}, r"class indices go from 8 to 8; 0 to 7 is needed"),
    ],
)
def test_clips_that_are_no_emotions(tmp_path: Path, set_name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        emotion_samples(write(tmp_path, set_name, **changes))
