"""The recipe behind the shipped digits networks: `python -m companion train digits --out DIR`.

Everything is seeded. A run that was killed goes on from its last checkpoint when the same command is given
again, and ends with the same weights as an unbroken one: to the bit, given the same torch, processor and
number of threads. In DIR it leaves the weights, `registry.json`, one log per network (JSON lines) and the
checkpoints, which may be deleted.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from companion import models
from companion.data import Digits, digits
from companion.models import quality
from companion.training.run import Run, as_shipped, publish

CLASSIFIERS = {
    "linear": {"builder": "digits_linear"},
    "mlp": {"builder": "digits_mlp", "width": 128},
    "cnn": {"builder": "digits_cnn", "width": 32},
}
GENERATOR = {"builder": "digits_generator", "latent_dim": 16, "width": 256}
PENALTY, ENTROPY = 0.003, 0.3
DATA = "1,347 of the 1,797 handwritten digits bundled with scikit-learn (UCI Optical Recognition, test part)"


@dataclass(frozen=True)
class Recipe:
    """Numbers of the digits recipe; the tests use a tiny one."""

    classifier_steps: int = 2_000
    generator_steps: int = 20_000
    checkpoint_every: int = 500
    batch_size: int = 64


def train_digits(
    out: Path | str,
    *,
    seed: int = 0,
    only: str | None = None,
    recipe: Recipe | None = None,
    progress: bool = False,
) -> dict:
    """Train, measure and write the digits networks.

    Args:
        out: folder to write into; made if missing. Nothing is written anywhere else.
        seed: seeds the weights and the order of everything.
        only: "linear", "mlp", "cnn" or "generator" to make that one alone; other registry entries stay.
        recipe: how long to train; default `Recipe()`.
        progress: show a bar with the current losses.
    Returns:
        The registry: name -> entry, as `companion.models.card` reads it.
    Raises:
        ValueError: `only` is not one of the four, or `out` holds a checkpoint of another seed or recipe.
    """
    networks = [*CLASSIFIERS, "generator"]
    if only is not None and only not in networks:
        raise ValueError(f"only must be one of {', '.join(networks)}, got {only!r}")
    out, recipe, data = Path(out), recipe or Recipe(), digits()
    out.mkdir(parents=True, exist_ok=True)
    for kind in networks if only is None else [only]:
        run = Run(out, f"digits-{kind}", seed, recipe, progress)
        if kind == "generator":
            architecture, network = GENERATOR, as_shipped(train_generator(run, data))
            folder = out if (out / "digits-cnn.safetensors").exists() else models.WEIGHTS
            results = quality.generator_report(network, models.load("digits/cnn", folder=folder), data)
        else:
            architecture, network = CLASSIFIERS[kind], as_shipped(train_classifier(run, data, kind))
            results = quality.classifier_report(network, data)
        command = f"python -m companion train digits --seed {seed} --only {kind} --out DIR"
        registry = publish(run, f"digits/{kind}", network, architecture, results, command=command, data=DATA)
    return registry


def train_classifier(run: Run, data: Digits, kind: str) -> nn.Sequential:
    """Cross-entropy with AdamW and a cosine schedule; all but the linear one see randomly distorted scans."""
    with run.seeded():
        network = models.build(CLASSIFIERS[kind])
    rate, steps = 1e-2 if kind == "linear" else 2e-3, run.recipe.classifier_steps
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)

    def step(index: int) -> dict:
        _set_rate(optimizer, rate * (1 + math.cos(math.pi * index / steps)) / 2)
        chosen = torch.randint(len(data.train_images), (run.recipe.batch_size,), generator=run.random)
        images = data.train_images[chosen]
        if kind != "linear":
            images = distort(images, run.random)
        loss = F.cross_entropy(network(images), data.train_labels[chosen])
        _descend(optimizer, loss)
        return {"loss": loss.item()}

    run.loop(step, steps, {"network": network}, {"optimizer": optimizer})
    return network


def train_generator(run: Run, data: Digits) -> nn.Sequential:
    """GAN whose critic also learns the labels of real scans; returns the generator's running average.

    Besides fooling the critic, the generator has to make images whose label the critic is sure of. Real and
    generated images are distorted alike; an R1 penalty keeps the critic's slope small.

    Source:
        I. Goodfellow et al., Generative adversarial nets, 2014; T. Salimans et al., Improved techniques for
        training GANs, 2016 (labels); L. Mescheder et al., Which training methods for GANs converge?, 2018;
        S. Zhao et al., Differentiable augmentation for data-efficient GAN training, 2020.
    """
    with run.seeded():
        generator, critic = models.build(GENERATOR), models.build({"builder": "digits_critic", "width": 256})
    average = copy.deepcopy(generator)
    g_optimizer = torch.optim.Adam(generator.parameters(), betas=(0.0, 0.99))
    c_optimizer = torch.optim.Adam(critic.parameters(), betas=(0.0, 0.99))
    steps, n = run.recipe.generator_steps, run.recipe.batch_size

    def generate() -> Tensor:
        return distort(generator(torch.randn(n, generator.latent_dim, generator=run.random)), run.random)

    def step(index: int) -> dict:
        for optimizer in (g_optimizer, c_optimizer):
            _set_rate(optimizer, 1.5e-3 * min(1.0, 2 * (1 - index / steps)))
        penalised = index % 4 == 0
        chosen = torch.randint(len(data.train_images), (n,), generator=run.random)
        real = distort(data.train_images[chosen], run.random).requires_grad_(penalised)
        with torch.no_grad():
            fake = generate()
        seen_real, seen_fake = critic(torch.cat([real, fake])).chunk(2)
        c_loss = F.softplus(-seen_real[:, 0]).mean() + F.softplus(seen_fake[:, 0]).mean()
        c_loss = c_loss + F.cross_entropy(seen_real[:, 1:], data.train_labels[chosen])
        if penalised:  # every fourth step, four times as strong
            (slope,) = torch.autograd.grad(seen_real[:, 0].sum(), real, create_graph=True)
            c_loss = c_loss + 4 * PENALTY / 2 * slope.square().sum((1, 2, 3)).mean()
        _descend(c_optimizer, c_loss)
        seen = critic(generate())
        entropy = torch.distributions.Categorical(logits=seen[:, 1:]).entropy().mean()
        g_loss = F.softplus(-seen[:, 0]).mean() + ENTROPY * entropy
        _descend(g_optimizer, g_loss)
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), generator.parameters(), strict=True):
                slow.lerp_(fast, 0.005 if index < steps // 2 else 0.002)
        return {"critic_loss": c_loss.item(), "generator_loss": g_loss.item(), "entropy": entropy.item()}

    parts = {"generator": generator, "critic": critic, "average": average}
    run.loop(step, steps, parts, {"generator_optimizer": g_optimizer, "critic_optimizer": c_optimizer})
    return average


def distort(images: Tensor, random: torch.Generator) -> Tensor:
    """Images (n, 1, 8, 8), each randomly turned, scaled, sheared and moved, all by little (half a pixel)."""

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=random) - 1) * limit

    angle, scale, half_pixel = uniform(0.14), 1 + uniform(0.06), 0.5 * 2 / images.shape[-1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [
        torch.stack([cos, uniform(0.15) - sin, uniform(half_pixel)], 1),
        torch.stack([sin, cos, uniform(half_pixel)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _descend(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
