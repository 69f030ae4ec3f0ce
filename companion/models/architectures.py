"""The shipped networks: plain `nn.Sequential`s of standard layers, so that anything can walk through them."""

from __future__ import annotations

from torch import nn


class Generator(nn.Sequential):
    """An `nn.Sequential` (n, latent_dim) -> (n, *image) whose first layer is `nn.Linear(latent_dim, ...)`."""

    @property
    def latent_dim(self) -> int:
        """Dimension d of the latent z ~ N(0, I_d)."""
        return self[0].in_features


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
