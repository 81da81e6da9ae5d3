"""Protects what a text encoder gives: each word's mean, whatever shares its batch, and refusals in plain words."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from torchmsaf.data.prepare.text.cache import cached_words
from torchmsaf.data.prepare.text.encoder import TextEncoder
from torchmsaf.errors import DataError

# fmt: off
WORDS = [
    "the", "movie", "was", "so", "very", "great", "bad", "i", "did", "not", "like", "it", "really", "because",
    "they", "never", "said", "why", "and", "me",
]
# fmt: on
PIECES = ["##s", "##ly", "##ing", "##n", "##t", "'", "t", "a", "##b", "b", "c", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = [
    ["The", "movie", "was", "so", "so", "greatly", "bad"],
    ["I", "didn't", "like", "it"],
    ["really"],
    ["because", "they", "never", "said", "why", "and", "me", "bads", "movies", "likely", "greats", "sos"],
]
SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    """A small BERT in lower case, as bert-base-uncased is shipped: vocab.txt and no tokenizer.json; 20 positions."""
    folder = tmp_path_factory.mktemp("models") / "small-bert"
    torch.manual_seed(1)
    vocabulary = [*SPECIAL, *WORDS, *PIECES]
    config = transformers.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=20, **SIZE)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


@pytest.fixture(scope="session")
def roberta(tmp_path_factory) -> Path:
    """A small RoBERTa, whose pieces are of bytes and have the blank before their word, and whose positions start at 2."""
    folder = tmp_path_factory.mktemp("models") / "small-roberta"
    torch.manual_seed(2)
    pieces = byte_level_tokenizer()
    config = transformers.RobertaConfig(
        vocab_size=len(pieces), max_position_embeddings=22, pad_token_id=1, bos_token_id=0, eos_token_id=2, **SIZE
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    pieces.save_pretrained(folder)
    return folder


def byte_level_tokenizer() -> Any:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(words) for words in SENTENCES] * 3, trainer)
    backend.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
    )


def one_at_a_time(folder: Path, words: list[str], kind: str) -> np.ndarray:
    """The mean of each word's pieces, of one sentence alone, its pieces found word by word."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    blank = " " if kind == "roberta" else ""
    pieces = [
        tokenizer(f"{blank if i else ''}{word}", add_special_tokens=False)["input_ids"] for i, word in enumerate(words)
    ]
    ids = [tokenizer.cls_token_id, *[piece for word in pieces for piece in word], tokenizer.sep_token_id]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    means, place = [], 1
    for word in pieces:
        means.append(np.mean([states[place + i] for i in range(len(word))], axis=0))
        place += len(word)
    assert place == len(ids) - 1
    return np.stack(means)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_word_is_the_mean_of_its_pieces_whatever_shares_its_batch(kind, batch_size, request):
    folder = request.getfixturevalue(kind)
    sentences = [words[:5] for words in SENTENCES]  # within the positions
    found = TextEncoder(str(folder), device="cpu", batch_size=batch_size).words(sentences)
    for words, vectors in zip(sentences, found, strict=True):
        assert vectors.shape == (len(words), 24)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, one_at_a_time(folder, words, kind), atol=2e-6)


def test_words_agree_with_the_librarys_own_word_numbers(bert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    words = ["I", "didn't", "like", "movies", "greatly"]
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    numbers = np.array([-1 if number is None else number for number in encoded.word_ids()])
    with torch.no_grad():
        states = model(**encoded).last_hidden_state[0].numpy()
    expected = np.stack([states[numbers == number].mean(0) for number in range(len(words))])
    assert max(np.bincount(numbers[numbers >= 0])) > 1  # or nothing was averaged
    np.testing.assert_allclose(TextEncoder(str(bert), device="cpu").words([words])[0], expected, atol=2e-6)


def test_upper_case_is_as_lower_case_where_the_tokenizer_says_so(bert):
    lower, upper = TextEncoder(str(bert), device="cpu").words([["movie", "like"], ["MOVIE", "Like"]])
    np.testing.assert_allclose(lower, upper, atol=2e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_long_sentence_goes_in_windows_of_words_that_do_not_see_each_other(kind, request):
    folder = request.getfixturevalue(kind)
    words = ["movie", "so", "bad", "the", "was", "like", "it", "very"] * 5  # 40 pieces or more, 18 to a window
    encoder = TextEncoder(str(folder), device="cpu")
    (vectors,) = encoder.words([words])
    assert np.abs(vectors).sum(1).min() > 0
    # each word's vector is one that some run of words around it gives alone; 40 pieces are three windows of 14, 14, 12
    if kind == "bert":
        alone = np.concatenate([one_at_a_time(folder, words[a:b], kind) for a, b in ((0, 14), (14, 28), (28, 40))])
        np.testing.assert_allclose(vectors, alone, atol=2e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_word_longer_than_the_model_has_its_first_pieces(kind, request):
    folder = request.getfixturevalue(kind)
    long = "a" + "b" * 60
    (vectors,) = TextEncoder(str(folder), device="cpu").words([["the", long, "movie"]])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pieces = tokenizer((" " if kind == "roberta" else "") + long, add_special_tokens=False)["input_ids"]
    assert len(pieces) > 18
    with torch.no_grad():
        states = model(torch.tensor([[tokenizer.cls_token_id, *pieces[:18], tokenizer.sep_token_id]])).last_hidden_state
    np.testing.assert_allclose(vectors[1], states[0, 1:-1].mean(0).numpy(), atol=2e-6)
    assert np.abs(vectors).sum(1).min() > 0


def test_a_word_without_pieces_has_zeros_and_disturbs_no_other(bert):
    encoder = TextEncoder(str(bert), device="cpu")
    with_empty, without, none, empty = encoder.words(
        [["so", "", "bad", " ", "\u200b"], ["so", "bad"], [], ["", "\u200b"]]
    )
    np.testing.assert_allclose(with_empty[[0, 2]], without, atol=2e-6)
    assert not with_empty[[1, 3, 4]].any()
    assert none.shape == (0, 24)
    assert empty.shape == (2, 24)
    assert not empty.any()


def test_half_a_surrogate_pair_does_not_stop_a_preparation(bert):
    (vectors,) = TextEncoder(str(bert), device="cpu").words([["so", "\ud83d", "bad"]])
    assert vectors.shape == (3, 24)


@pytest.mark.parametrize("steps", [6, 10, 20])
def test_published_is_the_first_pieces_between_special_ones_padded_and_masked(bert, steps):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    texts = [" ".join(words) for words in SENTENCES] + [""]
    found = TextEncoder(str(bert), device="cpu", batch_size=2).published(texts, steps)
    assert len(found) == len(texts)
    for text, vectors in zip(texts, found, strict=True):
        pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))[: steps - 2]
        ids = [tokenizer.cls_token_id, *pieces, tokenizer.sep_token_id]
        padding = steps - len(ids)
        with torch.no_grad():
            expected = model(
                input_ids=torch.tensor([ids + [0] * padding]),
                attention_mask=torch.tensor([[1] * len(ids) + [0] * padding]),
                token_type_ids=torch.zeros(1, steps, dtype=torch.int64),
            ).last_hidden_state[0]
        assert vectors.shape == (steps, 24)
        np.testing.assert_allclose(vectors, expected.numpy(), atol=2e-6)


def test_published_needs_as_many_positions_as_the_model_has(bert):
    with pytest.raises(DataError, match=r"steps is 21; a whole number from 3 to 20 is needed"):
        TextEncoder(str(bert), device="cpu").published(["so"], 21)
    with pytest.raises(DataError, match=r"sentence 0 is \['so'\]; a text is needed"):
        TextEncoder(str(bert), device="cpu").published([["so"]], 10)  # type: ignore[list-item]


def test_nothing_of_the_encoder_is_trained_and_the_librarys_reports_are_not_shown(bert, capfd):
    level = transformers.utils.logging.get_verbosity()
    encoder = TextEncoder(str(bert), device="cpu")
    encoder.words(SENTENCES)
    model = encoder._loaded.model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert transformers.utils.logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")


def test_weights_of_half_precision_are_used_in_single(bert, tmp_path):
    folder = copied(bert, tmp_path)
    transformers.AutoModel.from_pretrained(bert).half().save_pretrained(folder)
    encoder = TextEncoder(str(folder), device="cpu")
    (vectors,) = encoder.words([["so", "bad"]])
    assert vectors.dtype == np.float32
    assert next(encoder._loaded.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["DistilBert", "Electra", "Albert", "MPNet"])
def test_other_encoders_work(kind, bert, tmp_path):
    sizes = {"DistilBert": {"dim": 24, "n_layers": 1, "n_heads": 3, "hidden_dim": 40}}.get(
        kind, {**SIZE, "embedding_size": 16}
    )
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(SPECIAL) + len(WORDS) + len(PIECES), max_position_embeddings=30, **sizes
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path), device="cpu", batch_size=2)
    alone = [encoder.words([words])[0] for words in SENTENCES]
    for vectors, expected in zip(encoder.words(SENTENCES), alone, strict=True):
        np.testing.assert_allclose(vectors, expected, atol=2e-6)
    assert encoder.describe()["width"] == alone[0].shape[1] == 24


def test_equal_files_have_equal_descriptions_wherever_they_lie(bert, roberta, tmp_path, monkeypatch):
    here, there = TextEncoder(str(bert)).describe(), TextEncoder(str(copied(bert, tmp_path / "a"))).describe()
    assert here["digest"] == there["digest"]
    assert here == {"model": "small-bert", "digest": here["digest"], "layer": "last", "width": 24}
    assert len(here["digest"]) == 16
    monkeypatch.chdir(bert)
    assert TextEncoder(".").describe() == here
    weights = copied(bert, tmp_path / "b")
    state = load_file(weights / "model.safetensors")
    state["embeddings.LayerNorm.bias"][0] += 1e-3
    save_file(state, weights / "model.safetensors", metadata={"format": "pt"})
    vocabulary = copied(bert, tmp_path / "c")
    text = (vocabulary / "vocab.txt").read_text()
    (vocabulary / "vocab.txt").write_text(text.replace("great\nbad", "bad\ngreat"))
    config = copied(bert, tmp_path / "d")
    change(config, hidden_act="relu")
    saved = copied(bert, tmp_path / "e")
    change(saved, transformers_version="0.1", _name_or_path="elsewhere")
    folders = [bert, weights, vocabulary, config, roberta]
    assert len({TextEncoder(str(folder)).describe()["digest"] for folder in folders}) == 5
    assert TextEncoder(str(saved)).describe()["digest"] == here["digest"]


def test_a_model_that_was_downloaded_before_is_found_by_name_without_a_connection(bert, tmp_path):
    snapshot = tmp_path / "hub" / "models--somebody--small" / "snapshots" / ("0" * 40)
    copied(bert, snapshot.parent, snapshot.name)
    (tmp_path / "hub" / "models--somebody--small" / "refs").mkdir()
    (tmp_path / "hub" / "models--somebody--small" / "refs" / "main").write_text("0" * 40)
    encoder = TextEncoder("somebody/small", device="cpu")
    assert encoder.describe() == {**TextEncoder(str(bert)).describe(), "model": "somebody/small"}
    np.testing.assert_array_equal(encoder.words([["so"]])[0], TextEncoder(str(bert), device="cpu").words([["so"]])[0])


def test_a_model_that_is_not_there_says_what_to_do():
    with pytest.raises(
        DataError, match=r"'bert-base-uncased' is no folder here .*HF_HUB_OFFLINE is set.*give the path"
    ):
        TextEncoder("bert-base-uncased").describe()
    with pytest.raises(DataError, match=r"'\./nowhere' is no folder; a folder with config.json"):
        TextEncoder("./nowhere").describe()
    with pytest.raises(DataError, match=r"'' is no folder"):
        TextEncoder("").describe()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("vocab.txt", r"'small-bert' \(.*\) has no tokenizer \(tokenizer.json, vocab.txt"),
        ("config.json", r"has no config.json: a folder with"),
        ("model.safetensors", r"has no weights: a folder with config.json"),
    ],
)
def test_a_folder_that_lacks_a_file_says_which(bert, tmp_path, file, message):
    folder = copied(bert, tmp_path)
    (folder / file).unlink()
    with pytest.raises(DataError, match=message):
        TextEncoder(str(folder)).describe()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", r"config.json cannot be read"), ("[]", r"config.json is no JSON object")],
)
def test_a_damaged_configuration_is_refused(bert, tmp_path, content, message):
    folder = copied(bert, tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        TextEncoder(str(folder)).describe()


def test_damaged_weights_are_refused(bert, tmp_path):
    folder = copied(bert, tmp_path)
    (folder / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(
        DataError, match=r"the weights of text model 'small-bert' cannot be loaded \(.*copy or download"
    ):
        TextEncoder(str(folder), device="cpu").words([["so"]])


def test_weights_that_lack_a_layer_are_refused_and_those_that_lack_the_pooler_are_not(bert, tmp_path):
    folder = copied(bert, tmp_path)
    state = load_file(folder / "model.safetensors")
    for name in [name for name in state if name.startswith("pooler")]:
        del state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    expected = TextEncoder(str(bert), device="cpu").words([["so"]])[0]
    np.testing.assert_array_equal(TextEncoder(str(folder), device="cpu").words([["so"]])[0], expected)
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 weight .* encoder.layer.1.output.dense.weight"):
        TextEncoder(str(folder), device="cpu").words([["so"]])


def test_a_vocabulary_of_special_pieces_alone_is_refused(bert, tmp_path):
    folder = copied(bert, tmp_path)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL) + "\n")
    with pytest.raises(DataError, match=r"tokenizer of text model 'small-bert' has no vocabulary but 5 special pieces"):
        TextEncoder(str(folder), device="cpu").words([["so"]])


@pytest.mark.parametrize("published", [False, True])
def test_a_tokenizer_that_knows_no_word_is_refused(bert, tmp_path, published):
    folder = copied(bert, tmp_path)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, "один", "два", "три"]) + "\n")
    encoder = TextEncoder(str(folder), device="cpu")
    with pytest.raises(DataError, match=r"'small-bert' knows none of the first \d+ words.*unknown piece '\[UNK\]'"):
        encoder.published([" ".join(SENTENCES[0])] * 5, 12) if published else encoder.words(SENTENCES)


def test_a_few_unknown_words_are_no_reason_to_refuse(bert):
    encoder = TextEncoder(str(bert), device="cpu")
    assert np.isfinite(encoder.words([["zzz", "ξ"]])[0]).all()
    encoder.words(SENTENCES)
    assert np.isfinite(encoder.words([["zzz"] * 30])[0]).all()  # it has known words before


def test_a_tokenizer_of_another_model_is_refused(bert, tmp_path):
    folder = copied(bert, tmp_path)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *[f"w{i}" for i in range(90)], *WORDS]) + "\n")
    with pytest.raises(
        DataError, match=r"has 37 word-pieces, and its tokenizer says number \d+: the tokenizer is another"
    ):
        TextEncoder(str(folder), device="cpu").words(SENTENCES)


def test_a_decoder_is_refused(tmp_path):
    tokenizer = byte_level_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=24, n_layer=1, n_head=3, n_positions=30, bos_token_id=0, eos_token_id=2
    )
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"no encoder of text \(gpt2 reads from left to right: .*bert-base-uncased"):
        TextEncoder(str(tmp_path), device="cpu").words(SENTENCES)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    config = transformers.T5Config(vocab_size=330, d_model=24, d_kv=8, num_layers=1, num_heads=3, d_ff=40)
    transformers.T5Model(config).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        DataError, match=r"\(t5 is an encoder with a decoder\): give a model that is an encoder of text"
    ):
        TextEncoder(str(tmp_path), device="cpu").words(SENTENCES)


def test_a_model_of_images_is_refused(tmp_path):
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SIZE)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"is no encoder of text \(vit takes .*\): give a model that"):
        TextEncoder(str(tmp_path), device="cpu").words(SENTENCES)


def test_code_beside_a_model_is_not_run(bert, tmp_path):
    folder, ran = copied(bert, tmp_path), tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    classes = {"AutoConfig": "code.OwnConfig", "AutoModel": "code.OwnModel"}
    change(folder, auto_map=classes)
    assert TextEncoder(str(folder), device="cpu").words([["so"]])[0].shape == (1, 24)  # a BERT all the same
    change(folder, auto_map=classes, model_type="own")
    with pytest.raises(DataError, match=r"'small-bert' needs code that lies beside it, which torchmsaf does not run"):
        TextEncoder(str(folder), device="cpu").words([["so"]])
    assert not ran.exists()


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_weights_are_read_when_they_are_weights_alone(bert, tmp_path):
    folder = copied(bert, tmp_path)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    expected = TextEncoder(str(bert), device="cpu").words([["so", "bad"]])[0]
    np.testing.assert_array_equal(TextEncoder(str(folder), device="cpu").words([["so", "bad"]])[0], expected)
    torch.save({**state, "pooler.dense.bias": Runs(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"the weights of text model 'small-bert' cannot be loaded"):
        TextEncoder(str(folder), device="cpu").words([["so"]])
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(DataError, match=r"the weights of text model 'small-bert' cannot be loaded"):
        TextEncoder(str(folder), device="cpu").words([["so"]])
    assert not (tmp_path / "ran").exists()


def test_weights_in_several_files_are_read_and_a_missing_one_is_named(bert, tmp_path):
    folder = copied(bert, tmp_path)
    (folder / "model.safetensors").unlink()
    transformers.AutoModel.from_pretrained(bert).save_pretrained(folder, max_shard_size="10KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    expected = TextEncoder(str(bert), device="cpu").words([["so", "bad"]])[0]
    np.testing.assert_array_equal(TextEncoder(str(folder), device="cpu").words([["so", "bad"]])[0], expected)
    parts[-1].unlink()
    with pytest.raises(DataError, match=rf"lacks {parts[-1].name}, which model.safetensors.index.json lists"):
        TextEncoder(str(folder)).describe()


def test_an_adapter_is_refused(bert, tmp_path):
    folder = copied(bert, tmp_path)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    with pytest.raises(DataError, match=r"is an adapter of another model: merge"):
        TextEncoder(str(folder)).describe()


def test_weights_that_give_nan_are_refused(bert, tmp_path):
    folder = copied(bert, tmp_path)
    state = load_file(folder / "model.safetensors")
    state["encoder.layer.1.output.dense.bias"][3] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"'small-bert' gives NaN or infinite values"):
        TextEncoder(str(folder), device="cpu").words([["so"]])


def test_the_memory_running_out_says_to_give_smaller_batches(bert, monkeypatch):
    encoder = TextEncoder(str(bert), device="cpu")
    encoder.words([["so"]])

    def full(*inputs: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(encoder._loaded.model, "forward", full)
    with pytest.raises(DataError, match=r"needs more memory than cpu has for 2 sentences of 4 .*smaller batch size"):
        encoder.words([["so", "bad"], ["so"]])


def test_what_is_no_list_of_words_and_what_is_no_device_is_refused(bert):
    encoder = TextEncoder(str(bert), device="cpu")
    with pytest.raises(DataError, match=r"sentence 1 is 'so bad'; a sequence of words is needed"):
        encoder.words([["so"], "so bad"])
    with pytest.raises(DataError, match=r"sentence 0 is \[3\]; a sequence of words"):
        encoder.words([[3]])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"device 'tpu9' cannot be used .*cpu works everywhere"):
        TextEncoder(str(bert), device="tpu9").words([["so"]])


def test_no_sentences_give_no_vectors(bert):
    encoder = TextEncoder(str(bert), device="cpu")
    assert encoder.words([]) == []
    assert encoder.published([], 10) == []


def test_what_is_cached_is_what_the_encoder_gives_and_the_model_is_not_loaded_again(bert, tmp_path):
    utterances = {f"-video.{number}": words for number, words in enumerate(SENTENCES)}
    encoder = TextEncoder(str(bert), device="cpu", batch_size=3)
    first = cached_words(encoder, utterances, tmp_path)
    for id, words in utterances.items():
        np.testing.assert_allclose(first[id], encoder.words([words])[0], atol=2e-6)
    again = TextEncoder(str(bert), device="cpu")
    second = cached_words(again, utterances, tmp_path)
    assert "_loaded" not in vars(again)
    for id in utterances:
        np.testing.assert_array_equal(second[id], first[id])


def copied(folder: Path, where: Path, name: str = "small-bert") -> Path:
    shutil.copytree(folder, where / name)
    return where / name


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
