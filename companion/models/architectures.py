"""The networks: an `nn.Sequential` of standard layers each, so that anything can walk through them.

First those of the digits, 8 × 8, then those of colour images, 32 × 32: standard architectures whose `width` scales all
channels. Images are in [0, 1] everywhere: what a network wants centred it centres itself, so that radii are in pixel
units. Nothing works in place, so `torch.func` can go through everything in evaluation mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Generator(nn.Sequential):
    """An `nn.Sequential` (n, latent_dim) -> (n, *image) whose first layer is `nn.Linear(latent_dim, ...)`."""

    @property
    def latent_dim(self) -> int:
        """Dimension d of the latent z ~ N(0, I_d)."""
        first: Any = self[0]
        return first.in_features


def digits_generator(*, latent_dim: int, width: int) -> Generator:
    """Latents (n, latent_dim) to images (n, 1, 8, 8) in [0, 1]; infinitely differentiable."""
    return Generator(
        nn.Linear(latent_dim, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, 64),
        nn.Sigmoid(),
        nn.Unflatten(1, (1, 8, 8)),
    )


class MaxMin(nn.Module):
    """Activations (n, 2k, ...) to (n, 2k, ...): the larger of each pair (j, k + j) of channels, then the smaller ones.

    Every value is kept and only moved, so no distance grows and, almost everywhere, no gradient shrinks.

    Source: C. Anil, J. Lucas and R. Grosse, Sorting out Lipschitz function approximation, ICML 2019 (GroupSort).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maxima and minima, in the shape of `x`."""
        if x.ndim < 2 or x.shape[1] % 2:
            raise ValueError(f"x must be (n, channels, ...) with an even number of channels, got {tuple(x.shape)}")
        first, second = x.chunk(2, 1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)


def digits_maxmin_generator(*, latent_dim: int, width: int) -> Generator:
    """Latents (n, latent_dim) to images (n, 1, 8, 8) in [0, 1]; only its linear layers can stretch a distance."""
    return Generator(
        nn.Linear(latent_dim, width),
        MaxMin(),
        nn.Linear(width, width),
        MaxMin(),
        nn.Linear(width, width),
        MaxMin(),
        nn.Linear(width, 64),
        nn.Hardtanh(0.0, 1.0),
        nn.Unflatten(1, (1, 8, 8)),
    )


def digits_linear() -> nn.Sequential:
    """Images (n, 1, 8, 8) to logits (n, 10): multinomial logistic regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def digits_mlp(*, width: int) -> nn.Sequential:
    """Images (n, 1, 8, 8) to logits (n, 10): two hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def digits_cnn(*, width: int) -> nn.Sequential:
    """Images (n, 1, 8, 8) to logits (n, 10): three convolutions, then two fully connected layers."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 4 * 4, 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, 10),
    )


def digits_critic(*, width: int) -> nn.Sequential:
    """Images (n, 1, 8, 8) to (n, 11): a score for real or generated, then ten logits; not shipped."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 11),
    )


class Centre(nn.Module):
    """Images in [0, 1] to zero mean and unit variance, roughly, whatever the photographs: 4 (x − ½)."""

    def forward(self, x: Tensor) -> Tensor:
        """Centred images, in the shape of `x`."""
        return 4 * (x - 0.5)


class Residual(nn.Module):
    """x -> body(x) + shortcut(x), the identity where no shortcut is given."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both, which have the same shape."""
        return self.body(x) + self.shortcut(x)


def dcgan_generator(*, latent_dim: int = 100, width: int = 64) -> Generator:
    """Latents (n, latent_dim) to images (n, 3, 32, 32) in [0, 1]: DCGAN with `width` channels before the last layer.

    Source: A. Radford et al., Unsupervised representation learning with deep convolutional GANs, 2016.
    """

    def double(channels: int) -> list[nn.Module]:
        layer = nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1, bias=False)
        return [layer, nn.BatchNorm2d(channels), nn.ReLU()]

    return Generator(
        nn.Linear(latent_dim, 4 * width * 16, bias=False),
        nn.Unflatten(1, (4 * width, 4, 4)),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        *double(2 * width),
        *double(width),
        nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def dcgan_critic(*, width: int = 64, outputs: int = 1) -> nn.Sequential:
    """Images (n, 3, 32, 32) to (n, outputs), a score first: DCGAN's discriminator without batch norm; not shipped."""
    layers: list[nn.Module] = [Centre(), nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for channels in (width, 2 * width):
        layers += [nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 16, outputs))


def lenet(*, width: int = 1) -> nn.Sequential:
    """Images (n, 3, 32, 32) to logits (n, 10): LeNet-5, two convolutions and three linear layers.

    `width` multiplies its channels and units.

    Source: Y. LeCun et al., Gradient-based learning applied to document recognition, 1998; ReLU and max pooling.
    """
    return nn.Sequential(
        Centre(),
        nn.Conv2d(3, 6 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6 * width, 16 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width * 25, 120 * width),
        nn.ReLU(),
        nn.Linear(120 * width, 84 * width),
        nn.ReLU(),
        nn.Linear(84 * width, 10),
    )


_VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(*, depth: int = 16, width: int = 64) -> nn.Sequential:
    """Images (n, 3, 32, 32) to logits (n, 10): VGG with batch norm and one linear layer, `width` channels at first.

    Source: K. Simonyan and A. Zisserman, Very deep convolutional networks, 2015; usual form for CIFAR-10.
    """
    _known_depth(depth, _VGG_STAGES)
    layers: list[nn.Module] = [Centre()]
    before = 3
    for stage, count in enumerate(_VGG_STAGES[depth]):
        channels = width * min(2**stage, 8)
        for _ in range(count):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, 10))


_RESNET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet(*, depth: int = 18, width: int = 64) -> nn.Sequential:
    """Images (n, 3, 32, 32) to logits (n, 10): ResNet, its first layer 3 × 3 without stride; bottlenecks from 50 on.

    Source: K. He et al., Deep residual learning for image recognition, 2016; usual form for CIFAR-10.
    """
    _known_depth(depth, _RESNET_STAGES)
    expansion = 4 if depth >= 50 else 1
    layers: list[nn.Module] = [Centre(), *_convolution(3, width), nn.ReLU()]
    before = width
    for stage, count in enumerate(_RESNET_STAGES[depth]):
        inner = width * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            after = inner * expansion
            if depth >= 50:
                body = [*_convolution(before, inner, size=1), nn.ReLU(), *_convolution(inner, inner, stride=stride)]
                body += [nn.ReLU(), *_convolution(inner, after, size=1)]
            else:
                body = [*_convolution(before, inner, stride=stride), nn.ReLU(), *_convolution(inner, after)]
            same = stride == 1 and before == after
            shortcut = None if same else nn.Sequential(*_convolution(before, after, size=1, stride=stride))
            layers += [Residual(nn.Sequential(*body), shortcut), nn.ReLU()]
            before = after
    return nn.Sequential(*layers, *_pooled(before))


def wide_resnet(*, depth: int = 28, width: int = 10) -> nn.Sequential:
    """Images (n, 3, 32, 32) to logits (n, 10): WRN-depth-width, (depth − 4) / 6 blocks in each of three stages.

    Source: S. Zagoruyko and N. Komodakis, Wide residual networks, 2016; without dropout.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 10, 16, 22, 28 or another 6 n + 4, got {depth!r}")
    layers: list[nn.Module] = [Centre(), nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    before = 16
    for stage in range(3):
        channels = 16 * width * 2**stage
        for block in range((depth - 4) // 6):
            stride = 2 if stage and not block else 1
            opening = [nn.BatchNorm2d(before), nn.ReLU()]
            body = [
                nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            ]
            if before == channels:
                layers.append(Residual(nn.Sequential(*opening, *body)))
            else:  # body and shortcut share the first activation
                shortcut = nn.Conv2d(before, channels, 1, stride=stride, bias=False)
                layers += [*opening, Residual(nn.Sequential(*body), shortcut)]
            before = channels
    return nn.Sequential(*layers, nn.BatchNorm2d(before), nn.ReLU(), *_pooled(before))


def _convolution(before: int, after: int, *, size: int = 3, stride: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    return [layer, nn.BatchNorm2d(after)]


def _pooled(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def _known_depth(depth: int, stages: dict[int, Any]) -> None:
    if depth not in stages:
        raise ValueError(f"depth must be one of {', '.join(map(str, stages))}, got {depth!r}")
