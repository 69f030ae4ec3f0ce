"""The attacker who sees only labels: a substitute network, trained on what the victim answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion import _validation as check
from companion._fit import Plain, fit
from companion._types import Box, Model, Numbers


def substitute(
    network: nn.Module,
    victim: Model,
    seeds: Numbers,
    *,
    rounds: int = 6,
    step: float = 0.1,
    bounds: Box | None = (0.0, 1.0),
    steps: int = 500,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> tuple[nn.Module, int]:
    """A network that imitates the victim, from labels alone; attacks on it are tried on the victim.

    Every round asks the victim for the labels of all new images, trains the substitute on all it knows, and doubles the
    images: each is moved a step in the direction in which the substitute's logit of its label changes, to where the two
    may differ.

    Args:
        network: an untrained classifier of the attacker's choice; it stays as it is.
        victim: (n, *image) -> (n, K) logits; only the largest is looked at, and no gradient is asked for.
        seeds: (n, *image) images to begin with; no labels are needed.
        rounds: how often the substitute is trained; the images double between rounds.
        step: size of the move, in L∞; positive.
        bounds: None, or the pixel box (low, high).
        steps: training steps a round.
        batch_size: images a step.
        seed: seeds the order of the images.
        progress: show a bar for each round.

    Returns:
        The substitute, in evaluation mode and frozen, and the number of images the victim was asked about.

    Source: Papernot et al. (2017), Practical black-box attacks against machine learning, algorithm 1.
    """
    check.network("victim", victim)
    images = check.images("seeds", seeds).detach()
    if not len(images):
        raise ValueError("seeds must hold at least one image, got none")
    bounds, step = check.box("bounds", bounds, images), check.positive("step", step)
    rounds, run = check.integer("rounds", rounds, minimum=1), Plain(seed, progress)
    labels = _ask(victim, images)
    for done in range(rounds):
        if done:
            parts = zip(images.split(512), labels.split(512), strict=True)
            moved = torch.cat([_jacobian_step(network, *part, step, bounds) for part in parts])
            images, labels = torch.cat([images, moved]), torch.cat([labels, _ask(victim, moved)])

        def loss(pupil: nn.Module, chosen: Tensor, images: Tensor = images, labels: Tensor = labels) -> Tensor:
            chosen = chosen.to(images.device)
            return F.cross_entropy(pupil(images[chosen]), labels[chosen])

        network = fit(network, loss, len(images), run, steps=steps, batch_size=batch_size)
    return network, len(images)


def _ask(victim: Model, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([check.classify(victim, part.clone()).argmax(1) for part in images.split(512)])


def _jacobian_step(
    network: nn.Module, images: Tensor, labels: Tensor, step: float, bounds: tuple[float, float] | None
) -> Tensor:
    """The images, each moved by the sign of the derivative of the logit of its label."""
    points = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = network(points)
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), points)
    moved = images + step * gradient.sign()
    return moved if bounds is None else moved.clamp(*bounds)
