"""Random networks whose radii can be known: from seeds, in float64, small."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relu_network(sizes, seed: int, dtype=torch.float64) -> nn.Sequential:
    """A random ReLU network of these layer sizes, its kinks and its boundaries about where normal points lie."""
    layers, random = [], draws(seed)
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out, dtype=torch.float64)
        layer.weight.data = torch.randn(fan_out, fan_in, generator=random, dtype=torch.float64) * (2 / fan_in) ** 0.5
        layer.bias.data = 0.7 * torch.randn(fan_out, generator=random, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    layer.bias.data -= network(torch.randn(1000, sizes[0], generator=random, dtype=torch.float64)).mean(0)
    return network.to(dtype).eval()


class Quadratic(nn.Module):
    """Logits xᵀA_k x + b_kᵀx + c_k."""

    def __init__(self, square: np.ndarray, linear: np.ndarray, constant: np.ndarray, dtype=torch.float64):
        super().__init__()
        square = (square + square.swapaxes(1, 2)) / 2
        for name, entry in (("square", square), ("linear", linear), ("constant", constant)):
            self.register_buffer(name, torch.tensor(entry, dtype=dtype))
        self.eval()

    def forward(self, x):
        x = x.flatten(1)
        return torch.einsum("ni,kij,nj->nk", x, self.square, x) + x @ self.linear.T + self.constant


class Waves(nn.Module):
    """A smooth generator: random Fourier features of z, mixed to an image."""

    def __init__(self, latent_dim: int, image_dim: int, seed: int, features: int = 12, scale: float = 0.7):
        super().__init__()
        self.latent_dim, random = latent_dim, draws(seed)
        normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
        self.register_buffer("frequency", scale * normal(latent_dim, features))
        self.register_buffer("phase", 3.0 * normal(features))
        self.register_buffer("mix", normal(features, image_dim) / features**0.5)
        self.eval()

    def forward(self, z):
        return torch.sin(z @ self.frequency + self.phase) @ self.mix


class Tanh(nn.Module):
    """A random network of one hidden tanh layer; as a generator if it has a `latent_dim`."""

    def __init__(self, inputs: int, outputs: int, seed: int, hidden: int = 16, scale: float = 1.0, latent=False):
        super().__init__()
        random = draws(seed)
        if latent:
            self.latent_dim = inputs
        normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
        self.register_buffer("into", scale * normal(inputs, hidden) / inputs**0.5)
        self.register_buffer("shift", normal(hidden))
        self.register_buffer("out", normal(hidden, outputs) / hidden**0.5 * 1.5)
        self.eval()

    def forward(self, x):
        return torch.tanh(x.flatten(1) @ self.into + self.shift) @ self.out


def balanced(classifier, images):
    """The classifier with its mean logits on `images` taken off, so that no class takes all."""
    mean = classifier(images).mean(0).detach()
    return lambda x: classifier(x) - mean
