"""Protects sentiment from raw files to a training step, with text features of an encoder, where Lightning is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from torchmsaf.data.prepare.text.encoder import TextEncoder
from torchmsaf.data.prepare.utterances.preparation import prepare_sentiment
from torchmsaf.data.prepare.utterances.utterance import Settings
from torchmsaf.data.prepared import Prepared
from torchmsaf.data.sequences import sequence_samples
from torchmsaf.data.standardize import Standardizer
from torchmsaf.data.synth.mosei import synth_mosei
from torchmsaf.tasks import sentiment
from torchmsaf.tasks.model_file import ModelSpec, NetworkSpec
from torchmsaf.tasks.network import FusedNetwork

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "movie", "the", "was", *LETTERS]
WIDTH = 24


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT that knows few words, and all others by their letters."""
    folder = tmp_path_factory.mktemp("models") / "small-bert"
    torch.manual_seed(1)
    vocabulary = [*VOCABULARY, *(f"##{letter}" for letter in LETTERS)]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "raw"
    synth_mosei(folder, videos=10, seconds=3, audio_rate=10, video_rate=5)
    return folder


@pytest.fixture(scope="module")
def prepared(raw: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out = tmp_path_factory.mktemp("prepared")
    settings = Settings(steps=20, text_model=str(bert), device="cpu", batch_size=8)
    prepare_sentiment("mosei", raw, out, settings, folds=raw / "folds.json")
    return Prepared.open(out)


def test_the_command_makes_the_same_of_them(
    raw: Path, bert: Path, prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchmsaf.cli import main

    words = ["prepare", "mosei", "--raw", raw, "--out", tmp_path, "--folds", raw / "folds.json", "--text-model", bert]
    assert main([*map(str, words), "--steps", "20", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(f"{len(prepared)} utterances prepared, 0 there already: ")
    again = Prepared.open(tmp_path)
    assert again.path.name == prepared.path.name
    for row in range(len(prepared)):
        for name in ("video", "audio"):
            assert torch.equal(again.read(row, name), prepared.read(row, name))
        torch.testing.assert_close(again.read(row, "text"), prepared.read(row, "text"), atol=2e-6, rtol=0)


def test_text_features_are_the_encoders_of_each_utterances_words(prepared: Prepared, bert: Path) -> None:
    described = prepared.parameters["text"]
    assert described["width"] == WIDTH
    assert str(bert.parent) not in str(prepared.parameters)  # where the model lay decides nothing
    rows = range(0, len(prepared), 5)
    said = [prepared.entries[row].facts["words"] for row in rows]
    for row, vectors in zip(rows, TextEncoder(str(bert), device="cpu").words(said), strict=True):
        found = prepared.read(row, "text").numpy()
        assert found.shape == (len(prepared.read(row, "audio")), WIDTH)
        np.testing.assert_allclose(found, vectors[:20], atol=5e-6)


def test_one_step_of_training_lowers_the_loss_and_padding_changes_nothing(prepared: Prepared) -> None:
    samples, vocabulary = sequence_samples(prepared, "CMU-MOSEI")
    assert vocabulary is None
    assert samples.modalities == ("video", "audio", "text")
    train = np.array([row for row, part in enumerate(samples.parts or ()) if part == "train"])
    features = Standardizer.fit(samples, train).transform(samples)
    rows = torch.from_numpy(train[:12])
    inputs = [x[rows] for x in features.values()]
    lengths = [samples.lengths[name][rows] for name in samples.modalities]
    assert len({tuple(one.tolist()) for one in lengths}) == 1  # a step is a word, in all modalities
    assert int(lengths[0].min()) < int(lengths[0].max()) <= 20
    options = sentiment.network_options(samples.tokens)
    specs = {
        name: NetworkSpec(tuple(x.shape[1:]), sentiment.NETWORKS[name], options[name]) for name, x in features.items()
    }
    torch.manual_seed(0)
    network = ModelSpec(specs, "msaf", 1, sentiment.MSAF, regression=True, decision="joint").build()
    assert isinstance(network, FusedNetwork)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def loss() -> torch.Tensor:
        torch.manual_seed(1)  # of dropout
        return F.mse_loss(network(inputs, None, lengths).prediction[:, 0], samples.target[rows])

    before = loss()
    optimizer.zero_grad()
    before.backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in still if not name.startswith("points.")]
    optimizer.step()
    with torch.no_grad():
        assert loss() < before
    network.eval()
    with torch.no_grad():
        clean = network(inputs, None, lengths).prediction
        real = torch.arange(20) < lengths[0][:, None]
        spoiled = [torch.where(real[:, None], x, torch.nan) for x in inputs]
        assert torch.equal(network(spoiled, None, lengths).prediction, clean)
