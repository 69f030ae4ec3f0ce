"""The recipe behind the shipped digits networks: `python -m companion train digits --out DIR`.

Everything is seeded. A run that was killed goes on from its last checkpoint when the same command is given
again, and ends with the same weights as an unbroken one: to the bit, given the same torch, processor and
number of threads. In DIR it leaves the weights, `registry.json`, one log per network (CSV) and the
checkpoints, which may be deleted.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from companion import _files, models
from companion._fit import descend, fit, set_rate
from companion.data import Digits, digits
from companion.defences.distillation import label_loss
from companion.models import quality
from companion.training import race
from companion.training.orthogonal import orthogonal_end, orthogonal_start, step_back
from companion.training.run import Run, as_shipped, publish

CLASSIFIERS = {
    "linear": {"builder": "digits_linear"},
    "mlp": {"builder": "digits_mlp", "width": 128},
    "cnn": {"builder": "digits_cnn", "width": 32},
}
GENERATOR = {"builder": "digits_generator", "latent_dim": 16, "width": 256}
# Generators that are L-Lipschitz by construction, and for each its L.
MAXMIN = {"builder": "digits_maxmin_generator", "latent_dim": 16, "width": 256}
LIPSCHITZ = {f"lipschitz-{constant:g}": constant for constant in (1.0, 1.5, 2.0, 3.0, 4.0)}
# Trained for a little less than L: rounding to half precision must not lift the shipped network above it.
MARGIN, BALANCE = 0.999, 2.0
# The networks of the chapter on the arms race: the same small network, undefended and defended in three ways.
SMALL = {"builder": "digits_cnn", "width": 16}
EPS, SEEDS = 0.3, 150
NETWORKS = (*CLASSIFIERS, "generator", *LIPSCHITZ, *race.NETWORKS)
PENALTY, ENTROPY = 0.003, 0.3
DATA = "1,347 of the 1,797 handwritten digits bundled with scikit-learn (UCI Optical Recognition, test part)"


@dataclass(frozen=True)
class Recipe:
    """Numbers of the digits recipe; the tests use a tiny one."""

    classifier_steps: int = 2_000
    generator_steps: int = 20_000
    lipschitz_steps: int = 8_000
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
        only: one of `NETWORKS`, to make that one alone; other registry entries stay.
        recipe: how long to train; default `Recipe()`.
        progress: show a bar with the current losses.
    Returns:
        The registry: name -> entry, as `companion.models.card` reads it.
    Raises:
        ValueError: `only` is not one of them, or `out` holds a checkpoint of another seed or recipe.
    """
    if only is not None and only not in NETWORKS:
        raise ValueError(f"only must be one of {', '.join(NETWORKS)}, got {only!r}")
    out, recipe = Path(out), recipe or Recipe()
    _files.ready(out, "checkpoints")
    data = digits()
    for kind in NETWORKS if only is None else [only]:
        run = Run(out, f"digits-{kind}", seed, recipe, progress)
        if kind == "generator" or kind in LIPSCHITZ:
            architecture = MAXMIN if kind in LIPSCHITZ else GENERATOR
            network = as_shipped(train_generator(run, data, LIPSCHITZ.get(kind)))
            results = quality.generator_report(network, _made("cnn", out), data)
        else:
            architecture, extra = CLASSIFIERS.get(kind, SMALL), {}
            if kind in CLASSIFIERS:
                network = train_classifier(run, data, kind)
            elif kind in race.DEFENDED:
                network, extra = train_defended(run, data, kind)
            else:
                architecture = CLASSIFIERS["mlp"]
                network, extra = train_substitute(run, data, kind.removeprefix("substitute-"))
            network = as_shipped(network)
            results = quality.classifier_report(network, data) | extra
        command = f"python -m companion train digits --seed {seed} --only {kind} --out DIR"
        registry = publish(run, f"digits/{kind}", network, architecture, results, command=command, data=DATA)
    return registry


def train_classifier(run: Run, data: Digits, kind: str) -> nn.Module:
    """Cross-entropy with AdamW and a cosine schedule; all but the linear one see randomly distorted scans."""
    with run.seeded():
        network = models.build(CLASSIFIERS[kind])
    augment = None if kind == "linear" else distort
    loss = label_loss(data.train_images, data.train_labels, 1.0, run, augment)
    return _fit(run, network, loss, data, rate=1e-2 if kind == "linear" else 2e-3)


def train_defended(run: Run, data: Digits, kind: str) -> tuple[nn.Module, dict]:
    """The small network, defended or not, and what its card says of it."""
    # The surrogate is another network than its victims, so it begins elsewhere.
    with run.seeded(run.seed + (kind == "surrogate")):
        network = models.build(SMALL)
    static = [_made(name, run.out) for name in ("cnn", "mlp")] if kind == "ensemble-trained" else []
    options = dict(steps=run.recipe.classifier_steps, batch_size=run.recipe.batch_size)
    options |= dict(augment=distort, static=static, eps=EPS)
    return race.train_defended(run, kind, network, data.train_images, data.train_labels, **options)


def train_substitute(run: Run, data: Digits, victim: str) -> tuple[nn.Module, dict]:
    """What an attacker makes of a victim's labels, and what its card says of it."""
    behind, generator = _made(victim if victim in race.DEFENDED else "cnn", run.out), _made("generator", run.out)
    seeds = generator(torch.randn(SEEDS, generator.latent_dim, generator=run.random))
    with run.seeded():
        network = models.build(CLASSIFIERS["mlp"])
    steps = max(1, run.recipe.classifier_steps // 4)
    return race.train_substitute(run, "digits", victim, network, behind, seeds, data.held_out_images, steps=steps)


def train_generator(run: Run, data: Digits, constant: float | None = None) -> nn.Sequential:
    """GAN whose critic also learns the labels of real scans; returns the generator's running average.

    Besides fooling the critic, the generator has to make images whose label the critic is sure of; one that is
    `constant`-Lipschitz by construction, which cannot leave a class so easily, also all labels equally often in a
    batch. Real and generated images are distorted alike; an R1 penalty keeps the critic's slope small.

    Source:
        I. Goodfellow et al., Generative adversarial nets, 2014; T. Salimans et al., Improved techniques for
        training GANs, 2016 (labels); L. Mescheder et al., Which training methods for GANs converge?, 2018;
        S. Zhao et al., Differentiable augmentation for data-efficient GAN training, 2020.
    """
    with run.seeded():
        generator = models.build(GENERATOR if constant is None else MAXMIN)
        if constant is not None:
            orthogonal_start(generator, MARGIN * constant)
        critic = models.build({"builder": "digits_critic", "width": 256})
    average = copy.deepcopy(generator)
    g_optimizer = torch.optim.Adam(generator.parameters(), betas=(0.0, 0.99))
    c_optimizer = torch.optim.Adam(critic.parameters(), betas=(0.0, 0.99))
    steps, n = run.recipe.generator_steps if constant is None else run.recipe.lipschitz_steps, run.recipe.batch_size

    def generate() -> Tensor:
        return distort(generator(torch.randn(n, generator.latent_dim, generator=run.random)), run.random)

    def step(index: int) -> dict:
        for optimizer in (g_optimizer, c_optimizer):
            set_rate(optimizer, 1.5e-3 * min(1.0, 2 * (1 - index / steps)))
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
        descend(c_optimizer, c_loss)
        seen = critic(generate())
        labels = Categorical(logits=seen[:, 1:])
        entropy = labels.entropy().mean()
        g_loss = F.softplus(-seen[:, 0]).mean() + ENTROPY * entropy
        if constant is not None:
            g_loss = g_loss - BALANCE * Categorical(labels.probs.mean(0)).entropy()
        descend(g_optimizer, g_loss)
        if constant is not None:
            step_back(generator, MARGIN * constant)
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), generator.parameters(), strict=True):
                slow.lerp_(fast, 0.005 if index < steps // 2 else 0.002)
        return {"critic_loss": c_loss.item(), "generator_loss": g_loss.item(), "entropy": entropy.item()}

    parts = {"generator": generator, "critic": critic, "average": average}
    run.loop(step, steps, parts, {"generator_optimizer": g_optimizer, "critic_optimizer": c_optimizer})
    return average if constant is None else orthogonal_end(average, MARGIN * constant)


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


def _fit(run: Run, network: nn.Module, loss, data: Digits, rate: float = 2e-3) -> nn.Module:
    recipe = run.recipe
    options = dict(steps=recipe.classifier_steps, batch_size=recipe.batch_size, rate=rate)
    return fit(network, loss, len(data.train_images), run, **options)


def _made(kind: str, out: Path) -> nn.Sequential:
    return race.made(f"digits/{kind}", out)
