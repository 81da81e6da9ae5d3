"""Networks that people have, tiny and with random weights, with layers to tap and the layouts that are to be found there.

Libraries are imported where they are used, so that a test is skipped where one is not installed.
"""

# B batch, C channels, T time, frames or tokens, H height, W width

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

B = 2  # samples


@dataclass(frozen=True)
class Architecture:
    """One kind of network.

    Attributes:
        name: for the test's name.
        build: makes it.
        example: makes an input, as a grafted model takes it.
        layouts: of layers to tap, in the order in which they run. A letter other than ``B`` and ``C`` is a position;
            which one it is says this table alone.
        library: it comes from there; empty = torch.
        differentiable: whether its input may need gradients.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    layouts: dict[str, str]
    library: str = ""
    differentiable: bool = True

    def __call__(self) -> nn.Module:
        """The network, with the same weights every time, none of them all zero."""
        if self.library:
            pytest.importorskip(self.library)
        torch.manual_seed(3)
        network = self.build()
        for p in network.parameters():  # a head or a branch that starts at nearly zero would hide what is before it
            if p.abs().max() < 1e-3:
                nn.init.normal_(p, std=0.2)
        return network

    def input(self) -> Any:
        """An input, the same every time."""
        torch.manual_seed(4)
        return self.example()


# ---- networks that somebody wrote with torch alone


class Branching(nn.Module):
    """A network with a branch on its data, a loop, a layer without tensors, and a dict as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.bright = nn.Conv2d(6, 8, 3, padding=1)
        self.dark = nn.Conv2d(6, 8, 1)
        self.again = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.last = nn.Sequential(nn.ReLU(), nn.Dropout(0.3))
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.norm(self.first(x)).relu_()
        x = self.bright(x) if float(x.detach().mean()) > 0.1 else self.dark(x)
        rounds = 0
        while rounds < 3 and float(x.detach().abs().max()) > 1e-6:
            x = x + self.again[rounds](x).tanh()
            rounds += 1
        x = self.last(x)
        return {"logits": self.out(x.mean((2, 3))), "rounds": rounds}


class Recurrent(nn.Module):
    """An LSTM classifier; its layers give tuples of an output and a state."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.2)
        self.upper = nn.LSTM(12, 8)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lower(x)
        x, (state, _) = self.upper(self.drop(x).transpose(0, 1))
        return self.out(x[-1] + state[0])


class Packed(nn.Module):
    """A GRU classifier of sequences of several lengths, packed inside of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 6)
        self.lower = nn.GRU(6, 7, batch_first=True)
        self.upper = nn.GRU(7, 8, batch_first=True)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
        lower, _ = self.lower(packed)
        assert isinstance(lower, PackedSequence)
        upper, state = self.upper(lower)
        padded, _ = pad_packed_sequence(upper, batch_first=True)
        return self.out(padded.sum(1) + state[-1])


class Attentive(nn.Module):
    """torch's own transformer encoder, which has a fast path in evaluation."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Linear(5, 32)
        # wide enough for the fast path to round otherwise
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.out(x.mean(1))


class Partner(nn.Module):
    """The small network that every architecture is grafted with. It draws no random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm1d(6)
        self.conv2 = nn.Conv1d(6, 10, 3, stride=2)
        self.norm2 = nn.BatchNorm1d(10)
        self.out = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return self.out(x.mean(2))


PARTNER = Architecture("partner", Partner, lambda: torch.randn(B, 4, 9), {"norm1": "BCT", "norm2": "BCT"})


# ---- of torchvision


def _vision(name: str, **options: Any) -> nn.Module:
    return importlib.import_module("torchvision.models").get_model(name, weights=None, num_classes=5, **options)


def _small_resnet(layers: tuple[int, ...] = (1, 1, 1, 1)) -> nn.Module:
    resnet = importlib.import_module("torchvision.models.resnet")
    return resnet.ResNet(resnet.BasicBlock, list(layers), num_classes=5)


def _small_r3d() -> nn.Module:
    video = importlib.import_module("torchvision.models.video.resnet")
    blocks = [video.Conv3DSimple] * 4
    return video.VideoResNet(video.BasicBlock, blocks, [1, 1, 1, 1], video.BasicStem, num_classes=5)


def _small_swin() -> nn.Module:
    swin = importlib.import_module("torchvision.models.swin_transformer")
    return swin.SwinTransformer(
        [4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5, dropout=0.1, stochastic_depth_prob=0.2
    )


def _small_swin3d() -> nn.Module:
    swin = importlib.import_module("torchvision.models.video.swin_transformer")
    return swin.SwinTransformer3d(
        [2, 4, 4], 12, [1, 1], [2, 2], [2, 4, 4], num_classes=5, dropout=0.1, stochastic_depth_prob=0.0
    )


def _small_vision_transformer() -> nn.Module:
    vit = importlib.import_module("torchvision.models.vision_transformer")
    return vit.VisionTransformer(16, 8, 2, 2, 12, 24, dropout=0.1, num_classes=5)


def _small_convnext() -> nn.Module:
    convnext = importlib.import_module("torchvision.models.convnext")
    stages = [convnext.CNBlockConfig(6, 12, 2), convnext.CNBlockConfig(12, None, 2)]
    return convnext.ConvNeXt(stages, stochastic_depth_prob=0.2, num_classes=5)


def _small_mvit() -> nn.Module:
    mvit = importlib.import_module("torchvision.models.video.mvit")
    blocks = [
        mvit.MSBlockConfig(1, 8, 16, [3, 3, 3], [1, 2, 2], [1, 1, 1], [1, 1, 1]),
        mvit.MSBlockConfig(2, 16, 16, [3, 3, 3], [1, 1, 1], [1, 1, 1], [1, 2, 2]),
    ]
    return mvit.MViT(
        (16, 16),
        4,
        blocks,
        residual_pool=False,
        residual_with_cls_embed=True,
        rel_pos_embed=False,
        proj_after_attn=True,
        num_classes=5,
        dropout=0.1,
        stochastic_depth_prob=0.1,
    )


# ---- of timm


def _timm(name: str, **options: Any) -> nn.Module:
    return importlib.import_module("timm").create_model(name, pretrained=False, num_classes=5, **options)


def _small_mixer() -> nn.Module:
    mixer = importlib.import_module("timm.models.mlp_mixer")
    return mixer.MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=3, embed_dim=12, drop_path_rate=0.2)


# ---- of transformers

_SMALL = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20}


def _transformers(model: str, config: str, **options: Any) -> nn.Module:
    transformers = importlib.import_module("transformers")
    # a model of transformers starts in evaluation mode only when it is loaded
    return getattr(transformers, model)(getattr(transformers, config)(**options))


def _whisper_encoder() -> nn.Module:
    whole = _transformers(
        "WhisperModel",
        "WhisperConfig",
        vocab_size=20,
        num_mel_bins=6,
        d_model=12,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=20,
        decoder_ffn_dim=20,
        max_source_positions=8,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        dropout=0.1,
    )
    return whole.get_encoder()


def _words() -> dict[str, Tensor]:
    mask = torch.ones(B, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return {"input_ids": torch.randint(0, 30, (B, 7)), "attention_mask": mask}


def _named(name: str, *shape: int) -> dict[str, Tensor]:
    return {name: torch.randn(B, *shape)}


_BERT = _SMALL | {"vocab_size": 30, "max_position_embeddings": 9, "num_labels": 5}
_WAVES = _SMALL | {
    "conv_dim": (8, 8, 8),
    "conv_kernel": (5, 3, 3),
    "conv_stride": (4, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "vocab_size": 20,
}


def _image(size: int = 32) -> Callable[[], Tensor]:
    return partial(torch.randn, B, 3, size, size)


ARCHITECTURES = [
    Architecture(
        "plain-branching-cnn", Branching, _image(12), {"norm": "BCHW", "again.1": "BCHW"}
    ),
    Architecture("plain-lstm", Recurrent, lambda: torch.randn(B, 7, 5), {"lower": "BTC", "upper": "TBC"}),
    Architecture(
        "plain-packed-gru",
        Packed,
        lambda: (torch.randn(3, 7, 5)[:B], torch.tensor([4, 7])),
        {"lower": "BTC", "upper": "BTC"},
    ),
    Architecture(
        "plain-transformer",
        partial(Attentive, True),
        lambda: torch.randn(B, 7, 5),
        {"encoder.layers.0": "BTC", "encoder.layers.1": "BTC"},
    ),
    Architecture(
        "plain-transformer-time-first",
        partial(Attentive, False),
        lambda: torch.randn(B, 7, 5),
        {"encoder.layers.0": "TBC", "encoder": "TBC"},
    ),
    Architecture("torchvision-resnet", _small_resnet, _image(), {"layer1": "BCHW", "layer3": "BCHW"}, "torchvision"),
    Architecture(
        "torchvision-r3d",
        _small_r3d,
        lambda: torch.randn(B, 3, 4, 12, 12),
        {"layer1": "BCTHW", "layer3.0": "BCTHW"},
        "torchvision",
    ),
    Architecture("torchvision-swin", _small_swin, _image(), {"features.1": "BHWC", "features.3": "BHWC"}, "torchvision"),
    Architecture(
        "torchvision-swin3d",
        _small_swin3d,
        lambda: torch.randn(B, 3, 4, 16, 16),
        {"features.0": "BTHWC", "features.2.0": "BTHWC"},
        "torchvision",
    ),
    Architecture(
        "torchvision-vit",
        _small_vision_transformer,
        _image(16),
        {"encoder.layers.encoder_layer_0": "BTC", "encoder.ln": "BTC"},
        "torchvision",
    ),
    Architecture(
        "torchvision-mvit",
        _small_mvit,
        lambda: torch.randn(B, 3, 4, 16, 16),
        {"blocks.0": "BTC", "blocks.1": "BTC"},
        "torchvision",
    ),
    Architecture(
        "torchvision-convnext",
        _small_convnext,
        _image(),
        {"features.0": "BCHW", "features.3": "BCHW"},
        "torchvision",
    ),
    Architecture(
        "torchvision-mobilenet",
        partial(_vision, "mobilenet_v3_small", width_mult=0.25),
        _image(),
        {"features.2": "BCHW", "features.8": "BCHW"},
        "torchvision",
    ),
    Architecture(
        "timm-resnet",
        partial(_timm, "resnet10t", block_args={}, channels=(8, 8, 12, 12), stem_width=8),
        _image(),
        {"layer1": "BCHW", "layer3": "BCHW"},
        "timm",
    ),
    Architecture(
        "timm-mobilenet",
        partial(_timm, "mobilenetv3_small_050", drop_rate=0.1, drop_path_rate=0.2),
        _image(),
        {"blocks.1": "BCHW", "blocks.4": "BCHW"},
        "timm",
    ),
    Architecture(
        "timm-vit",
        partial(
            _timm, "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=3, num_heads=2, drop_rate=0.1,
            drop_path_rate=0.2,
        ),
        _image(),
        {"patch_embed": "BTC", "blocks.1": "BTC"},
        "timm",
    ),
    Architecture(
        "timm-convnext",
        partial(_timm, "convnext_atto", depths=(1, 1, 2, 1), dims=(6, 10, 12, 16), drop_path_rate=0.2),
        _image(),
        {"stem": "BCHW", "stages.2": "BCHW"},
        "timm",
    ),
    Architecture(
        "timm-swin",
        partial(
            _timm, "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=16, depths=(1, 2),
            num_heads=(2, 2), drop_path_rate=0.2,
        ),
        _image(),
        {"layers.0": "BHWC", "layers.1.blocks.0": "BHWC"},
        "timm",
    ),
    Architecture(
        "timm-mixer",
        _small_mixer,
        _image(),
        {"blocks.0": "BTC", "blocks.2": "BTC"},
        "timm",
    ),
    Architecture(
        "transformers-bert",
        partial(_transformers, "BertModel", "BertConfig", **_BERT),
        _words,
        {"encoder.layer.0": "BTC", "encoder.layer.1": "BTC"},
        "transformers",
    ),
    Architecture(
        "transformers-bert-classifier",
        partial(_transformers, "BertForSequenceClassification", "BertConfig", **_BERT),
        _words,
        {"bert.embeddings": "BTC", "bert.encoder": "BTC"},
        "transformers",
    ),
    Architecture(
        "transformers-vit",
        partial(_transformers, "ViTModel", "ViTConfig", image_size=16, patch_size=8, hidden_dropout_prob=0.1, **_SMALL),
        lambda: _named("pixel_values", 3, 16, 16),
        {"embeddings": "BTC", "layernorm": "BTC"},
        "transformers",
    ),
    Architecture(
        "transformers-wav2vec2",
        partial(_transformers, "Wav2Vec2Model", "Wav2Vec2Config", **_WAVES),
        lambda: _named("input_values", 200),
        {"feature_extractor": "BCT", "encoder.layers.1": "BTC"},
        "transformers",
        differentiable=False,  # in training it demands an input that needs none
    ),
    Architecture(
        "transformers-ast",
        partial(
            _transformers, "ASTModel", "ASTConfig", patch_size=4, num_mel_bins=8, max_length=16, frequency_stride=4,
            time_stride=4, **_SMALL,
        ),
        lambda: _named("input_values", 16, 8),
        {"embeddings": "BTC", "layernorm": "BTC"},
        "transformers",
    ),
    Architecture(
        "transformers-videomae",
        partial(
            _transformers, "VideoMAEModel", "VideoMAEConfig", image_size=16, patch_size=8, num_frames=4,
            hidden_dropout_prob=0.1, **_SMALL,
        ),
        lambda: _named("pixel_values", 4, 3, 16, 16),
        {"encoder.layer.0": "BTC", "encoder.layer.1": "BTC"},
        "transformers",
    ),
    Architecture(
        "transformers-whisper-encoder",
        _whisper_encoder,
        lambda: _named("input_features", 6, 16),
        {"layers.0": "BTC", "layers.1": "BTC"},
        "transformers",
    ),
]  # fmt: skip
BY_NAME = {one.name: one for one in ARCHITECTURES}
