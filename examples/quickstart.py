"""MSAF between two small networks: train, leave a modality out, look at the attention. Run it: python quickstart.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchmsaf import MSAF


class TwoStreams(nn.Module):
    """An image network and a sequence network with MSAF between their two stages."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.image = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            ]
        )
        self.sound = nn.ModuleList(
            [
                nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
                nn.Sequential(nn.Conv1d(8, 16, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
            ]
        )
        # identity_start: the fused network starts as the two networks are
        self.fusion = MSAF(channels=(16, 8), block_channels=4, reduction=2, identity_start=True)
        self.heads = nn.ModuleList([nn.Linear(32, classes), nn.Linear(16, classes)])

    def maps(self, image: Tensor, sound: Tensor) -> list[Tensor]:
        """What the fusion gets."""
        return [self.image[0](image), self.sound[0](sound)]

    def forward(self, image: Tensor, sound: Tensor, present: Tensor | None = None) -> Tensor:
        """Logits; ``present`` is ``(B, 2)`` booleans."""
        image, sound = self.fusion(self.maps(image, sound), present=present)
        logits = [self.heads[0](self.image[1](image)), self.heads[1](self.sound[1](sound))]
        if present is not None:
            logits = [torch.where(present[:, m, None], z, 0) for m, z in enumerate(logits)]
        return logits[0] + logits[1]


def make_data(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Made-up samples of four classes: the image tells one bit of the class and the sound the other."""
    label = torch.randint(4, (n,))
    image, sound = 0.5 * torch.randn(n, 1, 8, 8), 0.5 * torch.randn(n, 4, 20)
    image[label % 2 == 1, :, :4] += 1
    sound[label >= 2, 0] += 1
    return image, sound, label


def main() -> None:
    """Train for a few steps, then look."""
    torch.manual_seed(0)
    image, sound, label = make_data(512)
    network = TwoStreams(classes=4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for rows in [*torch.randperm(512).split(64)] * 5:
        loss = nn.functional.cross_entropy(network(image[rows], sound[rows]), label[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    network.eval()
    image, sound, label = make_data(256)
    with torch.no_grad():
        print(f"both: accuracy {(network(image, sound).argmax(1) == label).float().mean():.2f}")
        no_sound = torch.tensor([True, False]).expand(256, 2)
        answer = network(image, torch.full_like(sound, torch.nan), no_sound)  # whatever is there is not read
        print(f"without sound: accuracy {(answer.argmax(1) == label).float().mean():.2f}")
        for name, attention in zip(
            ("image", "sound"), network.fusion.attention(network.maps(image, sound)), strict=True
        ):
            print(f"{name}: attention {tuple(attention.shape)}, share of its blocks {attention.sum(2).mean():.2f}")


if __name__ == "__main__":
    main()
