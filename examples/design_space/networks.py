"""The three networks of the design-space experiment, in plain PyTorch: what the manifests' `factory` lines name."""

from __future__ import annotations

import math

import torch
from torch import nn

VOCABULARY = 4000
PADDING = 0
WIDTH, HEADS, INNER, LAYERS = 256, 4, 1024, 4


def normalised(channels_in: int, channels_out: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    """A convolution without a bias, and the normalisation that has one."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out)]


class Discriminator(nn.Module):
    """DCGAN's discriminator for 32 x 32 (Radford et al. 2015, arXiv:1511.06434), without the last sigmoid.

    Images (batch, 3, 32, 32) float32 to scores (batch, 1): above 0 means real.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1),
            nn.LeakyReLU(0.2),
            *normalised(64, 128, 4, 2, 1),
            nn.LeakyReLU(0.2),
            *normalised(128, 256, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.head = nn.Linear(256 * 4 * 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image))


class Residual(nn.Module):
    """Two 3 x 3 convolutions, added to the input (projected where the shape changes)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *normalised(channels_in, channels_out, 3, stride, 1),
            nn.ReLU(),
            *normalised(channels_out, channels_out, 3, 1, 1),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Sequential(*normalised(channels_in, channels_out, 1, stride, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR (He et al. 2015, arXiv:1512.03385, section 4.2; with projections for shortcuts).

    Images (batch, 3, 32, 32) float32 to logits (batch, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [*normalised(3, 16, 3, 1, 1), nn.ReLU()]
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(3):
                blocks.append(Residual(channels, width, stride if i == 0 else 1))
                channels = width
        self.features = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image))


class Attention(nn.Module):
    """Multi-head attention from `x` to `memory`, without what `mask` (batch, 1, 1, tokens) leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            heads(self.query(x)), heads(self.key(memory)), heads(self.value(memory)), attn_mask=mask
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A transformer layer, normalised before each part; a decoder's also attends to the encoder's memory."""

    def __init__(self, *, decodes: bool) -> None:
        super().__init__()
        self.attention = Attention()
        self.cross = Attention() if decodes else None
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3 if decodes else 2))
        self.inner = nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH))

    def forward(self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, mask)
        if self.cross is not None:
            x = x + self.cross(self.norms[1](x), memory, mask)
        return x + self.inner(self.norms[-1](x))


class Translation(nn.Module):
    """A transformer encoder-decoder that translates a sentence in one pass (Gu et al. 2018, arXiv:1711.02281: the
    decoder reads a copy of the source instead of its own words, so that no loop over words is needed).

    Token ids (batch, tokens) int64, 0 for padding, to the best token ids (batch, tokens) int64 and their logits
    (batch, tokens) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = nn.ModuleList(Layer(decodes=False) for _ in range(LAYERS))
        self.decoder = nn.ModuleList(Layer(decodes=True) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        speeds = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10_000.0) / WIDTH))
        self.register_buffer("speeds", speeds, persistent=False)

    def features(self, source: torch.Tensor) -> torch.Tensor:
        """What the last layer makes of every token: (batch, tokens, WIDTH)."""
        # A large number, not infinity: a row that is all padding must not become NaN.
        mask = ((source == PADDING).to(torch.float32) * -1e9)[:, None, None, :]
        place = torch.arange(source.shape[1], device=source.device)[:, None] * self.speeds[None, :]
        embedded = self.embedding(source) + torch.cat([place.sin(), place.cos()], dim=-1)
        memory = embedded
        for layer in self.encoder:
            memory = layer(memory, memory, mask)
        x = embedded
        for layer in self.decoder:
            x = layer(x, memory, mask)
        return self.norm(x)

    def forward(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        score, target = self.head(self.features(source)).max(-1)
        return target, score


def discriminator() -> nn.Module:
    """The discriminator without weights."""
    return Discriminator()


def resnet20() -> nn.Module:
    """ResNet-20 without weights."""
    return ResNet20()


def translation() -> nn.Module:
    """The translator without weights."""
    return Translation()
